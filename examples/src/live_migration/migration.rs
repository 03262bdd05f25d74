//! Everything that touches zdm: the two stores, the wrapper around them, and the way through the phases.
//!
//! The way is a loop over the recorded phase, so a run that was killed anywhere is continued by the same code.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use zdm_core::checkpoint::{CheckpointStore, FileCheckpoints};
use zdm_core::error::Kind;
use zdm_core::phase::{Coordinator, FileCoordinator, Percent, Phase};
use zdm_core::report::{Event, Progress, RunState};
use zdm_core::store::{DynStore, Store, StoreExt};
use zdm_dualwrite::{Backfill, DiskQueue, DualWrite, Job, LatencyProbe, PageSettings, Settings, Verify};
use zdm_sql_adapters::sqlite::{Sqlite, SqliteOptions, SqliteTable, Synchronous};
use zdm_sql_adapters::table::TableMapping;

use super::display::Standing;
use super::files::Files;
use super::flight::Flight;
use super::latency::Latencies;
use super::new_schema::{self, Departures};
use super::old_schema::OldFlights;
use super::outage::{Switch, Switched};
use super::report::Outcome;
use super::service::{FlightService, RequestError};
use super::{Doing, Result};

const NAME: &str = "flights";
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
    /// How many flights there are.
    pub rows: u64,
}

/// A migration under way.
pub struct Migration {
    flights: DualWrite<DynStore<i64, Flight>>,
    old: Sqlite,
    new: Sqlite,
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

impl Migration {
    /// Opens both databases and takes up the migration where the last run left it.
    ///
    /// # Errors
    /// A file cannot be opened, or belongs to something else.
    pub async fn open(files: &Files, switch: Switch) -> Result<Self> {
        let failed = || format!("the migration in {} cannot be opened", files.dir().display());
        let old =
            SqliteOptions::new(files.old()).synchronous(Synchronous::Normal).open().await.doing(failed)?;
        let new = SqliteOptions::new(files.new_database()).create(true).synchronous(Synchronous::Normal);
        let new = new.open().await.doing(failed)?;
        new.execute(new_schema::CREATE).await.doing(failed)?;

        std::fs::create_dir_all(files.zdm("")).doing(failed)?;
        let queue = DiskQueue::open(files.zdm("queue"), NAME).doing(failed)?;
        let coordinator = Arc::new(FileCoordinator::open(files.zdm("phase"), NAME).await.doing(failed)?);
        let was_live = coordinator.history().await.doing(failed)?.iter().any(|past| past.to == Phase::Live);
        let checkpoints = Arc::new(FileCheckpoints::open(files.zdm("checkpoints")).await.doing(failed)?);

        let old_side = fenced_table::<OldFlights>(&old).await.doing(failed)?;
        let new_side = fenced_table::<Departures>(&new).await.doing(failed)?;
        let new_side = Switched::new(new_side, switch.clone());
        let seen = Arc::new(Mutex::new(Seen::default()));
        let mut settings = Settings::default();
        settings.name = NAME.to_owned();
        let watching = Arc::clone(&seen);
        let flights = DualWrite::builder(old_side.into_dyn(), new_side.into_dyn())
            .queue(queue)
            .coordinator(coordinator)
            .settings(settings)
            .observer(Arc::new(move |event: &Event| lock(&watching).observe(event)))
            .start()
            .await
            .doing(failed)?;
        Ok(Self {
            flights,
            old,
            new,
            checkpoints,
            switch,
            probe: Arc::default(),
            was_live: AtomicBool::new(was_live),
            seen,
        })
    }

    /// The application over both databases.
    pub fn service(&self) -> Arc<dyn FlightService> {
        Arc::new(Application { flights: self.flights.clone(), probe: Arc::clone(&self.probe) })
    }

    /// The phase now.
    pub fn phase(&self) -> Phase {
        self.flights.phase().phase
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
        let drained = tokio::time::timeout(PATIENCE, self.flights.drained()).await;
        drained.doing(|| {
            format!("the queue is not empty after {PATIENCE:?}: {:?}", self.flights.queue_stats())
        })?;
        if !self.is_over(plan.rollback) {
            self.advance(Phase::Complete).await?;
        }
        self.enter(latencies);
        lock(&self.seen).outcome.parked += self.flights.queue_stats().parked;
        self.flights
            .shutdown(Duration::from_secs(10))
            .await
            .doing(|| "the migration cannot be closed".into())?;
        lock(&self.seen).leave();
        self.old.close().await;
        self.new.close().await;
        Ok(())
    }

    /// What happened, for the report.
    pub fn outcome(&self) -> Outcome {
        lock(&self.seen).outcome.clone()
    }

    /// Where the migration stands, for the display.
    pub fn standing(&self) -> Standing {
        let queue = self.flights.queue_stats();
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
        // SQLite lets one writer in at a time, so one worker writes all the time.
        let mut settings = PageSettings { workers: 1, ..PageSettings::default() };
        // Requests may be slow for reasons of their own, as on a busy laptop; the backfill shall end all the same.
        settings.pace.least_rows_per_second = LEAST_ROWS_PER_SECOND;
        let backfill = Backfill::new(&self.flights).shared_checkpoints(Arc::clone(&self.checkpoints));
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
        let job = Verify::new(&self.flights).start().await.doing(failed)?;
        let (report, _) = self.watch(job).await.doing(failed)?;
        let mut seen = lock(&self.seen);
        seen.outcome.verified_rows += report.compared;
        seen.outcome.verified_differences += report.mismatches;
        Ok(())
    }

    /// Waits for the end of a run. Tells also how long rows moved: a backfill first waits until writes that
    /// began before mirroring have settled.
    async fn watch<R: Send + 'static>(&self, job: Job<R>) -> zdm_core::Result<(R, Duration)> {
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
            match self.flights.advance(to).await {
                Ok(_) => break,
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

/// What the checks and balances of an application would wrap: one call each, through zdm.
struct Application {
    flights: DualWrite<DynStore<i64, Flight>>,
    probe: Arc<Mutex<Option<LatencyProbe>>>,
}

impl Application {
    async fn answer<T>(&self, call: impl Future<Output = zdm_core::Result<T>>) -> Result<T, RequestError> {
        let started = Instant::now();
        let answer = call.await;
        if let Some(probe) = &*lock(&self.probe) {
            probe.observe(started.elapsed());
        }
        answer.map_err(|error| {
            let source = std::error::Error::source(&error).map(|source| format!(": {source}"));
            RequestError(format!("{error}{}", source.unwrap_or_default()))
        })
    }
}

#[async_trait]
impl FlightService for Application {
    async fn find(&self, id: i64) -> Result<Option<Flight>, RequestError> {
        self.answer(self.flights.get(&id)).await
    }

    async fn save(&self, flight: &Flight) -> Result<(), RequestError> {
        self.answer(self.flights.put(&flight.id, flight)).await
    }

    async fn remove(&self, id: i64) -> Result<(), RequestError> {
        self.answer(self.flights.delete(&id)).await
    }
}

/// A table with the fence beside it.
async fn fenced_table<M: TableMapping>(database: &Sqlite) -> zdm_core::Result<SqliteTable<M>> {
    SqliteTable::<M>::open(database).await?.with_fence().await
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
