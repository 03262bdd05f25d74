use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::Notify;
use zdm_core::clock::Clock;
use zdm_core::error::{Error, Kind, Result};
use zdm_core::key::{KeyBytes, KeyRange};
use zdm_core::queue::{
    Claim, Direction, Entry, EntryId, EntryState, Epoch, Guarantee, QueueIndex, QueueStats, Span, Taint,
    TaintId, Touch, TouchItem, WatchId, WriteQueue,
};
use zdm_core::store::Stamp;

use super::builder::{DiskQueueBuilder, lost_a_window};
use super::commit::{Commit, CommitLoop, When};
use super::entry_bytes::{self, Stored, entry_key, taint_key};
use super::file_system::FileSystem;
use super::journal::{Opening, Record, Records};

/// How many stamps are set aside with one sync. A restart skips what is left of them.
const STAMPS_AT_ONCE: u64 = 1 << 20;
/// Bytes of keys in one touch at most. An entry must fit into half a segment of the journal, or it could not be
/// moved out of the way of what follows it.
const LARGEST_TOUCH: usize = 512 << 10;

/// A durable queue in a directory of its own, for one process.
///
/// An entry is acknowledged when it is on the disk, and survives `kill -9` and, with
/// [`Durability::Power`](super::Durability::Power), a power loss. Entries that arrive at the same time are synced together.
///
/// ```
/// use zdm_core::queue::{Direction, Epoch, Touch, WriteQueue};
/// use zdm_dualwrite::DiskQueue;
///
/// # tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(async {
/// # let dir = std::env::temp_dir().join(format!("zdm-doc-{}", std::process::id()));
/// let queue = DiskQueue::open(&dir, "users to accounts")?;
/// let id = queue.open(Touch::upsert(&7_u64).encode(), Epoch(1), Direction::OldToNew).await?;
/// queue.release(id, None);
/// let claim = queue.claim(Direction::OldToNew, 10).await?.expect("one entry is released");
/// queue.ack(&claim.ids());
/// queue.close().await?;
/// # std::fs::remove_dir_all(&dir).unwrap();
/// # Ok::<_, zdm_core::Error>(()) }).unwrap();
/// ```
///
/// Dropping the queue closes it as [`close`](WriteQueue::close) does and waits until that is done, which takes
/// as long as one sync.
pub struct DiskQueue {
    index: Mutex<QueueIndex>,
    stamps: Mutex<Stamps>,
    commit: Commit,
    signals: Signals,
    clock: Arc<dyn Clock>,
    dir: PathBuf,
    thread: Option<JoinHandle<()>>,
}

/// Who waits for what.
#[derive(Default)]
struct Signals {
    claimable: Notify,
    room: Notify,
    drained: Notify,
}

/// Stamps below `durable` are set aside for this process.
struct Stamps {
    next: u64,
    durable: u64,
}

impl DiskQueue {
    /// Entries it takes unless [`DiskQueueBuilder::limit`] says otherwise. About 300 MB of memory and 100 MB of
    /// disk when full of short keys.
    pub const DEFAULT_LIMIT: usize = 1_000_000;

    /// Opens the queue of a migration in a directory, with the default settings.
    ///
    /// # Errors
    /// As [`DiskQueueBuilder::open`].
    pub fn open(dir: impl Into<PathBuf>, migration: impl Into<String>) -> Result<Self> {
        Self::builder(dir, migration).open()
    }

    /// Settings for the queue of a migration in a directory.
    pub fn builder(dir: impl Into<PathBuf>, migration: impl Into<String>) -> DiskQueueBuilder {
        DiskQueueBuilder::new(dir.into(), migration.into())
    }

    /// Takes over what the journal kept. The loop must be run for the queue to work.
    pub(super) fn from_journal<F: FileSystem>(
        mut opening: Opening<F>,
        settings: DiskQueueBuilder,
    ) -> Result<(Self, CommitLoop<F>)> {
        let DiskQueueBuilder { dir, durability, limit, clock, .. } = settings;
        let mut index = QueueIndex::new(limit);
        let session = opening.session();
        let recovered = opening.recovered();
        let within = |error: Error| error.context(format_args!("the queue in {}", dir.display()));
        for (key, bytes) in std::mem::take(&mut recovered.entries) {
            match entry_bytes::read(key, &bytes).map_err(within)? {
                Stored::Entry(entry) => index.restore(entry),
                Stored::Taint(taint) => {
                    index.add_taint(Some(taint.id), taint.range, taint.since, taint.reason);
                }
            }
        }
        let mut first = Records::default();
        let mut since = 0;
        if let Some((key, bytes)) = &recovered.newest {
            index.raise_ids_above(EntryId(key >> 1));
            since = match entry_bytes::read(*key, bytes).map_err(within)? {
                Stored::Entry(entry) => entry.opened_at,
                Stored::Taint(taint) => taint.since,
            };
        }
        if lost_a_window(recovered.session, session) {
            let reason = "a power loss may have taken entries that were not synced";
            let id = index.add_taint(None, KeyRange::all(), since, reason.to_owned());
            first.put_with(taint_key(id), |out| {
                entry_bytes::write_taint(out, &KeyRange::all(), since, reason)
            });
        }
        let stamps = Stamps { next: recovered.stamps.max(1), durable: recovered.stamps.max(1) };
        let (commit, commit_loop) = Commit::new(opening.start(&first)?, durability);
        let queue = Self {
            index: Mutex::new(index),
            stamps: Mutex::new(stamps),
            commit,
            signals: Signals::default(),
            clock,
            dir,
            thread: None,
        };
        Ok((queue, commit_loop))
    }

