//! The fence: what comes too late changes nothing.

use std::collections::BTreeMap;
use std::time::Duration;

use sqlx::Executor;
use zdm_core::error::Kind;
use zdm_core::key::{KeyBytes, KeyRange};
use zdm_core::store::{Bulk, Change, Fenced, MemoryStore, Scan, Stamp, Store};
use zdm_sql_adapters::mysql::{MyRows, MySql, MyTable};
use zdm_sql_adapters::table::{DynKey, DynRow, Value};

use crate::support::{Database, USERS, User, database, rows, user, users};

async fn fenced() -> Option<(Database, MyTable<User>)> {
    let (db, table) = users(USERS).await?;
    let table = table.with_fence().await.unwrap();
    Some((db, table))
}

fn put(id: i64, email: &str) -> Change<i64, User> {
    Change::Put(id, user(id, email))
}

fn page(ids: std::ops::Range<i64>, tag: &str) -> Vec<(i64, User)> {
    ids.map(|id| (id, user(id, &format!("{tag}{id}")))).collect()
}

async fn emails(table: &MyTable<User>) -> Vec<String> {
    let page = table.page(&KeyRange::all(), 1000).await.unwrap();
    page.into_iter().map(|(_, user)| user.unwrap().email.unwrap()).collect()
}

#[tokio::test]
async fn late_puts_and_deletes_lose() {
    let Some((_db, table)) = fenced().await else { return };
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
    let Some((db, table)) = fenced().await else { return };
    table.put(&1, &user(1, "a")).await.unwrap();
    assert_eq!(table.apply_if_newer(Stamp(9), &[Change::Delete(1), Change::Delete(2)]).await.unwrap(), 0);
    assert_eq!(table.apply_if_newer(Stamp(8), &[put(1, "a")]).await.unwrap(), 1);
    let load = table.load_page(Stamp(8), &KeyRange::all(), &page(1..4, "p")).await.unwrap();
    assert_eq!((load.written, load.superseded), (1, 2));
    assert_eq!(emails(&table).await, ["p3"]);
    assert_eq!(rows(&db, "SELECT CONCAT(stamp, '-', deleted) FROM zdm_stamp").await, ["9-1", "9-1"]);
    table.forget_stamps().await.unwrap();
    assert_eq!(rows(&db, "SELECT 'left' FROM zdm_stamp").await, Vec::<String>::new());
    assert_eq!(table.apply_if_newer(Stamp(1), &[put(1, "back")]).await.unwrap(), 0);
    assert_eq!(table.newest_stamp().await.unwrap(), Stamp(9));
}

#[tokio::test]
async fn a_late_page_loses_whole_and_refuses_no_single_change() {
    let Some((_db, table)) = fenced().await else { return };
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
    let Some((_db, table)) = fenced().await else { return };
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
    let Some((_db, table)) = fenced().await else { return };
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
    let Some(db) = database(
        "CREATE TABLE people (id INT PRIMARY KEY, boss INT, FOREIGN KEY (boss) REFERENCES people (id))",
    )
    .await
    else {
        return;
    };
    let people = MyRows::discover(&db, "people").await.unwrap().with_fence().await.unwrap();
    let key = |id: i64| DynKey::new([Value::Integer(id)]).unwrap();
    let person = |id: i64, boss: i64| {
        let values = vec![Value::Integer(id), Value::Integer(boss)];
        (key(id), DynRow::new(people.columns().clone(), values).unwrap())
    };
    // 1 and 2 hold each other; 3 needs 4, which needs a stranger; 5 needs one that comes later.
    let records = [person(1, 2), person(2, 1), person(3, 4), person(4, 99), person(5, 6), person(6, 1)];
    let load = people.load_page(Stamp(1), &KeyRange::all(), &records).await.unwrap();
    let mut rejected: Vec<_> = load.rejected.iter().map(|(key, error)| (key.clone(), error.kind())).collect();
    rejected.sort_by(|left, right| left.0.cmp(&right.0));
    assert_eq!(rejected, [(key(3), Kind::MissingReference), (key(4), Kind::MissingReference)]);
    assert_eq!(load.written, 4);
    assert_eq!(
        rows(&db, "SELECT CONCAT(id, '-', boss) FROM people ORDER BY id").await,
        ["1-2", "2-1", "5-6", "6-1"]
    );
}

