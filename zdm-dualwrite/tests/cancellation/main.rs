//! Every public future is dropped at every point where it can be dropped. Afterwards, when all is quiet, both stores are
//! equal and no entry is left behind.
//!
//! Both stores answer late, so that each call has many such points, and have a settle time, within which the request of a
//! dropped call still lands.

#![expect(clippy::unwrap_used, reason = "a test that fails panics")]

use std::sync::Arc;
use std::time::Duration;

use zdm_core::clock::{Clock, SteadyClock};
use zdm_core::phase::{Coordinator, Gate, MemoryCoordinator, Phase};
use zdm_core::queue::{Intent, MemoryQueue, Touch, WriteQueue};
use zdm_core::store::{MemoryStore, Store};
use zdm_core::testkit::{Call, Fault, FaultyStore, drop_at_every_poll};
use zdm_dualwrite::{Builder, DualWrite, MoveRequest, Settings, WhenFull};

type Side = Arc<FaultyStore<MemoryStore<u64, String>>>;

const SETTLE: Duration = Duration::from_millis(50);

struct Setup {
    db: DualWrite<Side>,
    old: Side,
    new: Side,
    clock: Arc<dyn Clock>,
}

/// Every call of this round takes a while; a write lands although nobody may wait for it any more.
fn slow(store: &Side) {
    let faults = store.faults();
    faults.calm();
    for _ in 0..8 {
        for call in [Call::Put, Call::Delete, Call::Apply, Call::ApplyIfNewer] {
            faults.next(call, Fault::Slow(Duration::from_millis(3)));
        }
        for call in [Call::Get, Call::GetMany, Call::NewestStamp] {
            faults.next(call, Fault::Delay(Duration::from_millis(2)));
        }
    }
}

fn sides() -> [Side; 2] {
    [(); 2].map(|()| Arc::new(FaultyStore::new(MemoryStore::new()).with_settle_time(SETTLE)))
}

fn builder(old: &Side, new: &Side, clock: &Arc<dyn Clock>) -> Builder<Side> {
    let mut settings = Settings::default();
    settings.seed = Some(1);
    settings.when_full = WhenFull::Wait { deadline: Duration::from_millis(20) };
    settings.shadow.sample = 1.0;
    DualWrite::builder(Arc::clone(old), Arc::clone(new)).clock(Arc::clone(clock)).settings(settings)
}

async fn setup(phase: Phase) -> Setup {
    let [old, new] = sides();
    let clock: Arc<dyn Clock> = Arc::new(SteadyClock::starting_at(0));
    let db = builder(&old, &new, &clock).phase(phase).start().await.unwrap();
    for key in 1..=3 {
        db.put(&key, &"first".to_owned()).await.unwrap();
    }
    db.drained().await;
    Setup { db, old, new, clock }
}

impl Setup {
    /// Waits for everything that is under way; then nothing is left and both sides are equal.
    async fn quiet(&self, polls: usize) {
        let drained = tokio::time::timeout(Duration::from_secs(60), self.db.drained()).await;
        let stats = self.db.queue_stats();
        assert!(drained.is_ok(), "dropped after {polls} polls, the queue keeps {stats:?}");
        tokio::time::sleep(2 * SETTLE).await;
        assert_eq!(self.db.queue_stats().dirty(), 0, "dropped after {polls} polls");
        let (old, new) = (self.old.inner().snapshot(), self.new.inner().snapshot());
        assert_eq!(old, new, "dropped after {polls} polls");
    }
}

#[tokio::test(start_paused = true)]
async fn a_put_dropped_anywhere_leaves_equal_stores() {
    let setup = setup(Phase::DualWrite).await;
    let polls = drop_at_every_poll(
        |polls| {
            slow(&setup.old);
            slow(&setup.new);
            let db = setup.db.clone();
            async move { db.put(&1, &format!("after {polls}")).await }
        },
        async |polls, _| setup.quiet(polls).await,
    )
    .await;
    assert!(polls > 1, "it can be dropped before its end");
    assert!(setup.old.inner().snapshot()[&1].starts_with("after"));
}

