//! What a person sees while the program runs: a progress bar, or lines where there is no terminal.

use std::io::{IsTerminal, Write, stderr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use indicatif::{HumanCount, ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::latency::{PHASES, Request};
use super::traffic::Tally;

/// How often lines are printed where there is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(2);
const STYLE: &str = "{prefix:>9} {bar:28} {pos:>7}/{len} rows  {msg}";

/// Where a migration stands.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Standing {
    /// The phase, with the share of reads where there is one.
    pub phase: String,
    /// What is being done in it.
    pub doing: &'static str,
    /// Rows done by that, and rows that it has to do; equal when there is nothing to do.
    pub rows: u64,
    /// See `rows`.
    pub rows_total: u64,
    /// Rows per second at the moment.
    pub rows_per_second: f64,
    /// Entries in the secondary-write queue.
    pub queue_depth: u64,
    /// The age of the oldest of them.
    pub lag: Duration,
    /// Whether the new database is switched off.
    pub outage: bool,
}

/// Draws where the migration stands.
#[derive(Debug)]
pub struct Display {
    bar: ProgressBar,
    tally: Arc<Tally>,
    terminal: bool,
    last_line: Option<(Instant, String)>,
}

impl Display {
    /// Draws on standard error, so that standard output holds the report alone.
    pub fn new(tally: Arc<Tally>) -> Self {
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr_with_hz(10));
        if let Ok(style) = ProgressStyle::with_template(STYLE) {
            bar.set_style(style.progress_chars("=> "));
        }
        Self { bar, tally, terminal: stderr().is_terminal(), last_line: None }
    }

    /// Shows where the migration stands now.
    pub fn show(&mut self, now: &Standing) {
        let message = self.message(now);
        if self.terminal {
            self.bar.set_prefix(now.phase.clone());
            self.bar.set_length(now.rows_total);
            self.bar.set_position(now.rows);
            self.bar.set_message(message);
        } else {
            let what = format!("{} {}", now.phase, now.doing);
            let due = self
                .last_line
                .as_ref()
                .is_none_or(|(printed, last)| *last != what || printed.elapsed() >= LINE_EVERY);
            if due {
                let rows = format!("{}/{} rows", HumanCount(now.rows), HumanCount(now.rows_total));
                self.say(&format!("{:>9} {rows:>20}  {message}", now.phase));
                self.last_line = Some((Instant::now(), what));
            }
        }
    }

    /// Prints a line above the bar.
    pub fn say(&self, line: &str) {
        if self.terminal {
            self.bar.println(line);
        } else {
            // A closed standard error is no reason to stop a migration.
            let _printed = writeln!(stderr(), "{line}");
        }
    }

    /// Removes the bar.
    pub fn finish(&self) {
        self.bar.finish_and_clear();
    }

    fn message(&self, now: &Standing) -> String {
        let mut message = now.doing.to_owned();
        if now.rows < now.rows_total && now.rows_per_second >= 1.0 {
            let left = (now.rows_total - now.rows) as f64 / now.rows_per_second;
            message += &format!(", {} rows/s, ETA {left:.0} s", HumanCount(now.rows_per_second as u64));
        }
        message += &format!(", queue {}", HumanCount(now.queue_depth));
        if now.queue_depth > 0 {
            message += &format!(" (lag {} ms)", now.lag.as_millis());
        }
        let both = [Request::Read, Request::Write];
        let phase = PHASES.get(self.tally.latencies.now()).copied().unwrap_or_default();
        let requests = self.tally.latencies.percentiles(&[phase], &both);
        if requests.requests > 0 {
            message += &format!(", requests p50 {:.2} p99 {:.2} ms", requests.p50_ms, requests.p99_ms);
        }
        let failed = self.tally.failed_requests();
        if failed > 0 {
            message += &format!(", {} FAILED", HumanCount(failed));
        }
        if now.outage {
            message += ", NEW DATABASE OFF";
        }
        message
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_message_names_what_matters() {
        let display = Display::new(Arc::new(Tally::new().unwrap()));
        let mut standing = Standing { doing: "backfill", rows: 50, rows_total: 150, ..Standing::default() };
        standing.rows_per_second = 20.0;
        assert_eq!(display.message(&standing), "backfill, 20 rows/s, ETA 5 s, queue 0");
        standing.rows = 150;
        standing.queue_depth = 1_200;
        standing.lag = Duration::from_millis(35);
        standing.outage = true;
        display.tally.latencies.record(0, Request::Read, Duration::from_millis(2));
        let message = display.message(&standing);
        let expected = "backfill, queue 1,200 (lag 35 ms), requests p50 2.00 p99 2.00 ms, NEW DATABASE OFF";
        assert_eq!(message, expected);
    }
}
