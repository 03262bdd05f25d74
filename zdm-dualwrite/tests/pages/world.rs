//! Stores that take time, fail, land late and die, all by a seed, on the paused clock.

use std::collections::BTreeMap;
use std::future::pending;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::Notify;
use zdm_core::checkpoint::{Checkpoint, CheckpointStore, MemoryCheckpoints};
use zdm_core::error::{Error, Kind, Result};
use zdm_core::key::KeyRange;
use zdm_core::store::{Bulk, Capabilities, Change, Fenced, MemoryStore, Page, PageLoad, Scan, Stamp, Store};

pub(crate) const SETTLE: Duration = Duration::from_millis(80);

/// A process that can die: after a number of calls to anything outside it, every call hangs.
#[derive(Debug)]
pub(crate) struct Life {
    calls: AtomicU64,
    ends_after: AtomicU64,
    dead: Notify,
}

impl Life {
    pub(crate) fn immortal() -> Arc<Self> {
        Self::of(u64::MAX)
    }

    pub(crate) fn of(calls: u64) -> Arc<Self> {
        Arc::new(Self { calls: AtomicU64::new(0), ends_after: AtomicU64::new(calls), dead: Notify::new() })
    }

    pub(crate) fn calls(&self) -> u64 {
        self.calls.load(Ordering::Relaxed)
    }

    /// Returns only if the process still lives.
    async fn call(&self) {
        if self.calls.fetch_add(1, Ordering::Relaxed) >= self.ends_after.load(Ordering::Relaxed) {
            self.dead.notify_one();
            pending().await
        }
    }

    pub(crate) async fn ends(&self) {
        self.dead.notified().await;
    }
}

/// How a store behaves.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Faults {
    /// Of a hundred writes, so many land late, after the caller has given up.
    pub(crate) late: u8,
    /// Of a hundred calls, so many are refused as busy.
    pub(crate) busy: u8,
    /// Of a hundred calls, so many fail without saying whether they took effect.
    pub(crate) unknown: u8,
}

/// A memory store behind a slow and unreliable wire.
#[derive(Clone)]
pub(crate) struct Wire {
    inside: Arc<MemoryStore<u64, String>>,
    rng: Arc<Mutex<fastrand::Rng>>,
    life: Arc<Mutex<Arc<Life>>>,
    faults: Arc<Mutex<Faults>>,
    /// How long the next write is on its way before it takes effect.
    next_write: Arc<Mutex<Option<Duration>>>,
    /// How long the answer to the next page read is on its way, after the records were read.
    next_page: Arc<Mutex<Option<Duration>>>,
    /// How long the next read of keys is on its way before it reads.
    next_get: Arc<Mutex<Option<Duration>>>,
    delayed: Arc<Notify>,
    calm: bool,
}

impl Wire {
    pub(crate) fn new(inside: MemoryStore<u64, String>, seed: u64) -> Self {
        Self {
            inside: Arc::new(inside.with_settle_time(SETTLE)),
            rng: Arc::new(Mutex::new(fastrand::Rng::with_seed(seed))),
            life: Arc::new(Mutex::new(Life::immortal())),
            faults: Arc::default(),
            next_write: Arc::default(),
            next_page: Arc::default(),
            next_get: Arc::default(),
            delayed: Arc::default(),
            calm: false,
        }
    }

    /// The next write takes effect only after this time, even if nobody waits for it any more.
    pub(crate) fn delay_next_write(&self, time: Duration) {
        *self.next_write.lock().unwrap() = Some(time);
    }

    /// The next page is read at once and its answer takes this time.
    pub(crate) fn delay_next_page(&self, time: Duration) {
        *self.next_page.lock().unwrap() = Some(time);
    }

    /// Without delays of its own.
    pub(crate) fn calm(mut self) -> Self {
        self.calm = true;
        self
    }

    /// From now on the store belongs to another process.
    pub(crate) fn belongs_to(&self, life: &Arc<Life>) {
        *self.life.lock().unwrap() = Arc::clone(life);
    }

    pub(crate) fn set_faults(&self, faults: Faults) {
        *self.faults.lock().unwrap() = faults;
    }

    pub(crate) fn inside(&self) -> &MemoryStore<u64, String> {
        &self.inside
    }

