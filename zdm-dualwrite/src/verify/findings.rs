use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::Serialize;
use zdm_core::report::{Mismatch, MismatchCause};

/// A key whose records differ.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Differing<K> {
    /// The key.
    pub key: K,
    /// How they differ, and why.
    pub mismatch: Mismatch,
}

/// What a verification has found so far.
#[derive(Debug)]
pub(crate) struct Findings<K> {
    keep: usize,
    found: Mutex<Found<K>>,
}

#[derive(Clone, Debug)]
pub(crate) struct Found<K> {
    /// The first differences; those that are not kept are still counted.
    pub(crate) differing: Vec<Differing<K>>,
    pub(crate) by_cause: Vec<(MismatchCause, u64)>,
    /// Keys that were pending all the time that they were looked at.
    pub(crate) in_flight: u64,
}

impl<K> Findings<K> {
    pub(crate) fn new(keep: usize) -> Arc<Self> {
        let found = Found { differing: Vec::new(), by_cause: Vec::new(), in_flight: 0 };
        Arc::new(Self { keep, found: Mutex::new(found) })
    }

    fn lock(&self) -> MutexGuard<'_, Found<K>> {
        // Counters and a list: a panic elsewhere leaves them sound.
        self.found.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn so_far(&self) -> Found<K>
    where
        K: Clone,
    {
        self.lock().clone()
    }

    pub(super) fn add(&self, key: K, mismatch: Mismatch) {
        let mut found = self.lock();
        match found.by_cause.iter_mut().find(|(cause, _)| *cause == mismatch.cause) {
            Some((_, count)) => *count += 1,
            None => found.by_cause.push((mismatch.cause, 1)),
        }
        if found.differing.len() < self.keep {
            found.differing.push(Differing { key, mismatch });
        }
    }

    pub(super) fn add_in_flight(&self) {
        self.lock().in_flight += 1;
    }
}
