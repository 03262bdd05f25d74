use std::fmt;

use serde::{Deserialize, Serialize};

use super::{Percent, Phase};
use crate::queue::Direction;

/// One of the two stores of a migration, for its whole life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Side {
    /// The store that the data moves away from.
    Old,
    /// The store that the data moves to.
    New,
}

impl Side {
    /// The other one.
    #[must_use]
    pub const fn other(self) -> Self {
        match self {
            Self::Old => Self::New,
            Self::New => Self::Old,
        }
    }
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Old => "old",
            Self::New => "new",
        })
    }
}

/// Who answers reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reads {
    /// The primary.
    Primary,
    /// The new store for keys of the cohort that are clean, else the primary.
    NewForCleanKeys(Percent),
}

/// What a phase means for one operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Routing {
    /// Owns writes.
    pub primary: Side,
    /// Which way writes are mirrored; `None` when the other store is left untouched.
    pub direction: Option<Direction>,
    /// Who answers reads.
    pub reads: Reads,
    /// Whether a sample of reads is compared in the background.
    pub shadow_compare: bool,
}

impl Routing {
    /// The store that is kept in step.
    pub const fn secondary(&self) -> Option<Side> {
        match self.direction {
            Some(Direction::OldToNew) => Some(Side::New),
            Some(Direction::NewToOld) => Some(Side::Old),
            None => None,
        }
    }
}

impl Phase {
    /// The table of phases.
    ///
    /// ```
    /// use zdm_core::phase::{Phase, Side};
    /// use zdm_core::queue::Direction;
    ///
    /// let live = Phase::Live.routing();
    /// assert_eq!((live.primary, live.secondary()), (Side::New, Some(Side::Old)));
    /// assert_eq!(live.direction, Some(Direction::NewToOld));
    /// ```
    pub const fn routing(self) -> Routing {
        use Direction::{NewToOld, OldToNew};
        let (primary, direction, reads, shadow_compare) = match self {
            Self::Off => (Side::Old, None, Reads::Primary, false),
            Self::DualWrite => (Side::Old, Some(OldToNew), Reads::Primary, false),
            Self::Shadow => (Side::Old, Some(OldToNew), Reads::Primary, true),
            Self::Ramp(share) => (Side::Old, Some(OldToNew), Reads::NewForCleanKeys(share), true),
            Self::Live => (Side::New, Some(NewToOld), Reads::Primary, true),
            Self::RampDown => (Side::New, Some(NewToOld), Reads::Primary, false),
            Self::Complete => (Side::New, None, Reads::Primary, false),
        };
        Routing { primary, direction, reads, shadow_compare }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_the_one_that_was_agreed() {
        use Direction::{NewToOld, OldToNew};
        let half = Percent::new(50.0).unwrap();
        let cohort = Reads::NewForCleanKeys(half);
        let table = [
            (Phase::Off, Side::Old, None, Reads::Primary, false),
            (Phase::DualWrite, Side::Old, Some(OldToNew), Reads::Primary, false),
            (Phase::Shadow, Side::Old, Some(OldToNew), Reads::Primary, true),
            (Phase::Ramp(half), Side::Old, Some(OldToNew), cohort, true),
            (Phase::Live, Side::New, Some(NewToOld), Reads::Primary, true),
            (Phase::RampDown, Side::New, Some(NewToOld), Reads::Primary, false),
            (Phase::Complete, Side::New, None, Reads::Primary, false),
        ];
        for (phase, primary, direction, reads, shadow_compare) in table {
            assert_eq!(phase.routing(), Routing { primary, direction, reads, shadow_compare }, "{phase}");
            let secondary = phase.routing().secondary();
            assert_eq!(secondary, direction.map(|_| primary.other()), "{phase}");
        }
    }
}
