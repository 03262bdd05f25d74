use std::collections::HashMap;
use std::time::Duration;

use zdm_core::queue::{EntryId, Span, Touch};

use super::tables::{Changes, lock_of};

/// Which locks of the tables stand behind which claimed entries.
#[derive(Debug, Default)]
pub(super) struct Held {
    entries: HashMap<EntryId, HeldEntry>,
    locks: HashMap<(i64, Span), Lock>,
}

#[derive(Debug)]
struct HeldEntry {
    /// How often this instance had joined when the entry was claimed.
    seating: u64,
    locks: Vec<(i64, Span)>,
}

#[derive(Debug, Default)]
struct Lock {
    entries: u32,
    rests: Option<Duration>,
}

impl Held {
    /// Notes a claimed entry. `number` tells the number of the lock on a span.
    pub(super) fn insert(
        &mut self,
        id: EntryId,
        touch: &Touch,
        seating: u64,
        number: impl Fn(&Span) -> Option<i64>,
    ) {
        let mut locks: Vec<(i64, Span)> = Vec::with_capacity(touch.items().len());
        for item in touch.items() {
            let Some(number) = number(&item.span) else { continue };
            let span = match &item.span {
                Span::Key(key) => Span::Key(lock_of(key)),
                Span::Range(range) => Span::Range(range.clone()),
            };
            let lock = (number, span);
            if !locks.contains(&lock) {
                self.locks.entry(lock.clone()).or_default().entries += 1;
                locks.push(lock);
            }
        }
        self.entries.insert(id, HeldEntry { seating, locks });
    }

    /// When the entry was claimed. `None` when it is not.
    pub(super) fn seating(&self, id: EntryId) -> Option<u64> {
        self.entries.get(&id).map(|entry| entry.seating)
    }

    /// The spans that the entry locks.
    pub(super) fn spans(&self, id: EntryId) -> impl Iterator<Item = &Span> {
        self.entries.get(&id).into_iter().flat_map(|entry| entry.locks.iter().map(|(_, span)| span))
    }

    /// The entry is done with. A lock is free, or rests, when the last entry behind it is.
    pub(super) fn resolve(&mut self, id: EntryId, rests: Option<Duration>, changes: &mut Changes) {
        let Some(entry) = self.entries.remove(&id) else { return };
        for of_entry in entry.locks {
            let Some(lock) = self.locks.get_mut(&of_entry) else { continue };
            lock.entries -= 1;
            lock.rests = lock.rests.max(rests);
            if lock.entries > 0 {
                continue;
            }
            let rests = lock.rests;
            self.locks.remove(&of_entry);
            match (of_entry, rests) {
                ((number, Span::Key(key)), None) => changes.freed.push((key, number)),
                ((number, Span::Key(key)), Some(rest)) => changes.resting.push((key, number, rest)),
                ((number, Span::Range(_)), None) => changes.freed_ranges.push(number),
                ((number, Span::Range(_)), Some(rest)) => changes.resting_ranges.push((number, rest)),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_is_free_when_the_last_entry_behind_it_is_done() {
        let mut held = Held::default();
        let touch = Touch::upsert(&7_u64).encode();
        let both = touch.clone().and(Touch::upsert(&8_u64).encode());
        held.insert(EntryId(1), &touch, 1, |_| Some(5));
        held.insert(EntryId(2), &both, 1, |_| Some(5));
        let mut changes = Changes::default();
        held.resolve(EntryId(1), Some(Duration::from_secs(1)), &mut changes);
        held.resolve(EntryId(1), None, &mut changes);
        assert!(changes.is_empty(), "{changes:?}");
        held.resolve(EntryId(2), None, &mut changes);
        assert_eq!((changes.resting.len(), changes.freed.len()), (1, 1));
        assert_eq!(changes.resting[0].2, Duration::from_secs(1));
        assert_eq!(held.seating(EntryId(2)), None);
    }
}
