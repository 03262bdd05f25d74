//! A queue on a simulated disk. A process that dies takes everything with it but what its disk holds; what the
//! queue need not make durable may come back.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::Notify;
use tokio::time::Instant;
use zdm_core::clock::Clock;
use zdm_core::error::{Error, Kind, Result};
use zdm_core::key::{KeyBytes, KeyRange};
use zdm_core::queue::{
    Claim, Direction, Entry, EntryId, EntryState, Epoch, Guarantee, QueueIndex, QueueStats, Span, Taint,
    TaintId, Touch, TouchItem, WatchId, WriteQueue,
};
use zdm_core::store::Stamp;

use crate::ground::{Ground, Life};

/// What outlives the process.
#[derive(Default)]
pub(crate) struct Disk {
    entries: BTreeMap<EntryId, Kept>,
    taints: BTreeMap<TaintId, Taint>,
    newest_stamp: Stamp,
    newest_id: u64,
    /// Nothing can be stored at the moment.
    pub(crate) failing: bool,
}

struct Kept {
    entry: Entry,
    /// It was removed, but that may be forgotten.
    removed: bool,
}

pub(crate) struct DiskQueue {
    ground: Arc<Ground>,
    life: Arc<Life>,
    disk: Arc<Mutex<Disk>>,
    clock: Arc<dyn Clock>,
    index: Mutex<QueueIndex>,
    claimable: Notify,
    room: Notify,
    drained: Notify,
    /// Claimed entries by claim, and spans that rest after a retry: kept apart from the index, to check it.
    claimed: Mutex<Vec<(EntryId, Touch, Option<Instant>)>>,
}

impl DiskQueue {
    /// What the next process finds.
    pub(crate) fn open_disk(
        ground: &Arc<Ground>,
        life: &Arc<Life>,
        disk: &Arc<Mutex<Disk>>,
        clock: &Arc<dyn Clock>,
        limit: usize,
    ) -> Self {
        let mut index = QueueIndex::new(limit);
        {
            let mut disk = disk.lock().unwrap();
            disk.entries.retain(|_, kept| !kept.removed || ground.dice.chance(0.5));
            for kept in disk.entries.values_mut() {
                kept.removed = false;
                index.restore(kept.entry.clone());
            }
            index.raise_ids_above(EntryId(disk.newest_id));
            index.raise_stamps_above(disk.newest_stamp);
            for taint in disk.taints.values() {
                index.add_taint(Some(taint.id), taint.range.clone(), taint.since, taint.reason.clone());
            }
            ground.trace(|| format!("a queue opens with {} entries", disk.entries.len()));
        }
        Self {
            ground: Arc::clone(ground),
            life: Arc::clone(life),
            disk: Arc::clone(disk),
            clock: Arc::clone(clock),
            index: Mutex::new(index),
            claimable: Notify::new(),
            room: Notify::new(),
            drained: Notify::new(),
            claimed: Mutex::default(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, QueueIndex> {
        self.index.lock().unwrap()
    }

    fn disk(&self) -> MutexGuard<'_, Disk> {
        self.disk.lock().unwrap()
    }

    fn change<T>(&self, change: impl FnOnce(&mut QueueIndex) -> T) -> T {
        let mut index = self.lock();
        let result = change(&mut index);
        if index.has_room() {
            self.room.notify_waiters();
        }
        if index.is_drained() {
            self.drained.notify_waiters();
        }
        self.claimable.notify_waiters();
        result
    }

    /// Goes on if the process lives and its disk works.
    async fn storing(&self) -> Result<()> {
        self.life.go_on().await;
        if self.disk().failing {
            return Err(Error::new(Kind::Unavailable, "the disk of the queue fails (a fault of the test)"));
        }
        Ok(())
    }

    fn remove(&self, ids: impl IntoIterator<Item = EntryId>) {
        let mut disk = self.disk();
        for id in ids {
            if self.ground.dice.chance(0.6) {
                disk.entries.remove(&id);
            } else if let Some(kept) = disk.entries.get_mut(&id) {
                kept.removed = true;
            }
        }
    }

    fn add(&self, touch: Touch, epoch: Epoch, direction: Direction) -> Result<EntryId> {
        let id = self.lock().open(touch, epoch, direction, self.clock.unix_millis())?;
        self.store(id);
        self.ground.trace(|| format!("queue: {id:?} opens"));
        Ok(id)
    }

    fn store(&self, id: EntryId) {
        if let Some(entry) = self.lock().get(id) {
            let mut disk = self.disk();
            disk.newest_id = disk.newest_id.max(id.0);
            disk.entries.insert(id, Kept { entry, removed: false });
        }
    }

    /// Two claims must never share a key, and a key that rests must not be claimed.
    fn check_claim(&self, entries: &[Entry]) {
        let now = self.clock.now();
        let mut claimed = self.claimed.lock().unwrap();
        claimed.retain(|(_, _, until)| until.is_none_or(|until| until > now));
        for entry in entries {
            for (other, touch, rests) in &*claimed {
                if entry.touch.items().iter().any(|a| touch.items().iter().any(|b| overlap(&a.span, &b.span)))
                {
                    let why = if rests.is_some() { "which rests" } else { "which is claimed" };
                    self.ground
                        .wrong(format!("{:?} was claimed and shares a key with {other:?}, {why}", entry.id));
                }
            }
        }
        claimed.extend(entries.iter().map(|entry| (entry.id, entry.touch.clone(), None)));
    }

    fn unclaim(&self, ids: &[EntryId], rests_until: Option<Instant>) {
        let mut claimed = self.claimed.lock().unwrap();
        match rests_until {
            None => claimed.retain(|(id, _, rests)| rests.is_some() || !ids.contains(id)),
            Some(until) => {
                for (id, _, rests) in claimed.iter_mut() {
                    if rests.is_none() && ids.contains(id) {
                        *rests = Some(until);
                    }
                }
            }
        }
    }
}

fn overlap(a: &Span, b: &Span) -> bool {
    match b {
        Span::Key(key) => a.contains(key),
        Span::Range(range) => a.meets(range),
    }
}

/// An entry whose opener may go away before it hears of it.
struct Opening<'a> {
    queue: &'a DiskQueue,
    id: Option<EntryId>,
}

impl Drop for Opening<'_> {
    fn drop(&mut self) {
        if let Some(id) = self.id.take() {
            self.queue.cancel(id);
        }
    }
}

