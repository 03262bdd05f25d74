//! What the final state of each key may be, judged by the order of the requests alone.
//!
//! Writers run side by side, so "the last write" is not always one write. A write is known to come before
//! another only if it was acknowledged before the other was called. A value may be the current one if its
//! write is not known to come before another acknowledged write. A write whose outcome nobody knows, since its
//! request failed or the program was killed, may have happened or not: it is allowed and replaces nothing.

use std::collections::BTreeMap;
use std::collections::HashMap;

/// A point in the order of all that was recorded: the line of the ledger.
pub type Position = u64;

/// One thing that the ledger records.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A write is about to be called; its position names it. The value is a line of the data set, or none to delete.
    Intent {
        /// The flight.
        key: i64,
        /// What it shall be.
        value: Option<String>,
    },
    /// The write of that position was acknowledged.
    Acknowledged(Position),
    /// The request of that position failed. It may have taken effect all the same, and may do so later.
    Failed(Position),
    /// The program was started again: whatever was under way before can no longer take effect.
    Restarted,
}

/// The writes of every key.
#[derive(Debug, Default)]
pub struct History {
    by_key: BTreeMap<i64, Vec<Attempt>>,
    unfinished: HashMap<Position, i64>,
    acknowledged: u64,
}

#[derive(Debug)]
struct Attempt {
    called: Position,
    /// From here on it can no longer take effect.
    ended: Option<Position>,
    acknowledged: bool,
    value: Option<String>,
}

/// The states in which a key may be found.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Allowed<'a> {
    /// As it was before the first recorded write.
    pub initial: bool,
    /// Not there.
    pub absent: bool,
    /// There, with one of these values.
    pub values: Vec<&'a str>,
}

impl History {
    /// Adds an event. `false` when it speaks of a write that was never called or has ended already.
    #[must_use]
    pub fn add(&mut self, position: Position, event: Event) -> bool {
        match event {
            Event::Intent { key, value } => {
                self.unfinished.insert(position, key);
                let attempt = Attempt { called: position, ended: None, acknowledged: false, value };
                self.by_key.entry(key).or_default().push(attempt);
                true
            }
            Event::Acknowledged(write) => {
                self.acknowledged += 1;
                self.unfinished.remove(&write).and_then(|key| self.attempt(key, write)).is_some_and(
                    |attempt| {
                        attempt.acknowledged = true;
                        attempt.ended = Some(position);
                        true
                    },
                )
            }
            // It stays unfinished: a failed request may still take effect.
            Event::Failed(write) => self.unfinished.contains_key(&write),
            Event::Restarted => {
                for (write, key) in std::mem::take(&mut self.unfinished) {
                    if let Some(attempt) = self.attempt(key, write) {
                        attempt.ended = Some(position);
                    }
                }
                true
            }
        }
    }

    fn attempt(&mut self, key: i64, called: Position) -> Option<&mut Attempt> {
        let attempts = self.by_key.get_mut(&key)?;
        let index = attempts.binary_search_by_key(&called, |attempt| attempt.called).ok()?;
        attempts.get_mut(index)
    }

