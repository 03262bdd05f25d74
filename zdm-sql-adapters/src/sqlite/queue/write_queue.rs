use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use zdm_core::clock::{Clock, SystemClock};
use zdm_core::error::{Error, Kind, Result};
use zdm_core::key::{KeyBytes, KeyRange};
use zdm_core::queue::{
    Claim, Direction, Entry, EntryId, EntryState, Epoch, Guarantee, QueueIndex, QueueStats, Taint, TaintId,
    Touch, TouchItem, WatchId, WriteQueue,
};
use zdm_core::store::Stamp;

use super::commit::Commit;
use super::lock::lock;
use super::table::{self, Record};
use crate::sqlite::shape::invalid;
use crate::sqlite::{Sqlite, Synchronous};

/// Stamps that are set aside with one transaction. A restart skips what is left of them.
const STAMPS_AT_ONCE: u64 = 1 << 20;

/// A durable queue in tables of a SQLite file, for one process.
///
/// The file may be one of the two databases of the migration or a third one. An entry survives `kill -9`
/// and a loss of power.
///
/// ```
/// use zdm_core::queue::{Direction, Epoch, Touch, WriteQueue};
/// use zdm_sql_adapters::sqlite::{Sqlite, SqliteQueue};
///
/// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
/// # let path = std::env::temp_dir().join(format!("zdm-{}-queue.db", std::process::id()));
/// let db = Sqlite::create(&path).await?;
/// let queue = SqliteQueue::open(&db, "users to accounts").await?;
/// let id = queue.open(Touch::upsert(&7_u64).encode(), Epoch(1), Direction::OldToNew).await?;
/// queue.release(id, None);
/// let claim = queue.claim(Direction::OldToNew, 10).await?.expect("one entry is released");
/// queue.ack(&claim.ids());
/// queue.close().await?;
/// # db.close().await;
/// # std::fs::remove_file(path).unwrap();
/// # Ok::<_, zdm_core::Error>(()) }).unwrap();
/// ```
pub struct SqliteQueue {
    index: Mutex<QueueIndex>,
    stamps: Mutex<Stamps>,
    commit: Mutex<Option<Arc<Commit>>>,
    task: tokio::sync::Mutex<Option<JoinHandle<()>>>,
    signals: Signals,
    clock: Arc<dyn Clock>,
    path: PathBuf,
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

impl SqliteQueue {
    /// Entries it takes unless [`open_with`](Self::open_with) says otherwise.
    pub const DEFAULT_LIMIT: usize = 1_000_000;

    /// Opens the queue of a migration, and creates it if the file has none.
    ///
    /// # Errors
    /// `Kind::Owned` when another process has it open; `Kind::Damaged` when it belongs to another
    /// migration; `Kind::Invalid` when the database was opened with less than
    /// [`Synchronous::Full`](super::super::Synchronous); else as [`Sqlite::ensure_schema`].
    pub async fn open(db: &Sqlite, migration: &str) -> Result<Self> {
        Self::open_with(db, migration, Self::DEFAULT_LIMIT, Arc::new(SystemClock)).await
    }

    /// Opens the queue with a limit of entries and a clock.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub async fn open_with(
        db: &Sqlite,
        migration: &str,
        limit: usize,
        clock: Arc<dyn Clock>,
    ) -> Result<Self> {
        let path = db.path().to_owned();
        if db.synchronous() != Synchronous::Full {
            let message = format!(
                "the queue in {} needs Synchronous::Full: with less, a power loss takes entries back whose writes \
                 took effect",
                path.display()
            );
            return Err(invalid(message));
        }
        let lock = lock(path.clone()).await?;
        db.ensure_schema().await?;
        let migration = migration.to_owned();
        let kept = db
            .write(move |connection| {
                Box::pin(async move {
                    table::claim(connection, &migration).await?;
                    table::read(connection).await
                })
            })
            .await
            .map_err(|error| error.context(path.display()))?;
        let mut index = QueueIndex::new(limit);
        index.raise_ids_above(kept.newest_id);
        kept.entries.into_iter().for_each(|entry| index.restore(entry));
        for taint in kept.taints {
            index.add_taint(Some(taint.id), taint.range, taint.since, taint.reason);
        }
        let (commit, task) = Commit::start(db.clone(), lock);
        let first = kept.stamps_below.max(1);
        Ok(Self {
            index: Mutex::new(index),
            stamps: Mutex::new(Stamps { next: first, durable: first }),
            commit: Mutex::new(Some(Arc::new(commit))),
            task: tokio::sync::Mutex::new(Some(task)),
            signals: Signals::default(),
            clock,
            path,
        })
    }

