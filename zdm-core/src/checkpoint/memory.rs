use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;

use super::{Checkpoint, CheckpointStore};
use crate::error::Result;

/// Checkpoints in memory, for tests and for jobs that may start over.
///
/// ```
/// use zdm_core::checkpoint::{Checkpoint, CheckpointStore, MemoryCheckpoints};
/// use zdm_core::error::Kind;
///
/// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
/// let checkpoints = MemoryCheckpoints::new();
/// let first = Checkpoint::first(1, "users", vec![7], 0);
/// checkpoints.save("backfill", &first).await?;
/// assert_eq!(checkpoints.load("backfill").await?, Some(first.clone()));
///
/// let again = checkpoints.save("backfill", &first).await.unwrap_err();
/// assert_eq!(again.kind(), Kind::Refused);
/// # Ok::<_, zdm_core::error::Error>(()) }).unwrap();
/// ```
#[derive(Debug, Default)]
pub struct MemoryCheckpoints {
    jobs: Mutex<BTreeMap<String, Checkpoint>>,
}

impl MemoryCheckpoints {
    /// No checkpoint.
    pub fn new() -> Self {
        Self::default()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Checkpoint>> {
        // Each change is one call on the map, so a panic elsewhere leaves it sound.
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl CheckpointStore for MemoryCheckpoints {
    async fn load(&self, job: &str) -> Result<Option<Checkpoint>> {
        Ok(self.lock().get(job).cloned())
    }

    async fn save(&self, job: &str, checkpoint: &Checkpoint) -> Result<()> {
        let mut jobs = self.lock();
        checkpoint.expect_after(job, jobs.get(job))?;
        jobs.insert(job.to_owned(), checkpoint.clone());
        Ok(())
    }

    async fn remove(&self, job: &str) -> Result<()> {
        self.lock().remove(job);
        Ok(())
    }

    async fn jobs(&self) -> Result<Vec<String>> {
        Ok(self.lock().keys().cloned().collect())
    }
}
