use std::sync::Arc;
use std::time::Duration;

use zdm_core::clock::{Clock, SystemClock};
use zdm_core::error::{Error, Kind, Result};

/// How an instance takes part in a shared queue.
#[derive(Clone, Debug)]
pub struct SharedQueueOptions {
    pub(super) limit: usize,
    pub(super) lease: Duration,
    pub(super) poll: Duration,
    pub(super) stale_after: Duration,
    pub(super) transactional: bool,
    pub(super) clock: Arc<dyn Clock>,
}

impl Default for SharedQueueOptions {
    fn default() -> Self {
        Self {
            limit: 1_000_000,
            lease: Duration::from_secs(10),
            poll: Duration::from_millis(100),
            stale_after: Duration::from_secs(2),
            transactional: false,
            clock: Arc::new(SystemClock),
        }
    }
}

impl SharedQueueOptions {
    /// Entries that the queue takes, those of all instances together. Default: 1,000,000. It is held as far
    /// as an instance knows of the others, so it can be passed by what they open between two looks.
    #[must_use]
    pub const fn limit(mut self, limit: usize) -> Self {
        self.limit = limit;
        self
    }

    /// How long an instance counts as alive after it was last heard of, from 100 milliseconds to one hour.
    /// Default: 10 seconds. Shorter, and a process that stands still for a moment is taken for dead, which
    /// costs work and loses nothing; longer, and the entries of a dead one wait longer.
    #[must_use]
    pub const fn lease(mut self, lease: Duration) -> Self {
        self.lease = lease;
        self
    }

    /// The longest pause between two looks at the tables, from 1 millisecond to a quarter of the lease.
    /// Default: 100 milliseconds. A look that found something is followed by another one soon.
    #[must_use]
    pub const fn poll(mut self, poll: Duration) -> Self {
        self.poll = poll;
        self
    }

    /// How old the knowledge of other instances may be before every key counts as dirty. At least the
    /// poll. Default: 2 seconds.
    #[must_use]
    pub const fn stale_after(mut self, stale_after: Duration) -> Self {
        self.stale_after = stale_after;
        self
    }

    /// Says that every write to the primary is recorded by `write_in`, in its own transaction: the queue then
    /// promises [`Guarantee::Transactional`](zdm_core::queue::Guarantee). Default: false, because nobody but
    /// you knows.
    #[must_use]
    pub const fn transactional(mut self, transactional: bool) -> Self {
        self.transactional = transactional;
        self
    }

    /// The clock of this instance. Default: the machine's. Leases between instances go by the server's.
    #[must_use]
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    pub(super) fn check(&self) -> Result<()> {
        let range = |name: &str, value: Duration, low: Duration, high: Duration| {
            if (low..=high).contains(&value) {
                return Ok(());
            }
            let message =
                format!("{name} of the shared queue is {value:?}; it must lie between {low:?} and {high:?}");
            Err(Error::new(Kind::Invalid, message))
        };
        range("lease", self.lease, Duration::from_millis(100), Duration::from_secs(3_600))?;
        range("poll", self.poll, Duration::from_millis(1), self.lease / 4)?;
        range("stale_after", self.stale_after, self.poll, Duration::from_secs(3_600))
    }
}
