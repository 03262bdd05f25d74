//! The handle of a run, its settings and its errors.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::time::Instant;
use zdm_core::checkpoint::{Checkpoint, CheckpointStore, MemoryCheckpoints};
use zdm_core::error::{Error, Kind, Result};
use zdm_core::phase::Phase;
use zdm_core::queue::EntryState;
use zdm_core::report::{Event, RunState};
use zdm_core::store::{MapStore, Mapping, MemoryStore, Store};
use zdm_dualwrite::{Backfill, DualWrite, Health, MoveRequest, PaceSettings, PageSettings};

type Users = Arc<MemoryStore<u64, String>>;

async fn old(rows: u64) -> Users {
    let old = Arc::new(MemoryStore::new());
    for key in 0..rows {
        old.put(&key, &format!("user {key}")).await.unwrap();
    }
    old
}

async fn both(rows: u64) -> (Users, Users, DualWrite<Users>) {
    let (old, new) = (old(rows).await, Arc::new(MemoryStore::new()));
    let users = DualWrite::builder(Arc::clone(&old), Arc::clone(&new)).phase(Phase::DualWrite);
    (old, new, users.start().await.unwrap())
}

/// A hundred rows to a page and a thousand rows to a second.
fn slow() -> PageSettings {
    PageSettings {
        first_page_rows: 100,
        largest_page_rows: 100,
        pace: PaceSettings { rows_per_second: Some(1_000), ..PaceSettings::default() },
        ..PageSettings::default()
    }
}

#[tokio::test(start_paused = true)]
async fn the_ceiling_is_kept() {
    let (old, new, users) = both(10_000).await;
    let began = Instant::now();
    let report = Backfill::new(&users).settings(slow()).run().await.unwrap();
    let took = began.elapsed().as_secs_f64();
    assert!((9.5..10.5).contains(&took), "10,000 rows at 1,000 rows/s took {took} s");
    assert_eq!((report.rows, report.written, report.complete), (10_000, 10_000, true));
    assert_eq!(new.snapshot(), old.snapshot());
}

#[tokio::test(start_paused = true)]
async fn a_run_is_paused_resumed_stopped_and_gone_on_from() {
    let (old, new, users) = both(10_000).await;
    let checkpoints = Arc::new(MemoryCheckpoints::new());
    let backfill = || Backfill::new(&users).settings(slow()).shared_checkpoints(checkpoints.clone());
    let job = backfill().start().await.unwrap();
    tokio::time::sleep(Duration::from_secs(2)).await;
    let progress = job.progress();
    assert_eq!(progress.state, RunState::Running);
    assert!((1_800..=2_300).contains(&progress.done_rows), "{progress:?}");
    assert_eq!(progress.estimated_rows, 10_000);
    assert!((800.0..1_300.0).contains(&progress.rows_per_second), "{progress:?}");
    assert!((6.0..10.0).contains(&progress.eta.unwrap().as_secs_f64()), "{progress:?}");

    job.pause();
    tokio::time::sleep(Duration::from_secs(1)).await;
    let paused_at = job.progress().done_rows;
    tokio::time::sleep(Duration::from_secs(3_600)).await;
    let progress = job.progress();
    assert_eq!((progress.state, progress.done_rows), (RunState::Paused, paused_at));
    assert_eq!(new.len() as u64, paused_at);

    job.resume();
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!(job.progress().done_rows > paused_at + 1_500);
    job.stop();
    let stopped = job.wait().await.unwrap();
    assert!(!stopped.complete && stopped.rows < 10_000);
    assert_eq!(new.len() as u64, stopped.rows, "the checkpoint knows every page");

    let report = backfill().run().await.unwrap();
    assert!(report.complete && report.resumed);
    assert_eq!((report.rows, report.written), (10_000, 10_000 - stopped.rows));
    assert_eq!(new.snapshot(), old.snapshot());

    // A completed one has nothing left to do, unless it is told to begin anew.
    let again = backfill().run().await.unwrap();
    assert_eq!((again.complete, again.written), (true, 0));
    let anew = backfill().from_the_beginning().run().await.unwrap();
    assert_eq!((anew.resumed, anew.written), (false, 10_000));
}

