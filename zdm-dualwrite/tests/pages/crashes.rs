//! Backfill under live writes and deletes, with stores that fail and land late, killed between any two
//! calls and resumed. In the end both stores hold the same.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use zdm_core::error::Result;
use zdm_core::phase::Phase;
use zdm_core::queue::{MemoryQueue, WriteQueue};
use zdm_core::store::{MemoryStore, Store};
use zdm_dualwrite::{Backfill, BackfillReport, DualWrite, Job, PageSettings, Settings};

use super::world::{Faults, Life, SETTLE, Wire, WireCheckpoints};

const KEYS: u64 = 48;

struct World {
    old: Wire,
    new: Wire,
    checkpoints: WireCheckpoints,
    queue: Arc<dyn WriteQueue>,
    workers: usize,
    seed: u64,
}

impl World {
    async fn new(seed: u64, fenced: bool) -> Self {
        let new = if fenced { MemoryStore::new() } else { MemoryStore::new().without_fence() };
        let old = Wire::new(MemoryStore::new(), seed);
        for key in (0..KEYS).filter(|key| key % 3 != 0) {
            old.inside().put(&key, &format!("first {key}")).await.unwrap();
        }
        Self {
            old,
            new: Wire::new(new, seed ^ 0xF00D),
            checkpoints: WireCheckpoints::new(),
            queue: Arc::new(MemoryQueue::new()),
            workers: 1 + (seed % 3) as usize,
            seed,
        }
    }

    /// A process over the same stores, queue and checkpoints.
    async fn process(&self, life: &Arc<Life>) -> DualWrite<Wire> {
        self.old.belongs_to(life);
        self.new.belongs_to(life);
        self.checkpoints.belongs_to(life);
        let mut settings = Settings::default();
        settings.seed = Some(self.seed);
        settings.reconcile_batch_keys = 4;
        settings.store_call_timeout = Duration::from_millis(20);
        DualWrite::builder(self.old.clone(), self.new.clone())
            .shared_queue(Arc::clone(&self.queue))
            .phase(Phase::DualWrite)
            .settings(settings)
            .start()
            .await
            .unwrap()
    }

    async fn backfill(&self, users: &DualWrite<Wire>) -> Result<Job<BackfillReport>> {
        let settings = PageSettings {
            workers: self.workers,
            first_page_rows: 5,
            smallest_page_rows: 3,
            largest_page_rows: 8,
            call_timeout: Duration::from_millis(20),
            ..PageSettings::default()
        };
        Backfill::new(users)
            .shared_checkpoints(Arc::new(self.checkpoints.clone()))
            .settings(settings)
            .start()
            .await
    }

    /// Clients that write and delete until they are done, or for ever when the process dies.
    fn clients(&self, users: &DualWrite<Wire>, generation: u64, writes: u32) -> JoinSet<()> {
        let mut clients = JoinSet::new();
        for client in 0..3 {
            let users = users.clone();
            let mut rng = fastrand::Rng::with_seed(self.seed ^ (generation << 32) ^ (client << 16));
            clients.spawn(async move {
                for number in 0..writes {
                    tokio::time::sleep(Duration::from_micros(rng.u64(0..4_000))).await;
                    let key = rng.u64(0..KEYS);
                    // A client that gives up, or is told that nobody knows, goes on with its next write.
                    let patience = Duration::from_millis(rng.u64(3..30));
                    drop(if rng.u8(0..3) == 0 {
                        tokio::time::timeout(patience, users.delete(&key)).await
                    } else {
                        let record = format!("{generation}.{client}.{number}");
                        tokio::time::timeout(patience, users.put(&key, &record)).await
                    });
                }
            });
        }
        clients
    }

    fn set_faults(&self, faults: Faults) {
        self.old.set_faults(faults);
        self.new.set_faults(faults);
    }

    /// Runs to the end without a crash, and checks.
    async fn finish(&self, generation: u64) -> u64 {
        let life = Life::immortal();
        let users = self.process(&life).await;
        let mut clients = self.clients(&users, generation, 12);
        let report = self.backfill(&users).await.unwrap().wait().await.unwrap();
        assert!(report.complete);
        while clients.join_next().await.is_some() {}
        self.check(&users).await;
        life.calls()
    }

    async fn check(&self, users: &DualWrite<Wire>) {
        self.set_faults(Faults::default());
        tokio::time::timeout(Duration::from_secs(600), users.drained()).await.expect("the queue drains");
        tokio::time::sleep(SETTLE).await;
        users.drained().await;
        assert_eq!(users.queue_stats().parked, 0);
        assert_eq!(self.old.snapshot(), self.new.snapshot(), "seed {}", self.seed);
    }

    /// Dies after a number of calls, together with its clients; returns whether it lived to the end.
    async fn die_after(&self, calls: u64, generation: u64) {
        let life = Life::of(calls);
        let users = self.process(&life).await;
        let clients = self.clients(&users, generation, 1_000);
        let run = async {
            match self.backfill(&users).await {
                Ok(job) => drop(job.wait().await),
                Err(error) => panic!("seed {}: {error:?}", self.seed),
            }
        };
        tokio::select! {
            () = life.ends() => {}
            () = run => {}
        }
        drop((clients, users));
        // What was sent before the crash may still land; the next process has to cope.
        tokio::task::yield_now().await;
    }
}

fn mild() -> Faults {
    Faults { late: 5, busy: 3, unknown: 3 }
}

/// The rounds of a test, from the environment for long runs.
fn rounds(usual: u64) -> u64 {
    std::env::var("ZDM_PAGE_ROUNDS").ok().and_then(|rounds| rounds.parse().ok()).unwrap_or(usual)
}

#[tokio::test(start_paused = true)]
async fn live_writes_and_deletes_during_pages() {
    for seed in 0..rounds(60) {
        for fenced in [false, true] {
            let world = World::new(seed, fenced).await;
            world.finish(1).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn live_writes_during_pages_while_stores_fail_and_land_late() {
    for seed in 0..rounds(60) {
        for fenced in [false, true] {
            let world = World::new(seed, fenced).await;
            world.set_faults(mild());
            world.finish(1).await;
        }
    }
}

/// Death between every two calls of one run, one after the other.
#[tokio::test(start_paused = true)]
async fn killed_between_any_two_calls_and_resumed() {
    for fenced in [false, true] {
        let calls = World::new(7, fenced).await.finish(1).await;
        assert!(calls > 100, "{calls}");
        for death in 0..calls.min(rounds(150)) {
            let world = World::new(7, fenced).await;
            world.die_after(death, 1).await;
            world.finish(2).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn killed_again_and_again_while_stores_fail_and_land_late() {
    for seed in 0..rounds(60) {
        for fenced in [false, true] {
            let world = World::new(seed, fenced).await;
            world.set_faults(mild());
            let mut rng = fastrand::Rng::with_seed(seed);
            for generation in 1..=3 {
                world.die_after(rng.u64(5..150), generation).await;
            }
            world.finish(4).await;
        }
    }
}
