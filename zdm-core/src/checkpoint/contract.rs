use std::sync::Arc;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::clock::UnixMillis;
use crate::error::{Error, Kind, Result};

/// How far one job has come.
///
/// ```
/// use zdm_core::checkpoint::Checkpoint;
///
/// let first = Checkpoint::first(1, "public.users", vec![0, 7], 1_700_000_000_000);
/// let second = first.next(vec![0, 9], 1_700_000_001_000);
/// assert_eq!(second.sequence, first.sequence + 1);
///
/// second.expect("backfill", "public.users", 1)?;
/// let error = second.expect("backfill", "public.orders", 1).unwrap_err();
/// assert!(error.to_string().contains("public.users") && error.to_string().contains("public.orders"));
/// # Ok::<_, zdm_core::error::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checkpoint {
    /// The format of `position`, numbered by the job that writes it.
    pub format: u32,
    /// Grows with every save of the job.
    pub sequence: u64,
    /// The table or migration that the position belongs to.
    pub subject: String,
    /// Everything up to here is done. Opaque to the store.
    #[serde(with = "hex")]
    pub position: Vec<u8>,
    /// When it was made.
    pub updated_at: UnixMillis,
}

impl Checkpoint {
    /// The first checkpoint of a job, with the sequence 1.
    pub fn first(format: u32, subject: impl Into<String>, position: Vec<u8>, updated_at: UnixMillis) -> Self {
        Self { format, sequence: 1, subject: subject.into(), position, updated_at }
    }

    /// The checkpoint after this one.
    #[must_use]
    pub fn next(&self, position: Vec<u8>, updated_at: UnixMillis) -> Self {
        Self { sequence: self.sequence + 1, position, updated_at, ..self.clone() }
    }

    /// Makes sure that a job may go on from here: the position belongs to `subject` and is in a format
    /// that the job knows.
    ///
    /// # Errors
    /// [`Kind::Invalid`], naming what was found and what was expected.
    pub fn expect(&self, job: &str, subject: &str, newest_known_format: u32) -> Result<()> {
        if self.subject != subject {
            let message = format!(
                "the checkpoint of the job {job:?} is about {:?}, not about {subject:?}: give this job another \
                 name, or remove the checkpoint to start from the beginning",
                self.subject
            );
            return Err(Error::new(Kind::Invalid, message));
        }
        if self.format > newest_known_format {
            let message = format!(
                "the checkpoint of the job {job:?} has the format {}, and this release knows formats up to \
                 {newest_known_format}: run the release that wrote it, or a newer one",
                self.format
            );
            return Err(Error::new(Kind::Invalid, message));
        }
        Ok(())
    }

    /// Makes sure that this checkpoint may replace the stored one. Every [`CheckpointStore`] saves by
    /// this rule.
    ///
    /// # Errors
    /// [`Kind::Invalid`] when the stored one belongs to another subject; [`Kind::Refused`] when this one
    /// does not move forward.
    pub fn expect_after(&self, job: &str, stored: Option<&Self>) -> Result<()> {
        let Some(stored) = stored else { return Ok(()) };
        if self.subject != stored.subject {
            let message = format!(
                "the job {job:?} has a checkpoint of {:?}, and one of {:?} was to replace it: give each its own \
                 job name",
                stored.subject, self.subject
            );
            return Err(Error::new(Kind::Invalid, message));
        }
        if self.sequence <= stored.sequence {
            let message = format!(
                "the checkpoint {} of the job {job:?} does not move forward: {} is stored. Is the job running \
                 twice?",
                self.sequence, stored.sequence
            );
            return Err(Error::new(Kind::Refused, message));
        }
        Ok(())
    }
}

