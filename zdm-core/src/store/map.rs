use std::time::Duration;

use async_trait::async_trait;

use super::{Bulk, Capabilities, Change, Fenced, Page, PageLoad, Record, Scan, Stamp, Store, StoreExt};
use crate::error::{Error, Kind, Result};
use crate::key::{Key, KeyBytes, KeyRange};

/// How the keys and records of one store look to another.
///
/// The mapping of keys keeps their order. Both directions are inverses on what the service writes: a
/// record that is written and read again is the same.
pub trait Mapping<K: Key, R: Record>: Send + Sync + 'static {
    /// The key that callers use.
    type Key: Key;
    /// The record that callers use.
    type Record: Record;

    /// The store's key for a caller's key.
    ///
    /// # Errors
    /// [`Kind::Rejected`] when there is none.
    fn key_in(&self, key: &Self::Key) -> Result<K>;

    /// The caller's key for a store's key.
    ///
    /// # Errors
    /// [`Kind::Rejected`] when there is none.
    fn key_out(&self, key: &K) -> Result<Self::Key>;

    /// The store's record for a caller's record.
    ///
    /// # Errors
    /// [`Kind::Rejected`], naming the field, when the record does not fit.
    fn record_in(&self, record: &Self::Record) -> Result<R>;

    /// The caller's record for a store's record.
    ///
    /// # Errors
    /// [`Kind::Rejected`], naming the field, when the record does not fit.
    fn record_out(&self, record: R) -> Result<Self::Record>;
}

/// A store of other keys and records seen through a [`Mapping`], as `Iterator::map` does for items.
///
/// It has the capabilities of the store inside.
#[derive(Clone, Debug)]
pub struct MapStore<S, M> {
    store: S,
    mapping: M,
}

impl<S, M> MapStore<S, M> {
    /// Wraps a store.
    pub const fn new(store: S, mapping: M) -> Self {
        Self { store, mapping }
    }

    /// The store inside.
    pub const fn inner(&self) -> &S {
        &self.store
    }
}

impl<S: Store, M: Mapping<S::Key, S::Record>> MapStore<S, M> {
    fn change_in(&self, change: &Change<M::Key, M::Record>) -> Result<Change<S::Key, S::Record>> {
        Ok(match change {
            Change::Put(key, record) => {
                Change::Put(self.mapping.key_in(key)?, self.mapping.record_in(record)?)
            }
            Change::Delete(key) => Change::Delete(self.mapping.key_in(key)?),
        })
    }

    fn changes_in(&self, changes: &[Change<M::Key, M::Record>]) -> Result<Vec<Change<S::Key, S::Record>>> {
        changes.iter().map(|change| self.change_in(change)).collect()
    }

    fn range_in(&self, range: &KeyRange<M::Key>) -> Result<KeyRange<S::Key>> {
        let bound = |key: &Option<M::Key>| key.as_ref().map(|key| self.mapping.key_in(key)).transpose();
        Ok(KeyRange { after: bound(&range.after)?, up_to: bound(&range.up_to)? })
    }

    /// A conflict names the holder of the value by the store's key; callers know it by their own.
    fn error_out(&self, error: Error) -> Error {
        let Some(holder) = error.holder() else { return error };
        match holder.to_key().and_then(|key| self.mapping.key_out(&key)) {
            Ok(key) => error.held_by(KeyBytes::of(&key)),
            Err(_) => Error::new(error.kind(), error.message().to_owned()).with_source(error),
        }
    }

    fn fence(&self) -> Result<&dyn Fenced<Key = S::Key, Record = S::Record>> {
        let missing = || Error::new(Kind::Invalid, "the store inside this MapStore has no fence");
        self.store.capabilities().fenced.ok_or_else(missing)
    }

    fn scan(&self) -> Result<&dyn Scan<Key = S::Key, Record = S::Record>> {
        let missing =
            || Error::new(Kind::Invalid, "the store inside this MapStore cannot be walked in key order");
        self.store.capabilities().scan.ok_or_else(missing)
    }
}

#[async_trait]
impl<S: Store, M: Mapping<S::Key, S::Record>> Store for MapStore<S, M> {
    type Key = M::Key;
    type Record = M::Record;

    async fn get(&self, key: &M::Key) -> Result<Option<M::Record>> {
        let record = self.store.get(&self.mapping.key_in(key)?).await?;
        record.map(|record| self.mapping.record_out(record)).transpose()
    }

