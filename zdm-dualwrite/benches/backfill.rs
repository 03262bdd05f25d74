//! What the page engine costs and what it gains, against the plain loop that reads a page, writes it and
//! reads the next one. Each figure is a ratio within one run: engine over loop, in rows per second.
//!
//! `cargo bench -p zdm-dualwrite --bench backfill`

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a benchmark prints and ends at the first failure"
)]

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use zdm_core::Result;
use zdm_core::checkpoint::MemoryCheckpoints;
use zdm_core::key::KeyRange;
use zdm_core::phase::Phase;
use zdm_core::store::{
    Bulk, Capabilities, Change, Fenced, MemoryStore, Page, PageLoad, Scan, Stamp, Store, StoreExt,
};
use zdm_dualwrite::{Backfill, DualWrite, PageSettings};

const ROUNDS: usize = 5;
const PAGE: usize = 2_000;

/// A store in memory whose pages take as long as those of a database over a network.
struct Remote {
    inside: MemoryStore<u64, String>,
    page: Duration,
    fenced: bool,
}

impl Remote {
    fn new(page: Duration, fenced: bool) -> Arc<Self> {
        Arc::new(Self { inside: MemoryStore::new(), page, fenced })
    }

    async fn wait(&self) {
        if !self.page.is_zero() {
            tokio::time::sleep(self.page).await;
        }
    }
}

#[async_trait]
impl Store for Remote {
    type Key = u64;
    type Record = String;

    async fn get(&self, key: &u64) -> Result<Option<String>> {
        self.inside.get(key).await
    }

    async fn put(&self, key: &u64, record: &String) -> Result<()> {
        self.inside.put(key, record).await
    }

    async fn delete(&self, key: &u64) -> Result<()> {
        self.inside.delete(key).await
    }

    fn settle_time(&self) -> Duration {
        Duration::ZERO
    }

    fn capabilities(&self) -> Capabilities<'_, u64, String> {
        Capabilities { bulk: Some(self), digest: None, scan: Some(self), fenced: self.fenced.then_some(self) }
    }
}

#[async_trait]
impl Bulk for Remote {
    async fn get_many(&self, keys: &[u64]) -> Result<Vec<Option<String>>> {
        self.inside.get_many(keys).await
    }

    async fn apply(&self, changes: &[Change<u64, String>]) -> Result<()> {
        self.wait().await;
        self.inside.apply(changes).await
    }
}

#[async_trait]
impl Scan for Remote {
    async fn page(&self, range: &KeyRange<u64>, limit: usize) -> Result<Page<u64, String>> {
        self.wait().await;
        self.inside.page(range, limit).await
    }

    async fn split(&self, parts: usize) -> Result<Vec<KeyRange<u64>>> {
        self.inside.split(parts).await
    }

    async fn estimated_len(&self) -> Result<u64> {
        self.inside.estimated_len().await
    }
}

#[async_trait]
impl Fenced for Remote {
    async fn newest_stamp(&self) -> Result<Stamp> {
        self.inside.newest_stamp().await
    }

    async fn apply_if_newer(&self, stamp: Stamp, changes: &[Change<u64, String>]) -> Result<u64> {
        self.inside.apply_if_newer(stamp, changes).await
    }

    async fn load_page(
        &self,
        stamp: Stamp,
        range: &KeyRange<u64>,
        records: &[(u64, String)],
    ) -> Result<PageLoad<u64>> {
        self.wait().await;
        self.inside.load_page(stamp, range, records).await
    }

    async fn forget_stamps(&self) -> Result<()> {
        self.inside.forget_stamps().await
    }
}

async fn filled(rows: u64, page: Duration) -> Arc<Remote> {
    let old = Remote::new(page, true);
    for key in 0..rows {
        old.inside.put(&key, &format!("user {key:0>60}")).await.unwrap();
    }
    old
}

/// The plain loop. It loses writes; it is only a measure of speed.
async fn plain_loop(old: &Remote, new: &Remote) {
    let mut rest = KeyRange::all();
    let mut stamp = 0;
    loop {
        let page = old.page(&rest, PAGE).await.unwrap();
        let records: Vec<_> = page.into_iter().map(|(key, record)| (key, record.unwrap())).collect();
        let last = records.len() < PAGE;
        let end = records.last().map(|(key, _)| *key);
        stamp += 1;
        if new.fenced {
            let range = KeyRange { after: rest.after, up_to: end };
            new.load_page(Stamp(stamp), &range, &records).await.unwrap();
        } else {
            let puts: Vec<_> = records.into_iter().map(|(key, record)| Change::Put(key, record)).collect();
            new.apply_all(&puts).await.unwrap();
        }
        if last {
            return;
        }
        rest.after = end;
    }
}

async fn engine(old: &Arc<Remote>, new: &Arc<Remote>, workers: usize) {
    let users = DualWrite::builder(Arc::clone(old), Arc::clone(new)).phase(Phase::DualWrite);
    let users = users.start().await.unwrap();
    let settings = PageSettings {
        workers,
        first_page_rows: PAGE,
        smallest_page_rows: PAGE,
        largest_page_rows: PAGE,
        ..PageSettings::default()
    };
    let backfill = Backfill::new(&users).checkpoints(MemoryCheckpoints::new()).settings(settings);
    assert!(backfill.run().await.unwrap().complete);
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() {
    println!("rows/s, median of {ROUNDS} rounds, pages of {PAGE}");
    for (stores, rows, page) in
        [("in memory", 400_000, Duration::ZERO), ("5 ms a page", 200_000, Duration::from_millis(5))]
    {
        let old = filled(rows, page).await;
        for fenced in [true, false] {
            let mut seconds: [Vec<f64>; 3] = Default::default();
            for _ in 0..ROUNDS {
                for (way, seconds) in seconds.iter_mut().enumerate() {
                    let new = Remote::new(page, fenced);
                    let began = Instant::now();
                    match way {
                        0 => plain_loop(&old, &new).await,
                        1 => engine(&old, &new, 1).await,
                        _ => engine(&old, &new, 4).await,
                    }
                    seconds.push(began.elapsed().as_secs_f64());
                    assert_eq!(new.inside.len() as u64, rows);
                }
            }
            let [plain, one, four] = seconds.map(|seconds| rows as f64 / median(seconds));
            let way = if fenced { "fenced" } else { "watched" };
            println!(
                "{stores:>12}, {way:<8} loop {plain:>9.0}   engine, 1 worker {one:>9.0} = {:.2}   4 workers \
                 {four:>9.0} = {:.2}",
                one / plain,
                four / plain
            );
        }
    }
}
