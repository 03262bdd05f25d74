//! Tables whose columns and keys are read from the database.

use zdm_core::error::Kind;
use zdm_core::key::KeyRange;
use zdm_core::store::{Scan, Store};
use zdm_sql_adapters::sqlite::SqliteRows;
use zdm_sql_adapters::table::{DynKey, Value};

use crate::support::{database, rows};

#[tokio::test]
async fn odd_names_generated_columns_and_keys_in_any_place() {
    let db = database(
        "CREATE TABLE \"odd \"\"table\"\"; --\" (\"the select\" TEXT, \"b\"\"c\" INTEGER NOT NULL, \
         double INTEGER AS (\"b\"\"c\" * 2) STORED, virtual TEXT AS (upper(\"the select\")), \"id key\" BLOB PRIMARY KEY NOT NULL)",
    )
    .await;
    let table = SqliteRows::discover(&db, "odd \"table\"; --").await.unwrap();
    assert_eq!(&table.columns()[..], ["the select", "b\"c", "id key"]);
    let key = DynKey::new([Value::Blob(vec![1, 0])]).unwrap();
    let row = zdm_sql_adapters::table::DynRow::new(
        table.columns().clone(),
        vec![Value::Text("x".to_owned()), Value::Integer(4), Value::Blob(vec![1, 0])],
    )
    .unwrap();
    table.put(&key, &row).await.unwrap();
    assert_eq!(table.get(&key).await.unwrap(), Some(row.clone()));
    assert_eq!(table.page(&KeyRange::all(), 2).await.unwrap().len(), 1);
    assert_eq!(rows(&db, "SELECT double || virtual FROM \"odd \"\"table\"\"; --\"").await, ["8X"]);
    assert_eq!(serde_json::to_string(&row).unwrap(), r#"{"the select":"x","b\"c":4,"id key":[1,0]}"#);

    let mut other = row;
    other.set("id key", Value::Blob(vec![2])).unwrap();
    let error = table.put(&key, &other).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Rejected, "{error}");
    let error = other.set("nope", 1).unwrap_err();
    assert!(error.to_string().contains("nope") && error.to_string().contains("the select"), "{error}");
}

#[tokio::test]
async fn tables_that_cannot_be_addressed_are_refused_with_a_reason() {
    let db = database(
        "CREATE TABLE bare (a, b); \
         CREATE TABLE loose (a INTEGER UNIQUE, b); \
         CREATE TABLE partial (a INTEGER NOT NULL, b); CREATE UNIQUE INDEX p ON partial (a) WHERE b; \
         CREATE TABLE lower (a TEXT NOT NULL); CREATE UNIQUE INDEX l ON lower (lower(a)); \
         CREATE TABLE nocase (name TEXT COLLATE NOCASE PRIMARY KEY NOT NULL, b); \
         CREATE TABLE mixed (name TEXT COLLATE NOCASE NOT NULL, b); CREATE UNIQUE INDEX m ON mixed (name COLLATE BINARY); \
         CREATE TABLE other (name TEXT NOT NULL, b); CREATE UNIQUE INDEX o ON other (name COLLATE RTRIM); \
         CREATE TABLE nulls (a TEXT PRIMARY KEY, b); INSERT INTO nulls VALUES (NULL, 1); \
         CREATE VIEW looking AS SELECT 1; CREATE TABLE good (a INTEGER NOT NULL UNIQUE, b)",
    )
    .await;
    for (table, words) in [
        ("bare", vec!["no key", "add one"]),
        ("loose", vec!["no key", "NOT NULL"]),
        ("partial", vec!["no key"]),
        ("lower", vec!["no key"]),
        ("nocase", vec!["nocase", "name", "COLLATE BINARY"]),
        ("mixed", vec!["mixed", "COLLATE BINARY"]),
        ("other", vec!["other", "COLLATE BINARY"]),
        ("nulls", vec!["nulls", "NULL in a", "delete them"]),
        ("looking", vec!["is a view"]),
        ("missing", vec!["no table missing", "good"]),
    ] {
        let error = SqliteRows::discover(&db, table).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Invalid, "{table}: {error}");
        for word in words {
            assert!(error.to_string().contains(word), "{table}: {error}");
        }
    }
    SqliteRows::discover(&db, "good").await.unwrap();
}

#[tokio::test]
async fn whole_and_real_keys_of_one_value_are_one_row() {
    let db = database("CREATE TABLE things (k NOT NULL UNIQUE, v)").await;
    db.execute("INSERT INTO things VALUES (1.0, 'one'), (2, 'two'), ('1', 'text'), (x'31', 'blob')")
        .await
        .unwrap();
    let table = SqliteRows::discover(&db, "things").await.unwrap();
    let page = table.page(&KeyRange::all(), 10).await.unwrap();
    assert_eq!(page.len(), 4);
    for (key, row) in page {
        let row = row.unwrap();
        assert_eq!(table.get(&key).await.unwrap().as_ref(), Some(&row));
        // As a queue brings it back.
        let stored = zdm_core::key::KeyBytes::of(&key).to_key::<DynKey>().unwrap();
        assert_eq!(table.get(&stored).await.unwrap().unwrap().get("v"), row.get("v"));
    }
}

#[tokio::test]
async fn how_large_records_are_is_known_once_some_were_read() {
    let db = database("CREATE TABLE t (id INTEGER PRIMARY KEY, body TEXT, n INTEGER)").await;
    let table = SqliteRows::discover(&db, "t").await.unwrap();
    let large = "x".repeat(9_000);
    let all = KeyRange::all();
    assert_eq!(table.record_bytes(&all), None, "nothing has been read");
    db.execute(format!("INSERT INTO t VALUES (1, '{large}', 1), (2, '{large}', NULL)")).await.unwrap();
    assert_eq!(table.page(&all, 10).await.unwrap().len(), 2);
    let bytes = table.record_bytes(&all).unwrap();
    assert!((9_000..10_000).contains(&bytes), "{bytes}");
    db.execute("UPDATE t SET body = ''").await.unwrap();
    table.page(&all, 10).await.unwrap();
    let bytes = table.record_bytes(&all).unwrap();
    assert!((100..1_000).contains(&bytes), "{bytes}");
}
