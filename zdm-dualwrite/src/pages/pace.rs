//! How fast pages may go. Pure: time comes in as an argument, permits or the time of the next one go out.
//!
//! Two things limit the rate. The ceiling is fixed. The other limit is found as TCP finds its rate
//! (additive increase, multiplicative decrease): a window of time in which pages or live requests were
//! slow, or the health check asked for it, cuts the rate to 70 % of what was really done; every good
//! window adds 5 % of the best rate seen, until the limit no longer binds and goes away.

use std::time::Duration;

use tokio::time::Instant;

use super::PaceSettings;

const DECREASE: f64 = 0.7;
const INCREASE: f64 = 0.05;
/// Permits for this long may be saved up. Longer would let a pause end in a burst.
const BURST_SECONDS: f64 = 0.1;
/// Fewer live requests in a window than this say nothing about its slowest hundredth.
const ENOUGH_REQUESTS: u64 = 20;

#[derive(Clone, Debug)]
pub(crate) struct Pace {
    settings: PaceSettings,
    found: Option<f64>,
    best: f64,
    permits: f64,
    refilled: Instant,
    window: Window,
}

#[derive(Clone, Debug)]
struct Window {
    started: Instant,
    rows: u64,
    slow_pages: u64,
    requests: u64,
    slow_requests: u64,
    asked_to_slow: bool,
}

impl Window {
    const fn starting(started: Instant) -> Self {
        Self { started, rows: 0, slow_pages: 0, requests: 0, slow_requests: 0, asked_to_slow: false }
    }

    const fn congested(&self) -> bool {
        let requests_slow = self.requests >= ENOUGH_REQUESTS && self.slow_requests * 100 > self.requests;
        self.asked_to_slow || self.slow_pages > 0 || requests_slow
    }
}

impl Pace {
    pub(crate) fn new(settings: PaceSettings, now: Instant) -> Self {
        Self { settings, found: None, best: 0.0, permits: 0.0, refilled: now, window: Window::starting(now) }
    }

    /// The rate that binds now, in rows per second. `None` is unlimited.
    pub(crate) fn limit(&self) -> Option<f64> {
        let ceiling = self.settings.rows_per_second.map(f64::from);
        match (ceiling, self.found) {
            (Some(ceiling), Some(found)) => Some(ceiling.min(found)),
            (ceiling, found) => ceiling.or(found),
        }
    }

    /// Takes permits for a page, or says when to ask again. A page may be larger than what is saved up:
    /// then the permits go below zero, and the next page waits until they are back.
    pub(crate) fn take(&mut self, now: Instant, rows: usize) -> Result<(), Instant> {
        self.roll(now);
        let passed = now.saturating_duration_since(self.refilled).as_secs_f64();
        self.refilled = now;
        let Some(rate) = self.limit() else {
            self.permits = 0.0;
            return Ok(());
        };
        self.permits = (self.permits + passed * rate).min(rate * BURST_SECONDS);
        if self.permits < 0.0 {
            // A little more than nothing, so that rounding cannot wake the caller too early for ever.
            return Err(now + Duration::from_secs_f64(-self.permits / rate) + Duration::from_micros(1));
        }
        self.permits -= rows as f64;
        Ok(())
    }

    /// A page was written.
    pub(crate) fn page_done(&mut self, now: Instant, rows: u64, took: Duration) {
        self.window.rows += rows;
        self.window.slow_pages += u64::from(took > self.settings.slow_page);
        self.roll(now);
    }

    /// A page timed out or the store was busy.
    pub(crate) fn page_failed(&mut self, now: Instant) {
        self.window.slow_pages += 1;
        self.roll(now);
    }

    /// So many live requests were answered, so many of them slowly.
    pub(crate) fn requests_seen(&mut self, now: Instant, requests: u64, slow: u64) {
        self.window.requests += requests;
        self.window.slow_requests += slow;
        self.roll(now);
    }

    /// The health check asks for less.
    pub(crate) fn slow_down(&mut self, now: Instant) {
        self.window.asked_to_slow = true;
        self.roll(now);
    }

