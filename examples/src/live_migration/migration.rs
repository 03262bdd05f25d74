//! Everything that touches zdm: the two stores, the wrapper around them, and the way through the phases.
//!
//! The way is a loop over the recorded phase, so a run that was killed anywhere is continued by the same code.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use zdm_core::checkpoint::{CheckpointStore, FileCheckpoints};
use zdm_core::error::Kind;
use zdm_core::key::Key;
use zdm_core::phase::{Coordinator, FileCoordinator, Percent, Phase, Side};
use zdm_core::queue::{EntryState, Guarantee};
use zdm_core::report::{Event, Progress, RunState};
use zdm_core::store::{DynStore, Record, Store, StoreExt};
use zdm_dualwrite::{Backfill, DiskQueue, DualWrite, Job, LatencyProbe, PageSettings, Settings, Verify};

use super::display::Standing;
use super::files::Files;
use super::latency::Latencies;
use super::outage::{Switch, Switched};
use super::report::Outcome;
use super::service::RequestError;
use super::{Doing, Failure, Result};

/// How long the service runs in a phase before the next one, beside the work that the phase has.
const STAY: Duration = Duration::from_secs(2);
/// The same for a database of few rows.
const SHORT_STAY: Duration = Duration::from_millis(500);
const FEW_ROWS: u64 = 50_000;
/// The shares of keys that are read from the new database, one after another.
const RAMP: [f64; 3] = [10.0, 50.0, 100.0];
/// How long gates may keep a move waiting: an outage has to be over and its backlog gone.
const PATIENCE: Duration = Duration::from_secs(120);

const LEAST_ROWS_PER_SECOND: u32 = 20_000;
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// What this run is to do.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Go back to the old database after `Live`.
    pub rollback: bool,
    /// Switch the new database off for so long while rows are copied.
    pub outage: Option<Duration>,
    /// How many rows there are.
    pub rows: u64,
}

/// What a migration does to its databases beside moving records.
#[async_trait]
pub trait Databases: Send + Sync {
    /// Every row is copied and the new database is kept in step: time for indexes and foreign keys.
    async fn loaded(&self) -> Result<()> {
        Ok(())
    }

    /// Writes wait and both databases are equal, because the primary role moves to a side: time to let its
    /// counters count on above those of the other one.
    async fn handing_over(&self, _next: Side) -> zdm_core::Result<()> {
        Ok(())
    }

    /// Closes both.
    async fn close(&self);
}

/// What a migration is made of.
pub struct Parts<K, R> {
    /// The name of the migration, of its queue and of its record of phases.
    pub name: &'static str,
    /// The old store, with its fence.
    pub old: DynStore<K, R>,
    /// The new store, with its fence.
    pub new: DynStore<K, R>,
    /// What they stand in.
    pub databases: Arc<dyn Databases>,
    /// How many pages are copied side by side.
    pub workers: usize,
    /// Switches the new store off.
    pub switch: Switch,
}

/// A migration under way.
pub struct Migration<K: Key, R: Record> {
    records: DualWrite<DynStore<K, R>>,
    databases: Arc<dyn Databases>,
    workers: usize,
    checkpoints: Arc<dyn CheckpointStore>,
    switch: Switch,
    /// Tells a backfill that requests become slow.
    probe: Arc<Mutex<Option<LatencyProbe>>>,
    was_live: AtomicBool,
    seen: Arc<Mutex<Seen>>,
}

/// What is shown and reported.
#[derive(Default)]
struct Seen {
    doing: &'static str,
    progress: Progress,
    entered: Option<(Phase, Instant)>,
    outcome: Outcome,
}