    pub(crate) fn snapshot(&self) -> BTreeMap<u64, String> {
        self.inside.snapshot()
    }

    /// The next read of several keys reads only after this time.
    pub(crate) fn delay_next_get(&self, time: Duration) {
        *self.next_get.lock().unwrap() = Some(time);
    }

    /// Waits until the call that was to be delayed is on its way.
    pub(crate) async fn delayed(&self) {
        self.delayed.notified().await;
    }

    fn take_delay(&self, delay: &Mutex<Option<Duration>>) -> Option<Duration> {
        let time = delay.lock().unwrap().take();
        if time.is_some() {
            self.delayed.notify_one();
        }
        time
    }

    fn roll(&self, up_to: u64) -> u64 {
        if self.calm { 0 } else { self.rng.lock().unwrap().u64(0..up_to) }
    }

    async fn pass(&self) {
        tokio::time::sleep(Duration::from_micros(self.roll(3_000))).await;
    }

    async fn begin(&self) -> Result<Faults> {
        let life = Arc::clone(&self.life.lock().unwrap());
        life.call().await;
        self.pass().await;
        let faults = *self.faults.lock().unwrap();
        if self.roll(100) < u64::from(faults.busy) {
            return Err(Error::new(Kind::Busy, "locked"));
        }
        Ok(faults)
    }

    async fn read<T>(&self, read: impl AsyncFnOnce(&MemoryStore<u64, String>) -> Result<T>) -> Result<T> {
        let faults = self.begin().await?;
        if self.roll(100) < u64::from(faults.unknown) {
            return Err(Error::new(Kind::Unavailable, "the connection broke"));
        }
        let answer = read(&self.inside).await;
        self.pass().await;
        answer
    }

    /// A write is on its way as soon as it is sent: giving up on it does not stop it.
    async fn write<T, F>(&self, write: F) -> Result<T>
    where
        T: Send + 'static,
        F: AsyncWrite<T>,
    {
        let faults = self.begin().await?;
        let late = self.roll(100) < u64::from(faults.late);
        let lost = self.roll(100) < u64::from(faults.unknown);
        let nearly_settled = SETTLE.as_micros() as u64 - 10_000;
        let on_the_wire = if late || lost { self.roll(nearly_settled) } else { self.roll(2_000) };
        let on_the_wire = match self.take_delay(&self.next_write) {
            Some(time) => time,
            None => Duration::from_micros(on_the_wire),
        };
        let inside = Arc::clone(&self.inside);
        let sent = tokio::spawn(async move {
            tokio::time::sleep(on_the_wire).await;
            write.run(inside).await
        });
        if lost {
            return Err(Error::new(Kind::Unavailable, "the connection broke"));
        }
        let answer = sent.await.unwrap();
        self.pass().await;
        answer
    }
}

/// A write that owns what it writes, so that it can outlive its caller.
#[async_trait]
pub(crate) trait AsyncWrite<T>: Send + 'static {
    async fn run(self, store: Arc<MemoryStore<u64, String>>) -> Result<T>;
}

struct PutOne(u64, String);
struct DeleteOne(u64);
struct ApplyAll(Vec<Change<u64, String>>);
struct ApplyNewer(Stamp, Vec<Change<u64, String>>);
struct LoadPage(Stamp, KeyRange<u64>, Vec<(u64, String)>);

#[async_trait]
impl AsyncWrite<()> for PutOne {
    async fn run(self, store: Arc<MemoryStore<u64, String>>) -> Result<()> {
        store.put(&self.0, &self.1).await
    }
}

#[async_trait]
impl AsyncWrite<()> for DeleteOne {
    async fn run(self, store: Arc<MemoryStore<u64, String>>) -> Result<()> {
        store.delete(&self.0).await
    }
}

#[async_trait]
impl AsyncWrite<()> for ApplyAll {
    async fn run(self, store: Arc<MemoryStore<u64, String>>) -> Result<()> {
        store.apply(&self.0).await
    }
}

#[async_trait]
impl AsyncWrite<u64> for ApplyNewer {
    async fn run(self, store: Arc<MemoryStore<u64, String>>) -> Result<u64> {
        store.apply_if_newer(self.0, &self.1).await
    }
}

#[async_trait]
impl AsyncWrite<PageLoad<u64>> for LoadPage {
    async fn run(self, store: Arc<MemoryStore<u64, String>>) -> Result<PageLoad<u64>> {
        store.load_page(self.0, &self.1, &self.2).await
    }
}

