use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::clock::UnixMillis;
use crate::error::{Error, Kind, Result};

/// Where a run stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checkpoint {
    /// Version of the meaning of `position`. Chosen by the run.
    pub format: u32,
    /// Grows with every checkpoint of a job.
    pub sequence: u64,
    /// What the run is about, such as a table or a migration.
    pub subject: String,
    /// Where the run stands. Only the run can read it.
    pub position: Vec<u8>,
    /// When it was taken.
    pub updated_at: UnixMillis,
}

impl Checkpoint {
    /// Checks that a loaded checkpoint is about `subject` and not newer than this program.
    ///
    /// # Errors
    /// [`Kind::Invalid`] naming both subjects, or both formats, and what to do.
    pub fn expect(&self, job: &str, subject: &str, newest_format: u32) -> Result<()> {
        if self.subject != subject {
            let message = format!(
                "the checkpoint of the job {job:?} is about {:?}, this run is about {subject:?}; give the run \
                 another job name, or remove the checkpoint to begin anew",
                self.subject
            );
            return Err(Error::new(Kind::Invalid, message));
        }
        if self.format > newest_format {
            let message = format!(
                "the checkpoint of the job {job:?} has format {}, this program knows formats up to \
                 {newest_format}; go on with the newer program that wrote it",
                self.format
            );
            return Err(Error::new(Kind::Invalid, message));
        }
        Ok(())
    }
}

/// Keeps checkpoints by job name.
#[async_trait]
pub trait CheckpointStore: Send + Sync + 'static {
    /// The last checkpoint of a job.
    ///
    /// # Errors
    /// `Kind::Damaged` when there is one that cannot be read: never a silent start from the beginning.
    /// `Kind::Unavailable` when nobody can tell.
    async fn load(&self, job: &str) -> Result<Option<Checkpoint>>;

    /// Replaces the checkpoint of a job. Durable when it returns; on any error the earlier one stands.
    ///
    /// # Errors
    /// `Kind::Refused` when its sequence is not above the stored one, `Kind::Invalid` when its subject is
    /// another one: somebody else runs the same job. `Kind::Unavailable` when it cannot be stored.
    ///
    /// # Cancel safety
    /// When the future is dropped, the new checkpoint stands or the earlier one.
    async fn save(&self, job: &str, checkpoint: &Checkpoint) -> Result<()>;

    /// Forgets a job; one that is not there is no error.
    ///
    /// # Errors
    /// `Kind::Unavailable` when it cannot be removed.
    async fn remove(&self, job: &str) -> Result<()>;

    /// The names of all jobs, sorted.
    ///
    /// # Errors
    /// `Kind::Unavailable` when they cannot be read.
    async fn jobs(&self) -> Result<Vec<String>>;
}

/// The rule of [`CheckpointStore::save`], for every implementation.
///
/// # Errors
/// As [`CheckpointStore::save`].
pub(super) fn check_successor(job: &str, stored: Option<&Checkpoint>, next: &Checkpoint) -> Result<()> {
    let Some(stored) = stored else { return Ok(()) };
    stored.expect(job, &next.subject, u32::MAX)?;
    if next.sequence <= stored.sequence {
        let message = format!(
            "the checkpoint {} of the job {job:?} is not newer than the stored one, {}; another process may \
             run the same job",
            next.sequence, stored.sequence
        );
        return Err(Error::new(Kind::Refused, message));
    }
    Ok(())
}