impl<K: Key, R: Record> Migration<K, R> {
    /// Takes up the migration where the last run left it.
    ///
    /// # Errors
    /// A file cannot be opened, or belongs to something else.
    pub async fn open(files: &Files, parts: Parts<K, R>) -> Result<Self> {
        let Parts { name, old, new, databases, workers, switch } = parts;
        let failed = || format!("the migration in {} cannot be opened", files.dir().display());
        std::fs::create_dir_all(files.zdm("")).doing(failed)?;
        let queue = DiskQueue::open(files.zdm("queue"), name).doing(failed)?;
        let coordinator = Arc::new(FileCoordinator::open(files.zdm("phase"), name).await.doing(failed)?);
        let was_live = coordinator.history().await.doing(failed)?.iter().any(|past| past.to == Phase::Live);
        let checkpoints = Arc::new(FileCheckpoints::open(files.zdm("checkpoints")).await.doing(failed)?);

        let new = Switched::new(new, switch.clone());
        let seen = Arc::new(Mutex::new(Seen::default()));
        let mut settings = Settings::default();
        settings.name = name.to_owned();
        let (watching, counting) = (Arc::clone(&seen), Arc::clone(&databases));
        let records = DualWrite::builder(old, new.into_dyn())
            .queue(queue)
            .coordinator(coordinator)
            .settings(settings)
            .observer(Arc::new(move |event: &Event| lock(&watching).observe(event)))
            .before_handover(move |next| {
                let databases = Arc::clone(&counting);
                async move { databases.handing_over(next).await }
            })
            .start()
            .await
            .doing(failed)?;
        Ok(Self {
            records,
            databases,
            workers,
            checkpoints,
            switch,
            probe: Arc::default(),
            was_live: AtomicBool::new(was_live),
            seen,
        })
    }

    /// What an application calls instead of its store.
    pub fn calls(&self) -> Calls<K, R> {
        Calls { records: self.records.clone(), probe: Arc::clone(&self.probe) }
    }

    /// What the queue promises about acknowledged writes.
    pub fn guarantee(&self) -> Guarantee {
        self.records.queue().guarantee()
    }

    /// The phase now.
    pub fn phase(&self) -> Phase {
        self.records.phase().phase
    }

    /// Whether there is nothing left to do.
    pub fn is_over(&self, rollback: bool) -> bool {
        match self.phase() {
            Phase::Complete => true,
            Phase::Shadow => rollback && self.was_live.load(Ordering::SeqCst),
            _ => false,
        }
    }

    /// Goes through the phases until only the last step is left, for which the service must not write.
    ///
    /// # Errors
    /// A move stays impossible for too long, or a store fails.
    pub async fn drive(&self, plan: &Plan, latencies: &Latencies) -> Result<()> {
        // What the gates ask for, this process has to see itself. A backfill that is complete ends at once.
        let (mut backfilled, mut verified) = (false, false);
        loop {
            let phase = self.enter(latencies);
            let next = match phase {
                Phase::Off => Phase::DualWrite,
                Phase::DualWrite => {
                    self.backfill(plan.outage).await?;
                    self.doing("indexes");
                    self.databases.loaded().await?;
                    backfilled = true;
                    Phase::Shadow
                }
                Phase::Shadow if self.is_over(plan.rollback) => {
                    self.stay(plan).await;
                    return Ok(());
                }
                Phase::Shadow | Phase::Ramp(_) => {
                    if !backfilled {
                        self.backfill(None).await?;
                        backfilled = true;
                    }
                    if !verified {
                        self.verify().await?;
                        verified = true;
                    }
                    next_share(phase)?.map_or(Phase::Live, Phase::Ramp)
                }
                Phase::Live if plan.rollback => Phase::Shadow,
                Phase::Live => Phase::RampDown,
                Phase::RampDown => {
                    self.stay(plan).await;
                    return Ok(());
                }
                Phase::Complete => return Ok(()),
            };
            self.stay(plan).await;
            self.advance(next).await?;
        }
    }

    /// Waits until both databases are in step, lets go of the old one, and closes the files.
    ///
    /// # Errors
    /// The queue does not drain in time, or a store fails.
    pub async fn finish(&self, plan: &Plan, latencies: &Latencies) -> Result<()> {
        self.doing("drain");
        let drained = tokio::time::timeout(PATIENCE, self.records.drained()).await;
        drained.doing(|| {
            format!("the queue is not empty after {PATIENCE:?}: {:?}", self.records.queue_stats())
        })?;
        if !self.is_over(plan.rollback) {
            self.advance(Phase::Complete).await?;
        }
        self.enter(latencies);
        lock(&self.seen).outcome.parked += self.records.queue_stats().parked;
        self.records
            .shutdown(Duration::from_secs(10))
            .await
            .doing(|| "the migration cannot be closed".into())?;
        lock(&self.seen).leave();
        self.databases.close().await;
        Ok(())
    }

