//! What `write()` costs beyond the primary alone: `MemoryQueue` and stores in memory, both in one run.
//!
//! The difference is printed at the end. It must stay below 2 microseconds.
//!
//! ```text
//! cargo bench -p zdm-dualwrite --bench write_overhead
//! ```

#![expect(
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a benchmark says what it measures and may stop"
)]

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput};
use tokio::runtime::Runtime;
use zdm_core::phase::Phase;
use zdm_core::queue::Touch;
use zdm_core::store::{MemoryStore, Store};
use zdm_dualwrite::DualWrite;

type Side = Arc<MemoryStore<u64, u64>>;

const KEYS: u64 = 4_096;
const LIMIT: Duration = Duration::from_micros(2);

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap()
}

/// Seconds for `writes` writes to the primary alone.
fn bare(runtime: &Runtime, store: &Side, writes: u64) -> Duration {
    runtime.block_on(async {
        let began = Instant::now();
        for key in 0..writes {
            let key = key % KEYS;
            black_box(store.put(&key, &key).await).unwrap();
        }
        began.elapsed()
    })
}

/// The same writes, mirrored. What workers do between them is not counted: they have their own threads in a service.
fn mirrored(runtime: &Runtime, db: &DualWrite<Side>, writes: u64) -> Duration {
    runtime.block_on(async {
        let mut spent = Duration::ZERO;
        let mut left = writes;
        while left > 0 {
            let batch = left.min(KEYS);
            let began = Instant::now();
            for key in 0..batch {
                let call = |store: Side| async move { store.put(&key, &key).await };
                black_box(db.write(Touch::upsert(&key), call).await).unwrap();
            }
            spent += began.elapsed();
            left -= batch;
            db.drained().await;
        }
        spent
    })
}

fn main() {
    let runtime = runtime();
    let (old, new): (Side, Side) = (Arc::default(), Arc::default());
    let builder = DualWrite::builder(Arc::clone(&old), new).phase(Phase::DualWrite);
    let db = runtime.block_on(builder.start()).unwrap();

    let mut criterion = Criterion::default().configure_from_args();
    let mut group = criterion.benchmark_group("write");
    group.throughput(Throughput::Elements(1));
    group.bench_function("bare primary", |b| b.iter_custom(|writes| bare(&runtime, &old, writes)));
    group.bench_function("mirrored", |b| b.iter_custom(|writes| mirrored(&runtime, &db, writes)));
    group.finish();

    // They take turns, because the machine is not equally fast at all times; the median difference counts.
    let mut added: Vec<f64> = (0..51)
        .map(|_| {
            let alone = bare(&runtime, &old, KEYS).as_secs_f64();
            (mirrored(&runtime, &db, KEYS).as_secs_f64() - alone) / KEYS as f64
        })
        .collect();
    added.sort_by(f64::total_cmp);
    let median = Duration::from_secs_f64(added[added.len() / 2].max(0.0));
    println!("a mirrored write adds {median:?} to the primary alone; the limit is {LIMIT:?}");
    assert!(median < LIMIT, "a mirrored write adds {median:?}");
}
