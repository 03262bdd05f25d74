//! Copying what was there before mirroring began.

mod load;
mod run;

pub use run::{Backfill, BackfillReport};
