//! Several instances that follow one record and share one queue: one primary at a time, and no lost write.

#![expect(clippy::unwrap_used, reason = "a test that fails panics")]

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use tokio::time::Instant;
use zdm_core::error::{Error, Kind, Result};
use zdm_core::phase::{
    Audit, Coordinator, Gate, Member, MemoryCoordinator, MoveRecord, Phase, PhaseRecord, Side,
};
use zdm_core::queue::{Epoch, MemoryQueue, WriteQueue};
use zdm_core::store::{MemoryStore, Store};
use zdm_dualwrite::{DualWrite, MoveRequest, Settings};

type Store64 = Arc<MemoryStore<u64, u64>>;

/// The way from an instance to the coordinator, which can be cut.
struct Line {
    end: Arc<MemoryCoordinator>,
    cut: AtomicBool,
}

impl Line {
    async fn pass(&self) -> Result<&MemoryCoordinator> {
        if self.cut.load(Ordering::SeqCst) {
            return Err(Error::new(Kind::Unavailable, "the line is cut").not_applied());
        }
        Ok(&self.end)
    }
}

#[async_trait]
impl Coordinator for Line {
    async fn current(&self) -> Result<PhaseRecord> {
        self.pass().await?.current().await
    }

    async fn advance(&self, expected: Epoch, to: Phase, audit: Audit) -> Result<PhaseRecord> {
        self.pass().await?.advance(expected, to, audit).await
    }

    fn is_shared(&self) -> bool {
        true
    }

    async fn announce(&self, expected: Epoch, to: Phase) -> Result<PhaseRecord> {
        self.pass().await?.announce(expected, to).await
    }

    async fn withdraw(&self, expected: Epoch) -> Result<PhaseRecord> {
        self.pass().await?.withdraw(expected).await
    }

    async fn history(&self) -> Result<Vec<MoveRecord>> {
        self.pass().await?.history().await
    }

    async fn changed(&self, known: Epoch) -> Result<PhaseRecord> {
        let record = self.pass().await?.changed(known).await?;
        self.pass().await?;
        Ok(record)
    }

    async fn report(&self, member: Member, lease: Duration) -> Result<()> {
        self.pass().await?.report(member, lease).await
    }

    async fn members(&self) -> Result<Vec<Member>> {
        self.pass().await?.members().await
    }

    async fn leave(&self, name: &str) -> Result<()> {
        self.pass().await?.leave(name).await
    }
}

struct Fleet {
    old: Store64,
    new: Store64,
    queue: Arc<dyn WriteQueue>,
    record: Arc<MemoryCoordinator>,
}

struct Instance {
    users: DualWrite<Store64>,
    line: Arc<Line>,
}

impl Fleet {
    fn new(phase: Phase) -> Self {
        Self {
            old: Arc::default(),
            new: Arc::default(),
            queue: Arc::new(MemoryQueue::new()),
            record: Arc::new(MemoryCoordinator::starting_in(phase).shared()),
        }
    }

    async fn instance(&self, name: &str) -> Instance {
        let line = Arc::new(Line { end: Arc::clone(&self.record), cut: AtomicBool::new(false) });
        let mut settings = Settings::default();
        settings.instance_name = name.to_owned();
        settings.lease = Duration::from_secs(5);
        let users = DualWrite::builder(Arc::clone(&self.old), Arc::clone(&self.new))
            .shared_queue(Arc::clone(&self.queue))
            .coordinator(Arc::clone(&line) as _)
            .settings(settings)
            .start()
            .await
            .unwrap();
        Instance { users, line }
    }
}

fn to(phase: Phase) -> MoveRequest {
    [Gate::SurvivesACrash, Gate::Verified, Gate::BackfillComplete]
        .into_iter()
        .fold(MoveRequest::to(phase).by("test", "played"), |request, gate| request.overriding(gate, "played"))
}

