use std::collections::HashMap;
use std::fmt;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use zdm_core::error::{Error, Kind, Result};
use zdm_core::key::{KeyBytes, KeyRange};
use zdm_core::queue::{
    Claim, Direction, Entry, EntryId, EntryState, Epoch, Guarantee, Intent, QueueStats, Span, Taint, TaintId,
    Touch, TouchItem, WatchId, WriteQueue,
};
use zdm_core::store::Stamp;

use super::insert::{INSERTERS, Order, store_entries};
use super::keeper::{Keeper, Request, stopped};
use super::settings::SharedQueueOptions;
use super::settle::{Settle, carry_out};
use super::state::{Shared, State};
use super::tables::{Changes, NewEntry, QueueTables};

/// One instance's part in a queue that several instances share. The front page of this module has the rules.
pub struct SharedQueue<T: QueueTables> {
    pub(super) tables: T,
    pub(super) shared: Arc<Shared>,
    /// `None` once it is closed. The tasks end with it.
    lines: Mutex<Option<Arc<Lines>>>,
    /// One draws ids for all who wait.
    drawing: tokio::sync::Mutex<()>,
    ids: Mutex<Range<u64>>,
    tasks: tokio::sync::Mutex<Option<Tasks>>,
}

/// The ways to the tasks.
pub(super) struct Lines {
    inserts: mpsc::UnboundedSender<Order>,
    pub(super) settle: Settle,
    requests: mpsc::UnboundedSender<Request>,
}

struct Tasks {
    inserts: Vec<JoinHandle<()>>,
    keeper: JoinHandle<()>,
    settle: JoinHandle<Result<()>>,
}

impl<T: QueueTables> SharedQueue<T> {
    /// Joins the queue of a migration, whose tables are there.
    pub(crate) async fn join(
        tables: T,
        migration: &str,
        instance: &str,
        options: SharedQueueOptions,
    ) -> Result<Self> {
        options.check()?;
        let began = options.clock.now();
        let seat = tables.join(migration, instance, options.lease).await?;
        let shared = Shared::new(seat, began + options.lease, options);
        let (settle, settles) = mpsc::unbounded_channel();
        let (inserts, orders) = mpsc::unbounded_channel();
        let (requests, asked) = mpsc::unbounded_channel();
        let settle = Settle(settle);
        let orders = Arc::new(tokio::sync::Mutex::new(orders));
        let keeper = Keeper {
            tables: tables.clone(),
            shared: Arc::clone(&shared),
            migration: migration.to_owned(),
            instance: instance.to_owned(),
            renew_at: began + shared.options.lease / 3,
            unsure: false,
        };
        let tasks = Tasks {
            inserts: (0..INSERTERS)
                .map(|_| {
                    let (tables, shared) = (tables.clone(), Arc::clone(&shared));
                    tokio::spawn(store_entries(tables, shared, settle.clone(), Arc::clone(&orders)))
                })
                .collect(),
            keeper: tokio::spawn(keeper.run(asked)),
            settle: tokio::spawn(carry_out(tables.clone(), Arc::clone(&shared), settles)),
        };
        let queue = Self {
            tables,
            shared,
            lines: Mutex::new(Some(Arc::new(Lines { inserts, settle, requests }))),
            drawing: tokio::sync::Mutex::new(()),
            ids: Mutex::new(0..0),
            tasks: tokio::sync::Mutex::new(Some(tasks)),
        };
        queue.catch_up().await?;
        Ok(queue)
    }

    /// Looks for entries that transactions have recorded, now instead of at the next poll. For the moment
    /// after the COMMIT of a transaction with a `write_in`.
    pub fn look_soon(&self) {
        self.shared.signals.look.notify_one();
    }

    /// Whose rows are those that nobody owns yet.
    ///
    /// # Errors
    /// `Kind::Stopped` when the queue is closed.
    pub(crate) fn nobody(&self) -> Result<i64> {
        self.lines()?;
        Ok(self.shared.seat().queue)
    }

