//! What the example programs are made of. Not published; each program in `src/bin` is a few lines.

pub mod flags;
pub mod live_migration;
