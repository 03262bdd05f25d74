use std::time::Duration;

use super::{Mismatch, Progress};
use crate::error::Error;
use crate::phase::Phase;
use crate::queue::{EntryId, Epoch, Guarantee, TaintId};

/// Something that a person or a monitor may want to know.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Event {
    /// A dual write has started in this process.
    Started {
        /// The phase that it found.
        phase: Phase,
        /// What its queue promises.
        guarantee: Guarantee,
    },
    /// The phase has changed.
    PhaseMoved {
        /// Before.
        from: Phase,
        /// Now.
        to: Phase,
        /// The epoch of the new phase.
        epoch: Epoch,
    },
    /// Writes wait while the primary role is about to move.
    HandoverStarted {
        /// Before.
        from: Phase,
        /// If it succeeds.
        to: Phase,
    },
    /// The primary role has moved.
    HandoverDone {
        /// Now.
        to: Phase,
        /// How long writes waited.
        pause: Duration,
    },
    /// The primary role has not moved; nothing has changed.
    HandoverAborted {
        /// Why.
        reason: String,
    },
    /// An entry was set aside.
    EntryParked {
        /// Which.
        id: EntryId,
        /// Why.
        error: Error,
    },
    /// A row that could not be mapped or written was set aside.
    RowParked {
        /// Its key, printed.
        key: String,
        /// Why.
        error: Error,
    },
    /// The secondary does not answer; nothing is written to it until a probe gets through.
    CircuitOpened,
    /// The secondary answers again.
    CircuitClosed,
    /// The storage of the queue failed.
    QueueFailed {
        /// How.
        error: Error,
    },
    /// Writes go on without entries; the window is recorded.
    TaintRecorded {
        /// Which.
        id: TaintId,
        /// Why.
        reason: String,
    },
    /// A taint was reconciled.
    TaintCleared {
        /// Which.
        id: TaintId,
    },
    /// The two stores differ for a key that nothing is pending for.
    MismatchFound {
        /// How.
        mismatch: Mismatch,
    },
    /// A read of the store under trial failed; the primary answered.
    TrialReadFailed {
        /// How.
        error: Error,
    },
    /// A backfill or verification got further, or came to its end.
    Progressed {
        /// `"backfill"` or `"verify"`.
        run: &'static str,
        /// How far.
        progress: Progress,
    },
    /// An invariant was found broken; mirroring has stopped, the primary goes on.
    Poisoned {
        /// Which.
        reason: String,
    },
}