    pub(super) fn lines(&self) -> Result<Arc<Lines>> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner).clone().ok_or_else(stopped)
    }

    fn settle(&self, changes: Changes) {
        if let Ok(lines) = self.lines() {
            lines.settle.order(changes);
        }
    }

    fn next_id(&self) -> Option<EntryId> {
        self.ids.lock().unwrap_or_else(PoisonError::into_inner).next().map(EntryId)
    }

    async fn draw_id(&self) -> Result<EntryId> {
        loop {
            if let Some(id) = self.next_id() {
                return Ok(id);
            }
            let _one = self.drawing.lock().await;
            // Somebody else may have drawn meanwhile.
            if let Some(id) = self.next_id() {
                return Ok(id);
            }
            let (first, count) = self.tables.draw_ids().await?;
            *self.ids.lock().unwrap_or_else(PoisonError::into_inner) = first..first + count;
        }
    }

    async fn store(&self, lines: &Lines, entry: NewEntry) -> Result<()> {
        let (stored, told) = oneshot::channel();
        lines.inserts.send(Order { entry, stored }).map_err(|_| stopped())?;
        let seat = told.await.unwrap_or_else(|_| Err(stopped().unknown()))?;
        let state = self.shared.lock();
        if state.seat == seat && self.shared.clock().now() < state.leased_until {
            return Ok(());
        }
        let message = "this instance was not heard of for longer than its lease, so others may have taken over \
                       the entry; the write can be made again when the database answers";
        Err(Error::new(Kind::Unavailable, message))
    }

    /// Claims that were made under this seat and lease count as done.
    fn counts(&self, state: &State, id: EntryId) -> bool {
        state.held.seating(id).is_none_or(|seating| seating == state.seating)
            && self.shared.clock().now() < state.leased_until
    }

    async fn ask<A>(&self, request: impl FnOnce(oneshot::Sender<Result<A>>) -> Request) -> Result<A> {
        let (answer, answered) = oneshot::channel();
        self.lines()?.requests.send(request(answer)).map_err(|_| stopped())?;
        answered.await.unwrap_or_else(|_| Err(stopped()))
    }
}

impl<T: QueueTables> fmt::Debug for SharedQueue<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedQueue")
            .field("place", &self.tables.place())
            .field("stats", &self.stats())
            .finish_non_exhaustive()
    }
}

/// Cancels an entry whose writer went away before it was stored.
struct Unacknowledged<'a, T: QueueTables> {
    queue: &'a SharedQueue<T>,
    id: EntryId,
}

impl<T: QueueTables> Drop for Unacknowledged<'_, T> {
    fn drop(&mut self) {
        self.queue.cancel(self.id);
    }
}

#[async_trait]
impl<T: QueueTables> WriteQueue for SharedQueue<T> {
    async fn open(&self, touch: Touch, epoch: Epoch, direction: Direction) -> Result<EntryId> {
        let lines = self.lines()?;
        let mut bytes = Vec::with_capacity(32);
        touch.write_to(&mut bytes);
        let id = self.draw_id().await?;
        let opened_at = self.shared.clock().unix_millis();
        {
            let mut state = self.shared.lock();
            if !self.shared.has_room(&state) {
                let limit = self.shared.options.limit;
                let message = format!("the secondary-write queue is full: {limit} entries, its limit");
                return Err(Error::new(Kind::Limit, message));
            }
            state.own.open_as(id, touch, epoch, direction, opened_at);
        }
        let unacknowledged = Unacknowledged { queue: self, id };
        self.store(&lines, NewEntry { id, touch: bytes, epoch, direction, opened_at, parked: None }).await?;
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
        let lines = self.lines()?;
        let mut bytes = Vec::new();
        touch.write_to(&mut bytes);
        let id = self.draw_id().await?;
        let opened_at = self.shared.clock().unix_millis();
        let parked = Some(error.to_owned());
        let new = NewEntry { id, touch: bytes, epoch, direction, opened_at, parked: parked.clone() };
        self.store(&lines, new).await?;
        let (state, last_error) = (EntryState::Parked, parked);
        let entry = Entry { id, touch, state, epoch, direction, opened_at, attempts: 1, last_error };
        self.shared.change(|state| {
            state.own.note(&entry.touch);
            state.own.restore(entry);
        });
        Ok(id)
    }

    fn release(&self, id: EntryId, narrowed: Option<Touch>) {
        self.shared.change(|state| state.own.release(id, narrowed));
    }

    fn hold(&self, id: EntryId, settle_time: Duration) {
        let until = self.shared.clock().now() + settle_time;
        self.shared.change(|state| state.own.hold(id, until));
        // Whoever waits must learn of the new deadline.
        self.shared.signals.claimable.notify_waiters();
    }

    fn cancel(&self, id: EntryId) {
        if self.shared.change(|state| state.own.cancel(id)) {
            self.settle(Changes { removed: vec![id], ..Changes::default() });
        }
    }

