//! Pages and live writes at the same time, and pages with rows that do not fit.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use sqlx::{AssertSqlSafe, Executor};
use zdm_core::error::Kind;
use zdm_core::key::{KeyBytes, KeyRange};
use zdm_core::store::{Bulk, Change, Fenced, MemoryStore, Scan, Stamp, Store};
use zdm_sql_adapters::postgres::{PgRows, PgTable};
use zdm_sql_adapters::table::{DynKey, DynRow, Value};

use crate::support::{Database, USERS, User, database, rows, user, users, write};

const LOOSE: &str =
    "CREATE TABLE users (id bigint PRIMARY KEY, name text NOT NULL, email text, score float8 NOT NULL)";

/// A page reads the primary, then a live write reads it later and is written; whichever comes first at the
/// secondary, the live write's record stays. Without the slots a page that has looked for stamps before the
/// live write left one would write over it, or run into its row.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_page_never_writes_over_a_later_live_write() {
    let Some((db, table)) = users(LOOSE).await else { return };
    let stamps = Arc::new(AtomicU64::new(1));
    let draw = move || Stamp(stamps.fetch_add(1, Ordering::SeqCst));
    for (round, filled) in (0..40).map(|round| (round, round % 2 == 0)) {
        let ids: Vec<i64> = (round * 100..round * 100 + 50).collect();
        if filled {
            for id in &ids {
                table.apply_if_newer(draw(), &[Change::Put(*id, user(*id, "before"))]).await.unwrap();
            }
        }
        let range = KeyRange::between(ids[0] - 1, ids[49]);
        let page: Vec<_> = ids.iter().map(|id| (*id, user(*id, "page"))).collect();
        // Drawn before the live writes' stamps: everything live is later.
        let early = draw();
        let loading = {
            let (table, range, page) = (table.clone(), range.clone(), page.clone());
            tokio::spawn(async move { table.load_page(early, &range, &page).await })
        };
        let mut live = Vec::new();
        for id in [ids[3], ids[20], ids[47], ids[21]] {
            let (table, stamp) = (table.clone(), draw());
            live.push(tokio::spawn(async move {
                table.apply_if_newer(stamp, &[Change::Put(id, user(id, "live"))]).await.map(|_| id)
            }));
        }
        let deleted = ids[30];
        let left = table.apply_if_newer(draw(), &[Change::Delete(deleted)]).await.unwrap();
        assert_eq!(left, 0);
        let mut written = Vec::new();
        for write in live {
            written.push(write.await.unwrap().unwrap());
        }
        let load = loading.await.unwrap().unwrap();
        assert!(load.rejected.is_empty(), "round {round}: {:?}", load.rejected);
        for id in written {
            let found = table.get(&id).await.unwrap().unwrap();
            assert_eq!(found.email.as_deref(), Some("live"), "round {round}: the page wrote over {id}");
        }
        assert_eq!(table.get(&deleted).await.unwrap(), None, "round {round}: the page resurrected {deleted}");
        let count = rows(
            &db,
            format!("SELECT count(*)::text FROM users WHERE id BETWEEN {} AND {}", ids[0], ids[49]),
        );
        assert_eq!(count.await, ["49"], "round {round}");
    }
}

/// What the locks are for, with the gap held open: a page waits for a live write that has not committed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_page_waits_for_live_writes_and_they_for_pages() {
    // A write of the row 7 takes its time.
    let slow = "; CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS \
        'BEGIN IF NEW.id = 7 THEN PERFORM pg_sleep(0.4); END IF; RETURN NEW; END'; \
        CREATE TRIGGER slow BEFORE INSERT OR UPDATE ON users FOR EACH ROW EXECUTE FUNCTION slow()";
    let Some((_db, table)) = users(&format!("{LOOSE}{slow}")).await else { return };
    let range = KeyRange::between(0, 10);
    for live_first in [true, false] {
        let stamp = if live_first { 10 } else { 20 };
        let live = || {
            let table = table.clone();
            tokio::spawn(async move {
                table.apply_if_newer(Stamp(stamp + 1), &[Change::Put(7, user(7, "live"))]).await
            })
        };
        let page = || {
            let (table, range) = (table.clone(), range.clone());
            tokio::spawn(async move {
                let records: Vec<_> = [6, 7, 8].map(|id| (id, user(id, &format!("page {stamp}")))).into();
                table.load_page(Stamp(stamp), &range, &records).await
            })
        };
        let a_while = tokio::time::sleep(Duration::from_millis(150));
        let (page, live) = if live_first {
            let live = live();
            a_while.await;
            (page(), live)
        } else {
            let page = page();
            a_while.await;
            (page, live())
        };
        let (loaded, applied) = (page.await.unwrap().unwrap(), live.await.unwrap().unwrap());
        assert_eq!(applied, 0);
        assert!(loaded.rejected.is_empty(), "{:?}", loaded.rejected);
        let expected = if live_first { (2, 1) } else { (3, 0) };
        assert_eq!((loaded.written, loaded.superseded), expected, "live first: {live_first}");
        assert_eq!(table.get(&7).await.unwrap().unwrap().email.as_deref(), Some("live"));
        assert_eq!(table.get(&6).await.unwrap().unwrap().email, Some(format!("page {stamp}")));
    }
}

