//! Processes that start, die and end over two servers, and what must be true when everything is quiet.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::Notify;
use zdm_core::clock::{Clock, SteadyClock};
use zdm_core::key::{KeyBytes, KeyRange};
use zdm_core::phase::{MemoryCoordinator, Phase, Side};
use zdm_core::queue::{Intent, MemoryQueue, Touch, WriteQueue, WriteQueueExt};
use zdm_core::report::{Event, MismatchCause};
use zdm_dualwrite::{DualWrite, Instances};

use crate::coordinator::{Recorder, RecorderWire, primary_in};
use crate::ground::{Ground, Key, Life, Rec};
use crate::plan::{Plan, Way};
use crate::queue::{Disk, DiskQueue};
use crate::server::{Server, Trouble, Wire};

/// Keys that stores make up lie above this one.
pub(crate) const GENERATED: Key = 100;

#[derive(Clone)]
pub(crate) struct Process {
    pub(crate) db: DualWrite<Wire>,
    pub(crate) life: Arc<Life>,
}

pub(crate) struct World {
    pub(crate) plan: Plan,
    pub(crate) ground: Arc<Ground>,
    pub(crate) servers: [Arc<Server>; 2],
    pub(crate) recorder: Arc<Recorder>,
    pub(crate) disks: Vec<Arc<Mutex<Disk>>>,
    pub(crate) initial: BTreeMap<Key, Rec>,
    /// Records that only the secondary has at the start.
    pub(crate) extras: BTreeMap<Key, Rec>,
    /// Those of them that no call so far means to delete.
    pub(crate) untouched: Mutex<BTreeMap<Key, Rec>>,
    clock: Arc<dyn Clock>,
    processes: Vec<Mutex<Option<Process>>>,
    started: Notify,
}

impl World {
    pub(crate) fn new(plan: Plan, tracing: bool) -> Arc<Self> {
        let (initial, extras) = (plan.records(), plan.extra_records());
        let primary = primary_in(plan.phase);
        let ground = Ground::new(plan.seed, tracing, primary, initial.clone());
        ground.trace(|| format!("{plan:#?}"));
        let clock: Arc<dyn Clock> = Arc::new(SteadyClock::starting_at(1_000_000));
        let servers = [Side::Old, Side::New].map(|side| {
            let settle = if side == primary { plan.settle[0] } else { plan.settle[1] };
            let server = Server::new(Arc::clone(&ground), side, plan.way.level(), settle, plan.unique);
            server.fill(&initial);
            if side != primary {
                server.fill(&extras);
            }
            Arc::new(server)
        });
        let inner = MemoryCoordinator::with_clock(plan.phase, Arc::clone(&clock));
        let recorder = Recorder { inner, ground: Arc::clone(&ground), trouble: AtomicU64::new(0) };
        Arc::new(Self {
            disks: (0..plan.instances()).map(|_| Arc::default()).collect(),
            processes: (0..plan.instances()).map(|_| Mutex::new(None)).collect(),
            recorder: Arc::new(recorder),
            untouched: Mutex::new(extras.clone()),
            extras,
            started: Notify::new(),
            plan,
            ground,
            servers,
            initial,
            clock,
        })
    }

    pub(crate) fn server(&self, side: Side) -> &Server {
        match side {
            Side::Old => &self.servers[0],
            Side::New => &self.servers[1],
        }
    }

