//! Bad input and failing storage: each gets an error that names the thing and what to do.

use std::time::Duration;

use zdm_core::Result;
use zdm_core::error::{Advice, Certainty, Kind};
use zdm_core::store::{Bulk, Change, Store};
use zdm_sql_adapters::sqlite::{Sqlite, SqliteOptions, SqliteTable};
use zdm_sql_adapters::table::{RowReader, RowWriter, TableMapping};

use crate::support::{Directory, USERS, User, database, database_with, rows, user, users};

#[tokio::test]
async fn unknown_tables_and_columns_are_named_with_what_exists() {
    let db = database("CREATE TABLE users (id INTEGER PRIMARY KEY, name TEXT, mail TEXT, score REAL)").await;
    let error = SqliteTable::<User>::open(&db).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Invalid);
    assert!(error.to_string().contains("no column email; it has id, name, mail, score"), "{error}");
    let error = SqliteTable::<User>::open_as(&db, "people").await.unwrap_err();
    assert!(error.to_string().contains("no table people; the database has users"), "{error}");
}

/// A mapping whose parts are chosen by a test.
macro_rules! broken {
    ($name:ident, $key:ty, $keys:expr, $columns:expr, $write:expr) => {
        #[derive(Debug)]
        struct $name;

        impl TableMapping for $name {
            type Key = $key;
            type Record = String;
            const TABLE: &'static str = "users";
            const KEY: &'static [&'static str] = $keys;
            const COLUMNS: &'static [&'static str] = $columns;

            fn write(name: &String, row: &mut RowWriter<'_>) -> Result<()> {
                let write: fn(&String, &mut RowWriter<'_>) -> Result<()> = $write;
                write(name, row)
            }

            fn read(_: &$key, row: &mut RowReader<'_>) -> Result<String> {
                row.get("name")
            }
        }
    };
}

broken!(NotAKey, String, &["name"], &["score"], |_, row| row.done());
broken!(TextForInteger, String, &["id"], &["name"], |_, row| row.done());
broken!(TooFewParts, (i64, i64), &["id"], &["name"], |_, row| row.done());
broken!(Twice, i64, &["id"], &["name", "name"], |_, row| row.done());
broken!(Unset, i64, &["id"], &["name", "email"], |name, row| row.set("name", name).done());
broken!(Undeclared, i64, &["id"], &["name"], |name, row| row.set("name", name).set("email", 1).done());
broken!(Refusing, i64, &["id"], &["name"], |name, row| {
    if name == "bad" {
        return Err(row.reject("name", "bad names are not taken"));
    }
    row.set("name", name).done()
});

#[tokio::test]
async fn mappings_that_cannot_work_are_refused() {
    let db = database(USERS).await;
    for (error, words) in [
        (SqliteTable::<NotAKey>::open(&db).await.unwrap_err(), "no key"),
        (SqliteTable::<TextForInteger>::open(&db).await.unwrap_err(), "declared INTEGER"),
        (SqliteTable::<TooFewParts>::open(&db).await.unwrap_err(), "1 key columns for a key of 2 parts"),
        (SqliteTable::<Twice>::open(&db).await.unwrap_err(), "name twice"),
    ] {
        assert_eq!(error.kind(), Kind::Invalid);
        assert!(error.to_string().contains(words), "{error}");
    }
    let name = "x".to_owned();
    let error = SqliteTable::<Unset>::open(&db).await.unwrap().put(&1, &name).await.unwrap_err();
    assert!(error.to_string().contains("did not set the column email"), "{error}");
    let error = SqliteTable::<Undeclared>::open(&db).await.unwrap().put(&1, &name).await.unwrap_err();
    assert!(error.to_string().contains("does not declare the column email"), "{error}");
    let error =
        SqliteTable::<Refusing>::open(&db).await.unwrap().put(&1, &"bad".to_owned()).await.unwrap_err();
    assert_eq!((error.kind(), error.advice()), (Kind::Rejected, Advice::Park));
    assert!(error.to_string().contains("record 1") && error.to_string().contains("column name"), "{error}");
}

#[tokio::test]
async fn constraints_are_rejected_naming_the_record() {
    let (_db, table) = users(USERS).await;
    let unnamed = User { name: String::new(), ..user(7, "x") };
    let error = table.apply(&[Change::Put(1, user(1, "a")), Change::Put(7, unnamed)]).await.unwrap_err();
    assert_eq!((error.kind(), error.certainty()), (Kind::Rejected, Certainty::NotApplied));
    assert!(error.to_string().contains("record 7") && error.to_string().contains("CHECK"), "{error}");
    assert_eq!(table.get(&1).await.unwrap(), None);
}

#[tokio::test]
async fn a_full_disk_is_unavailable_and_nothing_is_half_written() {
    let (db, table) = users(USERS).await;
    table.put(&1, &user(1, "a")).await.unwrap();
    // The limit counts for the connection that writes.
    db.execute("PRAGMA max_page_count = 20").await.unwrap();
    let long = |id: i64| User { name: "x".repeat(2000), ..user(id, &format!("m{id}")) };
    let changes: Vec<_> = (10..100).map(|id| Change::Put(id, long(id))).collect();
    let error = table.apply(&changes).await.unwrap_err();
    assert_eq!((error.kind(), error.certainty()), (Kind::Unavailable, Certainty::NotApplied), "{error:?}");
    assert_eq!(error.advice(), Advice::RetryWhenStoreIsBack);
    assert!(error.to_string().contains("full"), "{error}");
    assert_eq!(rows(&db, "SELECT CAST(count(*) AS TEXT) FROM users").await, ["1"]);
    // The connection works on, and so does the table once there is room.
    db.execute("PRAGMA max_page_count = 100000").await.unwrap();
    table.apply(&changes).await.unwrap();
    assert_eq!(rows(&db, "SELECT CAST(count(*) AS TEXT) FROM users").await, ["91"]);
}

