//! What takes too long is ended by the server, and certainly has no effect.

use std::time::{Duration, Instant};

use sqlx::{AssertSqlSafe, Executor};
use zdm_core::error::{Certainty, Kind};
use zdm_sql_adapters::postgres::classify;

use crate::support::{Database, database, database_with, rows, write};

const COUNTER: &str = "CREATE TABLE t (id INT PRIMARY KEY, n INT); INSERT INTO t VALUES (1, 0)";

async fn short() -> Option<Database> {
    database_with(COUNTER, |options| {
        options.write_timeout(Duration::from_millis(300)).lock_timeout(Duration::from_millis(300))
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_statement_that_takes_too_long_is_ended_on_the_server() {
    let Some(db) = short().await else { return };
    let start = Instant::now();
    let error = write(&db, "UPDATE t SET n = 1; SELECT pg_sleep(20)").await.unwrap_err();
    assert_eq!((error.kind(), error.certainty()), (Kind::Timeout, Certainty::NotApplied), "{error:?}");
    assert!(start.elapsed() < Duration::from_secs(3), "it took {:?}", start.elapsed());
    // The lock of the row is free as well, at once or within the lock timeout.
    let mut other = db.other().await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    other.execute("SET lock_timeout = 500").await.unwrap();
    other.execute("UPDATE t SET n = n + 2").await.unwrap();
    assert_eq!(rows(&db, "SELECT n::text FROM t").await, ["2"]);
}

/// Many short statements: the server does not stop them, this process sends no COMMIT.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transaction_that_takes_too_long_is_not_committed() {
    let Some(db) = short().await else { return };
    let outcome = db
        .write(|connection| {
            Box::pin(async move {
                loop {
                    connection
                        .execute(sqlx::raw_sql("UPDATE t SET n = n + 1; SELECT pg_sleep(0.02)"))
                        .await
                        .map_err(|error| classify(error, "counting"))?;
                }
                #[expect(unreachable_code, reason = "it tells the type")]
                Ok(())
            })
        })
        .await;
    let error = outcome.unwrap_err();
    assert_eq!((error.kind(), error.certainty()), (Kind::Timeout, Certainty::NotApplied), "{error:?}");
    tokio::time::sleep(Duration::from_millis(100)).await;
    write(&db, "UPDATE t SET n = n + 2").await.unwrap();
    assert_eq!(rows(&db, "SELECT n::text FROM t").await, ["2"]);
}

/// A process that hangs between two statements: the server lets go of its locks.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_silent_transaction_is_ended_by_the_server() {
    let Some(db) = short().await else { return };
    let silent = db.db.clone();
    // Its thread sleeps, so that neither deadline nor timer of this process can do anything.
    let hanging = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let own = silent.clone();
            own.write(|connection| {
                Box::pin(async move {
                    connection.execute("UPDATE t SET n = 1").await.unwrap();
                    std::thread::sleep(Duration::from_millis(1_500));
                    Ok(())
                })
            })
            .await
        })
    });
    tokio::time::sleep(Duration::from_millis(900)).await;
    let other = db.again(|options| options).await;
    write(&other, "UPDATE t SET n = n + 2").await.unwrap();
    let error = hanging.join().unwrap().unwrap_err();
    assert_eq!(error.certainty(), Certainty::NotApplied, "{error:?}");
    assert_eq!(rows(&other, "SELECT n::text FROM t").await, ["2"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wait_for_a_lock_ends() {
    let Some(db) = database_with(COUNTER, |options| options.lock_timeout(Duration::from_millis(200))).await
    else {
        return;
    };
    let mut other = db.other().await;
    other.execute("BEGIN").await.unwrap();
    other.execute("UPDATE t SET n = 5").await.unwrap();
    let start = Instant::now();
    let error = write(&db, "UPDATE t SET n = 1").await.unwrap_err();
    assert_eq!((error.kind(), error.certainty()), (Kind::Busy, Certainty::NotApplied), "{error:?}");
    assert!(start.elapsed() < Duration::from_secs(2), "it took {:?}", start.elapsed());
    other.execute("COMMIT").await.unwrap();
    write(&db, "UPDATE t SET n = n + 1").await.unwrap();
    assert_eq!(rows(&db, "SELECT n::text FROM t").await, ["6"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_read_that_takes_too_long_is_ended() {
    let Some(db) = database_with("", |options| options.read_timeout(Duration::from_millis(200))).await else {
        return;
    };
    let start = Instant::now();
    let outcome = db
        .read(|connection| {
            Box::pin(async move {
                sqlx::query("SELECT pg_sleep(20)")
                    .execute(connection)
                    .await
                    .map_err(|error| classify(error, "reading"))
            })
        })
        .await;
    assert_eq!(outcome.unwrap_err().kind(), Kind::Timeout);
    assert!(start.elapsed() < Duration::from_secs(3), "it took {:?}", start.elapsed());
}

/// Whatever the server's own defaults are, and for schemas without a limit of time.
#[tokio::test]
async fn every_connection_has_its_limits_and_reads_what_is_committed() {
    let Some(db) = database("").await else { return };
    let mut other = db.other().await;
    let sql = format!(
        "CREATE TABLE seen (n INT); ALTER ROLE CURRENT_USER IN DATABASE {} SET default_transaction_isolation = 'serializable'",
        db.name()
    );
    let fresh = {
        other.execute(sqlx::raw_sql(AssertSqlSafe(sql))).await.unwrap();
        let fresh = db.again(|options| options).await;
        let reset =
            format!("ALTER ROLE CURRENT_USER IN DATABASE {} RESET default_transaction_isolation", db.name());
        other.execute(AssertSqlSafe(reset)).await.unwrap();
        fresh
    };
    let settings = "SELECT concat_ws(' ', current_setting('transaction_isolation'), current_setting('statement_timeout'), \
                    current_setting('lock_timeout'), current_setting('idle_in_transaction_session_timeout'), \
                    current_setting('TimeZone'))";
    assert_eq!(rows(&fresh, settings).await, ["read committed 1min 2s 5s UTC"]);
    let written: String = fresh
        .write(move |connection| {
            Box::pin(async move { Ok(sqlx::query_scalar(settings).fetch_one(connection).await.unwrap()) })
        })
        .await
        .unwrap();
    assert_eq!(written, "read committed 5s 2s 5s UTC");
    assert_eq!(db.settle_time(), Duration::from_secs(11));
}