    /// What happened, for the report.
    pub fn outcome(&self) -> Outcome {
        lock(&self.seen).outcome.clone()
    }

    /// Where the migration stands, for the display.
    pub fn standing(&self) -> Standing {
        let queue = self.records.queue_stats();
        let seen = lock(&self.seen);
        Standing {
            phase: match self.phase() {
                Phase::Ramp(share) => format!("Ramp {share}"),
                phase => name(phase).to_owned(),
            },
            doing: seen.doing,
            rows: seen.progress.done_rows,
            rows_total: seen.progress.estimated_rows,
            rows_per_second: seen.progress.rows_per_second,
            queue_depth: queue.pending(),
            lag: queue.oldest_age,
            outage: self.switch.is_off(),
        }
    }

    /// Copies every row, from the checkpoint on.
    async fn backfill(&self, outage: Option<Duration>) -> Result<()> {
        self.doing("backfill");
        let mut settings = PageSettings { workers: self.workers, ..PageSettings::default() };
        // Requests may be slow for reasons of their own, as on a busy laptop; the backfill shall end all the same.
        settings.pace.least_rows_per_second = LEAST_ROWS_PER_SECOND;
        let backfill = Backfill::new(&self.records).shared_checkpoints(Arc::clone(&self.checkpoints));
        let failed = || "the backfill has failed; its checkpoint stands".to_owned();
        let job = backfill.settings(settings).start().await.doing(failed)?;
        *lock(&self.probe) = Some(job.latency_probe());
        let (ended, ()) = tokio::join!(self.watch(job), self.outage(outage));
        let (report, took) = ended.doing(failed)?;
        let mut seen = lock(&self.seen);
        seen.outcome.backfilled_rows += report.written;
        seen.outcome.backfill += took;
        Ok(())
    }

    /// Compares every row of both databases.
    async fn verify(&self) -> Result<()> {
        self.doing("verify");
        let failed = || "the verification has failed".to_owned();
        let job = Verify::new(&self.records).start().await.doing(failed)?;
        let (report, _) = self.watch(job).await.doing(failed)?;
        let mut seen = lock(&self.seen);
        seen.outcome.verified_rows += report.compared;
        seen.outcome.verified_differences += report.mismatches;
        seen.outcome.verification = report.method;
        Ok(())
    }

    /// Waits for the end of a run. Tells also how long rows moved: a backfill first waits until writes that
    /// began before mirroring have settled.
    async fn watch<T: Send + 'static>(&self, job: Job<T>) -> zdm_core::Result<(T, Duration)> {
        let before = job.progress().done_rows;
        let mut moving_since = Instant::now();
        while !job.is_finished() {
            let progress = job.progress();
            if progress.done_rows == before {
                moving_since = Instant::now();
            }
            lock(&self.seen).progress = progress;
            tokio::time::sleep(LOOK_EVERY).await;
        }
        lock(&self.seen).progress = job.progress();
        Ok((job.wait().await?, moving_since.elapsed()))
    }

    /// Switches the new database off when a third of the rows is copied.
    async fn outage(&self, lasts: Option<Duration>) {
        let Some(lasts) = lasts else { return };
        loop {
            let Progress { done_rows, estimated_rows, state, .. } = lock(&self.seen).progress.clone();
            if state == RunState::Done || done_rows * 3 >= estimated_rows && done_rows > 0 {
                break;
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
        self.switch.turn_off();
        tokio::time::sleep(lasts).await;
        self.switch.turn_on();
    }

    async fn advance(&self, to: Phase) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.records.advance(to).await {
                Ok(_) => break,
                Err(_) if self.records.queue_stats().parked > 0 => return Err(self.set_aside()),
                // A gate does not pass yet, or writes would have waited too long. Nothing has changed.
                Err(error)
                    if matches!(error.kind(), Kind::Refused | Kind::Limit) && Instant::now() < deadline =>
                {
                    self.doing("waits for the gates");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
                Err(error) => return Err(error).doing(|| format!("the move to {to} is not possible")),
            }
        }
        if to == Phase::Live {
            self.was_live.store(true, Ordering::SeqCst);
        }
        Ok(())
    }

    /// Waiting does not help records that will never fit.
    fn set_aside(&self) -> Failure {
        let parked = self.records.queue().entries(EntryState::Parked, 3);
        let reasons: Vec<_> = parked.into_iter().filter_map(|entry| entry.last_error).collect();
        let count = self.records.queue_stats().parked;
        let (records, were) = if count == 1 { ("record", "was") } else { ("records", "were") };
        Failure::new(format!(
            "{count} {records} {were} set aside because the other database does not take them: {}; change them in the \
             database that is in charge, and run the program again with its --dir",
            reasons.join("; ")
        ))
    }

    async fn stay(&self, plan: &Plan) {
        self.doing("serves");
        tokio::time::sleep(if plan.rows < FEW_ROWS { SHORT_STAY } else { STAY }).await;
    }

    fn doing(&self, what: &'static str) {
        lock(&self.seen).doing = what;
    }

    fn enter(&self, latencies: &Latencies) -> Phase {
        let phase = self.phase();
        latencies.enter(name(phase));
        let mut seen = lock(&self.seen);
        seen.leave();
        seen.entered = Some((phase, Instant::now()));
        phase
    }
}

