use zdm_core::phase::{Move, MoveKind, Phase};

/// Where a phase is on the axis along which subjects advance. Used to put buckets and thresholds in order;
/// which moves are legal is the table of [`Move::between`] alone.
pub(crate) const fn position(phase: Phase) -> (u8, u16) {
    match phase {
        Phase::Off => (0, 0),
        Phase::DualWrite => (1, 0),
        Phase::Shadow => (2, 0),
        Phase::Ramp(share) => (3, share.hundredths()),
        Phase::Live => (4, 0),
        Phase::RampDown => (5, 0),
        Phase::Complete => (6, 0),
    }
}

/// What a change of phase means for one subject.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    Stays,
    Forward,
    /// Over at least one phase, ahead.
    Jump,
    Back,
    /// Back from `complete`, which no move allows.
    Never,
}

pub(crate) fn step(from: Phase, to: Phase) -> Step {
    if from == to {
        return Step::Stays;
    }
    match Move::between(from, to) {
        Ok(planned) => match planned.kind {
            MoveKind::Start | MoveKind::Forward | MoveKind::Handover | MoveKind::Finish => Step::Forward,
            MoveKind::Abandon | MoveKind::StepBack | MoveKind::HandBack => Step::Back,
        },
        Err(_) if from == Phase::Complete => Step::Never,
        Err(_) if position(to) > position(from) => Step::Jump,
        Err(_) => Step::Back,
    }
}

#[cfg(test)]
mod tests {
    use zdm_core::phase::Percent;

    use super::*;

    #[test]
    fn every_forward_move_goes_up_the_axis() {
        let ramp = |percent| Phase::Ramp(Percent::new(percent).unwrap());
        let all = [
            Phase::Off,
            Phase::DualWrite,
            Phase::Shadow,
            ramp(5.0),
            ramp(50.0),
            Phase::Live,
            Phase::RampDown,
            Phase::Complete,
        ];
        assert!(all.is_sorted_by_key(|phase| position(*phase)));
        for from in all {
            for to in all {
                let up = position(to) > position(from);
                match step(from, to) {
                    Step::Stays => assert_eq!(from, to),
                    Step::Forward | Step::Jump => assert!(up, "{from} -> {to}"),
                    Step::Back | Step::Never => assert!(!up, "{from} -> {to}"),
                }
            }
        }
        assert_eq!(step(Phase::Off, Phase::Shadow), Step::Jump);
        assert_eq!(step(Phase::Shadow, Phase::Live), Step::Forward);
        assert_eq!(step(Phase::Complete, Phase::Live), Step::Never);
    }
}
