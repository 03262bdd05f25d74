//! Checkpoints and the queue in tables: other owners, other migrations, full disks, `kill -9`.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::Duration;

use zdm_core::checkpoint::{Checkpoint, CheckpointStore};
use zdm_core::error::Kind;
use zdm_core::key::KeyRange;
use zdm_core::queue::{Direction, EntryState, Epoch, Intent, Touch, WriteQueue};
use zdm_sql_adapters::sqlite::{Sqlite, SqliteCheckpoints, SqliteOptions, SqliteQueue, Synchronous};

use crate::support::{Directory, database, rows};

const FORWARD: Direction = Direction::OldToNew;

fn touch(key: u64) -> Touch {
    Touch::upsert(&key).encode()
}

#[tokio::test]
async fn checkpoints_of_another_table_or_a_newer_format_are_clear_errors() {
    let db = database("SELECT 1").await;
    let checkpoints = SqliteCheckpoints::open(&db).await.unwrap();
    let stored = Checkpoint::first(2, "users", vec![0, 255], u64::MAX >> 1);
    checkpoints.save("backfill", &stored).await.unwrap();
    let found = checkpoints.load("backfill").await.unwrap().unwrap();
    assert_eq!(found, stored);
    let error = found.expect("backfill", "orders", 2).unwrap_err();
    assert!(error.to_string().contains("users") && error.to_string().contains("orders"), "{error}");
    let error = found.expect("backfill", "users", 1).unwrap_err();
    assert!(error.to_string().contains("format 2"), "{error}");
    db.execute("UPDATE zdm_checkpoint SET format = -1").await.unwrap();
    let error = checkpoints.load("backfill").await.unwrap_err();
    assert_eq!(error.kind(), Kind::Damaged);
    assert!(error.to_string().contains("backfill") && error.to_string().contains("remove it"), "{error}");
    checkpoints.remove("backfill").await.unwrap();
    assert_eq!(checkpoints.load("backfill").await.unwrap(), None);
}

#[tokio::test]
async fn a_queue_has_one_owner_and_one_migration() {
    let db = database("SELECT 1").await;
    let queue = SqliteQueue::open(&db, "a to b").await.unwrap();
    let error = SqliteQueue::open(&db, "a to b").await.unwrap_err();
    assert_eq!(error.kind(), Kind::Owned);
    assert!(error.to_string().contains("test.db"), "{error}");
    queue.close().await.unwrap();
    let error = SqliteQueue::open(&db, "a to c").await.unwrap_err();
    assert_eq!(error.kind(), Kind::Damaged);
    assert!(error.to_string().contains("a to b") && error.to_string().contains("a to c"), "{error}");
    let queue = SqliteQueue::open(&db, "a to b").await.unwrap();
    assert_eq!(db.remove_schema().await.unwrap_err().kind(), Kind::Owned);
    queue.close().await.unwrap();
    db.remove_schema().await.unwrap();
    let left: Vec<_> = std::fs::read_dir(db.path().parent().unwrap())
        .unwrap()
        .map(|file| file.unwrap().file_name())
        .collect();
    assert!(left.iter().all(|name| !name.to_string_lossy().contains("zdm-queue")), "{left:?}");

    let weak = SqliteOptions::new(db.path()).synchronous(Synchronous::Normal).open().await.unwrap();
    let error = SqliteQueue::open(&weak, "a to b").await.unwrap_err();
    assert_eq!(error.kind(), Kind::Invalid);
    assert!(error.to_string().contains("Synchronous::Full"), "{error}");
}

#[tokio::test]
async fn parked_entries_and_taints_come_back_as_they_were() {
    let db = database("SELECT 1").await;
    let queue = SqliteQueue::open(&db, "a to b").await.unwrap();
    let both = touch(1).and(Touch::range(KeyRange::between(5_u64, 9)).encode());
    let parked = queue.open(both.clone(), Epoch(3), Direction::NewToOld).await.unwrap();
    queue.release(parked, None);
    let claim = queue.claim(Direction::NewToOld, 5).await.unwrap().unwrap();
    queue.park(&claim.ids(), "does not fit \0 at all");
    queue.taint(KeyRange::after(touch_key(7)), "full").await.unwrap();
    let gone = queue.taint(KeyRange::all(), "short").await.unwrap();
    queue.clear_taint(gone).await.unwrap();
    queue.close().await.unwrap();

    let queue = SqliteQueue::open(&db, "a to b").await.unwrap();
    let entries = queue.entries(EntryState::Parked, 10);
    assert_eq!(entries.len(), 1);
    let entry = &entries[0];
    assert_eq!((&entry.touch, entry.epoch, entry.direction), (&both, Epoch(3), Direction::NewToOld));
    assert_eq!((entry.attempts, entry.last_error.as_deref()), (1, Some("does not fit \0 at all")));
    let taints = queue.taints();
    assert_eq!(taints.len(), 1);
    assert_eq!((&taints[0].range, taints[0].reason.as_str()), (&KeyRange::after(touch_key(7)), "full"));
    assert_eq!(queue.unpark(&KeyRange::all()), 1);
    queue.close().await.unwrap();
    let queue = SqliteQueue::open(&db, "a to b").await.unwrap();
    assert_eq!(queue.recover(Duration::ZERO).await.unwrap(), 1);
}

fn touch_key(key: u64) -> zdm_core::key::KeyBytes {
    zdm_core::key::KeyBytes::of(&key)
}

