//! What the queue must still know, whatever happens.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use zdm_core::queue::{Entry, EntryId, EntryState, Taint, TaintId, Touch, WriteQueue};
use zdm_core::store::Stamp;

use crate::disk_queue::DiskQueue;
use crate::disk_queue::entry_bytes::{entry_key, taint_key};

/// Grows with what is acknowledged and shrinks with what is resolved.
#[derive(Default)]
pub(super) struct Model {
    /// Acknowledged to their writer and not resolved.
    pub(super) entries: BTreeMap<EntryId, Touch>,
    /// Those of them that a power loss may take: acknowledged before they were synced.
    pub(super) unsynced: BTreeSet<EntryId>,
    pub(super) taints: BTreeSet<TaintId>,
    /// Every touch that was ever handed to the queue.
    pub(super) ever: HashSet<Touch>,
    pub(super) newest_stamp: Stamp,
}

impl Model {
    pub(super) fn acknowledged(&mut self, id: EntryId, touch: &Touch, synced: bool) {
        self.entries.insert(id, touch.clone());
        if !synced {
            self.unsynced.insert(id);
        }
    }

    pub(super) fn resolved(&mut self, ids: &[EntryId]) {
        ids.iter().for_each(|id| {
            self.entries.remove(id);
            self.unsynced.remove(id);
        });
    }

    pub(super) fn drawn(&mut self, stamp: Stamp) {
        assert!(stamp > self.newest_stamp, "{stamp:?} was drawn after {:?}", self.newest_stamp);
        self.newest_stamp = stamp;
    }

    /// Compares with a queue that was just opened. What it has beyond the model was pending or resolved
    /// when the process ended, and counts from now on. `forgivable` may be missing.
    pub(super) fn check(&mut self, queue: &DiskQueue, lost_power: bool, forgivable: &BTreeSet<u64>) {
        let found: BTreeMap<EntryId, Entry> = all_entries(queue);
        for (id, entry) in &found {
            assert!(self.ever.contains(&entry.touch), "entry {id:?} was never written: {entry:?}");
        }
        let mut lost = false;
        for (id, touch) in &self.entries {
            match found.get(id) {
                Some(entry) => assert_eq!(entry.touch, *touch, "entry {id:?} has changed"),
                None if lost_power && self.unsynced.contains(id) => lost = true,
                None => assert!(forgivable.contains(&entry_key(*id)), "entry {id:?} is lost"),
            }
        }
        let taints = queue.taints();
        for id in &self.taints {
            let found = taints.iter().any(|taint| taint.id == *id);
            assert!(found || forgivable.contains(&taint_key(*id)), "taint {id:?} is lost");
        }
        let covers_all = |taint: &Taint| taint.range.after.is_none() && taint.range.up_to.is_none();
        assert!(!lost || taints.iter().any(covers_all), "entries are lost and no taint says so");
        self.entries = found.into_iter().map(|(id, entry)| (id, entry.touch)).collect();
        self.unsynced.clear();
        self.taints = taints.iter().map(|taint| taint.id).collect();
    }
}

fn all_entries(queue: &DiskQueue) -> BTreeMap<EntryId, Entry> {
    let states = [
        EntryState::Open,
        EntryState::Ambiguous,
        EntryState::Released,
        EntryState::Claimed,
        EntryState::Parked,
    ];
    let entries = states.into_iter().flat_map(|state| queue.entries(state, usize::MAX));
    entries.map(|entry| (entry.id, entry)).collect()
}