    pub(super) fn with_thread(mut self, thread: JoinHandle<()>) -> Self {
        self.thread = Some(thread);
        self
    }

    /// Closes a queue whose loop has no thread.
    #[cfg(test)]
    pub(super) fn close_on_this_thread<F: FileSystem>(&self, commit_loop: CommitLoop<F>) {
        self.commit.stop();
        commit_loop.run();
    }

    fn lock(&self) -> MutexGuard<'_, QueueIndex> {
        // The index changes whole or not at all, so a panic elsewhere leaves it sound.
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock_stamps(&self) -> MutexGuard<'_, Stamps> {
        self.stamps.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the index and wakes whoever waits for what that brought about.
    fn change<T>(&self, change: impl FnOnce(&mut QueueIndex) -> T) -> T {
        let mut index = self.lock();
        let full = !index.has_room();
        let result = change(&mut index);
        if full && index.has_room() {
            self.signals.room.notify_waiters();
        }
        if index.may_claim() {
            self.signals.claimable.notify_waiters();
        }
        if index.is_drained() {
            self.signals.drained.notify_waiters();
        }
        result
    }

    // Records about an entry are added while the index is locked, so that they stand in the journal in the
    // order in which they happened.

    fn forget(&self, ids: &[EntryId]) {
        if !ids.is_empty() {
            self.commit.append_lazily(|records| {
                ids.iter().for_each(|id| records.push(Record::Remove { id: entry_key(*id) }));
            });
        }
    }

    fn rewrite(&self, entries: &[Entry]) {
        if !entries.is_empty() {
            self.commit.append_lazily(|records| {
                for entry in entries {
                    records.put_with(entry_key(entry.id), |out| entry_bytes::write_entry(out, entry));
                }
            });
        }
    }

    /// Sets stamps aside up to `below`.
    async fn set_stamps_aside(&self, below: u64) -> Result<()> {
        self.commit.append(When::Synced, |records| records.push(Record::Stamps { below })).await?;
        let mut stamps = self.lock_stamps();
        stamps.durable = stamps.durable.max(below);
        Ok(())
    }
}

impl fmt::Debug for DiskQueue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DiskQueue")
            .field("dir", &self.dir)
            .field("stats", &self.stats())
            .finish_non_exhaustive()
    }
}

impl Drop for DiskQueue {
    fn drop(&mut self) {
        self.commit.stop();
        if let Some(thread) = self.thread.take() {
            // It ends by itself; a panic in it has been reported by now.
            let _ = thread.join();
        }
    }
}

/// Cancels an entry whose writer went away before it was durable.
struct Unacknowledged<'a> {
    queue: &'a DiskQueue,
    id: EntryId,
}

impl Drop for Unacknowledged<'_> {
    fn drop(&mut self) {
        self.queue.cancel(self.id);
    }
}

#[async_trait]
impl WriteQueue for DiskQueue {
    async fn open(&self, touch: Touch, epoch: Epoch, direction: Direction) -> Result<EntryId> {
        if let Some(error) = self.commit.failure() {
            return Err(error);
        }
        check_size(&touch)?;
        let opened_at = self.clock.unix_millis();
        let id = self.lock().open(touch.clone(), epoch, direction, opened_at)?;
        let unacknowledged = Unacknowledged { queue: self, id };
        let write = |records: &mut Records| {
            records.put_with(entry_key(id), |out| {
                entry_bytes::write_open(out, &touch, epoch, direction, opened_at);
            });
        };
        let stored = self.commit.append(When::Usual, write).await;
        std::mem::forget(unacknowledged);
        if let Err(error) = stored {
            // There is no record that would have to be removed.
            self.change(|index| index.cancel(id));
            return Err(error);
        }
        Ok(id)
    }

    async fn open_parked(
        &self,
        touch: Touch,
        epoch: Epoch,
        direction: Direction,
        error: &str,
    ) -> Result<EntryId> {
        if let Some(error) = self.commit.failure() {
            return Err(error);
        }
        check_size(&touch)?;
        let entry = self.lock().open_parked(touch, epoch, direction, self.clock.unix_millis(), error);
        let write = |records: &mut Records| {
            records.put_with(entry_key(entry.id), |out| entry_bytes::write_entry(out, &entry));
        };
        self.commit.append(When::Usual, write).await?;
        Ok(entry.id)
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
        self.change(|index| {
            if index.cancel(id) {
                self.forget(&[id]);
            }
        });
    }

