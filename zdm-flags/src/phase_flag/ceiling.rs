use zdm_core::phase::Phase;

use super::axis::position;
use crate::definition::Variant;

/// For each variant, the one that is served while no subject may be past `ceiling`: the furthest that is
/// not past it, or the first phase of the flag where all are.
pub(crate) fn held(variants: &[Variant], ceiling: Phase) -> Box<[u32]> {
    let phases: Vec<(u32, Phase)> =
        (0..).zip(variants).filter_map(|(index, variant)| Some((index, variant.as_phase()?))).collect();
    let below = phases.iter().filter(|(_, phase)| position(*phase) <= position(ceiling));
    let furthest = below
        .max_by_key(|(_, phase)| position(*phase))
        .or_else(|| phases.iter().min_by_key(|(_, phase)| position(*phase)));
    (0..)
        .zip(variants)
        .map(|(index, variant): (u32, _)| match (variant.as_phase(), furthest) {
            (Some(phase), Some((furthest, _))) if position(phase) > position(ceiling) => *furthest,
            _ => index,
        })
        .collect()
}