    /// Closes the window if its time is over, and moves the limit.
    fn roll(&mut self, now: Instant) {
        let length = now.saturating_duration_since(self.window.started);
        if length < self.settings.window {
            return;
        }
        let done = std::mem::replace(&mut self.window, Window::starting(now));
        let rate = done.rows as f64 / length.as_secs_f64();
        self.best = self.best.max(rate);
        if done.congested() {
            let used = self.found.map_or(self.best, |found| if rate > 0.0 { found.min(rate) } else { found });
            self.found = Some((used * DECREASE).max(f64::from(self.settings.least_rows_per_second)));
        } else if let Some(found) = self.found {
            let raised = found + (self.best * INCREASE).max(1.0);
            // Twice the best rate ever seen binds nothing.
            self.found = (raised < 2.0 * self.best.max(1.0)).then_some(raised);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings() -> PaceSettings {
        PaceSettings { least_rows_per_second: 10, ..PaceSettings::default() }
    }

    /// Pages of `rows` as fast as the permits allow, each taking `took`. Returns the rows of the time.
    fn drive(pace: &mut Pace, now: &mut Instant, rows: usize, took: Duration, time: Duration) -> u64 {
        let end = *now + time;
        let mut done = 0;
        while *now < end {
            match pace.take(*now, rows) {
                Ok(()) => {
                    *now += took;
                    done += rows as u64;
                    pace.page_done(*now, rows as u64, took);
                }
                Err(later) => {
                    assert!(later > *now, "a refusal names a later time");
                    *now = later;
                }
            }
        }
        done
    }

    #[test]
    fn the_ceiling_holds_for_pages_of_any_size() {
        for rows in [1, 37, 5_000] {
            let start = Instant::now();
            let mut now = start;
            let mut pace = Pace::new(PaceSettings { rows_per_second: Some(1_000), ..settings() }, start);
            let took = Duration::from_micros(100);
            let done = drive(&mut pace, &mut now, rows, took, Duration::from_secs(60));
            let allowed = 60_000 + rows as u64 + 100;
            assert!(done <= allowed, "{done} rows in a minute, pages of {rows}");
            assert!(done >= 59_000, "the ceiling is also reached: {done}");
        }
    }

    #[test]
    fn without_trouble_and_ceiling_nothing_limits() {
        let start = Instant::now();
        let mut now = start;
        let mut pace = Pace::new(settings(), start);
        drive(&mut pace, &mut now, 100, Duration::from_millis(10), Duration::from_secs(5));
        assert_eq!(pace.limit(), None);
    }

    #[test]
    fn a_slow_window_cuts_the_rate_and_good_ones_raise_it_until_it_is_gone() {
        let start = Instant::now();
        let mut now = start;
        let mut pace = Pace::new(settings(), start);
        // 10,000 rows/s, then one page that is too slow.
        drive(&mut pace, &mut now, 100, Duration::from_millis(10), Duration::from_secs(2));
        now += Duration::from_secs(3);
        pace.page_done(now, 100, Duration::from_secs(3));
        let cut = pace.limit().unwrap();
        assert!((6_000.0..=8_000.0).contains(&cut), "{cut}");

        let took = Duration::from_millis(1);
        drive(&mut pace, &mut now, 100, took, Duration::from_secs(1));
        let raised = pace.limit().unwrap();
        assert!(raised > cut && raised < cut * 1.5, "additive: {cut} then {raised}");
        drive(&mut pace, &mut now, 100, took, Duration::from_secs(60));
        assert_eq!(pace.limit(), None, "a limit that does not bind goes away");
    }

    #[test]
    fn slow_live_requests_cut_the_rate_window_after_window_down_to_the_floor() {
        let start = Instant::now();
        let mut now = start;
        let mut pace = Pace::new(settings(), start);
        drive(&mut pace, &mut now, 100, Duration::from_millis(10), Duration::from_secs(2));
        let mut last = f64::INFINITY;
        for _ in 0..40 {
            pace.requests_seen(now, 1_000, 11);
            now += Duration::from_millis(500);
            pace.page_done(now, 1_000, Duration::from_millis(1));
            let limit = pace.limit().unwrap();
            assert!(limit <= last, "{last} then {limit}");
            last = limit;
        }
        assert!(last < 30.0, "{last}");
        // A hundredth of slow requests is what the limit allows.
        pace.requests_seen(now, 1_000, 10);
        now += Duration::from_millis(500);
        pace.requests_seen(now, 0, 0);
        assert!(pace.limit().unwrap() > last);
    }

    #[test]
    fn the_health_check_slows_the_pace() {
        let start = Instant::now();
        let mut now = start;
        let mut pace = Pace::new(settings(), start);
        drive(&mut pace, &mut now, 100, Duration::from_millis(10), Duration::from_secs(2));
        pace.slow_down(now);
        now += Duration::from_secs(1);
        assert!(pace.take(now, 1).is_ok());
        assert!(pace.limit().is_some());
    }
}