/// Keeps one checkpoint per job.
///
/// Calls for different jobs may run at the same time. Of two saves for one job that race, the one with
/// the greater sequence stands.
#[async_trait]
pub trait CheckpointStore: Send + Sync + 'static {
    /// The checkpoint of a job. `None` only if none was ever saved, or it was removed.
    ///
    /// # Errors
    /// `Kind::Damaged` when it cannot be read whole, with what to do; never `None` in that case.
    /// `Kind::Unavailable` when the storage fails.
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped.
    async fn load(&self, job: &str) -> Result<Option<Checkpoint>>;

    /// Replaces the checkpoint of a job, whole or not at all. Durable when it returns.
    ///
    /// # Errors
    /// `Kind::Refused` when its sequence is not greater than the stored one; `Kind::Invalid` when the
    /// stored one belongs to another subject; `Kind::Damaged` when the stored one cannot be read;
    /// `Kind::Unavailable` when the storage fails or is full. The stored one stays in each case, unless
    /// the error's certainty is unknown.
    ///
    /// # Cancel safety
    /// When the future is dropped, the old checkpoint or the new one stands.
    async fn save(&self, job: &str, checkpoint: &Checkpoint) -> Result<()>;

    /// Forgets the checkpoint of a job, a damaged one too; one that is not there is no error.
    ///
    /// # Errors
    /// `Kind::Unavailable` when the storage fails.
    ///
    /// # Cancel safety
    /// When the future is dropped, the checkpoint may be there or not.
    async fn remove(&self, job: &str) -> Result<()>;

    /// The names of the jobs that have a checkpoint, sorted.
    ///
    /// # Errors
    /// `Kind::Unavailable` when the storage fails.
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped.
    async fn jobs(&self) -> Result<Vec<String>>;
}

#[async_trait]
impl<S: CheckpointStore + ?Sized> CheckpointStore for Arc<S> {
    async fn load(&self, job: &str) -> Result<Option<Checkpoint>> {
        (**self).load(job).await
    }

    async fn save(&self, job: &str, checkpoint: &Checkpoint) -> Result<()> {
        (**self).save(job, checkpoint).await
    }

    async fn remove(&self, job: &str) -> Result<()> {
        (**self).remove(job).await
    }

    async fn jobs(&self) -> Result<Vec<String>> {
        (**self).jobs().await
    }
}

/// Bytes as hexadecimal text, so that a checkpoint can be read by people.
mod hex {
    use std::fmt::Write;

    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        let mut text = String::with_capacity(bytes.len() * 2);
        for byte in bytes {
            // Writing to a string cannot fail.
            let _ = write!(text, "{byte:02x}");
        }
        serializer.serialize_str(&text)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
        let text = String::deserialize(deserializer)?;
        let wrong = || D::Error::custom("a position is an even number of hexadecimal digits");
        let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
        let (pairs, rest) = text.as_bytes().as_chunks::<2>();
        if !rest.is_empty() {
            return Err(wrong());
        }
        pairs
            .iter()
            .map(|[high, low]| Some(digit(*high)? << 4 | digit(*low)?))
            .collect::<Option<_>>()
            .ok_or_else(wrong)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn json_brings_the_checkpoint_back(
            (format, sequence, subject, position, updated_at) in any::<(u32, u64, String, Vec<u8>, u64)>(),
        ) {
            let checkpoint = Checkpoint { format, sequence, subject, position, updated_at };
            let text = serde_json::to_string(&checkpoint).unwrap();
            prop_assert_eq!(serde_json::from_str::<Checkpoint>(&text).unwrap(), checkpoint);
        }
    }

    #[test]
    fn a_newer_format_is_named() {
        let error = Checkpoint::first(3, "users", vec![], 0).expect("job", "users", 2).unwrap_err();
        assert_eq!(error.kind(), Kind::Invalid);
        assert!(error.to_string().contains("format 3") && error.to_string().contains("up to 2"), "{error}");
    }

    #[test]
    fn half_a_digit_is_no_position() {
        let text = r#"{"format":1,"sequence":1,"subject":"a","position":"abc","updated_at":0}"#;
        assert!(serde_json::from_str::<Checkpoint>(text).is_err());
        assert!(serde_json::from_str::<Checkpoint>(&text.replace("abc", "zz")).is_err());
    }
}
