use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use super::{Bulk, Digest, Fenced, Record, Scan};
use crate::error::Result;
use crate::key::Key;

/// One side of a migration: records addressed by keys.
///
/// Both sides speak the same key and record type; each maps its own rows. Calls for different keys may
/// run at the same time. The errors say whether a call took effect (`Error::certainty`): a store that
/// did not answer has an unknown outcome, and the call may take effect until
/// [`settle_time`](Self::settle_time) has passed.
///
/// `Arc<dyn UserRepository>` with `trait UserRepository: Store<Key = .., Record = ..>` is a store as well.
///
/// ```
/// use std::sync::Arc;
/// use zdm_core::store::{MemoryStore, Store};
///
/// trait UserRepository: Store<Key = u64, Record = String> {}
/// impl UserRepository for MemoryStore<u64, String> {}
///
/// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
/// let users: Arc<dyn UserRepository> = Arc::new(MemoryStore::new());
/// users.put(&7, &"Ada".to_owned()).await?;
/// assert_eq!(users.get(&7).await?.as_deref(), Some("Ada"));
/// # Ok::<_, zdm_core::error::Error>(()) }).unwrap();
/// ```
#[async_trait]
pub trait Store: Send + Sync + 'static {
    /// What records are addressed by.
    type Key: Key;
    /// What the store returns.
    type Record: Record;

    /// The record of a key: an authoritative read, never from a replica or a cache.
    ///
    /// # Errors
    /// Whatever the store says; a row that cannot be mapped is `Kind::Rejected`.
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped.
    async fn get(&self, key: &Self::Key) -> Result<Option<Self::Record>>;

    /// Inserts or replaces the record of a key. Repeating it changes nothing. When it returns, the
    /// record is as durable as the store makes anything.
    ///
    /// # Errors
    /// Whatever the store says.
    ///
    /// # Cancel safety
    /// When the future is dropped the outcome is unknown until the settle time has passed.
    async fn put(&self, key: &Self::Key, record: &Self::Record) -> Result<()>;

    /// Removes the record of a key; removing one that is not there is no error.
    ///
    /// # Errors
    /// Whatever the store says.
    ///
    /// # Cancel safety
    /// As for [`put`](Self::put).
    async fn delete(&self, key: &Self::Key) -> Result<()>;

    /// How long a call that was given up on can still take effect. Zero only if a dropped or timed-out
    /// call never takes effect later.
    fn settle_time(&self) -> Duration;

    /// What more this store can do. `Capabilities::none()` is always a right answer.
    fn capabilities(&self) -> Capabilities<'_, Self::Key, Self::Record>;
}

/// A store behind a pointer, for two sides of different types.
pub type DynStore<K, R> = Arc<dyn Store<Key = K, Record = R>>;

/// What a store can do beyond [`Store`].
pub struct Capabilities<'a, K, R> {
    /// Many records in one call.
    pub bulk: Option<&'a dyn Bulk<Key = K, Record = R>>,
    /// Sums of ranges, made where the records are.
    pub digest: Option<&'a dyn Digest<Key = K, Record = R>>,
    /// Pages in key order.
    pub scan: Option<&'a dyn Scan<Key = K, Record = R>>,
    /// Refuses writes that come too late.
    pub fenced: Option<&'a dyn Fenced<Key = K, Record = R>>,
}

impl<K, R> Capabilities<'_, K, R> {
    /// Nothing beyond the contract.
    pub const fn none() -> Self {
        Self { bulk: None, digest: None, scan: None, fenced: None }
    }
}

impl<K, R> Clone for Capabilities<'_, K, R> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<K, R> Copy for Capabilities<'_, K, R> {}

#[async_trait]
impl<S: Store + ?Sized> Store for Arc<S> {
    type Key = S::Key;
    type Record = S::Record;

    async fn get(&self, key: &Self::Key) -> Result<Option<Self::Record>> {
        (**self).get(key).await
    }

    async fn put(&self, key: &Self::Key, record: &Self::Record) -> Result<()> {
        (**self).put(key, record).await
    }

    async fn delete(&self, key: &Self::Key) -> Result<()> {
        (**self).delete(key).await
    }

    fn settle_time(&self) -> Duration {
        (**self).settle_time()
    }

    fn capabilities(&self) -> Capabilities<'_, Self::Key, Self::Record> {
        (**self).capabilities()
    }
}
