//! The fence: what comes too late changes nothing.

use std::collections::BTreeMap;

use zdm_core::error::Kind;
use zdm_core::key::{KeyBytes, KeyRange};
use zdm_core::store::{Bulk, Change, Fenced, MemoryStore, Scan, Stamp, Store};
use zdm_sql_adapters::sqlite::{Sqlite, SqliteRows, SqliteTable};
use zdm_sql_adapters::table::{DynKey, DynRow, Value};

use crate::support::{Database, USERS, User, database, rows, user, users};

async fn fenced() -> (Database, SqliteTable<User>) {
    let (db, table) = users(USERS).await;
    let table = table.with_fence().await.unwrap();
    (db, table)
}

fn put(id: i64, email: &str) -> Change<i64, User> {
    Change::Put(id, user(id, email))
}

fn page(ids: std::ops::Range<i64>, tag: &str) -> Vec<(i64, User)> {
    ids.map(|id| (id, user(id, &format!("{tag}{id}")))).collect()
}

async fn emails(table: &SqliteTable<User>) -> Vec<String> {
    let page = table.page(&KeyRange::all(), 1000).await.unwrap();
    page.into_iter().map(|(_, user)| user.unwrap().email.unwrap()).collect()
}

#[tokio::test]
async fn late_puts_and_deletes_lose() {
    let (_db, table) = fenced().await;
    assert!(table.capabilities().fenced.is_some());
    assert_eq!(table.newest_stamp().await.unwrap(), Stamp(0));
    assert_eq!(table.apply_if_newer(Stamp(5), &[put(1, "new"), put(2, "two")]).await.unwrap(), 0);
    assert_eq!(
        table.apply_if_newer(Stamp(4), &[put(1, "old"), Change::Delete(2), put(3, "three")]).await.unwrap(),
        2
    );
    assert_eq!(emails(&table).await, ["new", "two", "three"]);
    // The same look again is no later than itself.
    assert_eq!(table.apply_if_newer(Stamp(5), &[put(1, "same")]).await.unwrap(), 0);
    assert_eq!(table.newest_stamp().await.unwrap(), Stamp(5));
}

#[tokio::test]
async fn a_tombstone_refuses_the_record_that_comes_late() {
    let (db, table) = fenced().await;
    table.put(&1, &user(1, "a")).await.unwrap();
    assert_eq!(table.apply_if_newer(Stamp(9), &[Change::Delete(1), Change::Delete(2)]).await.unwrap(), 0);
    assert_eq!(table.apply_if_newer(Stamp(8), &[put(1, "a")]).await.unwrap(), 1);
    let load = table.load_page(Stamp(8), &KeyRange::all(), &page(1..4, "p")).await.unwrap();
    assert_eq!((load.written, load.superseded), (1, 2));
    assert_eq!(emails(&table).await, ["p3"]);
    assert_eq!(rows(&db, "SELECT stamp || '-' || deleted FROM zdm_stamp").await, ["9-1", "9-1"]);
    table.forget_stamps().await.unwrap();
    assert_eq!(table.apply_if_newer(Stamp(1), &[put(1, "back")]).await.unwrap(), 0);
    assert_eq!(table.newest_stamp().await.unwrap(), Stamp(9));
}

#[tokio::test]
async fn a_late_page_loses_whole_and_refuses_no_single_change() {
    let (_db, table) = fenced().await;
    let low = KeyRange { after: None, up_to: Some(10) };
    let load = table.load_page(Stamp(5), &low, &page(1..4, "five")).await.unwrap();
    assert_eq!((load.written, load.superseded, load.rejected.len()), (3, 0, 0));
    // Overlapping ranges, whatever their bounds.
    for range in [low.clone(), KeyRange::all(), KeyRange::after(9), KeyRange::between(2, 3)] {
        let records: Vec<_> = page(1..30, "four").into_iter().filter(|(id, _)| range.contains(id)).collect();
        let load = table.load_page(Stamp(4), &range, &records).await.unwrap();
        assert_eq!((load.written, load.superseded), (0, records.len() as u64), "{range:?}");
    }
    assert_eq!(table.load_page(Stamp(4), &KeyRange::after(10), &page(11..12, "e")).await.unwrap().written, 1);
    assert_eq!(emails(&table).await, ["five1", "five2", "five3", "e11"]);
    assert_eq!(table.load_page(Stamp(6), &low, &page(1..4, "six")).await.unwrap().written, 3);
    // A page does not say what was deleted before it, so an earlier look is still applied.
    assert_eq!(table.apply_if_newer(Stamp(4), &[Change::Delete(3), put(12, "own")]).await.unwrap(), 0);
    assert_eq!(emails(&table).await, ["six1", "six2", "e11", "own"]);
}

