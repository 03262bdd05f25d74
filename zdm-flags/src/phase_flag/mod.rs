//! Phase flags: which phase of a migration each subject is in.
//!
//! A string flag whose variants are names of phases, marked `zdm.kind: "phase"`. All its subjects stand on
//! one ordered axis: one hash, and for each phase a threshold, "the share at or past this phase". Buckets
//! are written in the order of the phases, so growing the share of a later phase at the cost of an earlier
//! one only moves subjects forward, and taking it back moves the last ones back first.
//!
//! When a file is loaded, it is proved for every branch of the targeting that no subject moves backward
//! from where the running snapshot has it, and that none jumps over a phase. A file that would do so is
//! refused. `zdm.rollback: true` allows to go back; nothing allows to jump ahead, or to come back from
//! `complete`.
//!
//! Schedules are data: weights that are linear in `$flagd.timestamp`, or `zdm.ramp`:
//!
//! ```text
//! "zdm.ramp": "dualwrite: 0% @ 2026-03-01, 100% @ 2026-03-02; shadow: 0% @ 2026-03-02, 100% @ 2026-03-09T12:00:00Z"
//! ```
//!
//! For each variant the share of subjects at or past it, linear between the points, constant before the
//! first and after the last. Times are in UTC, or in seconds since 1970. A ramp is what happens where the
//! targeting chooses nothing; whom it has not reached yet gets the default variant. It works for any flag;
//! for phase flags the same proof covers the 20 years from the load on.

mod axis;
mod ceiling;
mod proof;
mod ramp;
mod shape;

pub(crate) use axis::position;
pub(crate) use ceiling::held;
pub(crate) use proof::{Known, check_reload};
pub(crate) use ramp::Ramp;
pub(crate) use shape::PhaseShape;

use crate::evaluation::compiled::CompiledFlag;
use crate::targeting::{Node, Op};

/// The times at which a schedule of this flag may bend, in order.
pub(crate) fn bends(flag: &CompiledFlag) -> Vec<i64> {
    let mut bends = Vec::new();
    if let Some(ramp) = &flag.ramp {
        ramp.bends(&mut bends);
    }
    match (&flag.shape, &flag.targeting) {
        (Some(shape), _) => shape.bends(&mut bends),
        // Other flags may compute with the time as they like: their constants that look like times.
        (None, Some(node)) if asks_for_time(node) => constants(node, &mut bends),
        (None, _) => {}
    }
    bends.sort_unstable();
    bends.dedup();
    bends
}

fn asks_for_time(node: &Node) -> bool {
    matches!(node.op, Op::Timestamp)
        || crate::targeting::children(node).iter().any(|child| asks_for_time(child))
}

fn constants(node: &Node, into: &mut Vec<i64>) {
    /// 2001-09-09, before anything that is scheduled.
    const EARLIEST: i64 = 1_000_000_000;
    if let Op::Constant { value, .. } = &node.op
        && let Some(number) = value.as_i64()
        && number >= EARLIEST
    {
        into.push(number);
    }
    for child in crate::targeting::children(node) {
        constants(child, into);
    }
}
