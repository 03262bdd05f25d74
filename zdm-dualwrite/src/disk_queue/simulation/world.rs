//! One story: a process after the other opens the queue, uses it and ends, well or badly.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::time::Instant;
use zdm_core::clock::{Clock, UnixMillis};
use zdm_core::error::{Kind, Result};
use zdm_core::key::{KeyBytes, KeyRange};
use zdm_core::queue::{Direction, EntryId, Epoch, Touch, WriteQueue};
use zdm_core::store::Stamp;

use super::disk::{Random, SimulatedDisk};
use super::model::Model;
use crate::disk_queue::commit::CommitLoop;
use crate::disk_queue::entry_bytes::{entry_key, taint_key};
use crate::disk_queue::journal::{Opening, Session};
use crate::disk_queue::{DiskQueue, DiskQueueBuilder, Durability};

const MIGRATION: &str = "a to b";
const DIRECTION: Direction = Direction::OldToNew;
/// Small, so that a short story fills several.
const LARGEST_SEGMENT: u64 = 12 << 10;

type Writer<'a> = Pin<Box<dyn Future<Output = Result<EntryId>> + Send + 'a>>;

/// A clock that moves a millisecond whenever it is looked at.
#[derive(Debug)]
struct TickingClock(Instant, AtomicU64);

impl TickingClock {
    fn tick(&self) -> u64 {
        self.1.fetch_add(1, Ordering::Relaxed)
    }
}

impl Clock for TickingClock {
    fn now(&self) -> Instant {
        self.0 + Duration::from_millis(self.tick())
    }

    fn unix_millis(&self) -> UnixMillis {
        self.tick()
    }
}

pub(super) struct World {
    random: Random,
    disk: SimulatedDisk,
    dir: PathBuf,
    clock: Arc<TickingClock>,
    model: Model,
    durability: Durability,
    boots: u8,
    /// Since the last process had the queue open.
    power_was_cut: bool,
    touches: u64,
}

/// A process that has the queue open.
struct Process {
    queue: DiskQueue,
    commit: CommitLoop<SimulatedDisk>,
    open: Vec<EntryId>,
    /// The records of the last group: the only ones whose damage nothing can prove.
    last_group: BTreeSet<u64>,
}

impl Process {
    /// Runs a call to its end. The thread's work is done here.
    fn finish<T>(&mut self, call: impl AsyncFn(&DiskQueue) -> T) -> T {
        let Self { queue, commit, last_group, .. } = self;
        let mut call = pin!(call(queue));
        for _ in 0..10 {
            if let Poll::Ready(output) = call.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
                return output;
            }
            if commit.step() {
                last_group.clear();
            }
        }
        panic!("a call does not end");
    }

    /// What the thread does when it has something to do.
    fn step(&mut self) {
        if self.commit.step() {
            self.last_group.clear();
        }
    }
}

impl World {
    pub(super) fn new(seed: u64) -> Self {
        let mut random = Random::new(seed);
        let durability = if random.chance(700) { Durability::Power } else { Durability::Process };
        Self {
            disk: SimulatedDisk::new(seed),
            random,
            dir: PathBuf::from("/data/queue"),
            clock: Arc::new(TickingClock(Instant::now(), AtomicU64::new(1))),
            model: Model::default(),
            durability,
            boots: 1,
            power_was_cut: false,
            touches: 0,
        }
    }

    /// Every kind of trouble except damage to what is synced.
    pub(super) fn live(mut self) {
        for _ in 0..2 + self.random.below(3) {
            self.trouble_to_come();
            if let Some(mut process) = self.open_process() {
                self.use_queue(&mut process, true);
                self.end_process(process);
            }
            if !self.disk.has_power() || self.random.chance(100) {
                self.restart_machine();
            }
        }
        self.restart_machine();
        self.disk.set_full(false);
        self.disk.set_failing(0);
        let mut process = self.open_process().unwrap();
        self.drain(&mut process);
        process.commit.sync_beside(|_| ()).unwrap();
        process.step();
        let bytes = self.disk.total_bytes(&self.dir);
        assert!(bytes <= 6 * LARGEST_SEGMENT, "the files of an empty queue take {bytes} bytes");
        drop(process);
        self.open_process().unwrap();
    }

