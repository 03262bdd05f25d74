//! The queue's state machine without storage.
//!
//! Two claims never share a key: a key is locked while an entry that names it is claimed, and stays
//! locked for the delay of a retry, because a secondary write that was given up on may land until then.
//! Ranges lock every key inside them.

mod claims;
mod watches;

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::time::Duration;

use foldhash::fast::RandomState;
use smallvec::SmallVec;
use tokio::time::Instant;

use super::{Direction, Entry, EntryId, EntryState, Epoch, QueueStats, Span, Taint, TaintId, Touch};
use crate::clock::UnixMillis;
use crate::error::{Error, Kind, Result};
use crate::key::{KeyBytes, KeyRange};
use crate::store::Stamp;

/// Entries, their states and locks, in memory. A queue wraps it in a lock and adds storage.
///
/// No call blocks, reads a clock or does I/O. Calls about entries that are not in the state they need
/// change nothing: they come from destructors and retries, and may come twice.
#[derive(Debug)]
pub struct QueueIndex {
    limit: usize,
    next_id: u64,
    next_taint: u64,
    next_watch: u64,
    newest_stamp: u64,
    slots: HashMap<EntryId, Slot, RandomState>,
    keys: HashMap<KeyBytes, KeySlot, RandomState>,
    /// Entries with at least one range; there are few.
    ranged: BTreeSet<EntryId>,
    range_locks: Vec<RangeLock>,
    /// Released entries that no lock is known to stop, by direction.
    ready: [BTreeSet<EntryId>; 2],
    /// Released entries that a range stops, or whose range a key stops. Looked at again at every unlock.
    waiting: HashSet<EntryId, RandomState>,
    /// Range entries among `waiting`: newer entries of their keys queue up behind them, or a busy range
    /// would never be free.
    reserved: BTreeSet<EntryId>,
    timers: BTreeSet<(Instant, Timer)>,
    counts: [u64; 5],
    /// Ids in the order of opening, with gaps to be skipped.
    order: VecDeque<EntryId>,
    watches: Vec<watches::Watch>,
    taints: Vec<Taint>,
}

#[derive(Debug)]
struct Slot {
    touch: Touch,
    state: EntryState,
    epoch: Epoch,
    direction: Direction,
    opened_at: UnixMillis,
    attempts: u32,
    last_error: Option<Box<str>>,
}

#[derive(Debug, Default)]
struct KeySlot {
    entries: SmallVec<[EntryId; 2]>,
    claimed: u32,
    held_until: Option<Instant>,
}

impl KeySlot {
    fn is_locked(&self) -> bool {
        self.claimed > 0 || self.held_until.is_some()
    }
}

#[derive(Debug)]
struct RangeLock {
    range: KeyRange,
    entry: EntryId,
    held: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Timer {
    Settled(EntryId),
    KeyHeld(KeyBytes),
    RangeHeld(EntryId),
}

const fn count_of(state: EntryState) -> usize {
    match state {
        EntryState::Open => 0,
        EntryState::Ambiguous => 1,
        EntryState::Released => 2,
        EntryState::Claimed => 3,
        EntryState::Parked => 4,
    }
}

const fn lane(direction: Direction) -> usize {
    match direction {
        Direction::OldToNew => 0,
        Direction::NewToOld => 1,
    }
}

impl QueueIndex {
    /// An empty index that takes at most `limit` entries.
    pub fn new(limit: usize) -> Self {
        Self {
            limit,
            next_id: 1,
            next_taint: 1,
            next_watch: 1,
            newest_stamp: 0,
            slots: HashMap::default(),
            keys: HashMap::default(),
            ranged: BTreeSet::new(),
            range_locks: Vec::new(),
            ready: [BTreeSet::new(), BTreeSet::new()],
            waiting: HashSet::default(),
            reserved: BTreeSet::new(),
            timers: BTreeSet::new(),
            counts: [0; 5],
            order: VecDeque::new(),
            watches: Vec::new(),
            taints: Vec::new(),
        }
    }

    /// Adds an OPEN entry.
    ///
    /// # Errors
    /// [`Kind::Limit`] when the queue is full.
    pub fn open(
        &mut self,
        touch: Touch,
        epoch: Epoch,
        direction: Direction,
        opened_at: UnixMillis,
    ) -> Result<EntryId> {
        if self.slots.len() >= self.limit {
            return Err(full(self.limit));
        }
        let id = EntryId(self.next_id);
        self.open_as(id, touch, epoch, direction, opened_at);
        Ok(id)
    }

