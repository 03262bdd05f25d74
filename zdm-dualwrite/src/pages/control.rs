//! The permits of a run: pace, pause, health and stop in one place. A page begins when it has a permit;
//! until then its worker waits here, and nowhere else.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use zdm_core::clock::Clock;

use super::pace::Pace;
use super::{Health, LatencyProbe, PaceSettings};

#[derive(Debug)]
pub(crate) struct Control {
    pace: Mutex<Pace>,
    probe: LatencyProbe,
    clock: Arc<dyn Clock>,
    signal: watch::Sender<Signal>,
}

/// What holds pages up, beyond the pace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Signal {
    pub(crate) paused: bool,
    pub(crate) held: Option<String>,
    pub(crate) stopping: bool,
}

/// The run is to stop: no page begins any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stopping;

impl Control {
    pub(crate) fn new(settings: PaceSettings, clock: Arc<dyn Clock>) -> Self {
        let probe = LatencyProbe::new(settings.slow_request);
        let pace = Mutex::new(Pace::new(settings, clock.now()));
        Self { pace, probe, clock, signal: watch::Sender::new(Signal::default()) }
    }

    fn pace(&self) -> MutexGuard<'_, Pace> {
        // Plain numbers: a panic elsewhere leaves them sound.
        self.pace.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn probe(&self) -> LatencyProbe {
        self.probe.clone()
    }

    pub(crate) fn signal(&self) -> Signal {
        self.signal.borrow().clone()
    }

    pub(crate) fn pause(&self) {
        self.signal.send_modify(|signal| signal.paused = true);
    }

    pub(crate) fn resume(&self) {
        self.signal.send_modify(|signal| signal.paused = false);
    }

    pub(crate) fn stop(&self) {
        self.signal.send_modify(|signal| signal.stopping = true);
    }

    /// Takes the word of the health check. Tells whether the run is held from now on and was not before.
    pub(crate) fn health(&self, health: Health) -> bool {
        let held = match health {
            Health::Go => None,
            Health::Slow(_) => {
                self.pace().slow_down(self.clock.now());
                None
            }
            Health::Hold(reason) => Some(reason),
        };
        let newly = held.is_some() && self.signal.borrow().held.is_none();
        self.signal.send_if_modified(|signal| std::mem::replace(&mut signal.held, held.clone()) != held);
        newly
    }

    /// A permit for a page of `rows` records, if there is one now.
    pub(crate) fn try_permit(&self, rows: usize) -> Result<bool, Stopping> {
        let signal = self.signal();
        if signal.stopping {
            return Err(Stopping);
        }
        Ok(!signal.paused && signal.held.is_none() && self.take(rows).is_ok())
    }

    /// Waits for a permit for a page of `rows` records.
    pub(crate) async fn permit(&self, rows: usize) -> Result<(), Stopping> {
        let mut changes = self.signal.subscribe();
        loop {
            let signal = changes.borrow_and_update().clone();
            if signal.stopping {
                return Err(Stopping);
            }
            let until = if signal.paused || signal.held.is_some() {
                None
            } else {
                match self.take(rows) {
                    Ok(()) => return Ok(()),
                    Err(until) => Some(until),
                }
            };
            // The sender lives as long as this call, so `changed` never fails.
            match until {
                None => drop(changes.changed().await),
                Some(until) => drop(tokio::time::timeout_at(until, changes.changed()).await),
            }
        }
    }

    fn take(&self, rows: usize) -> Result<(), tokio::time::Instant> {
        let now = self.clock.now();
        let mut pace = self.pace();
        let (requests, slow) = self.probe.drain();
        pace.requests_seen(now, requests, slow);
        pace.take(now, rows)
    }

    pub(crate) fn page_done(&self, rows: u64, took: Duration) {
        self.pace().page_done(self.clock.now(), rows, took);
    }

    pub(crate) fn page_failed(&self) {
        self.pace().page_failed(self.clock.now());
    }

    /// The rate that binds now.
    pub(crate) fn limit(&self) -> Option<f64> {
        self.pace().limit()
    }

    /// Waits before another try, or until the run is to stop.
    pub(crate) async fn wait(&self, time: Duration) -> Result<(), Stopping> {
        let mut changes = self.signal.subscribe();
        let stopping = changes.wait_for(|signal| signal.stopping);
        match tokio::time::timeout(time, stopping).await {
            Ok(_) => Err(Stopping),
            Err(_) => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::time::Instant;
    use zdm_core::clock::SystemClock;

    fn control(rows_per_second: Option<u32>) -> Arc<Control> {
        let settings = PaceSettings { rows_per_second, ..PaceSettings::default() };
        Arc::new(Control::new(settings, Arc::new(SystemClock)))
    }

    #[tokio::test(start_paused = true)]
    async fn workers_share_the_ceiling() {
        let control = control(Some(1_000));
        let start = Instant::now();
        let workers: Vec<_> = (0..4)
            .map(|_| {
                let control = Arc::clone(&control);
                tokio::spawn(async move {
                    for _ in 0..25 {
                        control.permit(100).await.unwrap();
                    }
                })
            })
            .collect();
        for worker in workers {
            worker.await.unwrap();
        }
        let took = start.elapsed().as_secs_f64();
        assert!((9.8..=10.1).contains(&took), "10,000 rows at 1,000 rows/s took {took} s");
    }

    #[tokio::test(start_paused = true)]
    async fn a_pause_holds_pages_back_and_a_stop_ends_the_wait() {
        let control = control(None);
        control.pause();
        assert_eq!(control.try_permit(1), Ok(false));
        let waiting = tokio::spawn({
            let control = Arc::clone(&control);
            async move { control.permit(1).await }
        });
        tokio::time::sleep(Duration::from_secs(3600)).await;
        assert!(!waiting.is_finished());
        control.resume();
        assert_eq!(waiting.await.unwrap(), Ok(()));

        control.pause();
        let waiting = tokio::spawn({
            let control = Arc::clone(&control);
            async move { control.permit(1).await }
        });
        tokio::task::yield_now().await;
        control.stop();
        assert_eq!(waiting.await.unwrap(), Err(Stopping));
        assert_eq!(control.wait(Duration::from_secs(1)).await, Err(Stopping));
    }

    #[tokio::test(start_paused = true)]
    async fn the_health_check_holds_and_lets_go() {
        let control = control(None);
        assert!(control.health(Health::Hold("the replica lags 12 s".to_owned())));
        assert!(!control.health(Health::Hold("the replica lags 13 s".to_owned())));
        assert_eq!(control.signal().held.as_deref(), Some("the replica lags 13 s"));
        assert_eq!(control.try_permit(1), Ok(false));
        control.health(Health::Go);
        assert_eq!(control.try_permit(1), Ok(true));
    }

    #[tokio::test(start_paused = true)]
    async fn slow_live_requests_slow_the_pages() {
        let control = control(None);
        for _ in 0..20 {
            assert_eq!(control.try_permit(100), Ok(true));
            control.page_done(100, Duration::from_millis(1));
            tokio::time::advance(Duration::from_millis(50)).await;
        }
        assert_eq!(control.limit(), None);
        let probe = control.probe();
        for _ in 0..100 {
            probe.observe(Duration::from_millis(80));
        }
        control.permit(1).await.unwrap();
        tokio::time::advance(Duration::from_millis(600)).await;
        control.permit(1).await.unwrap();
        assert!(control.limit().unwrap() < 2_000.0);
    }
}
