use std::time::Duration;

use zdm_core::clock::UnixMillis;
use zdm_core::phase::{Gate, GateCheck, GateReport, Move, Phase};
use zdm_core::store::Store;

use crate::adapter::{DualWrite, Shared};

/// An entry older than this says that the queue does not keep up: a handover would wait too long.
const OLDEST_ENTRY: Duration = Duration::from_secs(10);

impl<S: Store + Clone> DualWrite<S> {
    /// What a move from the current phase would need, and what is found now. Looking changes nothing.
    ///
    /// # Errors
    /// `Kind::Refused` when there is no such move.
    pub fn gates(&self, to: Phase) -> zdm_core::Result<GateReport> {
        let planned = Move::between(self.phase().phase, to)?;
        Ok(self.shared.check_gates(&planned))
    }
}

impl<S: Store + Clone> Shared<S> {
    pub(super) fn check_gates(&self, planned: &Move) -> GateReport {
        GateReport { checks: planned.gates().iter().map(|gate| self.check_gate(*gate, planned)).collect() }
    }

    fn since(&self, at: UnixMillis) -> Duration {
        Duration::from_millis(self.clock.unix_millis().saturating_sub(at))
    }

    fn check_gate(&self, gate: Gate, planned: &Move) -> GateCheck {
        let stats = self.queue.stats();
        let direction = planned.from.routing().direction;
        let (passed, value, needed) = match gate {
            Gate::BackfillComplete => match self.facts.backfilled() {
                Some(fact) => {
                    (true, format!("done with {} rows, {:?} ago", fact.rows, self.since(fact.at)), "done")
                }
                None => (false, "not done in this process".to_owned(), "done"),
            },
            Gate::QueueKeepsUp => {
                let age = stats.oldest_age;
                (age <= OLDEST_ENTRY, format!("{age:?} for the oldest entry"), "at most 10s")
            }
            Gate::NothingParked => (stats.parked == 0, format!("{} parked", stats.parked), "0 parked"),
            Gate::NoTaint => (stats.taints == 0, format!("{} taints", stats.taints), "0 taints"),
            Gate::Verified => match self.facts.verified() {
                Some(fact) if Some(fact.direction) == direction => (
                    fact.mismatches == 0,
                    format!(
                        "{} compared, {} mismatches, {:?} ago",
                        fact.compared,
                        fact.mismatches,
                        self.since(fact.at)
                    ),
                    "every key compared, 0 mismatches",
                ),
                _ => (false, "not verified in this process".to_owned(), "every key compared, 0 mismatches"),
            },
            Gate::ShadowClean => {
                let counts = self.shadow.counts();
                let value = format!("{} of {} compared reads differed", counts.mismatched, counts.compared);
                (counts.mismatched == 0, value, "0 differed")
            }
            Gate::SurvivesACrash => {
                let guarantee = self.queue.guarantee();
                let value = format!("{guarantee:?}");
                (guarantee.survives_a_crash(), value, "a queue that survives a crash")
            }
            Gate::SecondaryAnswers => {
                let closed = self.circuit.is_closed();
                let value = if closed { "answering" } else { "not answering" };
                (closed, value.to_owned(), "answering")
            }
            _ => (false, "unknown to this version".to_owned(), "a newer version"),
        };
        GateCheck { gate, passed, value, needed: needed.to_owned() }
    }
}
