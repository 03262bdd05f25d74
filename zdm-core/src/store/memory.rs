use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::ops::Bound;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;

use super::{
    Bulk, Capabilities, Change, Digest, Fenced, Page, PageLoad, RangeDigest, Record, Scan, Stamp, Store,
};
use crate::error::{Error, Kind, Result};
use crate::key::{Key, KeyBytes, KeyRange};

/// A store in memory: the reference behaviour of every capability, and a fast one for tests.
///
/// ```
/// use zdm_core::store::{MemoryStore, Store};
///
/// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
/// let store = MemoryStore::new();
/// store.put(&1_u64, &"one".to_owned()).await?;
/// store.delete(&1).await?;
/// assert_eq!(store.get(&1).await?, None);
/// # Ok::<_, zdm_core::error::Error>(()) }).unwrap();
/// ```
pub struct MemoryStore<K, R> {
    tables: Mutex<Tables<K, R>>,
    unique: Vec<UniqueRule<R>>,
    settle_time: Duration,
    level: Level,
    digests: bool,
}

/// How much of the contract the store offers, so that weaker stores can be played.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Level {
    Plain,
    Bulk,
    Fenced,
}

struct UniqueRule<R> {
    name: &'static str,
    value: Box<UniqueValue<R>>,
}

type UniqueValue<R> = dyn Fn(&R) -> Option<String> + Send + Sync;

struct Tables<K, R> {
    records: BTreeMap<K, R>,
    /// Stamps of keys that were written live; a key without a record is a tombstone.
    stamps: BTreeMap<K, Stamp>,
    pages: Vec<(KeyRange<K>, Stamp)>,
    newest: Stamp,
}

impl<K: Key, R: Record> MemoryStore<K, R> {
    /// An empty store with every capability, whose calls never land late.
    pub fn new() -> Self {
        Self {
            tables: Mutex::new(Tables {
                records: BTreeMap::new(),
                stamps: BTreeMap::new(),
                pages: Vec::new(),
                newest: Stamp::default(),
            }),
            unique: Vec::new(),
            settle_time: Duration::ZERO,
            level: Level::Fenced,
            digests: false,
        }
    }

    /// Offers sums of ranges as well.
    #[must_use]
    pub fn with_digest(mut self) -> Self {
        self.digests = true;
        self
    }

    /// Keeps bulk calls and pages and gives up the fence.
    #[must_use]
    pub fn without_fence(mut self) -> Self {
        self.level = self.level.min(Level::Bulk);
        self
    }

    /// Gives up everything beyond the contract of [`Store`].
    #[must_use]
    pub fn plain(mut self) -> Self {
        self.level = Level::Plain;
        self
    }

    /// Declares a settle time.
    #[must_use]
    pub fn with_settle_time(mut self, settle_time: Duration) -> Self {
        self.settle_time = settle_time;
        self
    }

    /// Adds a unique constraint: no two records may share the value; `None` never contends.
    #[must_use]
    pub fn with_unique(
        mut self,
        name: &'static str,
        value: impl Fn(&R) -> Option<String> + Send + Sync + 'static,
    ) -> Self {
        self.unique.push(UniqueRule { name, value: Box::new(value) });
        self
    }

    /// A copy of all records.
    pub fn snapshot(&self) -> BTreeMap<K, R> {
        self.lock().records.clone()
    }

    /// How many records there are.
    pub fn len(&self) -> usize {
        self.lock().records.len()
    }

