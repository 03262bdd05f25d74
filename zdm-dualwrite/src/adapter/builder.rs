use std::sync::{Arc, Mutex};

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use zdm_core::clock::{Clock, SystemClock};
use zdm_core::error::Result;
use zdm_core::phase::{Coordinator, MemoryCoordinator, Phase, Side};
use zdm_core::queue::{EntryId, EntryState, MemoryQueue, WriteQueue};
use zdm_core::report::{Event, Observer, Observers};
use zdm_core::store::Store;

use super::operations::Operations;
use super::taint::TaintWindow;
use super::{DualWrite, Owner, Settings, Shared};
use crate::handover::{BeforeHandover, Facts, join, spawn_membership};
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
    before_handover: Option<BeforeHandover>,
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
            before_handover: None,
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

    /// A step of the application's own in every handover: both stores are equal, writes still wait, and the
    /// new phase is not recorded yet. It is told which side will be the primary. This is the place to let
    /// the sequences and auto-increment counters of that side count on above those of the other one: no
    /// number can be given out meanwhile. Given twice, the last one counts. Default: none.
    ///
    /// The step runs in every handover, there and back, in the instance that makes the move. Its time counts
    /// to [`Settings::handover_pause`]: what can be done earlier should be. An error of it gives the handover
    /// up, as a panic does: nothing is recorded, writes go on at the old primary, and
    /// [`advance`](DualWrite::advance) returns the error.
    ///
    /// It must be able to run again: a handover that is given up after it, because the record could not be
    /// written, is made once more later, and what the step has done stands meanwhile. A counter that is
    /// ahead does no harm. It must not write through this wrapper: such a write would wait for the
    /// handover, and the handover for it.
    ///
    /// # Cancel safety
    /// When the pause is over before the step is done, its future is dropped. What it has sent to a
    /// database may take effect all the same, while writes go on at the old primary.
    ///
    /// ```
    /// use std::sync::Arc;
    /// use std::sync::atomic::{AtomicU64, Ordering};
    /// use zdm_core::{phase::{Gate, Phase, Side}, store::MemoryStore};
    /// use zdm_dualwrite::{DualWrite, MoveRequest};
    ///
    /// # tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(async {
    /// let (old, new) = (Arc::new(MemoryStore::<u64, String>::new()), Arc::new(MemoryStore::new()));
    /// let counters = Arc::new([AtomicU64::new(41), AtomicU64::new(1)]);
    /// let own = Arc::clone(&counters);
    /// let users = DualWrite::builder(old, new)
    ///     .phase(Phase::Shadow)
    ///     .before_handover(move |next| {
    ///         let [old, new] = [0, 1].map(|side| own[side].load(Ordering::SeqCst));
    ///         let next = if next == Side::Old { &own[0] } else { &own[1] };
    ///         next.store(old.max(new), Ordering::SeqCst);
    ///         async { Ok(()) }
    ///     })
    ///     .start()
    ///     .await?;
    ///
    /// let mut to_live = MoveRequest::to(Phase::Live);
    /// for gate in [Gate::SurvivesACrash, Gate::BackfillComplete, Gate::Verified] {
    ///     to_live = to_live.overriding(gate, "an example without rows");
    /// }
    /// users.advance_with(to_live).await?;
    /// assert_eq!(counters[1].load(Ordering::SeqCst), 41);
    /// # Ok::<_, zdm_core::Error>(()) }).unwrap();
    /// ```
    #[must_use]
    pub fn before_handover<F, D>(mut self, step: F) -> Self
    where
        F: Fn(Side) -> D + Send + Sync + 'static,
        D: Future<Output = Result<()>> + Send + 'static,
    {
        self.before_handover = Some(BeforeHandover::new(step));
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
            before_handover: self.before_handover,
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
