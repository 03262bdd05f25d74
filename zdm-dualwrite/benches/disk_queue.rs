//! How close `DiskQueue` comes to what the disk allows.
//!
//! The limit is a file filled with zeros, one thread that writes and syncs whatever has arrived, and nothing
//! else: no index, no recovery, no reuse of space. Limit and queue take turns within one run, because the
//! disk is not equally fast at all times; the medians are compared.
//!
//! ```text
//! cargo bench -p zdm-dualwrite --bench disk_queue                   all parts
//! cargo bench -p zdm-dualwrite --bench disk_queue -- append space   append | space | reopen
//! ZDM_BENCH_DIR=/mnt/disk  ZDM_BENCH_ROUNDS=9                       where, and how often
//! ```
#![expect(
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a benchmark says what it measures and may stop"
)]

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use tokio::runtime::Runtime;
use tokio::sync::oneshot;
use zdm_core::key::KeyBytes;
use zdm_core::queue::{Direction, Epoch, Touch, WriteQueue};
use zdm_dualwrite::{DiskQueue, Durability};

const MIGRATION: &str = "benchmark";
const DIRECTION: Direction = Direction::OldToNew;
/// Bytes of a key, as many as a UUID has. An entry of the queue has 50 then, one of the limit 64.
const KEY: usize = 16;
const FILL: &str = "ZDM_BENCH_FILL";

fn main() {
    let dir = std::env::var_os("ZDM_BENCH_DIR")
        .map_or_else(|| PathBuf::from(env!("CARGO_TARGET_TMPDIR")), PathBuf::from);
    let dir = dir.join("disk-queue-bench");
    if let Ok(entries) = std::env::var(FILL) {
        fill_and_die(&dir, entries.parse().unwrap());
    }
    let asked: Vec<String> = std::env::args().skip(1).filter(|arg| !arg.starts_with("--")).collect();
    let is_asked = |part: &str| asked.is_empty() || asked.iter().any(|name| name == part);
    if is_asked("append") {
        append(&dir);
    }
    if is_asked("space") {
        space(&dir);
    }
    if is_asked("reopen") {
        reopen(&dir);
    }
    let _ = std::fs::remove_dir_all(&dir);
}

fn rounds() -> usize {
    std::env::var("ZDM_BENCH_ROUNDS").ok().and_then(|text| text.parse().ok()).unwrap_or(7)
}

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

