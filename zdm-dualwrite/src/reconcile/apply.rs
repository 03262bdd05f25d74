//! Reading keys from the primary and writing them to the secondary, as few transactions as possible.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::future::Future;
use std::time::Duration;

use zdm_core::error::{Advice, Certainty, Error, Kind, Result};
use zdm_core::key::KeyBytes;
use zdm_core::queue::{Direction, Entry, EntryId, Touch, TouchItem, WriteQueueExt};
use zdm_core::queue::{Intent, Span};
use zdm_core::store::{Change, Record, Stamp, Store, StoreExt};

use super::Safety;
use super::decide::{Work, change_for, intent};
use super::worker::Contact;
use crate::adapter::Shared;

/// How often a transaction that lost a race is repeated at once.
const BUSY_TRIES: u32 = 4;
/// How often a key is followed whose record changes under a re-read.
const REREAD_ROUNDS: usize = 8;

/// What became of the changes of one batch.
pub(super) struct Outcome<K> {
    /// Keys that were not written, with the reason.
    pub(super) failed: Vec<(K, Error)>,
    /// Keys whose record was sent to the secondary, whether it arrived or not.
    pub(super) sent: BTreeSet<K>,
    pub(super) contact: Contact,
}

impl<K> Outcome<K> {
    const fn new() -> Self {
        Self { failed: Vec::new(), sent: BTreeSet::new(), contact: Contact::None }
    }
}

/// The entries that could not be reconciled, each with the error that decides what becomes of it.
pub(super) type Failures = HashMap<EntryId, Error>;

/// What became of one claim.
#[derive(Default)]
pub(super) struct Reconciled {
    pub(super) failures: Failures,
    /// Failed entries with the keys whose record was sent to the secondary, and may be there.
    pub(super) sent: HashMap<EntryId, HashSet<KeyBytes>>,
}

impl Reconciled {
    /// A call to a store panicked. Which one, and what it did, nobody knows.
    pub(super) fn panicked(entries: &[Entry]) -> Self {
        let error = Error::new(Kind::Rejected, "a call to a store panicked while the key was reconciled")
            .with_advice(Advice::RetryLater)
            .unknown();
        let mut reconciled = Self::default();
        for entry in entries {
            reconciled.failures.insert(entry.id, error.clone());
            let keys = entry.touch.items().iter().filter_map(|item| match &item.span {
                Span::Key(key) => Some(key.clone()),
                Span::Range(_) => None,
            });
            reconciled.sent.insert(entry.id, keys.collect());
        }
        reconciled
    }

    /// Of several errors the one that parks wins, because trying again will not help; and one unknown outcome
    /// makes the outcome of the entry unknown, whatever else failed.
    fn fail(&mut self, entry: EntryId, error: &Error) {
        let known = self.failures.get(&entry);
        let unknown = [known, Some(error)].into_iter().flatten().any(|e| e.certainty() == Certainty::Unknown);
        let kept = known.filter(|known| known.advice() == Advice::Park).unwrap_or(error).clone();
        self.failures.insert(entry, if unknown { kept.unknown() } else { kept });
    }
}

/// Changes that go into one transaction.
struct Group<K> {
    keys: BTreeSet<K>,
    /// Put together because their unique values depend on each other: never split again.
    fused: bool,
}

impl<S: Store + Clone> Shared<S> {
    /// Brings the keys and ranges of a claim into step.
    pub(super) async fn reconcile(
        &self,
        direction: Direction,
        stamp: Stamp,
        safety: Safety,
        work: Work<S::Key>,
    ) -> (Reconciled, Contact) {
        let mut reconciled = Reconciled::default();
        let mut contact = Contact::None;
        for range in &work.ranges {
            let mut sent = BTreeSet::new();
            let (result, seen) = self.reconcile_range(direction, stamp, safety, range, &mut sent).await;
            contact = worse(contact, seen);
            if let Err(error) = result {
                reconciled.fail(range.entry, &error);
                reconciled.sent.entry(range.entry).or_default().extend(sent.iter().map(KeyBytes::of));
            }
        }
        let wanted: BTreeMap<S::Key, bool> =
            work.keys.iter().map(|(key, of_key)| (key.clone(), of_key.may_delete)).collect();
        let outcome = self.reconcile_keys(direction, stamp, safety, wanted).await;
        for (key, error) in outcome.failed {
            for entry in work.keys.get(&key).map(|of_key| of_key.entries.as_slice()).unwrap_or_default() {
                reconciled.fail(*entry, &error);
                if outcome.sent.contains(&key) {
                    reconciled.sent.entry(*entry).or_default().insert(KeyBytes::of(&key));
                }
            }
        }
        (reconciled, worse(contact, outcome.contact))
    }

