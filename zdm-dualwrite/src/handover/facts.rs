//! What the gates want to know and no store can tell: what has been copied and compared, and which keys
//! were written since.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use zdm_core::clock::UnixMillis;
use zdm_core::key::KeyRange;
use zdm_core::queue::{Direction, Span, TouchItem, WatchId, WriteQueue};

/// Facts that runs in this process have established.
#[derive(Debug, Default)]
pub(crate) struct Facts {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    backfilled: Option<Backfilled>,
    verified: Option<Verified>,
}

/// A backfill has come to its end.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Backfilled {
    pub(crate) rows: u64,
    pub(crate) at: UnixMillis,
}

/// A verification of every key has come to its end.
#[derive(Clone, Debug)]
pub(crate) struct Verified {
    pub(crate) direction: Direction,
    pub(crate) compared: u64,
    pub(crate) mismatches: u64,
    pub(crate) at: UnixMillis,
    /// What was touched since the verification began.
    pub(crate) touched: Arc<TouchedSince>,
}

/// A watch over every key, ended when nobody needs it any more.
pub(crate) struct TouchedSince {
    queue: Arc<dyn WriteQueue>,
    seen: Mutex<Seen>,
}

struct Seen {
    watch: WatchId,
    earlier: HashMap<Span, TouchItem>,
}

impl TouchedSince {
    /// Begins to note what is touched.
    pub(crate) fn begin(queue: &Arc<dyn WriteQueue>) -> Arc<Self> {
        let watch = queue.watch(KeyRange::all());
        let seen = Seen { watch, earlier: HashMap::new() };
        Arc::new(Self { queue: Arc::clone(queue), seen: Mutex::new(seen) })
    }

    /// What was touched so far. The watch goes on.
    pub(crate) fn so_far(&self) -> Vec<TouchItem> {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        // The next watch begins before this one ends, so nothing falls between them.
        let next = self.queue.watch(KeyRange::all());
        let ended = std::mem::replace(&mut seen.watch, next);
        for item in self.queue.unwatch(ended) {
            seen.earlier.insert(item.span.clone(), item);
        }
        seen.earlier.values().cloned().collect()
    }
}

impl Drop for TouchedSince {
    fn drop(&mut self) {
        let seen = self.seen.get_mut().unwrap_or_else(PoisonError::into_inner);
        drop(self.queue.unwatch(seen.watch));
    }
}

impl std::fmt::Debug for TouchedSince {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TouchedSince").finish_non_exhaustive()
    }
}

impl Facts {
    pub(crate) fn backfilled(&self) -> Option<Backfilled> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).backfilled
    }

    pub(crate) fn set_backfilled(&self, backfilled: Option<Backfilled>) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).backfilled = backfilled;
    }

    pub(crate) fn verified(&self) -> Option<Verified> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).verified.clone()
    }

    pub(crate) fn set_verified(&self, verified: Option<Verified>) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).verified = verified;
    }
}
