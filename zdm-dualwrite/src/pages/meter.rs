//! How much is done and how fast it goes. Pure.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

/// The rate is that of the last so many seconds.
const SPAN: Duration = Duration::from_secs(10);
const STEP: Duration = Duration::from_millis(500);

#[derive(Clone, Debug)]
pub(crate) struct Meter {
    rows: u64,
    /// Times and counts, `STEP` apart, no older than `SPAN`.
    marks: VecDeque<(Instant, u64)>,
}

impl Meter {
    /// A meter that begins at `rows` records, which an earlier run has done.
    pub(crate) fn new(now: Instant, rows: u64) -> Self {
        Self { rows, marks: VecDeque::from([(now, rows)]) }
    }

    pub(crate) fn add(&mut self, now: Instant, rows: u64) {
        self.forget(now);
        self.rows += rows;
        if self.marks.back().is_none_or(|(at, _)| now.saturating_duration_since(*at) >= STEP) {
            self.marks.push_back((now, self.rows));
        }
    }

    fn forget(&mut self, now: Instant) {
        // The last mark before the span stays: it is where the span begins.
        while self.marks.get(1).is_some_and(|(at, _)| now.saturating_duration_since(*at) >= SPAN) {
            self.marks.pop_front();
        }
    }

    pub(crate) const fn rows(&self) -> u64 {
        self.rows
    }

    /// Rows per second lately.
    pub(crate) fn rate(&mut self, now: Instant) -> f64 {
        self.forget(now);
        let Some((since, rows)) = self.marks.front() else { return 0.0 };
        let seconds = now.saturating_duration_since(*since).as_secs_f64();
        if seconds > 0.0 { (self.rows - rows) as f64 / seconds } else { 0.0 }
    }

    /// How long the rest of `estimated` rows will take. `None` while nothing moves.
    pub(crate) fn remaining(&mut self, now: Instant, estimated: u64) -> Option<Duration> {
        let left = estimated.saturating_sub(self.rows);
        let rate = self.rate(now);
        (rate > 0.0).then(|| Duration::try_from_secs_f64(left as f64 / rate).unwrap_or(Duration::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_is_that_of_the_last_seconds_and_tells_what_is_left() {
        let start = Instant::now();
        let mut meter = Meter::new(start, 1_000);
        let mut now = start;
        assert_eq!(meter.remaining(now, 5_000), None);
        for rows in [100, 300] {
            for _ in 0..200 {
                now += Duration::from_millis(100);
                meter.add(now, rows);
            }
            let wanted = rows as f64 * 10.0;
            assert!((meter.rate(now) - wanted).abs() < wanted * 0.06, "{} of {wanted}", meter.rate(now));
        }
        assert_eq!(meter.rows(), 81_000);
        let left = meter.remaining(now, 111_000).unwrap().as_secs_f64();
        assert!((9.0..11.0).contains(&left), "{left}");
        assert_eq!(meter.remaining(now, 10), Some(Duration::ZERO));
        now += Duration::from_secs(100);
        assert!(meter.rate(now) < 30.0, "what stands still has no rate: {}", meter.rate(now));
    }
}
