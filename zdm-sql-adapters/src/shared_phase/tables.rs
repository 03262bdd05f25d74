use std::time::Duration;

use async_trait::async_trait;
use zdm_core::error::Result;
use zdm_core::phase::Member;
use zdm_core::queue::Epoch;

/// The tables of phases and members in one kind of database: statements, and no decisions.
#[async_trait]
pub trait PhaseTables: Clone + Send + Sync + 'static {
    /// Makes the record of a migration, in its serialized form, if it is not there.
    async fn begin(&self, migration: &str, epoch: Epoch, record: String) -> Result<()>;

    /// The record of a migration.
    async fn record(&self, migration: &str) -> Result<Option<String>>;

    /// Replaces the record if its epoch is `expected`, and writes the move down, if it is one. Tells whether
    /// it did.
    async fn replace(
        &self,
        migration: &str,
        expected: Epoch,
        next: (Epoch, String),
        made: Option<String>,
    ) -> Result<bool>;

    /// The moves, oldest first.
    async fn moves(&self, migration: &str) -> Result<Vec<String>>;

    /// Keeps what a member says.
    async fn put_member(&self, migration: &str, member: &Member, lease: Duration) -> Result<()>;

    /// The members whose lease has not run out, by name.
    async fn members(&self, migration: &str) -> Result<Vec<Member>>;

    /// Forgets a member, and those whose lease ran out long ago.
    async fn remove_member(&self, migration: &str, name: &str) -> Result<()>;
}