#[tokio::test(start_paused = true)]
async fn the_health_check_holds_a_run_and_says_why() {
    let (_, new, users) = both(10_000).await;
    let lag = Arc::new(Mutex::new(0_u32));
    let seen = Arc::clone(&lag);
    let replica = move || match *seen.lock().unwrap() {
        0 => Health::Go,
        seconds => Health::Hold(format!("the replica lags {seconds} s")),
    };
    let job = Backfill::new(&users).settings(slow()).health(replica).start().await.unwrap();
    tokio::time::sleep(Duration::from_secs(2)).await;
    *lag.lock().unwrap() = 30;
    tokio::time::sleep(Duration::from_secs(2)).await;
    let held = job.progress();
    assert_eq!(held.state, RunState::HeldBack);
    assert_eq!(held.held_back_by.as_deref(), Some("the replica lags 30 s"));
    tokio::time::sleep(Duration::from_secs(600)).await;
    assert_eq!(job.progress().done_rows, held.done_rows);
    *lag.lock().unwrap() = 0;
    assert!(job.wait().await.unwrap().complete);
    assert_eq!(new.len(), 10_000);
}

#[tokio::test(start_paused = true)]
async fn observers_hear_how_far_it_is() {
    let heard = Arc::new(Mutex::new(Vec::new()));
    let sink = Arc::clone(&heard);
    let observer = move |event: &Event| {
        if let Event::Progressed { run: "backfill", progress } = event {
            sink.lock().unwrap().push((progress.state, progress.done_rows));
        }
    };
    let (old, new) = (old(5_000).await, Arc::new(MemoryStore::new()));
    let users = DualWrite::builder(old, new).phase(Phase::DualWrite).observer(Arc::new(observer));
    let users = users.start().await.unwrap();
    Backfill::new(&users).settings(slow()).run().await.unwrap();
    let heard = heard.lock().unwrap().clone();
    assert!(heard.len() >= 5, "{heard:?}");
    assert!(heard.is_sorted_by_key(|(_, rows)| *rows));
    assert_eq!(heard.last(), Some(&(RunState::Done, 5_000)));
}

/// A mapping that cannot read one record and cannot write another.
#[derive(Clone)]
struct Picky;

impl Mapping<u64, String> for Picky {
    type Key = u64;
    type Record = String;

    fn key_in(&self, key: &u64) -> Result<u64> {
        Ok(*key)
    }

    fn key_out(&self, key: &u64) -> Result<u64> {
        Ok(*key)
    }

    fn record_in(&self, record: &String) -> Result<String> {
        if record == "user 9" {
            return Err(Error::new(Kind::Rejected, "the name \"user 9\" is too long"));
        }
        Ok(record.clone())
    }

    fn record_out(&self, record: String) -> Result<String> {
        if record == "user 5" {
            return Err(Error::new(Kind::Rejected, "the name \"user 5\" is not UTF-8"));
        }
        Ok(record)
    }
}

#[tokio::test(start_paused = true)]
async fn a_record_that_does_not_fit_is_parked_and_the_rest_goes_on() {
    for fenced in [false, true] {
        let new = if fenced { MemoryStore::new() } else { MemoryStore::new().without_fence() };
        let new = Arc::new(new);
        let mapped = |store: &Users| Arc::new(MapStore::new(Arc::clone(store), Picky));
        let old = old(100).await;
        let users = DualWrite::builder(mapped(&old), mapped(&new)).phase(Phase::DualWrite);
        let users = users.start().await.unwrap();
        let backfill = Backfill::new(&users).checkpoints(MemoryCheckpoints::new());
        let report = backfill.run().await.unwrap();
        assert!(report.complete);
        assert_eq!((report.rows, report.written, report.parked), (100, 98, 2), "fenced: {fenced}");
        let parked = users.queue().entries(EntryState::Parked, 10);
        let errors: Vec<_> = parked.iter().filter_map(|entry| entry.last_error.clone()).collect();
        assert_eq!(errors.len(), 2);
        assert!(errors.iter().any(|error| error.contains("user 5")), "{errors:?}");
        assert!(errors.iter().any(|error| error.contains("user 9")), "{errors:?}");
        assert_eq!(new.len(), 98);
    }
}

