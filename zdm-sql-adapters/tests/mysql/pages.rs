//! Pages in key order over every kind of key, and whether an index helps.

use proptest::prelude::*;
use serde::Serialize;
use sqlx::{AssertSqlSafe, Row};
use zdm_core::Result;
use zdm_core::error::Kind;
use zdm_core::key::{KeyBytes, KeyRange};
use zdm_core::store::{Bulk, Change, Scan, Store};
use zdm_sql_adapters::mysql::{MyRows, MyTable, TableStore};
use zdm_sql_adapters::table::{DynKey, DynRow, RowMapping, RowReader, RowWriter, TableMapping, Value};

use crate::support::{Database, USERS, database, put_row, rows_of, text, user, users};

/// Walks a table with pages of `limit` over `parts` ranges.
async fn walk<M: RowMapping>(table: &TableStore<M>, limit: usize, parts: usize) -> Vec<M::Key> {
    let mut keys = Vec::new();
    for mut range in table.split(parts).await.unwrap() {
        loop {
            let page = table.page(&range, limit).await.unwrap();
            let full = page.len() == limit;
            for (key, record) in page {
                record.unwrap();
                keys.push(key);
            }
            if !full {
                break;
            }
            range.after = keys.last().cloned();
        }
    }
    keys
}

#[tokio::test]
async fn typed_pages_cover_every_row_once() {
    let Some((_db, table)) = users(USERS).await else { return };
    let ids: Vec<i64> = (-50..150).map(|n| n * 3).chain([i64::MIN, i64::MAX]).collect();
    let changes: Vec<_> = ids.iter().map(|id| Change::Put(*id, user(*id, &format!("{id}@x")))).collect();
    table.apply(&changes).await.unwrap();
    let mut sorted = ids.clone();
    sorted.sort_unstable();
    for (limit, parts) in [(1000, 1), (7, 1), (1, 3), (50, 4), (13, 300)] {
        assert_eq!(walk(&table, limit, parts).await, sorted, "limit {limit}, {parts} parts");
    }
    let ranges = table.split(4).await.unwrap();
    assert_eq!(ranges.len(), 4);
    assert!(ranges[0].after.is_none() && ranges[3].up_to.is_none());
    let page = table.page(&KeyRange::between(0, 9), 100).await.unwrap();
    assert_eq!(page.iter().map(|(id, _)| *id).collect::<Vec<_>>(), [3, 6, 9]);
    assert_eq!(table.estimated_len().await.unwrap(), ids.len() as u64);
    let some = table.get_many(&[3, 4, 3, i64::MAX]).await.unwrap();
    assert_eq!(some.iter().map(Option::is_some).collect::<Vec<_>>(), [true, false, true, true]);
}

#[derive(Clone, Debug, PartialEq, Serialize)]
struct Seat {
    note: String,
}

impl TableMapping for Seat {
    type Key = (String, i64);
    type Record = Self;
    const TABLE: &'static str = "seats";
    const KEY: &'static [&'static str] = &["hall", "number"];
    const COLUMNS: &'static [&'static str] = &["note"];

    fn write(seat: &Self, row: &mut RowWriter<'_>) -> Result<()> {
        row.set("note", &seat.note).done()
    }

    fn read(_: &(String, i64), row: &mut RowReader<'_>) -> Result<Self> {
        Ok(Self { note: row.get("note")? })
    }
}