/// Pages of one table run beside each other, and so do live writes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pages_run_beside_pages_and_live_writes_beside_live_writes() {
    let slow = "; CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS \
        'BEGIN IF NEW.name = ''user 7'' OR NEW.name = ''user 17'' THEN PERFORM pg_sleep(0.5); END IF; RETURN NEW; END'; \
        CREATE TRIGGER slow BEFORE INSERT OR UPDATE ON users FOR EACH ROW EXECUTE FUNCTION slow()";
    let Some((_db, table)) = users(&format!("{LOOSE}{slow}")).await else { return };
    let start = std::time::Instant::now();
    let page = |low: i64, id: i64| {
        let table = table.clone();
        async move { table.load_page(Stamp(1), &KeyRange::between(low, low + 9), &[(id, user(id, "a"))]).await }
    };
    let (one, two) = tokio::join!(page(0, 7), page(10, 17));
    assert_eq!((one.unwrap().written, two.unwrap().written), (1, 1));
    let live = |id: i64| {
        let table = table.clone();
        async move { table.apply_if_newer(Stamp(2), &[Change::Put(id, user(id, "b"))]).await }
    };
    let (one, two) = tokio::join!(live(7), live(17));
    assert_eq!((one.unwrap(), two.unwrap()), (0, 0));
    assert!(
        start.elapsed() < Duration::from_millis(1_800),
        "they waited for each other: {:?}",
        start.elapsed()
    );
}

/// Somebody outside the library inserts a row into a range that a page finds empty.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_row_that_came_meanwhile_does_not_fail_the_page() {
    let Some((db, table)) = users(LOOSE).await else { return };
    let mut other = db.other().await;
    other.execute(sqlx::raw_sql("BEGIN; INSERT INTO users VALUES (2, 'other', 'other', 0)")).await.unwrap();
    let loading = tokio::spawn(async move {
        let page: Vec<_> = (1..=3).map(|id| (id, user(id, "page"))).collect();
        table.load_page(Stamp(1), &KeyRange::all(), &page).await
    });
    tokio::time::sleep(Duration::from_millis(200)).await;
    other.execute("COMMIT").await.unwrap();
    let load = loading.await.unwrap().unwrap();
    assert_eq!((load.written, load.rejected.len()), (3, 0));
    assert_eq!(rows(&db, "SELECT DISTINCT email FROM users").await, ["page"]);
}

#[tokio::test]
async fn equal_rows_of_a_page_are_not_written_again() {
    let Some((db, table)) = users(LOOSE).await else { return };
    let mut page: Vec<_> = (1..=500).map(|id| (id, user(id, "a"))).collect();
    table.load_page(Stamp(1), &KeyRange::all(), &page).await.unwrap();
    let before = rows(&db, "SELECT id || ' ' || ctid || ' ' || xmax FROM users ORDER BY id").await;
    page[9].1.score = f64::NAN;
    let load = table.load_page(Stamp(2), &KeyRange::all(), &page).await.unwrap();
    assert_eq!((load.written, load.superseded), (500, 0));
    let after = rows(&db, "SELECT id || ' ' || ctid || ' ' || xmax FROM users ORDER BY id").await;
    let changed: Vec<_> = (0..500).filter(|at| before[*at] != after[*at]).collect();
    assert_eq!(changed, [9], "rows that are equal were written or locked");
    assert!(table.get(&10).await.unwrap().unwrap().score.is_nan());
}

const STRICT: &str = "CREATE TABLE parents (id int PRIMARY KEY); INSERT INTO parents VALUES (1); \
    CREATE TABLE t (id int PRIMARY KEY, code text NOT NULL UNIQUE, n int CHECK (n < 100), up int REFERENCES t (id), \
    parent int REFERENCES parents (id) DEFERRABLE INITIALLY DEFERRED, kind text)";

