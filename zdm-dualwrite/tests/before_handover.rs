//! The application's own step of a handover: when it runs, and what its end means.

#![expect(clippy::unwrap_used, reason = "a test that fails panics")]

use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use tokio::time::Instant;
use zdm_core::error::{Certainty, Error, Kind, Result};
use zdm_core::phase::{Coordinator, Gate, MemoryCoordinator, Phase, PhaseRecord, Side};
use zdm_core::queue::Touch;
use zdm_core::store::{MemoryStore, Store};
use zdm_dualwrite::{Builder, DualWrite, MoveRequest, Settings};

type Memory = Arc<MemoryStore<u64, String>>;

/// What a step found when it ran.
#[derive(Debug, PartialEq)]
struct Found {
    next: Side,
    recorded: Phase,
    pending: u64,
    stores_equal: bool,
}

struct World {
    old: Memory,
    new: Memory,
    coordinator: Arc<MemoryCoordinator>,
    users: DualWrite<Memory>,
}

async fn world(phase: Phase, with: impl FnOnce(Builder<Memory>) -> Builder<Memory>) -> World {
    let (old, new) = (Memory::default(), Memory::default());
    let coordinator = Arc::new(MemoryCoordinator::starting_in(phase));
    let builder = DualWrite::builder(Arc::clone(&old), Arc::clone(&new));
    let users = with(builder.coordinator(Arc::clone(&coordinator) as _)).start().await.unwrap();
    World { old, new, coordinator, users }
}

impl World {
    async fn go(&self, to: Phase) -> Result<Duration> {
        let request = MoveRequest::to(to);
        let gates = [Gate::SurvivesACrash, Gate::Verified, Gate::BackfillComplete];
        let request = gates.into_iter().fold(request, |request, gate| request.overriding(gate, "played"));
        self.users.advance_with(request).await.map(|advanced| advanced.pause.unwrap())
    }

    async fn recorded(&self) -> PhaseRecord {
        self.coordinator.current().await.unwrap()
    }

    /// A write that takes so long.
    fn slow_write(&self, key: u64, takes: Duration) -> tokio::task::JoinHandle<Result<()>> {
        let users = self.users.clone();
        tokio::spawn(async move {
            let call = |store: Memory| async move {
                tokio::time::sleep(takes).await;
                store.put(&key, &"slow".to_owned()).await
            };
            users.write(Touch::upsert(&key), call).await
        })
    }
}

#[tokio::test(start_paused = true)]
async fn it_runs_when_the_stores_are_equal_and_nothing_is_recorded_yet_on_both_ways() {
    let found = Arc::new(Mutex::new(Vec::new()));
    let inside: Arc<OnceLock<(DualWrite<Memory>, Arc<MemoryCoordinator>)>> = Arc::default();
    let (seen, own) = (Arc::clone(&found), Arc::clone(&inside));
    let world = world(Phase::Shadow, |builder| {
        builder.before_handover(move |next| {
            let (seen, own) = (Arc::clone(&seen), Arc::clone(&own));
            async move {
                let (users, coordinator) = own.get().unwrap();
                let recorded = coordinator.current().await?.phase;
                // A step may take some time; nothing may move meanwhile.
                tokio::time::sleep(Duration::from_millis(300)).await;
                let stores_equal = users.old_store().snapshot() == users.new_store().snapshot();
                let pending = users.queue_stats().pending();
                seen.lock().unwrap().push(Found { next, recorded, pending, stores_equal });
                Ok(())
            }
        })
    })
    .await;
    drop(inside.set((world.users.clone(), Arc::clone(&world.coordinator))));

    let slow = world.slow_write(1, Duration::from_millis(500));
    tokio::task::yield_now().await;
    let began = Instant::now();
    let handover = async {
        let pause = world.go(Phase::Live).await.unwrap();
        assert!(pause >= Duration::from_millis(800), "the step's time is part of the pause: {pause:?}");
    };
    let during = async {
        tokio::time::sleep(Duration::from_millis(600)).await;
        world.users.put(&2, &"waited".to_owned()).await.unwrap();
        assert!(began.elapsed() >= Duration::from_millis(800), "writes wait while the step runs");
        assert_eq!(world.new.get(&2).await.unwrap().as_deref(), Some("waited"));
    };
    tokio::join!(handover, during);
    slow.await.unwrap().unwrap();
    world.go(Phase::Shadow).await.unwrap();

    let equal = |next, recorded| Found { next, recorded, pending: 0, stores_equal: true };
    assert_eq!(*found.lock().unwrap(), [equal(Side::New, Phase::Shadow), equal(Side::Old, Phase::Live)]);
}

