//! What one mirrored write allocates beyond the call that it wraps.

use std::sync::Arc;

use allocation_counter::measure;
use futures_util::FutureExt as _;
use zdm_core::phase::Phase;
use zdm_core::queue::Touch;
use zdm_core::store::{MemoryStore, Store};
use zdm_dualwrite::DualWrite;

/// Allocations that a write may add.
const LIMIT: u64 = 6;
const WRITES: u64 = 1_000;

#[test]
fn a_write_adds_at_most_six_allocations() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    runtime.block_on(async {
        let (old, new) = (Arc::new(MemoryStore::new()), Arc::new(MemoryStore::new()));
        let db = DualWrite::builder(Arc::clone(&old), new).phase(Phase::DualWrite).start().await.unwrap();
        let mut added = Vec::new();
        for round in 0..3 {
            let bare = measure(|| {
                for key in 0..WRITES {
                    old.put(&key, &round).now_or_never().unwrap().unwrap();
                }
            });
            // Nothing waits here, so each write is one poll, and no worker runs in between.
            let mirrored = measure(|| {
                for key in 0..WRITES {
                    let call =
                        |store: Arc<MemoryStore<u64, u64>>| async move { store.put(&key, &round).await };
                    db.write(Touch::upsert(&key), call).now_or_never().unwrap().unwrap();
                }
            });
            added.push((mirrored.count_total - bare.count_total) as f64 / WRITES as f64);
            db.drained().await;
        }
        let most = added.iter().copied().fold(0.0, f64::max);
        assert!(most > 0.0, "nothing was counted");
        assert!(most <= LIMIT as f64, "a write adds {added:?} allocations, more than {LIMIT}");
    });
}