async fn strict() -> Option<(Database, PgRows)> {
    let db = database(STRICT).await?;
    let table = PgRows::discover(&db, "t").await.unwrap().with_fence().await.unwrap();
    Some((db, table))
}

fn key(id: i64) -> DynKey {
    DynKey::new([Value::Integer(id)]).unwrap()
}

fn row(
    table: &PgRows,
    id: i64,
    code: &str,
    n: i64,
    up: Option<i64>,
    parent: Option<i64>,
) -> (DynKey, DynRow) {
    let integer = |number: Option<i64>| number.map_or(Value::Null, Value::Integer);
    let values = vec![
        Value::Integer(id),
        Value::Text(code.to_owned()),
        Value::Integer(n),
        integer(up),
        integer(parent),
        Value::Null,
    ];
    (key(id), DynRow::new(table.columns().clone(), values).unwrap())
}

/// Every reason at once, into an empty and into a filled range: each row that does not fit is named, the
/// rest is there, circles of rows that refer to each other included.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_that_do_not_fit_are_found_and_the_rest_is_loaded() {
    let Some((db, table)) = strict().await else { return };
    let r = |id, code: &str, n, up, parent| row(&table, id, code, n, up, parent);
    for stamp in [1, 2] {
        let mut page: Vec<_> = (1000..1200).map(|id| r(id, &format!("c{id}"), 1, None, Some(1))).collect();
        page.extend([
            r(2001, "check", 100, None, None),
            r(2002, "orphan", 1, None, Some(9)),
            r(2003, "child", 1, Some(2004), None),
            r(2004, "parent", 1, None, None),
            r(2005, "circle", 1, Some(2006), None),
            r(2006, "circle too", 1, Some(2005), None),
            r(2007, "lost", 1, Some(2008), None),
            r(2008, "lost too", 1, Some(7777), None),
            r(2009, "c1000", 1, None, None),
            r(2010, "wrong", 40_000_000_000, None, None),
        ]);
        let load = table.load_page(Stamp(stamp), &KeyRange::all(), &page).await.unwrap();
        let mut found: Vec<_> =
            load.rejected.iter().map(|(key, error)| (key.values()[0].to_string(), error.kind())).collect();
        found.sort_by(|a, b| a.0.cmp(&b.0));
        let wanted = [
            ("2001", Kind::Rejected),
            ("2002", Kind::MissingReference),
            ("2007", Kind::MissingReference),
            ("2008", Kind::MissingReference),
            ("2009", Kind::Conflict),
            ("2010", Kind::Rejected),
        ];
        assert_eq!(found, wanted.map(|(id, kind)| (id.to_owned(), kind)), "stamp {stamp}");
        assert_eq!(load.written, 204);
        for (key, error) in &load.rejected {
            let id = key.values()[0].to_string();
            assert!(error.to_string().contains(&id), "{id}: {error}");
        }
        let (_, conflict) = load.rejected.iter().find(|(_, error)| error.kind() == Kind::Conflict).unwrap();
        assert_eq!(conflict.holder(), Some(&KeyBytes::of(&key(1000))), "{conflict}");
        assert_eq!(rows(&db, "SELECT count(*)::text FROM t").await, ["204"]);
    }
}

/// Keys that have no place in the column are set aside one by one, also where a page ends with them.
#[tokio::test]
async fn a_page_may_end_with_a_key_that_has_no_place() {
    let schema =
        "CREATE TABLE words (id text PRIMARY KEY, v int); CREATE TABLE numbers (id int PRIMARY KEY, v int)";
    let Some(db) = database(schema).await else { return };
    let text = |id: &str| Value::Text(id.to_owned());
    for (name, good, bad) in [
        ("words", text("b"), [text("a\0b"), text("c\0")]),
        ("numbers", Value::Integer(7), [Value::Integer(i64::MIN), Value::Unsigned(u64::MAX)]),
    ] {
        let table = PgRows::discover(&db, name).await.unwrap().with_fence().await.unwrap();
        let page: Vec<_> = [bad[0].clone(), good.clone(), bad[1].clone()]
            .map(|id| {
                let row = DynRow::new(table.columns().clone(), vec![id.clone(), Value::Integer(1)]).unwrap();
                (DynKey::new([id]).unwrap(), row)
            })
            .into();
        let range = KeyRange { after: None, up_to: Some(page[2].0.clone()) };
        let inner = KeyRange::between(page[0].0.clone(), page[2].0.clone());
        for stamp in [1, 2] {
            let load = table.load_page(Stamp(stamp), &range, &page).await.unwrap();
            assert_eq!((load.written, load.rejected.len()), (1, 2), "{name}");
        }
        for range in [&range, &inner] {
            let found = table.page(range, 9).await.unwrap();
            let [(key, _)] = &found[..] else { panic!("{name}: {found:?}") };
            assert_eq!(key.values()[0], good);
        }
        let beyond = table.page(&KeyRange::after(page[2].0.clone()), 9).await.unwrap();
        assert!(beyond.is_empty(), "{name}: {beyond:?}");
    }
}

