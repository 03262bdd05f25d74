//! A store that can be switched off, to show what an outage of the new database does to the service: nothing.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use zdm_core::error::{Error, Kind, Result};
use zdm_core::key::KeyRange;
use zdm_core::store::{
    Bulk, Capabilities, Change, Digest, Fenced, Page, PageLoad, RangeDigest, Scan, Stamp, Store, StoreExt,
};

/// Turns a store off and on.
#[derive(Clone, Debug, Default)]
pub struct Switch(Arc<AtomicBool>);

impl Switch {
    /// From now on every call fails.
    pub fn turn_off(&self) {
        self.0.store(true, Ordering::SeqCst);
    }

    /// From now on calls reach the store again.
    pub fn turn_on(&self) {
        self.0.store(false, Ordering::SeqCst);
    }

    /// Whether calls fail.
    pub fn is_off(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }

    fn pass(&self) -> Result<()> {
        if self.is_off() {
            return Err(Error::new(
                Kind::Unavailable,
                "the new database is switched off for a while (--outage)",
            ));
        }
        Ok(())
    }
}

/// A store behind a [`Switch`].
#[derive(Clone, Debug)]
pub struct Switched<S> {
    store: S,
    switch: Switch,
}

impl<S: Store> Switched<S> {
    /// Puts the switch before the store.
    pub const fn new(store: S, switch: Switch) -> Self {
        Self { store, switch }
    }

    fn scan(&self) -> Result<&dyn Scan<Key = S::Key, Record = S::Record>> {
        self.switch.pass()?;
        let missing =
            || Error::new(Kind::Invalid, "the store behind the switch cannot be walked in key order");
        self.store.capabilities().scan.ok_or_else(missing)
    }

    fn sums(&self) -> Result<&dyn Digest<Key = S::Key, Record = S::Record>> {
        self.switch.pass()?;
        let missing = || Error::new(Kind::Invalid, "the store behind the switch does not sum up ranges");
        self.store.capabilities().digest.ok_or_else(missing)
    }

    fn fence(&self) -> Result<&dyn Fenced<Key = S::Key, Record = S::Record>> {
        self.switch.pass()?;
        let missing = || Error::new(Kind::Invalid, "the store behind the switch has no fence");
        self.store.capabilities().fenced.ok_or_else(missing)
    }
}

#[async_trait]
impl<S: Store> Store for Switched<S> {
    type Key = S::Key;
    type Record = S::Record;

    async fn get(&self, key: &S::Key) -> Result<Option<S::Record>> {
        self.switch.pass()?;
        self.store.get(key).await
    }

    async fn put(&self, key: &S::Key, record: &S::Record) -> Result<()> {
        self.switch.pass()?;
        self.store.put(key, record).await
    }

    async fn delete(&self, key: &S::Key) -> Result<()> {
        self.switch.pass()?;
        self.store.delete(key).await
    }

    fn settle_time(&self) -> Duration {
        self.store.settle_time()
    }

    fn capabilities(&self) -> Capabilities<'_, S::Key, S::Record> {
        let inner = self.store.capabilities();
        Capabilities {
            bulk: inner.bulk.map(|_| self as _),
            digest: inner.digest.map(|_| self as _),
            scan: inner.scan.map(|_| self as _),
            fenced: inner.fenced.map(|_| self as _),
        }
    }
}

#[async_trait]
impl<S: Store> Bulk for Switched<S> {
    async fn get_many(&self, keys: &[S::Key]) -> Result<Vec<Option<S::Record>>> {
        self.switch.pass()?;
        self.store.fetch_many(keys).await
    }

    async fn apply(&self, changes: &[Change<S::Key, S::Record>]) -> Result<()> {
        self.switch.pass()?;
        self.store.apply_all(changes).await
    }
}

#[async_trait]
impl<S: Store> Scan for Switched<S> {
    async fn page(&self, range: &KeyRange<S::Key>, limit: usize) -> Result<Page<S::Key, S::Record>> {
        self.scan()?.page(range, limit).await
    }

    async fn split(&self, parts: usize) -> Result<Vec<KeyRange<S::Key>>> {
        self.scan()?.split(parts).await
    }

    async fn estimated_len(&self) -> Result<u64> {
        self.scan()?.estimated_len().await
    }

    fn record_bytes(&self, range: &KeyRange<S::Key>) -> Option<usize> {
        self.scan().ok()?.record_bytes(range)
    }
}

#[async_trait]
impl<S: Store> Digest for Switched<S> {
    fn digest_of(&self) -> String {
        self.store.capabilities().digest.map(Digest::digest_of).unwrap_or_default()
    }

    async fn nth_key(&self, range: &KeyRange<S::Key>, records: usize) -> Result<Option<S::Key>> {
        self.sums()?.nth_key(range, records).await
    }

    async fn digest(&self, range: &KeyRange<S::Key>) -> Result<RangeDigest> {
        self.sums()?.digest(range).await
    }
}

#[async_trait]
impl<S: Store> Fenced for Switched<S> {
    async fn newest_stamp(&self) -> Result<Stamp> {
        self.fence()?.newest_stamp().await
    }

    async fn apply_if_newer(&self, stamp: Stamp, changes: &[Change<S::Key, S::Record>]) -> Result<u64> {
        self.fence()?.apply_if_newer(stamp, changes).await
    }

    async fn load_page(
        &self,
        stamp: Stamp,
        range: &KeyRange<S::Key>,
        records: &[(S::Key, S::Record)],
    ) -> Result<PageLoad<S::Key>> {
        self.fence()?.load_page(stamp, range, records).await
    }

    async fn forget_stamps(&self) -> Result<()> {
        self.fence()?.forget_stamps().await
    }
}

#[cfg(test)]
mod tests {
    use zdm_core::store::MemoryStore;

    use super::*;

    #[tokio::test]
    async fn nothing_reaches_a_store_that_is_off() {
        let (switch, inner) = (Switch::default(), MemoryStore::<u64, String>::new().with_digest());
        let store = Switched::new(inner, switch.clone());
        store.put(&1, &"before".to_owned()).await.unwrap();
        switch.turn_off();
        let error = store.put(&1, &"during".to_owned()).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Unavailable);
        let capabilities = store.capabilities();
        let (bulk, scan, fence) =
            (capabilities.bulk.unwrap(), capabilities.scan.unwrap(), capabilities.fenced.unwrap());
        assert!(store.get(&1).await.is_err() && store.delete(&1).await.is_err());
        assert!(bulk.get_many(&[1]).await.is_err() && bulk.apply(&[Change::Delete(1)]).await.is_err());
        assert!(scan.page(&KeyRange::all(), 1).await.is_err() && scan.estimated_len().await.is_err());
        let sums = capabilities.digest.unwrap();
        assert!(
            sums.digest(&KeyRange::all()).await.is_err() && sums.nth_key(&KeyRange::all(), 1).await.is_err()
        );
        assert!(fence.apply_if_newer(Stamp(1), &[Change::Delete(1)]).await.is_err());
        assert!(fence.load_page(Stamp(1), &KeyRange::all(), &[]).await.is_err());
        switch.turn_on();
        assert_eq!(store.get(&1).await.unwrap().as_deref(), Some("before"));
        assert_eq!(sums.digest(&KeyRange::all()).await.unwrap().records, 1);
        assert_eq!(scan.page(&KeyRange::all(), 9).await.unwrap().len(), 1);
    }
}
