//! What happens before the first page: the plan of an earlier run, or a new one.

use zdm_core::error::{Error, Kind, Result};
use zdm_core::key::{Key, KeyRange};
use zdm_core::queue::Direction;

use super::{Journal, Place, Plan};

/// Ranges per worker, so that a worker whose ranges turn out short takes over from others.
pub(crate) const RANGES_PER_WORKER: usize = 4;

/// How often a plan is loaded again because a run that has just been dropped stored once more.
const TRIES: u32 = 5;

/// Takes the job over: goes on from the plan that an earlier run left, unless `begin_anew` says that it is
/// of no use, or begins with `ranges`. Tells whether it goes on.
pub(crate) async fn open_journal<K: Key>(
    place: &Place,
    direction: Direction,
    ranges: &[KeyRange<K>],
    begin_anew: impl Fn(&Plan) -> bool,
) -> Result<(Journal, bool)> {
    for _ in 0..TRIES {
        let (plan, sequence, goes_on) = match place.load::<K>(direction).await? {
            Some((found, sequence)) if begin_anew(&found) => {
                // A page that was cut off must not be forgotten with the plan.
                let mut plan = Plan::new(direction, ranges);
                plan.orphans = found.tokens();
                (plan, sequence, false)
            }
            Some((found, sequence)) => (found, sequence, true),
            None => (Plan::new(direction, ranges), 0, false),
        };
        if let Some(journal) = place.take(plan, sequence).await? {
            return Ok((journal, goes_on));
        }
    }
    let message = format!("somebody else runs the job {:?}: its checkpoint keeps moving", place.job);
    Err(Error::new(Kind::Owned, message))
}

/// Checks that the ranges of a store cover every key once; a gap would silently leave records out.
pub(crate) fn check_cover<K: Key>(ranges: &[KeyRange<K>]) -> Result<()> {
    let ends = ranges.first().is_some_and(|first| first.after.is_none())
        && ranges.last().is_some_and(|last| last.up_to.is_none());
    let joined = ranges.windows(2).all(|pair| match pair {
        [lower, upper] => lower.up_to.is_some() && lower.up_to == upper.after,
        _ => true,
    });
    if ends && joined {
        return Ok(());
    }
    let message = format!("the ranges that the store's `split` returned leave keys out: {ranges:?}");
    Err(Error::new(Kind::Invalid, message))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_that_leave_keys_out_are_refused() {
        let range = |after: Option<u8>, up_to: Option<u8>| KeyRange { after, up_to };
        let whole = [range(None, Some(3)), range(Some(3), Some(9)), range(Some(9), None)];
        check_cover(&whole).unwrap();
        check_cover(&[KeyRange::<u8>::all()]).unwrap();
        for broken in [&whole[1..], &whole[..2], &[range(None, Some(3)), range(Some(4), None)], &[]] {
            assert_eq!(check_cover(broken).unwrap_err().kind(), Kind::Invalid, "{broken:?}");
        }
    }
}