    fn lock(&self) -> MutexGuard<'_, QueueIndex> {
        // The index changes whole or not at all, so a panic elsewhere leaves it sound.
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock_stamps(&self) -> MutexGuard<'_, Stamps> {
        self.stamps.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn commit(&self) -> Result<Arc<Commit>> {
        let commit = self.commit.lock().unwrap_or_else(PoisonError::into_inner);
        commit.clone().ok_or_else(|| Error::new(Kind::Stopped, "the secondary-write queue is closed"))
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

    // Orders about an entry are given while the index is locked, so that they are carried out in the order
    // in which things happened.

    fn forget(&self, ids: &[EntryId]) {
        if let Ok(commit) = self.commit() {
            commit.store_lazily(ids.iter().copied().map(Record::Remove).collect());
        }
    }

    fn rewrite(&self, entries: Vec<Entry>) {
        if let Ok(commit) = self.commit() {
            commit.store_lazily(entries.into_iter().map(Record::Put).collect());
        }
    }

    /// Sets stamps aside up to `below`.
    async fn set_stamps_aside(&self, below: u64) -> Result<()> {
        self.commit()?.store(vec![Record::Stamps(below)]).await?;
        let mut stamps = self.lock_stamps();
        stamps.durable = stamps.durable.max(below);
        Ok(())
    }
}

impl fmt::Debug for SqliteQueue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SqliteQueue")
            .field("path", &self.path)
            .field("stats", &self.stats())
            .finish_non_exhaustive()
    }
}

/// Cancels an entry whose writer went away before it was stored.
struct Unacknowledged<'a> {
    queue: &'a SqliteQueue,
    id: EntryId,
}

impl Drop for Unacknowledged<'_> {
    fn drop(&mut self) {
        self.queue.cancel(self.id);
    }
}

/// Gives claimed entries back whose worker went away before it got them.
struct Claimed<'a> {
    queue: &'a SqliteQueue,
    ids: Vec<EntryId>,
}

impl Drop for Claimed<'_> {
    fn drop(&mut self) {
        if !self.ids.is_empty() {
            self.queue.retry_later(&self.ids, Duration::ZERO, None);
        }
    }
}

#[async_trait]
impl WriteQueue for SqliteQueue {
    async fn open(&self, touch: Touch, epoch: Epoch, direction: Direction) -> Result<EntryId> {
        let commit = self.commit()?;
        let (unacknowledged, stored) = {
            let mut index = self.lock();
            let id = index.open(touch, epoch, direction, self.clock.unix_millis())?;
            let entry = index.get(id).into_iter().map(Record::Put).collect();
            (Unacknowledged { queue: self, id }, commit.store(entry))
        };
        stored.await?;
        let id = unacknowledged.id;
        std::mem::forget(unacknowledged);
        Ok(id)
    }

    async fn open_parked(
        &self,
        touch: Touch,
        epoch: Epoch,
        direction: Direction,
        error: &str,
    ) -> Result<EntryId> {
        let commit = self.commit()?;
        let entry = self.lock().open_parked(touch, epoch, direction, self.clock.unix_millis(), error);
        let id = entry.id;
        commit.store(vec![Record::Put(entry)]).await?;
        Ok(id)
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
        self.commit()?;
        let entries = {
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
        self.change(|index| self.rewrite(index.park(ids, error)));
    }

    fn unpark(&self, range: &KeyRange<KeyBytes>) -> usize {
        self.change(|index| {
            let ids = index.unpark(range);
            self.rewrite(ids.iter().filter_map(|id| index.get(*id)).collect());
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
        let (since, reason) = (self.clock.unix_millis(), reason.to_owned());
        // It counts from now on, whether or not it can be stored: too many taints do no harm.
        let id = self.lock().add_taint(None, range.clone(), since, reason.clone());
        self.commit()?.store(vec![Record::PutTaint(Taint { id, range, since, reason })]).await?;
        Ok(id)
    }

    fn taints(&self) -> Vec<Taint> {
        self.lock().taints().to_vec()
    }

    async fn clear_taint(&self, id: TaintId) -> Result<()> {
        self.commit()?.store(vec![Record::RemoveTaint(id)]).await?;
        self.change(|index| index.clear_taint(id));
        Ok(())
    }

    async fn draw_stamp(&self) -> Result<Stamp> {
        self.commit()?;
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
        if !self.lock().has_room() {
            notified.await;
        }
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
        drop(self.commit.lock().unwrap_or_else(PoisonError::into_inner).take());
        let mut task = self.task.lock().await;
        if let Some(running) = task.as_mut() {
            // It ends when its last order is carried out. A panic in it has been reported by now.
            let _ = running.await;
            *task = None;
        }
        Ok(())
    }
}