    async fn claim(&self, direction: Direction, keys: usize) -> Result<Option<Claim>> {
        self.claim_locked(direction, keys).await
    }

    fn ack(&self, ids: &[EntryId]) {
        let now = self.shared.clock().now();
        let mut changes = Changes::default();
        self.shared.change(|state| {
            let (done, again): (Vec<_>, Vec<_>) = ids.iter().copied().partition(|id| self.counts(state, *id));
            changes.removed = state.own.ack(&done);
            state.own.retry_later(&again, now, None);
            for id in &changes.removed {
                put_back_parked_of(state, *id, &mut changes.unparked);
            }
            for id in changes.removed.clone().iter().chain(&again) {
                state.held.resolve(*id, None, &mut changes);
            }
        });
        self.settle(changes);
    }

    fn retry_later(&self, ids: &[EntryId], delay: Duration, error: Option<&str>) {
        let until = self.shared.clock().now() + delay;
        let mut changes = Changes::default();
        self.shared.change(|state| {
            state.own.retry_later(ids, until, error);
            let rests = (!delay.is_zero()).then_some(delay);
            for id in ids {
                state.held.resolve(*id, rests, &mut changes);
            }
        });
        self.shared.signals.claimable.notify_waiters();
        self.settle(changes);
    }

    fn park(&self, ids: &[EntryId], error: &str) {
        let mut changes = Changes::default();
        self.shared.change(|state| {
            changes.rewritten = state.own.park(ids, error);
            for id in ids {
                state.held.resolve(*id, None, &mut changes);
            }
        });
        self.settle(changes);
    }

    fn unpark(&self, range: &KeyRange<KeyBytes>) -> usize {
        let mut changes = Changes::default();
        let count = self.shared.change(|state| {
            let own = state.own.unpark(range);
            changes.rewritten = own.iter().filter_map(|id| state.own.get(*id)).collect();
            let others = state.others.unpark(range);
            changes.unparked = others.iter().filter_map(|id| Some((*state.owners.get(id)?, *id))).collect();
            own.len() + others.len()
        });
        self.settle(changes);
        count
    }

    fn stats(&self) -> QueueStats {
        let clock = self.shared.clock();
        let (now, today) = (clock.now(), clock.unix_millis());
        let mut state = self.shared.lock();
        state.own.advance(now);
        let (own, others) = (state.own.stats(today), state.others.stats(today));
        QueueStats {
            open: own.open,
            ambiguous: own.ambiguous,
            released: own.released + others.released,
            claimed: own.claimed,
            parked: own.parked + others.parked,
            taints: others.taints,
            oldest_age: own.oldest_age.max(others.oldest_age),
        }
    }

    fn entries(&self, in_state: EntryState, limit: usize) -> Vec<Entry> {
        let state = self.shared.lock();
        let mut entries = state.own.entries(in_state, limit);
        entries.extend(state.others.entries(in_state, limit));
        entries.sort_by_key(|entry| entry.id);
        entries.truncate(limit);
        entries
    }

    fn is_clean(&self, key: &KeyBytes) -> bool {
        let now = self.shared.clock().now();
        let state = self.shared.lock();
        let stale_after = self.shared.options.stale_after;
        state.looked_at.is_some_and(|at| now <= at + stale_after)
            && state.own.is_clean(key)
            && state.others.is_clean(key)
    }

    fn watch(&self, range: KeyRange<KeyBytes>) -> WatchId {
        let mut state = self.shared.lock();
        state.watches += 1;
        // Both indexes begin and end the same watches, so they number them alike.
        let id = state.own.watch(range.clone());
        state.others.watch(range);
        id
    }

    fn unwatch(&self, id: WatchId) -> Vec<TouchItem> {
        let mut state = self.shared.lock();
        let Some(own) = state.own.end_watch(id) else { return Vec::new() };
        let others = state.others.end_watch(id).unwrap_or_default();
        state.watches = state.watches.saturating_sub(1);
        let mut seen: HashMap<Span, Intent> = HashMap::with_capacity(own.len());
        for item in own.into_iter().chain(others) {
            let intent = seen.entry(item.span).or_insert(item.intent);
            if *intent != item.intent {
                *intent = Intent::Unknown;
            }
        }
        seen.into_iter().map(|(span, intent)| TouchItem { span, intent }).collect()
    }

