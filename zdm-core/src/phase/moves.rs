use super::{Gate, Phase, Side};
use crate::error::{Error, Kind, Result};

/// A legal move from one phase to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Move {
    /// Where it begins.
    pub from: Phase,
    /// Where it ends.
    pub to: Phase,
    /// What it changes.
    pub kind: MoveKind,
}

/// What a move changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MoveKind {
    /// Mirroring begins.
    Start,
    /// Mirroring ends without a handover: the new store will lag.
    Abandon,
    /// Reads move towards the new store, or comparing begins or ends.
    Forward,
    /// Reads move back to the primary, or fewer of them are compared. Always allowed, at once.
    StepBack,
    /// The primary role goes to the new store.
    Handover,
    /// The primary role goes back to the old store.
    HandBack,
    /// The old store is let go.
    Finish,
}

impl Move {
    /// The move from one phase to another.
    ///
    /// ```
    /// use zdm_core::phase::{Gate, Move, MoveKind, Phase, Side};
    ///
    /// let handover = Move::between(Phase::Shadow, Phase::Live)?;
    /// assert_eq!((handover.kind, handover.new_primary()), (MoveKind::Handover, Some(Side::New)));
    /// assert!(handover.gates().contains(&Gate::Verified));
    ///
    /// let error = Move::between(Phase::DualWrite, Phase::Live).unwrap_err();
    /// assert!(error.to_string().contains("off or shadow"));
    /// # Ok::<_, zdm_core::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Kind::Refused`] when there is no such move, with those that there are.
    pub fn between(from: Phase, to: Phase) -> Result<Self> {
        use Phase::{Complete, DualWrite, Live, Off, Ramp, RampDown, Shadow};
        let kind = match (from, to) {
            (Off, DualWrite) => MoveKind::Start,
            (DualWrite, Off) => MoveKind::Abandon,
            (DualWrite, Shadow) | (Shadow, Ramp(_)) | (Live, RampDown) => MoveKind::Forward,
            (Ramp(share), Ramp(next)) if share != next => {
                if next > share {
                    MoveKind::Forward
                } else {
                    MoveKind::StepBack
                }
            }
            (Shadow, DualWrite) | (Ramp(_), Shadow) | (RampDown, Live) => MoveKind::StepBack,
            (Shadow | Ramp(_), Live) => MoveKind::Handover,
            (Live | RampDown, Shadow) => MoveKind::HandBack,
            (RampDown, Complete) => MoveKind::Finish,
            (
                Off | DualWrite | Shadow | Ramp(_) | Live | RampDown | Complete,
                Off | DualWrite | Shadow | Ramp(_) | Live | RampDown | Complete,
            ) => {
                let legal = match from {
                    Off => "only dualwrite",
                    DualWrite => "off or shadow",
                    Shadow => "dualwrite, ramp:PERCENT or live",
                    Ramp(_) => "another ramp:PERCENT, shadow or live",
                    Live => "rampdown or shadow",
                    RampDown => "live, shadow or complete",
                    Complete => "nothing; back from complete is a new migration",
                };
                let message = format!("there is no move {from} -> {to}; from {from} there is {legal}");
                return Err(Error::new(Kind::Refused, message));
            }
        };
        Ok(Self { from, to, kind })
    }

    /// The side that becomes primary, if the role moves.
    pub const fn new_primary(&self) -> Option<Side> {
        match self.kind {
            MoveKind::Handover => Some(Side::New),
            MoveKind::HandBack => Some(Side::Old),
            _ => None,
        }
    }

    /// What the move needs. Stepping back needs nothing.
    pub const fn gates(&self) -> &'static [Gate] {
        match self.kind {
            MoveKind::Start | MoveKind::Abandon | MoveKind::StepBack | MoveKind::Finish => &[],
            MoveKind::Forward => match self.to {
                Phase::Shadow => &[Gate::BackfillComplete],
                Phase::Ramp(_) => &[
                    Gate::BackfillComplete,
                    Gate::SecondaryAnswers,
                    Gate::QueueKeepsUp,
                    Gate::NothingParked,
                    Gate::NoTaint,
                    Gate::Verified,
                    Gate::ShadowClean,
                ],
                _ => &[],
            },
            MoveKind::Handover => &[
                Gate::SurvivesACrash,
                Gate::BackfillComplete,
                Gate::SecondaryAnswers,
                Gate::QueueKeepsUp,
                Gate::NothingParked,
                Gate::NoTaint,
                Gate::Verified,
                Gate::ShadowClean,
            ],
            // The way back must stay open: what the invariant needs is needed, opinions are not.
            MoveKind::HandBack => &[
                Gate::SurvivesACrash,
                Gate::SecondaryAnswers,
                Gate::QueueKeepsUp,
                Gate::NothingParked,
                Gate::NoTaint,
            ],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Percent;
    use super::*;

    fn all() -> Vec<Phase> {
        let ramp = |percent| Phase::Ramp(Percent::new(percent).unwrap());
        vec![
            Phase::Off,
            Phase::DualWrite,
            Phase::Shadow,
            ramp(10.0),
            ramp(50.0),
            Phase::Live,
            Phase::RampDown,
            Phase::Complete,
        ]
    }

    #[test]
    fn the_primary_role_moves_only_in_a_handover() {
        for from in all() {
            for to in all() {
                let Ok(planned) = Move::between(from, to) else { continue };
                let moved = from.routing().primary != to.routing().primary;
                assert_eq!(planned.new_primary(), moved.then_some(to.routing().primary), "{from} -> {to}");
                if planned.new_primary().is_some() {
                    assert!(planned.gates().contains(&Gate::SurvivesACrash));
                    assert!(planned.gates().contains(&Gate::NoTaint));
                }
            }
        }
    }

    #[test]
    fn there_are_exactly_these_moves() {
        let legal: Vec<String> = all()
            .iter()
            .flat_map(|from| all().into_iter().map(move |to| (*from, to)))
            .filter(|(from, to)| Move::between(*from, *to).is_ok())
            .map(|(from, to)| format!("{from}>{to}"))
            .collect();
        assert_eq!(
            legal,
            [
                "off>dualwrite",
                "dualwrite>off",
                "dualwrite>shadow",
                "shadow>dualwrite",
                "shadow>ramp:10",
                "shadow>ramp:50",
                "shadow>live",
                "ramp:10>shadow",
                "ramp:10>ramp:50",
                "ramp:10>live",
                "ramp:50>shadow",
                "ramp:50>ramp:10",
                "ramp:50>live",
                "live>shadow",
                "live>rampdown",
                "rampdown>shadow",
                "rampdown>live",
                "rampdown>complete",
            ]
        );
    }

    #[test]
    fn an_illegal_move_names_the_legal_ones() {
        let error = Move::between(Phase::Complete, Phase::Live).unwrap_err();
        assert_eq!(error.kind(), Kind::Refused);
        assert!(error.to_string().contains("new migration"), "{error}");
    }
}