    /// No trouble but one flipped bit in the end.
    pub(super) fn live_and_rot(mut self) {
        self.durability = Durability::Power;
        let mut last_group = BTreeSet::new();
        for _ in 0..1 + self.random.below(2) {
            let mut process = self.open_process().unwrap();
            self.use_queue(&mut process, false);
            last_group = process.last_group;
        }
        let file = self.disk.flip_a_bit(&self.dir);
        match self.try_open() {
            Ok(process) => self.model.check(&process.queue, false, &last_group),
            Err(error) => {
                assert_eq!(error.kind(), Kind::Damaged, "{error:?}");
                let name = file.file_name().unwrap().to_str().unwrap();
                assert!(error.to_string().contains(name), "{error} does not name {name}");
            }
        }
    }

    fn trouble_to_come(&mut self) {
        if self.random.chance(600) {
            // Now and then already while the queue is being opened.
            let soon = if self.random.chance(300) { 30 } else { 150 };
            let operations = self.random.below(soon);
            self.disk.cut_power_after(operations);
        }
        let failing = if self.random.chance(150) { 30 } else { 0 };
        self.disk.set_failing(failing);
        let full = self.random.chance(50);
        self.disk.set_full(full);
    }

    fn restart_machine(&mut self) {
        self.disk.restart_machine();
        self.boots += 1;
        self.power_was_cut = true;
    }

    fn try_open(&mut self) -> Result<Process> {
        let settings = DiskQueueBuilder::new(self.dir.clone(), MIGRATION.to_owned())
            .durability(self.durability)
            .limit(200)
            .clock(Arc::clone(&self.clock) as _);
        let unsynced = self.durability == Durability::Process;
        let session = Session { boot: [self.boots; 16], unsynced, closed: false };
        let mut sizes = settings.journal_settings(session)?;
        sizes.first_segment = 8 << 10;
        sizes.largest_segment = LARGEST_SEGMENT;
        let opening = Opening::read(self.disk.clone(), sizes)?;
        let (queue, commit) = DiskQueue::from_journal(opening, settings)?;
        Ok(Process { queue, commit, open: Vec::new(), last_group: BTreeSet::new() })
    }

    /// Opens the queue and compares it with the model. `None` when the power goes or the disk fails
    /// meanwhile.
    fn open_process(&mut self) -> Option<Process> {
        match self.try_open() {
            Ok(mut process) => {
                self.model.check(&process.queue, self.power_was_cut, &BTreeSet::new());
                self.power_was_cut = false;
                let held = process.finish(async |queue| queue.recover(Duration::ZERO).await);
                assert!(held.unwrap() <= self.model.entries.len() as u64);
                Some(process)
            }
            Err(error) => {
                assert_eq!(error.kind(), Kind::Unavailable, "{error:?}");
                None
            }
        }
    }

    fn end_process(&mut self, process: Process) {
        // A process that does not close is killed, with whatever its thread has not written yet.
        if self.random.chance(300) {
            process.queue.close_on_this_thread(process.commit);
        }
    }

    fn use_queue(&mut self, process: &mut Process, fill_the_disk: bool) {
        for _ in 0..10 + self.random.below(30) {
            self.act(process);
            if fill_the_disk && self.random.chance(30) {
                let full = self.random.chance(500);
                self.disk.set_full(full);
            }
            if !self.disk.has_power() {
                return;
            }
        }
    }

    fn act(&mut self, process: &mut Process) {
        match self.random.below(100) {
            0..35 => self.open_entries(process),
            35..55 => self.end_writes(process),
            55..80 => self.reconcile(process),
            80..84 => drop(process.queue.unpark(&KeyRange::all())),
            84..88 => {
                let raise = self
                    .random
                    .chance(200)
                    .then(|| Stamp(self.model.newest_stamp.0 + self.random.below(1 << 21)));
                if let Some(seen) = raise
                    && process.finish(async |queue| queue.raise_stamps_above(seen).await).is_ok()
                {
                    self.model.newest_stamp = seen;
                }
                if let Ok(stamp) = process.finish(async |queue| queue.draw_stamp().await) {
                    self.model.drawn(stamp);
                }
            }
            88..91 => {
                let range = KeyRange::all();
                let range = &range;
                if let Ok(id) = process.finish(async |queue| queue.taint(range.clone(), "a test").await) {
                    self.model.taints.insert(id);
                    process.last_group.insert(taint_key(id));
                }
            }
            91..93 => {
                if let Some(taint) = process.queue.taints().first() {
                    // It may be gone from the disk even if the call fails.
                    self.model.taints.remove(&taint.id);
                    let _ = process.finish(async |queue| queue.clear_taint(taint.id).await);
                }
            }
            93..97 => {
                process.step();
            }
            _ => {
                let before = std::mem::take(&mut self.model.unsynced);
                let lazily = self.random.chance(500);
                // What comes while the sync runs is not synced by it.
                let synced = process.commit.sync_beside(|commit| {
                    if lazily {
                        commit.step();
                    }
                });
                if synced.is_err() {
                    self.model.unsynced = before;
                }
            }
        }
    }

