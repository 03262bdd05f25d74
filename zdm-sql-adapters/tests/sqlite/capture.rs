//! Triggers see every writer but the library's own mirroring, and their notes become entries.

use std::sync::Arc;
use std::time::Duration;

use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use sqlx::{AssertSqlSafe, ConnectOptions};
use zdm_core::error::Kind;
use zdm_core::key::KeyRange;
use zdm_core::queue::{Direction, EntryState, Guarantee, MemoryQueue, Touch, WriteQueue};
use zdm_core::store::{Bulk, Change, Fenced, Stamp, Store};
use zdm_sql_adapters::capture::{CaptureSource, CapturedQueue};
use zdm_sql_adapters::sqlite::{SqliteCapture, SqliteRows};
use zdm_sql_adapters::table::{DynKey, DynRow, Value};

use crate::support::{Database, database, rows};

const SCHEMA: &str = "CREATE TABLE \"the users\" (id INTEGER PRIMARY KEY, name TEXT NOT NULL); \
    CREATE TABLE post (author INTEGER NOT NULL REFERENCES \"the users\" (id) ON DELETE CASCADE, slug TEXT NOT NULL, \
    body BLOB, PRIMARY KEY (author, slug)); \
    INSERT INTO \"the users\" VALUES (1, 'Ada'), (2, 'Grace')";

/// A connection that knows nothing of the library.
async fn outsider(db: &Database) -> SqliteConnection {
    SqliteConnectOptions::new().filename(db.path()).foreign_keys(true).connect().await.unwrap()
}

async fn run(connection: &mut SqliteConnection, sql: &str) {
    sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).execute(connection).await.unwrap();
}

fn key(values: impl IntoIterator<Item = Value>) -> DynKey {
    DynKey::new(values).unwrap()
}

fn user(id: i64) -> DynKey {
    key([Value::Integer(id)])
}

async fn touches(source: &impl CaptureSource) -> Vec<Touch> {
    source.notes(1_000).await.unwrap().into_iter().map(|note| note.touch).collect()
}

#[tokio::test]
async fn every_writer_is_seen_bulk_statements_cascades_and_keys_that_change_included() {
    let db = database(SCHEMA).await;
    let users = SqliteRows::discover(&db, "the users").await.unwrap();
    let posts = SqliteRows::discover(&db, "post").await.unwrap();
    let (users, posts) =
        (SqliteCapture::install(&users).await.unwrap(), SqliteCapture::install(&posts).await.unwrap());
    let mut other = outsider(&db).await;
    run(&mut other, "INSERT INTO \"the users\" SELECT id + 10, name FROM \"the users\"").await;
    run(&mut other, "INSERT INTO post VALUES (1, 'a', x'00'), (1, 'b', NULL), (2, 'c', NULL)").await;
    run(&mut other, "UPDATE \"the users\" SET name = 'X' WHERE id > 10").await;
    run(&mut other, "UPDATE post SET slug = 'z' WHERE author = 2").await;
    run(&mut other, "DELETE FROM \"the users\" WHERE id = 1").await;
    run(&mut other, "BEGIN; DELETE FROM \"the users\"; ROLLBACK").await;
    let expected: Vec<Touch> = [
        Touch::upsert(&user(11)),
        Touch::upsert(&user(12)),
        Touch::upsert(&user(11)),
        Touch::upsert(&user(12)),
        Touch::delete(&user(1)),
    ]
    .map(|touch| touch.encode())
    .into();
    assert_eq!(touches(&users).await, expected);
    let post = |author: i64, slug: &str| key([Value::Integer(author), Value::Text(slug.to_owned())]);
    let expected: Vec<Touch> = [
        Touch::upsert(&post(1, "a")),
        Touch::upsert(&post(1, "b")),
        Touch::upsert(&post(2, "c")),
        Touch::delete(&post(2, "c")),
        Touch::upsert(&post(2, "z")),
        Touch::delete(&post(1, "a")),
        Touch::delete(&post(1, "b")),
    ]
    .map(|touch| touch.encode())
    .into();
    assert_eq!(touches(&posts).await, expected);
}

