//! Ranges that are equal by their sums, which are made where the records are.

use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

use zdm_core::error::Result;
use zdm_core::key::KeyRange;
use zdm_core::store::{Digest, Store};

use crate::pages::PageContext;

/// How many times as many records are summed up as a page of records has: a sum is cheap to send.
const FACTOR: usize = 16;
/// A range that differs is cut to this part of itself.
const CUT: usize = 4;
/// A range that is equal lets the next one be longer by this part of itself. Slowly: what is summed up in vain is
/// as long as the range that grew past the next difference.
const GROW: usize = 4;
/// A range of so few records is read rather than cut again.
const FEW: usize = 1_000;

/// The beginning of a range, equal on both sides.
pub(super) struct Equal<K> {
    pub(super) range: KeyRange<K>,
    /// Whether nothing is left of the range that was asked about.
    pub(super) last: bool,
    pub(super) records: usize,
}

/// How far sums reach. They reach less far where differences are frequent, because a range with one in it is
/// summed up in vain; and two sides that differ everywhere are spared the sums that would say so each time.
///
/// Workers share it. Only a matter of speed, so no order is needed.
#[derive(Debug)]
pub(super) struct Reach {
    /// How many records the next sum is of.
    records: AtomicUsize,
    /// How many pages are read without asking for sums first.
    spared: AtomicU32,
    misses: AtomicU32,
}

impl Default for Reach {
    fn default() -> Self {
        Self { records: AtomicUsize::new(usize::MAX), spared: AtomicU32::new(0), misses: AtomicU32::new(0) }
    }
}

impl Reach {
    /// After so many misses in a row the number of pages does not double any more.
    const MOST: u32 = 6;

    /// Whether sums are worth asking for now.
    pub(super) fn asks(&self) -> bool {
        let spared =
            self.spared.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |pages| pages.checked_sub(1));
        spared.is_err()
    }

    /// How many records to read where the sums differ: after one miss only those that were summed up last.
    pub(super) fn rows(&self, limit: usize) -> usize {
        if self.misses.load(Ordering::Relaxed) == 1 { limit.min(FEW) } else { limit }
    }

    fn hit(&self, records: usize) {
        self.misses.store(0, Ordering::Relaxed);
        self.records.store(records.saturating_add(records / GROW), Ordering::Relaxed);
    }

    fn missed(&self) {
        let misses = self.misses.fetch_add(1, Ordering::Relaxed).min(Self::MOST);
        self.spared.store((1 << misses) - 1, Ordering::Relaxed);
        self.records.store(FEW, Ordering::Relaxed);
    }
}

type Sums<'a, S> = [&'a dyn Digest<Key = <S as Store>::Key, Record = <S as Store>::Record>; 2];

/// A beginning of `rest` that is equal on both sides. `None` when even a short one is not: then the records
/// themselves have to be looked at.
pub(super) async fn first_equal<S: Store>(
    context: &PageContext<S>,
    [ours, theirs]: Sums<'_, S>,
    rest: &KeyRange<S::Key>,
    limit: usize,
    reach: &Reach,
) -> Result<Option<Equal<S::Key>>> {
    let few = limit.clamp(1, FEW);
    let mut records = reach.records.load(Ordering::Relaxed).clamp(few, limit.max(1).saturating_mul(FACTOR));
    loop {
        let what = "asking the primary for the end of a range";
        let end = context.in_time(what, ours.nth_key(rest, records)).await?;
        let last = end.is_none();
        let range = KeyRange { after: rest.after.clone(), up_to: end.or_else(|| rest.up_to.clone()) };
        let (primary, secondary) = tokio::try_join!(
            context.in_time("summing up a range of the primary", ours.digest(&range)),
            context.in_time("summing up a range of the secondary", theirs.digest(&range)),
        )?;
        let counted = usize::try_from(primary.records).unwrap_or(usize::MAX);
        if primary == secondary {
            reach.hit(records);
            return Ok(Some(Equal { range, last, records: counted }));
        }
        // A range that ends before the place that was asked for has fewer records than that.
        records = records.min(counted.max(1)) / CUT;
        if records < few {
            reach.missed();
            return Ok(None);
        }
    }
}
