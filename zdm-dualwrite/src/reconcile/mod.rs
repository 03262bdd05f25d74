//! Making the secondary's record for a key equal to the primary's: the one engine under mirroring,
//! backfill and repair.
//!
//! A worker claims released entries, reads their keys from the primary, writes what it read to the
//! secondary in one transaction, and acknowledges exactly the entries that it claimed. What may go wrong
//! in between, and why each step stands where it stands:
//!
//! - the claim comes before the read, and the stamp before the read as well: whatever was released before
//!   the claim is seen by the read;
//! - a write that lands between read and acknowledgement has its own entry, which survives;
//! - a secondary call that did not answer may land later. A fence makes that harmless; without one the
//!   keys are not claimed again before the secondary's settle time has passed;
//! - a missing record is deleted on the other side only if an entry says that a write may have deleted it.

mod apply;
mod circuit;
mod decide;
mod ranges;
mod retry;
mod worker;

pub(crate) use circuit::Circuit;
pub(crate) use worker::spawn_workers;

use std::fmt;

use zdm_core::store::Store;

use crate::adapter::Instances;

/// How abandoned secondary writes are kept harmless. The builder picks the strongest way that the parts
/// allow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Safety {
    /// The secondary refuses writes that come too late.
    Fenced,
    /// One worker at a time has a key, and after an abandoned write the key rests for the settle time.
    Exclusive,
    /// Several queues may hold the same key: as `Exclusive`, and the primary is read again after the
    /// write; if it has changed, the key is written again.
    Reread,
}

impl Safety {
    pub(crate) fn of<S: Store>(instances: Instances, secondary: &S) -> Self {
        match instances {
            Instances::QueueEach => Self::Reread,
            Instances::OneQueue if secondary.capabilities().fenced.is_some() => Self::Fenced,
            Instances::OneQueue => Self::Exclusive,
        }
    }
}

impl fmt::Display for Safety {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Fenced => "fenced",
            Self::Exclusive => "exclusive",
            Self::Reread => "re-read",
        })
    }
}
