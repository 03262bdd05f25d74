//! Futures that are dropped at every poll leave no connection in a transaction and nothing half applied.

use std::future::Future;
use std::pin::pin;
use std::task::{Context, Waker};
use std::time::Duration;

use sqlx::Connection;
use zdm_core::key::KeyRange;
use zdm_core::store::{Bulk, Change, Fenced, Scan, Stamp, Store};
use zdm_sql_adapters::sqlite::{Sqlite, SqliteTable};

use crate::support::{USERS, User, database_with, rows, user, users};

/// Polls a future `polls` times, with the time that its task needs in between, and drops it. Whether it
/// was ready.
async fn drop_after<F: Future>(polls: usize, pause: Duration, future: F) -> bool {
    let mut future = pin!(future);
    for _ in 0..polls {
        let mut context = Context::from_waker(Waker::noop());
        if future.as_mut().poll(&mut context).is_ready() {
            return true;
        }
        tokio::time::sleep(pause).await;
    }
    false
}

/// No connection of the pools is inside a transaction, and a write goes through and is committed.
async fn sound(db: &Sqlite, round: i64) {
    let other = Sqlite::open(db.path()).await.unwrap();
    db.execute(format!("UPDATE round SET at = {round}")).await.unwrap();
    let seen: i64 = sqlx::query_scalar("SELECT at FROM round").fetch_one(other.readers()).await.unwrap();
    assert_eq!(seen, round, "a write was acknowledged and not committed");
    for _ in 0..db.readers().size() {
        let connection = db.readers().acquire().await.unwrap();
        assert!(!connection.is_in_transaction());
    }
    other.close().await;
}

type Call = fn(SqliteTable<User>, i64) -> std::pin::Pin<Box<dyn Future<Output = ()> + Send>>;

