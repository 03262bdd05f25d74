use std::time::Duration;

use zdm_core::error::{Error, Kind, Result};

/// How a `DualWrite` behaves. Plain data; parts (queue, coordinator, clock) go to the builder.
///
/// ```
/// use zdm_dualwrite::Settings;
///
/// let mut settings = Settings::default();
/// settings.reconcile_workers = 4;
/// settings.validate().unwrap();
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Settings {
    /// Name of the migration. It salts the cohort of the read ramp, so it must not change while a ramp is
    /// under way. Default `"migration"`.
    pub name: String,
    /// Tasks that reconcile keys. Default 2: one reads the primary while the other writes.
    pub reconcile_workers: usize,
    /// Keys that one worker takes at a time, written in one transaction. Default 256.
    pub reconcile_batch_keys: usize,
    /// How long one call of a worker to a store may take. Default 10 s.
    pub store_call_timeout: Duration,
    /// What a write does when the queue is full or fails. Default: wait, at most 5 s.
    pub when_full: WhenFull,
    /// How failed keys are tried again.
    pub retry: Retry,
    /// How an unavailable secondary is probed.
    pub circuit: CircuitSettings,
    /// How long writes may wait during a handover before it is given up. Default 2 s.
    pub handover_pause: Duration,
    /// How reads are compared in the background.
    pub shadow: ShadowSettings,
    /// Who else writes through this library. Default: nobody.
    pub instances: Instances,
    /// Name of this instance among those that follow one shared record of phases. Default: the number of the
    /// process and a random one.
    pub instance_name: String,
    /// How long this instance counts as a member after it was last heard of, where the record is shared. It
    /// stops writing a fifth earlier when it cannot reach the record. Default 10 s.
    pub lease: Duration,
    /// Seed of the jitter. Default: taken from the machine.
    pub seed: Option<u64>,
}

/// What a write does when its entry cannot be stored: the queue is full, or its storage fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum WhenFull {
    /// Waits for room and then refuses.
    Wait {
        /// How long it waits.
        deadline: Duration,
    },
    /// Refuses at once.
    RefuseWrites,
    /// Keeps serving without entries, and records the window as a taint that blocks the handover until
    /// it is reconciled. If not even the taint can be stored, the write is refused.
    Taint,
}

/// Retries of keys whose secondary write failed: exponential with full jitter, capped, budgeted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Retry {
    /// The longest first wait. Default 50 ms.
    pub base: Duration,
    /// The longest wait. Default 30 s.
    pub cap: Duration,
    /// Failures after which an entry is parked. An unavailable secondary does not count. Default 16.
    pub attempts: u32,
}

/// Probing of a secondary that is unavailable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct CircuitSettings {
    /// The wait before the first probe. Default 100 ms.
    pub base: Duration,
    /// The longest wait between probes. Default 5 s.
    pub cap: Duration,
}

/// Comparing reads in the background.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct ShadowSettings {
    /// Share of reads that are compared, from 0 to 1. Default 0.1.
    pub sample: f64,
    /// How long one comparison may take. Default 1 s.
    pub timeout: Duration,
    /// Comparisons under way at once; further ones are skipped. Default 32.
    pub concurrency: usize,
}

/// Who else writes to the two stores through this library.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Instances {
    /// This process alone, or several that share one queue with exclusive claims.
    OneQueue,
    /// Several processes with a queue each: every secondary write is followed by a second look at the
    /// primary.
    QueueEach,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            name: "migration".to_owned(),
            reconcile_workers: 2,
            reconcile_batch_keys: 256,
            store_call_timeout: Duration::from_secs(10),
            when_full: WhenFull::Wait { deadline: Duration::from_secs(5) },
            retry: Retry::default(),
            circuit: CircuitSettings::default(),
            handover_pause: Duration::from_secs(2),
            shadow: ShadowSettings::default(),
            instances: Instances::OneQueue,
            instance_name: format!("{}-{:08x}", std::process::id(), fastrand::u32(..)),
            lease: Duration::from_secs(10),
            seed: None,
        }
    }
}

