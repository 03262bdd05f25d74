//! Every value of SQLite comes back as it went in, by every way a record can be read and written.

use zdm_core::error::Kind;
use zdm_core::key::KeyRange;
use zdm_core::store::{Bulk, Change, Fenced, Scan, Stamp, Store};
use zdm_sql_adapters::sqlite::SqliteRows;
use zdm_sql_adapters::table::{DynKey, DynRow, Value};

use crate::support::{USERS, User, database, user, users};

/// Values at every edge of every storage class.
fn edges() -> Vec<Value> {
    let text = |text: &str| Value::Text(text.to_owned());
    let mut values = vec![
        Value::Null,
        Value::Integer(0),
        Value::Integer(-1),
        Value::Integer(i64::MIN),
        Value::Integer(i64::MIN + 1),
        Value::Integer(i64::MAX),
        Value::Integer((1 << 53) + 1),
        Value::Real(0.1),
        Value::Real(-2.5),
        Value::Real(1.0 / 3.0),
        Value::Real(9_007_199_254_740_993.0),
        Value::Real(1e300 * 1.1),
        Value::Real(f64::MAX),
        Value::Real(f64::MIN),
        Value::Real(f64::MIN_POSITIVE),
        Value::Real(5e-324),
        Value::Real(f64::EPSILON),
        Value::Real(f64::INFINITY),
        Value::Real(f64::NEG_INFINITY),
        text(""),
        text("\0"),
        text("a\0b\0"),
        text("\u{1}\u{7}\u{8}\t\n\u{b}\u{c}\r\u{1f}\u{7f}"),
        text("quote \" back \\ slash / ' end"),
        text("\\u0041 \\n"),
        text("é ß 中文 🦀 \u{10ffff} \u{feff} \u{2028}"),
        text("1"),
        text("1.5"),
        text("Inf"),
        text("[\"00\"]"),
        text("null"),
        Value::Blob(vec![]),
        Value::Blob(vec![0]),
        Value::Blob((0..=255).collect()),
        Value::Blob(b"text".to_vec()),
    ];
    values.push(Value::Text("x".repeat(100_000)));
    values.push(Value::Blob(vec![0xAB; 100_000]));
    values
}

fn identical(left: &Value, right: &Value) -> bool {
    match (left, right) {
        (Value::Real(left), Value::Real(right)) => left.to_bits() == right.to_bits(),
        _ => left == right,
    }
}

#[tokio::test]
async fn every_value_of_a_column_without_type_comes_back() {
    let db = database("CREATE TABLE things (id INTEGER PRIMARY KEY, a, b ANY)").await;
    let things = SqliteRows::discover(&db, "things").await.unwrap();
    let key = |id: i64| DynKey::new([Value::Integer(id)]).unwrap();
    let row = |id: i64, value: &Value| {
        DynRow::new(things.columns().clone(), vec![Value::Integer(id), value.clone(), Value::Null]).unwrap()
    };
    let values = edges();
    let records: Vec<_> = values.iter().zip(1..).map(|(value, id)| (key(id), row(id, value))).collect();
    let keys: Vec<_> = records.iter().map(|(key, _)| key.clone()).collect();

    // One by one, in bulk, as a page.
    for way in 0..3 {
        db.execute("DELETE FROM things").await.unwrap();
        let fenced = SqliteRows::discover(&db, "things").await.unwrap().with_fence().await.unwrap();
        match way {
            0 => {
                for (key, row) in &records {
                    things.put(key, row).await.unwrap();
                }
            }
            1 => {
                let puts: Vec<_> =
                    records.iter().map(|(key, row)| Change::Put(key.clone(), row.clone())).collect();
                things.apply(&puts).await.unwrap();
            }
            _ => {
                let load = fenced.load_page(Stamp(1), &KeyRange::all(), &records).await.unwrap();
                assert_eq!((load.written, load.rejected.len()), (records.len() as u64, 0));
            }
        }
        let page = things.page(&KeyRange::all(), 1000).await.unwrap();
        let many = things.get_many(&keys).await.unwrap();
        assert_eq!(page.len(), records.len());
        for (((key, row), paged), many) in records.iter().zip(page).zip(many) {
            let wanted = row.get("a").unwrap();
            let got = things.get(key).await.unwrap().unwrap();
            for (how, found) in [("get", &got), ("page", &paged.1.unwrap()), ("get_many", &many.unwrap())] {
                assert!(
                    identical(found.get("a").unwrap(), wanted),
                    "{how} way {way}: {found:?} is not {wanted}"
                );
            }
        }
    }
}

