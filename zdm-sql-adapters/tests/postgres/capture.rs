//! Triggers see every writer but the library's own mirroring, and what foreign keys do by themselves.

use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Executor};
use zdm_core::error::Kind;
use zdm_core::key::KeyRange;
use zdm_core::queue::Touch;
use zdm_core::store::{Bulk, Change, Fenced, Stamp, Store};
use zdm_sql_adapters::capture::CaptureSource;
use zdm_sql_adapters::postgres::{PgCapture, PgRows};
use zdm_sql_adapters::table::{DynKey, DynRow, Value};

use crate::support::{database, rows, write};

const SCHEMA: &str = "CREATE TABLE \"the users\" (id INT PRIMARY KEY, name TEXT NOT NULL); \
    CREATE TABLE post (author INT NOT NULL REFERENCES \"the users\" ON DELETE CASCADE ON UPDATE CASCADE, \
    slug TEXT NOT NULL, body BYTEA, PRIMARY KEY (author, slug)); \
    INSERT INTO \"the users\" VALUES (1, 'Ada'), (2, 'Grace')";

async fn run(connection: &mut PgConnection, sql: &str) {
    connection.execute(sqlx::raw_sql(AssertSqlSafe(sql.to_owned()))).await.unwrap();
}

fn key(values: impl IntoIterator<Item = Value>) -> DynKey {
    DynKey::new(values).unwrap()
}

fn user(id: i64) -> DynKey {
    key([Value::Integer(id)])
}

/// What was noted, in no order: rows of one statement have none.
async fn touches(source: &impl CaptureSource) -> Vec<String> {
    let mut touches: Vec<String> =
        source.notes(1_000).await.unwrap().iter().map(|note| format!("{:?}", note.touch)).collect();
    touches.sort();
    touches
}

fn sorted(touches: impl IntoIterator<Item = Touch<DynKey>>) -> Vec<String> {
    let mut touches: Vec<String> = touches.into_iter().map(|touch| format!("{:?}", touch.encode())).collect();
    touches.sort();
    touches
}

#[tokio::test]
async fn every_writer_is_seen_bulk_statements_cascades_and_keys_that_change_included() {
    let Some(db) = database(SCHEMA).await else { return };
    let users = PgCapture::install(&PgRows::discover(&db, "\"the users\"").await.unwrap()).await.unwrap();
    let posts = PgCapture::install(&PgRows::discover(&db, "post").await.unwrap()).await.unwrap();
    let mut other = db.other().await;
    run(&mut other, "INSERT INTO \"the users\" SELECT id + 10, name FROM \"the users\"").await;
    run(&mut other, "INSERT INTO post VALUES (1, 'a', '\\x00'), (1, 'B', NULL), (2, 'c', NULL)").await;
    run(&mut other, "UPDATE \"the users\" SET name = 'X' WHERE id > 10").await;
    run(&mut other, "UPDATE post SET slug = 'C' WHERE author = 2").await;
    run(&mut other, "DELETE FROM \"the users\" WHERE id = 1").await;
    run(&mut other, "UPDATE \"the users\" SET id = 3 WHERE id = 2").await;
    run(&mut other, "BEGIN; DELETE FROM \"the users\"; ROLLBACK").await;
    let expected = [
        Touch::upsert(&user(11)),
        Touch::upsert(&user(12)),
        Touch::upsert(&user(11)),
        Touch::upsert(&user(12)),
        Touch::delete(&user(1)),
        Touch::delete(&user(2)),
        Touch::upsert(&user(3)),
    ];
    assert_eq!(touches(&users).await, sorted(expected));
    let post = |author: i64, slug: &str| key([Value::Integer(author), Value::Text(slug.to_owned())]);
    let expected = [
        Touch::upsert(&post(1, "a")),
        Touch::upsert(&post(1, "B")),
        Touch::upsert(&post(2, "c")),
        Touch::delete(&post(2, "c")),
        Touch::upsert(&post(2, "C")),
        Touch::delete(&post(1, "a")),
        Touch::delete(&post(1, "B")),
        Touch::delete(&post(2, "C")),
        Touch::upsert(&post(3, "C")),
    ];
    assert_eq!(touches(&posts).await, sorted(expected));
    let ids: Vec<i64> = posts.notes(1_000).await.unwrap().iter().map(|note| note.id).collect();
    posts.forget(&ids).await.unwrap();
    run(&mut other, "TRUNCATE post").await;
    assert_eq!(touches(&posts).await, sorted([Touch::range(KeyRange::all())]));
}

