//! Where a migration stands and who follows it, in tables of a database server, for several instances.
//!
//! The phase of a migration is one row. A move replaces it if its epoch is still the expected one, and
//! writes the move down, in one transaction: of two instances that move at the same time, one is refused.
//! Members say which epoch they follow in a row each, with a lease by the server's clock, so the clocks of
//! the instances need not agree.

mod coordinator;
mod tables;

pub use coordinator::SharedCoordinator;
pub use tables::PhaseTables;
