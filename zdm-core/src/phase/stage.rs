use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Kind, Result};

/// Where a migration stands. The table in [`Phase::routing`] says what each phase means.
///
/// ```
/// use zdm_core::phase::Phase;
///
/// let phase: Phase = "ramp:12.5".parse()?;
/// assert_eq!(phase.to_string(), "ramp:12.5");
/// assert!("half-way".parse::<Phase>().is_err());
/// # Ok::<_, zdm_core::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub enum Phase {
    /// Only the old store.
    Off,
    /// Writes are mirrored to the new store.
    DualWrite,
    /// And reads are compared in the background.
    Shadow,
    /// And a share of the keys is read from the new store.
    Ramp(Percent),
    /// The new store is primary; writes are mirrored back.
    Live,
    /// As `Live`, without comparing.
    RampDown,
    /// Only the new store.
    Complete,
}

/// A share in hundredths of a percent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Percent(u16);

impl Percent {
    /// Everything.
    pub const ALL: Self = Self(10_000);

    /// A share in percent, rounded to hundredths of a percent.
    ///
    /// # Errors
    /// [`Kind::Invalid`] when it is not between 0 and 100.
    pub fn new(percent: f64) -> Result<Self> {
        if !(0.0..=100.0).contains(&percent) {
            return Err(Error::new(
                Kind::Invalid,
                format!("{percent} is not a percentage between 0 and 100"),
            ));
        }
        // Between 0 and 10 000, so nothing is cut off.
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "checked above")]
        Ok(Self((percent * 100.0).round() as u16))
    }

    /// The share in hundredths of a percent, at most 10 000.
    pub const fn hundredths(self) -> u16 {
        self.0
    }
}

impl fmt::Display for Percent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} %", f64::from(self.0) / 100.0)
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Off => f.write_str("off"),
            Self::DualWrite => f.write_str("dualwrite"),
            Self::Shadow => f.write_str("shadow"),
            Self::Ramp(share) => write!(f, "ramp:{}", f64::from(share.0) / 100.0),
            Self::Live => f.write_str("live"),
            Self::RampDown => f.write_str("rampdown"),
            Self::Complete => f.write_str("complete"),
        }
    }
}

impl FromStr for Phase {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        let unknown = || {
            let message = format!(
                "{name:?} is not a phase; it must be one of off, dualwrite, shadow, ramp:PERCENT, live, \
                 rampdown, complete"
            );
            Error::new(Kind::Invalid, message)
        };
        Ok(match name {
            "off" => Self::Off,
            "dualwrite" => Self::DualWrite,
            "shadow" => Self::Shadow,
            "live" => Self::Live,
            "rampdown" => Self::RampDown,
            "complete" => Self::Complete,
            _ => {
                let share = name.strip_prefix("ramp:").ok_or_else(unknown)?;
                Self::Ramp(Percent::new(share.parse().map_err(|_| unknown())?)?)
            }
        })
    }
}

impl From<Phase> for String {
    fn from(phase: Phase) -> Self {
        phase.to_string()
    }
}

impl TryFrom<String> for Phase {
    type Error = Error;

    fn try_from(name: String) -> Result<Self> {
        name.parse()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_bring_the_phase_back() {
        let ramp = Phase::Ramp(Percent::new(12.5).unwrap());
        for phase in
            [Phase::Off, Phase::DualWrite, Phase::Shadow, ramp, Phase::Live, Phase::RampDown, Phase::Complete]
        {
            assert_eq!(phase.to_string().parse::<Phase>().unwrap(), phase);
            let json = serde_json::to_string(&phase).unwrap();
            assert_eq!(serde_json::from_str::<Phase>(&json).unwrap(), phase);
        }
    }

    #[test]
    fn an_unknown_phase_is_an_error_that_lists_the_known_ones() {
        for name in ["", "Live", "ramp", "ramp:", "ramp:101", "ramp:NaN", "ramp:-1"] {
            assert_eq!(name.parse::<Phase>().unwrap_err().kind(), Kind::Invalid, "{name}");
        }
        assert!("live2".parse::<Phase>().unwrap_err().to_string().contains("rampdown"));
    }
}