fn calls() -> Vec<(&'static str, Call)> {
    fn pair(round: i64) -> [Change<i64, User>; 2] {
        let at = round * 2;
        [Change::Put(at, user(at, &format!("{at}"))), Change::Put(at + 1, user(at + 1, &format!("{at}+")))]
    }
    vec![
        ("get", |table, round| Box::pin(async move { drop(table.get(&round).await) })),
        ("get_many", |table, round| Box::pin(async move { drop(table.get_many(&[round, 2]).await) })),
        ("page", |table, _| Box::pin(async move { drop(table.page(&KeyRange::all(), 10).await) })),
        ("split", |table, _| Box::pin(async move { drop(table.split(3).await) })),
        ("len", |table, _| Box::pin(async move { drop(table.estimated_len().await) })),
        ("put", |table, round| {
            Box::pin(
                async move { drop(table.put(&(round * 2), &user(round * 2, &format!("p{round}"))).await) },
            )
        }),
        ("delete", |table, round| Box::pin(async move { drop(table.delete(&(round * 2)).await) })),
        ("apply", |table, round| Box::pin(async move { drop(table.apply(&pair(round)).await) })),
        ("conflict", |table, round| {
            Box::pin(async move {
                let at = round * 2;
                let both = [Change::Put(at, user(at, "same")), Change::Put(at + 1, user(at + 1, "same"))];
                drop(table.apply(&both).await);
            })
        }),
        ("apply_if_newer", |table, round| {
            Box::pin(async move { drop(table.apply_if_newer(Stamp(round as u64), &pair(round)).await) })
        }),
        ("load_page", |table, round| {
            Box::pin(async move {
                let at = round * 2;
                let range = KeyRange::between(at - 1, at + 1);
                let records = pair(round).map(|change| (*change.key(), change.record().unwrap().clone()));
                drop(table.load_page(Stamp(round as u64), &range, &records).await);
            })
        }),
        ("newest_stamp", |table, _| Box::pin(async move { drop(table.newest_stamp().await) })),
        ("forget_stamps", |table, _| Box::pin(async move { drop(table.forget_stamps().await) })),
        ("ensure_schema", |table, _| Box::pin(async move { drop(table.database().ensure_schema().await) })),
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_call_dropped_at_every_poll() {
    let (db, table) = users(USERS).await;
    let table = table.with_fence().await.unwrap();
    db.execute("CREATE TABLE round (at INTEGER); INSERT INTO round VALUES (0)").await.unwrap();
    let mut round = 1;
    for (name, call) in calls() {
        for pause in [Duration::ZERO, Duration::from_micros(50), Duration::from_millis(2)] {
            for polls in 0..200 {
                round += 1;
                let ready = drop_after(polls, pause, call(table.clone(), round)).await;
                sound(&db, round).await;
                if ready {
                    break;
                }
                assert!(polls < 199, "{name} was never ready");
            }
        }
        // Both records of a pair or none: each call of `apply` is whole.
        if name.starts_with("apply") || name == "load_page" {
            let halves = "SELECT CAST(id AS TEXT) FROM users u WHERE email NOT LIKE 'p%' AND NOT EXISTS \
                          (SELECT 1 FROM users v WHERE v.id / 2 = u.id / 2 AND v.id <> u.id)";
            assert_eq!(rows(&db, halves).await, Vec::<String>::new(), "{name}");
        }
    }
    assert_eq!(rows(&db, "SELECT name FROM users WHERE email = 'same'").await, Vec::<String>::new());
}

/// sqlx alone: a `begin` that is dropped at any poll must not poison the pool that it came from.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_begin_that_is_dropped_leaves_no_transaction_behind() {
    let (db, _table) = users(USERS).await;
    db.execute("CREATE TABLE round (at INTEGER); INSERT INTO round VALUES (0)").await.unwrap();
    for pause in [Duration::ZERO, Duration::from_micros(20), Duration::from_millis(1)] {
        for polls in 0..50 {
            let readers = db.readers().clone();
            let ready = drop_after(polls, pause, async move { drop(readers.begin().await) }).await;
            sound(&db, polls as i64).await;
            if ready {
                break;
            }
        }
    }
}

/// As a dropped `begin` leaves it behind: inside a transaction, and nobody knows.
#[tokio::test]
async fn a_connection_inside_a_stray_transaction_is_not_handed_out() {
    let db = database_with(USERS, |options| options.readers(1)).await;
    let table = SqliteTable::<User>::open(&db).await.unwrap();
    let mut connection = db.readers().acquire().await.unwrap();
    let mut stray = connection.begin().await.unwrap();
    sqlx::query("SELECT * FROM users").fetch_all(&mut *stray).await.unwrap();
    std::mem::forget(stray);
    drop(connection);
    // It would still see the table as it was when it began.
    table.put(&1, &user(1, "a")).await.unwrap();
    assert!(table.get(&1).await.unwrap().is_some());
    assert!(!db.readers().acquire().await.unwrap().is_in_transaction());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_caller_that_gave_up_while_waiting_never_takes_effect() {
    let (db, table) = users(USERS).await;
    let (started, wait) = tokio::sync::oneshot::channel();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let holder = db.db.clone();
    let holding = tokio::spawn(async move {
        holder
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
    assert!(!drop_after(3, Duration::from_millis(1), table.put(&1, &user(1, "a"))).await);
    stop.send(()).unwrap();
    holding.await.unwrap().unwrap();
    db.execute("SELECT 1").await.unwrap();
    assert_eq!(table.get(&1).await.unwrap(), None);
}

#[tokio::test]
async fn work_that_panics_rolls_back_and_the_writer_goes_on() {
    let (db, table) = users(USERS).await;
    let outcome = db
        .write::<(), _>(|connection| {
            Box::pin(async move {
                sqlx::query("INSERT INTO users VALUES (1, 'a', NULL, 0)").execute(connection).await.unwrap();
                panic!("in the middle of a write");
            })
        })
        .await;
    assert!(outcome.is_err());
    assert_eq!(table.get(&1).await.unwrap(), None);
    table.put(&2, &user(2, "b")).await.unwrap();
    assert!(table.get(&2).await.unwrap().is_some());
}
