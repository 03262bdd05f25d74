//! What to do, decided without doing it.

use std::collections::BTreeMap;
use std::time::Duration;

use smallvec::SmallVec;
use zdm_core::error::{Advice, Certainty, Error, Result};
use zdm_core::key::{Key, KeyRange};
use zdm_core::queue::{Entry, EntryId, Intent, Span};
use zdm_core::store::Change;

use super::retry::Backoff;

/// The keys and ranges of one claim.
#[derive(Debug)]
pub(crate) struct Work<K> {
    pub(crate) keys: BTreeMap<K, KeyWork>,
    pub(crate) ranges: Vec<RangeWork<K>>,
}

/// What the claimed entries say about one key.
#[derive(Debug, Default)]
pub(crate) struct KeyWork {
    /// Some entry says that a write may have removed the record.
    pub(crate) may_delete: bool,
    pub(crate) entries: SmallVec<[EntryId; 2]>,
}

#[derive(Debug)]
pub(crate) struct RangeWork<K> {
    pub(crate) range: KeyRange<K>,
    pub(crate) may_delete: bool,
    pub(crate) entry: EntryId,
}

/// Sorts the claimed entries by key. `sent` tells whether an entry is recovered or, given a key, whether its record
/// was sent to the secondary before: its absence at the primary now is a deletion, whoever deleted it.
///
/// # Errors
/// `Kind::Damaged` when a key is not of the stores' type: the queue belongs to something else.
pub(crate) fn work_of<K: Key>(
    entries: &[Entry],
    sent: impl Fn(EntryId, Option<&K>) -> bool,
) -> Result<Work<K>> {
    let mut work = Work { keys: BTreeMap::new(), ranges: Vec::new() };
    for entry in entries {
        for item in entry.touch.items() {
            match &item.span {
                Span::Key(key) => {
                    let key = key.to_key()?;
                    let may_delete = item.intent.may_delete() || sent(entry.id, Some(&key));
                    let of_key: &mut KeyWork = work.keys.entry(key).or_default();
                    of_key.may_delete |= may_delete;
                    if !of_key.entries.contains(&entry.id) {
                        of_key.entries.push(entry.id);
                    }
                }
                Span::Range(range) => work.ranges.push(RangeWork {
                    range: range.decode()?,
                    may_delete: item.intent.may_delete() || sent(entry.id, None),
                    entry: entry.id,
                }),
            }
        }
    }
    Ok(work)
}

/// What to do at the secondary, given what the primary holds. Absence alone is not deletion: a key whose
/// record was never there, or not yet, has nothing to remove.
pub(crate) fn change_for<K, R>(key: K, record: Option<R>, may_delete: bool) -> Option<Change<K, R>> {
    match record {
        Some(record) => Some(Change::Put(key, record)),
        None if may_delete => Some(Change::Delete(key)),
        None => None,
    }
}

/// The intent under which a key is queued again.
pub(crate) const fn intent(may_delete: bool) -> Intent {
    if may_delete { Intent::Unknown } else { Intent::Upsert }
}

/// What becomes of the entries of a key whose reconciling failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Claim them again, not before the delay has passed.
    Retry {
        delay: Duration,
        /// Whether this failure is charged to the entry's budget.
        counts: bool,
    },
    /// Set them aside.
    Park,
}

/// Judges a failure. `attempts` counts earlier ones; `rest` is how long the keys must rest after an
/// unknown outcome at the secondary.
pub(crate) fn verdict(
    error: &Error,
    attempts: u32,
    budget: u32,
    rest: Duration,
    backoff: &Backoff,
) -> Verdict {
    // Whatever the delay, a write that may still land must have landed before the next one.
    let rest = if error.certainty() == Certainty::Unknown { rest } else { Duration::ZERO };
    match error.advice() {
        Advice::RetryWhenStoreIsBack => {
            Verdict::Retry { delay: rest.max(backoff.delay(attempts)), counts: false }
        }
        Advice::Park | Advice::Stop => Verdict::Park,
        _ if attempts + 1 >= budget => Verdict::Park,
        _ => Verdict::Retry { delay: rest.max(backoff.delay(attempts)), counts: true },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use zdm_core::error::Kind;

    #[test]
    fn absence_alone_is_not_deletion() {
        assert_eq!(change_for::<u8, u8>(1, None, false), None);
        assert_eq!(change_for::<u8, u8>(1, None, true), Some(Change::Delete(1)));
        assert_eq!(change_for(1, Some(2), true), Some(Change::Put(1, 2)));
    }

    #[test]
    fn the_class_of_the_error_decides() {
        let backoff = Backoff::new(Duration::from_millis(10), Duration::from_secs(1), Some(1));
        let rest = Duration::from_secs(5);
        let judge = |kind: Kind, attempts| verdict(&Error::new(kind, ""), attempts, 3, rest, &backoff);

        assert_eq!(judge(Kind::Rejected, 0), Verdict::Park);
        assert_eq!(judge(Kind::Busy, 2), Verdict::Park);
        assert!(matches!(judge(Kind::Busy, 0), Verdict::Retry { counts: true, delay } if delay < rest));
        // An unavailable store is nobody's fault: it never uses up the budget.
        assert_eq!(judge(Kind::Unavailable, 99), Verdict::Retry { delay: rest, counts: false });
        assert!(matches!(judge(Kind::Timeout, 0), Verdict::Retry { delay, .. } if delay >= rest));
    }
}