    async fn put(&self, key: &M::Key, record: &M::Record) -> Result<()> {
        let (key, record) = (self.mapping.key_in(key)?, self.mapping.record_in(record)?);
        self.store.put(&key, &record).await.map_err(|error| self.error_out(error))
    }

    async fn delete(&self, key: &M::Key) -> Result<()> {
        self.store.delete(&self.mapping.key_in(key)?).await
    }

    fn settle_time(&self) -> Duration {
        self.store.settle_time()
    }

    fn capabilities(&self) -> Capabilities<'_, M::Key, M::Record> {
        let inner = self.store.capabilities();
        Capabilities {
            bulk: inner.bulk.map(|_| self as _),
            digest: None,
            scan: inner.scan.map(|_| self as _),
            fenced: inner.fenced.map(|_| self as _),
        }
    }
}

#[async_trait]
impl<S: Store, M: Mapping<S::Key, S::Record>> Bulk for MapStore<S, M> {
    async fn get_many(&self, keys: &[M::Key]) -> Result<Vec<Option<M::Record>>> {
        let keys = keys.iter().map(|key| self.mapping.key_in(key)).collect::<Result<Vec<_>>>()?;
        let records = self.store.fetch_many(&keys).await?;
        let out = |record: Option<S::Record>| record.map(|r| self.mapping.record_out(r)).transpose();
        records.into_iter().map(out).collect()
    }

    async fn apply(&self, changes: &[Change<M::Key, M::Record>]) -> Result<()> {
        let changes = self.changes_in(changes)?;
        self.store.apply_all(&changes).await.map_err(|error| self.error_out(error))
    }
}

#[async_trait]
impl<S: Store, M: Mapping<S::Key, S::Record>> Scan for MapStore<S, M> {
    async fn page(&self, range: &KeyRange<M::Key>, limit: usize) -> Result<Page<M::Key, M::Record>> {
        let page = self.scan()?.page(&self.range_in(range)?, limit).await?;
        page.into_iter()
            .map(|(key, record)| {
                let record = record.and_then(|record| self.mapping.record_out(record));
                Ok((self.mapping.key_out(&key)?, record))
            })
            .collect()
    }

    async fn split(&self, parts: usize) -> Result<Vec<KeyRange<M::Key>>> {
        let bound = |key: Option<S::Key>| key.map(|key| self.mapping.key_out(&key)).transpose();
        let ranges = self.scan()?.split(parts).await?;
        ranges
            .into_iter()
            .map(|range| Ok(KeyRange { after: bound(range.after)?, up_to: bound(range.up_to)? }))
            .collect()
    }

    async fn estimated_len(&self) -> Result<u64> {
        self.scan()?.estimated_len().await
    }

    fn record_bytes(&self, range: &KeyRange<M::Key>) -> Option<usize> {
        self.scan().ok()?.record_bytes(&self.range_in(range).ok()?)
    }
}

#[async_trait]
impl<S: Store, M: Mapping<S::Key, S::Record>> Fenced for MapStore<S, M> {
    async fn newest_stamp(&self) -> Result<Stamp> {
        self.fence()?.newest_stamp().await
    }

    async fn apply_if_newer(&self, stamp: Stamp, changes: &[Change<M::Key, M::Record>]) -> Result<u64> {
        let changes = self.changes_in(changes)?;
        self.fence()?.apply_if_newer(stamp, &changes).await.map_err(|error| self.error_out(error))
    }

    async fn load_page(
        &self,
        stamp: Stamp,
        range: &KeyRange<M::Key>,
        records: &[(M::Key, M::Record)],
    ) -> Result<PageLoad<M::Key>> {
        let mut fitting = Vec::with_capacity(records.len());
        let mut rejected = Vec::new();
        for (key, record) in records {
            match self.mapping.record_in(record) {
                Ok(inner) => fitting.push((self.mapping.key_in(key)?, inner)),
                Err(error) => rejected.push((key.clone(), error)),
            }
        }
        let load = self.fence()?.load_page(stamp, &self.range_in(range)?, &fitting).await?;
        for (key, error) in load.rejected {
            rejected.push((self.mapping.key_out(&key)?, self.error_out(error)));
        }
        Ok(PageLoad { written: load.written, superseded: load.superseded, rejected })
    }

    async fn forget_stamps(&self) -> Result<()> {
        self.fence()?.forget_stamps().await
    }
}