#[tokio::test(start_paused = true)]
async fn records_that_contend_for_a_unique_value_reach_the_secondary_in_the_end() {
    for fenced in [false, true] {
        let unique = |store: MemoryStore<u64, String>| {
            store.with_unique("name", |record: &String| Some(record.clone()))
        };
        let (old, new) = (unique(MemoryStore::new()), unique(MemoryStore::new()));
        let new = if fenced { new } else { new.without_fence() };
        // The two names have changed hands since the new store got them.
        for (store, names) in [(&old, ["Ada", "Eve"]), (&new, ["Eve", "Ada"])] {
            for (key, name) in names.into_iter().enumerate() {
                store.put(&(key as u64), &name.to_owned()).await.unwrap();
            }
        }
        let (old, new) = (Arc::new(old), Arc::new(new));
        let users = DualWrite::builder(Arc::clone(&old), Arc::clone(&new)).phase(Phase::DualWrite);
        let users = users.start().await.unwrap();
        Backfill::new(&users).checkpoints(MemoryCheckpoints::new()).run().await.unwrap();
        users.drained().await;
        assert_eq!(users.queue_stats().parked, 0);
        assert_eq!(new.snapshot(), old.snapshot(), "fenced: {fenced}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_run_says_why() {
    let (_, _, users) = both(10).await;
    let settings = PageSettings { workers: 0, ..PageSettings::default() };
    let error = Backfill::new(&users).settings(settings).run().await.unwrap_err();
    assert!(error.kind() == Kind::Invalid && error.to_string().contains("workers"), "{error}");

    // Without a fence a page that a crash cut off must be known afterwards.
    let new = Arc::new(MemoryStore::new().without_fence());
    let users = DualWrite::builder(old(10).await, new).phase(Phase::DualWrite).start().await.unwrap();
    let error = Backfill::new(&users).run().await.unwrap_err();
    assert!(error.kind() == Kind::Invalid && error.to_string().contains("checkpoints"), "{error}");

    let new = Arc::new(MemoryStore::new().plain());
    let users = DualWrite::builder(old(10).await, new).phase(Phase::DualWrite).start().await.unwrap();
    let error = Backfill::new(&users).checkpoints(MemoryCheckpoints::new()).run().await.unwrap_err();
    assert!(error.kind() == Kind::Invalid && error.to_string().contains("secondary"), "{error}");

    let users = DualWrite::builder(old(10).await, Arc::new(MemoryStore::new())).start().await.unwrap();
    let error = Backfill::new(&users).run().await.unwrap_err();
    assert!(error.kind() == Kind::Refused && error.to_string().contains("dual_write"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_checkpoint_of_something_else_is_an_error_and_stays() {
    let (_, new, users) = both(10).await;
    let checkpoints = Arc::new(MemoryCheckpoints::new());
    let job = "migration/backfill";
    let wrong = |format, subject: &str, position: &[u8]| Checkpoint {
        format,
        sequence: 7,
        subject: subject.to_owned(),
        position: position.to_vec(),
        updated_at: 0,
    };
    let cases = [
        (wrong(1, "orders: backfill", b""), Kind::Invalid, "orders"),
        (wrong(99, "migration: backfill", b""), Kind::Invalid, "format 99"),
        (wrong(1, "migration: backfill", b"{\"dir"), Kind::Damaged, "cannot be read"),
    ];
    for (checkpoint, kind, said) in cases {
        checkpoints.remove(job).await.unwrap();
        checkpoints.save(job, &checkpoint).await.unwrap();
        let backfill = Backfill::new(&users).shared_checkpoints(checkpoints.clone());
        let error = backfill.run().await.unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
        assert!(error.to_string().contains(said), "{error}");
        assert_eq!(checkpoints.load(job).await.unwrap(), Some(checkpoint));
    }
    assert!(new.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_run_ends_when_the_roles_of_the_stores_change_and_never_writes_to_a_new_primary() {
    let (_, new, users) = both(10_000).await;
    let job = Backfill::new(&users).settings(slow()).start().await.unwrap();
    tokio::time::sleep(Duration::from_secs(2)).await;
    for phase in [Phase::Shadow, Phase::Live] {
        let mut request = MoveRequest::to(phase).by("ada", "a test");
        for check in users.gates(phase).unwrap().checks {
            request = request.overriding(check.gate, "a test");
        }
        users.advance_with(request).await.unwrap();
    }
    let rows = new.len();
    let error = job.wait().await.unwrap_err();
    assert_eq!(error.kind(), Kind::Refused, "{error}");
    assert_eq!(new.len(), rows);
}
