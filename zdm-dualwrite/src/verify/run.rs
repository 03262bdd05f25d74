use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use zdm_core::checkpoint::{CheckpointStore, MemoryCheckpoints};
use zdm_core::error::{Error, Kind, Result};
use zdm_core::key::{Key, KeyRange};
use zdm_core::report::MismatchCause;
use zdm_core::rollout::bucket;
use zdm_core::store::Store;

use super::findings::{Differing, Findings};
use super::second_look::SecondLook;
use super::walk::{Then, Walk};
use crate::adapter::DualWrite;
use crate::handover::{TouchedSince, Verified};
use crate::pages::{
    HealthCheck, Job, PageContext, PageSettings, Place, Plan, RANGES_PER_WORKER, Runner, check_cover,
    open_journal,
};

/// Ranges that a sample is taken from.
const SAMPLED_FROM: usize = 256;

const BY_RECORD: &str = "both sides read in key order, records compared field by field, differences confirmed \
                      by a second look while nothing was pending";

/// How ranges are summed up, if they are.
fn by_sums<S: Store>(context: &PageContext<S>) -> Option<String> {
    let [ours, _] = context.digests()?;
    Some(format!(
        "ranges summed up on both sides ({}), those that differ read and compared field by field, differences \
         confirmed by a second look while nothing was pending; not seen: records that differ and have equal sums, \
         which is one case in 2^64, and columns that the sums leave out",
        ours.digest_of()
    ))
}

/// Compares the two stores while both are in use.
///
/// Both sides are walked in key order. A key that seems to differ is looked at again once nothing is
/// pending for it, so writes in flight are never reported. Missing, extra and differing records are told
/// apart, with the fields that differ.
///
/// Where both stores can sum up a range in the same way ([`Digest`](zdm_core::store::Digest)), records are
/// read only where the sums differ. The report says which way was used.
///
/// ```
/// use std::sync::Arc;
/// use zdm_core::{phase::Phase, report::MismatchCause, store::{MemoryStore, Store}};
/// use zdm_dualwrite::{DualWrite, Verify};
///
/// # tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(async {
/// let (old, new) = (Arc::new(MemoryStore::new()), Arc::new(MemoryStore::new()));
/// old.put(&7_u64, &"Ada".to_owned()).await?;
/// new.put(&7, &"Eve".to_owned()).await?;
/// let users = DualWrite::builder(old, new).phase(Phase::DualWrite).start().await?;
///
/// let report = Verify::new(&users).run().await?;
/// assert_eq!((report.compared, report.mismatches), (1, 1));
/// assert_eq!(report.differing[0].key, 7);
/// assert_eq!(report.differing[0].mismatch.cause, MismatchCause::Unexplained);
/// # Ok::<_, zdm_core::Error>(()) }).unwrap();
/// ```
pub struct Verify<S: Store> {
    dual_write: DualWrite<S>,
    checkpoints: Option<Arc<dyn CheckpointStore>>,
    job: Option<String>,
    settings: PageSettings,
    health: Option<Arc<dyn HealthCheck>>,
    patience: Duration,
    keep: usize,
    share: f64,
}

/// What a verification has found.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct VerifyReport<K> {
    /// Whether everything that was to be compared has been. False when the run was stopped before its end.
    pub complete: bool,
    /// Whether this run went on from an earlier one, whose differences are counted but not listed.
    pub resumed: bool,
    /// Rows that were compared, by this run and those before it: of each page, those of the longer side.
    pub compared: u64,
    /// The part of the key space that was compared, when only a sample was taken.
    pub sampled: Option<Sampled>,
    /// Differences that a second look at the clean key confirmed, and parked keys that differ.
    pub mismatches: u64,
    /// The differences of this run by cause.
    pub by_cause: Vec<(MismatchCause, u64)>,
    /// The first of them, with their keys.
    pub differing: Vec<Differing<K>>,
    /// Keys that seemed to differ and were pending all the time that they were looked at. The queue brings
    /// them into step; they are not counted as differences.
    pub in_flight: u64,
    /// How it was compared, and what that cannot see.
    pub method: String,
    /// How long this run took.
    pub took: Duration,
}

/// The part of the key space that a sample covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Sampled {
    /// Ranges that were compared.
    pub ranges: usize,
    /// Ranges that there are.
    pub of: usize,
}

