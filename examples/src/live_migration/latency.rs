//! How long requests took, by phase and kind.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use hdrhistogram::Histogram;

use super::{Doing, Result};

/// The phases of a migration, in their order.
pub const PHASES: [&str; 7] = ["Off", "DualWrite", "Shadow", "Ramp", "Live", "RampDown", "Complete"];

/// The two kinds of requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// It only looks.
    Read = 0,
    /// It changes something.
    Write = 1,
}

/// Latencies of all requests so far.
#[derive(Debug)]
pub struct Latencies {
    phase: AtomicUsize,
    by_phase: [[Mutex<Histogram<u64>>; 2]; PHASES.len()],
    empty: Histogram<u64>,
}

/// Latencies that are reported together.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Percentiles {
    /// How many requests there were.
    pub requests: u64,
    /// Half of them took no longer, in milliseconds.
    pub p50_ms: f64,
    /// 99 of 100 took no longer, in milliseconds.
    pub p99_ms: f64,
}

impl Latencies {
    /// No request yet, in phase `Off`. Keeps three digits from a microsecond to two minutes.
    ///
    /// # Errors
    /// There is no memory for the counts.
    pub fn new() -> Result<Self> {
        let empty = Histogram::new_with_bounds(1, 120_000_000, 3).doing(|| "no latency histogram".into())?;
        let by_phase = std::array::from_fn(|_| [Mutex::new(empty.clone()), Mutex::new(empty.clone())]);
        Ok(Self { phase: AtomicUsize::new(0), by_phase, empty })
    }

    /// Requests that start from now on belong to this phase.
    pub fn enter(&self, phase: &str) {
        if let Some(index) = PHASES.iter().position(|name| *name == phase) {
            self.phase.store(index, Ordering::Relaxed);
        }
    }

    /// The phase that a request belongs to which starts now, for [`record`](Self::record).
    pub fn now(&self) -> usize {
        self.phase.load(Ordering::Relaxed)
    }

    /// Adds a request that started in `phase`.
    pub fn record(&self, phase: usize, kind: Request, took: Duration) {
        if let Some(kinds) = self.by_phase.get(phase) {
            let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
            kinds[kind as usize].lock().unwrap_or_else(PoisonError::into_inner).saturating_record(micros);
        }
    }

    /// The requests of some phases and kinds together.
    pub fn percentiles(&self, phases: &[&str], kinds: &[Request]) -> Percentiles {
        let mut together = self.empty.clone();
        for (name, histograms) in PHASES.iter().zip(&self.by_phase) {
            for kind in kinds.iter().filter(|_| phases.contains(name)) {
                let histogram = histograms[*kind as usize].lock().unwrap_or_else(PoisonError::into_inner);
                // Both have the same bounds, so there is nothing that would not fit.
                let _fits = together.add(&*histogram);
            }
        }
        let ms = |quantile| together.value_at_quantile(quantile) as f64 / 1_000.0;
        Percentiles { requests: together.len(), p50_ms: ms(0.5), p99_ms: ms(0.99) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_counts_for_the_phase_in_which_it_started() {
        let latencies = Latencies::new().unwrap();
        let off = latencies.now();
        latencies.enter("Live");
        for ms in 1..=100 {
            latencies.record(off, Request::Read, Duration::from_millis(ms));
        }
        latencies.record(latencies.now(), Request::Write, Duration::from_secs(900));
        let before = latencies.percentiles(&["Off"], &[Request::Read, Request::Write]);
        assert_eq!(before.requests, 100);
        assert!((before.p50_ms - 50.0).abs() < 0.1 && (before.p99_ms - 99.0).abs() < 0.1, "{before:?}");
        let after = latencies.percentiles(&["Live", "RampDown"], &[Request::Write]);
        assert_eq!(after.requests, 1);
        assert!(after.p99_ms > 119_000.0);
        assert_eq!(latencies.percentiles(&["Shadow"], &[Request::Read]), Percentiles::default());
    }
}
