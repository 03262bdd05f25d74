use async_trait::async_trait;
use sqlx::sqlite::SqliteConnection;
use zdm_core::checkpoint::{Checkpoint, CheckpointStore};
use zdm_core::error::{Error, Kind, Result};

use super::Sqlite;
use super::classify::classify;
use super::shape::invalid;

/// Checkpoints in a table of a SQLite file.
///
/// Keep them in the file that the job writes to: then a power loss cannot take data back that the
/// checkpoint counts as done, whatever [`Synchronous`](super::Synchronous) says. In another file they
/// need `Synchronous::Full` on both.
///
/// ```
/// use zdm_core::checkpoint::{Checkpoint, CheckpointStore};
/// use zdm_sql_adapters::sqlite::{Sqlite, SqliteCheckpoints};
///
/// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
/// # let path = std::env::temp_dir().join(format!("zdm-{}-checkpoints.db", std::process::id()));
/// let checkpoints = SqliteCheckpoints::open(&Sqlite::create(&path).await?).await?;
/// let first = Checkpoint::first(1, "users", vec![7], 0);
/// checkpoints.save("backfill", &first).await?;
/// assert_eq!(checkpoints.load("backfill").await?, Some(first));
/// # std::fs::remove_file(path).unwrap();
/// # Ok::<_, zdm_core::Error>(()) }).unwrap();
/// ```
#[derive(Clone, Debug)]
pub struct SqliteCheckpoints {
    db: Sqlite,
}

impl SqliteCheckpoints {
    /// Checkpoints in a database; creates the bookkeeping tables if they are not there.
    ///
    /// # Errors
    /// As [`Sqlite::ensure_schema`].
    pub async fn open(db: &Sqlite) -> Result<Self> {
        db.ensure_schema().await?;
        Ok(Self { db: db.clone() })
    }
}

fn failed(error: sqlx::Error, job: &str) -> Error {
    classify(error, &format!("the checkpoint of the job {job:?}"))
}

async fn read(connection: &mut SqliteConnection, job: &str) -> Result<Option<Checkpoint>> {
    let row: Option<(i64, i64, String, Vec<u8>, i64)> = sqlx::query_as(
        "SELECT format, sequence, subject, position, updated_at FROM zdm_checkpoint WHERE job = ?",
    )
    .bind(job.to_owned())
    .fetch_optional(connection)
    .await
    .map_err(|error| failed(error, job))?;
    let Some((format, sequence, subject, position, updated_at)) = row else { return Ok(None) };
    let out_of_range = |_| {
        let message = format!(
            "the checkpoint of the job {job:?} has numbers that no release writes; remove it to start from the \
             beginning"
        );
        Error::new(Kind::Damaged, message)
    };
    Ok(Some(Checkpoint {
        format: u32::try_from(format).map_err(out_of_range)?,
        sequence: u64::try_from(sequence).map_err(out_of_range)?,
        subject,
        position,
        updated_at: u64::try_from(updated_at).map_err(out_of_range)?,
    }))
}

async fn write(connection: &mut SqliteConnection, job: &str, checkpoint: Checkpoint) -> Result<()> {
    checkpoint.expect_after(job, read(connection, job).await?.as_ref())?;
    let number = |name: &str, value: u64| {
        i64::try_from(value).map_err(|_| invalid(format!("the {name} {value} of a checkpoint is above 2^63")))
    };
    sqlx::query(
        "INSERT INTO zdm_checkpoint (job, format, sequence, subject, position, updated_at) VALUES (?, ?, ?, ?, ?, ?) \
         ON CONFLICT (job) DO UPDATE SET format = excluded.format, sequence = excluded.sequence, \
         subject = excluded.subject, position = excluded.position, updated_at = excluded.updated_at",
    )
    .bind(job.to_owned())
    .bind(checkpoint.format)
    .bind(number("sequence", checkpoint.sequence)?)
    .bind(checkpoint.subject)
    .bind(checkpoint.position)
    .bind(number("time", checkpoint.updated_at)?)
    .execute(connection)
    .await
    .map_err(|error| failed(error, job))?;
    Ok(())
}

#[async_trait]
impl CheckpointStore for SqliteCheckpoints {
    async fn load(&self, job: &str) -> Result<Option<Checkpoint>> {
        read(&mut *self.db.reader().await?, job).await
    }

    async fn save(&self, job: &str, checkpoint: &Checkpoint) -> Result<()> {
        let (job, checkpoint) = (job.to_owned(), checkpoint.clone());
        self.db
            .write(move |connection| Box::pin(async move { write(connection, &job, checkpoint).await }))
            .await
    }

    async fn remove(&self, job: &str) -> Result<()> {
        let job = job.to_owned();
        self.db
            .write(move |connection| {
                Box::pin(async move {
                    sqlx::query("DELETE FROM zdm_checkpoint WHERE job = ?")
                        .bind(job.clone())
                        .execute(connection)
                        .await
                        .map_err(|error| failed(error, &job))?;
                    Ok(())
                })
            })
            .await
    }

    async fn jobs(&self) -> Result<Vec<String>> {
        sqlx::query_scalar("SELECT job FROM zdm_checkpoint ORDER BY job")
            .fetch_all(&mut *self.db.reader().await?)
            .await
            .map_err(|error| classify(error, "listing the jobs with checkpoints"))
    }
}