#[tokio::test]
async fn composite_keys_walk_in_order() {
    for schema in [
        "CREATE TABLE seats (hall VARCHAR(20) COLLATE utf8mb4_general_ci, number INT, note TEXT, PRIMARY KEY (hall, number))",
        "CREATE TABLE seats (hall VARCHAR(20) COLLATE utf8mb4_bin, number INT, note TEXT, PRIMARY KEY (hall, number))",
        "CREATE TABLE seats (hall VARCHAR(20) CHARACTER SET latin1, number INT, note TEXT, PRIMARY KEY (hall, number))",
        "CREATE TABLE seats (note TEXT, number INT NOT NULL, hall VARCHAR(20) NOT NULL, UNIQUE (number, hall))",
    ] {
        let Some(db) = database(schema).await else { return };
        let table = MyTable::<Seat>::open(&db).await.unwrap();
        let halls = ["", "A1", "B", "a", "a\tb", "ab", "b2", "\u{20ac}", "é"];
        let mut keys: Vec<_> =
            halls.iter().flat_map(|hall| (-3..3).map(|number| ((*hall).to_owned(), number))).collect();
        let changes: Vec<_> = keys
            .iter()
            .rev()
            .map(|key| Change::Put(key.clone(), Seat { note: format!("{key:?}") }))
            .collect();
        table.apply(&changes).await.unwrap();
        keys.sort();
        for (limit, parts) in [(1000, 1), (5, 1), (4, 3)] {
            assert_eq!(walk(&table, limit, parts).await, keys, "{schema}");
        }
        let many = table.get_many(&keys).await.unwrap();
        for (seat, key) in many.iter().zip(&keys) {
            assert_eq!(seat.as_ref().map(|seat| seat.note.clone()), Some(format!("{key:?}")), "{schema}");
        }
        table.delete(&keys[3]).await.unwrap();
        table.apply(&keys[10..13].iter().cloned().map(Change::Delete).collect::<Vec<_>>()).await.unwrap();
        assert_eq!(table.estimated_len().await.unwrap(), keys.len() as u64 - 4);
    }
}

/// How many rows the server looks at for one page in the middle of a table.
async fn looked_at(db: &Database, table: &MyRows, after: &DynKey) -> i64 {
    let reads = "SELECT CAST(SUM(variable_value) AS SIGNED) FROM information_schema.session_status \
                 WHERE variable_name LIKE 'Handler_read%'";
    // The one connection that reads.
    let count = || {
        db.read(move |connection| {
            Box::pin(async move {
                let row = sqlx::query(AssertSqlSafe(reads)).fetch_one(connection).await.unwrap();
                Ok(row.get::<i64, _>(0))
            })
        })
    };
    count().await.unwrap();
    let before = count().await.unwrap();
    let between = count().await.unwrap();
    let page = table.page(&KeyRange::after(after.clone()), 10).await.unwrap();
    assert_eq!(page.len(), 10);
    count().await.unwrap() - between - (between - before)
}

/// A page must seek, not scan: its time must not grow with the rows before it or behind it.
#[tokio::test]
async fn pages_use_the_index() {
    let Some(db) = crate::support::database_with("", |options| options.readers(1)).await else { return };
    if !db.server_version().contains("MariaDB") {
        return;
    }
    type Key = fn(i64) -> Vec<Value>;
    let cases: [(&str, &str, Key); 4] = [
        ("a INT, b INT", "a, b", |n| vec![Value::Integer(n / 50), Value::Integer(n % 50)]),
        ("a VARCHAR(20) COLLATE utf8mb4_bin", "a", |n| vec![text(&format!("{n:05}"))]),
        ("a VARCHAR(20) COLLATE utf8mb4_nopad_bin, b DATETIME(6)", "a, b", |n| {
            vec![text(&format!("{:03}", n / 50)), Value::Timestamp(n)]
        }),
        ("a DECIMAL(12,2), b VARBINARY(9)", "a, b", |n| {
            vec![Value::Decimal((n / 50).to_string().parse().unwrap()), Value::Blob(vec![n as u8])]
        }),
    ];
    for (at, (columns, key, make)) in cases.into_iter().enumerate() {
        let name = format!("t{at}");
        db.execute(format!("CREATE TABLE {name} ({columns}, PRIMARY KEY ({key}))")).await.unwrap();
        let table = MyRows::discover(&db, &name).await.unwrap();
        let changes: Vec<_> = (0..4_000)
            .map(|n| {
                let row = DynRow::new(table.columns().clone(), make(n)).unwrap();
                Change::Put(DynKey::new(make(n)).unwrap(), row)
            })
            .collect();
        table.apply(&changes).await.unwrap();
        db.execute(format!("ANALYZE TABLE {name}")).await.unwrap();
        let looked = looked_at(&db, &table, &DynKey::new(make(2_020)).unwrap()).await;
        assert!(looked < 40, "a page of 10 rows over {columns} looked at {looked}");
    }
}

