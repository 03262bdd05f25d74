use std::time::Duration;

use async_trait::async_trait;
use zdm_core::error::Result;
use zdm_core::phase::Member;

/// The row of a phase. The phase is in its serialized form.
#[derive(Clone, Debug)]
pub struct PhaseRow {
    pub(super) epoch: u64,
    pub(super) phase: String,
    pub(super) since: u64,
}

impl PhaseRow {
    pub(crate) const fn new(epoch: u64, phase: String, since: u64) -> Self {
        Self { epoch, phase, since }
    }

    /// The columns in the order of the table.
    pub(crate) fn columns(self) -> (i64, String, i64) {
        (self.epoch.cast_signed(), self.phase, self.since.cast_signed())
    }
}

/// The tables of phases and members in one kind of database: statements, and no decisions.
#[async_trait]
pub trait PhaseTables: Clone + Send + Sync + 'static {
    /// Makes the row of a migration if it is not there.
    async fn begin(&self, migration: &str, row: PhaseRow) -> Result<()>;

    /// The row of a migration.
    async fn phase(&self, migration: &str) -> Result<Option<PhaseRow>>;

    /// Replaces the row if its epoch is `expected`, and writes the move down. Tells whether it did.
    async fn replace(&self, migration: &str, expected: u64, row: PhaseRow, made: String) -> Result<bool>;

    /// The moves, oldest first.
    async fn moves(&self, migration: &str) -> Result<Vec<String>>;

    /// Keeps what a member says.
    async fn put_member(&self, migration: &str, member: &Member, lease: Duration) -> Result<()>;

    /// The members whose lease has not run out, by name.
    async fn members(&self, migration: &str) -> Result<Vec<Member>>;

    /// Forgets a member, and those whose lease ran out long ago.
    async fn remove_member(&self, migration: &str, name: &str) -> Result<()>;
}
