use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use super::{Call, CallLog, Fault, Faults, Step};
use crate::error::{Error, Kind, Result};
use crate::key::{Key, KeyBytes, KeyRange};
use crate::store::{Bulk, Capabilities, Change, Fenced, Page, PageLoad, Scan, Stamp, Store};

/// A store that refuses, delays, lands late, loses acknowledgements, flaps and rejects, as
/// [`Faults`] says, and is honest otherwise. It has the capabilities of the store inside.
///
/// ```
/// use std::time::Duration;
/// use zdm_core::error::Certainty;
/// use zdm_core::store::{MemoryStore, Store};
/// use zdm_core::testkit::{Fault, FaultyStore};
///
/// # tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap().block_on(async {
/// let store = FaultyStore::new(MemoryStore::<u64, String>::new()).with_settle_time(Duration::from_secs(5));
/// store.faults().next_write(Fault::LandLate {
///     answered_after: Duration::from_secs(1),
///     lands_after: Duration::from_secs(4),
/// });
/// let error = store.put(&1, &"one".to_owned()).await.unwrap_err();
/// assert_eq!(error.certainty(), Certainty::Unknown);
/// assert_eq!(store.get(&1).await?, None, "not yet");
///
/// tokio::time::sleep(store.settle_time()).await;
/// assert_eq!(store.get(&1).await?.as_deref(), Some("one"), "it landed after all");
/// # Ok::<_, zdm_core::Error>(()) }).unwrap();
/// ```
#[derive(Debug)]
pub struct FaultyStore<S: Store> {
    inner: Arc<S>,
    faults: Faults<S::Key, S::Record>,
    name: &'static str,
    log: Option<CallLog>,
}

impl<S: Store> FaultyStore<S> {
    /// Wraps a store. Nothing goes wrong until [`faults`](Self::faults) is told so.
    pub fn new(inner: S) -> Self {
        let faults = Faults::new(inner.settle_time());
        Self { inner: Arc::new(inner), faults, name: "store", log: None }
    }

    /// Declares a settle time, within which late writes land. At first it is that of the store inside.
    #[must_use]
    pub fn with_settle_time(self, settle_time: Duration) -> Self {
        self.faults.set_settle_time(settle_time);
        self
    }

    /// Writes every call to a log, under a name.
    #[must_use]
    pub fn logging(mut self, name: &'static str, log: CallLog) -> Self {
        self.name = name;
        self.log = Some(log);
        self
    }

    /// What goes wrong.
    pub fn faults(&self) -> Faults<S::Key, S::Record> {
        self.faults.clone()
    }

    /// The store inside, which nothing goes wrong with.
    pub fn inner(&self) -> &Arc<S> {
        &self.inner
    }

    /// Runs a call through the faults. `work` is a future of its own, so that it can land late.
    async fn run<T, F>(&self, call: Call, keys: Vec<KeyBytes>, work: F) -> Result<T>
    where
        T: Send + 'static,
        F: Future<Output = Result<T>> + Send + 'static,
    {
        let line = Line { store: self.name, log: self.log.clone(), call, keys: keys.into() };
        line.note(Step::Made);
        let work = {
            let line = line.clone();
            async move {
                let result = work.await;
                line.note(
                    result.as_ref().map_or_else(|error| Step::Failed(error.kind()), |_| Step::TookEffect),
                );
                result
            }
        };
        let result = match self.faults.draw(call) {
            None => work.await,
            Some(Fault::Refuse(error)) => Err(error),
            Some(Fault::Delay(wait)) => {
                tokio::time::sleep(wait).await;
                work.await
            }
            Some(Fault::Slow(wait)) => {
                let landing = tokio::spawn(async move {
                    tokio::time::sleep(wait).await;
                    work.await
                });
                landing.await.unwrap_or_else(|_| Err(lost(call)))
            }
            Some(Fault::LandLate { answered_after, lands_after }) => {
                tokio::spawn(async move {
                    tokio::time::sleep(lands_after).await;
                    // Its caller has long been answered.
                    drop(work.await);
                });
                tokio::time::sleep(answered_after).await;
                let message = format!("{call:?} did not answer in time (a fault of the test)");
                Err(Error::new(Kind::Timeout, message).unknown())
            }
            Some(Fault::LoseAcknowledgement) => {
                drop(work.await);
                Err(lost(call))
            }
            Some(Fault::Hang) => std::future::pending().await,
        };
        line.note(Step::Answered(result.as_ref().err().map(Error::kind)));
        result
    }

