use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Touch;
use crate::clock::UnixMillis;
use crate::key::KeyRange;
use crate::store::Stamp;

/// The number that every change of phase increments.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Epoch(pub u64);

impl Epoch {
    /// The epoch after this one.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Which store a secondary write goes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Direction {
    /// Old is primary; new is kept in step.
    OldToNew,
    /// New is primary; old is kept in step.
    NewToOld,
}

impl Direction {
    /// The other one.
    #[must_use]
    pub const fn reversed(self) -> Self {
        match self {
            Self::OldToNew => Self::NewToOld,
            Self::NewToOld => Self::OldToNew,
        }
    }
}

/// The identity of an entry within its queue. Greater ids were opened later.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct EntryId(pub u64);

/// The identity of a taint within its queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct TaintId(pub u64);

/// The identity of a watch within its queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WatchId(pub u64);

/// Where an entry stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum EntryState {
    /// The call to the primary has not returned. Cannot be claimed.
    Open,
    /// Nobody knows whether the call took effect, and it may still. Cannot be claimed before its deadline.
    Ambiguous,
    /// The call has taken effect, or no longer can. Waits to be claimed.
    Released,
    /// A worker is reconciling its keys.
    Claimed,
    /// Set aside after its retries were spent. Its keys stay dirty.
    Parked,
}

/// One durable row of the queue: what one write touched.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Its identity.
    pub id: EntryId,
    /// The keys that the write may change.
    pub touch: Touch,
    /// Where it stands.
    pub state: EntryState,
    /// The epoch that the write sampled at its start.
    pub epoch: Epoch,
    /// Which store it brings into step.
    pub direction: Direction,
    /// When it was opened.
    pub opened_at: UnixMillis,
    /// How often reconciling it has failed.
    pub attempts: u32,
    /// Why it failed last.
    pub last_error: Option<String>,
}

/// Entries that one worker reconciles together. No other claim covers any of their keys until they are
/// acknowledged, retried or parked.
#[derive(Clone, Debug)]
pub struct Claim {
    /// Drawn after the entries were claimed and before the primary is read.
    pub stamp: Stamp,
    /// The claimed entries, oldest first.
    pub entries: Vec<Entry>,
}

impl Claim {
    /// The ids of the entries.
    pub fn ids(&self) -> Vec<EntryId> {
        self.entries.iter().map(|entry| entry.id).collect()
    }
}

/// How many entries stand where, and how old they are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct QueueStats {
    /// Entries whose call has not returned.
    pub open: u64,
    /// Entries whose outcome is unknown.
    pub ambiguous: u64,
    /// Entries that wait to be claimed, those that back off included.
    pub released: u64,
    /// Entries that are being reconciled.
    pub claimed: u64,
    /// Entries set aside.
    pub parked: u64,
    /// Taints that are not reconciled.
    pub taints: u64,
    /// Age of the oldest entry that is not parked.
    pub oldest_age: Duration,
}

impl QueueStats {
    /// Entries that will go away by themselves.
    pub const fn pending(&self) -> u64 {
        self.open + self.ambiguous + self.released + self.claimed
    }

    /// Everything that stands between the two stores and being equal.
    pub const fn dirty(&self) -> u64 {
        self.pending() + self.parked + self.taints
    }
}

/// A window in which writes may have gone unrecorded, or a range whose dirt may be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Taint {
    /// Its identity.
    pub id: TaintId,
    /// The keys that may differ.
    #[serde(skip, default = "KeyRange::all")]
    pub range: KeyRange,
    /// When the window began.
    pub since: UnixMillis,
    /// Why.
    pub reason: String,
}

/// What a queue promises about the entries that it acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Guarantee {
    /// The entry commits with the write, in the write's own transaction.
    Transactional,
    /// The database fills the queue itself and sees every writer.
    Trigger,
    /// The entry is in an embedded durable queue before the primary is called.
    Journaled,
    /// The entry is in a shared durable queue before the primary is called.
    Shared,
    /// The entry is in memory only: a crash loses it. The handover is refused.
    BestEffort,
}

impl Guarantee {
    /// Whether entries survive a crash of the process.
    pub const fn survives_a_crash(self) -> bool {
        !matches!(self, Self::BestEffort)
    }
}

/// The level and what it promises, for the one line that a service logs when it starts.
impl fmt::Display for Guarantee {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let promise = match self {
            Self::Transactional => {
                "entries commit with the write, so no outcome is unknown; writers outside the library are missed"
            }
            Self::Trigger => {
                "the database records every writer in its own transaction, so no outcome is unknown"
            }
            Self::Journaled => {
                "entries are on this machine's disk before the primary is called; unknown outcomes are held for the \
                 settle time; writers outside the library are missed"
            }
            Self::Shared => {
                "entries are in a shared database before the primary is called and outlive this machine; unknown \
                 outcomes are held for the settle time; writers outside the library are missed"
            }
            Self::BestEffort => {
                "entries are in memory and lost in a crash, so the handover is refused; writers outside the library are missed"
            }
        };
        write!(f, "{self:?} ({promise})")
    }
}
