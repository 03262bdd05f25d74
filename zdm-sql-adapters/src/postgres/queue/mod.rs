//! The shared queue in tables of a PostgreSQL database. [`crate::shared_queue`] has the rules; here are the
//! statements. Lists go into them as arrays, so every list is one round trip.

mod claim;
mod rows;
mod tables;

use crate::shared_queue::{SharedQueue, SharedQueueOptions};

use super::Postgres;

/// A queue that several instances of a service share, in a PostgreSQL database.
///
/// ```no_run
/// # async fn example() -> zdm_core::Result<()> {
/// use zdm_sql_adapters::postgres::{PgQueue, Postgres};
///
/// let db = Postgres::connect("postgres://app:secret@db.internal/shop").await?;
/// let queue = PgQueue::open(&db, "shop to warehouse", "pod-7").await?;
/// # Ok(()) }
/// ```
pub type PgQueue = SharedQueue<Postgres>;

impl PgQueue {
    /// Joins the queue of a migration with the defaults of [`SharedQueueOptions`]. `instance` names this
    /// process among the others, and is the same when it starts again: what the process of that name left
    /// behind is then taken over without waiting for its lease.
    ///
    /// # Errors
    /// As [`Postgres::ensure_schema`].
    pub async fn open(db: &Postgres, migration: &str, instance: &str) -> zdm_core::Result<Self> {
        Self::open_with(db, migration, instance, SharedQueueOptions::default()).await
    }

    /// Joins the queue of a migration.
    ///
    /// # Errors
    /// `Kind::Invalid` naming a setting out of range; else as [`Postgres::ensure_schema`].
    pub async fn open_with(
        db: &Postgres,
        migration: &str,
        instance: &str,
        options: SharedQueueOptions,
    ) -> zdm_core::Result<Self> {
        db.ensure_schema().await?;
        Self::join(db.clone(), migration, instance, options).await
    }
}
