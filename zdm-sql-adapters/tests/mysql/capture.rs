//! Triggers see every writer but the library's own mirroring, and what foreign keys do by themselves.

use sqlx::mysql::MySqlConnection;
use sqlx::{AssertSqlSafe, Executor};
use zdm_core::error::Kind;
use zdm_core::key::KeyRange;
use zdm_core::queue::Touch;
use zdm_core::store::{Bulk, Change, Fenced, Stamp, Store};
use zdm_sql_adapters::capture::CaptureSource;
use zdm_sql_adapters::mysql::{MyRows, MySqlCapture};
use zdm_sql_adapters::table::{DynKey, DynRow, Value};

use crate::support::{database, rows};

const SCHEMA: &str = "CREATE TABLE `the users` (id INT PRIMARY KEY, name VARCHAR(20) NOT NULL); \
    CREATE TABLE post (author INT NOT NULL, slug VARCHAR(20) COLLATE utf8mb4_bin NOT NULL, body BLOB, \
    PRIMARY KEY (author, slug), FOREIGN KEY (author) REFERENCES `the users` (id) ON DELETE CASCADE); \
    CREATE TABLE vote (id BIGINT UNSIGNED PRIMARY KEY, author INT, slug VARCHAR(20) COLLATE utf8mb4_bin, \
    FOREIGN KEY (author, slug) REFERENCES post (author, slug) ON DELETE CASCADE); \
    INSERT INTO `the users` VALUES (1, 'Ada'), (2, 'Grace')";

async fn run(connection: &mut MySqlConnection, sql: &str) {
    connection.execute(sqlx::raw_sql(AssertSqlSafe(sql.to_owned()))).await.unwrap();
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
    let Some(db) = database(SCHEMA).await else { return };
    let users = MySqlCapture::install(&MyRows::discover(&db, "`the users`").await.unwrap()).await.unwrap();
    let posts = MySqlCapture::install(&MyRows::discover(&db, "post").await.unwrap()).await.unwrap();
    let votes = MySqlCapture::install(&MyRows::discover(&db, "vote").await.unwrap()).await.unwrap();
    let mut other = db.other().await;
    run(&mut other, "INSERT INTO `the users` SELECT id + 10, name FROM `the users`").await;
    run(&mut other, "INSERT INTO post VALUES (1, 'a', x'00'), (1, 'B', NULL), (2, 'c', NULL)").await;
    run(&mut other, "INSERT INTO vote VALUES (18446744073709551615, 1, 'a')").await;
    run(&mut other, "UPDATE `the users` SET name = 'X' WHERE id > 10").await;
    run(&mut other, "UPDATE post SET slug = 'C' WHERE author = 2").await;
    run(&mut other, "INSERT INTO `the users` VALUES (2, 'G') ON DUPLICATE KEY UPDATE name = 'G'").await;
    run(&mut other, "DELETE FROM `the users` WHERE id = 1").await;
    run(&mut other, "START TRANSACTION; DELETE FROM `the users`; ROLLBACK").await;
    let expected: Vec<Touch> = [
        Touch::upsert(&user(11)),
        Touch::upsert(&user(12)),
        Touch::upsert(&user(11)),
        Touch::upsert(&user(12)),
        Touch::upsert(&user(2)),
        Touch::delete(&user(1)),
    ]
    .map(|touch| touch.encode())
    .into();
    assert_eq!(touches(&users).await, expected);
    let post = |author: i64, slug: &str| key([Value::Integer(author), Value::Text(slug.to_owned())]);
    let expected: Vec<Touch> = [
        Touch::upsert(&post(1, "a")),
        Touch::upsert(&post(1, "B")),
        Touch::upsert(&post(2, "c")),
        Touch::delete(&post(2, "c")),
        Touch::upsert(&post(2, "C")),
        Touch::delete(&post(1, "B")),
        Touch::delete(&post(1, "a")),
    ]
    .map(|touch| touch.encode())
    .into();
    assert_eq!(touches(&posts).await, expected);
    // Two tables up.
    let vote = key([Value::Unsigned(u64::MAX)]);
    let expected = [Touch::upsert(&vote), Touch::delete(&vote)].map(|touch| touch.encode());
    assert_eq!(touches(&votes).await, expected);
}

#[tokio::test]
async fn what_the_library_mirrors_is_not_noted_and_what_the_application_writes_is() {
    let Some(db) = database(SCHEMA).await else { return };
    let users = MyRows::discover(&db, "`the users`").await.unwrap().with_fence().await.unwrap();
    let source = MySqlCapture::install(&users).await.unwrap();
    let row = |id: i64| {
        DynRow::new(users.columns().clone(), vec![Value::Integer(id), Value::Text("mirrored".to_owned())])
            .unwrap()
    };
    users.put(&user(5), &row(5)).await.unwrap();
    users.apply(&[Change::Put(user(6), row(6)), Change::Delete(user(1))]).await.unwrap();
    users.apply_if_newer(Stamp(7), &[Change::Put(user(7), row(7))]).await.unwrap();
    users.load_page(Stamp(8), &KeyRange::all(), &[(user(8), row(8))]).await.unwrap();
    assert_eq!(touches(&source).await, []);
    // The connection that mirrored is used by the application next.
    crate::support::write(&db, "UPDATE `the users` SET name = 'by hand' WHERE id = 8").await.unwrap();
    assert_eq!(touches(&source).await, [Touch::upsert(&user(8)).encode()]);
}

#[tokio::test]
async fn triggers_are_listed_and_removed_without_a_trace() {
    let Some(db) = database(SCHEMA).await else { return };
    let posts = MyRows::discover(&db, "post").await.unwrap();
    let error = MySqlCapture::open(&posts).await.err().unwrap();
    assert_eq!(error.kind(), Kind::Invalid, "{error}");
    let source = MySqlCapture::install(&posts).await.unwrap();
    MySqlCapture::install(&posts).await.unwrap();
    MySqlCapture::open(&posts).await.unwrap();
    assert_eq!(
        MySqlCapture::inspect(&posts).await.unwrap().len(),
        4,
        "one of them stands on the table above"
    );
    db.execute("INSERT INTO post VALUES (2, 'd', NULL)").await.unwrap();
    let error = MySqlCapture::remove(&posts).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Refused, "{error}");
    let ids: Vec<i64> = source.notes(10).await.unwrap().iter().map(|note| note.id).collect();
    source.forget(&ids).await.unwrap();
    MySqlCapture::remove(&posts).await.unwrap();
    assert_eq!(MySqlCapture::inspect(&posts).await.unwrap().len(), 0);

    MySqlCapture::install(&posts).await.unwrap();
    db.remove_schema().await.unwrap();
    let left = "SELECT table_name FROM information_schema.tables WHERE table_schema = DATABASE() AND table_name LIKE 'zdm%'";
    assert_eq!(rows(&db, left).await, [""; 0]);
    db.execute("DELETE FROM `the users`").await.unwrap();
}