#[async_trait]
impl Store for Wire {
    type Key = u64;
    type Record = String;

    async fn get(&self, key: &u64) -> Result<Option<String>> {
        self.read(async |store| store.get(key).await).await
    }

    async fn put(&self, key: &u64, record: &String) -> Result<()> {
        self.write(PutOne(*key, record.clone())).await
    }

    async fn delete(&self, key: &u64) -> Result<()> {
        self.write(DeleteOne(*key)).await
    }

    fn settle_time(&self) -> Duration {
        SETTLE
    }

    fn capabilities(&self) -> Capabilities<'_, u64, String> {
        let inside = self.inside.capabilities();
        Capabilities {
            bulk: inside.bulk.is_some().then_some(self),
            digest: None,
            scan: inside.scan.is_some().then_some(self),
            fenced: inside.fenced.is_some().then_some(self),
        }
    }
}

#[async_trait]
impl Bulk for Wire {
    async fn get_many(&self, keys: &[u64]) -> Result<Vec<Option<String>>> {
        if let Some(time) = self.take_delay(&self.next_get) {
            tokio::time::sleep(time).await;
        }
        self.read(async |store| store.get_many(keys).await).await
    }

    async fn apply(&self, changes: &[Change<u64, String>]) -> Result<()> {
        self.write(ApplyAll(changes.to_vec())).await
    }
}

#[async_trait]
impl Scan for Wire {
    async fn page(&self, range: &KeyRange<u64>, limit: usize) -> Result<Page<u64, String>> {
        let answer = self.read(async |store| store.page(range, limit).await).await;
        if let Some(time) = self.take_delay(&self.next_page) {
            tokio::time::sleep(time).await;
        }
        answer
    }

    async fn split(&self, parts: usize) -> Result<Vec<KeyRange<u64>>> {
        self.inside.split(parts).await
    }

    async fn estimated_len(&self) -> Result<u64> {
        self.inside.estimated_len().await
    }
}

#[async_trait]
impl Fenced for Wire {
    async fn newest_stamp(&self) -> Result<Stamp> {
        self.inside.newest_stamp().await
    }

    async fn apply_if_newer(&self, stamp: Stamp, changes: &[Change<u64, String>]) -> Result<u64> {
        self.write(ApplyNewer(stamp, changes.to_vec())).await
    }

    async fn load_page(
        &self,
        stamp: Stamp,
        range: &KeyRange<u64>,
        records: &[(u64, String)],
    ) -> Result<PageLoad<u64>> {
        self.write(LoadPage(stamp, range.clone(), records.to_vec())).await
    }

    async fn forget_stamps(&self) -> Result<()> {
        self.inside.forget_stamps().await
    }
}

/// Checkpoints behind the same kind of wire. A save that was sent takes effect.
#[derive(Clone)]
pub(crate) struct WireCheckpoints {
    pub(crate) inside: Arc<MemoryCheckpoints>,
    life: Arc<Mutex<Arc<Life>>>,
}

impl WireCheckpoints {
    pub(crate) fn new() -> Self {
        Self { inside: Arc::default(), life: Arc::new(Mutex::new(Life::immortal())) }
    }

    pub(crate) fn belongs_to(&self, life: &Arc<Life>) {
        *self.life.lock().unwrap() = Arc::clone(life);
    }

    async fn call(&self) {
        let life = Arc::clone(&self.life.lock().unwrap());
        life.call().await;
        tokio::time::sleep(Duration::from_micros(300)).await;
    }
}

#[async_trait]
impl CheckpointStore for WireCheckpoints {
    async fn load(&self, job: &str) -> Result<Option<Checkpoint>> {
        self.call().await;
        self.inside.load(job).await
    }

    async fn save(&self, job: &str, checkpoint: &Checkpoint) -> Result<()> {
        self.call().await;
        self.inside.save(job, checkpoint).await?;
        // Stored, but a process that dies here does not learn of it.
        self.call().await;
        Ok(())
    }

    async fn remove(&self, job: &str) -> Result<()> {
        self.inside.remove(job).await
    }

    async fn jobs(&self) -> Result<Vec<String>> {
        self.inside.jobs().await
    }
}
