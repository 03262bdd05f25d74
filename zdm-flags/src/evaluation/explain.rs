use std::fmt;

use super::decide::Decision;
use super::details::Bucket;
use super::{Context, ErrorCode, Reason};
use crate::definition::Variant;
use crate::snapshot::{Entry, Snapshot};
use crate::targeting::{Hashed, Node, Trace, Val};

/// What was looked at for one subject, in the order in which it was computed.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Explanation {
    /// The flag.
    pub flag: String,
    /// The variant; none where the code default counts.
    pub variant: Option<String>,
    /// Why.
    pub reason: Reason,
    /// What went wrong.
    pub error: Option<ErrorCode>,
    /// Why the flag cannot be evaluated.
    pub message: Option<String>,
    /// A JSON pointer to the rule that decided.
    pub rule: Option<String>,
    /// Every rule that was evaluated, inner ones before those around them.
    pub steps: Vec<Step>,
    /// The next time, in seconds since 1970-01-01 UTC, at which a schedule gives this subject another
    /// variant, and that variant.
    pub moves: Option<(i64, Option<String>)>,
}

/// One rule that was evaluated.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Step {
    /// A JSON pointer to the rule.
    pub path: String,
    /// What it came to. None where a subject was hashed.
    pub value: Option<serde_json::Value>,
    /// Where the subject landed.
    pub bucket: Option<Bucket>,
}

impl Explanation {
    pub(crate) fn of(snapshot: &Snapshot, key: &str, cx: &Context<'_>) -> Self {
        let Some(entry) = snapshot.entry(key) else {
            return Self {
                flag: key.to_owned(),
                variant: None,
                reason: Reason::Error,
                error: Some(ErrorCode::FlagNotFound),
                message: None,
                rule: None,
                steps: Vec::new(),
                moves: None,
            };
        };
        let mut steps = Steps::default();
        let decision = entry.decide(snapshot, cx, &mut steps);
        Self {
            flag: key.to_owned(),
            variant: name(entry, &decision),
            reason: decision.reason,
            error: decision.error,
            message: entry.fault().map(str::to_owned),
            rule: steps.rule,
            steps: steps.steps,
            moves: next_move(snapshot, entry, cx),
        }
    }
}

fn name(entry: &Entry, decision: &Decision) -> Option<String> {
    decision.place.and_then(|place| entry.variant(place)).map(Variant::name).map(str::to_owned)
}

#[derive(Default)]
struct Steps {
    steps: Vec<Step>,
    rule: Option<String>,
}

impl<'a> Trace<'a> for Steps {
    const ON: bool = true;

    fn value(&mut self, node: &'a Node, value: &Val<'a>) {
        self.steps.push(Step { path: node.path.to_string(), value: Some(value.to_json()), bucket: None });
    }

    fn hashed(&mut self, node: &'a Node, hashed: Hashed) {
        self.steps.push(Step { path: node.path.to_string(), value: None, bucket: Some(hashed.into()) });
    }

    fn landed(&mut self, node: &'a Node) {
        self.rule = Some(node.path.to_string());
    }
}

/// The first later time at which the flag comes out differently for this subject.
///
/// Between two neighbouring times at which a schedule bends, shares only grow or only shrink. So it is
/// enough to compare the ends of each stretch, and to halve the first one that differs.
fn next_move(snapshot: &Snapshot, entry: &Entry, cx: &Context<'_>) -> Option<(i64, Option<String>)> {
    let bends = crate::phase_flag::bends(&entry.flag);
    if bends.is_empty() {
        return None;
    }
    let now = cx
        .unix_seconds()
        .unwrap_or_else(|| i64::try_from(snapshot.clock().unix_millis() / 1_000).unwrap_or(i64::MAX));
    let place_at = |time: i64| {
        let cx = cx.clone().at(time);
        entry.decide(snapshot, &cx, &mut crate::targeting::NoTrace).place
    };
    let current = place_at(now);
    let mut from = now;
    let ahead = bends.into_iter().flat_map(|bend| [bend - 1, bend, bend + 1]).filter(|time| *time > now);
    for until in ahead {
        if place_at(until) == current {
            from = until;
            continue;
        }
        let (mut same, mut other) = (from, until);
        while other - same > 1 {
            let middle = same + (other - same) / 2;
            if place_at(middle) == current { same = middle } else { other = middle }
        }
        let variant =
            place_at(other).and_then(|place| entry.variant(place)).map(|found| found.name().to_owned());
        return Some((other, variant));
    }
    None
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for step in &self.steps {
            match (&step.value, &step.bucket) {
                (Some(value), _) => writeln!(f, "{} = {value}", step.path)?,
                (None, Some(bucket)) => {
                    let Bucket { hash, bucketing, index } = bucket;
                    match index {
                        Some(index) => writeln!(f, "{}: {bucketing} hash {hash}, bucket {index}", step.path)?,
                        None => writeln!(f, "{}: {bucketing} hash {hash}, no bucket", step.path)?,
                    }
                }
                (None, None) => {}
            }
        }
        let variant = self.variant.as_deref().unwrap_or("the code default");
        write!(f, "{}: {variant}, {}", self.flag, self.reason)?;
        if let Some(error) = self.error {
            write!(f, ", {error}")?;
        }
        if let Some(message) = &self.message {
            write!(f, ": {message}")?;
        }
        if let Some((time, variant)) = &self.moves {
            let variant = variant.as_deref().unwrap_or("the code default");
            write!(f, "; moves to {variant} at {time}")?;
        }
        Ok(())
    }
}
