use async_trait::async_trait;
use sqlx::AssertSqlSafe;
use sqlx::mysql::MySqlConnection;
use zdm_core::checkpoint::{Checkpoint, CheckpointStore};
use zdm_core::error::{Error, Kind, Result};

use super::MySql;
use super::classify::classify;

/// Checkpoints in a table of a MySQL or MariaDB database.
///
/// ```no_run
/// # async fn example() -> zdm_core::Result<()> {
/// use zdm_core::checkpoint::{Checkpoint, CheckpointStore};
/// use zdm_sql_adapters::mysql::{MySql, MySqlCheckpoints};
///
/// let db = MySql::connect("mysql://app:secret@db.internal/shop").await?;
/// let checkpoints = MySqlCheckpoints::open(&db).await?;
/// checkpoints.save("backfill", &Checkpoint::first(1, "users", vec![7], 0)).await?;
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
pub struct MySqlCheckpoints {
    db: MySql,
}

impl MySqlCheckpoints {
    /// Checkpoints in a database; creates the bookkeeping tables if they are not there.
    ///
    /// # Errors
    /// As [`MySql::ensure_schema`].
    pub async fn open(db: &MySql) -> Result<Self> {
        db.ensure_schema().await?;
        Ok(Self { db: db.clone() })
    }
}

fn failed(error: sqlx::Error, job: &str) -> Error {
    classify(error, &format!("the checkpoint of the job {job:?}"))
}

async fn read(connection: &mut MySqlConnection, job: &str, lock: &str) -> Result<Option<Checkpoint>> {
    let row: Option<(i64, i64, String, Vec<u8>, i64)> = sqlx::query_as(AssertSqlSafe(format!(
        "SELECT format, sequence, subject, position, updated_at FROM zdm_checkpoint WHERE job = ?{lock}"
    )))
    .bind(job.as_bytes().to_vec())
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

async fn write(connection: &mut MySqlConnection, job: &str, checkpoint: Checkpoint) -> Result<()> {
    let stored = read(connection, job, " FOR UPDATE").await?;
    checkpoint.expect_after(job, stored.as_ref())?;
    let number = |name: &str, value: u64| {
        i64::try_from(value).map_err(|_| {
            Error::new(Kind::Invalid, format!("the {name} {value} of a checkpoint is above 2^63"))
        })
    };
    // A row that is not there cannot be locked. Of two that insert it, one fails and tries again.
    let sql = match stored {
        Some(_) => {
            "UPDATE zdm_checkpoint SET format = ?, sequence = ?, subject = ?, position = ?, updated_at = ? WHERE job = ?"
        }
        None => {
            "INSERT INTO zdm_checkpoint (format, sequence, subject, position, updated_at, job) VALUES (?, ?, ?, ?, ?, ?)"
        }
    };
    sqlx::query(sql)
        .bind(i64::from(checkpoint.format))
        .bind(number("sequence", checkpoint.sequence)?)
        .bind(checkpoint.subject)
        .bind(checkpoint.position)
        .bind(number("time", checkpoint.updated_at)?)
        .bind(job.as_bytes().to_vec())
        .execute(connection)
        .await
        .map_err(|error| failed(error, job))?;
    Ok(())
}

#[async_trait]
impl CheckpointStore for MySqlCheckpoints {
    async fn load(&self, job: &str) -> Result<Option<Checkpoint>> {
        let job = job.to_owned();
        self.db.read(move |connection| Box::pin(async move { read(connection, &job, "").await })).await
    }

    async fn save(&self, job: &str, checkpoint: &Checkpoint) -> Result<()> {
        loop {
            let (job, checkpoint) = (job.to_owned(), checkpoint.clone());
            let saved = self
                .db
                .write(move |connection| Box::pin(async move { write(connection, &job, checkpoint).await }));
            match saved.await {
                // Another save was the first one.
                Err(error) if error.kind() == Kind::Conflict => {}
                saved => return saved,
            }
        }
    }

    async fn remove(&self, job: &str) -> Result<()> {
        let job = job.to_owned();
        self.db
            .write(move |connection| {
                Box::pin(async move {
                    sqlx::query("DELETE FROM zdm_checkpoint WHERE job = ?")
                        .bind(job.as_bytes().to_vec())
                        .execute(connection)
                        .await
                        .map_err(|error| failed(error, &job))?;
                    Ok(())
                })
            })
            .await
    }

    async fn jobs(&self) -> Result<Vec<String>> {
        self.db
            .read(|connection| {
                Box::pin(async move {
                    let jobs: Vec<Vec<u8>> =
                        sqlx::query_scalar("SELECT job FROM zdm_checkpoint ORDER BY job")
                            .fetch_all(connection)
                            .await
                            .map_err(|error| classify(error, "listing the jobs with checkpoints"))?;
                    Ok(jobs.iter().map(|job| String::from_utf8_lossy(job).into_owned()).collect())
                })
            })
            .await
    }
}
