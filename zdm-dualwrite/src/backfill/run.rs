use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use zdm_core::checkpoint::{CheckpointStore, MemoryCheckpoints};
use zdm_core::error::{Error, Kind, Result};
use zdm_core::store::Store;

use super::load::{Counts, Load};
use crate::adapter::DualWrite;
use crate::handover::Backfilled;
use crate::pages::{
    HealthCheck, Job, PageContext, PageSettings, Place, Plan, RANGES_PER_WORKER, Runner, check_cover,
    open_journal,
};

/// Copies every record of the primary to the secondary while both are in use.
///
/// Every record is there at the end, as new as the primary has it, and what was deleted meanwhile stays
/// deleted: the front page of this module says how. The run can be paused, stopped, killed and resumed.
///
/// ```
/// use std::sync::Arc;
/// use zdm_core::{checkpoint::MemoryCheckpoints, phase::Phase, store::{MemoryStore, Store}};
/// use zdm_dualwrite::{Backfill, DualWrite};
///
/// # tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(async {
/// let (old, new) = (Arc::new(MemoryStore::new()), Arc::new(MemoryStore::new()));
/// for id in 0..1_000_u64 {
///     old.put(&id, &format!("user {id}")).await?;
/// }
/// let users = DualWrite::builder(old.clone(), new.clone()).phase(Phase::DualWrite).start().await?;
///
/// let report = Backfill::new(&users).checkpoints(MemoryCheckpoints::new()).run().await?;
/// assert!(report.complete);
/// assert_eq!(report.rows, 1_000);
/// assert_eq!(new.snapshot(), old.snapshot());
/// # Ok::<_, zdm_core::Error>(()) }).unwrap();
/// ```
pub struct Backfill<S: Store> {
    dual_write: DualWrite<S>,
    checkpoints: Option<Arc<dyn CheckpointStore>>,
    job: Option<String>,
    settings: PageSettings,
    health: Option<Arc<dyn HealthCheck>>,
    begin_anew: bool,
}

/// What a backfill has done.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct BackfillReport {
    /// Whether every record has been taken care of. False when the run was stopped before its end.
    pub complete: bool,
    /// Whether this run went on from an earlier one.
    pub resumed: bool,
    /// Rows that were read, by this run and those before it.
    pub rows: u64,
    /// Rows that this run wrote to the secondary.
    pub written: u64,
    /// Rows that were left out because a later write was there already.
    pub superseded: u64,
    /// Keys that were queued once more because they were written while their page was on its way.
    pub marked: u64,
    /// Rows that will not fit and were parked, each with its error.
    pub parked: u64,
    /// Rows that collided with another record or refer to one that was not there yet, and were queued.
    pub queued: u64,
    /// How long this run took.
    pub took: Duration,
}

impl<S: Store + Clone> Backfill<S> {
    /// A backfill of the secondary of the phase in which it is started.
    pub fn new(dual_write: &DualWrite<S>) -> Self {
        Self {
            dual_write: dual_write.clone(),
            checkpoints: None,
            job: None,
            settings: PageSettings::default(),
            health: None,
            begin_anew: false,
        }
    }

    /// Where the checkpoint is kept. A secondary without a fence needs one that survives a crash. With a
    /// fence it may be left out; then a run that is killed begins anew.
    #[must_use]
    pub fn checkpoints(self, store: impl CheckpointStore) -> Self {
        self.shared_checkpoints(Arc::new(store))
    }

    /// As [`checkpoints`](Self::checkpoints), for a store that others hold too.
    #[must_use]
    pub fn shared_checkpoints(mut self, store: Arc<dyn CheckpointStore>) -> Self {
        self.checkpoints = Some(store);
        self
    }

    /// The name of the checkpoint. Default: the name of the migration with `/backfill`.
    #[must_use]
    pub fn job(mut self, name: impl Into<String>) -> Self {
        self.job = Some(name.into());
        self
    }

    /// How pages are cut and how fast they go.
    #[must_use]
    pub fn settings(mut self, settings: PageSettings) -> Self {
        self.settings = settings;
        self
    }

