//! Bringing keys that differ back into step.

mod keys;
mod taints;

pub use keys::{Deletions, Repair, RepairReport};
pub use taints::TaintReport;
