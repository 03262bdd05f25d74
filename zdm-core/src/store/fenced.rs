use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use super::{Change, Store};
use crate::error::Result;
use crate::key::KeyRange;

/// The place of a secondary write in the order of reads of the primary. Drawn from the queue before the
/// primary is read, so a greater stamp means a later look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Stamp(pub u64);

/// What became of the records of a page.
#[derive(Clone, Debug, Default)]
pub struct PageLoad<K> {
    /// How many records were written.
    pub written: u64,
    /// How many were left out because a later look at the primary was already there.
    pub superseded: u64,
    /// Records that the store will never take, each with the reason. The rest was written.
    pub rejected: Vec<(K, crate::error::Error)>,
}

/// A store that refuses writes which come too late.
///
/// The stamp stands beside the record and is written in the same transaction. Deletes leave a stamped
/// tombstone until [`forget_stamps`](Self::forget_stamps). With a fence an abandoned write that lands
/// after its successor does no harm.
#[async_trait]
pub trait Fenced: Store {
    /// The greatest stamp that this store has seen; a new queue must go on above it.
    ///
    /// # Errors
    /// Whatever the store says.
    async fn newest_stamp(&self) -> Result<Stamp>;

    /// Applies the changes whose key has no stamp above `stamp`, all of them or none, in one
    /// transaction, and leaves the others out. Returns how many were left out. What
    /// [`Bulk::apply`](super::Bulk::apply) says about unique values holds here too.
    ///
    /// The stamps of pages do not count here. A page does not say which keys had no record when it was
    /// read, so a deletion that looked earlier must still be applied; and whatever a page brought that is
    /// newer than a change has an entry of its own, which brings it again.
    ///
    /// # Errors
    /// As [`Bulk::apply`](super::Bulk::apply).
    ///
    /// # Cancel safety
    /// When the future is dropped the outcome is unknown; it is all or none and harmless at any time.
    async fn apply_if_newer(&self, stamp: Stamp, changes: &[Change<Self::Key, Self::Record>]) -> Result<u64>;

    /// Loads the records of a page by the fastest way there is. `range` is the whole key range that the
    /// page covers, `stamp` was drawn before the page was read. Keys that carry a newer stamp are left
    /// out, and a page whose range has a newer page is left out whole. One record that does not fit
    /// is reported and does not hold up the rest.
    ///
    /// # Errors
    /// Whatever the store says about the page as a whole; then nothing of it was written.
    ///
    /// # Cancel safety
    /// As [`apply_if_newer`](Self::apply_if_newer).
    async fn load_page(
        &self,
        stamp: Stamp,
        range: &KeyRange<Self::Key>,
        records: &[(Self::Key, Self::Record)],
    ) -> Result<PageLoad<Self::Key>>;

    /// Removes all stamps and tombstones. Called when the migration is complete.
    ///
    /// # Errors
    /// Whatever the store says.
    async fn forget_stamps(&self) -> Result<()>;
}
