//! What the gates want to know and no store can tell: what has been copied and compared, and which keys
//! were written since.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
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

/// What was touched since a verification began, as long as it is little.
pub(crate) struct TouchedSince {
    queue: Arc<dyn WriteQueue>,
    seen: Mutex<Seen>,
}

struct Seen {
    /// A watch over every key; ended for good when too much was touched.
    watch: Option<WatchId>,
    earlier: HashMap<Span, TouchItem>,
}

/// How often what was touched is looked through, so that it cannot pile up in the queue.
const LOOK_EVERY: Duration = Duration::from_secs(1);

impl TouchedSince {
    /// More keys than this are not kept: comparing them while writes wait would take too long anyway.
    pub(crate) const MOST_KEYS: usize = 50_000;

    /// Begins to note what is touched.
    pub(crate) fn begin(queue: &Arc<dyn WriteQueue>) -> Arc<Self> {
        let watch = Some(queue.watch(KeyRange::all()));
        let seen = Seen { watch, earlier: HashMap::new() };
        Arc::new(Self { queue: Arc::clone(queue), seen: Mutex::new(seen) })
    }

    /// Keeps looking whether it has become too much, for as long as anybody needs this.
    pub(crate) fn keep_small(self: &Arc<Self>, tasks: &TaskTracker, stop: &CancellationToken) {
        let (this, stop) = (Arc::downgrade(self), stop.clone());
        tasks.spawn(async move {
            while stop.run_until_cancelled(tokio::time::sleep(LOOK_EVERY)).await.is_some() {
                let Some(this) = this.upgrade() else { return };
                drop(this.gather());
            }
        });
    }

    /// What was touched so far, each key or range once. `None` when it is too much. The watch goes on.
    pub(crate) fn so_far(&self) -> Option<Vec<TouchItem>> {
        let seen = self.gather();
        seen.watch.is_some().then(|| seen.earlier.values().cloned().collect())
    }

    fn gather(&self) -> MutexGuard<'_, Seen> {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(ended) = seen.watch else { return seen };
        // The next watch begins before this one ends, so nothing falls between them.
        seen.watch = Some(self.queue.watch(KeyRange::all()));
        for item in self.queue.unwatch(ended) {
            seen.earlier.insert(item.span.clone(), item);
        }
        if seen.earlier.len() > Self::MOST_KEYS {
            seen.earlier = HashMap::new();
            if let Some(watch) = seen.watch.take() {
                drop(self.queue.unwatch(watch));
            }
        }
        seen
    }
}

impl Drop for TouchedSince {
    fn drop(&mut self) {
        let seen = self.seen.get_mut().unwrap_or_else(PoisonError::into_inner);
        if let Some(watch) = seen.watch.take() {
            drop(self.queue.unwatch(watch));
        }
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
