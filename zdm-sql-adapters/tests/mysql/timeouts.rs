//! What takes too long is ended, by the server or by a KILL, and certainly has no effect.

use std::time::{Duration, Instant};

use sqlx::{AssertSqlSafe, Executor};
use zdm_core::error::{Certainty, Kind};
use zdm_sql_adapters::mysql::classify;

use crate::support::{Database, database, database_with, rows, write};

const COUNTER: &str = "CREATE TABLE t (id INT PRIMARY KEY, n INT); INSERT INTO t VALUES (1, 0)";

async fn short(kill: bool) -> Option<Database> {
    database_with(COUNTER, |options| {
        options
            .write_timeout(Duration::from_millis(300))
            .lock_timeout(Duration::from_secs(1))
            .kill_overdue(kill)
    })
    .await
}

/// Connections of this test that are running something.
async fn busy(db: &Database) -> usize {
    let sql = format!(
        "SELECT CAST(id AS CHAR) FROM information_schema.processlist WHERE db = '{}' AND command <> 'Sleep' \
         AND id <> CONNECTION_ID()",
        db.name()
    );
    rows(db, sql).await.len()
}

async fn until_quiet(db: &Database) {
    let start = Instant::now();
    while busy(db).await > 0 {
        assert!(start.elapsed() < Duration::from_secs(5), "the statement still runs");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_statement_that_takes_too_long_is_ended_on_the_server() {
    for kill in [false, true] {
        let Some(db) = short(kill).await else { return };
        if !db.server_version().contains("MariaDB") && !kill {
            continue;
        }
        let start = Instant::now();
        let error = write(&db, "UPDATE t SET n = 1; DO SLEEP(20)").await.unwrap_err();
        assert_eq!((error.kind(), error.certainty()), (Kind::Timeout, Certainty::NotApplied), "{error:?}");
        assert!(start.elapsed() < Duration::from_secs(3), "it took {:?}", start.elapsed());
        until_quiet(&db).await;
        // The lock of the row is free as well.
        write(&db, "UPDATE t SET n = n + 2").await.unwrap();
        assert_eq!(rows(&db, "SELECT CAST(n AS CHAR) FROM t").await, ["2"]);
    }
}

/// Many short statements: no server stops them, this process sends no COMMIT.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transaction_that_takes_too_long_is_not_committed() {
    let Some(db) = short(false).await else { return };
    let outcome = db
        .write(|connection| {
            Box::pin(async move {
                loop {
                    connection
                        .execute(sqlx::raw_sql("UPDATE t SET n = n + 1; DO SLEEP(0.02)"))
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
    until_quiet(&db).await;
    write(&db, "UPDATE t SET n = n + 2").await.unwrap();
    assert_eq!(rows(&db, "SELECT CAST(n AS CHAR) FROM t").await, ["2"]);
}

/// A process that hangs between two statements: the server lets go of its locks.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_silent_transaction_is_closed_by_the_server() {
    let Some(db) = database_with(COUNTER, |options| {
        options.write_timeout(Duration::from_secs(1)).lock_timeout(Duration::from_secs(1))
    })
    .await
    else {
        return;
    };
    // Its thread sleeps, so that neither deadline nor timer of this process can do anything.
    let silent = db.db.clone();
    let hanging = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let own = silent.clone();
            own.write(|connection| {
                Box::pin(async move {
                    connection.execute("UPDATE t SET n = 1").await.unwrap();
                    std::thread::sleep(Duration::from_millis(3_500));
                    Ok(())
                })
            })
            .await
        })
    });
    tokio::time::sleep(Duration::from_millis(2_600)).await;
    let other = db.again(|options| options).await;
    write(&other, "UPDATE t SET n = n + 2").await.unwrap();
    let error = hanging.join().unwrap().unwrap_err();
    assert_eq!(error.certainty(), Certainty::NotApplied, "{error:?}");
    assert_eq!(rows(&db, "SELECT CAST(n AS CHAR) FROM t").await, ["2"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wait_for_a_lock_ends() {
    let Some(db) = database_with(COUNTER, |options| options.lock_timeout(Duration::from_secs(1))).await
    else {
        return;
    };
    let mut other = db.other().await;
    other.execute("BEGIN").await.unwrap();
    other.execute("UPDATE t SET n = 5").await.unwrap();
    let start = Instant::now();
    let error = write(&db, "UPDATE t SET n = 1").await.unwrap_err();
    assert_eq!((error.kind(), error.certainty()), (Kind::Busy, Certainty::NotApplied), "{error:?}");
    assert!(start.elapsed() < Duration::from_secs(4), "it took {:?}", start.elapsed());
    other.execute("COMMIT").await.unwrap();
    write(&db, "UPDATE t SET n = n + 1").await.unwrap();
    assert_eq!(rows(&db, "SELECT CAST(n AS CHAR) FROM t").await, ["6"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_read_that_takes_too_long_is_ended() {
    let Some(db) = database_with(COUNTER, |options| options.read_timeout(Duration::from_millis(200))).await
    else {
        return;
    };
    let start = Instant::now();
    let outcome = db
        .read(|connection| {
            Box::pin(async move {
                // A SLEEP or a BENCHMARK that is interrupted is no error everywhere.
                let many = "(SELECT 1 AS n UNION ALL SELECT 2 UNION ALL SELECT 3 UNION ALL SELECT 4)";
                let joined = (0..16).map(|at| format!("{many} AS t{at}")).collect::<Vec<_>>().join(", ");
                sqlx::query(AssertSqlSafe(format!("SELECT COUNT(SHA1(t1.n + t2.n)) FROM {joined}")))
                    .fetch_all(connection)
                    .await
                    .map_err(|error| classify(error, "reading"))
            })
        })
        .await;
    let error = outcome.map(|rows| rows.len()).unwrap_err();
    assert_eq!(error.kind(), Kind::Timeout, "{error:?}");
    assert!(start.elapsed() < Duration::from_secs(5), "it took {:?}", start.elapsed());
}

/// Numbers, dates and texts are stored as they are given, whatever the server's own settings say.
#[tokio::test]
async fn every_connection_is_strict_and_in_utc() {
    let Some(db) = database("").await else { return };
    for purpose in ["read", "write"] {
        let sql = "SELECT CONCAT_WS(' ', @@session.time_zone, @@session.max_sort_length, @@session.sql_select_limit, \
                   @@session.sql_safe_updates + 0, @@session.autocommit + 0, @@session.completion_type, @@session.sql_mode)";
        let found = match purpose {
            "read" => rows(&db, sql).await.remove(0),
            _ => db
                .write(move |connection| {
                    Box::pin(async move {
                        let found: String =
                            sqlx::query_scalar(AssertSqlSafe(sql)).fetch_one(connection).await.unwrap();
                        Ok(found)
                    })
                })
                .await
                .unwrap(),
        };
        let all = "+00:00 65535 18446744073709551615 0 1 NO_CHAIN ";
        assert!(found.starts_with(all), "{purpose}: {found}");
        for mode in ["STRICT_ALL_TABLES", "NO_AUTO_VALUE_ON_ZERO", "NO_ENGINE_SUBSTITUTION"] {
            assert!(found.contains(mode), "{purpose}: {found}");
        }
    }
}
