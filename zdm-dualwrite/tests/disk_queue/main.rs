//! The queue on the machine's own disk, through its public face.

#![expect(clippy::unwrap_used, reason = "a test that fails panics")]

mod cancel;
mod kill;
mod owner;
mod reclaim;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use zdm_core::queue::{Direction, EntryId, Epoch, Touch, WriteQueue};
use zdm_dualwrite::DiskQueue;

const MIGRATION: &str = "users to accounts";
const DIRECTION: Direction = Direction::OldToNew;

/// A directory on a real disk that goes with the test.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let path =
            Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("queue-{}-{count}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        Self(path)
    }

    /// The segment files, the oldest name first.
    fn segments(&self) -> Vec<PathBuf> {
        let mut files: Vec<_> = fs::read_dir(&self.0).unwrap().map(|entry| entry.unwrap().path()).collect();
        files.retain(|path| path.extension().is_some_and(|suffix| suffix == "segment"));
        files.sort();
        files
    }

    fn bytes(&self) -> u64 {
        self.segments().iter().map(|path| path.metadata().unwrap().len()).sum()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

async fn open_key(queue: &DiskQueue, key: u64) -> EntryId {
    queue.open(Touch::upsert(&key).encode(), Epoch(1), DIRECTION).await.unwrap()
}

/// Claims and acknowledges everything that is released; returns how many entries that were.
async fn reconcile_all(queue: &DiskQueue) -> usize {
    let mut done = 0;
    while let Some(claim) = queue.claim(DIRECTION, 1000).await.unwrap() {
        queue.ack(&claim.ids());
        done += claim.entries.len();
    }
    done
}
