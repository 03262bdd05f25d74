//! The queue's state machine without storage.
//!
//! Two claims never share a key: a key is locked while an entry that names it is claimed, and stays
//! locked for the delay of a retry, because a secondary write that was given up on may land until then.
//! Ranges lock every key inside them.

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::time::Duration;

use foldhash::fast::RandomState;
use smallvec::SmallVec;
use tokio::time::Instant;

use super::{
    Direction, Entry, EntryId, EntryState, Epoch, Intent, QueueStats, Span, Taint, TaintId, Touch, TouchItem,
    WatchId,
};
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
    watches: Vec<Watch>,
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

#[derive(Debug)]
struct Watch {
    id: WatchId,
    range: KeyRange,
    seen: HashMap<Span, Intent, RandomState>,
    full: bool,
}

impl Watch {
    /// Keys that are kept one by one. A watch that has seen more says "the whole range", so that a long
    /// one takes bounded memory.
    const LIMIT: usize = 100_000;

    fn note(&mut self, touch: &Touch) {
        if self.seen.len() > Self::LIMIT {
            self.seen = HashMap::default();
            self.seen.insert(Span::Range(self.range.clone()), Intent::Unknown);
            self.full = true;
        }
        if self.full {
            return;
        }
        for item in touch.items().iter().filter(|item| item.span.meets(&self.range)) {
            let intent = self.seen.entry(item.span.clone()).or_insert(item.intent);
            if *intent != item.intent {
                *intent = Intent::Unknown;
            }
        }
    }
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

    /// Claims the released entries of at most `keys` keys or ranges, oldest first, and with each key its
    /// parked entries: what is written now may be what they waited for.
    pub fn claim(&mut self, direction: Direction, keys: usize) -> Vec<Entry> {
        let mut claimed = Vec::new();
        let mut mine = Vec::new();
        let mut spans = 0;
        let mut after = EntryId(0);
        let lane = lane(direction);
        while spans < keys {
            let Some(&id) = self.ready[lane].range(EntryId(after.0 + 1)..).next() else { break };
            after = id;
            match self.blocked(id, &mine) {
                Blocked::Free => {
                    spans += self.take(id, &mut claimed, &mut mine);
                }
                Blocked::ByKey => {
                    // Unlocking the key brings it back.
                    self.ready[lane].remove(&id);
                }
                Blocked::ByRange => {
                    self.ready[lane].remove(&id);
                    self.waiting.insert(id);
                    if self.ranged.contains(&id) {
                        self.reserved.insert(id);
                    }
                }
            }
        }
        claimed.sort_unstable_by_key(|entry: &Entry| entry.id);
        claimed
    }

    /// Whether an entry's keys are free, or locked by the claim that is being made (`mine`).
    fn blocked(&self, id: EntryId, mine: &[EntryId]) -> Blocked {
        let Some(slot) = self.slots.get(&id) else { return Blocked::Free };
        let locked_elsewhere = |slot: &KeySlot| {
            slot.held_until.is_some()
                || slot.claimed > 0 && !slot.entries.iter().any(|entry| mine.binary_search(entry).is_ok())
        };
        for item in slot.touch.items() {
            match &item.span {
                Span::Key(key) => {
                    if self.keys.get(key).is_some_and(locked_elsewhere) {
                        return Blocked::ByKey;
                    }
                    if self.range_locks.iter().any(|lock| lock.range.contains(key)) {
                        return Blocked::ByRange;
                    }
                }
                Span::Range(range) => {
                    let by_range = self.range_locks.iter().any(|lock| lock.range.overlaps(range));
                    // Ranges are rare, so looking at every key costs little over a migration.
                    if by_range || self.keys.iter().any(|(key, slot)| slot.is_locked() && range.contains(key))
                    {
                        return Blocked::ByRange;
                    }
                }
            }
            let behind = self.reserved.range(..id).any(|earlier| {
                self.slots.get(earlier).is_some_and(|earlier| {
                    earlier.touch.items().iter().any(|reserved| match (&reserved.span, &item.span) {
                        (Span::Range(range), span) => span.meets(range),
                        (Span::Key(_), _) => false,
                    })
                })
            });
            if behind {
                return Blocked::ByRange;
            }
        }
        Blocked::Free
    }

    /// Claims an entry that is free, and with it what waits for the same keys alone and what is parked for
    /// them. Returns how many keys and ranges that locked.
    fn take(&mut self, id: EntryId, claimed: &mut Vec<Entry>, mine: &mut Vec<EntryId>) -> usize {
        let mut spans = 0;
        let mut next: SmallVec<[EntryId; 4]> = SmallVec::from_slice(&[id]);
        while let Some(id) = next.pop() {
            if self.blocked(id, mine) != Blocked::Free
                || !self.shift(id, &[EntryState::Released, EntryState::Parked], EntryState::Claimed)
            {
                continue;
            }
            self.waiting.remove(&id);
            self.reserved.remove(&id);
            let Some(slot) = self.slots.get(&id) else { continue };
            self.ready[lane(slot.direction)].remove(&id);
            if let Err(at) = mine.binary_search(&id) {
                mine.insert(at, id);
            }
            claimed.push(view(id, slot));
            for item in slot.touch.items() {
                match &item.span {
                    Span::Key(key) => {
                        let Some(of_key) = self.keys.get_mut(key) else { continue };
                        spans += usize::from(of_key.claimed == 0);
                        of_key.claimed += 1;
                        next.extend(of_key.entries.iter().copied().filter(|other| {
                            self.slots.get(other).is_some_and(|other| {
                                let comes_along = match other.state {
                                    // A wider one is looked at in its turn.
                                    EntryState::Released => other.touch.items().len() == 1,
                                    EntryState::Parked => true,
                                    _ => false,
                                };
                                comes_along && other.direction == slot.direction
                            })
                        }));
                    }
                    Span::Range(range) => {
                        spans += 1;
                        self.range_locks.push(RangeLock { range: range.clone(), entry: id, held: false });
                    }
                }
            }
        }
        spans
    }

