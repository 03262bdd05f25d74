use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::Notify;

use super::{
    Claim, Direction, Entry, EntryId, EntryState, Epoch, Guarantee, QueueIndex, QueueStats, Taint, TaintId,
    Touch, TouchItem, WatchId, WriteQueue,
};
use crate::clock::{Clock, SystemClock};
use crate::error::{Error, Kind, Result};
use crate::key::{KeyBytes, KeyRange};
use crate::store::Stamp;

/// A queue in memory. A crash loses its entries, so the handover refuses it; for tests, and for
/// migrations whose difference is repaired afterwards anyway.
///
/// ```
/// use zdm_core::queue::{Direction, Epoch, MemoryQueue, Touch, WriteQueue};
///
/// # tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(async {
/// let queue = MemoryQueue::new();
/// let id = queue.open(Touch::upsert(&7_u64).encode(), Epoch(1), Direction::OldToNew).await?;
/// assert!(queue.claim(Direction::OldToNew, 10).await?.is_none(), "the call has not returned");
/// queue.release(id, None);
/// let claim = queue.claim(Direction::OldToNew, 10).await?.unwrap();
/// queue.ack(&claim.ids());
/// assert_eq!(queue.stats().dirty(), 0);
/// # Ok::<_, zdm_core::error::Error>(()) }).unwrap();
/// ```
#[derive(Debug)]
pub struct MemoryQueue {
    index: Mutex<QueueIndex>,
    closed: std::sync::atomic::AtomicBool,
    signals: Signals,
    clock: Arc<dyn Clock>,
}

/// Who waits for what.
#[derive(Debug, Default)]
struct Signals {
    claimable: Notify,
    room: Notify,
    drained: Notify,
}

impl MemoryQueue {
    /// Entries it takes unless [`with_limit`](Self::with_limit) says otherwise. About 300 MB of memory
    /// when full of short keys.
    pub const DEFAULT_LIMIT: usize = 1_000_000;

    /// An empty queue.
    pub fn new() -> Self {
        Self::with_limit(Self::DEFAULT_LIMIT)
    }

    /// An empty queue that takes at most `limit` entries.
    pub fn with_limit(limit: usize) -> Self {
        Self::with_clock(limit, Arc::new(SystemClock))
    }

    /// An empty queue with a limit and a clock.
    pub fn with_clock(limit: usize, clock: Arc<dyn Clock>) -> Self {
        Self {
            index: Mutex::new(QueueIndex::new(limit)),
            closed: false.into(),
            signals: Signals::default(),
            clock,
        }
    }

    fn lock(&self) -> MutexGuard<'_, QueueIndex> {
        // The index changes whole or not at all, so a panic elsewhere leaves it sound.
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn check_open(&self) -> Result<()> {
        if self.closed.load(std::sync::atomic::Ordering::Acquire) {
            return Err(Error::new(Kind::Stopped, "the secondary-write queue is closed"));
        }
        Ok(())
    }

    fn signal(&self, index: &QueueIndex) {
        if index.may_claim() {
            self.signals.claimable.notify_waiters();
        }
        if index.is_drained() {
            self.signals.drained.notify_waiters();
        }
    }

    fn change<T>(&self, change: impl FnOnce(&mut QueueIndex) -> T) -> T {
        let mut index = self.lock();
        let full = !index.has_room();
        let result = change(&mut index);
        if full && index.has_room() {
            self.signals.room.notify_waiters();
        }
        self.signal(&index);
        result
    }
}

impl Default for MemoryQueue {
    fn default() -> Self {
        Self::new()
    }
}

#[async_trait]
impl WriteQueue for MemoryQueue {
    async fn open(&self, touch: Touch, epoch: Epoch, direction: Direction) -> Result<EntryId> {
        self.check_open()?;
        self.lock().open(touch, epoch, direction, self.clock.unix_millis())
    }

    async fn open_parked(
        &self,
        touch: Touch,
        epoch: Epoch,
        direction: Direction,
        error: &str,
    ) -> Result<EntryId> {
        self.check_open()?;
        Ok(self.lock().open_parked(touch, epoch, direction, self.clock.unix_millis(), error).id)
    }

    fn release(&self, id: EntryId, narrowed: Option<Touch>) {
        self.change(|index| index.release(id, narrowed));
    }

