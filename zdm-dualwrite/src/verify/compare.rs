//! Comparing what was read. Pure.

use zdm_core::error::Result;
use zdm_core::report::MismatchCause;
use zdm_core::store::{Difference, Page, Record};

/// The keys for which two pages of the same range do not hold the same, in order. Both pages are sorted.
pub(super) fn suspects<K: Ord + Clone, R: Record>(ours: &Page<K, R>, theirs: &Page<K, R>) -> Vec<K> {
    let mut found = Vec::new();
    let mut theirs = theirs.iter().peekable();
    for (key, record) in ours {
        while let Some((extra, _)) = theirs.next_if(|(theirs, _)| theirs < key) {
            found.push(extra.clone());
        }
        let same = match (record, theirs.next_if(|(theirs, _)| theirs == key)) {
            (Ok(ours), Some((_, Ok(theirs)))) => ours.same_as(theirs),
            _ => false,
        };
        if !same {
            found.push(key.clone());
        }
    }
    found.extend(theirs.map(|(extra, _)| extra.clone()));
    found
}

/// How two records differ.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Verdict {
    pub(super) cause: MismatchCause,
    pub(super) differences: Vec<Difference>,
}

/// Judges what a second look found. A row that cannot be mapped differs from everything.
pub(super) fn judge<R: Record>(ours: &Result<Option<R>>, theirs: &Result<Option<R>>) -> Option<Verdict> {
    let (cause, differences) = match (ours, theirs) {
        (Ok(None), Ok(None)) => return None,
        (Ok(Some(_)), Ok(None)) => (MismatchCause::Missing, Vec::new()),
        (Ok(None), Ok(Some(_))) => (MismatchCause::Extra, Vec::new()),
        (Ok(Some(ours)), Ok(Some(theirs))) if ours.same_as(theirs) => return None,
        (Ok(Some(ours)), Ok(Some(theirs))) => (MismatchCause::Unexplained, ours.differences(theirs)),
        _ => {
            let said = |side: &Result<Option<R>>| match side {
                Ok(Some(record)) => format!("{record:?}"),
                Ok(None) => "no record".to_owned(),
                Err(error) => error.to_string(),
            };
            let whole = Difference { field: String::new(), left: said(ours), right: said(theirs) };
            (MismatchCause::Mapping, vec![whole])
        }
    };
    Some(Verdict { cause, differences })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::{BTreeMap, BTreeSet};
    use zdm_core::error::{Error, Kind};

    fn page(records: &BTreeMap<u8, u8>) -> Page<u8, u8> {
        records.iter().map(|(key, record)| (*key, Ok(*record))).collect()
    }

    proptest! {
        #[test]
        fn the_suspects_are_the_keys_that_are_not_the_same_on_both_sides(
            ours in proptest::collection::btree_map(0..12_u8, 0..3_u8, 0..12),
            theirs in proptest::collection::btree_map(0..12_u8, 0..3_u8, 0..12),
        ) {
            let keys: BTreeSet<u8> = ours.keys().chain(theirs.keys()).copied().collect();
            let wanted: Vec<u8> = keys.into_iter().filter(|key| ours.get(key) != theirs.get(key)).collect();
            prop_assert_eq!(suspects(&page(&ours), &page(&theirs)), wanted);
        }
    }

    #[test]
    fn a_row_that_cannot_be_mapped_is_a_suspect_on_either_side() {
        let unmapped = || Error::new(Kind::Rejected, "the column age holds \"old\"");
        let ours: Page<u8, u8> = vec![(1, Ok(1)), (2, Err(unmapped()))];
        let theirs: Page<u8, u8> = vec![(1, Err(unmapped())), (2, Ok(2))];
        assert_eq!(suspects(&ours, &theirs), [1, 2]);
        let verdict = judge::<u8>(&Ok(Some(1)), &Err(unmapped())).unwrap();
        assert_eq!(verdict.cause, MismatchCause::Mapping);
        assert!(verdict.differences[0].right.contains("age"));
    }

    #[test]
    fn the_verdict_names_what_is_wrong() {
        let judged = |ours, theirs| judge::<u8>(&Ok(ours), &Ok(theirs)).map(|verdict| verdict.cause);
        assert_eq!(judged(None, None), None);
        assert_eq!(judged(Some(1), Some(1)), None);
        assert_eq!(judged(Some(1), None), Some(MismatchCause::Missing));
        assert_eq!(judged(None, Some(1)), Some(MismatchCause::Extra));
        assert_eq!(judged(Some(1), Some(2)), Some(MismatchCause::Unexplained));
    }
}