/// The server sorts by the first 1024 bytes of a text unless it is told otherwise, and a page that ends between
/// keys which it takes for equal would pass over the others.
#[tokio::test]
async fn long_keys_that_begin_alike_are_all_met() {
    let Some(db) = database("").await else { return };
    for (at, (charset, collation)) in
        [("utf8mb4", "general_ci"), ("utf8mb4", "bin"), ("utf16", "general_ci")].into_iter().enumerate()
    {
        let name = format!("words{at}");
        db.execute(format!(
            "CREATE TABLE {name} (word VARCHAR(700) CHARACTER SET {charset} COLLATE {charset}_{collation} PRIMARY KEY)"
        ))
        .await
        .unwrap();
        let table = MyRows::discover(&db, &name).await.unwrap();
        let mut words: Vec<String> =
            (0..20).map(|n| format!("{}{:02}\t", "🦀".repeat(260), n * 7 % 20)).collect();
        let changes: Vec<_> = words.iter().map(|word| put_row(&table, vec![text(word)])).collect();
        table.apply(&changes).await.unwrap();
        words.sort();
        let keys: Vec<_> = words.iter().map(|word| DynKey::new([text(word)]).unwrap()).collect();
        for (limit, parts) in [(3, 1), (100, 1), (5, 3)] {
            assert_eq!(walk(&table, limit, parts).await, keys, "{charset}_{collation}, limit {limit}");
        }
    }
    if db.server_version().contains("MariaDB") {
        db.execute("CREATE TABLE vast (word MEDIUMTEXT NOT NULL UNIQUE)").await.unwrap();
        let error = MyRows::discover(&db, "vast").await.unwrap_err();
        assert!(error.to_string().contains("word") && error.to_string().contains("65535"), "{error}");
    }
}

#[tokio::test]
async fn keys_that_cannot_address_rows_are_refused() {
    let Some(db) = database(
        "CREATE TABLE bare (a INT, b INT); \
         CREATE TABLE loose (a INT UNIQUE, b INT); \
         CREATE TABLE prefix (a VARCHAR(100) NOT NULL, UNIQUE (a(3))); \
         CREATE TABLE good (a INT NOT NULL UNIQUE, b INT); \
         CREATE TABLE old (a INT PRIMARY KEY) ENGINE = MyISAM; \
         CREATE TABLE seats (hall INT NOT NULL, number INT NOT NULL, note TEXT, PRIMARY KEY (hall, number)); \
         CREATE VIEW looking AS SELECT 1",
    )
    .await
    else {
        return;
    };
    for (table, words) in [
        ("bare", vec!["no key", "add one"]),
        ("loose", vec!["no key", "NOT NULL"]),
        ("prefix", vec!["no key"]),
        ("old", vec!["MyISAM", "ENGINE = InnoDB"]),
        ("looking", vec!["is a view"]),
        ("missing", vec!["no table missing", "good"]),
    ] {
        let error = MyRows::discover(&db, table).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Invalid, "{table}: {error}");
        for word in words {
            assert!(error.to_string().contains(word), "{table}: {error}");
        }
    }
    let error = MyTable::<Seat>::open(&db).await.unwrap_err();
    assert!(error.to_string().contains("hall") && error.to_string().contains("text keys"), "{error}");
    MyRows::discover(&db, "good").await.unwrap();
}

/// Where no index has the order of the keys, a page still looks at a part of the table only.
#[tokio::test]
async fn pages_without_an_index_in_order_do_not_sort_the_whole_table() {
    let Some(db) = crate::support::database_with("", |options| options.readers(1)).await else { return };
    if !db.server_version().contains("MariaDB") {
        return;
    }
    type Key = fn(i64) -> Vec<Value>;
    let cases: [(&str, &str, Key); 3] = [
        ("a VARCHAR(20) COLLATE utf8mb4_general_ci", "a", |n| vec![text(&format!("user%_{n:06}"))]),
        ("a VARCHAR(20) CHARACTER SET latin1, b INT", "a, b", |n| {
            vec![text(&format!("é{:05}", n / 3)), Value::Integer(n % 3)]
        }),
        ("a INT, b VARCHAR(20) COLLATE utf8mb4_general_ci", "a, b", |n| {
            vec![Value::Integer(n / 50), text(&format!("{}{n}", if n % 2 == 0 { 'a' } else { 'B' }))]
        }),
    ];
    for (at, (columns, key, make)) in cases.into_iter().enumerate() {
        let name = format!("t{at}");
        db.execute(format!("CREATE TABLE {name} ({columns}, PRIMARY KEY ({key}))")).await.unwrap();
        let table = MyRows::discover(&db, &name).await.unwrap();
        let mut keys: Vec<_> = (0..6_000).map(|n| DynKey::new(make(n)).unwrap()).collect();
        let changes: Vec<_> = keys
            .iter()
            .map(|key| {
                Change::Put(key.clone(), DynRow::new(table.columns().clone(), key.values().to_vec()).unwrap())
            })
            .collect();
        table.apply(&changes).await.unwrap();
        db.execute(format!("ANALYZE TABLE {name}")).await.unwrap();
        keys.sort();
        assert_eq!(walk(&table, 700, 2).await, keys, "{columns}");
        // Within two bounds that begin alike, the first page and the last.
        for (low, high) in [(3_000, 3_004), (10, 5_990)] {
            let page =
                table.page(&KeyRange::between(keys[low].clone(), keys[high].clone()), 6_000).await.unwrap();
            let found: Vec<_> = page.into_iter().map(|(key, _)| key).collect();
            assert_eq!(found, keys[low + 1..=high], "{columns}");
        }
        for _ in 0..3 {
            table.page(&KeyRange::after(keys[3_000].clone()), 10).await.unwrap();
        }
        let looked = looked_at(&db, &table, &keys[3_020]).await;
        assert!(looked < 1_500, "a page of 10 rows over {columns} looked at {looked}");
    }
}

