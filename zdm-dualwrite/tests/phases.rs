//! Moves from phase to phase, in both directions, and what keeps the primary role in one place.

#![expect(clippy::unwrap_used, reason = "a test that fails panics")]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use zdm_core::error::{Certainty, Error, Kind, Outcome, Result};
use zdm_core::phase::{
    Audit, Coordinator, Gate, Member, MemoryCoordinator, MoveRecord, Percent, Phase, PhaseRecord,
};
use zdm_core::queue::{Epoch, Touch};
use zdm_core::store::{MemoryStore, Store};
use zdm_dualwrite::{Backfill, DualWrite, MoveRequest, Settings};

type Side = Arc<MemoryStore<u64, String>>;

struct World {
    old: Side,
    new: Side,
    users: DualWrite<Side>,
}

async fn world(phase: Phase) -> World {
    world_with(Arc::new(MemoryCoordinator::starting_in(phase)), MemoryStore::new(), MemoryStore::new()).await
}

async fn world_with(
    coordinator: Arc<dyn Coordinator>,
    old: MemoryStore<u64, String>,
    new: MemoryStore<u64, String>,
) -> World {
    let (old, new) = (Arc::new(old), Arc::new(new));
    let users = DualWrite::builder(Arc::clone(&old), Arc::clone(&new)).coordinator(coordinator);
    let users = users.settings(Settings::default()).start().await.unwrap();
    World { old, new, users }
}

/// A move whose gates are about what these tests do not play.
fn forced(to: Phase) -> MoveRequest {
    [Gate::SurvivesACrash, Gate::Verified, Gate::BackfillComplete]
        .into_iter()
        .fold(MoveRequest::to(to).by("test", "played"), |request, gate| request.overriding(gate, "played"))
}

impl World {
    async fn go(&self, to: Phase) -> Result<Option<Duration>> {
        self.users.advance_with(forced(to)).await.map(|advanced| advanced.pause)
    }

    async fn put(&self, key: u64, value: &str) {
        self.users.put(&key, &value.to_owned()).await.unwrap();
    }

    async fn equal(&self) {
        self.users.drained().await;
        assert_eq!(self.old.snapshot(), self.new.snapshot());
    }
}

fn ramp(percent: f64) -> Phase {
    Phase::Ramp(Percent::new(percent).unwrap())
}

#[tokio::test(start_paused = true)]
async fn a_migration_goes_all_the_way_and_back_without_losing_a_write() {
    let world = world(Phase::Off).await;
    for key in 0..100 {
        world.put(key, "before").await;
    }
    assert!(world.new.is_empty(), "in Off the new store is left alone");
    world.go(Phase::DualWrite).await.unwrap();
    world.put(1, "dual").await;
    let report = Backfill::new(&world.users).run().await.unwrap();
    assert!(report.complete);
    world.equal().await;
    for phase in [Phase::Shadow, ramp(50.0), ramp(100.0)] {
        world.go(phase).await.unwrap();
        world.put(2, &phase.to_string()).await;
        world.equal().await;
    }
    assert!(world.go(Phase::Live).await.unwrap().is_some(), "the handover pauses writes");
    world.put(3, "live").await;
    assert_eq!(world.new.get(&3).await.unwrap().as_deref(), Some("live"), "new is primary");
    world.users.delete(&4).await.unwrap();
    world.equal().await;
    world.go(Phase::Shadow).await.unwrap();
    world.put(5, "back").await;
    assert_eq!(world.old.get(&5).await.unwrap().as_deref(), Some("back"), "old is primary again");
    world.equal().await;
    world.go(Phase::Live).await.unwrap();
    world.go(Phase::RampDown).await.unwrap();
    world.put(6, "rampdown").await;
    world.equal().await;
    world.go(Phase::Complete).await.unwrap();
    world.put(7, "complete").await;
    assert_eq!(world.old.get(&7).await.unwrap().as_deref(), Some("before"), "old is let go");

    let history = world.users.coordinator().history().await.unwrap();
    assert_eq!(history.len(), 9);
    assert!(history.iter().all(|made| made.audit.by == "test"));
    let live = history.iter().find(|made| made.to == Phase::Live).unwrap();
    assert!(live.audit.checks.iter().any(|check| check.gate == Gate::NoTaint && check.passed));
    assert!(live.audit.overrides.iter().any(|word| word.gate == Gate::Verified));
}

