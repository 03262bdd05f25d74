//! The suites of the testkit: the parts of this crate pass them, and parts that break one rule are caught
//! by the name of that rule.

#![cfg(feature = "testkit")]
#![expect(clippy::unwrap_used, reason = "a test that fails panics")]

use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

mod checkpoints;
mod coordinators;
mod queues;
mod stores;

/// What a suite panics with when it is run on a broken part.
async fn complaint(suite: impl Future<Output = ()> + 'static) -> String {
    let run = tokio::task::LocalSet::new();
    let ended = run.run_until(async { tokio::task::spawn_local(suite).await }).await;
    match ended {
        Ok(()) => "the suite has passed".to_owned(),
        Err(error) => error.into_panic().downcast_ref::<String>().unwrap().clone(),
    }
}

/// A folder of its own for each part, all removed in the end.
struct Folders {
    root: PathBuf,
    count: u32,
}

impl Folders {
    fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let root = std::env::temp_dir().join(format!("zdm-conformance-{}-{count}", std::process::id()));
        Self { root, count: 0 }
    }

    fn next(&mut self) -> PathBuf {
        self.count += 1;
        self.last()
    }

    fn last(&self) -> PathBuf {
        let folder = self.root.join(self.count.to_string());
        std::fs::create_dir_all(&folder).unwrap();
        folder
    }
}

impl Drop for Folders {
    fn drop(&mut self) {
        drop(std::fs::remove_dir_all(&self.root));
    }
}