#[tokio::test]
async fn a_record_outside_the_range_is_an_error() {
    let Some((_db, table)) = fenced().await else { return };
    let error = table.load_page(Stamp(1), &KeyRange::between(1, 2), &page(1..3, "p")).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Invalid, "{error}");
    assert_eq!(table.estimated_len().await.unwrap(), 0);
}

const OBJECTS: &str = "SELECT CONCAT(table_name, ':', column_name, ':', column_type, ':', column_key) \
    FROM information_schema.columns WHERE table_schema = DATABASE() ORDER BY table_name, ordinal_position";

#[tokio::test]
async fn tables_share_the_bookkeeping_and_removal_leaves_nothing_behind() {
    let Some(db) = database("CREATE TABLE a (id INT PRIMARY KEY); CREATE TABLE b (id INT PRIMARY KEY)").await
    else {
        return;
    };
    let plain = rows(&db, OBJECTS).await;
    let a = MyRows::discover(&db, "a").await.unwrap().with_fence().await.unwrap();
    let b = MyRows::discover(&db, "b").await.unwrap().with_fence().await.unwrap();
    let key = DynKey::new([Value::Integer(1)]).unwrap();
    let row = DynRow::new(a.columns().clone(), vec![Value::Integer(1)]).unwrap();
    a.apply_if_newer(Stamp(7), &[Change::Put(key.clone(), row.clone())]).await.unwrap();
    assert_eq!(b.newest_stamp().await.unwrap(), Stamp(0));
    // With its database before it, it is the same table.
    let name = format!("{}.a", db.name());
    let again = MyRows::discover(&db, &name).await.unwrap().with_fence().await.unwrap();
    assert_eq!(again.newest_stamp().await.unwrap(), Stamp(7));
    assert_eq!(b.apply_if_newer(Stamp(1), &[Change::Put(key.clone(), row.clone())]).await.unwrap(), 0);
    db.ensure_schema().await.unwrap();
    db.remove_schema().await.unwrap();
    assert_eq!(rows(&db, OBJECTS).await, plain);
    assert_eq!(rows(&db, "SELECT CAST(id AS CHAR) FROM a").await, ["1"]);
    // What was opened before is of no use any more, and says so.
    let error = a.apply_if_newer(Stamp(8), &[Change::Put(key.clone(), row)]).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Invalid, "{error:?}");
    db.ensure_schema().await.unwrap();
    let error = a.apply_if_newer(Stamp(8), &[Change::Delete(key)]).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Damaged, "{error:?}");
}

