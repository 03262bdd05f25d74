use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;

/// What a health check says about going on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Health {
    /// Go on.
    Go,
    /// Go on more slowly, for the reason given.
    Slow(String),
    /// Begin no page until a later answer says otherwise, for the reason given. Pages under way end.
    Hold(String),
}

/// Tells whether the systems around a page run are well: replica lag, load, a stop file.
///
/// A closure that returns a [`Health`] is one:
///
/// ```
/// use zdm_dualwrite::{Health, HealthCheck};
///
/// let stop_file = || match std::fs::exists("/run/app/hold-backfill") {
///     Ok(false) => Health::Go,
///     Ok(true) => Health::Hold("/run/app/hold-backfill exists".to_owned()),
///     Err(error) => Health::Hold(format!("cannot look for /run/app/hold-backfill: {error}")),
/// };
/// # fn takes(_: impl HealthCheck) {}
/// takes(stop_file);
/// ```
#[async_trait]
pub trait HealthCheck: Send + Sync + 'static {
    /// Asked every `health_interval`, one call at a time. No answer within the `call_timeout` holds the
    /// run: whatever cannot answer is not known to be well.
    ///
    /// # Cancel safety
    /// The future may be dropped at any point.
    async fn check(&self) -> Health;
}

#[async_trait]
impl<F: Fn() -> Health + Send + Sync + 'static> HealthCheck for F {
    async fn check(&self) -> Health {
        self()
    }
}

/// Takes the latency of live requests, so that a page run gives way to them. Cheap to clone and to call.
#[derive(Clone, Debug)]
pub struct LatencyProbe {
    seen: Arc<Seen>,
    slow: Duration,
}

#[derive(Debug, Default)]
struct Seen {
    requests: AtomicU64,
    slow: AtomicU64,
}

impl LatencyProbe {
    pub(crate) fn new(slow: Duration) -> Self {
        Self { seen: Arc::default(), slow }
    }

    /// A live request took so long.
    pub fn observe(&self, took: Duration) {
        self.seen.requests.fetch_add(1, Ordering::Relaxed);
        if took > self.slow {
            self.seen.slow.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// How many requests there were since the last call, and how many of them were slow.
    pub(crate) fn drain(&self) -> (u64, u64) {
        // Slow ones first: a request between the two swaps counts as one more that was not slow.
        let slow = self.seen.slow.swap(0, Ordering::Relaxed);
        (self.seen.requests.swap(0, Ordering::Relaxed), slow)
    }
}