#[tokio::test]
async fn records_that_do_not_fit_do_not_hold_up_the_page() {
    let (_db, table) = fenced().await;
    table.put(&100, &user(100, "taken")).await.unwrap();
    let mut records = page(1..50, "p");
    records[3].1.email = Some("taken".to_owned());
    records[7].1.name = String::new();
    records[9].1.score = f64::NAN;
    let range = KeyRange { after: None, up_to: Some(60) };
    let load = table.load_page(Stamp(1), &range, &records).await.unwrap();
    assert_eq!((load.written, load.superseded), (46, 0));
    let mut rejected: Vec<_> = load.rejected.iter().map(|(id, error)| (*id, error.kind())).collect();
    rejected.sort_by_key(|(id, _)| *id);
    assert_eq!(rejected, [(4, Kind::Conflict), (8, Kind::Rejected), (10, Kind::Rejected)]);
    let conflict = load.rejected.iter().find(|(id, _)| *id == 4).unwrap();
    assert_eq!(conflict.1.holder(), Some(&KeyBytes::of(&100_i64)));
    assert_eq!(table.estimated_len().await.unwrap(), 47);
}

#[tokio::test]
async fn unique_values_may_move_within_a_page() {
    let (_db, table) = fenced().await;
    table.apply(&[put(1, "a"), put(2, "b"), put(3, "c")]).await.unwrap();
    let records = [(1, user(1, "b")), (2, user(2, "a")), (3, user(3, "c"))];
    let load = table.load_page(Stamp(1), &KeyRange::all(), &records).await.unwrap();
    assert_eq!((load.written, load.rejected.len()), (3, 0));
    assert_eq!(emails(&table).await, ["b", "a", "c"]);
    // A record that is left out keeps its old value, and only that one is left out.
    let mut records = [(1, user(1, "a")), (2, user(2, "b")), (3, user(3, "z"))];
    records[2].1.name = String::new();
    let load = table.load_page(Stamp(2), &KeyRange::all(), &records).await.unwrap();
    assert_eq!((load.written, load.rejected.len()), (2, 1));
    assert_eq!(emails(&table).await, ["a", "b", "c"]);
}

#[tokio::test]
async fn children_without_a_parent_are_reported_by_name() {
    let db = database("CREATE TABLE people (id INTEGER PRIMARY KEY, boss INTEGER REFERENCES people)").await;
    let people = SqliteRows::discover(&db, "people").await.unwrap().with_fence().await.unwrap();
    let key = |id: i64| DynKey::new([Value::Integer(id)]).unwrap();
    let person = |id: i64, boss: i64| {
        (
            key(id),
            DynRow::new(people.columns().clone(), vec![Value::Integer(id), Value::Integer(boss)]).unwrap(),
        )
    };
    // 1 and 2 hold each other; 3 needs 4, which needs a stranger.
    let records = [person(1, 2), person(2, 1), person(3, 4), person(4, 99), person(5, 1)];
    let load = people.load_page(Stamp(1), &KeyRange::all(), &records).await.unwrap();
    let mut rejected: Vec<_> = load.rejected.iter().map(|(key, error)| (key.clone(), error.kind())).collect();
    rejected.sort_by(|left, right| left.0.cmp(&right.0));
    assert_eq!(rejected, [(key(3), Kind::MissingReference), (key(4), Kind::MissingReference)]);
    assert!(load.rejected[0].1.to_string().contains("boss of table people"), "{}", load.rejected[0].1);
    assert_eq!(load.written, 3);
    assert_eq!(rows(&db, "SELECT CAST(id AS TEXT) FROM people").await, ["1", "2", "5"]);
}

#[tokio::test]
async fn a_record_outside_the_range_is_an_error() {
    let (_db, table) = fenced().await;
    let error = table.load_page(Stamp(1), &KeyRange::between(1, 2), &page(1..3, "p")).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Invalid, "{error}");
    assert_eq!(table.estimated_len().await.unwrap(), 0);
}

