use super::{Advice, Certainty};

/// What kind of trouble an [`Error`](super::Error) reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Kind {
    /// The store cannot be reached, is full or shuts down. Every key is affected.
    Unavailable,
    /// The call did not answer in time.
    Timeout,
    /// Contention: locked, deadlock, serialization failure. The same call may pass at once.
    Busy,
    /// A unique constraint: another record holds the value.
    Conflict,
    /// A foreign key: the record that this one refers to is not there yet, or is still referred to.
    MissingReference,
    /// This record will never fit the store: a check, a type, a mapping.
    Rejected,
    /// The store refuses this writer: another epoch owns the primary role.
    Fenced,
    /// A limit that was set is reached: the queue is full, a wait ran out.
    Limit,
    /// The caller asked for something that cannot be: a setting out of range, an unknown column.
    Invalid,
    /// A gate or a table of legal moves says no.
    Refused,
    /// Stored data is damaged, or belongs to something else.
    Damaged,
    /// Somebody else owns what was asked for.
    Owned,
    /// The part was shut down or has stopped itself after a broken invariant.
    Stopped,
}

impl Kind {
    /// What a caller should do about an error of this kind, unless the error itself says otherwise.
    pub const fn usual_advice(self) -> Advice {
        match self {
            Self::Unavailable => Advice::RetryWhenStoreIsBack,
            Self::Timeout | Self::MissingReference | Self::Limit => Advice::RetryLater,
            Self::Busy => Advice::RetryNow,
            Self::Conflict => Advice::Regroup,
            Self::Rejected => Advice::Park,
            Self::Fenced | Self::Invalid | Self::Refused | Self::Damaged | Self::Owned | Self::Stopped => {
                Advice::Stop
            }
        }
    }

    /// Whether an error of this kind took effect, unless the error itself says otherwise.
    ///
    /// A store that did not answer may have done the work; one that answered "no" has not.
    pub const fn usual_certainty(self) -> Certainty {
        match self {
            Self::Unavailable | Self::Timeout | Self::Damaged => Certainty::Unknown,
            _ => Certainty::NotApplied,
        }
    }
}