#[tokio::test(start_paused = true)]
async fn a_gate_says_what_is_missing_and_nothing_changes() {
    let world = world(Phase::Shadow).await;
    let error = world.users.advance(Phase::Live).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Refused);
    for gate in ["survives_a_crash", "backfill_complete", "verified"] {
        assert!(error.to_string().contains(gate), "{error}");
    }
    let report = world.users.gates(Phase::Live).unwrap();
    assert_eq!(report.missing(&[]).checks.len(), 3);
    assert_eq!(world.users.phase().phase, Phase::Shadow);

    let error = world.users.advance(Phase::Complete).await.unwrap_err();
    assert!(error.to_string().contains("ramp:PERCENT"), "an illegal move names the legal ones: {error}");
}

#[tokio::test(start_paused = true)]
async fn stepping_reads_back_is_always_possible() {
    let world = world(ramp(20.0)).await;
    world.users.advance(ramp(5.0)).await.unwrap();
    world.users.advance(Phase::Shadow).await.unwrap();
    world.users.advance(Phase::DualWrite).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_handover_waits_for_writes_under_way_and_is_given_up_in_time() {
    let world = world(Phase::Shadow).await;
    let release = Arc::new(tokio::sync::Notify::new());
    let (users, gate) = (world.users.clone(), Arc::clone(&release));
    let slow = tokio::spawn(async move {
        users
            .write(Touch::upsert(&1), |store| async move {
                gate.notified().await;
                store.put(&1, &"slow".to_owned()).await
            })
            .await
    });
    tokio::task::yield_now().await;
    let error = world.go(Phase::Live).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Limit, "{error}");
    assert!(error.to_string().contains("1 writes under way"), "{error}");
    assert_eq!(world.users.phase().phase, Phase::Shadow);
    assert_eq!(world.users.coordinator().current().await.unwrap().phase, Phase::Shadow);
    world.put(2, "goes on at old").await;
    assert!(world.old.get(&2).await.unwrap().is_some());

    release.notify_one();
    slow.await.unwrap().unwrap();
    world.go(Phase::Live).await.unwrap();
    world.equal().await;
    assert_eq!(world.new.get(&1).await.unwrap().as_deref(), Some("slow"));
}

#[tokio::test(start_paused = true)]
async fn writes_wait_during_a_handover_and_go_on_at_the_new_primary() {
    let world = world(Phase::Shadow).await;
    let users = world.users.clone();
    let slow = tokio::spawn(async move {
        users
            .write(Touch::upsert(&1), |store| async move {
                tokio::time::sleep(Duration::from_millis(500)).await;
                store.put(&1, &"slow".to_owned()).await
            })
            .await
    });
    tokio::task::yield_now().await;
    let users = world.users.clone();
    let handover = tokio::spawn(async move { users.advance_with(forced(Phase::Live)).await });
    tokio::task::yield_now().await;
    tokio::task::yield_now().await;
    let began = tokio::time::Instant::now();
    world.put(2, "waited").await;
    assert!(began.elapsed() >= Duration::from_millis(490), "the write waited for the handover");
    slow.await.unwrap().unwrap();
    let pause = handover.await.unwrap().unwrap().pause.unwrap();
    assert!(pause >= Duration::from_millis(490) && pause < Duration::from_secs(2), "{pause:?}");
    assert_eq!(world.new.get(&2).await.unwrap().as_deref(), Some("waited"));
    world.equal().await;
}

/// The user's own error type.
#[derive(Debug)]
enum RepoError {
    Lost,
    Library(Error),
}

impl Outcome for RepoError {
    fn certainty(&self) -> Certainty {
        match self {
            Self::Lost => Certainty::Unknown,
            Self::Library(error) => error.certainty(),
        }
    }
}

impl From<Error> for RepoError {
    fn from(error: Error) -> Self {
        Self::Library(error)
    }
}

