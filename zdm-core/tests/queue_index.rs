//! Random histories of the queue's state machine, checked against what it promises.

#![expect(clippy::unwrap_used, reason = "a test that fails panics")]

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use proptest::prelude::*;
use tokio::time::Instant;
use zdm_core::key::{KeyBytes, KeyRange};
use zdm_core::queue::{Direction, EntryId, Epoch, QueueIndex, Span, Touch};

const DIRECTION: Direction = Direction::OldToNew;

#[derive(Clone, Debug)]
enum Step {
    Open(BTreeSet<u8>),
    OpenRange(u8, u8),
    Release(usize),
    Narrow(usize, u8),
    Hold(usize, u64),
    Cancel(usize),
    Claim(usize),
    Ack(usize),
    AckOne(usize),
    Retry(usize, u64),
    Park(usize),
    Unpark,
    Pass(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let (key, at) = (0..6_u8, any::<usize>());
    prop_oneof![
        6 => proptest::collection::btree_set(key.clone(), 1..3).prop_map(Step::Open),
        1 => (key.clone(), key.clone()).prop_map(|(a, b)| Step::OpenRange(a.min(b), a.max(b) + 1)),
        6 => at.prop_map(Step::Release),
        1 => (at, key).prop_map(|(at, key)| Step::Narrow(at, key)),
        1 => (at, 1..50_u64).prop_map(|(at, ms)| Step::Hold(at, ms)),
        1 => at.prop_map(Step::Cancel),
        4 => (1..4_usize).prop_map(Step::Claim),
        4 => at.prop_map(Step::Ack),
        2 => at.prop_map(Step::AckOne),
        2 => (at, 1..50_u64).prop_map(|(at, ms)| Step::Retry(at, ms)),
        1 => at.prop_map(Step::Park),
        1 => Just(Step::Unpark),
        3 => (1..40_u64).prop_map(Step::Pass),
    ]
}

/// What the index must agree with.
struct Model {
    index: QueueIndex,
    now: Instant,
    entries: BTreeMap<EntryId, Touch>,
    open: Vec<EntryId>,
    claims: Vec<Vec<EntryId>>,
    /// Keys that no claim may name before the time has come.
    held: Vec<(Instant, Touch)>,
}

fn share_a_key(a: &Touch, b: &Touch) -> bool {
    a.items().iter().any(|x| {
        b.items().iter().any(|y| match (&x.span, &y.span) {
            (span, Span::Key(key)) | (Span::Key(key), span) => span.contains(key),
            (Span::Range(x), Span::Range(y)) => x.overlaps(y),
        })
    })
}

fn pick<T>(list: &mut Vec<T>, at: usize) -> Option<T> {
    if list.is_empty() { None } else { Some(list.remove(at % list.len())) }
}

impl Model {
    fn open(&mut self, touch: Touch) {
        let id = self.index.open(touch.clone(), Epoch(1), DIRECTION, 0).unwrap();
        assert!(self.entries.insert(id, touch).is_none(), "ids are never used twice");
        self.open.push(id);
    }

    fn claim(&mut self, keys: usize) -> bool {
        self.index.advance(self.now);
        let claimed = self.index.claim(DIRECTION, keys);
        for entry in &claimed {
            let touch = &self.entries[&entry.id];
            assert!(!self.open.contains(&entry.id), "an OPEN entry was claimed");
            for other in self.claims.iter().flatten() {
                assert!(!share_a_key(touch, &self.entries[other]), "two claims share a key");
            }
            for (until, held) in &self.held {
                assert!(*until <= self.now || !share_a_key(touch, held), "a held key was claimed");
            }
        }
        if !claimed.is_empty() {
            self.claims.push(claimed.iter().map(|entry| entry.id).collect());
        }
        !claimed.is_empty()
    }

    fn ack(&mut self, ids: &[EntryId]) {
        assert_eq!(self.index.ack(ids), ids);
        ids.iter().for_each(|id| drop(self.entries.remove(id)));
    }

    fn apply(&mut self, step: Step) {
        match step {
            Step::Open(keys) => {
                self.open(keys.iter().map(Touch::upsert).reduce(Touch::and).unwrap().encode());
            }
            Step::OpenRange(a, b) => self.open(Touch::range(KeyRange::between(a, b)).encode()),
            Step::Release(at) => {
                pick(&mut self.open, at).into_iter().for_each(|id| self.index.release(id, None))
            }
            Step::Narrow(at, key) => {
                if let Some(id) = pick(&mut self.open, at) {
                    let narrow = Touch::upsert(&key).encode();
                    if self.entries[&id].covers_touch(&narrow) {
                        self.entries.insert(id, narrow.clone());
                    }
                    self.index.release(id, Some(narrow));
                }
            }
            Step::Hold(at, ms) => {
                if let Some(id) = pick(&mut self.open, at) {
                    self.index.hold(id, self.now + Duration::from_millis(ms));
                }
            }
            Step::Cancel(at) => {
                if let Some(id) = pick(&mut self.open, at) {
                    assert!(self.index.cancel(id));
                    self.entries.remove(&id);
                }
            }
            Step::Claim(keys) => drop(self.claim(keys)),
            Step::Ack(at) => pick(&mut self.claims, at).into_iter().for_each(|ids| self.ack(&ids)),
            Step::AckOne(at) => {
                if let Some(mut ids) = pick(&mut self.claims, at) {
                    let one = ids.remove(at % ids.len());
                    self.ack(&[one]);
                    self.claims.extend((!ids.is_empty()).then_some(ids));
                }
            }
            Step::Retry(at, ms) => {
                if let Some(ids) = pick(&mut self.claims, at) {
                    let until = self.now + Duration::from_millis(ms);
                    self.index.retry_later(&ids, until, Some("no answer"));
                    self.held.extend(ids.iter().map(|id| (until, self.entries[id].clone())));
                }
            }
            Step::Park(at) => {
                if let Some(ids) = pick(&mut self.claims, at) {
                    assert_eq!(self.index.park(&ids, "will not fit").len(), ids.len());
                }
            }
            Step::Unpark => drop(self.index.unpark(&KeyRange::all())),
            Step::Pass(ms) => self.now += Duration::from_millis(ms),
        }
    }

