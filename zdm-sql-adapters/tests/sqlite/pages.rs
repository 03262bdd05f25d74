//! Pages in key order over every kind of key, and tables that cannot be walked.

use proptest::prelude::*;
use serde::Serialize;
use zdm_core::Result;
use zdm_core::error::Kind;
use zdm_core::key::{KeyBytes, KeyRange};
use zdm_core::store::{Bulk, Change, Scan, Store};
use zdm_sql_adapters::sqlite::{Sqlite, SqliteRows, SqliteTable, TableStore};
use zdm_sql_adapters::table::{DynKey, RowMapping, RowReader, RowWriter, TableMapping, Value};

use crate::support::{USERS, database, user, users};

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
    let (_db, table) = users(USERS).await;
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

async fn seats(schema: &str) -> (crate::support::Database, SqliteTable<Seat>) {
    let db = database(schema).await;
    let table = SqliteTable::open(&db).await.unwrap();
    (db, table)
}

#[tokio::test]
async fn composite_keys_walk_in_order() {
    for schema in [
        "CREATE TABLE seats (hall TEXT, number INTEGER, note TEXT, PRIMARY KEY (hall, number)) WITHOUT ROWID",
        "CREATE TABLE seats (hall TEXT, number INTEGER, note TEXT, PRIMARY KEY (hall, number))",
        "CREATE TABLE seats (note TEXT, number INTEGER NOT NULL, hall TEXT NOT NULL, UNIQUE (number, hall))",
    ] {
        let (_db, table) = seats(schema).await;
        let halls = ["", "A", "B", "a", "a\0", "a\0b", "ab", "é", "中"];
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
        assert!(many.iter().zip(&keys).all(|(seat, key)| seat.as_ref().unwrap().note == format!("{key:?}")));
        table.delete(&keys[3]).await.unwrap();
        table.apply(&keys[10..13].iter().cloned().map(Change::Delete).collect::<Vec<_>>()).await.unwrap();
        assert_eq!(table.estimated_len().await.unwrap(), keys.len() as u64 - 4);
    }
}

/// A composite page must seek, not scan: its time must not grow with the rows before it.
#[tokio::test]
async fn pages_use_the_index() {
    let (db, _table) = seats(
        "CREATE TABLE seats (hall TEXT, number INTEGER, note TEXT, PRIMARY KEY (hall, number)) WITHOUT ROWID",
    )
    .await;
    let plan: Vec<(i64, i64, i64, String)> = sqlx::query_as(
        "EXPLAIN QUERY PLAN SELECT * FROM seats WHERE (hall, number) > ('a', 1) \
         AND (hall, number) <= ('b', 1) ORDER BY hall, number LIMIT 5",
    )
    .fetch_all(db.readers())
    .await
    .unwrap();
    let plan: Vec<_> = plan.into_iter().map(|step| step.3).collect();
    assert_eq!(plan.len(), 1, "{plan:?}");
    assert!(plan[0].starts_with("SEARCH") && plan[0].contains("(hall,number)>(?,?)"), "{plan:?}");
}

#[tokio::test]
async fn keys_that_are_null_are_refused_at_open_and_never_skipped() {
    let schema = "CREATE TABLE seats (hall TEXT, number INTEGER, note TEXT, PRIMARY KEY (hall, number))";
    for row in ["(NULL, 1, 'x')", "('b', NULL, 'x')", "('c', NULL, 'x')"] {
        let (db, table) = seats(schema).await;
        db.execute("INSERT INTO seats VALUES ('a', 1, ''), ('b', 1, ''), ('b', 2, ''), ('c', 1, '')")
            .await
            .unwrap();
        db.execute(format!("INSERT INTO seats VALUES {row}")).await.unwrap();

        let error = SqliteTable::<Seat>::open(&db).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Invalid);
        assert!(error.to_string().contains("seats") && error.to_string().contains("hall, number"), "{error}");

        // It came later: some page of any walk meets it.
        for limit in [1, 2, 100] {
            let (mut range, mut met) = (KeyRange::all(), false);
            loop {
                match table.page(&range, limit).await {
                    Ok(page) if page.is_empty() => break,
                    Ok(page) => range.after = page.last().map(|(key, _)| key.clone()),
                    Err(error) => {
                        assert_eq!(error.kind(), Kind::Invalid, "{error}");
                        met = true;
                        break;
                    }
                }
            }
            assert!(met, "row {row} was skipped with pages of {limit}");
        }
        // In ranges that end below it as well.
        let cut = ("b".to_owned(), 1);
        let low = table.page(&KeyRange { after: None, up_to: Some(cut.clone()) }, 100).await;
        let high = table.page(&KeyRange::after(cut), 100).await;
        assert!(low.is_err() || high.is_err(), "row {row}");
    }
}

#[tokio::test]
async fn a_key_of_another_class_is_an_error_with_the_row() {
    let db =
        database("CREATE TABLE seats (hall TEXT, number INTEGER, note TEXT, PRIMARY KEY (hall, number))")
            .await;
    let table = SqliteTable::<Seat>::open(&db).await.unwrap();
    db.execute("INSERT INTO seats VALUES ('a', 1.5, '')").await.unwrap();
    let error = table.page(&KeyRange::all(), 10).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Rejected);
    assert!(error.to_string().contains("1.5") && error.to_string().contains("seats"), "{error}");
}

async fn keys_of(db: &Sqlite) -> Vec<DynKey> {
    let table = SqliteRows::discover(db, "things").await.unwrap();
    walk(&table, 3, 2).await
}

fn any_value() -> impl Strategy<Value = Value> {
    let number = prop_oneof![
        any::<i64>().prop_map(Value::Integer),
        (-3_i64..3).prop_map(Value::Integer),
        any::<f64>().prop_filter("no NaN", |real| !real.is_nan()).prop_map(Value::Real),
        (-6_i8..6).prop_map(|half| Value::Real(f64::from(half) / 2.0)),
        (any::<i64>(), -2_i64..2).prop_map(|(near, off)| Value::Real(near.saturating_add(off) as f64)),
        (0_u32..11, -2_i64..2)
            .prop_map(|(shift, off)| Value::Integer((i64::MAX >> shift).saturating_add(off))),
    ];
    let text = "[\\x00-\\x02a-b中🦀]{0,4}";
    prop_oneof![
        4 => number,
        2 => text.prop_map(Value::Text),
        2 => proptest::collection::vec(0_u8..4, 0..4).prop_map(Value::Blob),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// The order of the bytes of a key is the order of SQLite, and what is equal to one is to the other.
    #[test]
    fn the_order_of_keys_is_that_of_sqlite(values in proptest::collection::vec((any_value(), any_value()), 1..20)) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        runtime.block_on(async {
            let db = database("CREATE TABLE things (a, b, PRIMARY KEY (a, b)) WITHOUT ROWID").await;
            let table = SqliteRows::discover(&db, "things").await.unwrap();
            let mut keys = std::collections::BTreeMap::new();
            for (a, b) in values {
                let key = DynKey::new([a.clone(), b.clone()]).unwrap();
                let bytes = KeyBytes::of(&key);
                assert_eq!(bytes.to_key::<DynKey>().unwrap(), key);
                let row = zdm_sql_adapters::table::DynRow::new(table.columns().clone(), vec![a, b]).unwrap();
                table.put(&key, &row).await.unwrap();
                assert!(table.get(&bytes.to_key().unwrap()).await.unwrap().is_some(), "{key:?}");
                keys.insert(key, ());
            }
            assert_eq!(keys_of(&db).await, keys.into_keys().collect::<Vec<_>>());
        });
    }
}
