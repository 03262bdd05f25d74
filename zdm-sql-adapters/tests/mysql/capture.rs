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

/// The server's triggers see nothing of a cascade, and one within a table goes down level by level.
#[tokio::test]
async fn all_that_falls_with_a_row_of_a_tree_is_noted() {
    let Some(db) = database(
        "CREATE TABLE shop (id INT PRIMARY KEY); \
         CREATE TABLE shelf (id INT PRIMARY KEY, code CHAR(3) UNIQUE, above INT, beside CHAR(3), shop INT, \
         FOREIGN KEY (above) REFERENCES shelf (id) ON DELETE CASCADE, \
         FOREIGN KEY (beside) REFERENCES shelf (code) ON DELETE CASCADE, \
         FOREIGN KEY (shop) REFERENCES shop (id) ON DELETE CASCADE); \
         CREATE TABLE item (id INT PRIMARY KEY, shelf INT, FOREIGN KEY (shelf) REFERENCES shelf (id) ON DELETE SET NULL); \
         INSERT INTO shop VALUES (1), (2); \
         INSERT INTO shelf VALUES (1, 'a', NULL, NULL, 1), (2, 'b', 1, NULL, NULL), (3, 'c', NULL, 'b', NULL), \
         (4, 'd', 3, NULL, NULL), (5, 'e', NULL, NULL, 2), (6, 'f', 6, NULL, NULL), (7, 'g', 5, NULL, NULL); \
         INSERT INTO item VALUES (10, 1), (20, 2), (30, 3), (40, 4), (50, 5), (60, 6), (70, 7)",
    )
    .await
    else {
        return;
    };
    let shelves = MySqlCapture::install(&MyRows::discover(&db, "shelf").await.unwrap()).await.unwrap();
    let items = MySqlCapture::install(&MyRows::discover(&db, "item").await.unwrap()).await.unwrap();
    let mut other = db.other().await;
    for (sql, fallen) in [
        ("DELETE FROM shelf WHERE id = 6", vec![6]),
        ("DELETE FROM shelf WHERE id = 2", vec![2, 3, 4]),
        ("DELETE FROM shop WHERE id = 2", vec![5, 7]),
        ("DELETE FROM shop", vec![1]),
    ] {
        run(&mut other, sql).await;
        for (source, factor) in [(&shelves, 1), (&items, 10)] {
            let notes = source.notes(1_000).await.unwrap();
            let mut noted: Vec<_> = notes.iter().map(|note| format!("{:?}", note.touch)).collect();
            let mut expected: Vec<_> =
                fallen.iter().map(|id| format!("{:?}", Touch::delete(&user(id * factor)).encode())).collect();
            noted.sort();
            noted.dedup();
            expected.sort();
            assert_eq!(noted, expected, "{sql}, {factor}");
            source.forget(&notes.iter().map(|note| note.id).collect::<Vec<_>>()).await.unwrap();
        }
    }
}

/// `sale` below `item_kind` is not `sale_item` below `kind`.
#[tokio::test]
async fn tables_whose_names_run_together_have_triggers_of_their_own() {
    let Some(db) = database(
        "CREATE TABLE item_kind (id INT PRIMARY KEY); CREATE TABLE kind (id INT PRIMARY KEY); \
         CREATE TABLE sale (id INT PRIMARY KEY, kind INT, \
         FOREIGN KEY (kind) REFERENCES item_kind (id) ON DELETE CASCADE); \
         CREATE TABLE sale_item (id INT PRIMARY KEY, kind INT, \
         FOREIGN KEY (kind) REFERENCES kind (id) ON DELETE CASCADE); \
         INSERT INTO item_kind VALUES (1); INSERT INTO kind VALUES (1); \
         INSERT INTO sale VALUES (10, 1); INSERT INTO sale_item VALUES (20, 1)",
    )
    .await
    else {
        return;
    };
    let sales = MySqlCapture::install(&MyRows::discover(&db, "sale").await.unwrap()).await.unwrap();
    let items = MySqlCapture::install(&MyRows::discover(&db, "sale_item").await.unwrap()).await.unwrap();
    run(&mut db.other().await, "DELETE FROM item_kind; DELETE FROM kind").await;
    assert_eq!(touches(&sales).await, [Touch::delete(&user(10)).encode()]);
    assert_eq!(touches(&items).await, [Touch::delete(&user(20)).encode()]);
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
