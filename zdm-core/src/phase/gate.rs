use std::fmt;

use serde::{Deserialize, Serialize};

/// A condition that a move needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Gate {
    /// A backfill has come to its end.
    BackfillComplete,
    /// The oldest pending entry is young: the queue keeps up with the writes.
    QueueKeepsUp,
    /// No entry is parked.
    NothingParked,
    /// No taint stands.
    NoTaint,
    /// Every key has been compared since mirroring began, and nothing differed.
    Verified,
    /// Reads compared in the background have not differed.
    ShadowClean,
    /// The queue keeps its entries through a crash.
    SurvivesACrash,
    /// The secondary answers.
    SecondaryAnswers,
}

impl fmt::Display for Gate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::BackfillComplete => "backfill_complete",
            Self::QueueKeepsUp => "queue_keeps_up",
            Self::NothingParked => "nothing_parked",
            Self::NoTaint => "no_taint",
            Self::Verified => "verified",
            Self::ShadowClean => "shadow_clean",
            Self::SurvivesACrash => "survives_a_crash",
            Self::SecondaryAnswers => "secondary_answers",
        })
    }
}

/// One gate as it was found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GateCheck {
    /// Which one.
    pub gate: Gate,
    /// Whether it lets the move through.
    pub passed: bool,
    /// What was found.
    pub value: String,
    /// What is needed.
    pub needed: String,
}

/// The word of a person that a gate need not pass.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Override {
    /// Which gate.
    pub gate: Gate,
    /// Who says so.
    pub by: String,
    /// Why.
    pub reason: String,
}

/// All gates of one move.
///
/// ```
/// use zdm_core::phase::{Gate, GateCheck, GateReport, Override};
///
/// let check = |gate, value: &str, needed: &str| GateCheck {
///     gate, passed: false, value: value.to_owned(), needed: needed.to_owned(),
/// };
/// let report = GateReport {
///     checks: vec![
///         check(Gate::NothingParked, "3 parked", "0 parked"),
///         check(Gate::Verified, "not verified", "0 mismatches"),
///     ],
/// };
/// let word = Override { gate: Gate::NothingParked, by: "ada".into(), reason: "test rows".into() };
/// let missing = report.missing(&[word]);
/// assert_eq!(missing.to_string(), "verified is not verified, needed is 0 mismatches");
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GateReport {
    /// In the order in which they were checked.
    pub checks: Vec<GateCheck>,
}

impl GateReport {
    /// The gates that do not pass and are not overridden. Empty when the move may go on.
    #[must_use]
    pub fn missing(&self, overrides: &[Override]) -> Self {
        let overridden = |gate| overrides.iter().any(|word| word.gate == gate);
        let checks = self.checks.iter().filter(|check| !check.passed && !overridden(check.gate));
        Self { checks: checks.cloned().collect() }
    }

    /// Whether there is no check.
    pub fn is_empty(&self) -> bool {
        self.checks.is_empty()
    }
}

impl fmt::Display for GateReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, GateCheck { gate, value, needed, .. }) in self.checks.iter().enumerate() {
            let comma = if at == 0 { "" } else { "; " };
            write!(f, "{comma}{gate} is {value}, needed is {needed}")?;
        }
        Ok(())
    }
}