impl<S: Store + Clone> Verify<S> {
    /// Differences that are listed unless [`keep`](Self::keep) says otherwise.
    pub const DEFAULT_KEEP: usize = 10_000;
    /// How long a key may take to become clean unless [`patience`](Self::patience) says otherwise.
    pub const DEFAULT_PATIENCE: Duration = Duration::from_secs(5);

    /// A verification of the two stores in the phase in which it is started.
    pub fn new(dual_write: &DualWrite<S>) -> Self {
        Self {
            dual_write: dual_write.clone(),
            checkpoints: None,
            job: None,
            settings: PageSettings::default(),
            health: None,
            patience: Self::DEFAULT_PATIENCE,
            keep: Self::DEFAULT_KEEP,
            share: 1.0,
        }
    }

    /// Where the checkpoint is kept, so that a run that was stopped or killed is gone on from. Without it
    /// a run begins anew. A run that goes on from an earlier one opens no gate: nobody knows which keys
    /// were written since the earlier one compared them.
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

    /// The name of the checkpoint. Default: the name of the migration with `/verify`.
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

    /// How long a key that seems to differ may take to become clean. After that it counts as in flight.
    #[must_use]
    pub fn patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// How many differences are listed. All are counted and told to the observers.
    #[must_use]
    pub fn keep(mut self, differences: usize) -> Self {
        self.keep = differences;
        self
    }

    /// Compares only a share of the key space, above 0 and at most 1, in ranges spread over all of it. A
    /// sample opens no gate.
    #[must_use]
    pub fn sample(mut self, share: f64) -> Self {
        self.share = share;
        self
    }

    /// Starts the run on the current tokio runtime.
    ///
    /// # Errors
    /// `Kind::Invalid` for a setting out of its bounds, a store that cannot be walked, or a checkpoint
    /// about something else; `Kind::Damaged` for one that cannot be read; `Kind::Owned` when somebody else
    /// runs the job; `Kind::Refused` in a phase without a secondary; what a store says when it is asked
    /// for its ranges.
    ///
    /// # Cancel safety
    /// When the future is dropped nothing has been started.
    pub async fn start(self) -> Result<Job<VerifyReport<S::Key>>> {
        let Self { dual_write, checkpoints, job, settings, health, patience, keep, share } = self;
        settings.validate()?;
        if !(share > 0.0 && share <= 1.0) {
            let message = format!("the sample is {share}; it must be above 0 and at most 1");
            return Err(Error::new(Kind::Invalid, message));
        }
        let context = PageContext::of(&dual_write, settings.call_timeout)?;
        let primary = context.scan_primary()?;
        context.scan_secondary()?;
        let sampling = share < 1.0;
        let parts = match settings.workers {
            _ if sampling => SAMPLED_FROM,
            1 => 1,
            workers => workers * RANGES_PER_WORKER,
        };
        let ranges = context.in_time("asking the primary for its ranges", primary.split(parts)).await?;
        check_cover(&ranges)?;
        let of = ranges.len();
        let ranges = if sampling { choose(ranges, share) } else { ranges };
        let sampled = sampling.then_some(Sampled { ranges: ranges.len(), of });
        let whole = context.in_time("asking the primary for its size", primary.estimated_len()).await?;
        let estimated = whole * ranges.len() as u64 / of as u64;
        let clock = Arc::clone(context.clock());
        let place = Place {
            store: checkpoints.unwrap_or_else(|| Arc::new(MemoryCheckpoints::new())),
            job: job.unwrap_or_else(|| format!("{}/verify", context.migration())),
            subject: format!("{}: verify{}", context.migration(), if sampling { " a sample" } else { "" }),
            clock: Arc::clone(&clock),
        };
        // From before the first record is read.
        let touched = TouchedSince::begin(context.queue());
        context.queue().catch_up().await?;
        touched.keep_small(&dual_write.shared.tasks, &dual_write.shared.stop);
        let (journal, resumed) = open_journal(&place, context.direction, &ranges, Plan::is_done).await?;
        let findings = Findings::new(keep);
        let second_look = SecondLook { patience, findings: Arc::clone(&findings) };
        let work = Walk::new(context.clone(), Then::Report(second_look));
        let runner = Arc::new(Runner::new("verify", &context, settings, work, journal, estimated));
        let began = clock.now();
        let method = by_sums(&context).unwrap_or_else(|| BY_RECORD.to_owned());
        Ok(Job::spawn(&runner.clone(), async move {
            let complete = Arc::clone(&runner).run(health).await?;
            let (compared, mismatches) = runner.journal.read(|plan| (plan.rows(), plan.found()));
            if complete && !resumed && !sampling {
                let (direction, at) = (context.direction, clock.unix_millis());
                let verified = Verified { direction, compared, mismatches, at, touched };
                context.dual_write.shared.facts.set_verified(Some(verified));
            }
            let took = clock.now().saturating_duration_since(began);
            let report =
                VerifyReport { complete, resumed, compared, sampled, mismatches, method, ..empty(took) };
            Ok(with(report, &findings))
        }))
    }

