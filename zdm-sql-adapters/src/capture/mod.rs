//! Capture inside the database: triggers note which keys any writer touches, and a queue takes the notes over.
//!
//! For writers that do not go through the library: another service, a person with a console, a stored
//! procedure. A trigger notes the keys of every row that is inserted, updated or deleted in a table beside
//! the data, in the writer's own transaction, so the note is there exactly if the write is. [`CapturedQueue`]
//! stands around any queue, moves the notes into it, and so raises it to
//! [`Guarantee::Trigger`](zdm_core::queue::Guarantee::Trigger).
//!
//! Notes are removed one by one when their entry is durable, never up to a mark: a transaction that began
//! early may commit late. What the adapters write to a secondary is not noted, or every write would come back
//! as its own echo.

mod queue;

use async_trait::async_trait;
use zdm_core::error::Result;
use zdm_core::queue::Touch;

pub use queue::CapturedQueue;

/// A note of a trigger.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    /// What [`CaptureSource::forget`] knows it by.
    pub id: i64,
    /// What was touched.
    pub touch: Touch,
}

/// The notes of the triggers of one table.
#[async_trait]
pub trait CaptureSource: Send + Sync + 'static {
    /// The oldest notes that can be seen, at most `limit` of them.
    ///
    /// # Errors
    /// Whatever the database says; `Kind::Rejected` for a key that is none of the store's type.
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped.
    async fn notes(&self, limit: usize) -> Result<Vec<Note>>;

    /// Removes notes whose entries are durable.
    ///
    /// # Errors
    /// Whatever the database says; then they come once more, which is harmless.
    ///
    /// # Cancel safety
    /// They are removed or come once more.
    async fn forget(&self, ids: &[i64]) -> Result<()>;
}
