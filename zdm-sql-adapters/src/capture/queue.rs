use std::collections::HashMap;
use std::sync::{Arc, Weak};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::future::try_join_all;
use zdm_core::error::Result;
use zdm_core::key::{KeyBytes, KeyRange};
use zdm_core::queue::{
    Claim, Direction, Entry, EntryId, EntryState, Epoch, Guarantee, QueueStats, Taint, TaintId, Touch,
    TouchItem, WatchId, WriteQueue, WriteQueueExt,
};
use zdm_core::store::Stamp;

use super::CaptureSource;

/// Notes that are taken over at a time.
const BATCH: usize = 1_000;
const SHORTEST_PAUSE: Duration = Duration::from_millis(5);

/// A queue that also holds what triggers have noted.
///
/// A task moves notes into the queue inside while this exists. [`wait_drained`](WriteQueue::wait_drained), which
/// a handover waits for, takes over every note first. What [`is_clean`](WriteQueue::is_clean) knows about other
/// writers is as old as the last look, one pause at most: a `Ramp` may read a record that such a writer has
/// just changed.
///
/// ```no_run
/// # async fn example(db: zdm_sql_adapters::sqlite::Sqlite, old: zdm_sql_adapters::sqlite::SqliteRows,
/// #     queue: zdm_core::queue::MemoryQueue) -> zdm_core::Result<()> {
/// use std::time::Duration;
/// use zdm_core::queue::Direction;
/// use zdm_sql_adapters::capture::CapturedQueue;
/// use zdm_sql_adapters::sqlite::SqliteCapture;
///
/// let notes = SqliteCapture::install(&old).await?;
/// let queue = CapturedQueue::around(queue).source(notes, Direction::OldToNew).start(Duration::from_millis(100));
/// # drop(queue); Ok(()) }
/// ```
pub struct CapturedQueue {
    inside: Arc<dyn WriteQueue>,
    sources: Vec<(Arc<dyn CaptureSource>, Direction)>,
    /// One look at a time: two would take the same notes over.
    looking: tokio::sync::Mutex<()>,
}

impl CapturedQueue {
    /// Around a queue.
    pub fn around(queue: impl WriteQueue) -> Self {
        Self::around_shared(Arc::new(queue))
    }

    /// As [`around`](Self::around), for a queue that others hold too.
    pub fn around_shared(queue: Arc<dyn WriteQueue>) -> Self {
        Self { inside: queue, sources: Vec::new(), looking: tokio::sync::Mutex::new(()) }
    }

    /// Adds the notes of a table, and which way they lead: from the old store to the new one for triggers
    /// on the old side.
    #[must_use]
    pub fn source(mut self, source: impl CaptureSource, direction: Direction) -> Self {
        self.sources.push((Arc::new(source), direction));
        self
    }

    /// Starts to take notes over, on the current tokio runtime. It looks again at once while there are notes,
    /// and otherwise after a pause that grows up to `longest_pause`.
    pub fn start(self, longest_pause: Duration) -> Arc<Self> {
        let queue = Arc::new(self);
        tokio::spawn(follow(Arc::downgrade(&queue), longest_pause));
        queue
    }

    /// Moves every note that can be seen now into the queue. Returns how many there were.
    ///
    /// # Errors
    /// What a source or the queue says. What was not moved is still noted.
    ///
    /// # Cancel safety
    /// A note is moved or stays.
    pub async fn take_over(&self) -> Result<u64> {
        let _alone = self.looking.lock().await;
        let mut moved = 0;
        for (source, direction) in &self.sources {
            loop {
                let notes = source.notes(BATCH).await?;
                let whole = notes.len() < BATCH;
                // One entry for each touch: a hot key has many notes.
                let mut touches: HashMap<Vec<u8>, (Touch, Vec<i64>)> = HashMap::new();
                for note in notes {
                    let mut bytes = Vec::new();
                    note.touch.write_to(&mut bytes);
                    touches.entry(bytes).or_insert_with(|| (note.touch, Vec::new())).1.push(note.id);
                }
                let marks = touches.values().map(|(touch, _)| {
                    // The phase in which it was written is not known, and nothing depends on it.
                    self.inside.mark(touch.clone(), Epoch(0), *direction)
                });
                try_join_all(marks).await?;
                let ids: Vec<i64> = touches.into_values().flat_map(|(_, ids)| ids).collect();
                moved += ids.len() as u64;
                if !ids.is_empty() {
                    source.forget(&ids).await?;
                }
                if whole {
                    break;
                }
            }
        }
        Ok(moved)
    }
}

