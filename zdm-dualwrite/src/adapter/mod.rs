//! The wrapper that application code calls.

mod builder;
pub(crate) mod operations;
mod read_path;
mod settings;
mod store;
pub(crate) mod taint;
mod write_path;

pub use builder::Builder;
pub use settings::{CircuitSettings, Instances, Retry, Settings, ShadowSettings, WhenFull};
pub(crate) use write_path::in_cohort;

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::{Arc, Mutex};

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use zdm_core::clock::Clock;
use zdm_core::key::KeyBytes;
use zdm_core::phase::{Coordinator, PhaseRecord, Side};
use zdm_core::queue::{Direction, EntryId, QueueStats, WriteQueue};
use zdm_core::report::Observers;
use zdm_core::store::Store;

use crate::handover::{BeforeHandover, Facts};
use crate::poison::Poison;
use crate::reconcile::{Circuit, Safety};
use crate::shadow::Shadow;
use operations::Operations;
use taint::TaintWindow;

/// Two stores behind one interface, kept in step through a durable queue of secondary writes.
///
/// It is a [`Store`] itself: plain calls go to the primary of the current phase. Any other call of a
/// repository goes through [`write`](Self::write). Clones are cheap and share everything.
///
/// Dropping the last clone stops the workers; what is queued stays queued. [`shutdown`](Self::shutdown)
/// drains first.
///
/// ```
/// use std::sync::Arc;
/// use zdm_core::{phase::Phase, store::{MemoryStore, Store}};
/// use zdm_dualwrite::DualWrite;
///
/// # tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(async {
/// let (old, new) = (Arc::new(MemoryStore::new()), Arc::new(MemoryStore::new()));
/// let users = DualWrite::builder(old.clone(), new.clone()).phase(Phase::DualWrite).start().await?;
///
/// users.put(&7_u64, &"Ada".to_owned()).await?;
/// users.drained().await;
/// assert_eq!(new.get(&7).await?.as_deref(), Some("Ada"));
/// # Ok::<_, zdm_core::Error>(()) }).unwrap();
/// ```
pub struct DualWrite<S: Store> {
    pub(crate) shared: Arc<Shared<S>>,
    /// Workers hold `shared` but not this, so they end with the last clone.
    owner: Arc<Owner>,
}

/// Everything that clones and workers share.
pub(crate) struct Shared<S> {
    pub(crate) old: S,
    pub(crate) new: S,
    pub(crate) queue: Arc<dyn WriteQueue>,
    pub(crate) coordinator: Arc<dyn Coordinator>,
    pub(crate) operations: Arc<Operations>,
    pub(crate) settings: Settings,
    pub(crate) observers: Observers,
    pub(crate) before_handover: Option<BeforeHandover>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) poison: Poison,
    pub(crate) circuit: Circuit,
    pub(crate) taint_window: TaintWindow,
    pub(crate) shadow: Shadow,
    pub(crate) facts: Facts,
    /// One move of the phase at a time.
    pub(crate) moving: tokio::sync::Mutex<()>,
    /// Entries that an earlier process left have ids up to this one.
    pub(crate) recovered_up_to: EntryId,
    /// Entries that failed, with the keys whose record was sent to the secondary before.
    pub(crate) sent: Mutex<HashMap<EntryId, HashSet<KeyBytes>>>,
    /// Ends workers and background tasks.
    pub(crate) stop: CancellationToken,
    pub(crate) tasks: TaskTracker,
}

struct Owner {
    stop: CancellationToken,
}

impl Drop for Owner {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl<S: Store> Shared<S> {
    pub(crate) const fn side(&self, side: Side) -> &S {
        match side {
            Side::Old => &self.old,
            Side::New => &self.new,
        }
    }

    /// Primary and secondary of a direction.
    pub(crate) const fn sides(&self, direction: Direction) -> (&S, &S) {
        match direction {
            Direction::OldToNew => (&self.old, &self.new),
            Direction::NewToOld => (&self.new, &self.old),
        }
    }

    /// The strongest way that the parts allow to keep abandoned secondary writes harmless.
    pub(crate) fn safety(&self, direction: Direction) -> Safety {
        Safety::of(self.settings.instances, self.sides(direction).1)
    }
}

impl<S: Store> DualWrite<S> {
    /// The phase, its epoch and since when.
    pub fn phase(&self) -> PhaseRecord {
        self.shared.operations.record()
    }

    /// How secondary writes of a direction are kept harmless when they are given up on.
    pub fn safety(&self, direction: Direction) -> Safety {
        self.shared.safety(direction)
    }

    /// What is pending.
    pub fn queue_stats(&self) -> QueueStats {
        self.shared.queue.stats()
    }

    /// The queue, for inspection and for parked entries.
    pub fn queue(&self) -> &Arc<dyn WriteQueue> {
        &self.shared.queue
    }

    /// The record of phases and moves.
    pub fn coordinator(&self) -> &Arc<dyn Coordinator> {
        &self.shared.coordinator
    }

    /// The old store.
    pub fn old_store(&self) -> &S {
        &self.shared.old
    }

    /// The new store.
    pub fn new_store(&self) -> &S {
        &self.shared.new
    }

    /// Why mirroring has stopped, if it has: an invariant was found broken. The primary goes on, writes
    /// are still recorded, and a restart tries again.
    pub fn poisoned(&self) -> Option<&str> {
        self.shared.poison.reason()
    }

    /// Waits until nothing is pending; parked entries remain. It waits forever while the secondary is
    /// down or writes keep coming.
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped.
    pub async fn drained(&self) {
        self.shared.queue.wait_drained().await;
    }
}

impl<S: Store> Clone for DualWrite<S> {
    fn clone(&self) -> Self {
        Self { shared: Arc::clone(&self.shared), owner: Arc::clone(&self.owner) }
    }
}

impl<S: Store> fmt::Debug for DualWrite<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DualWrite")
            .field("phase", &self.phase())
            .field("queue", &self.queue_stats())
            .finish_non_exhaustive()
    }
}
