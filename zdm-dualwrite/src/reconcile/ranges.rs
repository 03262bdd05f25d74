//! Bringing a whole range into step: both sides are walked, because either may hold keys that the other
//! does not.

use std::collections::BTreeMap;

use zdm_core::error::{Advice, Error, Kind, Result};
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
    ) -> (Result<()>, Contact) {
        let mut contact = Contact::None;
        let mut after = work.range.after.clone();
        loop {
            let rest = KeyRange { after, up_to: work.range.up_to.clone() };
            let step = self.reconcile_step(direction, stamp, safety, &rest, work.may_delete).await;
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
        may_delete: bool,
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
        if may_delete {
            changes.extend(theirs.into_keys().map(Change::Delete));
        }
        let wanted = changes.iter().map(|change| (change.key().clone(), may_delete)).collect();
        let outcome = self.apply(direction, stamp, safety, &changes, &wanted).await;
        for (key, error) in outcome.failed {
            match error.advice() {
                Advice::Park => self.set_aside(direction, &key, &error).await?,
                Advice::RetryWhenStoreIsBack => return Err(error),
                _ if error.certainty() == zdm_core::error::Certainty::Unknown => return Err(error),
                _ => {
                    let span = Span::Key(KeyBytes::of(&key));
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

fn walk<S: Store>(store: &S) -> Result<&dyn Scan<Key = S::Key, Record = S::Record>> {
    let missing =
        || Error::new(Kind::Rejected, "a range is queued, but a store cannot be walked in key order");
    store.capabilities().scan.ok_or_else(missing)
}
