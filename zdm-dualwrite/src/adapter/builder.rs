use std::sync::{Arc, Mutex};

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use zdm_core::clock::{Clock, SystemClock};
use zdm_core::error::Result;
use zdm_core::phase::{Coordinator, MemoryCoordinator, Phase};
use zdm_core::queue::{EntryId, EntryState, MemoryQueue, WriteQueue};
use zdm_core::report::{Event, Observer, Observers};
use zdm_core::store::Store;

use super::operations::Operations;
use super::taint::TaintWindow;
use super::{DualWrite, Owner, Settings, Shared};
use crate::handover::{Facts, join, spawn_membership};
use crate::poison::Poison;
use crate::reconcile::{Circuit, spawn_workers};
use crate::shadow::Shadow;

/// Puts the parts of a [`DualWrite`] together. Made by [`DualWrite::builder`].
pub struct Builder<S> {
    old: S,
    new: S,
    queue: Option<Arc<dyn WriteQueue>>,
    coordinator: Option<Arc<dyn Coordinator>>,
    phase: Phase,
    settings: Settings,
    observers: Vec<Arc<dyn Observer>>,
    clock: Arc<dyn Clock>,
}

impl<S: Store + Clone> DualWrite<S> {
    /// Begins with the two stores. Sides of different types meet as
    /// [`DynStore`](zdm_core::store::DynStore); a repository trait of your own as
    /// `Arc<dyn UserRepository>`.
    pub fn builder(old: S, new: S) -> Builder<S> {
        Builder {
            old,
            new,
            queue: None,
            coordinator: None,
            phase: Phase::Off,
            settings: Settings::default(),
            observers: Vec::new(),
            clock: Arc::new(SystemClock),
        }
    }
}

impl<S: Store + Clone> Builder<S> {
    /// Where pending writes are kept. Without one they are kept in memory: a crash loses them, and the
    /// handover is refused.
    #[must_use]
    pub fn queue(self, queue: impl WriteQueue) -> Self {
        self.shared_queue(Arc::new(queue))
    }

    /// As [`queue`](Self::queue), for a queue that others hold too.
    #[must_use]
    pub fn shared_queue(mut self, queue: Arc<dyn WriteQueue>) -> Self {
        self.queue = Some(queue);
        self
    }

    /// Who remembers the phase. Without one it is remembered in memory, beginning with
    /// [`phase`](Self::phase).
    #[must_use]
    pub fn coordinator(mut self, coordinator: Arc<dyn Coordinator>) -> Self {
        self.coordinator = Some(coordinator);
        self
    }

    /// The phase to begin in, when no coordinator is given. Default [`Phase::Off`].
    #[must_use]
    pub fn phase(mut self, phase: Phase) -> Self {
        self.phase = phase;
        self
    }

    /// How it behaves.
    #[must_use]
    pub fn settings(mut self, settings: Settings) -> Self {
        self.settings = settings;
        self
    }

    /// Adds somebody who is told what happens.
    #[must_use]
    pub fn observer(mut self, observer: Arc<dyn Observer>) -> Self {
        self.observers.push(observer);
        self
    }

    /// Where the time comes from. Default: the machine.
    #[must_use]
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// Checks the settings, takes over what an earlier process left in the queue, and starts the workers
    /// on the current tokio runtime.
    ///
    /// # Errors
    /// `Kind::Invalid` for a setting out of its bounds; what the coordinator, the queue or a fenced store
    /// says when it is asked where it stands.
    ///
    /// # Cancel safety
    /// When the future is dropped nothing has been started.
    pub async fn start(self) -> Result<DualWrite<S>> {
        self.settings.validate()?;
        let coordinator =
            self.coordinator.unwrap_or_else(|| Arc::new(MemoryCoordinator::starting_in(self.phase)));
        let queue = self.queue.unwrap_or_else(|| {
            Arc::new(MemoryQueue::with_clock(MemoryQueue::DEFAULT_LIMIT, Arc::clone(&self.clock)))
        });
        let lease_until = match coordinator.is_shared() {
            true => Some(join(&*coordinator, &self.settings.instance_name, self.settings.lease).await?),
            false => None,
        };
        let record = coordinator.current().await?;
        for store in [&self.old, &self.new] {
            if let Some(fenced) = store.capabilities().fenced {
                // A queue that is younger than its secondary must not draw stamps that look old to it.
                queue.raise_stamps_above(fenced.newest_stamp().await?).await?;
            }
        }
        // Whatever an earlier process has sent to either store, it lands before the entries are claimed.
        let settle_time = self.old.settle_time().max(self.new.settle_time());
        queue.recover(settle_time).await?;
        let recovered =
            [EntryState::Ambiguous, EntryState::Parked].map(|state| queue.entries(state, usize::MAX));
        let recovered_up_to = recovered.iter().flatten().map(|entry| entry.id).max().unwrap_or(EntryId(0));
        // An earlier process may have written in a phase without mirroring.
        let unmirrored_until = self.clock.now() + settle_time;
        let stop = CancellationToken::new();
        let shared = Arc::new(Shared {
            circuit: Circuit::new(self.settings.circuit, self.settings.seed),
            shadow: Shadow::new(&self.settings),
            operations: Operations::new(record, unmirrored_until),
            old: self.old,
            new: self.new,
            queue,
            coordinator,
            settings: self.settings,
            observers: Observers::new(self.observers),
            clock: self.clock,
            poison: Poison::default(),
            taint_window: TaintWindow::default(),
            facts: Facts::default(),
            moving: tokio::sync::Mutex::new(()),
            recovered_up_to,
            sent: Mutex::default(),
            stop: stop.clone(),
            tasks: TaskTracker::new(),
        });
        if let Some(until) = lease_until {
            shared.operations.extend_lease(until);
        }
        let (phase, guarantee) = (shared.operations.record().phase, shared.queue.guarantee());
        tracing::info!(migration = shared.settings.name, %phase, %guarantee, "dual write started");
        shared.observers.emit(&Event::Started { phase, guarantee });
        spawn_workers(&shared);
        spawn_membership(&shared);
        Ok(DualWrite { shared, owner: Arc::new(Owner { stop }) })
    }
}
