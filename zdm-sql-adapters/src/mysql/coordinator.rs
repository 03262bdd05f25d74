use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use zdm_core::clock::{Clock, SystemClock};
use zdm_core::error::{Error, Result};
use zdm_core::phase::{Member, Phase};
use zdm_core::queue::Epoch;

use super::MySql;
use super::classify::classify;
use crate::shared_phase::{PhaseTables, SharedCoordinator};

/// The phase of a migration and the instances that follow it, in a MySQL or MariaDB database.
///
/// ```no_run
/// # async fn example() -> zdm_core::Result<()> {
/// use zdm_core::phase::{Coordinator, Phase};
/// use zdm_sql_adapters::mysql::{MySqlCoordinator, MySql};
///
/// let db = MySql::connect("mysql://app:secret@db.internal/shop").await?;
/// let phases = MySqlCoordinator::open(&db, "shop to warehouse", Phase::Off).await?;
/// println!("{}", phases.current().await?.phase);
/// # Ok(()) }
/// ```
pub type MySqlCoordinator = SharedCoordinator<MySql>;

impl MySqlCoordinator {
    /// Follows the phase of a migration. One that is not known yet begins in `phase`.
    ///
    /// # Errors
    /// As [`MySql::ensure_schema`].
    pub async fn open(db: &MySql, migration: &str, phase: Phase) -> Result<Self> {
        Self::open_with(db, migration, phase, Arc::new(SystemClock)).await
    }

    /// As [`open`](Self::open), with a clock for the dates of moves.
    ///
    /// # Errors
    /// As [`MySql::ensure_schema`].
    pub async fn open_with(db: &MySql, migration: &str, phase: Phase, clock: Arc<dyn Clock>) -> Result<Self> {
        db.ensure_schema().await?;
        Self::begin(db.clone(), migration, phase, clock).await
    }
}

fn failed(error: sqlx::Error) -> Error {
    classify(error, "the tables of the phases")
}

#[async_trait]
impl PhaseTables for MySql {
    async fn begin(&self, migration: &str, epoch: Epoch, record: String) -> Result<()> {
        let migration = migration.to_owned();
        self.write(move |connection| {
            Box::pin(async move {
                sqlx::query(
                    "INSERT INTO zdm_phase (migration, epoch, record) VALUES (?, ?, ?) \
                     ON DUPLICATE KEY UPDATE migration = migration",
                )
                .bind(migration.into_bytes())
                .bind(epoch.0.cast_signed())
                .bind(record)
                .execute(connection)
                .await
                .map_err(failed)?;
                Ok(())
            })
        })
        .await
    }

    async fn record(&self, migration: &str) -> Result<Option<String>> {
        let migration = migration.to_owned();
        self.read(move |connection| {
            Box::pin(async move {
                sqlx::query_scalar("SELECT record FROM zdm_phase WHERE migration = ?")
                    .bind(migration.into_bytes())
                    .fetch_optional(connection)
                    .await
                    .map_err(failed)
            })
        })
        .await
    }

    async fn replace(
        &self,
        migration: &str,
        expected: Epoch,
        next: (Epoch, String),
        made: Option<String>,
    ) -> Result<bool> {
        let migration = migration.to_owned();
        self.write(move |connection| {
            Box::pin(async move {
                let (epoch, record) = next;
                let replaced = sqlx::query(
                    "UPDATE zdm_phase SET epoch = ?, record = ? WHERE migration = ? AND epoch = ?",
                )
                .bind(epoch.0.cast_signed())
                .bind(record)
                .bind(migration.as_bytes())
                .bind(expected.0.cast_signed())
                .execute(&mut *connection)
                .await
                .map_err(failed)?;
                if replaced.rows_affected() == 0 {
                    return Ok(false);
                }
                if let Some(made) = made {
                    sqlx::query("INSERT INTO zdm_phase_move (migration, epoch, move) VALUES (?, ?, ?)")
                        .bind(migration.as_bytes())
                        .bind(epoch.0.cast_signed())
                        .bind(made)
                        .execute(connection)
                        .await
                        .map_err(failed)?;
                }
                Ok(true)
            })
        })
        .await
    }

    async fn moves(&self, migration: &str) -> Result<Vec<String>> {
        let migration = migration.to_owned();
        self.read(move |connection| {
            Box::pin(async move {
                sqlx::query_scalar("SELECT move FROM zdm_phase_move WHERE migration = ? ORDER BY epoch")
                    .bind(migration.into_bytes())
                    .fetch_all(connection)
                    .await
                    .map_err(failed)
            })
        })
        .await
    }

    async fn put_member(&self, migration: &str, member: &Member, lease: Duration) -> Result<()> {
        let (migration, member) = (migration.to_owned(), member.clone());
        let lease = i64::try_from(lease.as_micros()).unwrap_or(i64::MAX / 4);
        self.write(move |connection| {
            Box::pin(async move {
                sqlx::query(
                    "INSERT INTO zdm_phase_member (migration, name, acked, drained, until) \
                     VALUES (?, ?, ?, ?, UTC_TIMESTAMP(6) + INTERVAL ? MICROSECOND) ON DUPLICATE KEY UPDATE \
                     acked = VALUES(acked), drained = VALUES(drained), until = VALUES(until)",
                )
                .bind(migration.into_bytes())
                .bind(member.name.into_bytes())
                .bind(member.acked.0.cast_signed())
                .bind(member.drained.0.cast_signed())
                .bind(lease)
                .execute(connection)
                .await
                .map_err(failed)?;
                Ok(())
            })
        })
        .await
    }

    async fn members(&self, migration: &str) -> Result<Vec<Member>> {
        let migration = migration.to_owned();
        self.read(move |connection| {
            Box::pin(async move {
                let rows: Vec<(Vec<u8>, i64, i64)> = sqlx::query_as(
                    "SELECT name, acked, drained FROM zdm_phase_member \
                     WHERE migration = ? AND until > UTC_TIMESTAMP(6) ORDER BY name",
                )
                .bind(migration.into_bytes())
                .fetch_all(connection)
                .await
                .map_err(failed)?;
                let member = |(name, acked, drained): (Vec<u8>, i64, i64)| Member {
                    name: String::from_utf8_lossy(&name).into_owned(),
                    acked: Epoch(acked.cast_unsigned()),
                    drained: Epoch(drained.cast_unsigned()),
                };
                Ok(rows.into_iter().map(member).collect())
            })
        })
        .await
    }

    async fn remove_member(&self, migration: &str, name: &str) -> Result<()> {
        let (migration, name) = (migration.to_owned(), name.to_owned());
        self.write(move |connection| {
            Box::pin(async move {
                sqlx::query(
                    "DELETE FROM zdm_phase_member WHERE migration = ? \
                     AND (name = ? OR until < UTC_TIMESTAMP(6) - INTERVAL 1 DAY)",
                )
                .bind(migration.into_bytes())
                .bind(name.into_bytes())
                .execute(connection)
                .await
                .map_err(failed)?;
                Ok(())
            })
        })
        .await
    }
}
