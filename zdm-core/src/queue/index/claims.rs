//! Who may work on which keys.

use smallvec::SmallVec;
use tokio::time::Instant;

use super::{KeySlot, QueueIndex, RangeLock, Timer, lane, view};
use crate::key::KeyBytes;
use crate::queue::{Direction, Entry, EntryId, EntryState, Span, Touch};

#[derive(Clone, Copy, PartialEq, Eq)]
enum Blocked {
    Free,
    ByKey,
    ByRange,
}

impl QueueIndex {
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
    pub(super) fn free_key(&mut self, key: &KeyBytes) {
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

    pub(super) fn wake_waiting(&mut self) {
        for id in self.waiting.drain() {
            if let Some(slot) = self.slots.get(&id)
                && slot.state == EntryState::Released
            {
                self.ready[lane(slot.direction)].insert(id);
            }
        }
    }
}
