//! Futures that are dropped at every poll, connections that are killed: nothing is half applied, and no
//! statement vanishes on a connection that somebody left in a transaction.

use std::future::Future;
use std::pin::pin;
use std::task::{Context, Waker};
use std::time::Duration;

use sqlx::{AssertSqlSafe, Executor};
use zdm_core::error::{Certainty, Kind};
use zdm_core::key::KeyRange;
use zdm_core::store::{Bulk, Change, Fenced, Scan, Stamp, Store};
use zdm_sql_adapters::mysql::{MySql, MyTable, classify};

use crate::support::{Database, USERS, User, database, database_with, rows, user, write};

const ROUND: &str = "CREATE TABLE round (id INT PRIMARY KEY, at BIGINT NOT NULL); \
    INSERT INTO round VALUES (1, 0), (2, 0)";

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

/// A write goes through and is committed, and what is read is the answer to what was asked.
async fn sound(db: &Database, other: &mut sqlx::mysql::MySqlConnection, round: i64) {
    write(db, format!("UPDATE round SET at = {round} WHERE id = 2")).await.unwrap();
    let seen: i64 = sqlx::query_scalar("SELECT at FROM round WHERE id = 2").fetch_one(other).await.unwrap();
    assert_eq!(seen, round, "a write was acknowledged and not committed");
    assert_eq!(rows(db, format!("SELECT '{round}'")).await, [round.to_string()]);
    assert_eq!(rows(db, "SELECT CAST(at AS CHAR) FROM round WHERE id = 2").await, [round.to_string()]);
}

async fn both(db: MySql, round: i64) {
    let outcome = db
        .write(move |connection| {
            Box::pin(async move {
                for id in [1, 3] {
                    sqlx::query("INSERT INTO round VALUES (?, ?) ON DUPLICATE KEY UPDATE at = VALUES(at)")
                        .bind(id)
                        .bind(round)
                        .execute(&mut *connection)
                        .await
                        .map_err(|error| classify(error, "writing"))?;
                }
                Ok(())
            })
        })
        .await;
    drop(outcome);
}