impl Seen {
    fn observe(&mut self, event: &Event) {
        if let Event::HandoverDone { pause, .. } = event {
            self.outcome.handover_pause = self.outcome.handover_pause.max(*pause);
        }
    }

    /// Adds the time since the current phase was entered.
    fn leave(&mut self) {
        if let Some((phase, entered)) = self.entered.take() {
            *self.outcome.phases.entry(name(phase).to_owned()).or_default() += entered.elapsed();
        }
    }
}

/// One call each, through zdm: what the repositories of an application are made of.
pub struct Calls<K: Key, R: Record> {
    records: DualWrite<DynStore<K, R>>,
    probe: Arc<Mutex<Option<LatencyProbe>>>,
}

impl<K: Key, R: Record> Calls<K, R> {
    /// The record of a key.
    ///
    /// # Errors
    /// As [`DualWrite::get`].
    pub async fn get(&self, key: &K) -> zdm_core::Result<Option<R>> {
        self.timed(self.records.get(key)).await
    }

    /// Adds a record or replaces the one of its key.
    ///
    /// # Errors
    /// As [`DualWrite::put`].
    pub async fn put(&self, key: &K, record: &R) -> zdm_core::Result<()> {
        self.timed(self.records.put(key, record)).await
    }

    /// Removes a record.
    ///
    /// # Errors
    /// As [`DualWrite::delete`].
    pub async fn delete(&self, key: &K) -> zdm_core::Result<()> {
        self.timed(self.records.delete(key)).await
    }

    async fn timed<T>(&self, call: impl Future<Output = zdm_core::Result<T>>) -> zdm_core::Result<T> {
        let started = Instant::now();
        let answer = call.await;
        if let Some(probe) = &*lock(&self.probe) {
            probe.observe(started.elapsed());
        }
        answer
    }
}

/// The error of a call, with its cause, as the application's own.
impl From<zdm_core::Error> for RequestError {
    fn from(error: zdm_core::Error) -> Self {
        let source = std::error::Error::source(&error).map(|source| format!(": {source}"));
        Self(format!("{error}{}", source.unwrap_or_default()))
    }
}

fn next_share(phase: Phase) -> Result<Option<Percent>> {
    let reached = match phase {
        Phase::Ramp(share) => share.hundredths(),
        _ => 0,
    };
    for percent in RAMP {
        let share = Percent::new(percent).doing(|| format!("{percent} % cannot be a share of reads"))?;
        if share.hundredths() > reached {
            return Ok(Some(share));
        }
    }
    Ok(None)
}

const fn name(phase: Phase) -> &'static str {
    match phase {
        Phase::Off => "Off",
        Phase::DualWrite => "DualWrite",
        Phase::Shadow => "Shadow",
        Phase::Ramp(_) => "Ramp",
        Phase::Live => "Live",
        Phase::RampDown => "RampDown",
        Phase::Complete => "Complete",
    }
}

fn lock<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}