    /// Starts a process. A start that fails is tried again by a fresh one.
    pub(crate) async fn start(&self, instance: usize) {
        loop {
            let life = Arc::new(Life::default());
            let [old, new] = self.servers.each_ref().map(|server| Wire::new(server, &life));
            let builder = DualWrite::builder(old, new)
                .coordinator(Arc::new(RecorderWire {
                    recorder: Arc::clone(&self.recorder),
                    life: Arc::clone(&life),
                }))
                .settings(self.plan.settings.clone())
                .clock(Arc::clone(&self.clock))
                .observer(self.observer())
                .shared_queue(self.queue(instance, &life));
            // A start has no limit of its own, and a server may never answer.
            let started = tokio::time::timeout(Duration::from_millis(200), builder.start()).await;
            self.ground.trace(|| {
                let how = started.as_ref().map(|r| r.as_ref().map(|_| "up").map_err(|e| e.to_string()));
                format!("process {instance}: {how:?}")
            });
            if let Ok(Ok(db)) = started {
                *self.processes[instance].lock().unwrap() = Some(Process { db, life });
                self.started.notify_waiters();
                return;
            }
            life.end();
            tokio::time::sleep(Duration::from_millis(10)).await;
            if self.ground.dice.chance(0.2) {
                self.end_faults();
            }
        }
    }

    fn end_faults(&self) {
        self.ground.trace(|| "faults end".to_owned());
        for server in &self.servers {
            server.change_trouble(|trouble| *trouble = Trouble::default());
        }
        self.recorder.trouble.store(0, Ordering::Relaxed);
        for disk in &self.disks {
            disk.lock().unwrap().failing = false;
        }
    }

    fn queue(&self, instance: usize, life: &Arc<Life>) -> Arc<dyn WriteQueue> {
        if self.plan.memory_queue {
            return Arc::new(MemoryQueue::with_clock(self.plan.queue_limit, Arc::clone(&self.clock)));
        }
        let limit = self.plan.queue_limit;
        Arc::new(DiskQueue::open_disk(&self.ground, life, &self.disks[instance], &self.clock, limit))
    }

    fn observer(&self) -> Arc<dyn zdm_core::report::Observer> {
        let ground = Arc::clone(&self.ground);
        // Another instance's pending writes are not known here.
        let alone = self.plan.settings.instances == Instances::OneQueue;
        Arc::new(move |event: &Event| {
            ground.trace(|| format!("event: {event:?}"));
            match event {
                Event::MismatchFound { mismatch } if alone && mismatch.cause != MismatchCause::Extra => {
                    ground.wrong(format!("a mismatch of a clean key: {mismatch:?}"));
                }
                Event::Poisoned { reason } => ground.wrong(format!("poisoned: {reason}")),
                _ => {}
            }
        })
    }

    /// The process of an instance, once there is one.
    pub(crate) async fn process(&self, instance: usize) -> Process {
        loop {
            let started = self.started.notified();
            tokio::pin!(started);
            started.as_mut().enable();
            if let Some(process) = self.processes[instance].lock().unwrap().clone() {
                return process;
            }
            started.await;
        }
    }

    /// The process dies. What it had under way at the servers goes on there.
    pub(crate) fn crash(&self, instance: usize) {
        let process = self.processes[instance].lock().unwrap().take();
        if let Some(process) = process {
            self.ground.trace(|| format!("process {instance} dies"));
            process.life.end();
        }
    }

    /// The process ends in good order, as far as its deadline lets it.
    pub(crate) async fn shut_down(&self, instance: usize) {
        let process = self.processes[instance].lock().unwrap().take();
        let Some(process) = process else { return };
        let deadline = Duration::from_millis(self.ground.dice.below(150));
        let report = tokio::time::timeout(Duration::from_secs(5), process.db.shutdown(deadline)).await;
        self.ground.trace(|| format!("process {instance} ends: {report:?}"));
        match report {
            Ok(Ok(report)) if report.drained && report.left.pending() > 0 => {
                self.ground.wrong(format!("a shutdown says drained and leaves {:?}", report.left));
            }
            Ok(Ok(_)) => {}
            late => self.ground.wrong(format!("a shutdown ends with {late:?}")),
        }
        process.life.end();
    }