fn keys() -> impl Strategy<Value = Vec<String>> {
    proptest::collection::vec("[\\x00\\x09a-b A\u{1f980}]{0,4}", 1..25)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    /// Whatever the collation, the pages come in the order of the bytes, and every row comes once.
    #[test]
    fn texts_walk_in_the_order_of_their_bytes(texts in keys(), limit in 1_usize..6, parts in 1_usize..4) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        runtime.block_on(async {
            let Some(db) = database("").await else { return };
            let mut columns = vec![
                ("padded", "VARCHAR(20) COLLATE utf8mb4_bin"),
                ("folded", "VARCHAR(20) COLLATE utf8mb4_general_ci"),
                ("swedish", "VARCHAR(20) CHARACTER SET latin1"),
                ("bytes", "VARBINARY(20)"),
            ];
            if db.server_version().contains("MariaDB") {
                columns.push(("unicode", "VARCHAR(20) COLLATE utf8mb4_unicode_520_ci"));
                columns.push(("czech", "VARCHAR(20) COLLATE utf8mb4_czech_ci"));
                columns.push(("nopad", "VARCHAR(20) COLLATE utf8mb4_nopad_bin"));
            }
            for (name, column) in columns {
                db.execute(format!("CREATE TABLE {name} (t {column} PRIMARY KEY)")).await.unwrap();
                let table = MyRows::discover(&db, name).await.unwrap();
                let mut expected = std::collections::BTreeSet::new();
                for text in &texts {
                    let value = match name {
                        "bytes" => Value::Blob(text.clone().into_bytes()),
                        _ => Value::Text(text.clone()),
                    };
                    let key = DynKey::new([value.clone()]).unwrap();
                    assert_eq!(KeyBytes::of(&key).to_key::<DynKey>().unwrap(), key);
                    let row = DynRow::new(table.columns().clone(), vec![value]).unwrap();
                    // What is equal only to the collation is a conflict.
                    match table.put(&key, &row).await {
                        Ok(()) => _ = expected.insert(key),
                        Err(error) if name == "swedish" && error.kind() == Kind::Rejected => {}
                        Err(error) => assert!(error.kind() == Kind::Conflict && name != "bytes", "{error:?}"),
                    }
                }
                let expected: Vec<_> = expected.into_iter().collect();
                assert_eq!(walk(&table, limit, parts).await, expected, "{name}");
                for (at, key) in expected.iter().enumerate() {
                    let page = table.page(&KeyRange::after(key.clone()), 100).await.unwrap();
                    let rest: Vec<_> = page.into_iter().map(|(key, _)| key).collect();
                    assert_eq!(rest, expected[at + 1..], "{name} after {key:?}");
                    let up_to = KeyRange { after: None, up_to: Some(key.clone()) };
                    let page = table.page(&up_to, 100).await.unwrap();
                    assert_eq!(page.len(), at + 1, "{name} up to {key:?}");
                }
            }
        });
    }
}

#[tokio::test]
async fn how_large_records_are_is_known_once_some_were_read() {
    let schema = "CREATE TABLE t (id INT PRIMARY KEY, body TEXT, n INT)";
    let Some((db, table)) = rows_of(schema, "t").await else { return };
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
