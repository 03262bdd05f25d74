use std::sync::Arc;

use async_trait::async_trait;

use super::{Change, DynStore, MapStore, Store};
use crate::error::{Error, Kind, Result};

/// Comforts for callers of a [`Store`]. Nothing here can be overridden.
#[async_trait]
pub trait StoreExt: Store {
    /// The record of a key that must be there.
    ///
    /// # Errors
    /// [`Kind::Refused`] naming the key when there is no record, else as [`Store::get`].
    async fn fetch(&self, key: &Self::Key) -> Result<Self::Record> {
        let record = self.get(key).await?;
        record.ok_or_else(|| Error::new(Kind::Refused, format!("there is no record with the key {key:?}")))
    }

    /// Reads many records, in one call where the store can.
    ///
    /// # Errors
    /// As [`Store::get`].
    async fn fetch_many(&self, keys: &[Self::Key]) -> Result<Vec<Option<Self::Record>>> {
        if let Some(bulk) = self.capabilities().bulk {
            return bulk.get_many(keys).await;
        }
        let mut records = Vec::with_capacity(keys.len());
        for key in keys {
            records.push(self.get(key).await?);
        }
        Ok(records)
    }

    /// Applies many changes: all or none where the store can, else one after the other up to the first
    /// that fails.
    ///
    /// # Errors
    /// As [`Store::put`] and [`Store::delete`].
    async fn apply_all(&self, changes: &[Change<Self::Key, Self::Record>]) -> Result<()> {
        if let Some(bulk) = self.capabilities().bulk {
            return bulk.apply(changes).await;
        }
        for change in changes {
            match change {
                Change::Put(key, record) => self.put(key, record).await?,
                Change::Delete(key) => self.delete(key).await?,
            }
        }
        Ok(())
    }

    /// This store as one side of a migration whose sides have different types.
    fn into_dyn(self) -> DynStore<Self::Key, Self::Record>
    where
        Self: Sized,
    {
        Arc::new(self)
    }

    /// This store with its keys and records seen through a mapping.
    fn mapped<M>(self, mapping: M) -> MapStore<Self, M>
    where
        Self: Sized,
    {
        MapStore::new(self, mapping)
    }
}

impl<S: Store + ?Sized> StoreExt for S {}
