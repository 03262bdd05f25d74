//! The secondary-write queue: which keys are pending.
//!
//! The invariant that everything rests on: if the secondary's record for a key may differ from the
//! primary's, or any actor may still change either, then an entry covering the key exists that only the
//! resolution of that actor removes.
//!
//! The queue holds keys, not payloads: whoever reconciles a key reads the primary afresh. One write
//! makes one [`Entry`], and entries are never merged, because a write that lands while an older entry of
//! the same key is being reconciled must survive that entry's acknowledgement.
//!
//! ```text
//!            open            release            claim
//!   (write) ------> OPEN -------------> RELEASED ----> CLAIMED --ack--> gone
//!                    |  \                ^   ^  ^         |
//!              cancel|   \hold           |   |  \-retry---+
//!                    v    v   deadline   |   unpark       |park
//!                  gone  AMBIGUOUS ------+   \--- PARKED <-+
//! ```
//!
//! [`QueueIndex`] is that machine without storage; [`MemoryQueue`] and every durable queue drive it.

mod contract;
mod entry;
mod index;
mod memory;
mod touch;

pub use contract::{WriteQueue, WriteQueueExt};
pub use entry::{
    Claim, Direction, Entry, EntryId, EntryState, Epoch, Guarantee, QueueStats, Taint, TaintId, WatchId,
};
pub use index::QueueIndex;
pub use memory::MemoryQueue;
pub use touch::{Intent, Span, Touch, TouchItem};