    /// Nothing is wrong any more, nothing is under way, everything pending is reconciled.
    pub(crate) async fn settle(&self) {
        self.end_faults();
        for instance in 0..self.plan.instances() {
            // A process that has stopped itself needs a restart.
            let process = self.processes[instance].lock().unwrap().clone();
            if process.is_none_or(|process| process.db.poisoned().is_some()) {
                self.crash(instance);
                self.start(instance).await;
            }
        }
        self.pass_settle_time().await;
        for _ in 0..3 {
            for instance in 0..self.plan.instances() {
                self.drain(instance).await;
            }
        }
        self.pass_settle_time().await;
    }

    async fn pass_settle_time(&self) {
        let longest = self.plan.settle.into_iter().max().unwrap_or(0);
        tokio::time::sleep(Duration::from_millis(2 * longest + 100)).await;
    }

    async fn drain(&self, instance: usize) {
        let db = self.process(instance).await.db;
        let queue = db.queue();
        let phase = db.phase();
        let Some(direction) = phase.phase.routing().direction else { return };
        for _ in 0..50 {
            queue.unpark(&KeyRange::all());
            // Two minutes are long for a handful of keys; real ones, not those of the paused clock, watch too.
            if tokio::time::timeout(Duration::from_secs(120), db.drained()).await.is_err() {
                self.ground.wrong(format!("instance {instance} does not drain: {:?}", queue.stats()));
                return;
            }
            let taints = queue.taints();
            if !taints.is_empty() {
                // Whatever was written in the window, every key is looked at.
                self.untouched.lock().unwrap().clear();
                let keys: BTreeSet<Key> =
                    self.servers.iter().flat_map(|server| server.snapshot().into_keys()).collect();
                if let Some(touch) = Touch::keys(&keys, Intent::Unknown) {
                    queue.mark(touch.encode(), phase.epoch, direction).await.unwrap();
                }
                for taint in taints {
                    queue.clear_taint(taint.id).await.unwrap();
                }
                continue;
            }
            if queue.stats().dirty() == 0 {
                return;
            }
        }
        self.ground.wrong(format!("instance {instance} stays dirty: {:?}", queue.stats()));
    }

    /// The oracle: what the users' calls did is at the primary, and the secondary equals it.
    pub(crate) fn check(&self) {
        let (primary, truth, called) = {
            let truth = self.ground.truth();
            let called: BTreeSet<Key> =
                self.extras.keys().copied().filter(|key| truth.was_changed(*key)).collect();
            (truth.primary, truth.records.clone(), called)
        };
        let ours = self.server(primary).snapshot();
        if ours != truth {
            self.ground.wrong(format!("the primary holds {ours:?}, the calls made {truth:?}"));
        }
        let phase = self.processes[0].lock().unwrap().as_ref().map(|process| process.db.phase().phase);
        if matches!(phase, Some(Phase::Complete | Phase::Off)) {
            return;
        }
        let mut theirs = self.server(primary.other()).snapshot();
        // With a queue for each instance, a process that finds entries of a dead one deletes what is gone at the
        // primary: it cannot know whether the dead one had sent it.
        let takes_back = self.plan.way == Way::Reread && self.plan.crashes;
        let untouched = self.untouched.lock().unwrap().clone();
        for (key, record) in &self.extras {
            if called.contains(key) {
                continue;
            }
            // No call has reached the primary with this key.
            let left = theirs.remove(key);
            let lost = left.is_none() && untouched.contains_key(key) && !takes_back;
            if lost || left.is_some_and(|left| left != *record) {
                self.ground.wrong(format!("nobody changed {key}, and the secondary holds {left:?}"));
            }
        }
        if ours != theirs {
            self.ground.wrong(format!("the primary holds {ours:?}, the secondary {theirs:?}"));
        }
        for slot in &self.processes {
            let Some(process) = slot.lock().unwrap().clone() else { continue };
            for key in ours.keys() {
                if !process.db.queue().is_clean(&KeyBytes::of(key)) {
                    self.ground.wrong(format!("{key} is not clean"));
                }
            }
        }
    }
}