    /// Adds an OPEN entry under an id that the storage has given out. The limit does not apply.
    pub fn open_as(
        &mut self,
        id: EntryId,
        touch: Touch,
        epoch: Epoch,
        direction: Direction,
        opened_at: UnixMillis,
    ) {
        self.note(&touch);
        self.insert(id, touch, epoch, direction, opened_at, EntryState::Open);
    }

    /// Tells the watches of a touch that is not in this index.
    pub fn note(&mut self, touch: &Touch) {
        for watch in &mut self.watches {
            watch.note(touch);
        }
    }

    /// Removes an entry that is not claimed, in whatever state: somebody else looks after it now.
    pub fn forget(&mut self, id: EntryId) -> Option<Entry> {
        let state = self.slots.get(&id)?.state;
        if state == EntryState::Claimed {
            return None;
        }
        let slot = self.remove(id, state)?;
        self.waiting.remove(&id);
        self.reserved.remove(&id);
        self.ready[lane(slot.direction)].remove(&id);
        Some(view(id, &slot))
    }

    /// Adds a PARKED entry and returns it.
    pub fn open_parked(
        &mut self,
        touch: Touch,
        epoch: Epoch,
        direction: Direction,
        opened_at: UnixMillis,
        error: &str,
    ) -> Entry {
        let id = EntryId(self.next_id);
        let state = EntryState::Parked;
        let last_error = Some(error.to_owned());
        let entry = Entry { id, touch, state, epoch, direction, opened_at, attempts: 1, last_error };
        self.restore(entry.clone());
        entry
    }

    /// Brings back an entry that storage kept: as PARKED if it was, else as RELEASED. A queue that has
    /// just been opened calls [`hold_all`](Self::hold_all) afterwards. The limit does not apply.
    pub fn restore(&mut self, entry: Entry) {
        let state = match entry.state {
            EntryState::Parked => EntryState::Parked,
            _ => EntryState::Released,
        };
        let id = entry.id;
        self.insert(id, entry.touch, entry.epoch, entry.direction, entry.opened_at, state);
        if let Some(slot) = self.slots.get_mut(&id) {
            slot.attempts = entry.attempts;
            slot.last_error = entry.last_error.map(String::into_boxed_str);
            if state == EntryState::Released {
                self.ready[lane(entry.direction)].insert(id);
            }
        }
    }

    fn insert(
        &mut self,
        id: EntryId,
        touch: Touch,
        epoch: Epoch,
        direction: Direction,
        opened_at: UnixMillis,
        state: EntryState,
    ) {
        self.next_id = self.next_id.max(id.0 + 1);
        self.register(id, &touch);
        let slot = Slot { touch, state, epoch, direction, opened_at, attempts: 0, last_error: None };
        self.slots.insert(id, slot);
        self.counts[count_of(state)] += 1;
        self.order.push_back(id);
        if self.order.len() > 64 + 2 * self.slots.len() {
            let slots = &self.slots;
            self.order.retain(|id| slots.contains_key(id));
        }
    }

    fn register(&mut self, id: EntryId, touch: &Touch) {
        for item in touch.items() {
            match &item.span {
                Span::Key(key) => {
                    let entries = &mut match self.keys.get_mut(key) {
                        Some(slot) => slot,
                        None => self.keys.entry(key.clone()).or_default(),
                    }
                    .entries;
                    if !entries.contains(&id) {
                        entries.push(id);
                    }
                }
                Span::Range(_) => {
                    self.ranged.insert(id);
                }
            }
        }
    }

    fn unregister(&mut self, id: EntryId, touch: &Touch) {
        for item in touch.items() {
            match &item.span {
                Span::Key(key) => {
                    if let Some(slot) = self.keys.get_mut(key) {
                        slot.entries.retain(|entry| *entry != id);
                        if slot.entries.is_empty() && !slot.is_locked() {
                            self.keys.remove(key);
                        }
                    }
                }
                Span::Range(_) => {
                    self.ranged.remove(&id);
                }
            }
        }
    }

    /// Moves an entry to a state, if it is in one of `from`. Tells whether it was.
    fn shift(&mut self, id: EntryId, from: &[EntryState], to: EntryState) -> bool {
        let Some(slot) = self.slots.get_mut(&id) else { return false };
        if !from.contains(&slot.state) {
            return false;
        }
        self.counts[count_of(slot.state)] -= 1;
        self.counts[count_of(to)] += 1;
        slot.state = to;
        if to == EntryState::Released {
            self.ready[lane(slot.direction)].insert(id);
        }
        true
    }