    /// Removes claimed entries. Returns those that were there.
    pub fn ack(&mut self, ids: &[EntryId]) -> Vec<EntryId> {
        ids.iter()
            .copied()
            .filter(|id| match self.remove(*id, EntryState::Claimed) {
                Some(slot) => {
                    self.unlock(*id, &slot.touch, None);
                    true
                }
                None => false,
            })
            .collect()
    }

    /// CLAIMED becomes RELEASED; the keys stay locked until `until`.
    pub fn retry_later(&mut self, ids: &[EntryId], until: Instant, error: Option<&str>) {
        for id in ids {
            if let Some(touch) = self.give_back(*id, EntryState::Released, error) {
                self.unlock(*id, &touch, Some(until));
            }
        }
    }

    /// CLAIMED becomes PARKED. Returns the entries that were parked.
    pub fn park(&mut self, ids: &[EntryId], error: &str) -> Vec<Entry> {
        let mut parked = Vec::new();
        for id in ids {
            if let Some(touch) = self.give_back(*id, EntryState::Parked, Some(error)) {
                self.unlock(*id, &touch, None);
                parked.extend(self.slots.get(id).map(|slot| view(*id, slot)));
            }
        }
        parked
    }

    fn give_back(&mut self, id: EntryId, to: EntryState, error: Option<&str>) -> Option<Touch> {
        if !self.shift(id, &[EntryState::Claimed], to) {
            return None;
        }
        let slot = self.slots.get_mut(&id)?;
        if let Some(error) = error {
            slot.attempts = slot.attempts.saturating_add(1);
            slot.last_error = Some(error.into());
        }
        Some(slot.touch.clone())
    }

    /// Takes the locks of one claimed entry off its keys, or turns them into holds until `until`.
    fn unlock(&mut self, id: EntryId, touch: &Touch, until: Option<Instant>) {
        for item in touch.items() {
            match &item.span {
                Span::Key(key) => {
                    // An acknowledged entry is gone from its key; the lock is not.
                    let slot = self.keys.entry(key.clone()).or_default();
                    slot.claimed = slot.claimed.saturating_sub(1);
                    if let Some(until) = until {
                        slot.held_until = Some(slot.held_until.map_or(until, |held| held.max(until)));
                        self.timers.insert((until, Timer::KeyHeld(key.clone())));
                    }
                    self.free_key(key);
                }
                Span::Range(_) => {
                    if let Some(until) = until {
                        for lock in self.range_locks.iter_mut().filter(|lock| lock.entry == id) {
                            lock.held = true;
                        }
                        self.timers.insert((until, Timer::RangeHeld(id)));
                    } else {
                        self.range_locks.retain(|lock| lock.entry != id);
                        self.wake_waiting();
                    }
                }
            }
        }
    }

    /// If the key is free, lets its entries be looked at again.
    fn free_key(&mut self, key: &KeyBytes) {
        let Some(slot) = self.keys.get(key) else { return };
        if slot.is_locked() {
            return;
        }
        for id in &slot.entries {
            if let Some(slot) = self.slots.get(id)
                && slot.state == EntryState::Released
            {
                self.ready[lane(slot.direction)].insert(*id);
            }
        }
        if slot.entries.is_empty() {
            self.keys.remove(key);
        }
        self.wake_waiting();
    }

    fn wake_waiting(&mut self) {
        for id in self.waiting.drain() {
            if let Some(slot) = self.slots.get(&id)
                && slot.state == EntryState::Released
            {
                self.ready[lane(slot.direction)].insert(id);
            }
        }
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

    /// Begins a watch, with the entries that cover a part of the range already.
    pub fn watch(&mut self, range: KeyRange) -> WatchId {
        let id = WatchId(self.next_watch);
        self.next_watch += 1;
        let mut watch = Watch { id, range, seen: HashMap::default(), full: false };
        self.slots.values().for_each(|slot| watch.note(&slot.touch));
        self.watches.push(watch);
        id
    }

    /// Ends a watch; returns what was touched, in no order.
    pub fn unwatch(&mut self, id: WatchId) -> Vec<TouchItem> {
        self.end_watch(id).unwrap_or_default()
    }

    /// As [`unwatch`](Self::unwatch); `None` when there is no such watch.
    pub fn end_watch(&mut self, id: WatchId) -> Option<Vec<TouchItem>> {
        let at = self.watches.iter().position(|watch| watch.id == id)?;
        let watch = self.watches.swap_remove(at);
        Some(watch.seen.into_iter().map(|(span, intent)| TouchItem { span, intent }).collect())
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

#[derive(Clone, Copy, PartialEq, Eq)]
enum Blocked {
    Free,
    ByKey,
    ByRange,
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