    /// Runs to the end.
    ///
    /// # Errors
    /// As [`start`](Self::start), and what ended the run before its time; the checkpoint stands.
    ///
    /// # Cancel safety
    /// The run ends when the future is dropped, as it does when a [`Job`] is.
    pub async fn run(self) -> Result<VerifyReport<S::Key>> {
        self.start().await?.wait().await
    }

    /// Compares these keys only, such as those that were repaired.
    ///
    /// # Errors
    /// `Kind::Refused` in a phase without a secondary; what a store says when it is asked for a record.
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped.
    pub async fn keys(self, keys: impl IntoIterator<Item = S::Key>) -> Result<VerifyReport<S::Key>> {
        let context = PageContext::of(&self.dual_write, self.settings.call_timeout)?;
        let began = context.clock().now();
        let mut keys: Vec<S::Key> = keys.into_iter().collect();
        keys.sort_unstable();
        keys.dedup();
        let (compared, mut mismatches) = (keys.len() as u64, 0);
        let findings = Findings::new(self.keep);
        let second_look = SecondLook { patience: self.patience, findings: Arc::clone(&findings) };
        second_look.at(&context, &mut keys, &mut mismatches).await?;
        let took = context.clock().now().saturating_duration_since(began);
        Ok(with(VerifyReport { complete: true, compared, mismatches, ..empty(took) }, &findings))
    }
}

fn empty<K>(took: Duration) -> VerifyReport<K> {
    VerifyReport {
        complete: false,
        resumed: false,
        compared: 0,
        sampled: None,
        mismatches: 0,
        by_cause: Vec::new(),
        differing: Vec::new(),
        in_flight: 0,
        method: BY_RECORD.to_owned(),
        took,
    }
}

fn with<K: Clone>(report: VerifyReport<K>, findings: &Findings<K>) -> VerifyReport<K> {
    let found = findings.so_far();
    let (by_cause, differing, in_flight) = (found.by_cause, found.differing, found.in_flight);
    VerifyReport { by_cause, differing, in_flight, ..report }
}

/// A share of the ranges, at least one, the same ones each time.
fn choose<K: Key>(ranges: Vec<KeyRange<K>>, share: f64) -> Vec<KeyRange<K>> {
    let wanted = ((ranges.len() as f64 * share).ceil() as usize).max(1);
    let mut order: Vec<(u32, usize)> =
        (0..ranges.len()).map(|at| (bucket("sample", &at.to_be_bytes(), u32::MAX), at)).collect();
    order.sort_unstable();
    let mut chosen: Vec<usize> = order.into_iter().take(wanted).map(|(_, at)| at).collect();
    chosen.sort_unstable();
    chosen.into_iter().filter_map(|at| ranges.get(at).cloned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sample_is_spread_and_has_its_share() {
        let ranges: Vec<KeyRange<u64>> = (0..256).map(|at| KeyRange::between(at, at + 1)).collect();
        let chosen = choose(ranges.clone(), 0.1);
        assert_eq!(chosen.len(), 26);
        assert!(chosen.is_sorted_by_key(|range| range.after));
        for quarter in chosen.chunk_by(|a, b| a.after.unwrap() / 64 == b.after.unwrap() / 64) {
            assert!((2..=14).contains(&quarter.len()), "{chosen:?}");
        }
        assert_eq!(choose(ranges.clone(), 1e-9).len(), 1);
        assert_eq!(choose(ranges.clone(), 1.0), ranges);
    }
}
