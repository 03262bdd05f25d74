//! Which phase an operation runs in, and when the operations of an earlier phase are over.
//!
//! A write samples the phase once, at its start, and keeps it. It is counted until it ends, so that
//! whoever changes the phase can wait until no write of the earlier epoch is under way. During a handover
//! new writes wait here.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use smallvec::SmallVec;
use tokio::sync::Notify;
use tokio::time::Instant;
use zdm_core::error::{Error, Kind, Result};
use zdm_core::phase::{PhaseRecord, Routing};
use zdm_core::queue::Epoch;

pub(crate) struct Operations {
    state: Mutex<State>,
    changed: Notify,
}

struct State {
    record: PhaseRecord,
    routing: Routing,
    pauses: u32,
    stopped: bool,
    in_flight: SmallVec<[(Epoch, u64); 2]>,
    /// Until when a write that left no entry may still take effect.
    unmirrored_until: Instant,
    /// Until when this instance may write without having reached the coordinator again. None for an
    /// instance that is alone.
    lease_until: Option<Instant>,
    /// The announcement that this instance has made itself.
    led: Epoch,
}

/// A write under way. Dropping it ends the write.
pub(crate) struct Ticket {
    operations: Arc<Operations>,
    pub(crate) epoch: Epoch,
    pub(crate) routing: Routing,
}

/// Keeps new writes waiting until it is dropped.
pub(crate) struct Pause {
    operations: Arc<Operations>,
}

impl Operations {
    /// Begins in a phase. Writes of an earlier process that left no entry may take effect until
    /// `unmirrored_until`.
    pub(crate) fn new(record: PhaseRecord, unmirrored_until: Instant) -> Arc<Self> {
        let routing = record.phase.routing();
        let in_flight = SmallVec::new();
        let state = State {
            record,
            routing,
            pauses: 0,
            stopped: false,
            in_flight,
            unmirrored_until,
            lease_until: None,
            led: Epoch(0),
        };
        Arc::new(Self { state: Mutex::new(state), changed: Notify::new() })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Every change is whole before the lock is let go, so a panic elsewhere leaves it sound.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn record(&self) -> PhaseRecord {
        self.lock().record.clone()
    }

    pub(crate) fn routing(&self) -> Routing {
        self.lock().routing
    }

    /// Begins a write, as soon as none has to wait.
    pub(crate) async fn begin(self: &Arc<Self>) -> Result<Ticket> {
        loop {
            if let Some(ticket) = self.try_begin()? {
                return Ok(ticket);
            }
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if let Some(ticket) = self.try_begin()? {
                return Ok(ticket);
            }
            let lease_until = self.lock().lease_until;
            match lease_until {
                None => changed.await,
                // The lease may run out while a handover is announced; then the wait is over too.
                Some(until) => drop(tokio::time::timeout_at(until, changed).await),
            }
        }
    }

    fn try_begin(self: &Arc<Self>) -> Result<Option<Ticket>> {
        let mut state = self.lock();
        if state.stopped {
            return Err(Error::new(Kind::Stopped, "this DualWrite is shut down and takes no more writes"));
        }
        if state.lease_until.is_some_and(|until| Instant::now() >= until) {
            let message = "this instance has not reached the coordinator for as long as its lease lasts, so another \
                           one may have handed over the primary role; it writes again when it reaches it";
            return Err(Error::new(Kind::Unavailable, message).not_applied());
        }
        if state.pauses > 0 || state.record.handover.is_some() {
            return Ok(None);
        }
        let epoch = state.record.epoch;
        match state.in_flight.iter_mut().find(|(of, _)| *of == epoch) {
            Some((_, count)) => *count += 1,
            None => state.in_flight.push((epoch, 1)),
        }
        Ok(Some(Ticket { operations: Arc::clone(self), epoch, routing: state.routing }))
    }

    fn end(&self, epoch: Epoch) {
        let mut state = self.lock();
        if let Some(at) = state.in_flight.iter().position(|(of, _)| *of == epoch) {
            state.in_flight[at].1 -= 1;
            if state.in_flight[at].1 == 0 {
                state.in_flight.swap_remove(at);
                drop(state);
                self.changed.notify_waiters();
            }
        }
    }

    /// New operations use this record from now on.
    pub(crate) fn enter(&self, record: PhaseRecord) {
        let mut state = self.lock();
        state.routing = record.phase.routing();
        state.record = record;
        drop(state);
        self.changed.notify_waiters();
    }

    /// This instance may write until then.
    pub(crate) fn extend_lease(&self, until: Instant) {
        self.lock().lease_until = Some(until);
    }

    /// Remembers which announcement is this instance's own.
    pub(crate) fn lead(&self, epoch: Epoch) {
        self.lock().led = epoch;
    }

    pub(crate) fn leads(&self, epoch: Epoch) -> bool {
        self.lock().led == epoch
    }

    /// New writes wait until the pause is dropped.
    pub(crate) fn pause(self: &Arc<Self>) -> Pause {
        self.lock().pauses += 1;
        Pause { operations: Arc::clone(self) }
    }

    /// New writes are refused from now on.
    pub(crate) fn stop(&self) {
        self.lock().stopped = true;
        self.changed.notify_waiters();
    }

    /// How many writes are under way.
    pub(crate) fn in_flight(&self) -> u64 {
        self.lock().in_flight.iter().map(|(_, count)| count).sum()
    }

    /// A write without an entry ends with an unknown outcome and may take effect until `at`.
    pub(crate) fn unmirrored_until(&self, at: Instant) {
        let mut state = self.lock();
        state.unmirrored_until = state.unmirrored_until.max(at);
    }

    /// Waits until every write that left no entry, because it began before `epoch`, is over and settled. A
    /// copy that begins earlier may miss one.
    pub(crate) async fn mirrored_since(&self, epoch: Epoch) {
        self.drained_before(epoch).await;
        let until = self.lock().unmirrored_until;
        tokio::time::sleep_until(until).await;
    }

    pub(crate) fn is_drained_before(&self, epoch: Epoch) -> bool {
        self.lock().in_flight.iter().all(|(of, _)| *of >= epoch)
    }

    /// Waits until no write is under way that began before `epoch`.
    pub(crate) async fn drained_before(&self, epoch: Epoch) {
        self.wait_until(|state| state.in_flight.iter().all(|(of, _)| *of >= epoch)).await;
    }

    /// Waits until no write is under way.
    pub(crate) async fn drained(&self) {
        self.wait_until(|state| state.in_flight.is_empty()).await;
    }

    /// Waits until the epoch is not `known` any more.
    pub(crate) async fn epoch_changed(&self, known: Epoch) {
        self.wait_until(|state| state.record.epoch != known).await;
    }

    async fn wait_until(&self, reached: impl Fn(&State) -> bool) {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if reached(&self.lock()) {
                return;
            }
            changed.await;
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.operations.end(self.epoch);
    }
}

impl Drop for Pause {
    fn drop(&mut self) {
        self.operations.lock().pauses -= 1;
        self.operations.changed.notify_waiters();
    }
}
