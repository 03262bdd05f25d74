use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;
use zdm_core::clock::Clock;
use zdm_core::queue::{EntryId, QueueIndex};

use super::held::Held;
use super::settings::SharedQueueOptions;
use super::tables::Seat;

/// What the queue and its tasks share.
#[derive(Debug)]
pub(super) struct Shared {
    state: Mutex<State>,
    pub(super) signals: Signals,
    pub(super) options: SharedQueueOptions,
}

/// Who waits for what.
#[derive(Debug, Default)]
pub(super) struct Signals {
    pub(super) claimable: Notify,
    pub(super) room: Notify,
    pub(super) drained: Notify,
    /// There may be something to take over.
    pub(super) look: Notify,
}

#[derive(Debug)]
pub(super) struct State {
    /// The entries that this instance owns.
    pub(super) own: QueueIndex,
    /// A copy of those of the others, and the taints. An entry of another instance is RELEASED here or
    /// PARKED: more is not known of it.
    pub(super) others: QueueIndex,
    /// Who owns which entry of `others`.
    pub(super) owners: HashMap<EntryId, i64>,
    pub(super) held: Held,
    pub(super) seat: Seat,
    /// How often this instance has joined.
    pub(super) seating: u64,
    /// By the own clock. Nothing counts as done from then on.
    pub(super) leased_until: Instant,
    /// When what is known of the others was read. `None` before the first time.
    pub(super) looked_at: Option<Instant>,
    /// How long calls of dead instances can take effect. `None` before `recover`.
    pub(super) settle_time: Option<Duration>,
    /// Watches that have begun and not ended.
    pub(super) watches: usize,
    /// Whether the tables know that this instance watches.
    pub(super) watching: bool,
    /// Counts the changes of taints here, so that an older look does not undo them.
    pub(super) taint_changes: u64,
    /// Numbers of claims that were given out.
    pub(super) claims: i64,
}

impl Shared {
    pub(super) fn new(seat: Seat, leased_until: Instant, options: SharedQueueOptions) -> Arc<Self> {
        let state = State {
            own: QueueIndex::new(usize::MAX),
            others: QueueIndex::new(usize::MAX),
            owners: HashMap::new(),
            held: Held::default(),
            seat,
            seating: 1,
            leased_until,
            looked_at: None,
            settle_time: None,
            watches: 0,
            watching: false,
            taint_changes: 0,
            claims: 0,
        };
        Arc::new(Self { state: Mutex::new(state), signals: Signals::default(), options })
    }

    pub(super) fn clock(&self) -> &dyn Clock {
        &*self.options.clock
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        // The state changes whole or not at all, so a panic elsewhere leaves it sound.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn seat(&self) -> Seat {
        self.lock().seat
    }

    /// Changes the state and wakes whoever waits for what that brought about.
    pub(super) fn change<R>(&self, change: impl FnOnce(&mut State) -> R) -> R {
        let mut state = self.lock();
        let full = !self.has_room(&state);
        let result = change(&mut state);
        if full && self.has_room(&state) {
            self.signals.room.notify_waiters();
        }
        if state.own.may_claim() {
            self.signals.claimable.notify_waiters();
        }
        if state.own.is_drained() {
            self.signals.drained.notify_waiters();
        }
        result
    }

    pub(super) fn has_room(&self, state: &State) -> bool {
        state.own.len() + state.others.len() < self.options.limit
    }
}
