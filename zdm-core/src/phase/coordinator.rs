use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use super::{GateCheck, Move, Override, Phase};
use crate::clock::UnixMillis;
use crate::error::{Error, Kind, Result};
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
    /// Where the primary role is about to move. While it is set no member lets a write begin.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub handover: Option<Phase>,
}

impl PhaseRecord {
    /// The record after a move, and the move for the history. Pure: coordinators that keep the record in
    /// storage decide by it.
    ///
    /// # Errors
    /// As [`Coordinator::advance`].
    pub fn advanced(
        &self,
        expected: Epoch,
        to: Phase,
        audit: Audit,
        at: UnixMillis,
    ) -> Result<(Self, MoveRecord)> {
        self.check(expected)?;
        Move::between(self.phase, to)?;
        if let Some(other) = self.handover.filter(|other| *other != to) {
            let message =
                format!("a handover to {other} is announced; only that can follow, or its withdrawal");
            return Err(Error::new(Kind::Refused, message));
        }
        let next = Self { phase: to, epoch: self.epoch.next(), since: at, handover: None };
        let made = MoveRecord { from: self.phase, to, epoch: next.epoch, at, audit };
        Ok((next, made))
    }

    /// The record after an announcement.
    ///
    /// # Errors
    /// As [`Coordinator::announce`].
    pub fn announced(&self, expected: Epoch, to: Phase) -> Result<Self> {
        self.check(expected)?;
        if let Some(other) = self.handover {
            return Err(Error::new(Kind::Refused, format!("a handover to {other} is announced already")));
        }
        if Move::between(self.phase, to)?.new_primary().is_none() {
            let message = format!("{} -> {to} leaves the primary role where it is", self.phase);
            return Err(Error::new(Kind::Refused, message));
        }
        Ok(Self { epoch: self.epoch.next(), handover: Some(to), ..self.clone() })
    }

    /// The record after a withdrawal.
    ///
    /// # Errors
    /// As [`Coordinator::withdraw`].
    pub fn withdrawn(&self, expected: Epoch) -> Result<Self> {
        self.check(expected)?;
        if self.handover.is_none() {
            return Err(Error::new(Kind::Refused, "no handover is announced"));
        }
        Ok(Self { epoch: self.epoch.next(), handover: None, ..self.clone() })
    }

    fn check(&self, expected: Epoch) -> Result<()> {
        if self.epoch == expected {
            return Ok(());
        }
        let message = format!(
            "the phase has changed meanwhile: it is {} of epoch {}, expected was epoch {expected}",
            self.phase, self.epoch
        );
        Err(Error::new(Kind::Refused, message))
    }
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

    /// Records a move, if the epoch is still `expected`. The new epoch is one greater, and nothing is
    /// announced any more. Durable when it returns.
    ///
    /// # Errors
    /// `Kind::Refused` when the epoch is another one, the table of moves does not know the move, or a
    /// handover to another phase is announced; then nothing has changed. `Kind::Unavailable` when the record cannot be stored; the certainty says
    /// whether it was.
    ///
    /// # Cancel safety
    /// When the future is dropped, the move is recorded or not; [`current`](Self::current) tells.
    async fn advance(&self, expected: Epoch, to: Phase, audit: Audit) -> Result<PhaseRecord>;

    /// Whether several processes may follow this record. Then each is a member, a handover is announced
    /// before it is made, and an instance that cannot reach the record stops writing.
    fn is_shared(&self) -> bool;

    /// Says that the primary role is about to move, if the epoch is still `expected`. The epoch is one
    /// greater and the phase is the same; [`advance`](Self::advance) to `to` completes it.
    ///
    /// # Errors
    /// As [`advance`](Self::advance), and `Kind::Refused` for a move that leaves the primary role where it is,
    /// or while another handover is announced.
    ///
    /// # Cancel safety
    /// As [`advance`](Self::advance).
    async fn announce(&self, expected: Epoch, to: Phase) -> Result<PhaseRecord>;

    /// Takes an announcement back, if the epoch is still `expected`. The epoch is one greater, so whoever
    /// announced it cannot complete it any more. Any member may do it, for one that died.
    ///
    /// # Errors
    /// As [`advance`](Self::advance), and `Kind::Refused` when nothing is announced.
    ///
    /// # Cancel safety
    /// As [`advance`](Self::advance).
    async fn withdraw(&self, expected: Epoch) -> Result<PhaseRecord>;

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
