//! How much memory a backfill takes does not depend on how many rows there are, nor on how large they are.
#![cfg(target_os = "linux")]
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use zdm_core::error::Result;
use zdm_core::key::KeyRange;
use zdm_core::phase::Phase;
use zdm_core::store::{Capabilities, Change, Fenced, Page, PageLoad, Scan, Stamp, Store};
use zdm_dualwrite::{Backfill, DualWrite};

/// Rows that are made up when they are read and counted when they are written.
struct MadeUp {
    rows: u64,
    /// The length of each.
    length: usize,
    written: AtomicU64,
}

impl MadeUp {
    fn record(&self, key: u64) -> Option<String> {
        (key < self.rows).then(|| format!("{key:0>0$}", self.length))
    }
}

#[async_trait]
impl Store for MadeUp {
    type Key = u64;
    type Record = String;

    async fn get(&self, key: &u64) -> Result<Option<String>> {
        Ok(self.record(*key))
    }

    async fn put(&self, _: &u64, _: &String) -> Result<()> {
        self.written.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    async fn delete(&self, _: &u64) -> Result<()> {
        Ok(())
    }

    fn settle_time(&self) -> Duration {
        Duration::ZERO
    }

    fn capabilities(&self) -> Capabilities<'_, u64, String> {
        Capabilities { bulk: None, digest: None, scan: Some(self), fenced: Some(self) }
    }
}

#[async_trait]
impl Scan for MadeUp {
    async fn page(&self, range: &KeyRange<u64>, limit: usize) -> Result<Page<u64, String>> {
        let from = range.after.map_or(0, |after| after + 1);
        let to = range.up_to.map_or(self.rows, |up_to| self.rows.min(up_to + 1));
        let keys = (from..to).take(limit);
        Ok(keys.filter_map(|key| Some((key, Ok(self.record(key)?)))).collect())
    }

    async fn split(&self, parts: usize) -> Result<Vec<KeyRange<u64>>> {
        let cut = |part: u64| part * self.rows / parts as u64;
        let last = parts as u64 - 1;
        Ok((0..=last)
            .map(|part| KeyRange {
                after: (part > 0).then(|| cut(part)),
                up_to: (part < last).then(|| cut(part + 1)),
            })
            .collect())
    }

    async fn estimated_len(&self) -> Result<u64> {
        Ok(self.rows)
    }

    fn record_bytes(&self, _: &KeyRange<u64>) -> Option<usize> {
        Some(self.length)
    }
}

#[async_trait]
impl Fenced for MadeUp {
    async fn newest_stamp(&self) -> Result<Stamp> {
        Ok(Stamp(0))
    }

    async fn apply_if_newer(&self, _: Stamp, changes: &[Change<u64, String>]) -> Result<u64> {
        self.written.fetch_add(changes.len() as u64, Ordering::Relaxed);
        Ok(0)
    }

    async fn load_page(
        &self,
        _: Stamp,
        _: &KeyRange<u64>,
        records: &[(u64, String)],
    ) -> Result<PageLoad<u64>> {
        let written = records.len() as u64;
        self.written.fetch_add(written, Ordering::Relaxed);
        Ok(PageLoad { written, superseded: 0, rejected: Vec::new() })
    }

    async fn forget_stamps(&self) -> Result<()> {
        Ok(())
    }
}

/// The most memory that this process has ever had, in KiB.
fn most_memory_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

async fn migrate(rows: u64, length: usize) {
    let store = || Arc::new(MadeUp { rows, length, written: AtomicU64::new(0) });
    let (old, new) = (store(), store());
    let users = DualWrite::builder(old, Arc::clone(&new)).phase(Phase::DualWrite).start().await.unwrap();
    let report = Backfill::new(&users).run().await.unwrap();
    assert_eq!((report.complete, report.rows), (true, rows));
    assert_eq!(new.written.load(Ordering::Relaxed), rows);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn neither_many_rows_nor_large_ones_take_64_mib_more_memory() {
    migrate(20_000, 200).await;
    let few = most_memory_kib();
    migrate(2_000_000, 200).await;
    let many = most_memory_kib();
    migrate(20_000, 50_000).await;
    let large = most_memory_kib();
    println!("few rows: {few} KiB; then many: {many} KiB; then large ones: {large} KiB");
    assert!(many <= few + 64 * 1024, "{few} KiB for 20,000 rows, {many} KiB for 2,000,000");
    assert!(large <= few + 64 * 1024, "{few} KiB for 20,000 small rows, {large} KiB for large ones");
}
