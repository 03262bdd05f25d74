//! Claiming entries: what they touch is locked in the tables, so that one instance at a time reconciles a key.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::time::Duration;

use tokio::sync::oneshot;
use zdm_core::error::{Kind, Result};
use zdm_core::key::{KeyBytes, KeyRange};
use zdm_core::queue::{Claim, Direction, Entry, EntryId, Span};

use super::keeper::stopped;
use super::queue::{Lines, SharedQueue};
use super::state::{Shared, State};
use super::tables::{Changes, Claimed, QueueTables, Wanted, lock_of};

/// How long an entry rests whose key another instance has locked.
const BUSY_PAUSE: Duration = Duration::from_millis(10);

/// How often locking is tried again when the database ended it for somebody else's sake.
const CLAIM_RETRIES: usize = 3;

impl<T: QueueTables> SharedQueue<T> {
    /// Claims entries whose keys no other instance has locked.
    pub(super) async fn claim_locked(&self, direction: Direction, keys: usize) -> Result<Option<Claim>> {
        let lines = self.lines()?;
        let now = self.shared.clock().now();
        let (mut entries, wanted, seating) = {
            let mut state = self.shared.lock();
            state.own.advance(now);
            let entries = state.own.claim(direction, keys);
            if entries.is_empty() {
                return Ok(None);
            }
            let wanted = wanted(&mut state, &entries);
            (entries, wanted, state.seating)
        };
        let ids = entries.iter().map(|entry| entry.id).collect();
        let mut unclaimed = Unclaimed { shared: &self.shared, ids, rest: Duration::ZERO };
        let ranges: HashMap<KeyRange, i64> = wanted.ranges.iter().cloned().collect();
        let number = wanted.number;
        let Some(claimed) = self.lock_in_tables(&lines, wanted).await? else {
            // It takes its place again at the next look.
            unclaimed.rest = self.shared.options.poll;
            self.look_soon();
            return Ok(None);
        };
        let got_keys: HashSet<&KeyBytes> = claimed.keys.iter().collect();
        let got_ranges: HashSet<i64> = claimed.ranges.iter().copied().collect();
        let number_of = |span: &Span| match span {
            Span::Key(key) => got_keys.contains(&lock_of(key)).then_some(number),
            Span::Range(range) => ranges.get(range).copied().filter(|number| got_ranges.contains(number)),
        };
        entries.retain(|entry| entry.touch.items().iter().all(|item| number_of(&item.span).is_some()));
        // The others rest, with what was locked for them alone.
        let mine: HashSet<EntryId> = entries.iter().map(|entry| entry.id).collect();
        let (mut used_keys, mut used_ranges) = (HashSet::new(), HashSet::new());
        for item in entries.iter().flat_map(|entry| entry.touch.items()) {
            match &item.span {
                Span::Key(key) => drop(used_keys.insert(lock_of(key))),
                Span::Range(range) => drop(used_ranges.insert(ranges.get(range).copied())),
            }
        }
        let spare_keys = claimed.keys.iter().filter(|key| !used_keys.contains(*key)).cloned().collect();
        let spare_ranges =
            claimed.ranges.iter().copied().filter(|range| !used_ranges.contains(&Some(*range))).collect();
        lines.settle.order(given_back(spare_keys, number, spare_ranges));
        self.shared.change(|state| {
            for entry in &entries {
                state.held.insert(entry.id, &entry.touch, seating, number_of);
            }
        });
        unclaimed.ids.retain(|id| !mine.contains(id));
        unclaimed.rest = BUSY_PAUSE;
        drop(unclaimed);
        if entries.is_empty() {
            return Ok(None);
        }
        Ok(Some(Claim { stamp: claimed.stamp, entries }))
    }

    /// Locks in the tables what the entries need. In a task of its own, so that locks which nobody hears of
    /// are given back.
    async fn lock_in_tables(&self, lines: &Lines, wanted: Wanted) -> Result<Option<Claimed>> {
        let (answer, answered) = oneshot::channel();
        let (tables, settle, seat) = (self.tables.clone(), lines.settle.clone(), self.shared.seat());
        tokio::spawn(async move {
            let mut claimed = tables.claim(seat, &wanted).await;
            for _ in 0..CLAIM_RETRIES {
                match &claimed {
                    // The database has chosen this one to give way.
                    Err(error) if error.kind() == Kind::Busy => claimed = tables.claim(seat, &wanted).await,
                    _ => break,
                }
            }
            if let Err(Ok(Some(claimed))) = answer.send(claimed) {
                settle.order(given_back(claimed.keys, wanted.number, claimed.ranges));
            }
        });
        answered.await.unwrap_or_else(|_| Err(stopped()))
    }
}

fn given_back(keys: Vec<KeyBytes>, number: i64, ranges: Vec<i64>) -> Changes {
    let freed = keys.into_iter().map(|key| (key, number)).collect();
    Changes { freed, freed_ranges: ranges, ..Changes::default() }
}

/// Gives claimed entries back whose worker went away before it got them.
struct Unclaimed<'a> {
    shared: &'a Shared,
    ids: Vec<EntryId>,
    rest: Duration,
}

impl Drop for Unclaimed<'_> {
    fn drop(&mut self) {
        if !self.ids.is_empty() {
            let until = self.shared.clock().now() + self.rest;
            self.shared.change(|state| state.own.retry_later(&self.ids, until, None));
            self.shared.signals.claimable.notify_waiters();
        }
    }
}

/// What the entries need locked. Numbers the locks.
fn wanted(state: &mut State, entries: &[Entry]) -> Wanted {
    state.claims += 1;
    let number = state.claims;
    let (mut keys, mut ranges) = (BTreeSet::new(), HashMap::new());
    for item in entries.iter().flat_map(|entry| entry.touch.items()) {
        match &item.span {
            Span::Key(key) => drop(keys.insert(lock_of(key))),
            Span::Range(range) => {
                ranges.entry(range.clone()).or_insert_with(|| {
                    state.claims += 1;
                    state.claims
                });
            }
        }
    }
    Wanted { keys: keys.into_iter().collect(), number, ranges: ranges.into_iter().collect() }
}