async fn soon(what: &str, reached: impl Fn() -> bool) {
    let limit = Instant::now() + Duration::from_secs(60);
    while !reached() {
        assert!(Instant::now() < limit, "{what} within a minute");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn every_instance_follows_every_move_and_the_handover_loses_no_write_of_any() {
    let fleet = Fleet::new(Phase::Shadow);
    let instances = [fleet.instance("a").await, fleet.instance("b").await, fleet.instance("c").await];
    let written: Arc<Mutex<BTreeMap<u64, u64>>> = Arc::default();
    let stop = Arc::new(AtomicBool::new(false));
    let counter = Arc::new(AtomicU64::new(0));
    let writers: Vec<_> = instances
        .iter()
        .enumerate()
        .map(|(number, instance)| {
            let (users, written) = (instance.users.clone(), Arc::clone(&written));
            let (stop, counter) = (Arc::clone(&stop), Arc::clone(&counter));
            tokio::spawn(async move {
                let mut round = 0;
                while !stop.load(Ordering::Relaxed) {
                    round += 1;
                    // A key of its own: what another instance does to it would be no loss.
                    let (key, value) =
                        (number as u64 * 1_000 + round % 50, counter.fetch_add(1, Ordering::Relaxed));
                    users.put(&key, &value).await.unwrap();
                    written.lock().unwrap().insert(key, value);
                    tokio::time::sleep(Duration::from_millis(3)).await;
                }
            })
        })
        .collect();
    let [a, b, c] = &instances;
    for (leader, phase) in [(a, Phase::Live), (b, Phase::Shadow), (c, Phase::Live), (a, Phase::RampDown)] {
        tokio::time::sleep(Duration::from_millis(500)).await;
        leader.users.advance_with(to(phase)).await.unwrap();
        soon("every instance follows", || instances.iter().all(|other| other.users.phase().phase == phase))
            .await;
    }
    tokio::time::sleep(Duration::from_millis(500)).await;
    stop.store(true, Ordering::Relaxed);
    for writer in writers {
        writer.await.unwrap();
    }
    a.users.drained().await;
    assert_eq!(fleet.new.snapshot(), *written.lock().unwrap());
    assert_eq!(fleet.old.snapshot(), *written.lock().unwrap());
    assert!(counter.load(Ordering::Relaxed) > 1_000);
}

#[tokio::test(start_paused = true)]
async fn a_handover_waits_for_a_write_of_another_instance_and_is_given_up_when_that_does_not_end() {
    let fleet = Fleet::new(Phase::Shadow);
    let (a, b) = (fleet.instance("a").await, fleet.instance("b").await);
    tokio::time::sleep(Duration::from_secs(3)).await;
    let (let_go, ended) = tokio::sync::oneshot::channel::<()>();
    let users = b.users.clone();
    let slow = tokio::spawn(async move {
        users
            .write(zdm_core::queue::Touch::upsert(&7), |store| async move {
                drop(ended.await);
                store.put(&7, &7).await
            })
            .await
    });
    tokio::time::sleep(Duration::from_millis(10)).await;
    let error = a.users.advance_with(to(Phase::Live)).await.unwrap_err();
    assert!(error.kind() == Kind::Limit && error.to_string().contains("not drained: b"), "{error}");
    assert_eq!(fleet.record.current().await.unwrap().phase, Phase::Shadow);
    // Nothing has changed: both write on at the old store.
    for (key, instance) in [(1, &a), (2, &b)] {
        instance.users.put(&key, &key).await.unwrap();
    }
    assert_eq!(fleet.old.snapshot().keys().copied().collect::<Vec<_>>(), [1, 2]);

    let_go.send(()).unwrap();
    slow.await.unwrap().unwrap();
    a.users.advance_with(to(Phase::Live)).await.unwrap();
    assert_eq!(fleet.new.snapshot().keys().copied().collect::<Vec<_>>(), [1, 2, 7]);
}

#[tokio::test(start_paused = true)]
async fn an_announcement_of_an_instance_that_died_is_withdrawn_and_cannot_be_completed() {
    let fleet = Fleet::new(Phase::Shadow);
    let b = fleet.instance("b").await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    // Another instance announces, and is gone.
    let before = fleet.record.current().await.unwrap();
    let announced = fleet.record.announce(before.epoch, Phase::Live).await.unwrap();
    soon("the announcement is seen", || b.users.phase().handover.is_some()).await;
    let began = Instant::now();
    b.users.put(&1, &1).await.unwrap();
    assert!(began.elapsed() > Duration::from_secs(2), "the write waited for the end of the announcement");
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
    assert_eq!(fleet.record.current().await.unwrap().handover, None);
    // It was not dead but slow.
    fleet.record.advance(announced.epoch, Phase::Live, Audit::default()).await.unwrap_err();
    assert_eq!(b.users.phase().phase.routing().primary, Side::Old);
    assert_eq!(fleet.old.snapshot().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn an_instance_that_cannot_reach_the_record_stops_writing_before_others_go_on_without_it() {
    let fleet = Fleet::new(Phase::Shadow);
    let (a, b) = (fleet.instance("a").await, fleet.instance("b").await);
    tokio::time::sleep(Duration::from_secs(3)).await;
    b.line.cut.store(true, Ordering::SeqCst);
    // As long as it counts as a member, nobody hands over without it.
    let error = a.users.advance_with(to(Phase::Live)).await.unwrap_err();
    assert!(error.to_string().contains("not drained: b"), "{error}");
    let mut refused = None;
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(20) && fleet.record.members().await.unwrap().len() == 2 {
        if let Err(error) = b.users.put(&2, &2).await {
            assert_eq!(error.kind(), Kind::Unavailable, "{error}");
            refused.get_or_insert_with(|| began.elapsed());
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(refused.is_some(), "it stopped by its own clock while it still counted as a member");
    a.users.advance_with(to(Phase::Live)).await.unwrap();
    b.users.put(&3, &3).await.unwrap_err();
    assert!(!fleet.old.snapshot().contains_key(&3) && !fleet.new.snapshot().contains_key(&3));
    // When the line is whole again, it follows.
    b.line.cut.store(false, Ordering::SeqCst);
    soon("it follows", || b.users.phase().phase == Phase::Live).await;
    b.users.put(&4, &4).await.unwrap();
    assert!(fleet.new.snapshot().contains_key(&4));
}

#[tokio::test(start_paused = true)]
async fn an_instance_that_starts_during_a_handover_waits_for_its_end() {
    let fleet = Fleet::new(Phase::Shadow);
    let before = fleet.record.current().await.unwrap();
    let announced = fleet.record.announce(before.epoch, Phase::Live).await.unwrap();
    let late = fleet.instance("late").await;
    let users = late.users.clone();
    let write = tokio::spawn(async move { users.put(&1, &1).await });
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(!write.is_finished() && fleet.old.is_empty());
    fleet.record.advance(announced.epoch, Phase::Live, Audit::default()).await.unwrap();
    write.await.unwrap().unwrap();
    late.users.drained().await;
    assert!(fleet.new.snapshot().contains_key(&1));
}