#[tokio::test]
async fn a_full_disk_refuses_entries_and_loses_none() {
    let db = database("SELECT 1").await;
    let queue = SqliteQueue::open(&db, "a to b").await.unwrap();
    let long = |key: u64| Touch::upsert(&(key, "x".repeat(3000))).encode();
    let first = queue.open(long(0), Epoch(1), FORWARD).await.unwrap();
    db.execute("PRAGMA max_page_count = 40").await.unwrap();
    let (mut stored, mut refused) = (BTreeSet::from([first]), 0);
    for key in 1..60 {
        match queue.open(long(key), Epoch(1), FORWARD).await {
            Ok(id) => drop(stored.insert(id)),
            Err(error) => {
                assert_eq!(error.kind(), Kind::Unavailable, "{error:?}");
                refused += 1;
                // SQLite has ended the transaction itself, so the connection is a new one, without the limit.
                db.execute("PRAGMA max_page_count = 40").await.unwrap();
            }
        }
    }
    assert!(refused > 10 && stored.len() > 3, "{refused} {}", stored.len());
    assert_eq!(queue.stats().open, stored.len() as u64);
    db.execute("PRAGMA max_page_count = 100000").await.unwrap();
    stored.insert(queue.open(long(99), Epoch(1), FORWARD).await.unwrap());
    queue.close().await.unwrap();
    let queue = SqliteQueue::open(&db, "a to b").await.unwrap();
    assert_eq!(queue.recover(Duration::from_secs(60)).await.unwrap(), stored.len() as u64);
    let found: BTreeSet<_> =
        queue.entries(EntryState::Ambiguous, 1000).iter().map(|entry| entry.id).collect();
    assert_eq!(found, stored);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn entries_that_come_together_are_committed_together() {
    let db = database("SELECT 1").await;
    let queue = std::sync::Arc::new(SqliteQueue::open(&db, "a to b").await.unwrap());
    let opens = (0..500).map(|key| {
        let queue = std::sync::Arc::clone(&queue);
        tokio::spawn(async move { queue.open(touch(key), Epoch(1), FORWARD).await.unwrap() })
    });
    let ids: Vec<_> = opens.collect();
    for id in ids {
        queue.release(id.await.unwrap(), None);
    }
    assert_eq!(rows(&db, "SELECT CAST(count(*) AS TEXT) FROM zdm_queue_entry").await, ["500"]);
    while let Some(claim) = queue.claim(FORWARD, 100).await.unwrap() {
        assert!(claim.entries.iter().all(|entry| entry.touch.items()[0].intent == Intent::Upsert));
        queue.ack(&claim.ids());
    }
    queue.close().await.unwrap();
    assert_eq!(rows(&db, "SELECT CAST(count(*) AS TEXT) FROM zdm_queue_entry").await, ["0"]);
}

const CHILD: &str = "ZDM_SQLITE_QUEUE_CHILD";

/// The child of the test below: opens entries and says so, acknowledges every third, until it is killed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn queue_child() {
    let Ok(path) = std::env::var(CHILD) else { return };
    let db = Sqlite::create(path).await.unwrap();
    let queue = std::sync::Arc::new(SqliteQueue::open(&db, "a to b").await.unwrap());
    queue.recover(Duration::ZERO).await.unwrap();
    // What an earlier child left is not this one's to take.
    while let Some(claim) = queue.claim(FORWARD, 1000).await.unwrap() {
        queue.park(&claim.ids(), "left");
    }
    let writer = |first: u64| {
        let queue = std::sync::Arc::clone(&queue);
        async move {
            for key in (first..).step_by(4) {
                let id = queue.open(touch(key), Epoch(1), FORWARD).await.unwrap();
                println!("open {}", id.0);
                if key % 3 == 0 {
                    println!("taken {}", id.0);
                    queue.cancel(id);
                }
                let stamp = queue.draw_stamp().await.unwrap();
                println!("stamp {}", stamp.0);
            }
        }
    };
    let writers: Vec<_> = (0..4).map(|first| tokio::spawn(writer(first))).collect();
    for writer in writers {
        writer.await.unwrap();
    }
}

#[test]
fn what_was_acknowledged_survives_kill_9() {
    let directory = Directory::new();
    let path = directory.file("queue.db");
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let (mut opened, mut taken, mut newest) = (BTreeSet::new(), BTreeSet::new(), 0_u64);
    for round in 0..10_u64 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "bookkeeping::queue_child", "--nocapture"])
            .env(CHILD, &path)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut left = 50 + round * 37 % 200;
        let floor = newest;
        while let Some(Ok(line)) = lines.next() {
            if left == 0 {
                child.kill().unwrap();
            }
            left = left.saturating_sub(1);
            let Some((what, number)) = line.split_once(' ') else { continue };
            let Ok(number) = number.parse::<u64>() else { continue };
            match what {
                "open" => assert!(opened.insert(number), "the id {number} was given twice"),
                "taken" => assert!(taken.insert(number)),
                "stamp" => {
                    assert!(number > floor, "the stamp {number} is not above {floor}");
                    newest = newest.max(number);
                }
                _ => {}
            }
        }
        child.wait().unwrap();
        runtime.block_on(async {
            let db = Sqlite::open(&path).await.unwrap();
            let queue = SqliteQueue::open(&db, "a to b").await.unwrap();
            queue.recover(Duration::from_secs(60)).await.unwrap();
            let mut kept: BTreeSet<_> =
                queue.entries(EntryState::Ambiguous, usize::MAX).iter().map(|entry| entry.id.0).collect();
            kept.extend(queue.entries(EntryState::Parked, usize::MAX).iter().map(|entry| entry.id.0));
            let lost: Vec<_> = opened.difference(&taken).filter(|id| !kept.contains(id)).collect();
            assert!(lost.is_empty(), "round {round}: {lost:?} were acknowledged and are gone");
            queue.close().await.unwrap();
            db.close().await;
        });
    }
    assert!(opened.len() > 300, "{}", opened.len());
}
