//! Looking again at keys that seem to differ.
//!
//! The two sides are read at different times, and writes go on. So a difference counts only if it is seen
//! while nothing is pending for the key: clean before the look, and untouched until after it.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use zdm_core::error::{Advice, Result};
use zdm_core::key::{KeyBytes, KeyRange};
use zdm_core::queue::{EntryState, Span};
use zdm_core::report::{Event, Mismatch, MismatchCause};
use zdm_core::store::{Store, StoreExt};

use super::compare::{Verdict, judge};
use super::findings::Findings;
use crate::pages::PageContext;

const FIRST_WAIT: Duration = Duration::from_millis(2);
const LONGEST_WAIT: Duration = Duration::from_millis(100);
/// Keys that are read together.
const BATCH: usize = 500;

/// How keys are looked at again, and where it is written down.
pub(crate) struct SecondLook<S: Store> {
    /// How long a key may take to become clean.
    pub(crate) patience: Duration,
    pub(crate) findings: Arc<Findings<S::Key>>,
}

/// What stands between a key and being clean.
#[derive(Clone, Copy)]
enum Pending {
    Nothing,
    /// It goes away by itself.
    Soon,
    /// Its entry stays until the record fits.
    Parked,
    /// It stays until the taint is reconciled.
    Tainted,
}

impl<S: Store> SecondLook<S> {
    /// Looks at keys until each is known to be the same or to differ, and takes those off the list. Keys
    /// that do not become clean in time are counted as in flight. `confirmed` counts those that differ.
    pub(crate) async fn at(
        &self,
        context: &PageContext<S>,
        keys: &mut Vec<S::Key>,
        confirmed: &mut u64,
    ) -> Result<()> {
        let deadline = context.clock().now() + self.patience;
        let mut wait = FIRST_WAIT;
        let mut busy = Vec::new();
        loop {
            let in_time = context.clock().now() < deadline;
            while !keys.is_empty() {
                let from = keys.len().saturating_sub(BATCH);
                match self.look(context, &keys[from..], in_time, confirmed).await {
                    Ok(again) => busy.extend(again),
                    Err(error) => {
                        keys.append(&mut busy);
                        return Err(error);
                    }
                }
                keys.truncate(from);
            }
            if busy.is_empty() {
                return Ok(());
            }
            tokio::time::sleep(wait).await;
            wait = (wait * 2).min(LONGEST_WAIT);
            std::mem::swap(keys, &mut busy);
        }
    }

    /// Looks once; returns the keys to be looked at again.
    async fn look(
        &self,
        context: &PageContext<S>,
        keys: &[S::Key],
        in_time: bool,
        confirmed: &mut u64,
    ) -> Result<Vec<S::Key>> {
        let queue = context.queue();
        let up_to = keys.iter().max().map(KeyBytes::of);
        let watch = queue.watch(KeyRange { after: None, up_to });
        let looks = async {
            queue.catch_up().await?;
            let pending = pending(context, keys);
            let (ours, theirs) = read_both(context, keys).await?;
            queue.catch_up().await?;
            Ok((pending, ours, theirs))
        }
        .await;
        // Whether the look went well or not.
        let touched = queue.unwatch(watch);
        let (pending, ours, theirs) = looks?;

        let (mut touched_keys, mut touched_ranges) = (HashSet::new(), Vec::new());
        for item in &touched {
            match &item.span {
                Span::Key(key) => drop(touched_keys.insert(key)),
                Span::Range(range) => touched_ranges.push(range),
            }
        }
        let mut again = Vec::new();
        for (((key, pending), ours), theirs) in keys.iter().zip(pending).zip(&ours).zip(&theirs) {
            let Some(verdict) = judge(ours, theirs) else { continue };
            let bytes = KeyBytes::of(key);
            let touched =
                touched_keys.contains(&bytes) || touched_ranges.iter().any(|range| range.contains(&bytes));
            let cause = match pending {
                Pending::Nothing if !touched => verdict.cause,
                Pending::Parked => MismatchCause::Parked,
                Pending::Nothing | Pending::Soon if in_time => {
                    again.push(key.clone());
                    continue;
                }
                Pending::Nothing | Pending::Soon | Pending::Tainted => {
                    self.findings.add_in_flight();
                    continue;
                }
            };
            *confirmed += 1;
            self.report(context, key, Verdict { cause, ..verdict });
        }
        Ok(again)
    }

    fn report(&self, context: &PageContext<S>, key: &S::Key, verdict: Verdict) {
        let Verdict { cause, differences } = verdict;
        let mismatch = Mismatch { key: format!("{key:?}"), cause, differences };
        context.observers().emit(&Event::MismatchFound { mismatch: mismatch.clone() });
        self.findings.add(key.clone(), mismatch);
    }
}

fn pending<S: Store>(context: &PageContext<S>, keys: &[S::Key]) -> Vec<Pending> {
    let queue = context.queue();
    // Looked up once, and only if some key is not clean.
    let (mut parked, mut taints) = (None, None);
    let mut of_key = |key: &S::Key| {
        let key = KeyBytes::of(key);
        if queue.is_clean(&key) {
            return Pending::Nothing;
        }
        let parked = parked.get_or_insert_with(|| queue.entries(EntryState::Parked, usize::MAX));
        if parked.iter().any(|entry| entry.touch.covers(&key)) {
            return Pending::Parked;
        }
        let taints = taints.get_or_insert_with(|| queue.taints());
        if taints.iter().any(|taint| taint.range.contains(&key)) {
            return Pending::Tainted;
        }
        Pending::Soon
    };
    keys.iter().map(&mut of_key).collect()
}

type Looks<S> = Vec<Result<Option<<S as Store>::Record>>>;

async fn read_both<S: Store>(context: &PageContext<S>, keys: &[S::Key]) -> Result<(Looks<S>, Looks<S>)> {
    tokio::try_join!(
        read_side(context, context.primary(), "reading keys from the primary", keys),
        read_side(context, context.secondary(), "reading keys from the secondary", keys),
    )
}

/// The records of keys. One that cannot be mapped is an answer; a store that does not answer is an error.
async fn read_side<S: Store>(
    context: &PageContext<S>,
    store: &S,
    what: &str,
    keys: &[S::Key],
) -> Result<Looks<S>> {
    match context.in_time(what, store.fetch_many(keys)).await {
        Ok(records) => return Ok(records.into_iter().map(Ok).collect()),
        Err(error) if error.advice() == Advice::Park => {}
        Err(error) => return Err(error),
    }
    let mut records = Vec::with_capacity(keys.len());
    for key in keys {
        match context.in_time(what, store.get(key)).await {
            Err(error) if error.advice() != Advice::Park => return Err(error),
            answer => records.push(answer),
        }
    }
    Ok(records)
}