#[tokio::test(start_paused = true)]
async fn a_write_of_several_keys_dropped_anywhere_leaves_equal_stores() {
    let setup = setup(Phase::Live).await;
    let polls = drop_at_every_poll(
        |polls| {
            slow(&setup.old);
            slow(&setup.new);
            let db = setup.db.clone();
            let touch = Touch::keys(&[1, 2], Intent::Unknown).unwrap();
            let call = move |repo: Side| async move {
                repo.put(&1, &format!("after {polls}")).await?;
                tokio::task::yield_now().await;
                if polls % 2 == 0 {
                    repo.delete(&2).await
                } else {
                    repo.put(&2, &format!("after {polls}")).await
                }
            };
            async move { db.write(touch, call).await }
        },
        async |polls, _| setup.quiet(polls).await,
    )
    .await;
    assert!(polls > 2, "it can be dropped between its two calls");
}

#[tokio::test(start_paused = true)]
async fn a_write_that_waits_for_room_can_be_dropped() {
    let [old, new] = sides();
    let clock: Arc<dyn Clock> = Arc::new(SteadyClock::starting_at(0));
    let queue: Arc<dyn WriteQueue> = Arc::new(MemoryQueue::with_clock(1, Arc::clone(&clock)));
    let builder = builder(&old, &new, &clock).phase(Phase::DualWrite).shared_queue(queue);
    let setup = Setup { db: builder.start().await.unwrap(), old, new, clock };
    drop_at_every_poll(
        |polls| {
            slow(&setup.old);
            slow(&setup.new);
            let (first, second) = (setup.db.clone(), setup.db.clone());
            async move {
                let text = format!("after {polls}");
                tokio::join!(first.put(&1, &text), second.put(&2, &text))
            }
        },
        async |polls, _| setup.quiet(polls).await,
    )
    .await;
    setup.db.put(&3, &"there is room".to_owned()).await.unwrap();
    setup.quiet(0).await;
}

#[tokio::test(start_paused = true)]
async fn a_read_dropped_anywhere_changes_nothing() {
    let setup = setup(Phase::Shadow).await;
    let before = setup.old.inner().snapshot();
    drop_at_every_poll(
        |_| {
            slow(&setup.old);
            slow(&setup.new);
            let db = setup.db.clone();
            async move { db.get(&1).await }
        },
        async |polls, _| setup.quiet(polls).await,
    )
    .await;
    assert_eq!(setup.old.inner().snapshot(), before);
    assert_eq!(setup.db.shadow_counts().mismatched, 0);
}

