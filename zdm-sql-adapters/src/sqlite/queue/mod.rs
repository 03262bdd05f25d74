//! The secondary-write queue in tables of a SQLite file.
//!
//! The state machine is [`QueueIndex`](zdm_core::queue::QueueIndex), in memory; the tables hold what a
//! restart needs: the touches of all entries, which of them are parked, the taints, and how far stamps
//! have been drawn. An entry is in its table before `open` returns. Everything else follows lazily and in
//! order: what a crash throws back is reconciled once more.
//!
//! Entries that are opened at the same time are committed together.

mod commit;
mod lock;
mod table;
mod write_queue;

pub(super) use lock::lock;
pub use write_queue::SqliteQueue;