#[tokio::test]
async fn partitions_are_seen_under_every_name_and_writers_that_turn_ordinary_triggers_off_too() {
    let schema = "CREATE TABLE event (id INT NOT NULL, day INT NOT NULL, note TEXT, PRIMARY KEY (id, day)) \
                  PARTITION BY RANGE (day); \
                  CREATE TABLE event_1 PARTITION OF event FOR VALUES FROM (0) TO (10)";
    let Some(db) = database(schema).await else { return };
    let events = PgCapture::install(&PgRows::discover(&db, "event").await.unwrap()).await.unwrap();
    let mut other = db.other().await;
    run(&mut other, "CREATE TABLE event_2 PARTITION OF event FOR VALUES FROM (10) TO (20)").await;
    run(&mut other, "INSERT INTO event VALUES (1, 1, 'a'), (2, 11, 'b')").await;
    run(&mut other, "INSERT INTO event_1 VALUES (3, 3, 'c'); INSERT INTO event_2 VALUES (4, 14, 'd')").await;
    run(&mut other, "SET session_replication_role = replica; UPDATE event SET note = 'x' WHERE id = 1").await;
    run(&mut other, "SET session_replication_role = DEFAULT; UPDATE event SET day = 12 WHERE id = 3").await;
    run(&mut other, "UPDATE event_2 SET id = 5 WHERE id = 4; DELETE FROM event_2 WHERE id = 2").await;
    let event = |id: i64, day: i64| key([Value::Integer(id), Value::Integer(day)]);
    let expected = [
        Touch::upsert(&event(1, 1)),
        Touch::upsert(&event(2, 11)),
        Touch::upsert(&event(3, 3)),
        Touch::upsert(&event(4, 14)),
        Touch::upsert(&event(1, 1)),
        Touch::delete(&event(3, 3)),
        Touch::upsert(&event(3, 12)),
        Touch::delete(&event(4, 14)),
        Touch::upsert(&event(5, 14)),
        Touch::delete(&event(2, 11)),
    ];
    assert_eq!(touches(&events).await, sorted(expected));
    let ids: Vec<i64> = events.notes(1_000).await.unwrap().iter().map(|note| note.id).collect();
    events.forget(&ids).await.unwrap();
    run(&mut other, "TRUNCATE event").await;
    assert_eq!(touches(&events).await, sorted([Touch::range(KeyRange::all())]));
    let table = PgRows::discover(&db, "event").await.unwrap();
    assert_eq!(PgCapture::inspect(&table).await.unwrap().len(), 4);
}

#[tokio::test]
async fn names_that_look_like_quotes_are_names() {
    let table = "\"a$zdm$b'c\"\"d%s\"";
    let schema = format!("CREATE TABLE {table} (\"$zdm$'\" INT PRIMARY KEY)");
    let Some(db) = database(&schema).await else { return };
    let store = PgRows::discover(&db, table).await.unwrap();
    let source = PgCapture::install(&store).await.unwrap();
    run(&mut db.other().await, &format!("INSERT INTO {table} VALUES (1); UPDATE {table} SET \"$zdm$'\" = 2"))
        .await;
    let expected = [Touch::upsert(&user(1)), Touch::delete(&user(1)), Touch::upsert(&user(2))];
    assert_eq!(touches(&source).await, sorted(expected));
    let ids: Vec<i64> = source.notes(10).await.unwrap().iter().map(|note| note.id).collect();
    source.forget(&ids).await.unwrap();
    PgCapture::remove(&store).await.unwrap();
}

#[tokio::test]
async fn what_the_library_mirrors_is_not_noted_and_what_the_application_writes_is() {
    let Some(db) = database(SCHEMA).await else { return };
    let users = PgRows::discover(&db, "\"the users\"").await.unwrap().with_fence().await.unwrap();
    let source = PgCapture::install(&users).await.unwrap();
    let row = |id: i64| {
        DynRow::new(users.columns().clone(), vec![Value::Integer(id), Value::Text("mirrored".to_owned())])
            .unwrap()
    };
    users.put(&user(5), &row(5)).await.unwrap();
    users.apply(&[Change::Put(user(6), row(6)), Change::Delete(user(1))]).await.unwrap();
    users.apply_if_newer(Stamp(7), &[Change::Put(user(7), row(7))]).await.unwrap();
    users.load_page(Stamp(8), &KeyRange::all(), &[(user(8), row(8))]).await.unwrap();
    assert_eq!(touches(&source).await, [""; 0]);
    // The connection that mirrored is used by the application next.
    write(&db, "UPDATE \"the users\" SET name = 'by hand' WHERE id = 8").await.unwrap();
    assert_eq!(touches(&source).await, sorted([Touch::upsert(&user(8))]));
}

#[tokio::test]
async fn triggers_are_listed_and_removed_without_a_trace() {
    let Some(db) = database(SCHEMA).await else { return };
    let posts = PgRows::discover(&db, "post").await.unwrap();
    let error = PgCapture::open(&posts).await.err().unwrap();
    assert_eq!(error.kind(), Kind::Invalid, "{error}");
    let source = PgCapture::install(&posts).await.unwrap();
    PgCapture::install(&posts).await.unwrap();
    PgCapture::open(&posts).await.unwrap();
    assert_eq!(PgCapture::inspect(&posts).await.unwrap().len(), 4);
    db.execute("INSERT INTO post VALUES (2, 'd', NULL)").await.unwrap();
    let error = PgCapture::remove(&posts).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Refused, "{error}");
    let ids: Vec<i64> = source.notes(10).await.unwrap().iter().map(|note| note.id).collect();
    source.forget(&ids).await.unwrap();
    PgCapture::remove(&posts).await.unwrap();
    assert_eq!(PgCapture::inspect(&posts).await.unwrap().len(), 0);

    PgCapture::install(&posts).await.unwrap();
    db.remove_schema().await.unwrap();
    let left = "SELECT relname::text FROM pg_class WHERE relnamespace = current_schema()::regnamespace AND relname LIKE 'zdm%' \
                UNION ALL SELECT proname::text FROM pg_proc WHERE pronamespace = current_schema()::regnamespace";
    assert_eq!(rows(&db, left).await, [""; 0]);
    db.execute("DELETE FROM \"the users\"").await.unwrap();
}
