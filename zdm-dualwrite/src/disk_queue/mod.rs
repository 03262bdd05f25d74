//! [`DiskQueue`]: the embedded, durable queue of secondary writes.
//!
//! An entry is in a log on the disk before the call that it covers, and everything else about it is in
//! memory: opening the queue reads the log back. What a crash can do to an entry is bring it back although
//! it was resolved, which costs one more comparison of the two stores. It cannot make one vanish.
//!
//! From the disk upwards:
//!
//! - `file_system`: the few operations on files that are needed, so that tests can put a failing disk under them;
//! - `journal`: a log of entries in recycled files, which forgets in any order and tells damage from a torn tail;
//! - `commit`: the thread that writes and syncs for everybody, one group after the other;
//! - `queue`: the contract of [`WriteQueue`](zdm_core::queue::WriteQueue) on top of it.
//!
//! The directory belongs to one process at a time and to one migration.

mod background_sync;
mod boot;
mod builder;
mod commit;
mod entry_bytes;
mod file_system;
mod journal;
mod queue;
#[cfg(test)]
mod simulation;

pub use builder::{DiskQueueBuilder, Durability};
pub use queue::DiskQueue;
