use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::{Audit, Coordinator, Member, MoveRecord, Phase, PhaseRecord};
use crate::clock::{Clock, SystemClock};
use crate::error::Result;
use crate::queue::Epoch;

/// A coordinator for one process that forgets with it.
///
/// ```
/// use zdm_core::phase::{Audit, Coordinator, MemoryCoordinator, Phase};
///
/// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
/// let phases = MemoryCoordinator::starting_in(Phase::Off);
/// let now = phases.current().await?;
/// let next = phases.advance(now.epoch, Phase::DualWrite, Audit::default()).await?;
/// assert_eq!(next.epoch, now.epoch.next());
/// assert!(phases.advance(now.epoch, Phase::Shadow, Audit::default()).await.is_err(), "a stale epoch");
/// # Ok::<_, zdm_core::Error>(()) }).unwrap();
/// ```
#[derive(Debug)]
pub struct MemoryCoordinator {
    state: Mutex<State>,
    changed: Notify,
    clock: Arc<dyn Clock>,
    shared: bool,
}

#[derive(Debug)]
struct State {
    record: PhaseRecord,
    history: Vec<MoveRecord>,
    members: BTreeMap<String, (Member, Instant)>,
}

impl MemoryCoordinator {
    /// Begins in a phase, with epoch 1.
    pub fn starting_in(phase: Phase) -> Self {
        Self::with_clock(phase, Arc::new(SystemClock))
    }

    /// Begins in a phase, with a clock.
    pub fn with_clock(phase: Phase, clock: Arc<dyn Clock>) -> Self {
        let record = PhaseRecord { phase, epoch: Epoch(1), since: clock.unix_millis(), handover: None };
        Self::restored(record, Vec::new(), clock)
    }

    /// Goes on from what storage kept.
    pub(super) fn restored(record: PhaseRecord, history: Vec<MoveRecord>, clock: Arc<dyn Clock>) -> Self {
        let state = State { record, history, members: BTreeMap::new() };
        Self { state: Mutex::new(state), changed: Notify::new(), clock, shared: false }
    }

    /// Plays a record that several instances follow. They live in one process, so it is for tests.
    #[must_use]
    pub fn shared(mut self) -> Self {
        self.shared = true;
        self
    }

    /// What a move would record. Nothing changes before [`install`](Self::install).
    pub(super) fn plan(&self, expected: Epoch, to: Phase, audit: Audit) -> Result<(PhaseRecord, MoveRecord)> {
        self.lock().record.advanced(expected, to, audit, self.clock.unix_millis())
    }

    /// What an announcement would record.
    pub(super) fn plan_announcement(&self, expected: Epoch, to: Phase) -> Result<PhaseRecord> {
        self.lock().record.announced(expected, to)
    }

    /// What taking it back would record.
    pub(super) fn plan_withdrawal(&self, expected: Epoch) -> Result<PhaseRecord> {
        self.lock().record.withdrawn(expected)
    }

    /// Takes a planned record, with the move that it ends, and wakes whoever waits for it.
    pub(super) fn install(&self, next: PhaseRecord, made: Option<MoveRecord>) {
        let mut state = self.lock();
        state.record = next;
        state.history.extend(made);
        drop(state);
        self.changed.notify_waiters();
    }

    /// Every move, oldest first.
    pub(super) fn moves(&self) -> Vec<MoveRecord> {
        self.lock().history.clone()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Each change is whole before the lock is let go, so a panic elsewhere leaves it sound.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl Coordinator for MemoryCoordinator {
    async fn current(&self) -> Result<PhaseRecord> {
        Ok(self.lock().record.clone())
    }

    async fn advance(&self, expected: Epoch, to: Phase, audit: Audit) -> Result<PhaseRecord> {
        let mut state = self.lock();
        let (next, made) = state.record.advanced(expected, to, audit, self.clock.unix_millis())?;
        state.record = next.clone();
        state.history.push(made);
        drop(state);
        self.changed.notify_waiters();
        Ok(next)
    }

    fn is_shared(&self) -> bool {
        self.shared
    }

    async fn announce(&self, expected: Epoch, to: Phase) -> Result<PhaseRecord> {
        let mut state = self.lock();
        let next = state.record.announced(expected, to)?;
        state.record = next.clone();
        drop(state);
        self.changed.notify_waiters();
        Ok(next)
    }

    async fn withdraw(&self, expected: Epoch) -> Result<PhaseRecord> {
        let mut state = self.lock();
        let next = state.record.withdrawn(expected)?;
        state.record = next.clone();
        drop(state);
        self.changed.notify_waiters();
        Ok(next)
    }

    async fn history(&self) -> Result<Vec<MoveRecord>> {
        Ok(self.lock().history.clone())
    }

    async fn changed(&self, known: Epoch) -> Result<PhaseRecord> {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            let record = self.lock().record.clone();
            if record.epoch > known {
                return Ok(record);
            }
            changed.await;
        }
    }

    async fn report(&self, member: Member, lease: Duration) -> Result<()> {
        let until = self.clock.now() + lease;
        self.lock().members.insert(member.name.clone(), (member, until));
        Ok(())
    }

    async fn members(&self) -> Result<Vec<Member>> {
        let now = self.clock.now();
        let mut state = self.lock();
        state.members.retain(|_, (_, until)| *until > now);
        Ok(state.members.values().map(|(member, _)| member.clone()).collect())
    }

    async fn leave(&self, name: &str) -> Result<()> {
        self.lock().members.remove(name);
        Ok(())
    }
}