    /// Brings keys into step; the value says whether a missing record is to be deleted.
    pub(super) async fn reconcile_keys(
        &self,
        direction: Direction,
        stamp: Stamp,
        safety: Safety,
        mut wanted: BTreeMap<S::Key, bool>,
    ) -> Outcome<S::Key> {
        let mut outcome = Outcome::new();
        for _ in 0..REREAD_ROUNDS {
            if wanted.is_empty() {
                return outcome;
            }
            let keys: Vec<S::Key> = wanted.keys().cloned().collect();
            let mut changes = Vec::new();
            for (key, record) in self.read(direction, keys).await {
                match record {
                    Ok(record) => changes.extend(change_for(key.clone(), record, wanted[&key])),
                    Err(error) => outcome.failed.push((key, error)),
                }
            }
            let applied = self.apply(direction, stamp, safety, &changes, &wanted).await;
            outcome.contact = worse(outcome.contact, applied.contact);
            outcome.sent.extend(applied.sent);
            let failed: BTreeSet<&S::Key> = applied.failed.iter().map(|(key, _)| key).collect();
            changes.retain(|change| !failed.contains(change.key()));
            outcome.failed.extend(applied.failed);
            if safety != Safety::Reread {
                return outcome;
            }
            wanted = self.changed_since(direction, &changes, &mut outcome.failed).await;
        }
        let busy = || Error::new(Kind::Busy, "the record kept changing at the primary while it was copied");
        outcome.failed.extend(wanted.into_keys().map(|key| (key, busy())));
        outcome
    }

    /// The keys whose record at the primary is not any more what was just written. Another instance may
    /// have written it; its own copy may have come before ours.
    pub(super) async fn changed_since(
        &self,
        direction: Direction,
        written: &[Change<S::Key, S::Record>],
        failed: &mut Vec<(S::Key, Error)>,
    ) -> BTreeMap<S::Key, bool> {
        let keys: Vec<S::Key> = written.iter().map(|change| change.key().clone()).collect();
        let mut changed = BTreeMap::new();
        let seen = self.read(direction, keys).await;
        for ((key, record), change) in seen.into_iter().zip(written) {
            match record {
                Ok(record) => {
                    let same = match (&record, change.record()) {
                        (Some(now), Some(then)) => now.same_as(then),
                        (None, None) => true,
                        _ => false,
                    };
                    if !same {
                        // The record was seen, so its absence now is a deletion.
                        changed.insert(key, true);
                    }
                }
                Err(error) => failed.push((key, error)),
            }
        }
        changed
    }

    /// Reads keys from the primary, in one call where possible. The answer is in the order of the keys.
    async fn read(
        &self,
        direction: Direction,
        keys: Vec<S::Key>,
    ) -> Vec<(S::Key, Result<Option<S::Record>>)> {
        let (primary, _) = self.sides(direction);
        if keys.is_empty() {
            return Vec::new();
        }
        match self.in_time("reading from the primary", primary.fetch_many(&keys)).await {
            Ok(records) if records.len() == keys.len() => {
                keys.into_iter().zip(records.into_iter().map(Ok)).collect()
            }
            Ok(records) => {
                let message =
                    format!("the primary answered {} keys with {} records", keys.len(), records.len());
                let error = Error::new(Kind::Rejected, message);
                keys.into_iter().map(|key| (key, Err(error.clone()))).collect()
            }
            Err(error) if error.advice() == Advice::Park && keys.len() > 1 => {
                // One record that cannot be mapped fails the whole call; find out which.
                let mut records = Vec::with_capacity(keys.len());
                for key in keys {
                    let record = self.in_time("reading from the primary", primary.get(&key)).await;
                    records.push((key, record));
                }
                records
            }
            Err(error) => {
                // A read changes nothing, so there is nothing to wait for.
                let error = error.not_applied();
                keys.into_iter().map(|key| (key, Err(error.clone()))).collect()
            }
        }
    }

    /// Writes changes to the secondary. A batch that fails is cut in halves until the record that does
    /// not fit stands alone, so one bad record never holds up the others.
    pub(super) async fn apply(
        &self,
        direction: Direction,
        stamp: Stamp,
        safety: Safety,
        changes: &[Change<S::Key, S::Record>],
        wanted: &BTreeMap<S::Key, bool>,
    ) -> Outcome<S::Key> {
        let by_key: BTreeMap<&S::Key, &Change<S::Key, S::Record>> =
            changes.iter().map(|change| (change.key(), change)).collect();
        let mut outcome = Outcome::new();
        let puts = changes.iter().filter(|change| change.record().is_some());
        outcome.sent.extend(puts.map(|change| change.key().clone()));
        let all: BTreeSet<S::Key> = by_key.keys().map(|key| (*key).clone()).collect();
        let mut groups = vec![Group { keys: all, fused: false }];
        let mut written: BTreeSet<S::Key> = BTreeSet::new();
        while let Some(group) = groups.pop() {
            if group.keys.is_empty() {
                continue;
            }
            let batch: Vec<_> =
                group.keys.iter().filter_map(|key| by_key.get(key).copied()).cloned().collect();
            let Err(error) = self.apply_together(direction, stamp, safety, &batch).await else {
                outcome.contact = Contact::Answered;
                written.extend(group.keys);
                continue;
            };
            if error.advice() == Advice::RetryWhenStoreIsBack || error.certainty() == Certainty::Unknown {
                let gone = error.advice() == Advice::RetryWhenStoreIsBack;
                outcome.contact = if gone { Contact::Unavailable } else { outcome.contact };
                let rest = groups.drain(..).flat_map(|group| group.keys);
                outcome.failed.extend(group.keys.into_iter().chain(rest).map(|key| (key, error.clone())));
                break;
            }
            outcome.contact = Contact::Answered;
            if group.keys.len() > 1 && !group.fused {
                let middle = group.keys.iter().nth(group.keys.len() / 2).cloned();
                let mut lower = group.keys;
                let upper = middle.map(|middle| lower.split_off(&middle)).unwrap_or_default();
                groups.push(Group { keys: upper, fused: false });
                groups.push(Group { keys: lower, fused: false });
                continue;
            }
            match self.regroup(direction, &group, &error, &by_key, wanted).await {
                Regroup::Fused(group) => groups.push(group),
                Regroup::Queued => {}
                Regroup::Failed(error) => {
                    // A holder that joined the group stands as it was written before.
                    let failed = group.keys.into_iter().filter(|key| !written.contains(key));
                    outcome.failed.extend(failed.map(|key| (key, error.clone())));
                }
            }
        }
        outcome
    }