async fn ask(db: MySql, round: i64) {
    let outcome = db
        .read(|connection| {
            Box::pin(async move {
                // A statement that this connection has not prepared yet: two round trips.
                sqlx::query(AssertSqlSafe(format!("SELECT ?, {round}, at FROM round")))
                    .bind(round)
                    .fetch_all(connection)
                    .await
                    .map_err(|error| classify(error, "reading"))
            })
        })
        .await;
    drop(outcome);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writes_and_reads_dropped_at_every_poll() {
    let Some(db) = database_with(ROUND, |options| options.readers(1).writers(1)).await else { return };
    let mut other = db.other().await;
    let mut round = 0;
    for writes in [true, false] {
        for pause in [Duration::ZERO, Duration::from_micros(50), Duration::from_millis(2)] {
            for polls in 0..200 {
                round += 1;
                let ready = if writes {
                    drop_after(polls, pause, both(db.db.clone(), round)).await
                } else {
                    drop_after(polls, pause, ask(db.db.clone(), round)).await
                };
                sound(&db, &mut other, round).await;
                let halves =
                    rows(&db, "SELECT CAST(COUNT(DISTINCT at) AS CHAR) FROM round WHERE id <> 2").await;
                assert_eq!(halves, ["1"], "half a write was committed");
                if ready {
                    break;
                }
                assert!(polls < 199, "it was never ready");
            }
        }
    }
}

/// What a dropped `begin` of sqlx leaves behind: a connection inside a transaction, and nobody knows.
#[tokio::test]
async fn a_connection_inside_a_stray_transaction_is_not_handed_out() {
    let Some(db) = database_with(ROUND, |options| options.readers(1).writers(1)).await else { return };
    let mut other = db.other().await;
    // As a reader: it would see the table as it was when it began.
    let stray = db.read(|connection| {
        Box::pin(async move {
            connection.execute("SET SESSION TRANSACTION ISOLATION LEVEL REPEATABLE READ").await.unwrap();
            connection.execute("START TRANSACTION WITH CONSISTENT SNAPSHOT").await.unwrap();
            let number: i64 = sqlx::query_scalar("SELECT CAST(CONNECTION_ID() AS SIGNED)")
                .fetch_one(connection)
                .await
                .unwrap();
            Ok(number)
        })
    });
    let stray = stray.await.unwrap();
    sound(&db, &mut other, 1).await;
    let now = rows(&db, "SELECT CAST(CONNECTION_ID() AS CHAR)").await;
    assert_ne!(now, [stray.to_string()], "the poisoned connection was handed out");

    // As a writer: a later write would report success and never be committed, or commit what is not its.
    let poisoned = db.write(|connection| {
        Box::pin(async move {
            // The adapter's own COMMIT ends the first transaction and the second stays open.
            connection.execute(sqlx::raw_sql("SET SESSION completion_type = CHAIN")).await.unwrap();
            Ok(())
        })
    });
    poisoned.await.unwrap();
    for round in 2..5 {
        sound(&db, &mut other, round).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_caller_that_gave_up_while_waiting_never_takes_effect() {
    let Some(db) = database_with(ROUND, |options| options.writers(1)).await else { return };
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
    let waiting = write(&db, "UPDATE round SET at = 9 WHERE id = 1");
    assert!(!drop_after(3, Duration::from_millis(1), waiting).await);
    stop.send(()).unwrap();
    holding.await.unwrap().unwrap();
    write(&db, "UPDATE round SET at = 1 WHERE id = 2").await.unwrap();
    assert_eq!(rows(&db, "SELECT CAST(at AS CHAR) FROM round WHERE id = 1").await, ["0"]);
}

#[tokio::test]
async fn work_that_panics_rolls_back_and_the_writer_goes_on() {
    let Some(db) = database_with(ROUND, |options| options.writers(1)).await else { return };
    let outcome = db
        .write::<(), _>(|connection| {
            Box::pin(async move {
                connection.execute("UPDATE round SET at = 7").await.unwrap();
                panic!("in the middle of a write");
            })
        })
        .await;
    assert_eq!(outcome.unwrap_err().kind(), Kind::Stopped);
    write(&db, "UPDATE round SET at = at + 1 WHERE id = 2").await.unwrap();
    assert_eq!(rows(&db, "SELECT CAST(at AS CHAR) FROM round ORDER BY id").await, ["0", "1"]);
}

async fn kill_all(db: &Database) -> usize {
    let mut other = db.other().await;
    let sql = format!(
        "SELECT CAST(id AS SIGNED) FROM information_schema.processlist WHERE db = '{}' AND id <> CONNECTION_ID()",
        db.name()
    );
    let found: Vec<i64> = sqlx::query_scalar(AssertSqlSafe(sql)).fetch_all(&mut other).await.unwrap();
    for id in &found {
        // It may have gone by itself.
        let _ = other.execute(AssertSqlSafe(format!("KILL {id}"))).await;
    }
    found.len()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_that_died_in_the_pool_are_not_noticed_by_anybody() {
    let Some(db) = database(ROUND).await else { return };
    write(&db, "UPDATE round SET at = 1").await.unwrap();
    rows(&db, "SELECT 'x'").await;
    assert!(kill_all(&db).await >= 2);
    write(&db, "UPDATE round SET at = at + 1").await.unwrap();
    assert_eq!(rows(&db, "SELECT CAST(at AS CHAR) FROM round").await, ["2", "2"]);
}

/// Every write that was acknowledged is there, every one that certainly failed is not, and each is whole.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_killed_in_the_middle_of_writes_tell_the_truth() {
    let Some(db) = database("CREATE TABLE pairs (id BIGINT PRIMARY KEY)").await else { return };
    let mut writers = Vec::new();
    for writer in 0..4_i64 {
        let db = db.db.clone();
        writers.push(tokio::spawn(async move {
            let mut outcomes = Vec::new();
            for round in 0..150_i64 {
                let id = (writer * 1000 + round) * 2;
                let outcome = db
                    .write(move |connection| {
                        Box::pin(async move {
                            for id in [id, id + 1] {
                                sqlx::query("INSERT INTO pairs VALUES (?)")
                                    .bind(id)
                                    .execute(&mut *connection)
                                    .await
                                    .map_err(|error| classify(error, "writing"))?;
                            }
                            Ok(())
                        })
                    })
                    .await;
                outcomes.push((id, outcome));
            }
            outcomes
        }));
    }
    let mut killed = 0;
    while writers.iter().any(|writer| !writer.is_finished()) {
        killed += kill_all(&db).await;
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(killed > 10, "only {killed} connections were killed");
    let ids: Vec<i64> =
        rows(&db, "SELECT CAST(id AS CHAR) FROM pairs").await.iter().map(|id| id.parse().unwrap()).collect();
    let there = |id: i64| ids.contains(&id);
    let mut failed = 0;
    for writer in writers {
        for (id, outcome) in writer.await.unwrap() {
            assert_eq!(there(id), there(id + 1), "half of {id} was committed");
            match outcome {
                Ok(()) => assert!(there(id), "{id} was acknowledged and is not there"),
                Err(error) => {
                    failed += 1;
                    assert_eq!(error.kind(), Kind::Unavailable, "{error:?}");
                    match error.certainty() {
                        Certainty::NotApplied => assert!(!there(id), "{id} is there: {error:?}"),
                        certainty => assert_eq!(certainty, Certainty::Unknown, "{error:?}"),
                    }
                }
            }
        }
    }
    assert!(failed > 0, "no write met a dead connection");
}

type Call = fn(MyTable<User>, i64) -> std::pin::Pin<Box<dyn Future<Output = ()> + Send>>;

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
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_call_of_a_table_dropped_at_every_poll() {
    let schema = format!("{USERS}; {ROUND}");
    let Some(db) = database_with(&schema, |options| options.readers(2).writers(2)).await else { return };
    let table = MyTable::<User>::open(&db).await.unwrap().with_fence().await.unwrap();
    let mut other = db.other().await;
    let mut round = 0;
    for (name, call) in calls() {
        for pause in [Duration::ZERO, Duration::from_micros(50), Duration::from_millis(2)] {
            for polls in 0..200 {
                round += 1;
                let ready = drop_after(polls, pause, call(table.clone(), round)).await;
                sound(&db, &mut other, round).await;
                if ready {
                    break;
                }
                assert!(polls < 199, "{name} was never ready");
            }
        }
        // Both records of a pair or none: each call of `apply` is whole.
        if name.starts_with("apply") || name == "load_page" {
            let halves = "SELECT CAST(id AS CHAR) FROM users u WHERE email NOT LIKE 'p%' AND NOT EXISTS \
                          (SELECT 1 FROM users v WHERE v.id DIV 2 = u.id DIV 2 AND v.id <> u.id)";
            assert_eq!(rows(&db, halves).await, Vec::<String>::new(), "{name}");
        }
    }
    assert_eq!(rows(&db, "SELECT name FROM users WHERE email = 'same'").await, Vec::<String>::new());
}
