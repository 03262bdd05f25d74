use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use async_trait::async_trait;

use super::contract::check_successor;
use super::{Checkpoint, CheckpointStore};
use crate::error::Result;

/// Checkpoints that are forgotten with the process.
#[derive(Debug, Default)]
pub struct MemoryCheckpoints {
    jobs: Mutex<BTreeMap<String, Checkpoint>>,
}

impl MemoryCheckpoints {
    /// None yet.
    pub fn new() -> Self {
        Self::default()
    }
}

#[async_trait]
impl CheckpointStore for MemoryCheckpoints {
    async fn load(&self, job: &str) -> Result<Option<Checkpoint>> {
        Ok(self.jobs.lock().unwrap_or_else(PoisonError::into_inner).get(job).cloned())
    }

    async fn save(&self, job: &str, checkpoint: &Checkpoint) -> Result<()> {
        let mut jobs = self.jobs.lock().unwrap_or_else(PoisonError::into_inner);
        check_successor(job, jobs.get(job), checkpoint)?;
        jobs.insert(job.to_owned(), checkpoint.clone());
        Ok(())
    }

    async fn remove(&self, job: &str) -> Result<()> {
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner).remove(job);
        Ok(())
    }

    async fn jobs(&self) -> Result<Vec<String>> {
        Ok(self.jobs.lock().unwrap_or_else(PoisonError::into_inner).keys().cloned().collect())
    }
}
