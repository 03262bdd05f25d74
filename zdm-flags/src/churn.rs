//! How many subjects a change of files moves.

use crate::bucketing::Bucketing;
use crate::definition::{Finding, ParseError, Severity};
use crate::engine::{Laid, Layer, assemble};
use crate::evaluation::Context;
use crate::evaluation::compiled::CompiledFlag;
use crate::snapshot::Snapshot;
use crate::targeting::{Node, Op, Weights, children};

/// For one flag, what a change of file does to a sample of subjects.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Churn {
    /// The flag.
    pub flag: String,
    /// How many subjects were looked at.
    pub subjects: usize,
    /// How many of them get another variant.
    pub moved: usize,
    /// How many each pair of variants accounts for, the largest first. No name: the code default.
    pub moves: Vec<(Option<String>, Option<String>, usize)>,
}

/// For every flag of either file, how many of the subjects would get another variant. Flags that nobody
/// moves in are listed too.
///
/// ```
/// use zdm_flags::{Context, churn};
///
/// let file = |on| format!(r#"{{"metadata": {{"zdm.bucketing": "flagd-v2"}}, "flags": {{"new": {{
///     "state": "ENABLED", "variants": {{"on": true, "off": false}}, "defaultVariant": "off",
///     "targeting": {{"fractional": [["on", {on}], ["off", {off}]]}}}}}}}}"#, off = 100 - on);
/// let keys: Vec<String> = (0..1_000).map(|n| format!("user-{n}")).collect();
/// let subjects = keys.iter().map(|key| Context::key(key));
/// let churn = churn::compare(file(10).as_bytes(), file(20).as_bytes(), subjects, Default::default())?;
/// assert!((60..140).contains(&churn[0].moved), "about a tenth, and only from off to on");
/// assert_eq!(churn[0].moves.len(), 1);
/// # Ok::<_, zdm_flags::definition::ParseError>(())
/// ```
///
/// # Errors
/// [`ParseError`] when one of the two is no flag file.
pub fn compare<'a>(
    old: &[u8],
    new: &[u8],
    subjects: impl IntoIterator<Item = Context<'a>>,
    bucketing: Bucketing,
) -> Result<Vec<Churn>, ParseError> {
    let (old, new) = (snapshot(old, bucketing)?, snapshot(new, bucketing)?);
    let added = new.keys().filter(|key| old.entry(key).is_none());
    let keys: Vec<&str> = old.keys().chain(added).collect();
    let mut report: Vec<Churn> = keys
        .iter()
        .map(|key| Churn { flag: (*key).to_owned(), subjects: 0, moved: 0, moves: Vec::new() })
        .collect();
    for cx in subjects {
        for (key, churn) in keys.iter().zip(&mut report) {
            let (was, will_be) = (variant(&old, key, &cx), variant(&new, key, &cx));
            churn.subjects += 1;
            if was == will_be {
                continue;
            }
            churn.moved += 1;
            let known = churn
                .moves
                .iter_mut()
                .find(|(from, to, _)| from.as_deref() == was && to.as_deref() == will_be);
            match known {
                Some((_, _, count)) => *count += 1,
                None => churn.moves.push((was.map(str::to_owned), will_be.map(str::to_owned), 1)),
            }
        }
    }
    for churn in &mut report {
        churn.moves.sort_by_key(|(_, _, count)| std::cmp::Reverse(*count));
    }
    Ok(report)
}

fn snapshot(bytes: &[u8], bucketing: Bucketing) -> Result<Snapshot, ParseError> {
    let clock = std::sync::Arc::new(zdm_core::clock::SystemClock);
    let layer = Layer::read(bytes, None, bucketing, &*clock)?;
    Ok(assemble(&[layer], &Laid::default(), 1, clock, None))
}

fn variant<'s>(snapshot: &'s Snapshot, key: &str, cx: &Context<'_>) -> Option<&'s str> {
    let entry = snapshot.entry(key)?;
    let place = entry.decide(snapshot, cx, &mut crate::targeting::NoTrace).place?;
    entry.variant(place).map(crate::definition::Variant::name)
}

/// Warns where shares were changed in a way that moves more subjects than needed: growing a share in the
/// middle pushes subjects out of the ones after it.
pub(crate) fn needless(old: &CompiledFlag, new: &CompiledFlag) -> Vec<Finding> {
    let mut findings = Vec::new();
    if let (Some(before), Some(after)) = (&old.targeting, &new.targeting) {
        compare_nodes(before, after, &mut findings);
    }
    findings
}

fn compare_nodes(old: &Node, new: &Node, findings: &mut Vec<Finding>) {
    if std::mem::discriminant(&old.op) != std::mem::discriminant(&new.op) {
        return;
    }
    if let (Op::Fractional(before), Op::Fractional(after)) = (&old.op, &new.op)
        && let (Weights::Thresholds(old_ends), Weights::Thresholds(new_ends)) =
            (&before.weights, &after.weights)
    {
        let (moved, needed) = moved(&answers(&before.answers, old_ends), &answers(&after.answers, new_ends));
        // A thousandth of all subjects is noise of rounding.
        if moved > needed + (1 << 22) {
            let percent = |share: u64| share as f64 * 100.0 / (1_u64 << 32) as f64;
            findings.push(Finding {
                severity: Severity::Warning,
                path: new.path.to_string(),
                message: format!(
                    "the new shares move {:.1} % of the subjects, {:.1} % would do: put variants that grow at the end, \
                     and take from their neighbour",
                    percent(moved),
                    percent(needed)
                ),
                disables_flag: false,
            });
        }
    }
    for (before, after) in children(old).into_iter().zip(children(new)) {
        compare_nodes(before, after, findings);
    }
}

/// For each bucket, the end of its stretch and what it answers with, as text.
fn answers(answers: &[Node], ends: &[u64]) -> Vec<(u64, String)> {
    let text = |node: &Node| match &node.op {
        Op::Constant { value, .. } => value.to_string(),
        _ => node.path.to_string(),
    };
    ends.iter().zip(answers).map(|(end, answer)| (*end, text(answer))).collect()
}

/// How much of the axis gets another answer, and how much would have to.
fn moved(old: &[(u64, String)], new: &[(u64, String)]) -> (u64, u64) {
    let mut shares: std::collections::BTreeMap<&str, (u64, u64)> = std::collections::BTreeMap::new();
    let mut start = 0;
    for (end, answer) in old {
        shares.entry(answer).or_default().0 += end - start;
        start = *end;
    }
    start = 0;
    for (end, answer) in new {
        shares.entry(answer).or_default().1 += end - start;
        start = *end;
    }
    let needed = shares.values().map(|(before, after)| after.saturating_sub(*before)).sum();
    let (mut old, mut new) = (old.iter().peekable(), new.iter().peekable());
    let (mut done, mut moved) = (0, 0);
    while let (Some((old_end, was)), Some((new_end, will_be))) = (old.peek(), new.peek()) {
        let end = *old_end.min(new_end);
        if was != will_be {
            moved += end - done;
        }
        done = end;
        if *old_end == end {
            old.next();
        }
        if *new_end == end {
            new.next();
        }
    }
    (moved, needed)
}
