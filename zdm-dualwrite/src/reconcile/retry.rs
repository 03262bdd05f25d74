use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// Waits between the tries of one key: exponential, capped, with full jitter. The number of tries is kept
/// with the entry, so that a restart or another worker goes on where the last one stopped.
#[derive(Debug)]
pub(crate) struct Backoff {
    base: Duration,
    cap: Duration,
    random: Mutex<fastrand::Rng>,
}

impl Backoff {
    pub(crate) fn new(base: Duration, cap: Duration, seed: Option<u64>) -> Self {
        let random = seed.map_or_else(fastrand::Rng::new, fastrand::Rng::with_seed);
        Self { base, cap, random: Mutex::new(random) }
    }

    /// The wait after `attempts` earlier failures: anything up to the doubled base, so that keys which
    /// failed together do not come back together.
    pub(crate) fn delay(&self, attempts: u32) -> Duration {
        let doubled = self.base.saturating_mul(1_u32.checked_shl(attempts).unwrap_or(u32::MAX));
        let fraction = self.random.lock().unwrap_or_else(PoisonError::into_inner).f64();
        doubled.min(self.cap).mul_f64(fraction)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_up_to_the_cap_and_spread_over_the_whole_span() {
        let backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(1), Some(7));
        let longest = |attempts| (0..1_000).map(|_| backoff.delay(attempts)).max().unwrap();
        let shortest = |attempts| (0..1_000).map(|_| backoff.delay(attempts)).min().unwrap();
        assert!(longest(0) > Duration::from_millis(95) && longest(0) <= Duration::from_millis(100));
        assert!(longest(2) > Duration::from_millis(380) && longest(2) <= Duration::from_millis(400));
        assert!(longest(60) > Duration::from_millis(950) && longest(60) <= Duration::from_secs(1));
        assert!(shortest(60) < Duration::from_millis(50));
    }
}