    fn check_fit(&self, changes: &[Change<S::Key, S::Record>]) -> Result<()> {
        let unfit = changes
            .iter()
            .find(|change| change.record().is_some_and(|record| self.faults.rejected(change.key(), record)));
        unfit.map_or(Ok(()), |change| Err(rejected(change.key())))
    }
}

fn lost(call: Call) -> Error {
    let message = format!("the connection was lost during {call:?} (a fault of the test)");
    Error::new(Kind::Unavailable, message).unknown()
}

fn rejected<K: Key>(key: &K) -> Error {
    Error::new(Kind::Rejected, format!("the record of {key:?} does not fit (a fault of the test)"))
}

fn hidden(what: &str) -> Error {
    Error::new(Kind::Invalid, format!("the store inside this FaultyStore {what}"))
}

fn keys_of<'a, K: Key>(keys: impl IntoIterator<Item = &'a K>) -> Vec<KeyBytes> {
    keys.into_iter().map(KeyBytes::of).collect()
}

/// Where one call is written down.
#[derive(Clone)]
struct Line {
    store: &'static str,
    log: Option<CallLog>,
    call: Call,
    keys: Arc<[KeyBytes]>,
}

impl Line {
    fn note(&self, step: Step) {
        if let Some(log) = &self.log {
            log.note(self.store, self.call, &self.keys, step);
        }
    }
}

#[async_trait]
impl<S: Store> Store for FaultyStore<S> {
    type Key = S::Key;
    type Record = S::Record;

    async fn get(&self, key: &S::Key) -> Result<Option<S::Record>> {
        let (inner, key) = (Arc::clone(&self.inner), key.clone());
        self.run(Call::Get, keys_of([&key]), async move { inner.get(&key).await }).await
    }

    async fn put(&self, key: &S::Key, record: &S::Record) -> Result<()> {
        let (inner, key, record) = (Arc::clone(&self.inner), key.clone(), record.clone());
        let fit = if self.faults.rejected(&key, &record) { Err(rejected(&key)) } else { Ok(()) };
        let keys = keys_of([&key]);
        self.run(Call::Put, keys, async move {
            fit?;
            inner.put(&key, &record).await
        })
        .await
    }

    async fn delete(&self, key: &S::Key) -> Result<()> {
        let (inner, key) = (Arc::clone(&self.inner), key.clone());
        self.run(Call::Delete, keys_of([&key]), async move { inner.delete(&key).await }).await
    }

    fn settle_time(&self) -> Duration {
        self.faults.settle_time()
    }

    fn capabilities(&self) -> Capabilities<'_, S::Key, S::Record> {
        let inner = self.inner.capabilities();
        Capabilities {
            bulk: inner.bulk.map(|_| self as _),
            digest: None,
            scan: inner.scan.map(|_| self as _),
            fenced: inner.fenced.map(|_| self as _),
        }
    }
}

#[async_trait]
impl<S: Store> Bulk for FaultyStore<S> {
    async fn get_many(&self, keys: &[S::Key]) -> Result<Vec<Option<S::Record>>> {
        let (inner, keys) = (Arc::clone(&self.inner), keys.to_vec());
        self.run(Call::GetMany, keys_of(&keys), async move {
            let bulk = inner.capabilities().bulk.ok_or_else(|| hidden("has no bulk calls"))?;
            bulk.get_many(&keys).await
        })
        .await
    }

