//! The durable queue keeps the contract of every queue.

#![expect(clippy::unwrap_used, reason = "a test that fails panics")]

use std::path::PathBuf;

use async_trait::async_trait;
use zdm_core::testkit::{QueueFactory, queue_suite};
use zdm_dualwrite::{DiskQueue, Durability};

/// One directory for each queue, all removed at the end.
struct OnDisk {
    root: PathBuf,
    count: u32,
    limit: usize,
    durability: Durability,
}

impl OnDisk {
    fn new(name: &str, durability: Durability) -> Self {
        let root = std::env::temp_dir().join(format!("zdm-disk-queue-{name}-{}", std::process::id()));
        Self { root, count: 0, limit: 0, durability }
    }

    fn open(&self) -> DiskQueue {
        let dir = self.root.join(self.count.to_string());
        DiskQueue::builder(dir, "suite").limit(self.limit).durability(self.durability).open().unwrap()
    }
}

impl Drop for OnDisk {
    fn drop(&mut self) {
        drop(std::fs::remove_dir_all(&self.root));
    }
}

#[async_trait]
impl QueueFactory for OnDisk {
    type Queue = DiskQueue;

    async fn create(&mut self, limit: usize) -> DiskQueue {
        self.count += 1;
        self.limit = limit;
        self.open()
    }

    async fn reopen(&mut self) -> Option<DiskQueue> {
        Some(self.open())
    }
}

#[tokio::test(start_paused = true)]
async fn the_disk_queue_passes_when_every_entry_is_synced() {
    queue_suite(OnDisk::new("power", Durability::Power)).await;
}

#[tokio::test(start_paused = true)]
async fn the_disk_queue_passes_when_entries_are_synced_in_the_background() {
    queue_suite(OnDisk::new("process", Durability::Process)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_disk_queue_passes_with_a_running_clock() {
    queue_suite(OnDisk::new("running", Durability::Power)).await;
}
