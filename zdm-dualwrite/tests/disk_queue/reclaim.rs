//! The files shrink again.

use std::time::Duration;

use zdm_core::queue::{EntryState, WriteQueue};
use zdm_dualwrite::{DiskQueue, Durability};

use super::{MIGRATION, Scratch, open_key, reconcile_all};

const MIB: u64 = 1 << 20;

/// Appends and acknowledges many entries, by many writers, with `stuck` entries at the start that nobody
/// acknowledges. Returns the largest and the last size of the files.
async fn pass_through(dir: &Scratch, entries: u64, stuck: u64) -> (u64, u64) {
    let settings = DiskQueue::builder(&dir.0, MIGRATION).durability(Durability::Process);
    let queue = settings.open().unwrap();
    for key in 0..stuck {
        open_key(&queue, key).await;
    }
    let mut largest = 0;
    for round in 0..entries / 1000 {
        let first = stuck + round * 1000;
        let opened = futures_util::future::join_all((first..first + 1000).map(|key| open_key(&queue, key)));
        opened.await.into_iter().for_each(|id| queue.release(id, None));
        assert_eq!(reconcile_all(&queue).await, 1000);
        largest = largest.max(dir.bytes());
    }
    queue.close().await.unwrap();
    (largest, dir.bytes())
}

#[tokio::test]
async fn files_stay_small_while_entries_pass_through() {
    let dir = Scratch::new();
    let (largest, last) = pass_through(&dir, 150_000, 0).await;
    assert!(largest <= 16 * MIB && last <= 16 * MIB, "{largest} and {last} bytes");
}

#[tokio::test]
async fn stuck_entries_do_not_pin_the_files() {
    let dir = Scratch::new();
    let (largest, last) = pass_through(&dir, 150_000, 5000).await;
    assert!(largest <= 24 * MIB && last <= 24 * MIB, "{largest} and {last} bytes");
    let queue = DiskQueue::open(&dir.0, MIGRATION).unwrap();
    assert_eq!(queue.recover(Duration::ZERO).await.unwrap(), 5000);
    assert_eq!(queue.stats().pending(), 5000);
}

#[tokio::test]
async fn a_backlog_gives_its_files_back_when_it_is_drained() {
    let dir = Scratch::new();
    let queue = DiskQueue::builder(&dir.0, MIGRATION).durability(Durability::Process).open().unwrap();
    for round in 0..120_u64 {
        let opened = (round * 1000..(round + 1) * 1000).map(|key| open_key(&queue, key));
        futures_util::future::join_all(opened).await.into_iter().for_each(|id| queue.release(id, None));
    }
    assert!(dir.bytes() > 6 * MIB, "{} bytes", dir.bytes());
    assert_eq!(reconcile_all(&queue).await, 120_000);
    queue.close().await.unwrap();
    assert!(dir.bytes() <= 12 * MIB, "{} bytes", dir.bytes());
}

#[tokio::test]
async fn a_queue_that_is_hardly_used_is_small() {
    let dir = Scratch::new();
    for _ in 0..20 {
        let queue = DiskQueue::open(&dir.0, MIGRATION).unwrap();
        queue.recover(Duration::ZERO).await.unwrap();
        let id = open_key(&queue, 1).await;
        queue.release(id, None);
        reconcile_all(&queue).await;
        assert_eq!(queue.entries(EntryState::Released, 10).len(), 0);
    }
    assert!(dir.bytes() <= MIB, "{} bytes", dir.bytes());
}
