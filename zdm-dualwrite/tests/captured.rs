//! A migration while somebody else writes to the old database without knowing of it.

#![expect(clippy::unwrap_used, reason = "a test that fails panics")]

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use sqlx::{AssertSqlSafe, ConnectOptions};
use zdm_core::phase::Phase;
use zdm_core::queue::{Direction, Guarantee, WriteQueue};
use zdm_core::store::{Store, StoreExt};
use zdm_dualwrite::{Backfill, DiskQueue, DualWrite, Verify};
use zdm_sql_adapters::capture::CapturedQueue;
use zdm_sql_adapters::sqlite::{Sqlite, SqliteCapture, SqliteRows};
use zdm_sql_adapters::table::{DynKey, Value};

async fn outsider(path: &Path) -> SqliteConnection {
    let options = SqliteConnectOptions::new().filename(path).busy_timeout(Duration::from_secs(10));
    options.connect().await.unwrap()
}

async fn run(connection: &mut SqliteConnection, sql: String) {
    sqlx::raw_sql(AssertSqlSafe(sql)).execute(connection).await.unwrap();
}

async fn contents(db: &Sqlite) -> Vec<(i64, String)> {
    sqlx::query_as("SELECT id, name FROM users ORDER BY id").fetch_all(db.readers()).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writers_that_know_nothing_of_the_migration_lose_nothing() {
    let dir = std::env::temp_dir().join(format!("zdm-captured-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    let (old, new) = (
        Sqlite::create(dir.join("old.db")).await.unwrap(),
        Sqlite::create(dir.join("new.db")).await.unwrap(),
    );
    for db in [&old, &new] {
        db.execute("CREATE TABLE users (id INTEGER PRIMARY KEY, name TEXT NOT NULL)").await.unwrap();
    }
    let mut other = outsider(old.path()).await;
    for id in 1..=500 {
        run(&mut other, format!("INSERT OR IGNORE INTO users VALUES ({id}, 'user {id}')")).await;
    }

    let (old_rows, new_rows) = (
        SqliteRows::discover(&old, "users").await.unwrap().with_fence().await.unwrap(),
        SqliteRows::discover(&new, "users").await.unwrap().with_fence().await.unwrap(),
    );
    // Both sides, so that the way back is covered as well.
    let queue = CapturedQueue::around(DiskQueue::open(dir.join("queue"), "users").unwrap())
        .source(SqliteCapture::install(&old_rows).await.unwrap(), Direction::OldToNew)
        .source(SqliteCapture::install(&new_rows).await.unwrap(), Direction::NewToOld)
        .start(Duration::from_millis(20));
    assert_eq!(queue.guarantee(), Guarantee::Trigger);
    let users =
        DualWrite::builder(old_rows, new_rows).shared_queue(queue).phase(Phase::Off).start().await.unwrap();
    users.advance(Phase::DualWrite).await.unwrap();

    // Inserts, bulk updates, deletes and keys that change, all the while.
    let stop = Arc::new(AtomicBool::new(false));
    let writer = tokio::spawn({
        let (stop, path) = (Arc::clone(&stop), old.path().to_owned());
        async move {
            let mut other = outsider(&path).await;
            let mut round = 0;
            while !stop.load(Ordering::Relaxed) || round < 50 {
                round += 1;
                run(&mut other, format!("INSERT INTO users VALUES ({}, 'new {round}')", 1_000 + round)).await;
                run(
                    &mut other,
                    format!("UPDATE users SET name = 'round {round}' WHERE id % 50 = {}", round % 50),
                )
                .await;
                run(&mut other, format!("DELETE FROM users WHERE id = {}", round * 3)).await;
                run(
                    &mut other,
                    format!("UPDATE users SET id = {} WHERE id = {}", 5_000 + round, 400 + round),
                )
                .await;
            }
            round
        }
    });
    assert!(Backfill::new(&users).run().await.unwrap().complete);
    users.advance(Phase::Shadow).await.unwrap();
    stop.store(true, Ordering::Relaxed);
    assert!(writer.await.unwrap() >= 50);
    users.drained().await;
    assert_eq!(contents(&old).await, contents(&new).await);
    let report = Verify::new(&users).run().await.unwrap();
    assert_eq!((report.complete, report.mismatches), (true, 0), "{report:?}");

    // What is written between the verification and the handover is carried over by it.
    run(&mut other, "UPDATE users SET name = 'at the last moment' WHERE id % 7 = 0".to_owned()).await;
    users.advance(Phase::Live).await.unwrap();
    assert_eq!(contents(&old).await, contents(&new).await);
    let key = DynKey::new([Value::Integer(7)]).unwrap();
    let seen = users.fetch(&key).await.unwrap();
    assert_eq!(seen.get("name"), Some(&Value::Text("at the last moment".to_owned())));

    // Then others write to the new side, and the old one follows.
    let mut elsewhere = outsider(new.path()).await;
    run(&mut elsewhere, "DELETE FROM users WHERE id % 2 = 0; UPDATE users SET name = 'live'".to_owned())
        .await;
    users.delete(&key).await.unwrap();
    users.drained().await;
    let left = contents(&new).await;
    assert_eq!(contents(&old).await, left);
    assert!(left.iter().all(|(id, name)| id % 2 == 1 && *id != 7 && name == "live"));
    assert_eq!(users.queue_stats().pending(), 0, "nothing comes back as its own echo");
    users.shutdown(Duration::from_secs(5)).await.unwrap();
    std::fs::remove_dir_all(&dir).unwrap();
}
