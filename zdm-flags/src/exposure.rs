use std::fmt;
use std::hash::BuildHasher as _;
use std::sync::atomic::{AtomicU64, Ordering};

use foldhash::quality::RandomState;

use crate::evaluation::Reason;

/// A subject saw a variant, for the first time in a while.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Exposure<'a> {
    /// The flag.
    pub flag: &'a str,
    /// The variant that was served.
    pub variant: &'a str,
    /// Why.
    pub reason: Reason,
    /// Who saw it, if the context has a key.
    pub targeting_key: Option<&'a str>,
    /// The revision of the snapshot.
    pub revision: u64,
}

/// Hands each exposure on once, in memory that does not grow and without a lock.
///
/// A fixed table holds a fingerprint per slot. Two exposures that share a slot push each other out, so one
/// may be told again; none is kept back for longer than its fingerprint stays.
pub(crate) struct Exposures {
    seen: Box<[AtomicU64]>,
    hasher: RandomState,
    observer: Box<dyn Fn(&Exposure<'_>) + Send + Sync>,
}

impl Exposures {
    pub(crate) fn new(slots: usize, observer: Box<dyn Fn(&Exposure<'_>) + Send + Sync>) -> Self {
        let seen = (0..slots.max(1)).map(|_| AtomicU64::new(0)).collect();
        Self { seen, hasher: RandomState::default(), observer }
    }

    pub(crate) fn saw(&self, flag: &str, variant: &str, reason: Reason, key: Option<&str>, revision: u64) {
        // Never 0, which is an empty slot.
        let fingerprint = self.hasher.hash_one((flag, variant, key)) | 1;
        let slot = usize::try_from(fingerprint >> 1).unwrap_or(0) % self.seen.len();
        // A slot is one number, and whoever puts it there first tells.
        if self.seen[slot].swap(fingerprint, Ordering::Relaxed) != fingerprint {
            (self.observer)(&Exposure { flag, variant, reason, targeting_key: key, revision });
        }
    }
}

impl fmt::Debug for Exposures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Exposures").field("slots", &self.seen.len()).finish_non_exhaustive()
    }
}
