//! The last words of the program: a report to read, and the same as one JSON object.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::Ordering;
use std::time::Duration;

use serde_json::{Map, Value, json};

use super::checker::Verdict;
use super::latency::{PHASES, Percentiles, Request};
use super::traffic::Tally;

/// Phases before the migration, while it runs, and after the handover.
const PERIODS: [(&str, &[&str]); 3] = [
    ("before", &["Off"]),
    ("during", &["DualWrite", "Shadow", "Ramp"]),
    ("after", &["Live", "RampDown", "Complete"]),
];
const BOTH: [Request; 2] = [Request::Read, Request::Write];

/// What the migration itself reports.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Outcome {
    /// How long each phase lasted, by name.
    pub phases: BTreeMap<String, Duration>,
    /// Rows that this run copied.
    pub backfilled_rows: u64,
    /// How long this run copied rows.
    pub backfill: Duration,
    /// The longest time for which writes waited while the primary role moved.
    pub handover_pause: Duration,
    /// Rows that verification compared.
    pub verified_rows: u64,
    /// Differences that verification confirmed.
    pub verified_differences: u64,
    /// How verification compared, and what that cannot see.
    pub verification: String,
    /// Secondary writes that were set aside.
    pub parked: u64,
}

/// Everything that the program says at its end.
#[derive(Debug)]
pub struct Report<'a> {
    /// Flights that the old database was loaded with.
    pub rows: u64,
    /// What the migration reports.
    pub outcome: &'a Outcome,
    /// What readers and writers saw.
    pub tally: &'a Tally,
    /// What the checker found.
    pub verdict: &'a Verdict,
    /// How long the whole program ran.
    pub took: Duration,
}

impl Report<'_> {
    /// Whether nothing was lost, extra, different, parked or failed.
    pub fn clean(&self) -> bool {
        self.verdict.clean() && self.outcome.parked == 0 && self.tally.failed_requests() == 0
    }

    /// The numbers as one JSON object.
    pub fn json(&self) -> Value {
        let phases = PHASES.iter().filter_map(|phase| Some((phase, self.outcome.phases.get(*phase)?)));
        let phases: Map<_, _> =
            phases.map(|(phase, took)| ((*phase).to_owned(), json!(rounded(took.as_secs_f64())))).collect();
        let p99: Map<_, _> = PHASES
            .iter()
            .map(|phase| (phase, self.tally.latencies.percentiles(&[*phase], &BOTH)))
            .filter(|(_, percentiles)| percentiles.requests > 0)
            .map(|(phase, percentiles)| ((*phase).to_owned(), json!(percentiles.p99_ms)))
            .collect();
        json!({
            "rows": self.rows,
            "reads": self.tally.reads.load(Ordering::Relaxed),
            "writes": self.tally.writes(),
            "failed_requests": self.tally.failed_requests(),
            "lost": self.verdict.lost,
            "extra": self.verdict.extra,
            "mismatches": self.verdict.mismatches,
            "parked": self.outcome.parked,
            "verified_rows": self.outcome.verified_rows,
            "verified_differences": self.outcome.verified_differences,
            "verification": self.outcome.verification,
            "phases": phases,
            "backfill_rows_per_second": self.backfill_rows_per_second(),
            "p99_ms": p99,
            "handover_pause_ms": rounded(self.outcome.handover_pause.as_secs_f64() * 1_000.0),
            "seconds": rounded(self.took.as_secs_f64()),
        })
    }

    fn backfill_rows_per_second(&self) -> u64 {
        if self.outcome.backfilled_rows == 0 {
            return 0;
        }
        (self.outcome.backfilled_rows as f64 / self.outcome.backfill.as_secs_f64().max(0.001)).round() as u64
    }
}

impl fmt::Display for Report<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { outcome, tally, verdict, .. } = self;
        let count = |count: &std::sync::atomic::AtomicU64| grouped(count.load(Ordering::Relaxed));
        writeln!(
            f,
            "rows              {} in old, {} in new",
            grouped(verdict.old_rows),
            grouped(verdict.new_rows)
        )?;
        writeln!(
            f,
            "requests          {} reads, {} updates, {} inserts, {} deletes",
            count(&tally.reads),
            count(&tally.updates),
            count(&tally.inserts),
            count(&tally.deletes)
        )?;
        writeln!(
            f,
            "failed requests   {} ({} errors, {} stale reads)",
            grouped(tally.failed_requests()),
            count(&tally.errors),
            count(&tally.stale_reads)
        )?;
        if tally.refused.load(Ordering::Relaxed) > 0 {
            let refused = count(&tally.refused);
            writeln!(
                f,
                "refused writes    {refused}, by constraints of the database, as without a migration"
            )?;
        }
        for (period, phases) in PERIODS {
            for (kind, name) in [(Request::Read, "reads"), (Request::Write, "writes")] {
                let Percentiles { requests, p50_ms, p99_ms } = tally.latencies.percentiles(phases, &[kind]);
                if requests > 0 {
                    writeln!(f, "{name:6} {period:10} p50 {p50_ms:.2} ms, p99 {p99_ms:.2} ms")?;
                }
            }
        }
        for phase in PHASES {
            if let Some(took) = outcome.phases.get(phase) {
                writeln!(f, "phase {phase:11} {:.1} s", took.as_secs_f64())?;
            }
        }
        writeln!(
            f,
            "backfill          {} rows, {} rows/s",
            grouped(outcome.backfilled_rows),
            grouped(self.backfill_rows_per_second())
        )?;
        let pause = outcome.handover_pause.as_secs_f64() * 1_000.0;
        writeln!(f, "handover          writes waited {pause:.1} ms")?;
        writeln!(
            f,
            "verification      compared {} rows, {} differences",
            grouped(outcome.verified_rows),
            grouped(outcome.verified_differences)
        )?;
        if !outcome.verification.is_empty() {
            writeln!(f, "verified by       {}", outcome.verification)?;
        }
        writeln!(f, "parked            {}", grouped(outcome.parked))?;
        writeln!(
            f,
            "independent check every row of both databases against {} acknowledged writes to {} keys",
            grouped(verdict.acknowledged_writes),
            grouped(verdict.written_keys)
        )?;
        writeln!(
            f,
            "                  {} lost, {} extra, {} mismatches",
            grouped(verdict.lost),
            grouped(verdict.extra),
            grouped(verdict.mismatches)
        )?;
        for finding in verdict.findings.iter().chain(&tally.complaints()) {
            writeln!(f, "  ! {finding}")?;
        }
        write!(
            f,
            "{} after {:.1} s",
            if self.clean() { "CLEAN" } else { "NOT CLEAN" },
            self.took.as_secs_f64()
        )
    }
}

/// To three digits behind the point.
fn rounded(number: f64) -> f64 {
    (number * 1_000.0).round() / 1_000.0
}

/// A number with a comma between thousands.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::grouped;

    #[test]
    fn thousands_are_grouped() {
        assert_eq!([0, 999, 1_000, 336_776].map(grouped), ["0", "999", "1,000", "336,776"]);
    }
}