    fn remove(&mut self, id: EntryId, from: EntryState) -> Option<Slot> {
        if self.slots.get(&id).is_none_or(|slot| slot.state != from) {
            return None;
        }
        let slot = self.slots.remove(&id)?;
        self.counts[count_of(from)] -= 1;
        self.unregister(id, &slot.touch);
        Some(slot)
    }

    /// OPEN becomes RELEASED. See [`WriteQueue::release`](super::WriteQueue::release).
    pub fn release(&mut self, id: EntryId, narrowed: Option<Touch>) {
        if !self.shift(id, &[EntryState::Open], EntryState::Released) {
            return;
        }
        let Some(narrowed) = narrowed else { return };
        let Some(slot) = self.slots.get_mut(&id) else { return };
        if slot.touch.covers_touch(&narrowed) {
            let wide = std::mem::replace(&mut slot.touch, narrowed.clone());
            self.unregister(id, &wide);
            self.register(id, &narrowed);
        }
    }

    /// OPEN becomes AMBIGUOUS until `until`.
    pub fn hold(&mut self, id: EntryId, until: Instant) {
        if self.shift(id, &[EntryState::Open], EntryState::Ambiguous) {
            self.timers.insert((until, Timer::Settled(id)));
        }
    }

    /// Holds every RELEASED entry as AMBIGUOUS until `until`; returns how many. For entries of an earlier
    /// process, of which nobody knows where they stood.
    pub fn hold_all(&mut self, until: Instant) -> u64 {
        let mut held = 0;
        for direction in 0..self.ready.len() {
            for id in std::mem::take(&mut self.ready[direction]) {
                if self.shift(id, &[EntryState::Released], EntryState::Ambiguous) {
                    self.timers.insert((until, Timer::Settled(id)));
                    held += 1;
                }
            }
        }
        held
    }

    /// Removes an OPEN entry. Tells whether there was one.
    pub fn cancel(&mut self, id: EntryId) -> bool {
        self.remove(id, EntryState::Open).is_some()
    }

    /// Lets everything happen whose time has come. Tells whether anything did.
    pub fn advance(&mut self, now: Instant) -> bool {
        let mut any = false;
        while let Some((at, _)) = self.timers.first()
            && *at <= now
        {
            let Some((_, timer)) = self.timers.pop_first() else { break };
            any = true;
            match timer {
                Timer::Settled(id) => {
                    self.shift(id, &[EntryState::Ambiguous], EntryState::Released);
                }
                Timer::KeyHeld(key) => {
                    if let Some(slot) = self.keys.get_mut(&key)
                        && slot.held_until.is_some_and(|held| held <= now)
                    {
                        slot.held_until = None;
                        self.free_key(&key);
                    }
                }
                Timer::RangeHeld(id) => {
                    self.range_locks.retain(|lock| lock.entry != id || !lock.held);
                    self.wake_waiting();
                }
            }
        }
        any
    }

    /// When [`advance`](Self::advance) has something to do next.
    pub fn next_deadline(&self) -> Option<Instant> {
        self.timers.first().map(|(at, _)| *at)
    }

    /// Whether a claim may find something.
    pub fn may_claim(&self) -> bool {
        self.ready.iter().any(|lane| !lane.is_empty())
    }

    /// Whether there is room for one more entry.
    pub fn has_room(&self) -> bool {
        self.slots.len() < self.limit
    }

    /// PARKED becomes RELEASED for the entries that touch the range. Returns them.
    pub fn unpark(&mut self, range: &KeyRange) -> Vec<EntryId> {
        let touches = |slot: &Slot| slot.touch.items().iter().any(|item| item.span.meets(range));
        let mut ids: Vec<EntryId> = self
            .slots
            .iter()
            .filter(|(_, slot)| slot.state == EntryState::Parked && touches(slot))
            .map(|(id, _)| *id)
            .collect();
        ids.sort_unstable();
        for id in &ids {
            self.shift(*id, &[EntryState::Parked], EntryState::Released);
            if let Some(slot) = self.slots.get_mut(id) {
                slot.attempts = 0;
            }
        }
        ids
    }

