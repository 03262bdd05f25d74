use std::time::Duration;

use async_trait::async_trait;
use zdm_core::error::Result;
use zdm_core::phase::{
    Audit, Coordinator, FileCoordinator, Member, MemoryCoordinator, MoveRecord, Phase, PhaseRecord,
};
use zdm_core::queue::Epoch;
use zdm_core::testkit::{CoordinatorFactory, coordinator_suite};

use super::{Folders, complaint};

struct InMemory;

#[async_trait]
impl CoordinatorFactory for InMemory {
    type Coordinator = MemoryCoordinator;

    async fn create(&mut self, phase: Phase) -> MemoryCoordinator {
        MemoryCoordinator::starting_in(phase)
    }

    async fn reopen(&mut self) -> Option<MemoryCoordinator> {
        None
    }
}

struct InFile(Folders);

#[async_trait]
impl CoordinatorFactory for InFile {
    type Coordinator = FileCoordinator;

    async fn create(&mut self, phase: Phase) -> FileCoordinator {
        let path = self.0.next().join("users.phase");
        FileCoordinator::starting_in(path, "users", phase).await.unwrap()
    }

    async fn reopen(&mut self) -> Option<FileCoordinator> {
        Some(FileCoordinator::open(self.0.last().join("users.phase"), "users").await.unwrap())
    }
}

#[tokio::test(start_paused = true)]
async fn the_coordinator_in_memory_passes() {
    coordinator_suite(InMemory).await;
}

#[tokio::test]
async fn the_coordinator_in_a_file_passes() {
    coordinator_suite(InFile(Folders::new())).await;
}

/// One thing that a coordinator does wrong.
#[derive(Clone, Copy, Debug)]
enum Flaw {
    MovesFromAnyEpoch,
    ForgetsWhyAMoveWasMade,
    NeverEndsALease,
    KeepsWhoLeft,
    DoesNotWakeWhoWaits,
    TellsAMoveBeforeItIsRecorded,
    BeginsAnewWhenOpened,
}

struct Broken {
    inner: MemoryCoordinator,
    flaw: Flaw,
}

struct MakesBroken(Flaw);

#[async_trait]
impl CoordinatorFactory for MakesBroken {
    type Coordinator = Broken;

    async fn create(&mut self, phase: Phase) -> Broken {
        Broken { inner: MemoryCoordinator::starting_in(phase), flaw: self.0 }
    }

    async fn reopen(&mut self) -> Option<Broken> {
        match self.0 {
            Flaw::BeginsAnewWhenOpened => Some(self.create(Phase::Off).await),
            _ => None,
        }
    }
}

#[async_trait]
impl Coordinator for Broken {
    async fn current(&self) -> Result<PhaseRecord> {
        self.inner.current().await
    }

    async fn advance(&self, expected: Epoch, to: Phase, audit: Audit) -> Result<PhaseRecord> {
        match self.flaw {
            Flaw::MovesFromAnyEpoch => {
                let now = self.inner.current().await?;
                self.inner.advance(now.epoch, to, audit).await
            }
            Flaw::TellsAMoveBeforeItIsRecorded => {
                let before = self.inner.current().await?;
                if before.epoch == expected && before.phase == Phase::Shadow {
                    return Ok(PhaseRecord { phase: to, epoch: expected.next(), ..before });
                }
                self.inner.advance(expected, to, audit).await
            }
            _ => self.inner.advance(expected, to, audit).await,
        }
    }

    fn is_shared(&self) -> bool {
        self.inner.is_shared()
    }

    async fn announce(&self, expected: Epoch, to: Phase) -> Result<PhaseRecord> {
        self.inner.announce(expected, to).await
    }

    async fn withdraw(&self, expected: Epoch) -> Result<PhaseRecord> {
        self.inner.withdraw(expected).await
    }

    async fn history(&self) -> Result<Vec<MoveRecord>> {
        let mut history = self.inner.history().await?;
        if matches!(self.flaw, Flaw::ForgetsWhyAMoveWasMade) {
            history.iter_mut().for_each(|made| made.audit.reason.clear());
        }
        Ok(history)
    }

    async fn changed(&self, known: Epoch) -> Result<PhaseRecord> {
        if matches!(self.flaw, Flaw::DoesNotWakeWhoWaits) && self.inner.current().await?.epoch <= known {
            std::future::pending::<()>().await;
        }
        self.inner.changed(known).await
    }

    async fn report(&self, member: Member, lease: Duration) -> Result<()> {
        let longer = if matches!(self.flaw, Flaw::NeverEndsALease) { 1_000 } else { 1 };
        self.inner.report(member, lease * longer).await
    }

    async fn members(&self) -> Result<Vec<Member>> {
        self.inner.members().await
    }

    async fn leave(&self, name: &str) -> Result<()> {
        match self.flaw {
            Flaw::KeepsWhoLeft => Ok(()),
            _ => self.inner.leave(name).await,
        }
    }
}

#[tokio::test(start_paused = true)]
async fn broken_coordinators_are_caught_by_name() {
    for (flaw, rule) in [
        (Flaw::MovesFromAnyEpoch, "a_stale_epoch_is_refused"),
        (Flaw::ForgetsWhyAMoveWasMade, "history_keeps_every_move_as_it_was_made"),
        (Flaw::NeverEndsALease, "a_member_is_known_until_its_lease_runs_out"),
        (Flaw::KeepsWhoLeft, "a_member_that_leaves_is_gone"),
        (Flaw::DoesNotWakeWhoWaits, "whoever_waits_learns_of_a_move"),
        (Flaw::TellsAMoveBeforeItIsRecorded, "a_move_is_recorded_with_the_next_epoch"),
        (Flaw::BeginsAnewWhenOpened, "phase_and_history_survive_being_opened_again"),
    ] {
        let text = complaint(coordinator_suite(MakesBroken(flaw))).await;
        assert!(text.starts_with(&format!("the rule {rule} is broken")), "{flaw:?}: {text}");
    }
}