#[async_trait]
impl WriteQueue for DiskQueue {
    async fn open(&self, touch: Touch, epoch: Epoch, direction: Direction) -> Result<EntryId> {
        self.ground.pass(self.ground.short()).await;
        self.storing().await?;
        let mut opening = Opening { queue: self, id: Some(self.add(touch, epoch, direction)?) };
        self.ground.pass(self.ground.short()).await;
        self.life.go_on().await;
        let id = opening.id.take();
        id.ok_or_else(|| Error::new(Kind::Stopped, "an opened entry has an id"))
    }

    async fn open_parked(
        &self,
        touch: Touch,
        epoch: Epoch,
        direction: Direction,
        error: &str,
    ) -> Result<EntryId> {
        self.storing().await?;
        let id = self.lock().open_parked(touch, epoch, direction, self.clock.unix_millis(), error).id;
        self.store(id);
        Ok(id)
    }

    fn release(&self, id: EntryId, narrowed: Option<Touch>) {
        if self.life.is_over() {
            return;
        }
        self.ground.trace(|| format!("queue: {id:?} is released"));
        self.change(|index| index.release(id, narrowed));
        if self.ground.dice.chance(0.5) {
            self.store(id);
        }
    }

    fn hold(&self, id: EntryId, settle_time: Duration) {
        if self.life.is_over() {
            return;
        }
        self.ground.trace(|| format!("queue: {id:?} is held for {settle_time:?}"));
        let until = self.clock.now() + settle_time;
        self.change(|index| index.hold(id, until));
    }

    fn cancel(&self, id: EntryId) {
        if self.life.is_over() {
            return;
        }
        self.ground.trace(|| format!("queue: {id:?} is cancelled"));
        if self.change(|index| index.cancel(id)) {
            self.remove([id]);
        }
    }

