//! Conformance suites and faults, for tests of your own parts. Feature `testkit`.
//!
//! Whoever writes a store, a queue, a checkpoint store or a coordinator runs its suite: one function that
//! makes parts, tries every sentence of the contract, and panics with the name of the rule that is broken.
//! [`FaultyStore`] plays a store that fails in every way a real one does; [`CallLog`] tells what was called
//! in which order; [`drop_at_every_poll`] drops a future wherever it can be dropped.
//!
//! Everything here panics rather than returning errors: it is for tests alone.

mod call_log;
mod checkpoint_suite;
mod coordinator_suite;
mod faults;
mod faulty_store;
mod polling;
mod queue_suite;
mod random;
mod rule;
mod store_suite;

pub use call_log::{Call, CallLog, LoggedCall, Step};
pub use checkpoint_suite::{CheckpointFactory, checkpoint_suite};
pub use coordinator_suite::{CoordinatorFactory, coordinator_suite};
pub use faults::{Fault, FaultRates, Faults};
pub use faulty_store::FaultyStore;
pub use polling::{count_polls, drop_after_polls, drop_at_every_poll};
pub use queue_suite::{QueueFactory, queue_suite};
pub use random::Random;
pub use store_suite::{StoreFactory, store_suite};