    /// Whether there is no record.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn lock(&self) -> MutexGuard<'_, Tables<K, R>> {
        // Every change is made whole before the lock is let go, so a panic elsewhere leaves it sound.
        self.tables.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Applies changes to the tables, or none of them if a unique value would stand twice.
    fn change(&self, tables: &mut Tables<K, R>, changes: &[Change<K, R>]) -> Result<()> {
        for rule in &self.unique {
            for change in changes {
                let Some(value) = change.record().and_then(|record| (rule.value)(record)) else { continue };
                let taken_inside = changes.iter().find(|other| {
                    other.key() != change.key()
                        && other.record().and_then(|record| (rule.value)(record)).as_ref() == Some(&value)
                });
                let taken_outside = tables.records.iter().find(|(key, record)| {
                    (rule.value)(record).as_ref() == Some(&value)
                        && changes.iter().all(|other| other.key() != *key)
                });
                let holder = taken_inside.map(Change::key).or(taken_outside.map(|(key, _)| key));
                if let Some(holder) = holder {
                    let message = format!(
                        "the value {value:?} of the unique constraint {} is held by the record {holder:?}",
                        rule.name
                    );
                    return Err(Error::new(Kind::Conflict, message).held_by(KeyBytes::of(holder)));
                }
            }
        }
        for change in changes {
            match change {
                Change::Put(key, record) => tables.records.insert(key.clone(), record.clone()),
                Change::Delete(key) => tables.records.remove(key),
            };
        }
        Ok(())
    }
}

impl<K: Key, R: Record> Default for MemoryStore<K, R> {
    fn default() -> Self {
        Self::new()
    }
}

impl<K: Key, R: Record> std::fmt::Debug for MemoryStore<K, R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MemoryStore").field("len", &self.len()).finish_non_exhaustive()
    }
}

#[async_trait]
impl<K: Key, R: Record> Store for MemoryStore<K, R> {
    type Key = K;
    type Record = R;

    async fn get(&self, key: &K) -> Result<Option<R>> {
        Ok(self.lock().records.get(key).cloned())
    }

    async fn put(&self, key: &K, record: &R) -> Result<()> {
        let mut tables = self.lock();
        if self.unique.is_empty() {
            tables.records.insert(key.clone(), record.clone());
            return Ok(());
        }
        self.change(&mut tables, &[Change::Put(key.clone(), record.clone())])
    }

    async fn delete(&self, key: &K) -> Result<()> {
        self.lock().records.remove(key);
        Ok(())
    }

    fn settle_time(&self) -> Duration {
        self.settle_time
    }

    fn capabilities(&self) -> Capabilities<'_, K, R> {
        Capabilities {
            bulk: (self.level >= Level::Bulk).then_some(self),
            digest: self.digests.then_some(self),
            scan: (self.level >= Level::Bulk).then_some(self),
            fenced: (self.level >= Level::Fenced).then_some(self),
        }
    }
}

#[async_trait]
impl<K: Key, R: Record> Bulk for MemoryStore<K, R> {
    async fn get_many(&self, keys: &[K]) -> Result<Vec<Option<R>>> {
        let tables = self.lock();
        Ok(keys.iter().map(|key| tables.records.get(key).cloned()).collect())
    }

    async fn apply(&self, changes: &[Change<K, R>]) -> Result<()> {
        self.change(&mut self.lock(), changes)
    }
}

impl<K: Key, R> Tables<K, R> {
    fn within<'a>(&'a self, range: &'a KeyRange<K>) -> impl Iterator<Item = (&'a K, &'a R)> {
        let bounds = (
            range.after.as_ref().map_or(Bound::Unbounded, Bound::Excluded),
            range.up_to.as_ref().map_or(Bound::Unbounded, Bound::Included),
        );
        // The bounds of an empty range may be the wrong way round, which a map refuses.
        let records = (!range.is_empty()).then(|| self.records.range::<K, _>(bounds));
        records.into_iter().flatten()
    }
}

#[async_trait]
impl<K: Key, R: Record> Digest for MemoryStore<K, R> {
    fn digest_of(&self) -> String {
        "the printed key and record in memory".to_owned()
    }

    async fn nth_key(&self, range: &KeyRange<K>, records: usize) -> Result<Option<K>> {
        let place = records.saturating_sub(1);
        Ok(self.lock().within(range).nth(place).map(|(key, _)| key.clone()))
    }

    async fn digest(&self, range: &KeyRange<K>) -> Result<RangeDigest> {
        let mut digest = RangeDigest::default();
        for (key, record) in self.lock().within(range) {
            let mut hasher = DefaultHasher::new();
            format!("{key:?} {record:?}").hash(&mut hasher);
            digest.add(hasher.finish());
        }
        Ok(digest)
    }
}