    /// The states that a look at the key may find which began and ended at these positions.
    pub fn allowed(&self, key: i64, began: Position, ended: Position) -> Allowed<'_> {
        let attempts = self.by_key.get(&key).map_or(&[][..], Vec::as_slice);
        // The latest call among the writes that were over before the look began: who ended before it is replaced.
        let over = |attempt: &&Attempt| attempt.acknowledged && attempt.ended.is_some_and(|end| end < began);
        let latest = attempts.iter().filter(over).map(|attempt| attempt.called).max();
        let mut allowed = Allowed { initial: latest.is_none(), ..Allowed::default() };
        for attempt in attempts.iter().filter(|attempt| attempt.called < ended) {
            let replaced = matches!((attempt.ended, latest), (Some(end), Some(latest)) if end < latest);
            match &attempt.value {
                _ if replaced => {}
                Some(value) => allowed.values.push(value),
                None => allowed.absent = true,
            }
        }
        allowed
    }

    /// Whether any write of the key ever said this value.
    pub fn knows(&self, key: i64, value: &str) -> bool {
        let attempts = self.by_key.get(&key).map_or(&[][..], Vec::as_slice);
        attempts.iter().any(|attempt| attempt.value.as_deref() == Some(value))
    }

    /// The keys that were written or may have been, in order.
    pub fn keys(&self) -> impl Iterator<Item = i64> {
        self.by_key.keys().copied()
    }

    /// The greatest key that was ever written.
    pub fn greatest_key(&self) -> Option<i64> {
        self.by_key.last_key_value().map(|(key, _)| *key)
    }

    /// How many writes were acknowledged.
    pub const fn acknowledged(&self) -> u64 {
        self.acknowledged
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Events at positions 1, 2, 3, ...; every intent is for key 7.
    fn history(events: &[Event]) -> History {
        let mut history = History::default();
        for (position, event) in (1..).zip(events) {
            assert!(history.add(position, event.clone()));
        }
        history
    }

    fn write(value: &str) -> Event {
        Event::Intent { key: 7, value: (value != "-").then(|| value.to_owned()) }
    }

    fn at_the_end(history: &History) -> (bool, bool, Vec<&str>) {
        let allowed = history.allowed(7, Position::MAX, Position::MAX);
        (allowed.initial, allowed.absent, allowed.values)
    }

    use Event::{Acknowledged, Failed, Restarted};

    #[test]
    fn one_write_after_another_leaves_the_last() {
        let history = history(&[write("a"), Acknowledged(1), write("b"), Acknowledged(3)]);
        assert_eq!(at_the_end(&history), (false, false, vec!["b"]));
        assert_eq!(history.acknowledged(), 2);
    }

    #[test]
    fn writes_side_by_side_leave_either() {
        let history = history(&[write("a"), write("b"), Acknowledged(2), Acknowledged(1)]);
        assert_eq!(at_the_end(&history), (false, false, vec!["a", "b"]));
    }

    #[test]
    fn a_long_write_may_end_after_short_ones_and_the_first_short_one_is_gone() {
        let history = history(&[
            write("long"),
            write("a"),
            Acknowledged(2),
            write("-"),
            Acknowledged(4),
            Acknowledged(1),
        ]);
        assert_eq!(at_the_end(&history), (false, true, vec!["long"]));
    }

    #[test]
    fn an_unknown_outcome_is_allowed_and_replaces_nothing() {
        let failed = history(&[write("a"), Acknowledged(1), write("b"), Failed(3)]);
        assert_eq!(at_the_end(&failed), (false, false, vec!["a", "b"]));
        let first = history(&[write("b")]);
        assert_eq!(at_the_end(&first), (true, false, vec!["b"]));
        // It may land late, after a write that was called and acknowledged later.
        let late = history(&[write("late"), Failed(1), write("a"), Acknowledged(3)]);
        assert_eq!(at_the_end(&late), (false, false, vec!["late", "a"]));
    }

    #[test]
    fn what_was_under_way_when_the_program_died_cannot_land_after_the_restart() {
        let history = history(&[write("killed"), Restarted, write("a"), Acknowledged(3)]);
        assert_eq!(at_the_end(&history), (false, false, vec!["a"]));
        let untouched = super::tests::history(&[write("killed"), Restarted]);
        assert_eq!(at_the_end(&untouched), (true, false, vec!["killed"]));
    }

    #[test]
    fn a_look_sees_what_was_over_before_it_or_under_way() {
        let history = history(&[write("a"), Acknowledged(1), write("b"), Acknowledged(3), write("c")]);
        assert_eq!(history.allowed(7, 2, 2).values, ["a"]);
        assert!(history.allowed(7, 2, 2).initial, "the acknowledgement at 2 is not before a look at 2");
        assert_eq!(history.allowed(7, 3, 3).values, ["a"]);
        assert_eq!(history.allowed(7, 3, 4).values, ["a", "b"]);
        assert_eq!(history.allowed(7, 5, 5).values, ["b"]);
        assert_eq!(history.allowed(7, 5, 6).values, ["b", "c"]);
        assert!(history.knows(7, "a") && !history.knows(7, "d"));
    }

    #[test]
    fn an_acknowledgement_of_nothing_is_refused() {
        let mut history = history(&[write("a"), Acknowledged(1)]);
        assert!(!history.add(3, Acknowledged(1)));
        assert!(!history.add(4, Failed(9)));
    }
}
