//! Reconciling what may have gone unrecorded.

use std::sync::Arc;

use zdm_core::checkpoint::MemoryCheckpoints;
use zdm_core::error::Result;
use zdm_core::key::{Key, KeyRange};
use zdm_core::queue::Taint;
use zdm_core::report::Event;
use zdm_core::store::Store;

use super::Repair;
use crate::pages::{Job, PageContext, Place, Plan, RANGES_PER_WORKER, Runner, check_cover, open_journal};
use crate::verify::{Then, Walk};

/// What reconciling taints has done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct TaintReport {
    /// Taints that were cleared.
    pub cleared: u64,
    /// Rows that were compared.
    pub compared: u64,
}

impl<S: Store + Clone> Repair<S> {
    /// Starts reconciling everything that is tainted now. Writes without an entry that are still under way
    /// are waited for; then both sides are walked, every key that differs gets an entry, and the taints
    /// are cleared: what they stood for is recorded. A record that only the secondary has is removed,
    /// because its deletion may be what went unrecorded.
    ///
    /// # Errors
    /// `Kind::Refused` in a phase without a secondary; `Kind::Invalid` when a store cannot be walked or a
    /// setting is out of its bounds.
    ///
    /// # Cancel safety
    /// When the future is dropped nothing has been started.
    pub async fn taints(self) -> Result<Job<TaintReport>> {
        let Self { dual_write, settings, health, .. } = self;
        settings.validate()?;
        let context = PageContext::of(&dual_write, settings.call_timeout)?;
        let primary = context.scan_primary()?;
        context.scan_secondary()?;
        // Those that stand now. What is tainted later is another repair's.
        let taints = context.queue().taints();
        let parts = settings.workers * RANGES_PER_WORKER;
        let parts = context.in_time("asking the primary for its ranges", primary.split(parts)).await?;
        check_cover(&parts)?;
        let tainted = taints.iter().map(|taint| taint.range.decode()).collect::<Result<Vec<_>>>()?;
        let ranges: Vec<KeyRange<S::Key>> = parts.iter().flat_map(|part| cut(part, &tainted)).collect();
        let estimated = if ranges.is_empty() {
            0
        } else {
            context.in_time("asking the primary for its size", primary.estimated_len()).await?
        };
        let place = Place {
            store: Arc::new(MemoryCheckpoints::new()),
            job: format!("{}/taints", context.migration()),
            subject: format!("{}: taints", context.migration()),
            clock: Arc::clone(context.clock()),
        };
        let (journal, _) = open_journal(&place, context.direction, &ranges, |_| true).await?;
        let work = Walk::new(context.clone(), Then::Queue);
        let runner = Arc::new(Runner::new("repair", &context, settings, work, journal, estimated));
        Ok(Job::spawn(&runner.clone(), async move {
            let shared = &context.dual_write.shared;
            shared.taint_window.seal().await;
            // What an earlier process did not record may still take effect, too.
            shared.operations.mirrored_since(shared.operations.record().epoch).await;
            let complete = Arc::clone(&runner).run(health).await?;
            let mut report = TaintReport { cleared: 0, compared: runner.journal.read(Plan::rows) };
            if complete {
                for Taint { id, .. } in taints {
                    context.queue().clear_taint(id).await?;
                    context.observers().emit(&Event::TaintCleared { id });
                    report.cleared += 1;
                }
            }
            Ok(report)
        }))
    }
}

/// The parts of a range that some of the others cover, disjoint and in order.
fn cut<K: Key>(range: &KeyRange<K>, covers: &[KeyRange<K>]) -> Vec<KeyRange<K>> {
    let mut cuts: Vec<KeyRange<K>> = covers
        .iter()
        .filter(|cover| cover.overlaps(range))
        .map(|cover| KeyRange {
            after: cover.after.clone().max(range.after.clone()),
            up_to: match (cover.up_to.clone(), range.up_to.clone()) {
                (Some(a), Some(b)) => Some(a.min(b)),
                (a, b) => a.or(b),
            },
        })
        .collect();
    // `None` sorts first, which is right for lower bounds.
    cuts.sort_by(|a, b| a.after.cmp(&b.after));
    let mut joined: Vec<KeyRange<K>> = Vec::new();
    for next in cuts {
        match joined.last_mut() {
            Some(last) if last.up_to.is_none() => break,
            Some(last) if next.after <= last.up_to => {
                if next.up_to.is_none() || next.up_to > last.up_to {
                    last.up_to = next.up_to;
                }
            }
            _ => joined.push(next),
        }
    }
    joined
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn any_range() -> impl Strategy<Value = KeyRange<u8>> {
        let bound = || proptest::option::of(0..20_u8);
        (bound(), bound()).prop_map(|(after, up_to)| KeyRange { after, up_to })
    }

    proptest! {
        #[test]
        fn the_cuts_are_disjoint_and_cover_what_both_do(
            range in any_range(),
            covers in proptest::collection::vec(any_range(), 0..5),
        ) {
            let cuts = cut(&range, &covers);
            for key in 0..=u8::MAX {
                let wanted = range.contains(&key) && covers.iter().any(|cover| cover.contains(&key));
                let found = cuts.iter().filter(|cut| cut.contains(&key)).count();
                prop_assert_eq!(found, usize::from(wanted), "{} {:?}", key, cuts);
            }
        }
    }
}
