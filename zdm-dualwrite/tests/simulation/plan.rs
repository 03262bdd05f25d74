//! What a seed says about its world.

use std::collections::BTreeMap;
use std::time::Duration;

use zdm_core::phase::{Percent, Phase};
use zdm_dualwrite::{Instances, Settings, WhenFull};

use crate::ground::{Key, Rec};
use crate::server::Level;

/// The safe ways of the design, and the plain store, which leaves least to build on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    Fenced,
    Exclusive,
    Plain,
    /// Two instances, a queue each.
    Reread,
}

#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) seed: u64,
    pub(crate) way: Way,
    pub(crate) phase: Phase,
    pub(crate) keys: Key,
    pub(crate) writers: u64,
    pub(crate) calls: u64,
    pub(crate) settle: [u64; 2],
    /// Share of requests with a fault.
    pub(crate) faults: f64,
    /// Records with unique values, which calls exchange.
    pub(crate) unique: bool,
    /// Records that only the secondary has.
    pub(crate) extras: bool,
    pub(crate) ranges: bool,
    pub(crate) crashes: bool,
    pub(crate) moves: bool,
    pub(crate) outages: bool,
    pub(crate) memory_queue: bool,
    pub(crate) queue_limit: usize,
    pub(crate) settings: Settings,
}

impl Way {
    pub(crate) fn level(self) -> Level {
        match self {
            Self::Fenced => Level::Fenced,
            // The fence of the stores is not used: stamps of two queues cannot be compared.
            Self::Exclusive | Self::Reread => Level::Bulk,
            Self::Plain => Level::Plain,
        }
    }
}

impl Plan {
    pub(crate) fn of(way: Way, seed: u64) -> Self {
        let mut dice = fastrand::Rng::with_seed(seed ^ 0x7A64_6D00);
        let mut chance = |share: f64| dice.f64() < share;
        let scans = way != Way::Plain;
        let crashes = chance(0.5);
        let moves = way != Way::Reread && chance(0.5);
        let extras = !moves && chance(0.4);
        let ranges = scans && chance(0.4);
        let unique = scans && chance(0.4);
        let outages = chance(0.4);
        let memory_queue = !crashes && chance(0.4);
        let small_queue = chance(0.25);
        let slow_primary = chance(0.7);
        let slow_secondary = chance(0.85);
        let (shadow, tiny_batches) = (chance(0.5), chance(0.4));
        let ramp = Phase::Ramp(Percent::new(if chance(0.5) { 100.0 } else { 50.0 }).unwrap());
        let phases = [Phase::DualWrite, Phase::Shadow, ramp, Phase::Live, Phase::RampDown];
        let settle = |slow: bool, dice: &mut fastrand::Rng| if slow { dice.u64(10..60) } else { 0 };
        let ms = Duration::from_millis;

        let mut settings = Settings::default();
        settings.reconcile_workers = dice.usize(1..=3);
        settings.reconcile_batch_keys = if tiny_batches { dice.usize(1..=2) } else { dice.usize(3..=20) };
        settings.store_call_timeout = ms(dice.u64(15..90));
        settings.when_full = match dice.u8(..4) {
            0 => WhenFull::RefuseWrites,
            1 => WhenFull::Taint,
            _ => WhenFull::Wait { deadline: ms(dice.u64(0..80)) },
        };
        settings.retry.base = ms(dice.u64(1..5));
        settings.retry.cap = ms(dice.u64(5..40));
        settings.retry.attempts = dice.u32(2..8);
        settings.circuit.base = ms(2);
        settings.circuit.cap = ms(20);
        settings.handover_pause = ms(dice.u64(20..400));
        settings.shadow.sample = if shadow { 1.0 } else { 0.0 };
        settings.shadow.timeout = ms(40);
        settings.instances = if way == Way::Reread { Instances::QueueEach } else { Instances::OneQueue };
        settings.seed = Some(seed);
        Self {
            seed,
            way,
            phase: phases[dice.usize(..phases.len())],
            keys: dice.u16(2..=6),
            writers: dice.u64(2..=4),
            calls: dice.u64(5..=18),
            settle: [settle(slow_primary, &mut dice), settle(slow_secondary, &mut dice)],
            faults: [0.0, 0.03, 0.1, 0.25][dice.usize(..4)],
            unique,
            extras,
            ranges,
            crashes,
            moves,
            outages,
            memory_queue,
            queue_limit: if small_queue { dice.usize(2..12) } else { 10_000 },
            settings,
        }
    }

    pub(crate) fn instances(&self) -> usize {
        if self.way == Way::Reread { 2 } else { 1 }
    }

    /// The records that both sides have at the start.
    pub(crate) fn records(&self) -> BTreeMap<Key, Rec> {
        let tag = |key: Key| if self.unique { u8::try_from(key).ok() } else { None };
        (1..=self.keys)
            .filter(|key| key % 3 != 0)
            .map(|key| (key, Rec { by: u64::from(key), tag: tag(key) }))
            .collect()
    }

    /// The records that only the secondary has at the start.
    pub(crate) fn extra_records(&self) -> BTreeMap<Key, Rec> {
        if !self.extras {
            return BTreeMap::new();
        }
        (1..=self.keys + 1)
            .filter(|key| key % 3 == 0 || *key > self.keys)
            .map(|key| (key, Rec { by: 500 + u64::from(key), tag: None }))
            .collect()
    }
}