#[tokio::test]
async fn the_schema_as_text_is_what_is_installed() {
    let (Some(installed), Some(by_hand)) = (database("").await, database("").await) else { return };
    installed.ensure_schema().await.unwrap();
    by_hand.execute(MySql::schema_sql()).await.unwrap();
    assert_eq!(rows(&by_hand, OBJECTS).await, rows(&installed, OBJECTS).await);
    by_hand.ensure_schema().await.unwrap();
    by_hand.execute("INSERT INTO zdm_schema VALUES (99)").await.unwrap();
    let error = by_hand.ensure_schema().await.unwrap_err();
    assert_eq!(error.kind(), Kind::Damaged);
    assert!(error.to_string().contains("version 99"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_may_install_the_schema_at_once() {
    let Some(db) = database("").await else { return };
    let installing: Vec<_> = (0..8)
        .map(|_| {
            let db = db.db.clone();
            tokio::spawn(async move { db.ensure_schema().await })
        })
        .collect();
    for task in installing {
        task.await.unwrap().unwrap();
    }
    // An installation that broke off after its tables is made good.
    db.execute("DELETE FROM zdm_schema; DROP TABLE zdm_slot").await.unwrap();
    db.ensure_schema().await.unwrap();
    assert_eq!(rows(&db, "SELECT CAST(COUNT(*) AS CHAR) FROM zdm_slot").await, ["0"]);
}

/// A page waits while a live write is under way, and a live write while a page is: whichever comes second
/// sees what the first one left. The live write is halted in the middle by a lock on its row.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_page_and_a_live_write_exclude_each_other() {
    for live_first in [true, false] {
        let Some((db, table)) = fenced().await else { return };
        table.apply(&[put(1, "start1"), put(2, "start2")]).await.unwrap();
        // Halts whoever comes to the row 2.
        let mut other = db.other().await;
        other.execute("BEGIN").await.unwrap();
        other.execute("SELECT * FROM users WHERE id = 2 FOR UPDATE").await.unwrap();

        let live = || {
            let table = table.clone();
            tokio::spawn(
                async move { table.apply_if_newer(Stamp(9), &[put(1, "live1"), put(2, "live2")]).await },
            )
        };
        let load = || {
            let table = table.clone();
            tokio::spawn(
                async move { table.load_page(Stamp(5), &KeyRange::all(), &page(1..4, "page")).await },
            )
        };
        let pause = || tokio::time::sleep(Duration::from_millis(150));
        let (live, load) = if live_first {
            let live = live();
            pause().await;
            (live, load())
        } else {
            let load = load();
            pause().await;
            (live(), load)
        };
        pause().await;
        assert!(!live.is_finished() && !load.is_finished(), "neither waits for the row");
        // The one that came second has not touched the row 1 or 3 yet.
        other.execute("COMMIT").await.unwrap();
        assert_eq!(live.await.unwrap().unwrap(), 0);
        let load = load.await.unwrap().unwrap();
        assert_eq!(emails(&table).await, ["live1", "live2", "page3"], "live first: {live_first}");
        assert_eq!((load.written, load.superseded), if live_first { (1, 2) } else { (3, 0) });
    }
}

/// Pages beside live writes, each with stamps in the order of their looks: the live ones win, always.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_page_ever_lands_on_a_newer_live_write() {
    let Some((_db, table)) = fenced().await else { return };
    let stamp = std::sync::Arc::new(std::sync::atomic::AtomicU64::new(1));
    let next = move || Stamp(stamp.fetch_add(1, std::sync::atomic::Ordering::SeqCst));
    let mut tasks = Vec::new();
    for worker in 0..3_i64 {
        let (table, next) = (table.clone(), next.clone());
        tasks.push(tokio::spawn(async move {
            for _ in 0..25 {
                let looked = next();
                tokio::task::yield_now().await;
                let records = page(worker * 20..worker * 20 + 20, &format!("page {} ", looked.0));
                let range = KeyRange::between(worker * 20 - 1, worker * 20 + 19);
                loop {
                    match table.load_page(looked, &range, &records).await {
                        Ok(_) => break,
                        Err(error) => assert_eq!(error.kind(), Kind::Busy, "{error:?}"),
                    }
                }
            }
        }));
    }
    let writers: Vec<_> = (0..4_i64)
        .map(|writer| {
            let (table, next) = (table.clone(), next.clone());
            tokio::spawn(async move {
                let mut last = BTreeMap::new();
                for round in 0..40_i64 {
                    let id = writer + 4 * (round * 7 % 15);
                    let tag = format!("live{round}");
                    let looked = next();
                    loop {
                        match table.apply_if_newer(looked, &[put(id, &format!("{tag}-{id}"))]).await {
                            Ok(left_out) => {
                                assert_eq!(left_out, 0, "only this task writes the key {id}");
                                break;
                            }
                            Err(error) => assert_eq!(error.kind(), Kind::Busy, "{error:?}"),
                        }
                    }
                    last.insert(id, (looked, format!("{tag}-{id}")));
                }
                last
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    let mut wrong = Vec::new();
    for writer in writers {
        for (id, (looked, email)) in writer.await.unwrap() {
            let found = table.get(&id).await.unwrap().unwrap().email.unwrap();
            // A page that looked later may have written it again; an older one may not.
            let later = found.strip_prefix("page ").is_some_and(|rest| {
                let stamp = rest.split(' ').next().unwrap();
                stamp.parse::<u64>().unwrap() > looked.0
            });
            if found != email && !later {
                wrong.push((id, found, email, looked));
            }
        }
    }
    assert_eq!(wrong, []);
}

/// The store in memory is the reference: the same calls in the same order leave the same records.
#[tokio::test]
async fn any_order_of_calls_ends_as_in_the_reference() {
    let Some((db, table)) = fenced().await else { return };
    for seed in 0..12_u64 {
        db.execute("DELETE FROM users; DELETE FROM zdm_stamp; DELETE FROM zdm_page; DELETE FROM zdm_fence")
            .await
            .unwrap();
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
