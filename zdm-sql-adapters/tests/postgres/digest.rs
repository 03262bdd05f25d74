//! Sums of ranges: equal exactly where the rows are, and made of what a record is made of.

use zdm_core::key::KeyRange;
use zdm_core::store::{Digest, Store};
use zdm_sql_adapters::postgres::{PgRows, Postgres};
use zdm_sql_adapters::table::{DynKey, Value};

use crate::support::database;

fn digest(store: &PgRows) -> &dyn Digest<Key = DynKey, Record = zdm_sql_adapters::table::DynRow> {
    store.capabilities().digest.unwrap()
}

/// Version 13 has no hash with a seed, and then no sums are offered.
async fn without_sums(db: &Postgres, table: &str) -> bool {
    let old = db.server_version() < 140_000;
    let store = PgRows::discover(db, table).await.unwrap();
    assert_eq!(store.capabilities().digest.is_none(), old);
    old
}

fn key(id: i64) -> DynKey {
    DynKey::new([Value::Integer(id)]).unwrap()
}

#[tokio::test]
async fn equal_tables_have_equal_sums_and_every_difference_shows() {
    let columns = "id BIGINT PRIMARY KEY, small SMALLINT, amount NUMERIC, share FLOAT8, name TEXT, letters CHAR(5), \
        bytes BYTEA, day DATE, at TIMESTAMPTZ, span INTERVAL, plain JSON, document JSONB, id2 UUID, tags TEXT[], \
        mask BIT(3), address INET, mood mood";
    let row = "7, 1, 1.50, 'NaN', 'Ä', 'ab', '\\x00ff', '2024-02-29', '2024-05-06 07:08:09+02', '1 day', '{\"a\": 1}', \
        '{\"b\": 2}', '00000000-0000-0000-0000-000000000007', '{a,b}', '101', '10.0.0.1', 'good'";
    let Some(db) = database(&format!(
        "CREATE TYPE mood AS ENUM ('good', 'bad'); CREATE TABLE a ({columns}); CREATE TABLE b ({columns}); \
         INSERT INTO a VALUES ({row}); INSERT INTO b VALUES ({row})"
    ))
    .await
    else {
        return;
    };
    if without_sums(&db, "a").await {
        return;
    }
    let (a, b) = (PgRows::discover(&db, "a").await.unwrap(), PgRows::discover(&db, "b").await.unwrap());
    let (a, b) = (digest(&a), digest(&b));
    assert_eq!(a.digest_of(), b.digest_of());
    let all = KeyRange::all();
    let before = a.digest(&all).await.unwrap();
    assert_eq!((before.records, before), (1, b.digest(&all).await.unwrap()));
    for change in [
        "small = NULL",
        "amount = 1.51",
        "share = 0",
        "name = 'ä'",
        "letters = 'abc'",
        "bytes = '\\x00'",
        "day = 'infinity'",
        "at = '2024-05-06 07:08:09+01'",
        // The server takes it for the same; a record does not.
        "span = '24 hours'",
        "plain = '{\"a\": 2}'",
        "document = '{\"b\": 3}'",
        "id2 = '00000000-0000-0000-0000-000000000008'",
        "tags = '{b,a}'",
        "mask = '111'",
        "address = '10.0.0.2'",
        "mood = 'bad'",
        "id = 8",
    ] {
        db.execute(format!("UPDATE b SET {change}")).await.unwrap();
        assert_ne!(b.digest(&all).await.unwrap(), before, "{change}");
        db.execute("DELETE FROM b; INSERT INTO b SELECT * FROM a").await.unwrap();
        assert_eq!(b.digest(&all).await.unwrap(), before);
    }
    // Numbers that are equal as records, and only written with other zeros.
    db.execute("UPDATE b SET amount = 1.5").await.unwrap();
    assert_eq!(b.digest(&all).await.unwrap(), before);
}

#[tokio::test]
async fn ranges_and_places_are_those_of_pages() {
    let Some(db) =
        database("CREATE TABLE a (id BIGINT PRIMARY KEY, n INT); INSERT INTO a SELECT i * 2, i FROM generate_series(1, 100) i").await
    else {
        return;
    };
    if without_sums(&db, "a").await {
        return;
    }
    let store = PgRows::discover(&db, "a").await.unwrap();
    let a = digest(&store);
    assert_eq!(a.nth_key(&KeyRange::all(), 1).await.unwrap(), Some(key(2)));
    let half = KeyRange { after: Some(key(100)), up_to: None };
    assert_eq!(a.nth_key(&half, 50).await.unwrap(), Some(key(200)));
    assert_eq!(a.nth_key(&half, 51).await.unwrap(), None);
    let (lower, upper) = (KeyRange { after: None, up_to: Some(key(100)) }, half);
    let (lower, upper) = (a.digest(&lower).await.unwrap(), a.digest(&upper).await.unwrap());
    let all = a.digest(&KeyRange::all()).await.unwrap();
    assert_eq!((lower.records, upper.records, all.records), (50, 50, 100));
    assert_eq!(lower.xor ^ upper.xor, all.xor);
    let empty = KeyRange { after: Some(key(9)), up_to: Some(key(3)) };
    assert_eq!(a.digest(&empty).await.unwrap().records, 0);
}
