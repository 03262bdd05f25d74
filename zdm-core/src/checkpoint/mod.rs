//! Where a long run stands, durably: a backfill that is killed goes on from its checkpoint.
//!
//! A checkpoint is never ahead of its data: whoever saves one has made everything below it durable.
//! [`FileCheckpoints`] and the file coordinator are the only parts of this crate that do I/O; they use the
//! standard library on tokio's blocking threads.

mod contract;
mod file;
mod memory;

pub use contract::{Checkpoint, CheckpointStore};
pub use file::FileCheckpoints;
pub use memory::MemoryCheckpoints;