#[tokio::test(start_paused = true)]
async fn a_handover_waits_until_an_unknown_outcome_has_settled() {
    let settle = Duration::from_secs(10);
    let coordinator = Arc::new(MemoryCoordinator::starting_in(Phase::Shadow));
    let world =
        world_with(coordinator, MemoryStore::new().with_settle_time(settle), MemoryStore::new()).await;
    let lost = world.users.write(Touch::upsert(&1), |_| async { Err::<(), _>(RepoError::Lost) }).await;
    assert!(matches!(lost, Err(RepoError::Lost)), "the caller sees what the primary said");
    assert_eq!(world.users.queue_stats().ambiguous, 1);
    let error = world.go(Phase::Live).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Limit, "the abandoned write may still land at old: {error}");
    // It lands late, as an abandoned call may.
    world.old.put(&1, &"late".to_owned()).await.unwrap();
    tokio::time::sleep(settle).await;
    world.go(Phase::Live).await.unwrap();
    assert_eq!(world.new.get(&1).await.unwrap().as_deref(), Some("late"));
}

#[tokio::test(start_paused = true)]
async fn parked_entries_and_taints_stand_in_the_way() {
    let new = MemoryStore::new().with_unique("name", |name: &String| Some(name.clone()));
    let coordinator = Arc::new(MemoryCoordinator::starting_in(Phase::Shadow));
    let world = world_with(coordinator, MemoryStore::new(), new).await;
    world.put(1, "Ada").await;
    world.put(2, "Ada").await;
    world.users.drained().await;
    assert_eq!(world.users.queue_stats().parked, 1, "two records hold a value that must be unique at new");
    let error = world.go(Phase::Live).await.unwrap_err();
    assert!(error.to_string().contains("nothing_parked is 1 parked"), "{error}");
    // Writing the record again takes the parked entry along.
    world.put(2, "Grace").await;
    world.users.drained().await;
    assert_eq!(world.users.queue_stats().dirty(), 0);
    world.go(Phase::Live).await.unwrap();
    world.equal().await;
}