    async fn claim(&self, direction: Direction, keys: usize) -> Result<Option<Claim>> {
        let entries = {
            if let Some(error) = self.commit.failure() {
                return Err(error);
            }
            let mut index = self.lock();
            index.advance(self.clock.now());
            index.claim(direction, keys)
        };
        if entries.is_empty() {
            return Ok(None);
        }
        let mut claimed = Claimed { queue: self, ids: entries.iter().map(|entry| entry.id).collect() };
        let stamp = self.draw_stamp().await?;
        claimed.ids.clear();
        Ok(Some(Claim { stamp, entries }))
    }

    fn ack(&self, ids: &[EntryId]) {
        self.change(|index| self.forget(&index.ack(ids)));
    }

    fn retry_later(&self, ids: &[EntryId], delay: Duration, error: Option<&str>) {
        let until = self.clock.now() + delay;
        self.change(|index| index.retry_later(ids, until, error));
        self.signals.claimable.notify_waiters();
    }

    fn park(&self, ids: &[EntryId], error: &str) {
        self.change(|index| self.rewrite(&index.park(ids, error)));
    }

    fn unpark(&self, range: &KeyRange<KeyBytes>) -> usize {
        self.change(|index| {
            let ids = index.unpark(range);
            let entries: Vec<_> = ids.iter().filter_map(|id| index.get(*id)).collect();
            self.rewrite(&entries);
            ids.len()
        })
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
        let since = self.clock.unix_millis();
        // It counts from now on, whether or not the disk takes it: too many taints do no harm.
        let id = self.lock().add_taint(None, range.clone(), since, reason.to_owned());
        let write = |records: &mut Records| {
            records.put_with(taint_key(id), |out| entry_bytes::write_taint(out, &range, since, reason));
        };
        self.commit.append(When::Synced, write).await?;
        Ok(id)
    }

    fn taints(&self) -> Vec<Taint> {
        self.lock().taints().to_vec()
    }

    async fn clear_taint(&self, id: TaintId) -> Result<()> {
        let write = |records: &mut Records| records.push(Record::Remove { id: taint_key(id) });
        self.commit.append(When::Usual, write).await?;
        self.change(|index| index.clear_taint(id));
        Ok(())
    }

    async fn draw_stamp(&self) -> Result<Stamp> {
        if let Some(error) = self.commit.failure() {
            return Err(error);
        }
        loop {
            let durable = {
                let mut stamps = self.lock_stamps();
                if stamps.next < stamps.durable {
                    stamps.next += 1;
                    return Ok(Stamp(stamps.next - 1));
                }
                stamps.durable
            };
            self.set_stamps_aside(durable.saturating_add(STAMPS_AT_ONCE)).await?;
        }
    }

    async fn raise_stamps_above(&self, seen: Stamp) -> Result<()> {
        let next = seen.0.saturating_add(1);
        if self.lock_stamps().durable < next {
            self.set_stamps_aside(next.saturating_add(STAMPS_AT_ONCE)).await?;
        }
        let mut stamps = self.lock_stamps();
        stamps.next = stamps.next.max(next);
        Ok(())
    }

    async fn recover(&self, settle_time: Duration) -> Result<u64> {
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
        Guarantee::Journaled
    }

    async fn close(&self) -> Result<()> {
        self.commit.stop();
        self.commit.closed().await
    }
}

fn check_size(touch: &Touch) -> Result<()> {
    let key = |key: &KeyBytes| key.as_slice().len() + 3;
    let bound = |bound: &Option<KeyBytes>| bound.as_ref().map_or(1, key);
    let bytes: usize = touch
        .items()
        .iter()
        .map(|item| match &item.span {
            Span::Key(own) => key(own),
            Span::Range(range) => bound(&range.after) + bound(&range.up_to),
        })
        .sum();
    if bytes <= LARGEST_TOUCH {
        return Ok(());
    }
    let text = format!(
        "a touch of {} keys and {bytes} bytes is larger than the {LARGEST_TOUCH} bytes that an entry of the queue \
         holds: touch a range instead, or split the write",
        touch.items().len()
    );
    Err(Error::new(Kind::Invalid, text))
}

/// Gives claimed entries back when the claim is dropped half way.
struct Claimed<'a> {
    queue: &'a DiskQueue,
    ids: Vec<EntryId>,
}

impl Drop for Claimed<'_> {
    fn drop(&mut self) {
        if !self.ids.is_empty() {
            self.queue.retry_later(&self.ids, Duration::ZERO, None);
        }
    }
}
