//! Futures that are dropped at every poll, connections that are killed: nothing is half applied, and no
//! statement vanishes on a connection that somebody left in a transaction.

use std::future::Future;
use std::pin::pin;
use std::task::{Context, Waker};
use std::time::Duration;

use sqlx::{AssertSqlSafe, Executor};
use zdm_core::error::{Certainty, Kind};
use zdm_sql_adapters::postgres::{Postgres, classify};

use crate::support::{Database, database, database_with, rows, write};

const ROUND: &str = "CREATE TABLE round (id INT PRIMARY KEY, at BIGINT NOT NULL); \
    INSERT INTO round VALUES (1, 0), (2, 0)";

/// Polls a future `polls` times, with the time that its task needs in between, and drops it. Whether it
/// was ready.
async fn drop_after<F: Future>(polls: usize, pause: Duration, future: F) -> bool {
    let mut future = pin!(future);
    for _ in 0..polls {
        if future.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_ready() {
            return true;
        }
        tokio::time::sleep(pause).await;
    }
    false
}

/// A write goes through and is committed, and what is read is the answer to what was asked.
async fn sound(db: &Database, other: &mut sqlx::postgres::PgConnection, round: i64) {
    write(db, format!("UPDATE round SET at = {round} WHERE id = 2")).await.unwrap();
    let seen: i64 = sqlx::query_scalar("SELECT at FROM round WHERE id = 2").fetch_one(other).await.unwrap();
    assert_eq!(seen, round, "a write was acknowledged and not committed");
    assert_eq!(rows(db, format!("SELECT '{round}'")).await, [round.to_string()]);
    assert_eq!(rows(db, "SELECT at::text FROM round WHERE id = 2").await, [round.to_string()]);
}