    async fn claim(&self, direction: Direction, keys: usize) -> Result<Option<Claim>> {
        self.storing().await?;
        let now = self.clock.now();
        let (entries, stamp) = {
            let mut index = self.lock();
            index.advance(now);
            let entries = index.claim(direction, keys);
            if entries.is_empty() {
                return Ok(None);
            }
            (entries, index.draw_stamp())
        };
        self.disk().newest_stamp = stamp;
        self.check_claim(&entries);
        self.ground.trace(|| {
            let ids: Vec<_> = entries.iter().map(|entry| entry.id.0).collect();
            format!("queue: {ids:?} are claimed with {stamp:?}")
        });
        Ok(Some(Claim { stamp, entries }))
    }

    fn ack(&self, ids: &[EntryId]) {
        if self.life.is_over() {
            return;
        }
        self.ground.trace(|| format!("queue: {ids:?} are acknowledged"));
        self.unclaim(ids, None);
        let gone = self.change(|index| index.ack(ids));
        self.remove(gone);
    }

    fn retry_later(&self, ids: &[EntryId], delay: Duration, error: Option<&str>) {
        if self.life.is_over() {
            return;
        }
        self.ground.trace(|| format!("queue: {ids:?} rest {delay:?}: {error:?}"));
        let until = self.clock.now() + delay;
        self.unclaim(ids, Some(until));
        self.change(|index| index.retry_later(ids, until, error));
    }

    fn park(&self, ids: &[EntryId], error: &str) {
        if self.life.is_over() {
            return;
        }
        self.ground.trace(|| format!("queue: {ids:?} are parked: {error}"));
        self.unclaim(ids, None);
        for entry in self.change(|index| index.park(ids, error)) {
            if self.ground.dice.chance(0.5) {
                self.store(entry.id);
            }
        }
    }

    fn unpark(&self, range: &KeyRange<KeyBytes>) -> usize {
        if self.life.is_over() {
            return 0;
        }
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
        self.life.go_on().await;
        if self.disk().failing && self.ground.dice.chance(0.3) {
            return Err(Error::new(Kind::Unavailable, "not even a taint (a fault of the test)"));
        }
        let since = self.clock.unix_millis();
        let id = self.lock().add_taint(None, range.clone(), since, reason.to_owned());
        self.disk().taints.insert(id, Taint { id, range, since, reason: reason.to_owned() });
        self.ground.trace(|| format!("queue: taint {id:?}: {reason}"));
        Ok(id)
    }

    fn taints(&self) -> Vec<Taint> {
        self.lock().taints().to_vec()
    }

    async fn clear_taint(&self, id: TaintId) -> Result<()> {
        self.storing().await?;
        self.change(|index| index.clear_taint(id));
        self.disk().taints.remove(&id);
        Ok(())
    }

    async fn draw_stamp(&self) -> Result<Stamp> {
        self.storing().await?;
        let stamp = self.lock().draw_stamp();
        self.disk().newest_stamp = stamp;
        Ok(stamp)
    }

    async fn raise_stamps_above(&self, seen: Stamp) -> Result<()> {
        self.storing().await?;
        self.lock().raise_stamps_above(seen);
        Ok(())
    }

    async fn recover(&self, settle_time: Duration) -> Result<u64> {
        self.storing().await?;
        let until = self.clock.now() + settle_time;
        Ok(self.change(|index| index.hold_all(until)))
    }

    async fn wait_claimable(&self) {
        self.life.go_on().await;
        let notified = self.claimable.notified();
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
            Some(deadline) => drop(tokio::time::timeout_at(deadline, notified).await),
            None => notified.await,
        }
    }

    async fn wait_room(&self) {
        let notified = self.room.notified();
        tokio::pin!(notified);
        notified.as_mut().enable();
        if !self.lock().has_room() {
            notified.await;
        }
    }

    async fn wait_drained(&self) {
        self.life.go_on().await;
        loop {
            let notified = self.drained.notified();
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
        self.life.go_on().await;
        Ok(())
    }
}
