//! Ranges that are equal by their sums, which are made where the records are.

use std::sync::atomic::{AtomicU32, Ordering};

use zdm_core::error::Result;
use zdm_core::key::KeyRange;
use zdm_core::store::{Digest, Store};

use crate::pages::PageContext;

/// How many times as many records are summed up as a page of records has: a sum is cheap to send.
const FACTOR: usize = 16;
/// A range that differs is cut to this part of itself, until it is as small as a page of records.
const CUT: usize = 4;

/// The beginning of a range, equal on both sides.
pub(super) struct Equal<K> {
    pub(super) range: KeyRange<K>,
    /// Whether nothing is left of the range that was asked about.
    pub(super) last: bool,
    pub(super) records: usize,
}

/// Spares two sides that differ everywhere the sums that would say so each time.
#[derive(Debug, Default)]
pub(super) struct Spare {
    /// How many pages are read without asking for sums first.
    pages: AtomicU32,
    misses: AtomicU32,
}

impl Spare {
    /// After so many misses in a row the number of pages does not double any more.
    const MOST: u32 = 6;

    /// Whether sums are worth asking for now. Only a matter of speed, so no order is needed.
    pub(super) fn asks(&self) -> bool {
        let spared =
            self.pages.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |pages| pages.checked_sub(1));
        spared.is_err()
    }

    pub(super) fn note(&self, equal: bool) {
        if equal {
            self.misses.store(0, Ordering::Relaxed);
        } else {
            let misses = self.misses.fetch_add(1, Ordering::Relaxed).min(Self::MOST);
            self.pages.store((1 << misses) - 1, Ordering::Relaxed);
        }
    }
}

type Sums<'a, S> = [&'a dyn Digest<Key = <S as Store>::Key, Record = <S as Store>::Record>; 2];

/// The longest beginning of `rest`, of those that are tried, that is equal on both sides. `None` when not
/// even one of about `limit` records is: then the records themselves have to be looked at.
pub(super) async fn first_equal<S: Store>(
    context: &PageContext<S>,
    [ours, theirs]: Sums<'_, S>,
    rest: &KeyRange<S::Key>,
    limit: usize,
) -> Result<Option<Equal<S::Key>>> {
    let mut records = limit.saturating_mul(FACTOR);
    loop {
        let what = "asking the primary for the end of a range";
        let end = context.in_time(what, ours.nth_key(rest, records)).await?;
        let last = end.is_none();
        let range = KeyRange { after: rest.after.clone(), up_to: end.or_else(|| rest.up_to.clone()) };
        let (primary, secondary) = tokio::try_join!(
            context.in_time("summing up a range of the primary", ours.digest(&range)),
            context.in_time("summing up a range of the secondary", theirs.digest(&range)),
        )?;
        if primary == secondary {
            let records = usize::try_from(primary.records).unwrap_or(usize::MAX);
            return Ok(Some(Equal { range, last, records }));
        }
        // A range that ends before the place that was asked for has fewer records than that.
        let counted = usize::try_from(primary.records).unwrap_or(usize::MAX);
        records = records.min(counted.max(1)) / CUT;
        if records < limit.max(1) {
            return Ok(None);
        }
    }
}