fn fresh(dir: &Path) -> PathBuf {
    let _ = std::fs::remove_dir_all(dir);
    std::fs::create_dir_all(dir.parent().unwrap()).unwrap();
    dir.to_owned()
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn key(writer: u64, count: u64) -> KeyBytes {
    let mut bytes = [7; KEY];
    bytes[..8].copy_from_slice(&writer.to_be_bytes());
    bytes[8..16].copy_from_slice(&count.to_be_bytes());
    KeyBytes::from_slice(&bytes)
}

/// Bytes that this process has sent to the disk.
fn written() -> u64 {
    let text = std::fs::read_to_string("/proc/self/io").unwrap_or_default();
    text.lines().find_map(|line| line.strip_prefix("write_bytes: ")?.parse().ok()).unwrap_or(0)
}

/// Runs writers to their end and returns appends per second.
fn rate<W>(runtime: &Runtime, writers: u64, entries: u64, writer: impl Fn(u64, u64) -> W) -> f64
where
    W: Future<Output = ()> + Send + 'static,
{
    let each = entries / writers;
    let begun = Instant::now();
    runtime.block_on(async {
        let tasks: Vec<_> = (0..writers).map(|number| tokio::spawn(writer(number, each))).collect();
        for task in tasks {
            task.await.unwrap();
        }
    });
    (each * writers) as f64 / begun.elapsed().as_secs_f64()
}

// The limit.

type Request = ([u8; 64], oneshot::Sender<()>);

fn limit_thread(file: &File, requests: &Receiver<Request>, sync: bool) {
    const SIZE: u64 = 8 << 20;
    let (mut bytes, mut waiting, mut position) = (Vec::new(), Vec::new(), 0);
    while let Ok((entry, done)) = requests.recv() {
        bytes.clear();
        bytes.extend_from_slice(&entry);
        waiting.push(done);
        while let Ok((entry, done)) = requests.try_recv() {
            bytes.extend_from_slice(&entry);
            waiting.push(done);
        }
        if position + bytes.len() as u64 > SIZE {
            position = 0;
        }
        file.write_all_at(&bytes, position).unwrap();
        position += bytes.len() as u64;
        if sync {
            file.sync_data().unwrap();
        }
        for done in waiting.drain(..) {
            // A writer that has gone away waits for nothing.
            let _ = done.send(());
        }
    }
}

fn limit(dir: &Path, writers: u64, entries: u64, sync: bool) -> Measured {
    let dir = fresh(dir);
    std::fs::create_dir_all(&dir).unwrap();
    let file = OpenOptions::new().read(true).write(true).create_new(true).open(dir.join("limit")).unwrap();
    (0..2048).for_each(|page| file.write_all_at(&[0; 4096], page * 4096).unwrap());
    file.sync_all().unwrap();
    let (sender, requests): (Sender<Request>, _) = channel();
    let committing = thread::spawn(move || limit_thread(&file, &requests, sync));
    let runtime = runtime();
    let (before, begun) = (written(), processor_time());
    let rate = rate(&runtime, writers, entries, |_, count| {
        let sender = sender.clone();
        async move {
            for _ in 0..count {
                let (done, waiting) = oneshot::channel();
                sender.send(([7; 64], done)).unwrap();
                waiting.await.unwrap();
            }
        }
    });
    let written_per_entry = (written() - before) as f64 / entries as f64;
    let processor_time = (processor_time() - begun) / entries as f64;
    drop(sender);
    committing.join().unwrap();
    Measured { rate, processor_time, written_per_entry }
}

// The queue.

/// Releases and acknowledges what the writers have written, in batches, until told to stop.
async fn worker(queue: Arc<DiskQueue>, mut stop: oneshot::Receiver<()>) {
    loop {
        while let Some(claim) = queue.claim(DIRECTION, 1000).await.unwrap() {
            queue.ack(&claim.ids());
        }
        if stop.try_recv().is_ok() {
            return;
        }
        // A worker that does real work takes batches.
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// Microseconds of processor time that this process has used, in steps of 10 ms.
fn processor_time() -> f64 {
    let text = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields = text.rsplit(')').next().unwrap_or_default().split_whitespace();
    fields.skip(11).take(2).filter_map(|ticks| ticks.parse::<f64>().ok()).sum::<f64>() * 10_000.0
}

struct Measured {
    rate: f64,
    processor_time: f64,
    written_per_entry: f64,
}

fn queue(dir: &Path, writers: u64, entries: u64, durability: Durability, acknowledge: bool) -> Measured {
    let dir = fresh(dir);
    let queue = DiskQueue::builder(dir, MIGRATION).durability(durability).open().unwrap();
    let queue = Arc::new(queue);
    let runtime = runtime();
    let (stop, stopped) = oneshot::channel();
    let working = acknowledge.then(|| runtime.spawn(worker(Arc::clone(&queue), stopped)));
    let (before, begun) = (written(), processor_time());
    let rate = rate(&runtime, writers, entries, |writer, count| {
        let queue = Arc::clone(&queue);
        async move {
            for count in 0..count {
                let touch = Touch::upsert(&key(writer, count));
                let id = queue.open(touch, Epoch(1), DIRECTION).await.unwrap();
                queue.release(id, None);
            }
        }
    });
    let written_per_entry = (written() - before) as f64 / entries as f64;
    let processor_time = (processor_time() - begun) / entries as f64;
    let _ = stop.send(());
    if let Some(working) = working {
        runtime.block_on(working).unwrap();
    }
    Measured { rate, processor_time, written_per_entry }
}

/// `ZDM_BENCH_ONLY=power/256` measures one line of the table.
fn is_wanted(durability: &str, writers: u64) -> bool {
    std::env::var("ZDM_BENCH_ONLY").map_or(true, |only| only == format!("{durability}/{writers}"))
}

fn append(dir: &Path) {
    println!("durable appends per second, of {} rounds the medians", rounds());
    println!(
        "with: while a worker claims and acknowledges them; us: processor time; B: bytes written; both per entry"
    );
    println!(
        " durability | writers |   limit   us    B |   alone   us    B  ratio |    with   us    B  ratio"
    );
    for (durability, name) in [(Durability::Power, "power"), (Durability::Process, "process")] {
        for writers in [1, 16, 256] {
            if !is_wanted(name, writers) {
                continue;
            }
            let entries = match (durability, writers) {
                (Durability::Power, 1) => 3000,
                (Durability::Power, 16) => 30_000,
                _ => 150_000,
            };
            let mut runs = [vec![], vec![], vec![]];
            for _ in 0..rounds() {
                runs[0].push(limit(dir, writers, entries, durability == Durability::Power));
                runs[1].push(queue(dir, writers, entries, durability, false));
                runs[2].push(queue(dir, writers, entries, durability, true));
            }
            let middle =
                |of: fn(&Measured) -> f64| runs.each_ref().map(|runs| median(runs.iter().map(of).collect()));
            let (rate, time) = (middle(|run| run.rate), middle(|run| run.processor_time));
            let bytes = middle(|run| run.written_per_entry);
            print!(" {name:>10} | {writers:>7}");
            for run in 0..3 {
                print!(" | {:>7.0} {:>4.1} {:>4.0}", rate[run], time[run], bytes[run]);
                if run > 0 {
                    print!("   {:.2}", rate[run] / rate[0]);
                }
            }
            println!();
        }
    }
}

// Space.

fn size(dir: &Path) -> u64 {
    let files = std::fs::read_dir(dir).unwrap();
    files.map(|file| file.unwrap().metadata().unwrap().len()).sum()
}

fn space(dir: &Path) {
    println!("size of the files in KiB, 1,000,000 entries appended and acknowledged");
    for stuck in [0, 5000] {
        let path = fresh(dir);
        let queue = Arc::new(DiskQueue::open(&path, MIGRATION).unwrap());
        let runtime = runtime();
        for number in 0..stuck {
            // Never released, so never acknowledged.
            let touch = Touch::upsert(&key(1 << 40, number));
            runtime.block_on(queue.open(touch, Epoch(1), DIRECTION)).unwrap();
        }
        let (stop, stopped) = oneshot::channel();
        let working = runtime.spawn(worker(Arc::clone(&queue), stopped));
        let (seen, sizes) = channel();
        let sampled = path.clone();
        let sampling = thread::spawn(move || {
            let mut largest = 0;
            while sizes.recv_timeout(Duration::from_millis(20)).is_err() {
                // A file may go while the directory is read.
                let files = std::fs::read_dir(&sampled).unwrap();
                let bytes = files.filter_map(|file| Some(file.ok()?.metadata().ok()?.len())).sum();
                largest = largest.max(bytes);
            }
            largest
        });
        let before = written();
        rate(&runtime, 256, 1_000_000, |writer, count| {
            let queue = Arc::clone(&queue);
            async move {
                for count in 0..count {
                    let id =
                        queue.open(Touch::upsert(&key(writer, count)), Epoch(1), DIRECTION).await.unwrap();
                    queue.release(id, None);
                }
            }
        });
        let per_entry = (written() - before) as f64 / 1e6;
        stop.send(()).unwrap();
        runtime.block_on(working).unwrap();
        seen.send(()).unwrap();
        let largest: u64 = sampling.join().unwrap();
        runtime.block_on(queue.close()).unwrap();
        println!(
            " {stuck:>5} entries stuck at the start: {:>6} at most, {:>6} at the end; {per_entry:.0} bytes written per entry",
            largest >> 10,
            size(&path) >> 10
        );
    }
}

// Opening after a kill.

/// Fills the queue and dies without closing it.
fn fill_and_die(dir: &Path, entries: u64) -> ! {
    let queue = Arc::new(DiskQueue::open(dir, MIGRATION).unwrap());
    rate(&runtime(), 256, entries, |writer, count| {
        let queue = Arc::clone(&queue);
        async move {
            for count in 0..count {
                let id = queue.open(Touch::upsert(&key(writer, count)), Epoch(1), DIRECTION).await.unwrap();
                queue.release(id, None);
            }
        }
    });
    std::process::abort();
}

fn reopen(dir: &Path) {
    const PENDING: u64 = 250_112;
    let mut times = Vec::new();
    let mut bytes = 0;
    for _ in 0..rounds() {
        let path = fresh(dir);
        let program = std::env::current_exe().unwrap();
        let ended = Command::new(program).env(FILL, PENDING.to_string()).status().unwrap();
        assert!(!ended.success());
        bytes = size(&path);
        let begun = Instant::now();
        let queue = DiskQueue::open(&path, MIGRATION).unwrap();
        times.push(begun.elapsed().as_secs_f64() * 1000.0);
        assert_eq!(queue.stats().pending(), PENDING);
    }
    println!("opening after a kill, {PENDING} pending, {} MiB: {:.0} ms", bytes >> 20, median(times));
}