/// Unique values change places within one call, through a NOT NULL column with a check and a reference.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unique_values_change_places_within_a_call_and_within_a_page() {
    let Some((db, table)) = strict().await else { return };
    let r = |id, code: &str| row(&table, id, code, 1, (id == 2).then_some(1), None);
    let put = |(key, row): (DynKey, DynRow)| Change::Put(key, row);
    table.apply(&[put(r(1, "a")), put(r(2, "b")), put(r(3, "c"))]).await.unwrap();
    table.apply(&[put(r(1, "b")), put(r(2, "c")), put(r(3, "a"))]).await.unwrap();
    assert_eq!(rows(&db, "SELECT code FROM t ORDER BY id").await, ["b", "c", "a"]);
    let left = table.apply_if_newer(Stamp(5), &[put(r(1, "c")), put(r(2, "b"))]).await.unwrap();
    assert_eq!(left, 0);
    let load = table.load_page(Stamp(6), &KeyRange::all(), &[r(1, "a"), r(2, "c"), r(3, "b")]).await.unwrap();
    assert_eq!((load.written, load.rejected.len()), (3, 0));
    assert_eq!(rows(&db, "SELECT code FROM t ORDER BY id").await, ["a", "c", "b"]);
    // The holder goes in the same call.
    table.apply(&[put(r(4, "b")), Change::Delete(key(3))]).await.unwrap();
    // A value that another record holds names it; nothing changes.
    let error = table.apply(&[put(r(1, "x")), put(r(5, "c"))]).await.unwrap_err();
    assert_eq!((error.kind(), error.holder()), (Kind::Conflict, Some(&KeyBytes::of(&key(2)))), "{error}");
    assert_eq!(rows(&db, "SELECT code FROM t ORDER BY id").await, ["a", "c", "b"]);
    // Children first, parents first, and a row that refers to itself.
    let selfish = row(&table, 9, "self", 1, Some(9), None);
    table.apply(&[put(row(&table, 8, "eight", 1, Some(9), None)), put(selfish)]).await.unwrap();
    table.apply(&[Change::Delete(key(9)), Change::Delete(key(8))]).await.unwrap();
    let error = table.apply(&[Change::Delete(key(1))]).await.unwrap_err();
    assert_eq!(error.kind(), Kind::MissingReference, "{error}");
}

/// There two rows may not be moved aside to NULL.
#[tokio::test]
async fn unique_values_change_places_where_nulls_are_alike() {
    let Some(db) = database("").await else { return };
    if db.server_version() < 150_000 {
        return;
    }
    db.execute("CREATE TABLE t (id int PRIMARY KEY, v int UNIQUE NULLS NOT DISTINCT)").await.unwrap();
    let table = PgRows::discover(&db, "t").await.unwrap();
    let put = |id: i64, v: i64| {
        Change::Put(
            key(id),
            DynRow::new(table.columns().clone(), vec![Value::Integer(id), Value::Integer(v)]).unwrap(),
        )
    };
    table.apply(&[put(1, 10), put(2, 20), put(3, 30)]).await.unwrap();
    table.apply(&[put(1, 20), put(2, 30), put(3, 10)]).await.unwrap();
    assert_eq!(rows(&db, "SELECT v::text FROM t ORDER BY id").await, ["20", "30", "10"]);
}