#[async_trait]
impl<K: Key, R: Record> Scan for MemoryStore<K, R> {
    async fn page(&self, range: &KeyRange<K>, limit: usize) -> Result<Page<K, R>> {
        let tables = self.lock();
        let records = tables.within(range).take(limit);
        Ok(records.map(|(key, record)| (key.clone(), Ok(record.clone()))).collect())
    }

    async fn split(&self, parts: usize) -> Result<Vec<KeyRange<K>>> {
        let tables = self.lock();
        let step = tables.records.len().div_ceil(parts.max(1)).max(1);
        let mut cuts: Vec<K> = tables.records.keys().skip(step).step_by(step).cloned().collect();
        cuts.truncate(parts.saturating_sub(1));
        let lower = std::iter::once(None).chain(cuts.iter().cloned().map(Some));
        let upper = cuts.iter().cloned().map(Some).chain(std::iter::once(None));
        Ok(lower.zip(upper).map(|(after, up_to)| KeyRange { after, up_to }).collect())
    }

    async fn estimated_len(&self) -> Result<u64> {
        Ok(self.len() as u64)
    }
}

#[async_trait]
impl<K: Key, R: Record> Fenced for MemoryStore<K, R> {
    async fn newest_stamp(&self) -> Result<Stamp> {
        Ok(self.lock().newest)
    }

    async fn apply_if_newer(&self, stamp: Stamp, changes: &[Change<K, R>]) -> Result<u64> {
        let mut tables = self.lock();
        let fresh: Vec<_> = changes
            .iter()
            .filter(|change| {
                // A page that was read later does not count: it does not say what was deleted before it,
                // and whatever it brought that is newer than this change has an entry of its own.
                tables.stamps.get(change.key()).is_none_or(|seen| *seen <= stamp)
            })
            .cloned()
            .collect();
        self.change(&mut tables, &fresh)?;
        for change in &fresh {
            tables.stamps.insert(change.key().clone(), stamp);
        }
        tables.newest = tables.newest.max(stamp);
        Ok((changes.len() - fresh.len()) as u64)
    }

    async fn load_page(&self, stamp: Stamp, range: &KeyRange<K>, records: &[(K, R)]) -> Result<PageLoad<K>> {
        let mut tables = self.lock();
        let mut load = PageLoad { written: 0, superseded: 0, rejected: Vec::new() };
        if tables.pages.iter().any(|(other, seen)| other.overlaps(range) && *seen > stamp) {
            load.superseded = records.len() as u64;
            return Ok(load);
        }
        for (key, record) in records {
            if tables.stamps.get(key).is_some_and(|seen| *seen > stamp) {
                load.superseded += 1;
                continue;
            }
            match self.change(&mut tables, &[Change::Put(key.clone(), record.clone())]) {
                Ok(()) => load.written += 1,
                Err(error) => load.rejected.push((key.clone(), error)),
            }
        }
        tables.pages.retain(|(other, _)| other != range);
        tables.pages.push((range.clone(), stamp));
        tables.newest = tables.newest.max(stamp);
        Ok(load)
    }

    async fn forget_stamps(&self) -> Result<()> {
        let mut tables = self.lock();
        tables.stamps.clear();
        tables.pages.clear();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_deletion_that_looked_before_a_page_did_is_still_applied() {
        let store = MemoryStore::<u64, u64>::new();
        store.put(&1, &1).await.unwrap();
        store.load_page(Stamp(7), &KeyRange::all(), &[(2, 2)]).await.unwrap();
        let left_out = store.apply_if_newer(Stamp(6), &[Change::Delete(1)]).await.unwrap();
        assert_eq!((left_out, store.get(&1).await.unwrap()), (0, None));
        // What was deleted at a later look than the page's stays deleted.
        store.apply_if_newer(Stamp(9), &[Change::Delete(2)]).await.unwrap();
        let load = store.load_page(Stamp(8), &KeyRange::all(), &[(2, 2)]).await.unwrap();
        assert_eq!((load.written, load.superseded), (0, 1));
        assert!(store.is_empty());
    }
}