#[tokio::test]
async fn another_writer_makes_it_busy() {
    let db = database_with(USERS, |options| options.busy_timeout(Duration::from_millis(50))).await;
    let table = SqliteTable::<User>::open(&db).await.unwrap();
    let other = Sqlite::open(db.path()).await.unwrap();
    let (started, wait) = tokio::sync::oneshot::channel();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let holding = tokio::spawn(async move {
        other
            .write(|_| {
                Box::pin(async move {
                    started.send(()).unwrap();
                    let _ = stopped.await;
                    Ok(())
                })
            })
            .await
    });
    wait.await.unwrap();
    let error = table.put(&1, &user(1, "a")).await.unwrap_err();
    assert_eq!((error.kind(), error.certainty()), (Kind::Busy, Certainty::NotApplied));
    assert_eq!(error.advice(), Advice::RetryNow);
    stop.send(()).unwrap();
    holding.await.unwrap().unwrap();
    table.put(&1, &user(1, "a")).await.unwrap();
}

#[tokio::test]
async fn a_write_that_takes_too_long_is_stopped_and_rolled_back() {
    let db = database_with(USERS, |options| {
        options.write_timeout(Duration::from_millis(100)).busy_timeout(Duration::from_millis(50))
    })
    .await;
    assert_eq!(db.settle_time(), Duration::from_millis(150));
    let endless = "INSERT INTO users SELECT 1, 'a', NULL, 0; WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) \
                   SELECT count(*) FROM n";
    let begun = std::time::Instant::now();
    let error = db.execute(endless).await.unwrap_err();
    assert_eq!((error.kind(), error.certainty()), (Kind::Timeout, Certainty::NotApplied), "{error:?}");
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    assert!(rows(&db, "SELECT name FROM users").await.is_empty());
    // One that is slow between its statements is not committed.
    let error = db
        .write(|connection| {
            Box::pin(async move {
                sqlx::query("INSERT INTO users VALUES (1, 'a', NULL, 0)").execute(connection).await.unwrap();
                tokio::time::sleep(Duration::from_millis(200)).await;
                Ok(())
            })
        })
        .await
        .unwrap_err();
    assert_eq!((error.kind(), error.certainty()), (Kind::Timeout, Certainty::NotApplied));
    assert!(rows(&db, "SELECT name FROM users").await.is_empty());
    db.execute("INSERT INTO users VALUES (2, 'b', NULL, 0)").await.unwrap();
}

#[tokio::test]
async fn files_that_cannot_be_opened() {
    let directory = Directory::new();
    let error = Sqlite::open(directory.file("missing.db")).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Unavailable);
    assert!(error.to_string().contains("missing.db"), "{error}");
    std::fs::write(
        directory.file("text.db"),
        "this is not a database, and long enough to show it".repeat(50),
    )
    .unwrap();
    let error = Sqlite::open(directory.file("text.db")).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Damaged, "{error:?}");
    let error = Sqlite::create(directory.path()).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Unavailable, "{error:?}");
}

#[tokio::test]
async fn a_damaged_file_is_damaged() {
    let (db, table) = users(USERS).await;
    let puts: Vec<_> = (0..500).map(|id| Change::Put(id, user(id, &format!("{id}")))).collect();
    table.apply(&puts).await.unwrap();
    db.close().await;
    let error = table.get(&1).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Stopped, "{error:?}");
    let mut bytes = std::fs::read(db.path()).unwrap();
    let end = bytes.len();
    bytes[4096..end].fill(0xA5);
    std::fs::write(db.path(), bytes).unwrap();
    let again = Sqlite::open(db.path()).await.unwrap();
    let table = SqliteTable::<User>::open(&again).await.unwrap();
    let error = table.get(&400).await.unwrap_err();
    assert_eq!((error.kind(), error.advice()), (Kind::Damaged, Advice::Stop), "{error:?}");
    assert!(error.to_string().contains("integrity_check"), "{error}");
}

#[tokio::test]
async fn settings_out_of_range_name_the_field_and_the_bound() {
    let options = || SqliteOptions::new("unused.db");
    for (options, words) in [
        (options().readers(0), "readers is 0; it must lie between 1 and 64"),
        (options().readers(65), "readers is 65"),
        (options().write_timeout(Duration::from_millis(9)), "write_timeout is 9 ms"),
        (
            options().busy_timeout(Duration::from_secs(6)),
            "busy_timeout is 6000 ms; it must lie between 1 ms and 5000 ms",
        ),
        (options().cache_kib(1), "cache_kib is 1 KiB"),
    ] {
        let error = options.open().await.unwrap_err();
        assert_eq!(error.kind(), Kind::Invalid);
        assert!(error.to_string().contains(words), "{error}");
    }
}