    async fn apply(&self, changes: &[Change<S::Key, S::Record>]) -> Result<()> {
        let (inner, fit, changes) = (Arc::clone(&self.inner), self.check_fit(changes), changes.to_vec());
        self.run(Call::Apply, keys_of(changes.iter().map(Change::key)), async move {
            fit?;
            let bulk = inner.capabilities().bulk.ok_or_else(|| hidden("has no bulk calls"))?;
            bulk.apply(&changes).await
        })
        .await
    }
}

#[async_trait]
impl<S: Store> Scan for FaultyStore<S> {
    async fn page(&self, range: &KeyRange<S::Key>, limit: usize) -> Result<Page<S::Key, S::Record>> {
        let (inner, range) = (Arc::clone(&self.inner), range.clone());
        self.run(Call::Page, Vec::new(), async move {
            let scan = inner.capabilities().scan.ok_or_else(|| hidden("cannot be walked"))?;
            scan.page(&range, limit).await
        })
        .await
    }

    async fn split(&self, parts: usize) -> Result<Vec<KeyRange<S::Key>>> {
        let inner = Arc::clone(&self.inner);
        self.run(Call::Split, Vec::new(), async move {
            let scan = inner.capabilities().scan.ok_or_else(|| hidden("cannot be walked"))?;
            scan.split(parts).await
        })
        .await
    }

    async fn estimated_len(&self) -> Result<u64> {
        let inner = Arc::clone(&self.inner);
        self.run(Call::EstimatedLen, Vec::new(), async move {
            let scan = inner.capabilities().scan.ok_or_else(|| hidden("cannot be walked"))?;
            scan.estimated_len().await
        })
        .await
    }

    fn record_bytes(&self, range: &KeyRange<S::Key>) -> Option<usize> {
        self.inner.capabilities().scan?.record_bytes(range)
    }
}

#[async_trait]
impl<S: Store> Fenced for FaultyStore<S> {
    async fn newest_stamp(&self) -> Result<Stamp> {
        let inner = Arc::clone(&self.inner);
        self.run(Call::NewestStamp, Vec::new(), async move {
            let fence = inner.capabilities().fenced.ok_or_else(|| hidden("has no fence"))?;
            fence.newest_stamp().await
        })
        .await
    }

    async fn apply_if_newer(&self, stamp: Stamp, changes: &[Change<S::Key, S::Record>]) -> Result<u64> {
        let (inner, fit, changes) = (Arc::clone(&self.inner), self.check_fit(changes), changes.to_vec());
        self.run(Call::ApplyIfNewer, keys_of(changes.iter().map(Change::key)), async move {
            fit?;
            let fence = inner.capabilities().fenced.ok_or_else(|| hidden("has no fence"))?;
            fence.apply_if_newer(stamp, &changes).await
        })
        .await
    }

    async fn load_page(
        &self,
        stamp: Stamp,
        range: &KeyRange<S::Key>,
        records: &[(S::Key, S::Record)],
    ) -> Result<PageLoad<S::Key>> {
        let (inner, range) = (Arc::clone(&self.inner), range.clone());
        let (unfit, fit): (Vec<_>, Vec<_>) =
            records.iter().cloned().partition(|(key, record)| self.faults.rejected(key, record));
        self.run(Call::LoadPage, keys_of(records.iter().map(|(key, _)| key)), async move {
            let fence = inner.capabilities().fenced.ok_or_else(|| hidden("has no fence"))?;
            let mut load = fence.load_page(stamp, &range, &fit).await?;
            load.rejected.extend(unfit.into_iter().map(|(key, _)| {
                let error = rejected(&key);
                (key, error)
            }));
            Ok(load)
        })
        .await
    }

