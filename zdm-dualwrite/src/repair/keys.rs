use std::sync::Arc;

use zdm_core::error::Result;
use zdm_core::queue::Touch;
use zdm_core::report::MismatchCause;
use zdm_core::store::Store;

use crate::adapter::DualWrite;
use crate::pages::{HealthCheck, PageContext, PageSettings};
use crate::verify::Differing;

/// Queues keys that differ, so that the secondary is brought into step with the primary.
///
/// Nothing is written here: each key gets an entry, and whoever reconciles it reads the primary afresh.
///
/// ```
/// use std::sync::Arc;
/// use zdm_core::{phase::Phase, store::{MemoryStore, Store}};
/// use zdm_dualwrite::{Deletions, DualWrite, Repair, Verify};
///
/// # tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(async {
/// let (old, new) = (Arc::new(MemoryStore::new()), Arc::new(MemoryStore::new()));
/// old.put(&1_u64, &"Ada".to_owned()).await?;
/// new.put(&2, &"nobody".to_owned()).await?;
/// let users = DualWrite::builder(old.clone(), new.clone()).phase(Phase::DualWrite).start().await?;
///
/// let found = Verify::new(&users).run().await?;
/// let repaired = Repair::new(&users).deletions(Deletions::AtMost(10)).keys(&found.differing).await?;
/// assert_eq!((repaired.queued, repaired.deletions), (1, 1));
/// users.drained().await;
/// assert_eq!(new.snapshot(), old.snapshot());
/// # Ok::<_, zdm_core::Error>(()) }).unwrap();
/// ```
pub struct Repair<S: Store> {
    pub(super) dual_write: DualWrite<S>,
    deletions: Deletions,
    pub(super) settings: PageSettings,
    pub(super) health: Option<Arc<dyn HealthCheck>>,
}

/// Whether a repair may remove records that only the secondary has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Deletions {
    /// It may not. They are counted and left.
    #[default]
    Refuse,
    /// It may, if there are no more than so many. If there are more, none is removed: rather than so many
    /// records being wrong, the comparison may be.
    AtMost(u64),
}

/// What a repair has queued.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct RepairReport {
    /// Keys whose record will be written again.
    pub queued: u64,
    /// Keys whose record will be removed, unless the primary has one by then.
    pub deletions: u64,
    /// Records that only the secondary has and that are left, because the policy does not cover them.
    pub deletions_refused: u64,
    /// Keys that queueing does not help: parked ones are unparked once their records fit, and rows that
    /// cannot be mapped have to be mended first.
    pub left: u64,
}

impl<S: Store + Clone> Repair<S> {
    /// A repair of the secondary. Without further settings it removes nothing.
    pub fn new(dual_write: &DualWrite<S>) -> Self {
        let (deletions, settings) = (Deletions::default(), PageSettings::default());
        Self { dual_write: dual_write.clone(), deletions, settings, health: None }
    }

    /// Whether [`keys`](Self::keys) may remove records that only the secondary has.
    #[must_use]
    pub fn deletions(mut self, deletions: Deletions) -> Self {
        self.deletions = deletions;
        self
    }

    /// How [`taints`](Self::taints) cuts its pages and how fast it goes.
    #[must_use]
    pub fn settings(mut self, settings: PageSettings) -> Self {
        self.settings = settings;
        self
    }

    /// Whom [`taints`](Self::taints) asks whether to go on.
    #[must_use]
    pub fn health(mut self, check: impl HealthCheck) -> Self {
        self.health = Some(Arc::new(check));
        self
    }

    /// Queues the keys that a verification has found. When it returns, their entries are durable;
    /// [`DualWrite::drained`] tells when the secondary is in step.
    ///
    /// # Errors
    /// `Kind::Refused` in a phase without a secondary; `Kind::Unavailable` when the queue cannot store
    /// entries. Those that it has stored stand.
    ///
    /// # Cancel safety
    /// The future may be dropped; some keys are queued then and others not.
    pub async fn keys(self, differing: &[Differing<S::Key>]) -> Result<RepairReport> {
        let context = PageContext::of(&self.dual_write, self.settings.call_timeout)?;
        let extra =
            differing.iter().filter(|found| found.mismatch.cause == MismatchCause::Extra).count() as u64;
        let may_delete = matches!(self.deletions, Deletions::AtMost(most) if extra <= most);
        let mut report = RepairReport::default();
        for Differing { key, mismatch } in differing {
            match mismatch.cause {
                MismatchCause::Missing | MismatchCause::Unexplained => {
                    context.mark(Touch::upsert(key).encode()).await?;
                    report.queued += 1;
                }
                MismatchCause::Extra if may_delete => {
                    context.mark(Touch::delete(key).encode()).await?;
                    report.deletions += 1;
                }
                MismatchCause::Extra => report.deletions_refused += 1,
                _ => report.left += 1,
            }
        }
        Ok(report)
    }
}
