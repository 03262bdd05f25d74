//! The protocols of this library, checked in every order in which their steps can happen.
//!
//! Each module holds one small model and a table of its variants. A safe variant is explored to the end and must keep
//! its properties. A broken variant leaves one rule out and must be caught: were it not, the model would be too weak to
//! say anything about the safe ones. Time is not modelled. What takes time (a timeout, a settle time) is a step that may
//! happen at any moment after what it waits for.
//!
//! - [`secondary_write`]: how a write reaches the secondary, with lost answers, late requests and crashes;
//! - [`absence`]: why a missing record is not a deletion;
//! - [`backfill`]: one page that runs beside a live write;
//! - [`handover`]: the switch of the primary role between two instances.

mod absence;
mod backfill;
mod handover;
mod secondary_write;

use std::fmt::Debug;
use std::hash::Hash;

use stateright::{Checker, Expectation, Model};

/// One variant of a model: a protocol with all its rules, or with one rule left out.
pub(crate) trait Variant: Clone + Debug + Model + Send + Sync + 'static {
    /// The same variant with one property left, so that a search for its violation ends at the first and shortest one.
    fn only(self, property: &'static str) -> Self;
}

/// Explores every reachable state of `variant`.
///
/// # Panics
///
/// When a property breaks (with the shortest way there), when a goal is never reached, when the exploration stopped
/// early, or when it saw fewer than `at_least` states: then the model lost behaviour, and its verdict means less.
#[expect(clippy::print_stdout, reason = "a test shows what it explored")]
pub(crate) fn assert_safe<V>(variant: &V, at_least: usize)
where
    V: Variant,
    V::State: Clone + Debug + Hash + PartialEq + Send + Sync,
    V::Action: Clone + Debug + PartialEq,
{
    let checker = variant.clone().checker().threads(2).spawn_bfs().join();
    for property in variant.properties() {
        let found = checker.discovery(property.name).is_some();
        match property.expectation {
            Expectation::Always => assert!(
                !found,
                "{variant:?}\nbreaks '{}':\n{}",
                property.name,
                numbered(&shortest_violation(variant, property.name)),
            ),
            Expectation::Sometimes => assert!(found, "{variant:?}\nnever reaches '{}'", property.name),
            Expectation::Eventually => panic!("'{}' ends in a cycle unseen: use an invariant", property.name),
        }
    }
    assert!(checker.is_done(), "{variant:?}\nwas not explored to the end");
    let states = checker.unique_state_count();
    assert!(states >= at_least, "{variant:?}\nhas {states} states, expected at least {at_least}");
    println!("safe, {states} states: {variant:?}");
}

/// Searches for a violation of `property`, which must exist and take exactly `steps` steps.
///
/// The length is checked because a shorter way means that the variant breaks for another reason than the rule it
/// leaves out, and a longer one that the model lost behaviour.
#[expect(clippy::print_stdout, reason = "a test shows what it explored")]
pub(crate) fn assert_broken<V>(variant: &V, property: &'static str, steps: usize)
where
    V: Variant,
    V::State: Clone + Debug + Hash + PartialEq + Send + Sync,
    V::Action: Clone + Debug + PartialEq,
{
    let trace = shortest_violation(variant, property);
    assert!(
        !trace.is_empty(),
        "{variant:?}\nkeeps '{property}', but a rule is missing: the model is too weak"
    );
    assert_eq!(
        trace.len(),
        steps,
        "{variant:?}\nbreaks '{property}' in another way than expected:\n{}",
        numbered(&trace)
    );
    println!("broken in {steps} steps: {variant:?}\n{}", numbered(&trace));
}

/// The steps to the nearest violation of `property`; none if it holds everywhere.
fn shortest_violation<V>(variant: &V, property: &'static str) -> Vec<String>
where
    V: Variant,
    V::State: Clone + Debug + Hash + PartialEq + Send + Sync,
    V::Action: Clone + Debug + PartialEq,
{
    // One thread: with more, the breadth-first order holds only roughly and so does "shortest".
    let checker = variant.clone().only(property).checker().spawn_bfs().join();
    let path = checker.discovery(property);
    path.map(|path| path.into_actions().iter().map(|action| format!("{action:?}")).collect())
        .unwrap_or_default()
}

fn numbered(trace: &[String]) -> String {
    let lines: Vec<String> =
        trace.iter().enumerate().map(|(i, step)| format!("{:4}. {step}", i + 1)).collect();
    lines.join("\n")
}

/// A record's value in a model, by the write that made it; `None` is an absent record.
pub(crate) type Record = Option<u8>;

/// What a write's entry says about its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Intent {
    Upsert,
    Delete,
    Unknown,
}

impl Intent {
    /// Whether a reconcile that claimed this entry may delete at the secondary when the primary has no record.
    pub(crate) fn allows_delete(self) -> bool {
        match self {
            Self::Upsert => false,
            Self::Delete | Self::Unknown => true,
        }
    }
}

/// The entries that a worker has claimed, by their index.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
pub(crate) struct Claim(u8);

impl Claim {
    pub(crate) fn contains(self, entry: usize) -> bool {
        self.0 & (1 << entry) != 0
    }

    pub(crate) fn is_empty(self) -> bool {
        self.0 == 0
    }

    pub(crate) fn iter(self) -> impl Iterator<Item = usize> {
        (0..8).filter(move |&entry| self.contains(entry))
    }
}

impl FromIterator<usize> for Claim {
    fn from_iter<I: IntoIterator<Item = usize>>(entries: I) -> Self {
        Self(entries.into_iter().fold(0, |bits, entry| bits | (1 << entry)))
    }
}

impl Debug for Claim {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.iter()).finish()
    }
}