    async fn forget_stamps(&self) -> Result<()> {
        let inner = Arc::clone(&self.inner);
        self.run(Call::ForgetStamps, Vec::new(), async move {
            let fence = inner.capabilities().fenced.ok_or_else(|| hidden("has no fence"))?;
            fence.forget_stamps().await
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::super::FaultRates;
    use super::*;
    use crate::error::Certainty;
    use crate::store::MemoryStore;

    const SETTLE: Duration = Duration::from_secs(2);

    fn faulty() -> FaultyStore<MemoryStore<u64, String>> {
        FaultyStore::new(MemoryStore::new()).with_settle_time(SETTLE)
    }

    fn record() -> String {
        "record".to_owned()
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_write_lands_although_its_caller_is_gone_and_a_delayed_one_does_not() {
        let store = faulty();
        store.faults().next_write(Fault::Slow(SETTLE));
        store.faults().next_write(Fault::Delay(SETTLE));
        for key in [1, 2] {
            let record = record();
            let put = store.put(&key, &record);
            tokio::time::timeout(Duration::from_millis(1), put).await.unwrap_err();
        }
        tokio::time::sleep(SETTLE).await;
        assert_eq!(store.inner().snapshot().keys().copied().collect::<Vec<_>>(), [1]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_lost_acknowledgement_is_an_unknown_outcome_of_a_write_that_was_done() {
        let store = faulty();
        store.faults().next(Call::Delete, Fault::LoseAcknowledgement);
        store.put(&1, &record()).await.unwrap();
        let error = store.delete(&1).await.unwrap_err();
        assert_eq!(error.certainty(), Certainty::Unknown);
        assert!(store.inner().is_empty());
        assert_eq!(store.faults().scripted(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn windows_and_outages_refuse_with_certainty() {
        let store = faulty();
        store.faults().flap(Duration::from_secs(3), Duration::from_secs(1));
        for second in 0..8 {
            let result = store.put(&second, &record()).await;
            assert_eq!(result.is_err(), second % 4 == 3, "second {second}");
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        store.faults().calm();
        store.faults().set_outage(true);
        let error = store.get(&1).await.unwrap_err();
        assert_eq!((error.kind(), error.certainty()), (Kind::Unavailable, Certainty::NotApplied));
        store.faults().set_outage(false);
        store.get(&1).await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn chosen_records_are_rejected_on_every_way_in() {
        let store = faulty();
        store.faults().reject(|key, _| *key == 7);
        let puts = [Change::Put(6, record()), Change::Put(7, record())];
        assert_eq!(store.put(&7, &record()).await.unwrap_err().kind(), Kind::Rejected);
        assert_eq!(store.apply(&puts).await.unwrap_err().kind(), Kind::Rejected);
        assert_eq!(store.apply_if_newer(Stamp(1), &puts).await.unwrap_err().kind(), Kind::Rejected);
        assert!(store.inner().is_empty());
        let load =
            store.load_page(Stamp(2), &KeyRange::all(), &[(6, record()), (7, record())]).await.unwrap();
        assert_eq!((load.written, load.rejected.len(), load.rejected[0].0), (1, 1, 7));
        assert_eq!(store.inner().len(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_seed_gives_the_same_faults_again_and_late_writes_keep_to_the_settle_time() {
        async fn run(seed: u64) -> Vec<(Call, Step)> {
            let log = CallLog::new();
            let store = faulty().logging("store", log.clone());
            store.faults().by_chance(seed, FaultRates::stormy());
            for key in 0..200 {
                drop(store.put(&key, &record()).await);
                drop(store.get(&key).await);
            }
            let given_up = tokio::time::Instant::now();
            tokio::time::sleep(SETTLE * 2).await;
            let lines = log.lines();
            assert!(lines.iter().all(|line| line.at <= given_up + SETTLE));
            assert!(lines.iter().any(|line| line.step == Step::TookEffect && line.at > given_up));
            lines.into_iter().map(|line| (line.call, line.step)).collect()
        }
        let first = run(7).await;
        assert_eq!(first, run(7).await);
        assert_ne!(first, run(8).await);
        let unknown = first.iter().filter(|(_, step)| *step == Step::Answered(Some(Kind::Timeout))).count();
        assert!((2..30).contains(&unknown), "{unknown} of 200 writes timed out, 8 were expected");
    }

    #[test]
    #[should_panic(expected = "settle time")]
    fn a_fault_that_breaks_the_settle_time_is_refused() {
        faulty().faults().next_write(Fault::Slow(SETTLE * 2));
    }
}