    fn check(&mut self) {
        assert_eq!(self.index.len(), self.entries.len(), "an entry vanished or came from nowhere");
        for key in 0..6_u8 {
            let bytes = KeyBytes::of(&key);
            let covered = self.entries.values().any(|touch| touch.covers(&bytes));
            assert_eq!(self.index.is_clean(&bytes), !covered, "key {key}");
        }
        let stats = self.index.stats(0);
        assert_eq!(stats.open, self.open.len() as u64);
        assert_eq!(stats.claimed, self.claims.iter().flatten().count() as u64);
        assert_eq!(stats.pending() + stats.parked, self.entries.len() as u64);
    }

    /// However the history went: once every call has returned and time has passed, everything can be
    /// claimed and acknowledged.
    fn drain(&mut self) {
        for id in std::mem::take(&mut self.open) {
            self.index.release(id, None);
        }
        for ids in std::mem::take(&mut self.claims) {
            self.index.retry_later(&ids, self.now, None);
        }
        self.now += Duration::from_secs(1);
        self.index.unpark(&KeyRange::all());
        while self.claim(3) {
            while let Some(ids) = self.claims.pop() {
                self.ack(&ids);
            }
        }
        assert!(self.index.is_empty() && self.entries.is_empty(), "{:?}", self.index);
        assert_eq!(self.index.next_deadline(), None);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn claims_are_exclusive_and_nothing_is_lost(steps in proptest::collection::vec(step(), 1..80)) {
        let mut model = Model {
            index: QueueIndex::new(1_000),
            now: Instant::now(),
            entries: BTreeMap::new(),
            open: Vec::new(),
            claims: Vec::new(),
            held: Vec::new(),
        };
        for step in steps {
            model.apply(step);
            model.check();
        }
        model.drain();
    }
}

fn write(index: &mut QueueIndex, touch: &Touch) -> EntryId {
    let id = index.open(touch.clone(), Epoch(1), DIRECTION, 0).unwrap();
    index.release(id, None);
    id
}

fn claim(index: &mut QueueIndex) -> Vec<EntryId> {
    index.claim(DIRECTION, 10).iter().map(|entry| entry.id).collect()
}

#[test]
fn a_write_that_lands_during_a_claim_survives_its_ack() {
    let mut index = QueueIndex::new(10);
    let touch = Touch::upsert(&1_u64).encode();
    let first = write(&mut index, &touch);
    assert_eq!(claim(&mut index), [first]);
    let second = write(&mut index, &touch);
    assert!(claim(&mut index).is_empty(), "the key is being reconciled");
    index.ack(&[first]);
    assert_eq!(claim(&mut index), [second]);
}

#[test]
fn a_hot_key_costs_one_claim_a_round() {
    let mut index = QueueIndex::new(1_000);
    let touch = Touch::upsert(&1_u64).encode();
    for _ in 0..500 {
        write(&mut index, &touch);
    }
    assert_eq!(index.claim(DIRECTION, 1).len(), 500);
}

#[test]
fn a_waiting_range_is_not_starved_by_its_busy_keys() {
    let mut index = QueueIndex::new(1_000);
    let key = Touch::upsert(&1_u64).encode();
    let busy = write(&mut index, &key);
    assert_eq!(claim(&mut index), [busy]);
    let range = write(&mut index, &Touch::range(KeyRange::<u64>::all()).encode());
    write(&mut index, &key);
    assert!(claim(&mut index).is_empty());
    index.ack(&[busy]);
    assert_eq!(claim(&mut index), [range]);
}

#[test]
fn a_full_queue_says_so() {
    let mut index = QueueIndex::new(1);
    let touch = Touch::upsert(&1_u64).encode();
    let id = index.open(touch.clone(), Epoch(1), DIRECTION, 0).unwrap();
    let error = index.open(touch.clone(), Epoch(1), DIRECTION, 0).unwrap_err();
    assert_eq!(error.kind(), zdm_core::error::Kind::Limit);
    assert!(error.to_string().contains("1 entries"), "{error}");
    index.cancel(id);
    index.open(touch, Epoch(1), DIRECTION, 0).unwrap();
}