/// Ends when nobody holds the queue any more.
async fn follow(queue: Weak<CapturedQueue>, longest_pause: Duration) {
    let mut pause = SHORTEST_PAUSE.min(longest_pause);
    loop {
        tokio::time::sleep(pause).await;
        let Some(queue) = queue.upgrade() else { return };
        match queue.take_over().await {
            Ok(1..) => pause = SHORTEST_PAUSE.min(longest_pause),
            Ok(0) => pause = (pause * 2).min(longest_pause),
            Err(error) => {
                // The notes are safe where they are.
                tracing::warn!(?error, "captured writes could not be taken over");
                pause = longest_pause;
            }
        }
    }
}

#[async_trait]
impl WriteQueue for CapturedQueue {
    async fn open(&self, touch: Touch, epoch: Epoch, direction: Direction) -> Result<EntryId> {
        self.inside.open(touch, epoch, direction).await
    }

    async fn open_parked(
        &self,
        touch: Touch,
        epoch: Epoch,
        direction: Direction,
        error: &str,
    ) -> Result<EntryId> {
        self.inside.open_parked(touch, epoch, direction, error).await
    }

    fn release(&self, id: EntryId, narrowed: Option<Touch>) {
        self.inside.release(id, narrowed);
    }

    fn hold(&self, id: EntryId, settle_time: Duration) {
        self.inside.hold(id, settle_time);
    }

    fn cancel(&self, id: EntryId) {
        self.inside.cancel(id);
    }

    async fn claim(&self, direction: Direction, keys: usize) -> Result<Option<Claim>> {
        self.inside.claim(direction, keys).await
    }

    fn ack(&self, ids: &[EntryId]) {
        self.inside.ack(ids);
    }

    fn retry_later(&self, ids: &[EntryId], delay: Duration, error: Option<&str>) {
        self.inside.retry_later(ids, delay, error);
    }

    fn park(&self, ids: &[EntryId], error: &str) {
        self.inside.park(ids, error);
    }

    fn unpark(&self, range: &KeyRange<KeyBytes>) -> usize {
        self.inside.unpark(range)
    }

    fn stats(&self) -> QueueStats {
        self.inside.stats()
    }

    fn entries(&self, state: EntryState, limit: usize) -> Vec<Entry> {
        self.inside.entries(state, limit)
    }

    fn is_clean(&self, key: &KeyBytes) -> bool {
        self.inside.is_clean(key)
    }

    fn watch(&self, range: KeyRange<KeyBytes>) -> WatchId {
        self.inside.watch(range)
    }

    fn unwatch(&self, id: WatchId) -> Vec<TouchItem> {
        self.inside.unwatch(id)
    }

    async fn taint(&self, range: KeyRange<KeyBytes>, reason: &str) -> Result<TaintId> {
        self.inside.taint(range, reason).await
    }

    fn taints(&self) -> Vec<Taint> {
        self.inside.taints()
    }

    async fn clear_taint(&self, id: TaintId) -> Result<()> {
        self.inside.clear_taint(id).await
    }

    async fn draw_stamp(&self) -> Result<Stamp> {
        self.inside.draw_stamp().await
    }

    async fn raise_stamps_above(&self, seen: Stamp) -> Result<()> {
        self.inside.raise_stamps_above(seen).await
    }

    async fn recover(&self, settle_time: Duration) -> Result<u64> {
        self.inside.recover(settle_time).await
    }

    async fn wait_claimable(&self) {
        self.inside.wait_claimable().await;
    }

    async fn wait_room(&self) {
        self.inside.wait_room().await;
    }

    /// Waits until no note is left and nothing is pending.
    async fn catch_up(&self) -> Result<()> {
        self.take_over().await?;
        self.inside.catch_up().await
    }

    async fn wait_drained(&self) {
        loop {
            let moved = self.take_over().await;
            self.inside.wait_drained().await;
            match moved {
                // Nothing was noted when everything before had been dealt with.
                Ok(0) => return,
                Ok(_) => {}
                Err(error) => {
                    tracing::warn!(?error, "captured writes could not be taken over");
                    tokio::time::sleep(SHORTEST_PAUSE).await;
                }
            }
        }
    }

    fn guarantee(&self) -> Guarantee {
        match self.inside.guarantee() {
            // A note is removed once it has an entry, which then must last.
            weak if !weak.survives_a_crash() => weak,
            _ if self.sources.is_empty() => self.inside.guarantee(),
            _ => Guarantee::Trigger,
        }
    }

    async fn close(&self) -> Result<()> {
        self.inside.close().await
    }
}
