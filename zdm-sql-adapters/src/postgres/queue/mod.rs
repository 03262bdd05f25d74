//! The shared queue in tables of a PostgreSQL database. [`crate::shared_queue`] has the rules; here are the
//! statements. Lists go into them as arrays, so every list is one round trip.

mod claim;
mod rows;
mod tables;

use sqlx::postgres::PgConnection;
use zdm_core::key::Key;
use zdm_core::queue::{Direction, Touch};

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

    /// Records in a transaction of your own what it touches: the entry is there exactly if the transaction
    /// commits, and needs no settle time. What one transaction touches belongs into one touch
    /// ([`Touch::and`]): it is one entry, and its keys are reconciled together. It takes one round trip.
    ///
    /// An instance takes the entry over at its next look, at once after [`look_soon`](Self::look_soon). Until
    /// then [`is_clean`](zdm_core::queue::WriteQueue::is_clean) does not know of it. So a read that may be
    /// answered by the secondary can be older than the last COMMIT by that time.
    ///
    /// ```no_run
    /// # async fn example(pool: sqlx::PgPool, queue: zdm_sql_adapters::postgres::PgQueue) -> Result<(), Box<dyn std::error::Error>> {
    /// use zdm_core::queue::{Direction, Touch};
    ///
    /// let mut transaction = pool.begin().await?;
    /// sqlx::query("UPDATE users SET name = 'Ada' WHERE id = 7").execute(&mut *transaction).await?;
    /// queue.write_in(&mut transaction, &Touch::upsert(&7_i64), Direction::OldToNew).await?;
    /// transaction.commit().await?;
    /// queue.look_soon();
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// Whatever the server says. Then roll back.
    ///
    /// # Cancel safety
    /// As that of a statement of your own: the transaction cannot go on.
    pub async fn write_in<K: Key>(
        &self,
        transaction: &mut PgConnection,
        touch: &Touch<K>,
        direction: Direction,
    ) -> zdm_core::Result<()> {
        let mut bytes = Vec::new();
        touch.encode().write_to(&mut bytes);
        sqlx::query(
            "INSERT INTO zdm_queue_entry (owner, id, touch, epoch, new_to_old, opened_at, parked, attempts) \
             VALUES ($1, nextval('zdm_queue_entry_id'), $2, 0, $3, \
             (extract(epoch FROM clock_timestamp()) * 1000)::bigint, false, 0)",
        )
        .bind(self.nobody()?)
        .bind(bytes)
        .bind(direction == Direction::NewToOld)
        .execute(transaction)
        .await
        .map_err(rows::failed)?;
        Ok(())
    }
}