    async fn taint(&self, range: KeyRange<KeyBytes>, reason: &str) -> Result<TaintId> {
        self.lines()?;
        let id = TaintId(self.draw_id().await?.0);
        let taint = Taint { id, range, since: self.shared.clock().unix_millis(), reason: reason.to_owned() };
        // It counts from now on, whether or not it can be stored: too many taints do no harm.
        self.shared.change(|state| {
            state.taint_changes += 1;
            let Taint { id, range, since, reason } = taint.clone();
            state.others.add_taint(Some(id), range, since, reason);
        });
        let queue = self.shared.seat().queue;
        self.tables.put_taint(queue, &taint).await?;
        // A look that began before it was stored must not take it away.
        self.shared.lock().taint_changes += 1;
        Ok(id)
    }

    fn taints(&self) -> Vec<Taint> {
        self.shared.lock().others.taints().to_vec()
    }

    async fn clear_taint(&self, id: TaintId) -> Result<()> {
        self.lines()?;
        let queue = self.shared.seat().queue;
        self.tables.remove_taint(queue, id).await?;
        self.shared.change(|state| {
            state.taint_changes += 1;
            state.others.clear_taint(id);
        });
        Ok(())
    }

    async fn draw_stamp(&self) -> Result<Stamp> {
        self.lines()?;
        self.tables.draw_stamp(self.shared.seat().queue).await
    }

    async fn raise_stamps_above(&self, seen: Stamp) -> Result<()> {
        self.lines()?;
        self.tables.raise_stamps_above(self.shared.seat().queue, seen).await
    }

    async fn recover(&self, settle_time: Duration) -> Result<u64> {
        self.ask(|answer| Request::Recover(settle_time, answer)).await
    }

    async fn wait_claimable(&self) {
        let notified = self.shared.signals.claimable.notified();
        tokio::pin!(notified);
        notified.as_mut().enable();
        let deadline = {
            let mut state = self.shared.lock();
            state.own.advance(self.shared.clock().now());
            if state.own.may_claim() {
                return;
            }
            state.own.next_deadline()
        };
        match deadline {
            // Whether the deadline or a signal came first makes no difference: the caller looks again.
            Some(deadline) => drop(tokio::time::timeout_at(deadline, notified).await),
            None => notified.await,
        }
    }

    async fn wait_room(&self) {
        let notified = self.shared.signals.room.notified();
        tokio::pin!(notified);
        notified.as_mut().enable();
        let full = {
            let state = self.shared.lock();
            !self.shared.has_room(&state)
        };
        if full {
            notified.await;
        }
    }

    async fn wait_drained(&self) {
        loop {
            let notified = self.shared.signals.drained.notified();
            tokio::pin!(notified);
            notified.as_mut().enable();
            if !self.shared.lock().own.is_drained() {
                notified.await;
                continue;
            }
            if self.catch_up().await.is_ok() {
                let state = self.shared.lock();
                if state.own.is_drained() && state.others.is_drained() {
                    return;
                }
            }
            tokio::time::sleep(self.shared.options.poll).await;
        }
    }

    async fn catch_up(&self) -> Result<()> {
        self.ask(Request::CatchUp).await
    }

    fn guarantee(&self) -> Guarantee {
        if self.shared.options.transactional { Guarantee::Transactional } else { Guarantee::Shared }
    }

    async fn close(&self) -> Result<()> {
        drop(self.lines.lock().unwrap_or_else(PoisonError::into_inner).take());
        let mut tasks = self.tasks.lock().await;
        let Some(Tasks { inserts, keeper, settle }) = tasks.as_mut() else { return Ok(()) };
        // They end when their last order is carried out. A panic in one has been reported by now.
        for inserter in inserts {
            let _ = inserter.await;
        }
        let _ = keeper.await;
        let settled = settle.await.unwrap_or_else(|_| Err(stopped()));
        *tasks = None;
        settled?;
        self.tables.leave(self.shared.seat()).await
    }
}

/// The secondary was just brought into step for the keys of an entry: that may be what parked entries of
/// other instances waited for.
fn put_back_parked_of(state: &mut State, id: EntryId, unparked: &mut Vec<(i64, EntryId)>) {
    if state.others.parked() == 0 {
        return;
    }
    let keys: Vec<KeyBytes> = state
        .held
        .spans(id)
        .filter_map(|span| match span {
            Span::Key(key) => Some(key.clone()),
            Span::Range(_) => None,
        })
        .collect();
    for parked in state.others.entries(EntryState::Parked, usize::MAX) {
        if keys.iter().any(|key| parked.touch.covers(key))
            && let Some(owner) = state.owners.get(&parked.id)
        {
            unparked.push((*owner, parked.id));
        }
    }
}
