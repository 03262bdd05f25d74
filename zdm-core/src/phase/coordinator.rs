use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use super::{GateCheck, Override, Phase};
use crate::clock::UnixMillis;
use crate::error::Result;
use crate::queue::Epoch;

/// The phase that is recorded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PhaseRecord {
    /// Where the migration stands.
    pub phase: Phase,
    /// The number of this phase; every change increments it.
    pub epoch: Epoch,
    /// Since when.
    pub since: UnixMillis,
}

/// What is written down with a move.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Audit {
    /// Who moved.
    pub by: String,
    /// Why.
    pub reason: String,
    /// The gates as they were found.
    pub checks: Vec<GateCheck>,
    /// The gates that were overridden.
    pub overrides: Vec<Override>,
}

/// One move of the past.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MoveRecord {
    /// Where it began.
    pub from: Phase,
    /// Where it ended.
    pub to: Phase,
    /// The epoch that it began.
    pub epoch: Epoch,
    /// When.
    pub at: UnixMillis,
    /// Who, why, and what the gates said.
    pub audit: Audit,
}

/// One instance of the service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// Its name, unique among the members.
    pub name: String,
    /// No new operation of it uses an older epoch.
    pub acked: Epoch,
    /// No operation of an older epoch is under way in it.
    pub drained: Epoch,
}

/// Remembers the phase, and which instance follows which epoch.
#[async_trait]
pub trait Coordinator: Send + Sync + 'static {
    /// The phase that is recorded.
    ///
    /// # Errors
    /// `Kind::Unavailable` when it cannot be read; `Kind::Damaged` when it is not readable. A phase that
    /// is not known is an error, never a guess.
    async fn current(&self) -> Result<PhaseRecord>;

    /// Records a move, if the epoch is still `expected`. The new epoch is one greater. Durable when it
    /// returns.
    ///
    /// # Errors
    /// `Kind::Refused` when the epoch is another one, or the table of moves does not know the move; then
    /// nothing has changed. `Kind::Unavailable` when the record cannot be stored; the certainty says
    /// whether it was.
    ///
    /// # Cancel safety
    /// When the future is dropped, the move is recorded or not; [`current`](Self::current) tells.
    async fn advance(&self, expected: Epoch, to: Phase, audit: Audit) -> Result<PhaseRecord>;

    /// Every move, oldest first.
    ///
    /// # Errors
    /// As [`current`](Self::current).
    async fn history(&self) -> Result<Vec<MoveRecord>>;

    /// Waits until the recorded epoch is above `known`, and returns the record.
    ///
    /// # Errors
    /// As [`current`](Self::current).
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped.
    async fn changed(&self, known: Epoch) -> Result<PhaseRecord>;

    /// Says which epoch an instance follows and has drained. The word holds for `lease`; an instance that
    /// has not repeated it by then must not write any more.
    ///
    /// # Errors
    /// `Kind::Unavailable` when it cannot be stored.
    async fn report(&self, member: Member, lease: Duration) -> Result<()>;

    /// The instances whose lease has not run out.
    ///
    /// # Errors
    /// `Kind::Unavailable` when they cannot be read.
    async fn members(&self) -> Result<Vec<Member>>;

    /// An instance ends in good order.
    ///
    /// # Errors
    /// `Kind::Unavailable` when it cannot be stored.
    async fn leave(&self, name: &str) -> Result<()>;
}