#[tokio::test(start_paused = true)]
async fn its_error_or_panic_gives_the_handover_up_and_writes_go_on() {
    let outcome = Arc::new(Mutex::new("error"));
    let own = Arc::clone(&outcome);
    let world = world(Phase::Shadow, |builder| {
        builder.before_handover(move |_| {
            let outcome = *own.lock().unwrap();
            // Before there is a future, and in it.
            assert!(outcome != "panic", "played");
            async move {
                tokio::task::yield_now().await;
                assert!(outcome != "panic later", "played");
                match outcome {
                    "error" => Err(Error::new(Kind::Invalid, "the counter has no room").unknown()),
                    _ => Ok(()),
                }
            }
        })
    })
    .await;
    let before = world.recorded().await;
    for (number, (what, words)) in
        (0..).zip([("error", "no room"), ("panic", "panicked"), ("panic later", "panicked")])
    {
        *outcome.lock().unwrap() = what;
        let error = world.go(Phase::Live).await.unwrap_err();
        assert_eq!((error.kind(), error.certainty()), (Kind::Invalid, Certainty::NotApplied));
        assert!(error.to_string().contains("step before the handover has failed"), "{error}");
        assert!(error.to_string().contains(words), "{error}");
        assert_eq!(world.recorded().await, before);
        assert_eq!(world.users.phase(), before);
        world.users.put(&number, &"goes on".to_owned()).await.unwrap();
        assert!(world.old.get(&number).await.unwrap().is_some(), "the old store is still the primary");
    }
    *outcome.lock().unwrap() = "fine";
    world.go(Phase::Live).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_step_that_is_too_slow_is_given_up_in_time_together_with_what_came_before_it() {
    let mut settings = Settings::default();
    settings.handover_pause = Duration::from_secs(2);
    let world = world(Phase::Shadow, |builder| {
        builder.settings(settings).before_handover(|_| async {
            tokio::time::sleep(Duration::from_millis(1_500)).await;
            Ok(())
        })
    })
    .await;
    let before = world.recorded().await;
    // One second for the write under way leaves one for the step.
    let slow = world.slow_write(1, Duration::from_secs(1));
    tokio::task::yield_now().await;
    let began = Instant::now();
    let error = world.go(Phase::Live).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Limit);
    assert!(error.to_string().contains("step before the handover was not done"), "{error}");
    let took = began.elapsed();
    assert!(took >= Duration::from_secs(2) && took < Duration::from_millis(2_100), "{took:?}");
    assert_eq!(world.recorded().await, before);
    world.users.put(&2, &"goes on".to_owned()).await.unwrap();
    assert!(world.old.get(&2).await.unwrap().is_some());
    slow.await.unwrap().unwrap();
    world.go(Phase::Live).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn it_does_not_run_where_the_primary_stays_or_the_stores_do_not_become_equal() {
    let runs = Arc::new(Mutex::new(0));
    let own = Arc::clone(&runs);
    let world = world(Phase::DualWrite, |builder| {
        builder.before_handover(move |_| {
            *own.lock().unwrap() += 1;
            async { Ok(()) }
        })
    })
    .await;
    let users = world.users.clone();
    let forced = MoveRequest::to(Phase::Shadow).overriding(Gate::BackfillComplete, "played");
    users.advance_with(forced).await.unwrap();
    let slow = world.slow_write(1, Duration::from_secs(10));
    tokio::task::yield_now().await;
    assert_eq!(world.go(Phase::Live).await.unwrap_err().kind(), Kind::Limit);
    assert_eq!(*runs.lock().unwrap(), 0);
    slow.await.unwrap().unwrap();
    world.go(Phase::Live).await.unwrap();
    assert_eq!(*runs.lock().unwrap(), 1);
}

#[tokio::test(start_paused = true)]
async fn among_several_instances_a_failed_step_withdraws_the_announcement() {
    let coordinator = Arc::new(MemoryCoordinator::starting_in(Phase::Shadow).shared());
    let (old, new) = (Memory::default(), Memory::default());
    let instance = |name: &str, fails: Option<bool>| {
        let mut settings = Settings::default();
        settings.instance_name = name.to_owned();
        let builder = DualWrite::builder(Arc::clone(&old), Arc::clone(&new)).settings(settings);
        let builder = builder.coordinator(Arc::clone(&coordinator) as _);
        match fails {
            Some(fails) => {
                builder.before_handover(move |_| async move { if fails { panic!("played") } else { Ok(()) } })
            }
            None => builder,
        }
        .start()
    };
    let (failing, working) = tokio::join!(instance("failing", Some(true)), instance("working", Some(false)));
    let (failing, working) = (failing.unwrap(), working.unwrap());
    let world = |users: &DualWrite<Memory>| World {
        old: Arc::clone(&old),
        new: Arc::clone(&new),
        coordinator: Arc::clone(&coordinator),
        users: users.clone(),
    };
    let error = world(&failing).go(Phase::Live).await.unwrap_err();
    assert!(error.to_string().contains("panicked"), "{error}");
    let record = coordinator.current().await.unwrap();
    assert_eq!((record.phase, record.handover), (Phase::Shadow, None));
    for users in [&failing, &working] {
        users.put(&1, &"goes on".to_owned()).await.unwrap();
        users.drained().await;
    }
    world(&working).go(Phase::Live).await.unwrap();
    failing.put(&2, &"live".to_owned()).await.unwrap();
    assert!(new.get(&2).await.unwrap().is_some());
}