/// Random calls against the reference in memory: the same outcomes, the same rows.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn random_calls_do_what_the_reference_does() {
    for seed in 1..=6_u64 {
        let Some((_db, table)) = users(USERS).await else { return };
        let reference =
            MemoryStore::<i64, User>::new().with_unique("email", |user: &User| user.email.clone());
        let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15);
        let mut random = move |below: u64| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) % below
        };
        for _ in 0..120 {
            let stamp = Stamp(random(30));
            let paged = random(3) == 0;
            let mut changes: BTreeMap<i64, Option<User>> = BTreeMap::new();
            for _ in 0..=random(4) {
                let id = random(8) as i64;
                let email = if paged { format!("own{id}") } else { format!("e{}", random(6)) };
                changes.insert(id, (paged || random(4) > 0).then(|| user(id, &email)));
            }
            if paged {
                let (low, high) = (random(8) as i64 - 1, random(8) as i64);
                let range = KeyRange { after: (low >= 0).then_some(low), up_to: (high < 7).then_some(high) };
                let records: Vec<_> = changes
                    .into_iter()
                    .filter(|(id, _)| range.contains(id))
                    .filter_map(|(id, user)| Some((id, user?)))
                    .collect();
                let ours = table.load_page(stamp, &range, &records).await.unwrap();
                let theirs = reference.load_page(stamp, &range, &records).await.unwrap();
                assert_eq!(
                    (ours.written, ours.superseded),
                    (theirs.written, theirs.superseded),
                    "seed {seed}"
                );
            } else {
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
            }
            let ours: BTreeMap<_, _> = table
                .page(&KeyRange::all(), 100)
                .await
                .unwrap()
                .into_iter()
                .map(|(id, user)| (id, user.unwrap()))
                .collect();
            assert_eq!(ours, reference.snapshot(), "seed {seed}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn live_writes_killed_at_any_time_leave_rows_and_stamps_that_agree() {
    let Some((db, table)) = users(LOOSE).await else { return };
    let stop = Arc::new(AtomicBool::new(false));
    let mut writers = Vec::new();
    for writer in 0..3_i64 {
        let (table, stop) = (table.clone(), Arc::clone(&stop));
        writers.push(tokio::spawn(async move {
            let mut stamp = 1;
            while !stop.load(Ordering::SeqCst) {
                let id = writer * 10;
                let changes = [id, id + 1].map(|id| Change::Put(id, user(id, &format!("s{stamp}"))));
                let _ = table.apply_if_newer(Stamp(stamp), &changes).await;
                stamp += 1;
            }
        }));
    }
    let mut other = db.other().await;
    for _ in 0..60 {
        db.kill_all(&mut other).await;
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    stop.store(true, Ordering::SeqCst);
    for writer in writers {
        writer.await.unwrap();
    }
    let differing: i64 = sqlx::query_scalar(AssertSqlSafe(
        "SELECT count(*) FROM users u FULL JOIN zdm_stamp s ON s.key = decode(lpad(to_hex(u.id + (-9223372036854775807 - 1)), 16, '0'), 'hex') \
         WHERE u.email IS DISTINCT FROM 's' || s.stamp",
    ))
    .fetch_one(&mut other)
    .await
    .unwrap();
    assert_eq!(differing, 0, "a row and its stamp are of different writes");
    assert!(rows(&db, "SELECT count(*)::text FROM users").await != ["0"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_schema_is_made_once_by_many_and_goes_without_a_trace() {
    let Some(db) = database(LOOSE).await else { return };
    let installs: Vec<_> = (0..6)
        .map(|_| {
            let db = db.db.clone();
            tokio::spawn(async move { db.ensure_schema().await })
        })
        .collect();
    for install in installs {
        install.await.unwrap().unwrap();
    }
    let tables = format!(
        "SELECT relname::text FROM pg_class WHERE relnamespace = '{}'::regnamespace AND relname LIKE 'zdm%'",
        db.schema
    );
    assert!(rows(&db, &tables).await.len() >= 4);
    write(&db, "INSERT INTO zdm_schema VALUES (10000)").await.unwrap();
    let error = db.ensure_schema().await.unwrap_err();
    assert!(error.kind() == Kind::Damaged && error.to_string().contains("10000"), "{error}");
    db.remove_schema().await.unwrap();
    assert_eq!(rows(&db, &tables).await, Vec::<String>::new());
    // By hand, and then nothing is left to do.
    db.execute(zdm_sql_adapters::postgres::Postgres::schema_sql()).await.unwrap();
    db.ensure_schema().await.unwrap();
    let table = PgTable::<User>::open(&db).await.unwrap().with_fence().await.unwrap();
    assert_eq!(table.newest_stamp().await.unwrap(), Stamp(0));
    let mut other = db.other().await;
    other.execute("SELECT 1").await.unwrap();
}