async fn both(db: Postgres, round: i64) {
    let outcome = db
        .write(move |connection| {
            Box::pin(async move {
                for id in [1, 3] {
                    sqlx::query(
                        "INSERT INTO round VALUES ($1, $2) ON CONFLICT (id) DO UPDATE SET at = excluded.at",
                    )
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

async fn ask(db: Postgres, round: i64) {
    let outcome = db
        .read(|connection| {
            Box::pin(async move {
                // A statement that this connection has not prepared yet: two round trips.
                sqlx::query(AssertSqlSafe(format!("SELECT $1::bigint, {round}, at FROM round")))
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
                let halves = rows(&db, "SELECT count(DISTINCT at)::text FROM round WHERE id <> 2").await;
                assert_eq!(halves, ["1"], "half a write was committed");
                if ready {
                    break;
                }
                assert!(polls < 199, "it was never ready");
            }
        }
    }
}

/// The trap itself: a `begin` of sqlx that is dropped leaves a connection inside a transaction, and nobody
/// knows. Neither a read nor a write gets it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_begin_dropped_at_every_poll_poisons_nobody() {
    let Some(db) = database_with(ROUND, |options| options.readers(1).writers(1)).await else { return };
    let mut other = db.other().await;
    let mut strays = 0;
    for round in 1..40 {
        let pid = db
            .read(|connection| {
                Box::pin(async move {
                    let pid: i32 = sqlx::query_scalar("SELECT pg_backend_pid()")
                        .fetch_one(&mut *connection)
                        .await
                        .unwrap();
                    let begin = sqlx::Connection::begin(&mut *connection);
                    drop_after(round % 4, Duration::from_micros(100 * round as u64), begin).await;
                    Ok(pid)
                })
            })
            .await
            .unwrap();
        sound(&db, &mut other, round as i64).await;
        let now: i32 = rows(&db, "SELECT pg_backend_pid()::text").await[0].parse().unwrap();
        strays += usize::from(now != pid);
    }
    assert!(strays > 0, "no begin was dropped while it was on its way");
}

#[tokio::test]
async fn a_connection_inside_a_stray_transaction_is_not_handed_out() {
    let Some(db) = database_with(ROUND, |options| options.readers(1).writers(1)).await else { return };
    let mut other = db.other().await;
    // One that has failed, too.
    for (round, statement) in [(1, "SELECT 1"), (2, "SELECT 1 / 0")] {
        let stray = db.read(move |connection| {
            Box::pin(async move {
                connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ").await.unwrap();
                let pid: i32 =
                    sqlx::query_scalar("SELECT pg_backend_pid()").fetch_one(&mut *connection).await.unwrap();
                let _ = connection.execute(statement).await;
                Ok(pid)
            })
        });
        let stray = stray.await.unwrap();
        sound(&db, &mut other, round).await;
        let now = rows(&db, "SELECT pg_backend_pid()::text").await;
        assert_ne!(now, [stray.to_string()], "the poisoned connection was handed out");
    }

    // As a writer: a later write would report success and commit what is not its.
    let poisoned = db.write(|connection| {
        Box::pin(async move {
            connection.execute("COMMIT AND CHAIN").await.unwrap();
            Ok(())
        })
    });
    let error = poisoned.await.unwrap_err();
    assert_eq!((error.kind(), error.certainty()), (Kind::Invalid, Certainty::Unknown), "{error:?}");
    for round in 3..6 {
        sound(&db, &mut other, round).await;
    }
}

/// A COMMIT after a failed statement rolls back and reports success.
#[tokio::test]
async fn work_that_hides_a_failed_statement_is_not_acknowledged() {
    let Some(db) = database(ROUND).await else { return };
    let hidden = db.write(|connection| {
        Box::pin(async move {
            connection.execute("UPDATE round SET at = 7").await.unwrap();
            connection.execute("SELECT 1 / 0").await.unwrap_err();
            Ok(())
        })
    });
    let error = hidden.await.unwrap_err();
    assert_eq!((error.kind(), error.certainty()), (Kind::Invalid, Certainty::NotApplied), "{error:?}");
    assert!(error.to_string().contains("return its error"), "{error}");
    assert_eq!(rows(&db, "SELECT DISTINCT at::text FROM round").await, ["0"]);
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
    assert_eq!(rows(&db, "SELECT at::text FROM round WHERE id = 1").await, ["0"]);
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
    assert_eq!(rows(&db, "SELECT at::text FROM round ORDER BY id").await, ["0", "1"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_that_died_in_the_pool_are_not_noticed_by_anybody() {
    let Some(db) = database(ROUND).await else { return };
    let mut other = db.other().await;
    write(&db, "UPDATE round SET at = 1").await.unwrap();
    rows(&db, "SELECT 'x'").await;
    assert!(db.kill_all(&mut other).await >= 2);
    write(&db, "UPDATE round SET at = at + 1").await.unwrap();
    assert_eq!(rows(&db, "SELECT at::text FROM round").await, ["2", "2"]);
}

/// Every write that was acknowledged is there, every one that failed is not: nothing stays unknown, because
/// the server that lives on is asked.
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
                                sqlx::query("INSERT INTO pairs VALUES ($1)")
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
    let mut other = db.other().await;
    let mut killed = 0;
    while writers.iter().any(|writer| !writer.is_finished()) {
        killed += db.kill_all(&mut other).await;
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(killed > 10, "only {killed} connections were killed");
    let ids: Vec<i64> =
        rows(&db, "SELECT id::text FROM pairs").await.iter().map(|id| id.parse().unwrap()).collect();
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
                        // Only when the connection that asks was killed until the time ran out.
                        certainty => assert_eq!(certainty, Certainty::Unknown, "{error:?}"),
                    }
                }
            }
        }
    }
    assert!(failed > 0, "no write met a dead connection");
}

/// A COMMIT that takes its time, and a connection that is ended meanwhile.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_killed_at_the_commit_is_looked_up() {
    const SLOW: &str = "CREATE TABLE t (id INT PRIMARY KEY); \
        CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM pg_sleep(0.5); RETURN NULL; END'; \
        CREATE CONSTRAINT TRIGGER slow AFTER INSERT ON t DEFERRABLE INITIALLY DEFERRED \
        FOR EACH ROW EXECUTE FUNCTION slow()";
    let Some(db) = database(SLOW).await else { return };
    let mut other = db.other().await;
    let writer = db.db.clone();
    let writing = tokio::spawn(async move { write(&writer, "INSERT INTO t VALUES (1)").await });
    tokio::time::sleep(Duration::from_millis(250)).await;
    assert!(db.kill_all(&mut other).await > 0);
    let error = writing.await.unwrap().unwrap_err();
    assert_eq!((error.kind(), error.certainty()), (Kind::Unavailable, Certainty::NotApplied), "{error:?}");
    assert_eq!(rows(&db, "SELECT id::text FROM t").await, Vec::<String>::new());
}
