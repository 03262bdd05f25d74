//! The shared queue in tables of a MySQL or MariaDB database. [`crate::shared_queue`] has the rules; here are
//! the statements.
//!
//! Lists go into the statements as literals: numbers, and bytes as hexadecimal digits. One statement of any
//! length is one round trip, and none of them has to be prepared.

mod claim;
mod literal;
mod rows;
mod tables;

use crate::shared_queue::{SharedQueue, SharedQueueOptions};

use super::MySql;

/// A queue that several instances of a service share, in a MySQL or MariaDB database.
///
/// ```no_run
/// # async fn example() -> zdm_core::Result<()> {
/// use zdm_sql_adapters::mysql::{MySql, MySqlQueue};
///
/// let db = MySql::connect("mysql://app:secret@db.internal/shop").await?;
/// let queue = MySqlQueue::open(&db, "shop to warehouse", "pod-7").await?;
/// # Ok(()) }
/// ```
pub type MySqlQueue = SharedQueue<MySql>;

impl MySqlQueue {
    /// Joins the queue of a migration with the defaults of [`SharedQueueOptions`]. `instance` names this
    /// process among the others, and is the same when it starts again: what the process of that name left
    /// behind is then taken over without waiting for its lease.
    ///
    /// # Errors
    /// As [`MySql::ensure_schema`].
    pub async fn open(db: &MySql, migration: &str, instance: &str) -> zdm_core::Result<Self> {
        Self::open_with(db, migration, instance, SharedQueueOptions::default()).await
    }

    /// Joins the queue of a migration.
    ///
    /// # Errors
    /// `Kind::Invalid` naming a setting out of range; else as [`MySql::ensure_schema`].
    pub async fn open_with(
        db: &MySql,
        migration: &str,
        instance: &str,
        options: SharedQueueOptions,
    ) -> zdm_core::Result<Self> {
        db.ensure_schema().await?;
        Self::join(db.clone(), migration, instance, options).await
    }
}
