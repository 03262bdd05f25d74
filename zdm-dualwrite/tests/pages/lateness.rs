//! One page, one delete, and something that comes late: each case that the exhaustive model names, played
//! on the engine. A record that was deleted must not come back.

use std::sync::Arc;
use std::time::Duration;

use zdm_core::phase::Phase;
use zdm_core::queue::{MemoryQueue, WriteQueue};
use zdm_core::store::{MemoryStore, Store};
use zdm_dualwrite::{
    Backfill, BackfillReport, DualWrite, Instances, Job, MoveRequest, PageSettings, Settings, Verify,
};

use super::world::{SETTLE, Wire, WireCheckpoints};

const CALL_TIMEOUT: Duration = Duration::from_millis(20);

struct Stage {
    old: Wire,
    new: Wire,
    checkpoints: WireCheckpoints,
    queue: Arc<dyn WriteQueue>,
}

impl Stage {
    async fn new(fenced: bool) -> Self {
        let old = MemoryStore::new();
        for key in 1..=3 {
            old.put(&key, &"first".to_owned()).await.unwrap();
        }
        let new = if fenced { MemoryStore::new() } else { MemoryStore::new().without_fence() };
        Self {
            old: Wire::new(old, 1).calm(),
            new: Wire::new(new, 2).calm(),
            checkpoints: WireCheckpoints::new(),
            queue: Arc::new(MemoryQueue::new()),
        }
    }

    async fn process(&self) -> DualWrite<Wire> {
        DualWrite::builder(self.old.clone(), self.new.clone())
            .shared_queue(Arc::clone(&self.queue))
            .phase(Phase::DualWrite)
            .start()
            .await
            .unwrap()
    }

    async fn backfill(&self, users: &DualWrite<Wire>) -> Job<BackfillReport> {
        let settings = PageSettings { workers: 1, call_timeout: CALL_TIMEOUT, ..PageSettings::default() };
        let backfill = Backfill::new(users).shared_checkpoints(Arc::new(self.checkpoints.clone()));
        backfill.settings(settings).start().await.unwrap()
    }