#[tokio::test]
async fn what_the_library_mirrors_is_not_noted_and_what_the_application_writes_is() {
    let db = database(SCHEMA).await;
    let users = SqliteRows::discover(&db, "the users").await.unwrap().with_fence().await.unwrap();
    let source = SqliteCapture::install(&users).await.unwrap();
    let row = |id: i64| {
        DynRow::new(users.columns().clone(), vec![Value::Integer(id), Value::Text("mirrored".to_owned())])
            .unwrap()
    };
    users.put(&user(5), &row(5)).await.unwrap();
    users.apply(&[Change::Put(user(6), row(6)), Change::Delete(user(1))]).await.unwrap();
    users.apply_if_newer(Stamp(7), &[Change::Put(user(7), row(7))]).await.unwrap();
    users.load_page(Stamp(8), &KeyRange::all(), &[(user(8), row(8))]).await.unwrap();
    assert_eq!(touches(&source).await, []);
    assert_eq!(rows(&db, "SELECT count(*) || '' FROM zdm_mirroring").await, ["0"]);
    db.execute("UPDATE \"the users\" SET name = 'by hand' WHERE id = 8").await.unwrap();
    assert_eq!(touches(&source).await, [Touch::upsert(&user(8)).encode()]);
    // A mirrored write that fails leaves no word behind which would silence the next writer.
    db.execute("CREATE TRIGGER no BEFORE INSERT ON \"the users\" BEGIN SELECT RAISE(ABORT, 'no'); END")
        .await
        .unwrap();
    users.put(&user(9), &row(9)).await.unwrap_err();
    db.execute("DROP TRIGGER no; DELETE FROM \"the users\" WHERE id = 8").await.unwrap();
    assert_eq!(touches(&source).await.len(), 2);
}

#[tokio::test]
async fn notes_become_entries_once_each_and_the_queue_is_not_drained_before() {
    let db = database(SCHEMA).await;
    let users = SqliteRows::discover(&db, "the users").await.unwrap();
    let source = SqliteCapture::install(&users).await.unwrap();
    let inside = Arc::new(MemoryQueue::new());
    let queue = Arc::new(CapturedQueue::around_shared(inside.clone()).source(source, Direction::OldToNew));
    assert_eq!(
        queue.guarantee(),
        Guarantee::BestEffort,
        "what is in memory is lost in a crash, wherever it was noted"
    );
    let mut other = outsider(&db).await;
    for _ in 0..3 {
        run(&mut other, "UPDATE \"the users\" SET name = name || '!' WHERE id = 2").await;
    }
    run(&mut other, "INSERT INTO \"the users\" VALUES (3, 'Alan')").await;
    assert_eq!(queue.take_over().await.unwrap(), 4);
    assert_eq!(queue.take_over().await.unwrap(), 0, "they are noted no more");
    let entries = inside.entries(EntryState::Released, 10);
    assert_eq!(entries.len(), 2, "one for each key: {entries:?}");

    run(&mut other, "DELETE FROM \"the users\" WHERE id = 3").await;
    let drained = tokio::spawn({
        let queue = Arc::clone(&queue);
        async move { queue.wait_drained().await }
    });
    let mut claimed = 0;
    while !drained.is_finished() {
        if let Some(claim) = queue.claim(Direction::OldToNew, 10).await.unwrap() {
            claimed += claim.entries.len();
            queue.ack(&claim.ids());
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert_eq!(claimed, 3, "the deletion too");
    assert_eq!(rows(&db, "SELECT count(*) || '' FROM zdm_capture").await, ["0"]);
}

#[tokio::test]
async fn triggers_are_listed_and_removed_without_a_trace() {
    let db = database(SCHEMA).await;
    let users = SqliteRows::discover(&db, "the users").await.unwrap();
    let error = SqliteCapture::open(&users).await.err().unwrap();
    assert_eq!(error.kind(), Kind::Invalid, "{error}");
    SqliteCapture::install(&users).await.unwrap();
    SqliteCapture::install(&users).await.unwrap();
    assert_eq!(SqliteCapture::inspect(&users).await.unwrap().len(), 3);
    let source = SqliteCapture::open(&users).await.unwrap();
    db.execute("DELETE FROM \"the users\" WHERE id = 2").await.unwrap();
    let error = SqliteCapture::remove(&users).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Refused, "{error}");
    let ids: Vec<i64> = source.notes(10).await.unwrap().iter().map(|note| note.id).collect();
    source.forget(&ids).await.unwrap();
    SqliteCapture::remove(&users).await.unwrap();
    assert_eq!(SqliteCapture::inspect(&users).await.unwrap().len(), 0);

    SqliteCapture::install(&users).await.unwrap();
    db.remove_schema().await.unwrap();
    assert_eq!(rows(&db, "SELECT name FROM sqlite_schema WHERE name LIKE '%zdm%'").await, [""; 0]);
    db.execute("DELETE FROM \"the users\"").await.unwrap();
}
