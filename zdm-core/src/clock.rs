//! Time is handed in, so that tests own it.

use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::time::Instant;

/// Milliseconds since 1970-01-01 UTC. For reports and records; never for waiting.
pub type UnixMillis = u64;

/// Where the time comes from.
///
/// Waiting goes by [`now`](Self::now), which follows tokio's clock and so stands still under
/// `tokio::time::pause`. What is written down goes by [`unix_millis`](Self::unix_millis).
pub trait Clock: fmt::Debug + Send + Sync + 'static {
    /// The monotonic time.
    fn now(&self) -> Instant;

    /// The time of day, in milliseconds since 1970-01-01 UTC.
    fn unix_millis(&self) -> UnixMillis;
}

/// The machine's clock.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Instant {
        Instant::now()
    }

    fn unix_millis(&self) -> UnixMillis {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    }
}

/// A clock whose time of day moves with tokio's clock from a fixed start, for tests that must give the
/// same answer every time.
#[derive(Clone, Copy, Debug)]
pub struct SteadyClock {
    start: Instant,
    unix_millis: UnixMillis,
}

impl SteadyClock {
    /// A clock that shows `unix_millis` now.
    pub fn starting_at(unix_millis: UnixMillis) -> Self {
        Self { start: Instant::now(), unix_millis }
    }
}

impl Clock for SteadyClock {
    fn now(&self) -> Instant {
        Instant::now()
    }

    fn unix_millis(&self) -> UnixMillis {
        let passed = Instant::now().duration_since(self.start).as_millis();
        self.unix_millis.saturating_add(u64::try_from(passed).unwrap_or(u64::MAX))
    }
}