impl Default for Retry {
    fn default() -> Self {
        Self { base: Duration::from_millis(50), cap: Duration::from_secs(30), attempts: 16 }
    }
}

impl Default for CircuitSettings {
    fn default() -> Self {
        Self { base: Duration::from_millis(100), cap: Duration::from_secs(5) }
    }
}

impl Default for ShadowSettings {
    fn default() -> Self {
        Self { sample: 0.1, timeout: Duration::from_secs(1), concurrency: 32 }
    }
}

const HOUR: Duration = Duration::from_secs(3600);

impl Settings {
    /// Checks every field against its bounds.
    ///
    /// # Errors
    /// `Kind::Invalid`, naming the field, its value and its bounds.
    pub fn validate(&self) -> Result<()> {
        if self.name.is_empty() || self.name.len() > 200 {
            return Err(out_of_bounds("name", &self.name, "1 to 200 bytes"));
        }
        number("reconcile_workers", self.reconcile_workers, 1, 64)?;
        number("reconcile_batch_keys", self.reconcile_batch_keys, 1, 10_000)?;
        duration("store_call_timeout", self.store_call_timeout, Duration::from_millis(1), HOUR)?;
        if let WhenFull::Wait { deadline } = self.when_full {
            duration("when_full.deadline", deadline, Duration::ZERO, HOUR)?;
        }
        duration("retry.base", self.retry.base, Duration::from_millis(1), self.retry.cap)?;
        duration("retry.cap", self.retry.cap, Duration::from_millis(1), 24 * HOUR)?;
        number("retry.attempts", self.retry.attempts as usize, 1, 1_000_000)?;
        duration("circuit.base", self.circuit.base, Duration::from_millis(1), self.circuit.cap)?;
        duration("circuit.cap", self.circuit.cap, Duration::from_millis(1), HOUR)?;
        duration(
            "handover_pause",
            self.handover_pause,
            Duration::from_millis(1),
            60 * Duration::from_secs(1),
        )?;
        if self.instance_name.is_empty() || self.instance_name.len() > 200 {
            return Err(out_of_bounds("instance_name", &self.instance_name, "1 to 200 bytes"));
        }
        duration("lease", self.lease, Duration::from_millis(100), HOUR)?;
        if !(0.0..=1.0).contains(&self.shadow.sample) {
            return Err(out_of_bounds("shadow.sample", self.shadow.sample, "0 to 1"));
        }
        duration("shadow.timeout", self.shadow.timeout, Duration::from_millis(1), HOUR)?;
        number("shadow.concurrency", self.shadow.concurrency, 1, 100_000)
    }
}

fn out_of_bounds(field: &str, value: impl std::fmt::Debug, bounds: &str) -> Error {
    Error::new(Kind::Invalid, format!("the setting {field} is {value:?}; it must be {bounds}"))
}

fn number(field: &str, value: usize, from: usize, to: usize) -> Result<()> {
    if (from..=to).contains(&value) {
        return Ok(());
    }
    Err(out_of_bounds(field, value, &format!("{from} to {to}")))
}

fn duration(field: &str, value: Duration, from: Duration, to: Duration) -> Result<()> {
    if (from..=to).contains(&value) {
        return Ok(());
    }
    Err(out_of_bounds(field, value, &format!("{from:?} to {to:?}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_setting_out_of_bounds_is_named_with_its_bounds() {
        type Spoil = fn(&mut Settings);
        let cases: [(&str, Spoil); 6] = [
            ("name", |s| s.name.clear()),
            ("reconcile_workers", |s| s.reconcile_workers = 0),
            ("reconcile_batch_keys", |s| s.reconcile_batch_keys = 10_001),
            ("retry.base", |s| s.retry.base = Duration::from_secs(60)),
            ("handover_pause", |s| s.handover_pause = Duration::from_secs(61)),
            ("shadow.sample", |s| s.shadow.sample = f64::NAN),
        ];
        for (field, spoil) in cases {
            let mut settings = Settings::default();
            settings.validate().unwrap();
            spoil(&mut settings);
            let error = settings.validate().unwrap_err();
            assert_eq!(error.kind(), Kind::Invalid);
            assert!(error.to_string().contains(field), "{error}");
        }
    }
}
