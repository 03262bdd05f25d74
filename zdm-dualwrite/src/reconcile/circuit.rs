//! Sparing a secondary that is unavailable: no key is tried until a probe gets through.

use std::sync::{Mutex, MutexGuard, PoisonError};

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::adapter::CircuitSettings;

#[derive(Debug)]
pub(crate) struct Circuit {
    settings: CircuitSettings,
    seed: Option<u64>,
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Debug)]
enum State {
    Closed,
    Open { until: Instant, waits: Box<ExponentialBackoff> },
}

/// What one worker may do now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Permit {
    /// The secondary answers.
    Work,
    /// It did not when last tried: try one key.
    Probe,
}

/// Whether a report changed the circuit, for whoever tells people.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Turn {
    None,
    Opened,
    Closed,
}

impl Circuit {
    pub(crate) fn new(settings: CircuitSettings, seed: Option<u64>) -> Self {
        Self { settings, seed, state: Mutex::new(State::Closed), changed: Notify::new() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until there is something to do.
    pub(crate) async fn permit(&self) -> Permit {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            let until = match &*self.lock() {
                State::Closed => return Permit::Work,
                State::Open { until, .. } => *until,
            };
            if Instant::now() >= until {
                return Permit::Probe;
            }
            // Woken early, the loop looks again.
            drop(tokio::time::timeout_at(until, changed).await);
        }
    }

    /// Whether the secondary answered when last tried.
    pub(crate) fn is_closed(&self) -> bool {
        matches!(&*self.lock(), State::Closed)
    }

    pub(crate) fn answered(&self) -> Turn {
        let mut state = self.lock();
        if matches!(&*state, State::Closed) {
            return Turn::None;
        }
        *state = State::Closed;
        drop(state);
        self.changed.notify_waiters();
        Turn::Closed
    }

    pub(crate) fn failed(&self) -> Turn {
        let mut state = self.lock();
        let now = Instant::now();
        match &mut *state {
            // Workers that were under way together report the same outage; it counts once.
            State::Open { until, .. } if now < *until => Turn::None,
            State::Open { until, waits } => {
                *until = now + waits.next().unwrap_or(self.settings.cap);
                Turn::None
            }
            State::Closed => {
                let mut waits = Box::new(self.waits());
                let until = now + waits.next().unwrap_or(self.settings.cap);
                *state = State::Open { until, waits };
                Turn::Opened
            }
        }
    }

    fn waits(&self) -> ExponentialBackoff {
        // The builder adds jitter on top of its longest wait, so it gets half of it.
        let mut waits = ExponentialBuilder::default()
            .with_min_delay(self.settings.base / 2)
            .with_max_delay(self.settings.cap / 2)
            .without_max_times()
            .with_jitter();
        if let Some(seed) = self.seed {
            waits = waits.with_jitter_seed(seed);
        }
        waits.build()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn circuit() -> Circuit {
        Circuit::new(CircuitSettings::default(), Some(3))
    }

    #[tokio::test(start_paused = true)]
    async fn an_open_circuit_lets_one_probe_through_after_each_wait() {
        let circuit = circuit();
        assert_eq!(circuit.permit().await, Permit::Work);
        assert_eq!(circuit.failed(), Turn::Opened);
        assert_eq!(circuit.failed(), Turn::None, "the same outage");
        let start = Instant::now();
        let mut longest = Duration::ZERO;
        for _ in 0..20 {
            let before = Instant::now();
            assert_eq!(circuit.permit().await, Permit::Probe);
            longest = longest.max(before.elapsed());
            circuit.failed();
        }
        assert!(start.elapsed() > Duration::from_secs(10));
        assert!(longest <= CircuitSettings::default().cap + Duration::from_millis(1), "{longest:?}");
        assert_eq!(circuit.answered(), Turn::Closed);
        assert_eq!(circuit.permit().await, Permit::Work);
    }
}