#[tokio::test(start_paused = true)]
async fn leaving_dual_writes_taints_everything() {
    let world = world(Phase::DualWrite).await;
    world.go(Phase::Off).await.unwrap();
    world.put(1, "unmirrored").await;
    world.go(Phase::DualWrite).await.unwrap();
    assert_eq!(world.users.queue_stats().taints, 1);
    world.go(Phase::Shadow).await.unwrap();
    let error = world.go(Phase::Live).await.unwrap_err();
    assert!(error.to_string().contains("no_taint"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn inserts_under_made_up_keys_since_the_verification_are_compared_too() {
    let world = world(Phase::Shadow).await;
    world.put(1, "before").await;
    world.users.drained().await;
    let report = zdm_dualwrite::Verify::new(&world.users).run().await.unwrap();
    assert_eq!((report.compared, report.mismatches), (1, 0));
    world
        .users
        .write_narrowing(
            Touch::after(&1),
            |store| async move { store.put(&2, &"made up".to_owned()).await.map(|()| 2_u64) },
            |id| Some(Touch::upsert(id)),
        )
        .await
        .unwrap();
    world.users.drained().await;
    world.new.put(&2, &"spoiled".to_owned()).await.unwrap();
    let error = world.go(Phase::Live).await.unwrap_err();
    assert!(error.to_string().contains("the record 2 differs"), "{error}");
    world.new.put(&2, &"made up".to_owned()).await.unwrap();
    world.go(Phase::Live).await.unwrap();
}

/// A coordinator whose answers get lost.
struct Forgetful {
    inner: MemoryCoordinator,
    lose_answer: AtomicBool,
    unreadable: AtomicBool,
}

impl Forgetful {
    fn new() -> Arc<Self> {
        let inner = MemoryCoordinator::starting_in(Phase::Shadow);
        Arc::new(Self { inner, lose_answer: false.into(), unreadable: false.into() })
    }
}

#[async_trait]
impl Coordinator for Forgetful {
    async fn current(&self) -> Result<PhaseRecord> {
        if self.unreadable.load(Ordering::SeqCst) {
            return Err(Error::new(Kind::Unavailable, "no answer"));
        }
        self.inner.current().await
    }

    async fn advance(&self, expected: Epoch, to: Phase, audit: Audit) -> Result<PhaseRecord> {
        let record = self.inner.advance(expected, to, audit).await?;
        if self.lose_answer.load(Ordering::SeqCst) {
            return Err(Error::new(Kind::Unavailable, "the answer was lost"));
        }
        Ok(record)
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
        self.inner.history().await
    }

    async fn changed(&self, known: Epoch) -> Result<PhaseRecord> {
        self.inner.changed(known).await
    }

    async fn report(&self, member: Member, lease: Duration) -> Result<()> {
        self.inner.report(member, lease).await
    }

    async fn members(&self) -> Result<Vec<Member>> {
        self.inner.members().await
    }

    async fn leave(&self, name: &str) -> Result<()> {
        self.inner.leave(name).await
    }
}

#[tokio::test(start_paused = true)]
async fn a_lost_answer_at_the_point_of_no_return_is_looked_up() {
    let coordinator = Forgetful::new();
    let world = world_with(Arc::clone(&coordinator) as _, MemoryStore::new(), MemoryStore::new()).await;
    coordinator.lose_answer.store(true, Ordering::SeqCst);
    world.go(Phase::Live).await.unwrap();
    world.put(1, "live").await;
    assert!(world.new.get(&1).await.unwrap().is_some(), "the recorded primary is written");
}

/// Becomes unreadable with the answer of the handover.
struct Gone(Arc<Forgetful>);

#[async_trait]
impl Coordinator for Gone {
    async fn current(&self) -> Result<PhaseRecord> {
        self.0.current().await
    }

    async fn advance(&self, expected: Epoch, to: Phase, audit: Audit) -> Result<PhaseRecord> {
        let answer = self.0.advance(expected, to, audit).await;
        self.0.unreadable.store(true, Ordering::SeqCst);
        answer
    }

    fn is_shared(&self) -> bool {
        self.0.is_shared()
    }

    async fn announce(&self, expected: Epoch, to: Phase) -> Result<PhaseRecord> {
        self.0.announce(expected, to).await
    }

    async fn withdraw(&self, expected: Epoch) -> Result<PhaseRecord> {
        self.0.withdraw(expected).await
    }

    async fn history(&self) -> Result<Vec<MoveRecord>> {
        self.0.history().await
    }

    async fn changed(&self, known: Epoch) -> Result<PhaseRecord> {
        self.0.changed(known).await
    }

    async fn report(&self, member: Member, lease: Duration) -> Result<()> {
        self.0.report(member, lease).await
    }

    async fn members(&self) -> Result<Vec<Member>> {
        self.0.members().await
    }

    async fn leave(&self, name: &str) -> Result<()> {
        self.0.leave(name).await
    }
}

#[tokio::test(start_paused = true)]
async fn while_nobody_knows_the_primary_no_write_is_taken() {
    let forgetful = Forgetful::new();
    forgetful.lose_answer.store(true, Ordering::SeqCst);
    let world = world_with(Arc::new(Gone(forgetful)), MemoryStore::new(), MemoryStore::new()).await;
    let error = world.go(Phase::Live).await.unwrap_err();
    assert_eq!(error.certainty(), Certainty::Unknown, "{error}");
    let error = world.users.put(&1, &"where?".to_owned()).await.unwrap_err();
    assert_eq!((error.kind(), error.certainty()), (Kind::Stopped, Certainty::NotApplied));
    assert!(world.old.is_empty() && world.new.is_empty());
    assert!(world.users.poisoned().is_some());
}

#[tokio::test(start_paused = true)]
async fn a_move_goes_on_when_its_caller_goes_away() {
    let world = world(Phase::Shadow).await;
    let users = world.users.clone();
    drop(tokio::time::timeout(Duration::ZERO, users.advance_with(forced(Phase::Live))).await);
    tokio::time::sleep(Duration::from_millis(10)).await;
    let recorded = world.users.coordinator().current().await.unwrap();
    assert_eq!(world.users.phase().phase, recorded.phase, "what is followed is what is recorded");
    world.put(1, "after").await;
    world.equal().await;
}
