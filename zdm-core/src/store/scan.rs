use async_trait::async_trait;

use super::Store;
use crate::error::Result;
use crate::key::KeyRange;

/// Records in key order. A row that cannot be mapped keeps its place, with the error.
pub type Page<K, R> = Vec<(K, Result<R>)>;

/// A store that walks its records in key order.
#[async_trait]
pub trait Scan: Store {
    /// The first records of a range, at most `limit` of them, in the order of `Key`'s `Ord`. Fewer than
    /// `limit` means that the range holds no more. An authoritative read, like [`Store::get`].
    ///
    /// # Errors
    /// Whatever the store says; a single row that cannot be mapped is no error of the call.
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped.
    async fn page(&self, range: &KeyRange<Self::Key>, limit: usize) -> Result<Page<Self::Key, Self::Record>>;

    /// Cuts the key space into at most `parts` disjoint ranges of about equal size that together cover
    /// every key, in key order. The first is open below and the last above.
    ///
    /// # Errors
    /// Whatever the store says.
    async fn split(&self, parts: usize) -> Result<Vec<KeyRange<Self::Key>>>;

    /// About how many records there are. For progress reports only.
    ///
    /// # Errors
    /// Whatever the store says.
    async fn estimated_len(&self) -> Result<u64>;

    /// About how many bytes a record at the beginning of a range takes in memory, going by pages that were
    /// read. `None`, the default, where that is not known: whoever walks the store can then bound its pages by
    /// their records alone.
    fn record_bytes(&self, range: &KeyRange<Self::Key>) -> Option<usize> {
        let _ = range;
        None
    }
}