#[tokio::test]
async fn tables_share_the_bookkeeping_and_removal_leaves_nothing_behind() {
    let before = "SELECT sql FROM sqlite_schema WHERE sql IS NOT NULL ORDER BY name";
    let db =
        database("CREATE TABLE a (id INTEGER PRIMARY KEY); CREATE TABLE b (id INTEGER PRIMARY KEY)").await;
    let plain = rows(&db, before).await;
    let a = SqliteRows::discover(&db, "a").await.unwrap().with_fence().await.unwrap();
    let b = SqliteRows::discover(&db, "b").await.unwrap().with_fence().await.unwrap();
    let key = DynKey::new([Value::Integer(1)]).unwrap();
    let row = DynRow::new(a.columns().clone(), vec![Value::Integer(1)]).unwrap();
    a.apply_if_newer(Stamp(7), &[Change::Put(key.clone(), row.clone())]).await.unwrap();
    assert_eq!(b.newest_stamp().await.unwrap(), Stamp(0));
    // Another spelling of the name is the same table.
    let again = SqliteRows::discover(&db, "A").await.unwrap().with_fence().await.unwrap();
    assert_eq!(again.newest_stamp().await.unwrap(), Stamp(7));
    assert_eq!(b.apply_if_newer(Stamp(1), &[Change::Put(key, row)]).await.unwrap(), 0);
    db.ensure_schema().await.unwrap();
    db.remove_schema().await.unwrap();
    assert_eq!(rows(&db, before).await, plain);
    assert_eq!(rows(&db, "SELECT CAST(id AS TEXT) FROM a").await, ["1"]);
}

#[tokio::test]
async fn the_schema_as_text_is_what_is_installed() {
    let objects = "SELECT type || name || coalesce(sql, '') FROM sqlite_schema ORDER BY name";
    let (installed, by_hand) = (database("SELECT 1").await, database("SELECT 1").await);
    installed.ensure_schema().await.unwrap();
    by_hand.execute(Sqlite::schema_sql()).await.unwrap();
    let normal = |rows: Vec<String>| -> Vec<String> {
        rows.iter().map(|row| row.replace("IF NOT EXISTS ", "")).collect()
    };
    assert_eq!(normal(rows(&by_hand, objects).await), normal(rows(&installed, objects).await));
    by_hand.ensure_schema().await.unwrap();
    by_hand.execute("INSERT INTO zdm_schema VALUES (99)").await.unwrap();
    let error = by_hand.ensure_schema().await.unwrap_err();
    assert_eq!(error.kind(), Kind::Damaged);
    assert!(error.to_string().contains("version 99"), "{error}");
}

/// The store in memory is the reference: the same calls in the same order leave the same records.
#[tokio::test]
async fn any_order_of_calls_ends_as_in_the_reference() {
    for seed in 0..30_u64 {
        let (_db, table) = fenced().await;
        let reference =
            MemoryStore::<i64, User>::new().with_unique("email", |user: &User| user.email.clone());
        let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
        let mut random = move |below: u64| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state % below
        };
        for _ in 0..40 {
            let stamp = Stamp(random(12));
            let mut changes = BTreeMap::new();
            for _ in 0..=random(4) {
                let id = random(8) as i64;
                let email = ["a", "b", "c", "d", "e", "f"][random(6) as usize];
                changes.insert(id, (random(4) > 0).then(|| user(id, email)));
            }
            if random(3) > 0 {
                let changes: Vec<_> = changes
                    .into_iter()
                    .map(|(id, user)| user.map_or(Change::Delete(id), |user| Change::Put(id, user)))
                    .collect();
                let (ours, theirs) = (
                    table.apply_if_newer(stamp, &changes).await,
                    reference.apply_if_newer(stamp, &changes).await,
                );
                assert_eq!(ours.as_ref().ok(), theirs.as_ref().ok(), "seed {seed}: {ours:?} {theirs:?}");
                assert_eq!(ours.err().map(|error| error.kind()), theirs.err().map(|error| error.kind()));
            } else {
                // Without contention inside the page; which of two rivals loses is not laid down.
                let (low, high) = (random(8) as i64 - 1, random(8) as i64);
                let range = KeyRange { after: (low >= 0).then_some(low), up_to: (high < 7).then_some(high) };
                let records: Vec<_> = changes
                    .into_keys()
                    .filter(|id| range.contains(id))
                    .map(|id| (id, user(id, &format!("own{id}"))))
                    .collect();
                let ours = table.load_page(stamp, &range, &records).await.unwrap();
                let theirs = reference.load_page(stamp, &range, &records).await.unwrap();
                assert_eq!(
                    (ours.written, ours.superseded),
                    (theirs.written, theirs.superseded),
                    "seed {seed}"
                );
            }
            let ours: BTreeMap<_, _> = table
                .page(&KeyRange::all(), 100)
                .await
                .unwrap()
                .into_iter()
                .map(|(id, user)| (id, user.unwrap()))
                .collect();
            assert_eq!(ours, reference.snapshot(), "seed {seed}");
            assert_eq!(table.newest_stamp().await.unwrap(), reference.newest_stamp().await.unwrap());
        }
    }
}
