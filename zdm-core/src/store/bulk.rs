use async_trait::async_trait;

use super::Store;
use crate::error::Result;

/// One change of one record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change<K, R> {
    /// Insert or replace.
    Put(K, R),
    /// Remove, if it is there.
    Delete(K),
}

impl<K, R> Change<K, R> {
    /// The key that is changed.
    pub const fn key(&self) -> &K {
        match self {
            Self::Put(key, _) | Self::Delete(key) => key,
        }
    }

    /// The record that is put.
    pub const fn record(&self) -> Option<&R> {
        match self {
            Self::Put(_, record) => Some(record),
            Self::Delete(_) => None,
        }
    }
}

/// A store that reads and writes many records in one call.
#[async_trait]
pub trait Bulk: Store {
    /// The records of the keys, in the order of the keys.
    ///
    /// # Errors
    /// As [`Store::get`]; one record that cannot be mapped fails the call.
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped.
    async fn get_many(&self, keys: &[Self::Key]) -> Result<Vec<Option<Self::Record>>>;

    /// Applies all changes or none, in one transaction. The end state counts: unique values may move
    /// between the records of one call in any order. Each key occurs once.
    ///
    /// # Errors
    /// A unique value held by a record outside the call is `Kind::Conflict`, with the holder's key where
    /// the store can tell.
    ///
    /// # Cancel safety
    /// When the future is dropped the outcome is unknown until the settle time has passed; it is still
    /// all or none.
    async fn apply(&self, changes: &[Change<Self::Key, Self::Record>]) -> Result<()>;
}