#[tokio::test(start_paused = true)]
async fn a_wait_for_the_drained_queue_can_be_dropped() {
    let setup = setup(Phase::DualWrite).await;
    drop_at_every_poll(
        |_| {
            let db = setup.db.clone();
            async move {
                db.put(&1, &"second".to_owned()).await.unwrap();
                db.drained().await;
            }
        },
        async |polls, _| setup.quiet(polls).await,
    )
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_handover_whose_caller_goes_away_is_made_or_not_and_writes_go_on() {
    let setup = setup(Phase::Shadow).await;
    drop_at_every_poll(
        |polls| {
            let db = setup.db.clone();
            let to = if db.phase().phase == Phase::Live { Phase::Shadow } else { Phase::Live };
            let gates = [Gate::BackfillComplete, Gate::Verified, Gate::SurvivesACrash];
            let request =
                gates.iter().fold(MoveRequest::to(to), |r, gate| r.overriding(*gate, "the test knows"));
            slow(&setup.old);
            slow(&setup.new);
            async move {
                db.put(&2, &format!("before move {polls}")).await.unwrap();
                db.advance_with(request).await
            }
        },
        async |polls, _| {
            // A move that goes on alone comes to its end.
            tokio::time::sleep(Duration::from_secs(5)).await;
            setup.db.put(&3, &format!("after {polls}")).await.unwrap();
            setup.quiet(polls).await;
            let recorded = setup.db.coordinator().current().await.unwrap();
            assert_eq!(setup.db.phase(), recorded, "dropped after {polls} polls");
        },
    )
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_dropped_anywhere_can_be_called_again() {
    for polls in 0..12 {
        let setup = setup(Phase::DualWrite).await;
        slow(&setup.new);
        setup.db.put(&1, &"last".to_owned()).await.unwrap();
        let shutdown = setup.db.shutdown(Duration::from_secs(10));
        drop(zdm_core::testkit::drop_after_polls(polls, shutdown).await);
        tokio::time::sleep(Duration::from_millis(polls as u64)).await;
        let report = setup.db.shutdown(Duration::from_secs(10)).await.unwrap();
        assert!(report.drained, "dropped after {polls} polls: {report:?}");
        setup.quiet(polls).await;
        assert_eq!(setup.new.inner().snapshot()[&1], "last");
    }
}

#[tokio::test(start_paused = true)]
async fn a_start_dropped_anywhere_can_be_made_again_over_the_same_queue() {
    let setup = setup(Phase::DualWrite).await;
    let Setup { db, old, new, clock } = setup;
    let queue = Arc::clone(db.queue());
    let coordinator: Arc<dyn Coordinator> = Arc::new(MemoryCoordinator::starting_in(Phase::DualWrite));
    drop(db);
    tokio::time::sleep(Duration::from_secs(1)).await;
    let polls = drop_at_every_poll(
        |_| {
            slow(&old);
            slow(&new);
            let builder = builder(&old, &new, &clock)
                .coordinator(Arc::clone(&coordinator))
                .shared_queue(Arc::clone(&queue));
            async move { builder.start().await }
        },
        async |polls, started| {
            let db = match started {
                Some(started) => started.unwrap(),
                None => builder(&old, &new, &clock)
                    .coordinator(Arc::clone(&coordinator))
                    .shared_queue(Arc::clone(&queue))
                    .start()
                    .await
                    .unwrap(),
            };
            db.put(&1, &format!("after {polls}")).await.unwrap();
            let clock = Arc::clone(&clock);
            let setup = Setup { db, old: Arc::clone(&old), new: Arc::clone(&new), clock };
            setup.quiet(polls).await;
            assert_eq!(setup.new.inner().snapshot()[&1], format!("after {polls}"));
        },
    )
    .await;
    assert!(polls > 2, "it can be dropped before its end");
}

/// A store whose writes panic for one value, a few times.
struct Panicky {
    inner: MemoryStore<u64, String>,
    left: std::sync::atomic::AtomicU32,
}

#[async_trait::async_trait]
impl Store for Panicky {
    type Key = u64;
    type Record = String;

    async fn get(&self, key: &u64) -> zdm_core::Result<Option<String>> {
        self.inner.get(key).await
    }

    async fn put(&self, key: &u64, record: &String) -> zdm_core::Result<()> {
        use std::sync::atomic::Ordering::Relaxed;
        if record == "bad" && self.left.fetch_update(Relaxed, Relaxed, |left| left.checked_sub(1)).is_ok() {
            std::panic::panic_any("this store panics (a fault of the test)");
        }
        self.inner.put(key, record).await
    }

    async fn delete(&self, key: &u64) -> zdm_core::Result<()> {
        self.inner.delete(key).await
    }

    fn settle_time(&self) -> Duration {
        Duration::ZERO
    }

    fn capabilities(&self) -> zdm_core::store::Capabilities<'_, u64, String> {
        zdm_core::store::Capabilities::none()
    }
}

#[tokio::test(start_paused = true)]
async fn a_secondary_that_panics_does_not_end_the_workers() {
    let panics = |left: u32| Arc::new(Panicky { inner: MemoryStore::new(), left: left.into() });
    let (old, new) = (panics(0), panics(5));
    let mut settings = Settings::default();
    settings.reconcile_workers = 1;
    let builder = DualWrite::builder(old, Arc::clone(&new)).phase(Phase::DualWrite).settings(settings);
    let db = builder.start().await.unwrap();
    db.put(&1, &"bad".to_owned()).await.unwrap();
    db.put(&2, &"good".to_owned()).await.unwrap();
    tokio::time::timeout(Duration::from_secs(60), db.drained()).await.unwrap();
    assert_eq!(new.inner.len(), 2);
    assert_eq!(db.queue_stats().dirty(), 0);
}
