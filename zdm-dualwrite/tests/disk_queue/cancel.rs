//! A writer that goes away leaves nothing behind.

use std::future::Future;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use zdm_core::queue::{EntryState, Epoch, Touch, WriteQueue};
use zdm_dualwrite::DiskQueue;

use super::{DIRECTION, MIGRATION, Scratch, open_key, reconcile_all};

/// Polls a future at most `polls` times, with time for the disk in between, and drops it.
async fn poll_and_drop<T>(future: impl Future<Output = T>, polls: usize) -> Option<T> {
    let mut future = Box::pin(future);
    for _ in 0..polls {
        if let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            return Some(output);
        }
        tokio::time::sleep(Duration::from_millis(3)).await;
    }
    None
}

#[tokio::test]
async fn open_can_be_dropped_at_any_poll() {
    let dir = Scratch::new();
    let queue = DiskQueue::open(&dir.0, MIGRATION).unwrap();
    let mut returned = 0;
    for polls in 0..6 {
        let touch = Touch::upsert(&(polls as u64)).encode();
        let result = poll_and_drop(queue.open(touch, Epoch(1), DIRECTION), polls).await;
        if let Some(id) = result {
            returned += 1;
            queue.release(id.unwrap(), None);
        }
        assert_eq!(queue.stats().open, 0, "dropped after {polls} polls: an entry has no owner");
        assert_eq!(queue.stats().pending(), returned);
    }
    assert!(returned > 0, "no call got to its end");
    drop(queue);
    let queue = DiskQueue::open(&dir.0, MIGRATION).unwrap();
    assert_eq!(queue.stats().pending(), returned, "what was cancelled is gone from the disk too");
}

#[tokio::test]
async fn claim_can_be_dropped_at_any_poll() {
    let dir = Scratch::new();
    for polls in 0..4 {
        // Opened anew, because the first claim sets stamps aside and so waits for the disk.
        let queue = DiskQueue::open(&dir.0, MIGRATION).unwrap();
        queue.recover(Duration::ZERO).await.unwrap();
        let id = open_key(&queue, 7).await;
        queue.release(id, None);
        let claimed = poll_and_drop(queue.claim(DIRECTION, 10), polls).await;
        if let Some(claim) = claimed {
            queue.retry_later(&claim.unwrap().unwrap().ids(), Duration::ZERO, None);
        }
        assert_eq!(queue.entries(EntryState::Claimed, 10).len(), 0, "dropped after {polls} polls");
        assert_eq!(reconcile_all(&queue).await, 1);
    }
}

#[tokio::test]
async fn stamps_and_taints_can_be_dropped_at_any_poll() {
    let dir = Scratch::new();
    let mut newest = zdm_core::store::Stamp(0);
    for polls in 0..4 {
        let queue = DiskQueue::open(&dir.0, MIGRATION).unwrap();
        let _ = poll_and_drop(queue.draw_stamp(), polls).await;
        let stamp = queue.draw_stamp().await.unwrap();
        assert!(stamp > newest);
        newest = stamp;
        let taint = poll_and_drop(queue.taint(zdm_core::key::KeyRange::all(), "a test"), polls).await;
        for taint in queue.taints() {
            let _ = poll_and_drop(queue.clear_taint(taint.id), polls).await;
            queue.clear_taint(taint.id).await.unwrap();
        }
        assert!(queue.taints().is_empty(), "{taint:?}");
    }
}