    /// Several writers at once, some of which give up.
    fn open_entries(&mut self, process: &mut Process) {
        let touches: Vec<Touch> = (0..1 + self.random.below(8)).map(|_| self.new_touch()).collect();
        let Process { queue, commit, open, last_group } = process;
        let mut context = Context::from_waker(Waker::noop());
        let mut writers: Vec<_> =
            touches.iter().map(|touch| (touch, queue.open(touch.clone(), Epoch(1), DIRECTION))).collect();
        let mut results = Vec::new();
        let mut poll_all = |writers: &mut Vec<_>| {
            writers.retain_mut(|(touch, writer): &mut (&Touch, Writer<'_>)| {
                match writer.as_mut().poll(&mut context) {
                    Poll::Pending => true,
                    Poll::Ready(result) => {
                        results.push((*touch, result));
                        false
                    }
                }
            });
        };
        poll_all(&mut writers);
        let gives_up = self.random.below(10) as usize;
        writers.truncate(writers.len().saturating_sub(gives_up.saturating_sub(7)));
        if commit.step() {
            last_group.clear();
        }
        let too_late = self.random.below(10) as usize;
        writers.truncate(writers.len().saturating_sub(too_late.saturating_sub(7)));
        poll_all(&mut writers);
        assert!(writers.is_empty(), "a writer waits although its group was committed");

        for (touch, result) in results {
            match result {
                Ok(id) => {
                    self.model.acknowledged(id, touch, self.durability == Durability::Power);
                    last_group.insert(entry_key(id));
                    open.push(id);
                }
                Err(error) => {
                    let expected = matches!(error.kind(), Kind::Unavailable | Kind::Limit);
                    assert!(expected, "{error:?}");
                }
            }
        }
    }

    fn new_touch(&mut self) -> Touch {
        self.touches += 1;
        let mut key = self.touches.to_be_bytes().to_vec();
        let longest = if self.random.chance(20) { 2500 } else { 60 };
        key.resize(8 + self.random.below(longest) as usize, 1 + self.touches as u8 % 255);
        let touch = Touch::upsert(&KeyBytes::from_slice(&key));
        self.model.ever.insert(touch.clone());
        touch
    }

    /// The calls of some writers return.
    fn end_writes(&mut self, process: &mut Process) {
        for _ in 0..self.random.below(10) {
            if process.open.is_empty() {
                return;
            }
            let at = self.random.below(process.open.len() as u64) as usize;
            let id = process.open.swap_remove(at);
            match self.random.below(10) {
                0 => process.queue.hold(id, Duration::ZERO),
                1 => {
                    process.queue.cancel(id);
                    self.model.resolved(&[id]);
                }
                _ => process.queue.release(id, None),
            }
        }
    }

    fn reconcile(&mut self, process: &mut Process) {
        let keys = 1 + self.random.below(20) as usize;
        let Ok(Some(claim)) = process.finish(async |queue| queue.claim(DIRECTION, keys).await) else {
            return;
        };
        self.model.drawn(claim.stamp);
        match self.random.below(10) {
            0 => process.queue.retry_later(&claim.ids(), Duration::ZERO, Some("try again")),
            1 => process.queue.park(&claim.ids(), "it never fits"),
            _ => {
                process.queue.ack(&claim.ids());
                self.model.resolved(&claim.ids());
            }
        }
    }

    /// Resolves everything; nothing may stand in the way.
    fn drain(&mut self, process: &mut Process) {
        process.queue.unpark(&KeyRange::all());
        for id in std::mem::take(&mut process.open) {
            process.queue.release(id, None);
        }
        while let Some(claim) = process.finish(async |queue| queue.claim(DIRECTION, 50).await).unwrap() {
            self.model.drawn(claim.stamp);
            process.queue.ack(&claim.ids());
            self.model.resolved(&claim.ids());
            process.step();
        }
        for taint in process.queue.taints() {
            process.finish(async |queue| queue.clear_taint(taint.id).await).unwrap();
            self.model.taints.remove(&taint.id);
        }
        assert_eq!(process.queue.stats().dirty(), 0);
        assert!(self.model.entries.is_empty());
    }
}
