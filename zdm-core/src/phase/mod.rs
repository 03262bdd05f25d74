//! Where a migration stands, who answers in each phase, and which moves are legal.
//!
//! Phases are never compared with `<`: one exhaustive table says what each phase means
//! ([`Phase::routing`]), another which moves exist and what they need ([`Move::between`]).
//!
//! A [`Coordinator`] keeps the phase, its epoch and the record of every move. [`FileCoordinator`] does so
//! for one process and is, with the file checkpoints, the only part of this crate that does I/O: it calls
//! `std::fs` inside `tokio::task::spawn_blocking`.

mod coordinator;
mod file;
mod gate;
mod memory;
mod moves;
mod routing;
mod stage;

pub use coordinator::{Audit, Coordinator, Member, MoveRecord, PhaseRecord};
pub use file::FileCoordinator;
pub use gate::{Gate, GateCheck, GateReport, Override};
pub use memory::MemoryCoordinator;
pub use moves::{Move, MoveKind};
pub use routing::{Reads, Routing, Side};
pub use stage::{Percent, Phase};