    async fn check(&self, users: &DualWrite<Wire>) {
        users.drained().await;
        tokio::time::sleep(SETTLE * 2).await;
        users.drained().await;
        assert_eq!(self.new.snapshot(), self.old.snapshot());
        assert_eq!(self.new.snapshot().keys().copied().collect::<Vec<_>>(), [1, 3]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_record_deleted_after_its_page_was_read_stays_deleted() {
    for fenced in [false, true] {
        let stage = Stage::new(fenced).await;
        let users = stage.process().await;
        stage.old.delay_next_page(Duration::from_millis(15));
        let job = stage.backfill(&users).await;
        stage.old.delayed().await;
        // The page is read and on its way; the deletion overtakes it on both sides.
        users.delete(&2).await.unwrap();
        users.drained().await;
        assert!(job.wait().await.unwrap().complete);
        stage.check(&users).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_page_that_lands_while_its_record_is_deleted_does_not_bring_it_back() {
    for fenced in [false, true] {
        let stage = Stage::new(fenced).await;
        let users = stage.process().await;
        stage.new.delay_next_write(Duration::from_millis(15));
        let job = stage.backfill(&users).await;
        stage.new.delayed().await;
        users.delete(&2).await.unwrap();
        users.drained().await;
        assert!(job.wait().await.unwrap().complete);
        stage.check(&users).await;
    }
}

/// The page times out and is tried again; the first try lands when its secondary write is nearly settled.
#[tokio::test(start_paused = true)]
async fn a_page_that_was_given_up_on_lands_before_its_keys_are_marked() {
    for fenced in [false, true] {
        for lands_after in (60..80).step_by(2) {
            let stage = Stage::new(fenced).await;
            let users = stage.process().await;
            stage.new.delay_next_write(Duration::from_millis(lands_after));
            let job = stage.backfill(&users).await;
            stage.new.delayed().await;
            users.delete(&2).await.unwrap();
            users.drained().await;
            assert!(job.wait().await.unwrap().complete);
            stage.check(&users).await;
        }
    }
}

/// The process dies while a page is on its way, and the next one begins at once.
#[tokio::test(start_paused = true)]
async fn a_page_of_a_dead_process_lands_before_its_range_is_reconciled() {
    for fenced in [false, true] {
        for lands_after in (20..80).step_by(5) {
            let stage = Stage::new(fenced).await;
            let users = stage.process().await;
            stage.new.delay_next_write(Duration::from_millis(lands_after));
            let job = stage.backfill(&users).await;
            stage.new.delayed().await;
            users.delete(&2).await.unwrap();
            users.drained().await;
            // The entry of the deletion is gone. Only the token knows that the page may still bring the
            // record back.
            drop((job, users));

            let users = stage.process().await;
            let report = stage.backfill(&users).await.wait().await.unwrap();
            assert!(report.complete && report.resumed);
            stage.check(&users).await;
        }
    }
}

/// The run is dropped while a page is on its way, and another one begins at once in the same process.
#[tokio::test(start_paused = true)]
async fn a_page_of_a_dropped_run_lands_before_its_range_is_reconciled() {
    for fenced in [false, true] {
        for lands_after in (20..80).step_by(5) {
            let stage = Stage::new(fenced).await;
            let users = stage.process().await;
            stage.new.delay_next_write(Duration::from_millis(lands_after));
            let job = stage.backfill(&users).await;
            stage.new.delayed().await;
            users.delete(&2).await.unwrap();
            users.drained().await;
            drop(job);
            let report = stage.backfill(&users).await.wait().await.unwrap();
            assert!(report.complete && report.resumed);
            stage.check(&users).await;
        }
    }
}

/// A page that was given up on must not land on a store that has become the primary.
#[tokio::test(start_paused = true)]
async fn the_primary_role_moves_only_after_pages_have_settled() {
    for fenced in [false, true] {
        let stage = Stage::new(fenced).await;
        let users = stage.process().await;
        stage.new.delay_next_write(Duration::from_millis(70));
        let job = stage.backfill(&users).await;
        stage.new.delayed().await;
        drop(job);
        for phase in [Phase::Shadow, Phase::Live] {
            let mut request = MoveRequest::to(phase);
            for check in users.gates(phase).unwrap().checks {
                request = request.overriding(check.gate, "a test");
            }
            users.advance_with(request).await.unwrap();
        }
        users.put(&2, &"written to the new primary".to_owned()).await.unwrap();
        tokio::time::sleep(SETTLE * 2).await;
        assert_eq!(stage.new.snapshot()[&2], "written to the new primary", "fenced: {fenced}");
    }
}

/// The record changes on both sides between the two reads of a second look.
#[tokio::test(start_paused = true)]
async fn a_write_between_the_reads_of_a_second_look_is_not_a_difference() {
    for fenced in [false, true] {
        let stage = Stage::new(fenced).await;
        let users = stage.process().await;
        let report = stage.backfill(&users).await.wait().await.unwrap();
        assert!(report.complete);
        stage.new.delay_next_get(Duration::from_millis(15));
        let look = tokio::spawn(Verify::new(&users).keys([2]));
        stage.new.delayed().await;
        users.put(&2, &"second".to_owned()).await.unwrap();
        users.drained().await;
        let report = look.await.unwrap().unwrap();
        assert_eq!((report.mismatches, report.in_flight), (0, 0), "{report:?}");
    }
}

/// Another process writes through a queue of its own, which the backfill cannot watch.
#[tokio::test(start_paused = true)]
async fn a_record_deleted_by_another_process_while_its_page_was_on_its_way_stays_deleted() {
    let stage = Stage::new(false).await;
    let instance = |queue: Arc<dyn WriteQueue>| {
        let mut settings = Settings::default();
        settings.instances = Instances::QueueEach;
        let users = DualWrite::builder(stage.old.clone(), stage.new.clone()).settings(settings);
        users.shared_queue(queue).phase(Phase::DualWrite).start()
    };
    let ours = instance(Arc::clone(&stage.queue)).await.unwrap();
    let theirs = instance(Arc::new(MemoryQueue::new())).await.unwrap();
    stage.new.delay_next_write(Duration::from_millis(15));
    let job = stage.backfill(&ours).await;
    stage.new.delayed().await;
    theirs.delete(&2).await.unwrap();
    theirs.drained().await;
    assert!(job.wait().await.unwrap().complete);
    stage.check(&ours).await;
}