#[tokio::test]
async fn columns_that_hold_what_they_were_not_declared_for_are_exact() {
    let db =
        database("CREATE TABLE things (id INTEGER PRIMARY KEY, i INTEGER, t TEXT, r REAL, n NUMERIC)").await;
    let things = SqliteRows::discover(&db, "things").await.unwrap();
    db.execute(
        "INSERT INTO things VALUES (1, 7, 'x', 1, 2), (2, 1.1, x'00ff', 'text', 0.1), \
         (3, 'abc', NULL, x'', x'01'), (4, 1e300, 'é', 0.1, 'n')",
    )
    .await
    .unwrap();
    let stored = sqlx::query_scalar::<_, String>(
        "SELECT typeof(i) || typeof(t) || typeof(r) || typeof(n) FROM things ORDER BY id",
    );
    let stored = stored.fetch_all(db.readers()).await.unwrap();
    assert_eq!(stored[1], "realblobtextreal");
    let page = things.page(&KeyRange::all(), 10).await.unwrap();
    for (key, row) in page {
        let row = row.unwrap();
        assert_eq!(things.get(&key).await.unwrap().as_ref(), Some(&row));
        things.put(&key, &row).await.unwrap();
    }
    let again = sqlx::query_scalar::<_, String>(
        "SELECT typeof(i) || typeof(t) || typeof(r) || typeof(n) FROM things ORDER BY id",
    );
    assert_eq!(again.fetch_all(db.readers()).await.unwrap(), stored);
}

/// What compares equal in SQLite is not always the same value.
#[tokio::test]
async fn a_put_replaces_what_only_compares_equal() {
    let db = database("CREATE TABLE things (id INTEGER PRIMARY KEY, a, t TEXT COLLATE NOCASE)").await;
    let things = SqliteRows::discover(&db, "things").await.unwrap();
    let key = DynKey::new([Value::Integer(1)]).unwrap();
    let row = |a: Value, t: &str| {
        DynRow::new(things.columns().clone(), vec![Value::Integer(1), a, Value::Text(t.to_owned())]).unwrap()
    };
    let rows = [
        row(Value::Integer(1), "a"),
        row(Value::Real(1.0), "a"),
        row(Value::Integer(1), "A"),
        row(Value::Null, "A"),
        row(Value::Text("1".to_owned()), "A"),
        row(Value::Blob(b"1".to_vec()), "A"),
    ];
    for row in &rows {
        things.put(&key, row).await.unwrap();
        assert_eq!(things.get(&key).await.unwrap().as_ref(), Some(row));
    }
}

#[tokio::test]
async fn floats_come_back_bit_by_bit() {
    let (db, table) = users(USERS).await;
    // A linear congruential generator over all bit patterns.
    let mut state = 0x2545_F491_4F6C_DD1D_u64;
    let mut floats = Vec::new();
    while floats.len() < 5_000 {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let float = f64::from_bits(state ^ (state >> 29));
        if !float.is_nan() {
            floats.push(float);
        }
        floats.push((state >> 11) as f64 / 1e6);
    }
    let changes: Vec<_> = floats
        .iter()
        .zip(1..)
        .map(|(score, id)| Change::Put(id, User { score: *score, email: None, ..user(id, "") }))
        .collect();
    for chunk in changes.chunks(1000) {
        table.apply(chunk).await.unwrap();
    }
    let page = table.page(&KeyRange::all(), floats.len()).await.unwrap();
    for ((id, read), wanted) in page.into_iter().zip(&floats) {
        let read = read.unwrap().score;
        assert!(read.to_bits() == wanted.to_bits(), "row {id}: {read:?} is not {wanted:?}");
    }
    drop(db);
}

#[tokio::test]
async fn not_a_number_is_refused_and_names_the_column() {
    let (_db, table) = users(USERS).await;
    let error = table.put(&1, &User { score: f64::NAN, ..user(1, "a") }).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Rejected);
    let text = error.to_string();
    assert!(text.contains("score") && text.contains("users") && text.contains("NaN"), "{text}");
    assert_eq!(table.get(&1).await.unwrap(), None);
}

#[tokio::test]
async fn a_row_that_cannot_be_mapped_keeps_its_place_in_the_page() {
    let (db, table) = users(USERS).await;
    db.execute("INSERT INTO users VALUES (1, 'a', NULL, 1), (2, x'ff', NULL, 1), (3, 'c', NULL, 1)")
        .await
        .unwrap();
    db.execute("INSERT INTO users VALUES (4, CAST(x'ff' AS TEXT), NULL, 1)").await.unwrap();
    let page = table.page(&KeyRange::all(), 10).await.unwrap();
    assert_eq!(page.iter().map(|(key, _)| *key).collect::<Vec<_>>(), [1, 2, 3, 4]);
    for id in [2, 4] {
        let error = page[id - 1].1.as_ref().unwrap_err();
        assert_eq!(error.kind(), Kind::Rejected, "{error}");
        assert!(error.to_string().contains("name"), "{error}");
        let error = table.get(&(id as i64)).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Rejected, "{error}");
    }
    assert!(page[0].1.is_ok() && page[2].1.is_ok());
}
