//! The record of phases: outlives every process, and its answers get lost.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use zdm_core::error::{Error, Kind, Result};
use zdm_core::phase::{Audit, Coordinator, Member, MemoryCoordinator, MoveRecord, Phase, PhaseRecord, Side};
use zdm_core::queue::Epoch;

use crate::ground::{Ground, Life};

pub(crate) struct Recorder {
    pub(crate) inner: MemoryCoordinator,
    pub(crate) ground: Arc<Ground>,
    /// Percent of calls that fail.
    pub(crate) trouble: AtomicU64,
}

/// One process's way to the recorder.
pub(crate) struct RecorderWire {
    pub(crate) recorder: Arc<Recorder>,
    pub(crate) life: Arc<Life>,
}

/// Who owns writes in a phase, as the design says.
pub(crate) fn primary_in(phase: Phase) -> Side {
    match phase {
        Phase::Off | Phase::DualWrite | Phase::Shadow | Phase::Ramp(_) => Side::Old,
        Phase::Live | Phase::RampDown | Phase::Complete => Side::New,
    }
}

impl RecorderWire {
    fn fails(&self) -> bool {
        let percent = self.recorder.trouble.load(Ordering::Relaxed);
        self.recorder.ground.dice.below(100) < percent
    }

    async fn pass(&self) {
        let ground = &self.recorder.ground;
        ground.pass(ground.short()).await;
        self.life.go_on().await;
    }
}

fn lost() -> Error {
    Error::new(Kind::Unavailable, "the recorder did not answer (a fault of the test)").unknown()
}

#[async_trait]
impl Coordinator for RecorderWire {
    async fn current(&self) -> Result<PhaseRecord> {
        self.pass().await;
        if self.fails() {
            return Err(lost());
        }
        self.recorder.inner.current().await
    }

    async fn advance(&self, expected: Epoch, to: Phase, audit: Audit) -> Result<PhaseRecord> {
        self.pass().await;
        if self.fails() {
            return Err(lost());
        }
        let record = self.recorder.inner.advance(expected, to, audit).await?;
        let ground = &self.recorder.ground;
        ground.trace(|| format!("phase {} in epoch {}", record.phase, record.epoch));
        ground.truth().primary = primary_in(record.phase);
        self.pass().await;
        if self.fails() { Err(lost()) } else { Ok(record) }
    }

    fn is_shared(&self) -> bool {
        self.recorder.inner.is_shared()
    }

    async fn announce(&self, expected: Epoch, to: Phase) -> Result<PhaseRecord> {
        self.recorder.inner.announce(expected, to).await
    }

    async fn withdraw(&self, expected: Epoch) -> Result<PhaseRecord> {
        self.recorder.inner.withdraw(expected).await
    }

    async fn history(&self) -> Result<Vec<MoveRecord>> {
        self.recorder.inner.history().await
    }

    async fn changed(&self, known: Epoch) -> Result<PhaseRecord> {
        self.recorder.inner.changed(known).await
    }

    async fn report(&self, member: Member, lease: Duration) -> Result<()> {
        self.recorder.inner.report(member, lease).await
    }

    async fn members(&self) -> Result<Vec<Member>> {
        self.recorder.inner.members().await
    }

    async fn leave(&self, name: &str) -> Result<()> {
        self.recorder.inner.leave(name).await
    }
}
