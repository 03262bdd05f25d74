//! Bringing a whole range into step: both sides are walked, because either may hold keys that the other
//! does not.

use std::collections::{BTreeMap, BTreeSet};

use zdm_core::error::{Advice, Certainty, Error, Kind, Result};
use zdm_core::key::{KeyBytes, KeyRange};
use zdm_core::queue::{Direction, Intent, Span, Touch, TouchItem, WriteQueueExt};
use zdm_core::store::{Change, Record, Scan, Stamp, Store};

use super::Safety;
use super::apply::worse;
use super::decide::{RangeWork, intent};
use super::worker::Contact;
use crate::adapter::Shared;

impl<S: Store + Clone> Shared<S> {
    /// Walks a range and repairs what differs. Keys that cannot be repaired get entries of their own, so
    /// that the range does not wait for them.
    pub(super) async fn reconcile_range(
        &self,
        direction: Direction,
        stamp: Stamp,
        safety: Safety,
        work: &RangeWork<S::Key>,
        sent: &mut BTreeSet<S::Key>,
    ) -> (Result<()>, Contact) {
        let mut contact = Contact::None;
        let mut after = work.range.after.clone();
        loop {
            let rest = KeyRange { after, up_to: work.range.up_to.clone() };
            let step = self.reconcile_step(direction, stamp, safety, &rest, work, sent).await;
            let (next, seen) = match step {
                Ok(step) => step,
                Err(error) => {
                    let outage = error.advice() == Advice::RetryWhenStoreIsBack;
                    let seen = if outage { Contact::Unavailable } else { Contact::None };
                    return (Err(error), worse(contact, seen));
                }
            };
            contact = worse(contact, seen);
            match next {
                Some(key) => after = Some(key),
                None => return (Ok(()), contact),
            }
        }
    }

    /// Repairs the front of a range; returns the key after which to go on.
    async fn reconcile_step(
        &self,
        direction: Direction,
        stamp: Stamp,
        safety: Safety,
        rest: &KeyRange<S::Key>,
        work: &RangeWork<S::Key>,
        sent: &mut BTreeSet<S::Key>,
    ) -> Result<(Option<S::Key>, Contact)> {
        let limit = self.settings.reconcile_batch_keys.max(2);
        let (primary, secondary) = self.sides(direction);
        let (ours, theirs) = (walk(primary)?, walk(secondary)?);
        let reading = "reading a range from the primary";
        let ours = self.in_time(reading, ours.page(rest, limit)).await.map_err(Error::not_applied)?;
        let reading = "reading a range from the secondary";
        let theirs = self.in_time(reading, theirs.page(rest, limit)).await.map_err(Error::not_applied)?;
        // Only up to where both pages have been read can a key be called missing.
        let ends = [&ours, &theirs].map(|page| {
            let whole = page.len() < limit;
            if whole { None } else { page.last().map(|(key, _)| key.clone()) }
        });
        let end = ends.into_iter().flatten().min();
        let within = |key: &S::Key| end.as_ref().is_none_or(|end| key <= end);

        let mut theirs: BTreeMap<S::Key, Result<S::Record>> =
            theirs.into_iter().filter(|(key, _)| within(key)).collect();
        let mut changes = Vec::new();
        for (key, record) in ours.into_iter().filter(|(key, _)| within(key)) {
            let there = theirs.remove(&key);
            match record {
                Ok(record) => {
                    let same = matches!(&there, Some(Ok(there)) if there.same_as(&record));
                    if !same {
                        changes.push(Change::Put(key, record));
                    }
                }
                Err(error) => self.set_aside(direction, &key, &error).await?,
            }
        }
        let may_delete = |key: &S::Key| work.may_delete || self.was_sent(work.entry, key);
        changes.extend(theirs.into_keys().filter(|key| may_delete(key)).map(Change::Delete));
        let wanted = changes.iter().map(|change| (change.key().clone(), may_delete(change.key()))).collect();
        let mut outcome = self.apply(direction, stamp, safety, &changes, &wanted).await;
        sent.extend(outcome.sent);
        if safety == Safety::Reread {
            let failed: BTreeSet<&S::Key> = outcome.failed.iter().map(|(key, _)| key).collect();
            changes.retain(|change| !failed.contains(change.key()));
            let changed = self.changed_since(direction, &changes, &mut outcome.failed).await;
            let again = self.reconcile_keys(direction, stamp, safety, changed).await;
            sent.extend(again.sent);
            outcome.failed.extend(again.failed);
            outcome.contact = worse(outcome.contact, again.contact);
        }
        if let Some((_, error)) = outcome.failed.iter().find(|(_, error)| stops(error)) {
            return Err(error.clone());
        }
        for (key, error) in outcome.failed {
            match error.advice() {
                Advice::Park => self.set_aside(direction, &key, &error).await?,
                _ => {
                    let span = Span::Key(KeyBytes::of(&key));
                    let may_delete = may_delete(&key) || sent.contains(&key);
                    let touch = Touch::from_items([TouchItem { span, intent: intent(may_delete) }]);
                    if let Some(touch) = touch {
                        self.queue.mark(touch, self.operations.record().epoch, direction).await?;
                    }
                }
            }
        }
        Ok((end, outcome.contact))
    }

    /// Gives a key that will not fit an entry of its own, parked.
    async fn set_aside(&self, direction: Direction, key: &S::Key, error: &Error) -> Result<()> {
        let span = Span::Key(KeyBytes::of(key));
        if let Some(touch) = Touch::from_items([TouchItem { span, intent: Intent::Unknown }]) {
            let epoch = self.operations.record().epoch;
            self.queue.open_parked(touch, epoch, direction, &error.to_string()).await?;
        }
        Ok(())
    }
}

/// Whether the whole range must be tried again: its keys may still change, or none can be written now.
fn stops(error: &Error) -> bool {
    error.certainty() == Certainty::Unknown || error.advice() == Advice::RetryWhenStoreIsBack
}

fn walk<S: Store>(store: &S) -> Result<&dyn Scan<Key = S::Key, Record = S::Record>> {
    let missing =
        || Error::new(Kind::Rejected, "a range is queued, but a store cannot be walked in key order");
    store.capabilities().scan.ok_or_else(missing)
}
