//! Checkpoints: how far a job has come, so that a restart goes on from there.
//!
//! A checkpoint is never ahead of its data: a job saves it after everything below the position is done.
//! Its position is opaque to the store; the sequence number makes sure that it only moves forward, and
//! the subject that nobody goes on from the position of another table.
//!
//! [`FileCheckpoints`] is one of the two places of this crate that do I/O (the other is the file
//! coordinator): it keeps one-process migrations free of any server. It calls `std::fs` only inside
//! `tokio::task::spawn_blocking`.

mod contract;
mod file;
mod memory;

pub use contract::{Checkpoint, CheckpointStore};
pub use file::FileCheckpoints;
pub use memory::MemoryCheckpoints;