    /// Counts by state at a time of day.
    pub fn stats(&mut self, unix_millis: UnixMillis) -> QueueStats {
        let [open, ambiguous, released, claimed, parked] = self.counts;
        let slots = &self.slots;
        // What is gone never comes back, so it can be dropped from the front for good.
        while self.order.front().is_some_and(|id| !slots.contains_key(id)) {
            self.order.pop_front();
        }
        let oldest = self
            .order
            .iter()
            .filter_map(|id| slots.get(id))
            .find(|slot| slot.state != EntryState::Parked)
            .map_or(unix_millis, |slot| slot.opened_at);
        QueueStats {
            open,
            ambiguous,
            released,
            claimed,
            parked,
            taints: self.taints.len() as u64,
            oldest_age: Duration::from_millis(unix_millis.saturating_sub(oldest)),
        }
    }

    /// At most `limit` entries in a state, oldest first.
    pub fn entries(&self, state: EntryState, limit: usize) -> Vec<Entry> {
        let in_state = self.order.iter().filter_map(|id| Some((*id, self.slots.get(id)?)));
        in_state
            .filter(|(_, slot)| slot.state == state)
            .take(limit)
            .map(|(id, slot)| view(id, slot))
            .collect()
    }

    /// One entry.
    pub fn get(&self, id: EntryId) -> Option<Entry> {
        self.slots.get(&id).map(|slot| view(id, slot))
    }

    /// Whether an entry is parked. `None` when there is no such entry.
    pub fn is_parked(&self, id: EntryId) -> Option<bool> {
        self.slots.get(&id).map(|slot| slot.state == EntryState::Parked)
    }

    /// How many entries are parked.
    pub const fn parked(&self) -> u64 {
        self.counts[count_of(EntryState::Parked)]
    }

    /// How many entries there are in any state.
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    /// Whether there is no entry.
    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// Whether only parked entries are left.
    pub fn is_drained(&self) -> bool {
        self.counts[..4].iter().all(|count| *count == 0)
    }

    /// Whether no entry and no taint covers the key.
    pub fn is_clean(&self, key: &KeyBytes) -> bool {
        self.keys.get(key).is_none_or(|slot| slot.entries.is_empty())
            && self.ranged.iter().all(|id| self.slots.get(id).is_none_or(|slot| !slot.touch.covers(key)))
            && self.taints.iter().all(|taint| !taint.range.contains(key))
    }

    /// Adds a taint; `id` is given when storage kept it.
    pub fn add_taint(
        &mut self,
        id: Option<TaintId>,
        range: KeyRange,
        since: UnixMillis,
        reason: String,
    ) -> TaintId {
        let id = id.unwrap_or(TaintId(self.next_taint));
        self.next_taint = self.next_taint.max(id.0 + 1);
        self.taints.push(Taint { id, range, since, reason });
        id
    }

    /// The taints that stand.
    pub fn taints(&self) -> &[Taint] {
        &self.taints
    }

    /// Removes a taint. Tells whether there was one.
    pub fn clear_taint(&mut self, id: TaintId) -> bool {
        let before = self.taints.len();
        self.taints.retain(|taint| taint.id != id);
        self.taints.len() < before
    }

    /// The next stamp.
    pub fn draw_stamp(&mut self) -> Stamp {
        self.newest_stamp += 1;
        Stamp(self.newest_stamp)
    }

    /// Makes later stamps greater than `seen`.
    pub fn raise_stamps_above(&mut self, seen: Stamp) {
        self.newest_stamp = self.newest_stamp.max(seen.0);
    }

    /// The stamp that was drawn last.
    pub const fn newest_stamp(&self) -> Stamp {
        Stamp(self.newest_stamp)
    }

    /// Makes later ids greater than `seen`, for storage that has dropped the entries which bore them.
    pub fn raise_ids_above(&mut self, seen: EntryId) {
        self.next_id = self.next_id.max(seen.0 + 1);
    }
}

/// The refusal of an entry that finds no room.
fn full(limit: usize) -> Error {
    Error::new(Kind::Limit, format!("the secondary-write queue is full: {limit} entries, its limit"))
}

fn view(id: EntryId, slot: &Slot) -> Entry {
    Entry {
        id,
        touch: slot.touch.clone(),
        state: slot.state,
        epoch: slot.epoch,
        direction: slot.direction,
        opened_at: slot.opened_at,
        attempts: slot.attempts,
        last_error: slot.last_error.as_deref().map(str::to_owned),
    }
}