    /// Whom to ask whether to go on.
    #[must_use]
    pub fn health(mut self, check: impl HealthCheck) -> Self {
        self.health = Some(Arc::new(check));
        self
    }

    /// Begins at the first key even if an earlier run got further or came to its end.
    #[must_use]
    pub fn from_the_beginning(mut self) -> Self {
        self.begin_anew = true;
        self
    }

    /// Starts the run on the current tokio runtime. One that an earlier run has completed ends at once.
    ///
    /// # Errors
    /// `Kind::Invalid` for a setting out of its bounds, a store that cannot be walked, missing
    /// checkpoints, or a checkpoint about something else; `Kind::Damaged` for one that cannot be read;
    /// `Kind::Owned` when somebody else runs the job; `Kind::Refused` in a phase without a secondary; what a store says when it is asked for its ranges.
    ///
    /// # Cancel safety
    /// When the future is dropped nothing has been started.
    pub async fn start(self) -> Result<Job<BackfillReport>> {
        let Self { dual_write, checkpoints, job, settings, health, begin_anew } = self;
        settings.validate()?;
        let context = PageContext::of(&dual_write, settings.call_timeout)?;
        let primary = context.scan_primary()?;
        if context.fence().is_none() {
            // After a crash both sides of a cut-off page are walked.
            context.scan_secondary()?;
            if checkpoints.is_none() {
                let message = "the secondary store has no fence, so a backfill needs checkpoints that survive a \
                               crash: a page that was cut off must be known afterwards";
                return Err(Error::new(Kind::Invalid, message));
            }
        }
        let parts = if settings.workers == 1 { 1 } else { settings.workers * RANGES_PER_WORKER };
        let ranges = context.in_time("asking the primary for its ranges", primary.split(parts)).await?;
        check_cover(&ranges)?;
        let estimated = context.in_time("asking the primary for its size", primary.estimated_len()).await?;
        let place = Place {
            store: checkpoints.unwrap_or_else(|| Arc::new(MemoryCheckpoints::new())),
            job: job.unwrap_or_else(|| format!("{}/backfill", context.migration())),
            subject: format!("{}: backfill", context.migration()),
            clock: Arc::clone(context.clock()),
        };
        let (journal, resumed) =
            open_journal(&place, context.direction, &ranges, |_: &Plan| begin_anew).await?;
        if !journal.read(Plan::is_done) {
            dual_write.shared.facts.set_backfilled(None);
        }
        let counts = Arc::new(Counts::default());
        let clock = Arc::clone(context.clock());
        let work = Load { context: context.clone(), counts: Arc::clone(&counts) };
        let runner = Arc::new(Runner::new("backfill", &context, settings, work, journal, estimated));
        let began = clock.now();
        Ok(Job::spawn(&runner.clone(), async move {
            let operations = &context.dual_write.shared.operations;
            // A write that began before mirroring did leaves no entry, and could change a record behind us.
            operations.mirrored_since(operations.record().epoch).await;
            let complete = Arc::clone(&runner).run(health).await?;
            let rows = runner.journal.read(Plan::rows);
            if complete {
                let backfilled = Backfilled { rows, at: clock.unix_millis() };
                context.dual_write.shared.facts.set_backfilled(Some(backfilled));
            }
            let count = |count: &std::sync::atomic::AtomicU64| count.load(Ordering::Relaxed);
            Ok(BackfillReport {
                complete,
                resumed,
                rows,
                written: count(&counts.written),
                superseded: count(&counts.superseded),
                marked: count(&counts.marked),
                parked: count(&counts.parked),
                queued: count(&counts.queued),
                took: clock.now().saturating_duration_since(began),
            })
        }))
    }

    /// Runs to the end.
    ///
    /// # Errors
    /// As [`start`](Self::start), and what ended the run before its time; the checkpoint stands.
    ///
    /// # Cancel safety
    /// The run ends when the future is dropped, as it does when a [`Job`] is.
    pub async fn run(self) -> Result<BackfillReport> {
        self.start().await?.wait().await
    }
}