    /// Two records that exchange a unique value must change in one transaction. If the holder of the
    /// value is claimed too, it joins the group; else both keys are queued as one entry, which can only be
    /// claimed when both are free.
    async fn regroup(
        &self,
        direction: Direction,
        group: &Group<S::Key>,
        error: &Error,
        by_key: &BTreeMap<&S::Key, &Change<S::Key, S::Record>>,
        wanted: &BTreeMap<S::Key, bool>,
    ) -> Regroup<S::Key> {
        let holder = error.holder().and_then(|key| key.to_key::<S::Key>().ok());
        let holder = match holder {
            Some(holder) if error.advice() == Advice::Regroup && !group.keys.contains(&holder) => holder,
            _ => return Regroup::Failed(error.clone()),
        };
        if by_key.contains_key(&holder) {
            let mut keys = group.keys.clone();
            keys.insert(holder);
            return Regroup::Fused(Group { keys, fused: true });
        }
        if wanted.contains_key(&holder) {
            // Its record is gone at the primary, and the entry that says so is still to come.
            return Regroup::Failed(error.clone().with_advice(Advice::RetryLater));
        }
        let item = |key: &S::Key, intent: Intent| TouchItem { span: Span::Key(KeyBytes::of(key)), intent };
        let own = group.keys.iter().map(|key| item(key, intent(wanted.get(key).copied().unwrap_or(false))));
        // The holder may be gone at the primary: then its own entry says so, or verification finds it.
        let touch = Touch::from_items(own.chain([item(&holder, Intent::Upsert)]));
        let Some(touch) = touch else { return Regroup::Failed(error.clone()) };
        match self.queue.mark(touch, self.operations.record().epoch, direction).await {
            Ok(_) => Regroup::Queued,
            Err(cause) => Regroup::Failed(cause.not_applied().with_advice(Advice::RetryLater)),
        }
    }

    /// One transaction at the secondary, repeated at once while it only loses races.
    async fn apply_together(
        &self,
        direction: Direction,
        stamp: Stamp,
        safety: Safety,
        changes: &[Change<S::Key, S::Record>],
    ) -> Result<()> {
        let (_, secondary) = self.sides(direction);
        let mut tries = 1;
        loop {
            let result = match (safety, secondary.capabilities().fenced) {
                (Safety::Fenced, Some(fenced)) => {
                    let call = fenced.apply_if_newer(stamp, changes);
                    // What was left out has been overtaken by a later look at the primary, which has
                    // seen everything that this claim covers.
                    self.in_time("writing to the secondary", call).await.map(|_| ())
                }
                _ => self.in_time("writing to the secondary", secondary.apply_all(changes)).await,
            };
            match result {
                // A try that may still land must not be followed at once, not even by itself: with the same
                // stamp it would pass the fence again.
                Err(error)
                    if error.advice() == Advice::RetryNow
                        && error.certainty() == Certainty::NotApplied
                        && tries < BUSY_TRIES =>
                {
                    tries += 1;
                }
                result => return result,
            }
        }
    }

    /// Gives up on a call that does not answer.
    pub(super) async fn in_time<T>(&self, what: &str, call: impl Future<Output = Result<T>>) -> Result<T> {
        let limit: Duration = self.settings.store_call_timeout;
        match tokio::time::timeout(limit, call).await {
            Ok(result) => result,
            Err(_) => Err(Error::new(Kind::Timeout, format!("{what} took longer than {limit:?}"))),
        }
    }
}

enum Regroup<K> {
    /// Try these together.
    Fused(Group<K>),
    /// A new entry covers the keys.
    Queued,
    Failed(Error),
}

/// An outage outweighs an answer, an answer outweighs silence.
pub(super) const fn worse(a: Contact, b: Contact) -> Contact {
    match (a, b) {
        (Contact::Unavailable, _) | (_, Contact::Unavailable) => Contact::Unavailable,
        (Contact::Answered, _) | (_, Contact::Answered) => Contact::Answered,
        (Contact::None, Contact::None) => Contact::None,
    }
}
