//! Proofs over the shapes of phase flags: where every subject was, and where it will be.

use std::collections::{HashMap, HashSet};

use zdm_core::phase::Phase;

use super::axis::{Step, step};
use super::shape::{PhaseShape, Spread};

/// How many pairs of branches are looked at before a proof gives up.
const MOST_PAIRS: usize = 20_000;

/// How far ahead schedules are proved, in seconds: 20 years. A weight that grows with the time goes out of
/// range one day, and flagd then lets it count for nothing.
pub(crate) const HORIZON: i64 = 20 * 366 * 86_400;

/// What the code does where the file says nothing.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Known {
    /// The phase that the code falls back to, if it declared the flag.
    pub(crate) code_default: Option<Phase>,
    /// `zdm.rollback` of the new file.
    pub(crate) rollback: bool,
    /// Seconds since 1970.
    pub(crate) now: i64,
}

/// Why a change of shape must be refused, if it must: for each forbidden move one sentence.
pub(crate) fn check_reload(old: &PhaseShape, new: &PhaseShape, known: Known) -> Vec<String> {
    let mut walk = Walk::new(known.code_default);
    walk.pairs((old, known.now), (new, known.now), &mut HashMap::new());
    walk.forbidden(known.rollback, false, "")
}

/// Why a schedule must be refused: subjects that go back, or over a phase, as time passes.
pub(crate) fn check_schedule(shape: &PhaseShape, rollback: bool, now: i64) -> Vec<String> {
    let mut bends = Vec::new();
    shape.bends(&mut bends);
    let mut times = vec![now];
    let ahead = now + 1..=now.saturating_add(HORIZON);
    times.extend(
        bends.iter().flat_map(|bend| [bend - 1, *bend, bend + 1]).filter(|time| ahead.contains(time)),
    );
    times.sort_unstable();
    times.dedup();
    let mut messages = Vec::new();
    for pair in times.windows(2) {
        let (from, until) = (pair[0], pair[1]);
        // Over a whole stretch nobody may go back. Shares are linear in it, so its ends say it all.
        let mut walk = Walk::new(None);
        walk.pairs((shape, from), (shape, until), &mut HashMap::new());
        messages.extend(walk.forbidden(rollback, true, &format!(" between {from} and {until}")));
        // From one second to the next nobody may jump over a phase. Again the ends of the stretch say it.
        for second in [from, until - 1] {
            let mut walk = Walk::new(None);
            walk.pairs((shape, second), (shape, second + 1), &mut HashMap::new());
            messages.extend(walk.forbidden(rollback, false, &format!(" at {second}")));
        }
    }
    messages.sort();
    messages.dedup();
    messages.truncate(8);
    messages
}

struct Walk {
    code_default: Option<Phase>,
    pairs: usize,
    moves: HashSet<(Option<Phase>, Option<Phase>)>,
    gave_up: bool,
}

impl Walk {
    fn new(code_default: Option<Phase>) -> Self {
        Self { code_default, pairs: 0, moves: HashSet::new(), gave_up: false }
    }

    /// Visits every pair of leaves that one subject can go between. A condition that both sides ask has
    /// the same answer for both; different conditions may have any.
    fn pairs<'a>(
        &mut self,
        old: (&'a PhaseShape, i64),
        new: (&'a PhaseShape, i64),
        assumed: &mut HashMap<&'a str, bool>,
    ) {
        self.pairs += 1;
        if self.pairs > MOST_PAIRS {
            self.gave_up = true;
            return;
        }
        match (old.0, new.0) {
            (PhaseShape::When { test, then, otherwise }, _) => {
                let next = if (old.1 >= test.from) != test.negated { then } else { otherwise };
                self.pairs((next, old.1), new, assumed);
            }
            (_, PhaseShape::When { test, then, otherwise }) => {
                let next = if (new.1 >= test.from) != test.negated { then } else { otherwise };
                self.pairs(old, (next, new.1), assumed);
            }
            (PhaseShape::If { condition, then, otherwise }, _) => {
                self.branch(condition, assumed, |walk, assumed, holds| {
                    walk.pairs((if holds { then } else { otherwise }, old.1), new, assumed);
                });
            }
            (_, PhaseShape::If { condition, then, otherwise }) => {
                self.branch(condition, assumed, |walk, assumed, holds| {
                    walk.pairs(old, (if holds { then } else { otherwise }, new.1), assumed);
                });
            }
            (PhaseShape::Leaf(before), PhaseShape::Leaf(after)) => {
                self.leaves(&before.at(old.1), &after.at(new.1))
            }
        }
    }

    fn branch<'a>(
        &mut self,
        condition: &'a str,
        assumed: &mut HashMap<&'a str, bool>,
        mut follow: impl FnMut(&mut Self, &mut HashMap<&'a str, bool>, bool),
    ) {
        if let Some(holds) = assumed.get(condition) {
            let holds = *holds;
            return follow(self, assumed, holds);
        }
        for holds in [true, false] {
            assumed.insert(condition, holds);
            follow(self, assumed, holds);
        }
        assumed.remove(condition);
    }

    fn leaves(&mut self, before: &Spread<'_>, after: &Spread<'_>) {
        self.moves.insert((before.fallback, after.fallback));
        if before.key == after.key {
            // The same hash: stretch by stretch.
            let (mut old, mut new) = (before.stretches.iter().peekable(), after.stretches.iter().peekable());
            let mut done = 0;
            while let (Some((old_end, was)), Some((new_end, will_be))) = (old.peek(), new.peek()) {
                let end = *old_end.min(new_end);
                if end > done {
                    self.moves.insert((*was, *will_be));
                    done = end;
                }
                if *old_end == end {
                    old.next();
                }
                if *new_end == end {
                    new.next();
                }
            }
        } else {
            // Another hash: anybody may land anywhere.
            let phases = |spread: &Spread<'_>| {
                let mut start = 0;
                let mut phases = vec![spread.fallback];
                for (end, phase) in &spread.stretches {
                    if *end > start {
                        phases.push(*phase);
                        start = *end;
                    }
                }
                phases
            };
            for was in phases(before) {
                for will_be in phases(after) {
                    self.moves.insert((was, will_be));
                }
            }
        }
    }

    fn forbidden(self, rollback: bool, over_time: bool, when: &str) -> Vec<String> {
        let mut messages = Vec::new();
        if self.gave_up {
            messages.push(
                "there are too many combinations of conditions to prove anything; write fewer".to_owned(),
            );
        }
        for (was, will_be) in self.moves {
            let (Some(was), Some(will_be)) = (was.or(self.code_default), will_be.or(self.code_default))
            else {
                // Only the code knows its default, and it has not declared the flag.
                continue;
            };
            let message = match step(was, will_be) {
                Step::Stays | Step::Forward => continue,
                Step::Jump if over_time => continue,
                Step::Jump => format!("subjects would jump from {was} to {will_be}{when}; go phase by phase"),
                Step::Back if rollback => continue,
                Step::Back => format!(
                    "subjects would go back from {was} to {will_be}{when}; if that is meant, set \"zdm.rollback\": true \
                     in the metadata of the flag"
                ),
                Step::Never => {
                    format!("subjects would leave {was} for {will_be}{when}; that is a new migration")
                }
            };
            messages.push(message);
        }
        messages.sort();
        messages
    }
}