    fn hold(&self, id: EntryId, settle_time: Duration) {
        let until = self.clock.now() + settle_time;
        self.change(|index| index.hold(id, until));
        // Whoever waits must learn of the new deadline.
        self.signals.claimable.notify_waiters();
    }

    fn cancel(&self, id: EntryId) {
        self.change(|index| index.cancel(id));
    }

    async fn claim(&self, direction: Direction, keys: usize) -> Result<Option<Claim>> {
        self.check_open()?;
        let mut index = self.lock();
        index.advance(self.clock.now());
        let entries = index.claim(direction, keys);
        if entries.is_empty() {
            return Ok(None);
        }
        Ok(Some(Claim { stamp: index.draw_stamp(), entries }))
    }

    fn ack(&self, ids: &[EntryId]) {
        self.change(|index| index.ack(ids));
    }

    fn retry_later(&self, ids: &[EntryId], delay: Duration, error: Option<&str>) {
        let until = self.clock.now() + delay;
        self.change(|index| index.retry_later(ids, until, error));
        self.signals.claimable.notify_waiters();
    }

    fn park(&self, ids: &[EntryId], error: &str) {
        self.change(|index| index.park(ids, error));
    }

    fn unpark(&self, range: &KeyRange<KeyBytes>) -> usize {
        self.change(|index| index.unpark(range)).len()
    }

    fn stats(&self) -> QueueStats {
        let mut index = self.lock();
        index.advance(self.clock.now());
        index.stats(self.clock.unix_millis())
    }

    fn entries(&self, state: EntryState, limit: usize) -> Vec<Entry> {
        self.lock().entries(state, limit)
    }

    fn is_clean(&self, key: &KeyBytes) -> bool {
        self.lock().is_clean(key)
    }

    fn watch(&self, range: KeyRange<KeyBytes>) -> WatchId {
        self.lock().watch(range)
    }

    fn unwatch(&self, id: WatchId) -> Vec<TouchItem> {
        self.lock().unwatch(id)
    }

    async fn taint(&self, range: KeyRange<KeyBytes>, reason: &str) -> Result<TaintId> {
        self.check_open()?;
        Ok(self.lock().add_taint(None, range, self.clock.unix_millis(), reason.to_owned()))
    }

    fn taints(&self) -> Vec<Taint> {
        self.lock().taints().to_vec()
    }

    async fn clear_taint(&self, id: TaintId) -> Result<()> {
        self.check_open()?;
        self.change(|index| index.clear_taint(id));
        Ok(())
    }

    async fn draw_stamp(&self) -> Result<Stamp> {
        self.check_open()?;
        Ok(self.lock().draw_stamp())
    }

    async fn raise_stamps_above(&self, seen: Stamp) -> Result<()> {
        self.check_open()?;
        self.lock().raise_stamps_above(seen);
        Ok(())
    }

    async fn recover(&self, settle_time: Duration) -> Result<u64> {
        self.check_open()?;
        let until = self.clock.now() + settle_time;
        let held = self.change(|index| index.hold_all(until));
        self.signals.claimable.notify_waiters();
        Ok(held)
    }

    async fn wait_claimable(&self) {
        let notified = self.signals.claimable.notified();
        tokio::pin!(notified);
        notified.as_mut().enable();
        let deadline = {
            let mut index = self.lock();
            index.advance(self.clock.now());
            if index.may_claim() {
                return;
            }
            index.next_deadline()
        };
        match deadline {
            // Whether the deadline or a signal came first makes no difference: the caller looks again.
            Some(deadline) => drop(tokio::time::timeout_at(deadline, notified).await),
            None => notified.await,
        }
    }

    async fn wait_room(&self) {
        let notified = self.signals.room.notified();
        tokio::pin!(notified);
        notified.as_mut().enable();
        if self.lock().has_room() {
            return;
        }
        notified.await;
    }

    async fn wait_drained(&self) {
        loop {
            let notified = self.signals.drained.notified();
            tokio::pin!(notified);
            notified.as_mut().enable();
            if self.lock().is_drained() {
                return;
            }
            notified.await;
        }
    }

    async fn catch_up(&self) -> Result<()> {
        Ok(())
    }

    fn guarantee(&self) -> Guarantee {
        Guarantee::BestEffort
    }

    async fn close(&self) -> Result<()> {
        self.closed.store(true, std::sync::atomic::Ordering::Release);
        Ok(())
    }
}
