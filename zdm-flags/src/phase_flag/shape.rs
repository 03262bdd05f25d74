use std::collections::HashMap;

use foldhash::fast::RandomState;
use zdm_core::phase::Phase;

use super::axis::position;
use super::proof;
use super::ramp::{ALL, Ramp};
use crate::bucketing::{Bucketing, Shares, thresholds};
use crate::definition::Variant;
use crate::definition::document::Document;
use crate::definition::finding::{At, Findings};
use crate::evaluation::compiled::{CompiledFlag, KIND};

/// The targeting of a phase flag, reduced to what a proof needs: conditions, and who is in which phase
/// where they lead.
#[derive(Clone, Debug)]
pub(crate) enum PhaseShape {
    Leaf(Leaf),
    /// A condition on the subject. Equal texts are the same condition.
    If {
        condition: String,
        then: Box<PhaseShape>,
        otherwise: Box<PhaseShape>,
    },
    /// A comparison of `$flagd.timestamp` with a number.
    When {
        test: TimeTest,
        then: Box<PhaseShape>,
        otherwise: Box<PhaseShape>,
    },
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct TimeTest {
    /// Holds from this second on.
    pub(crate) from: i64,
    /// Or up to the second before.
    pub(crate) negated: bool,
}

#[derive(Clone, Debug)]
pub(crate) struct Leaf {
    /// What is hashed, as text. Equal texts put every subject at the same place.
    key: String,
    form: Form,
    /// The phase of subjects that cannot be hashed. None: the code default.
    fallback: Option<Phase>,
}

#[derive(Clone, Debug)]
enum Form {
    /// Everyone is in this phase. None: the code default.
    All(Option<Phase>),
    Buckets(Vec<(Option<Phase>, Linear)>),
    Ramp {
        base: Option<Phase>,
        ramp: Ramp,
        phases: Vec<Option<Phase>>,
    },
}

/// `constant + slope * t`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Linear {
    constant: i128,
    slope: i128,
}

/// Who is where at one time: for each stretch of the axis, its end out of 2^32 and its phase.
#[derive(Debug)]
pub(crate) struct Spread<'a> {
    pub(crate) key: &'a str,
    pub(crate) stretches: Vec<(u64, Option<Phase>)>,
    pub(crate) fallback: Option<Phase>,
}

/// The largest weight.
const MOST: i128 = 0x7fff_ffff;

impl Leaf {
    pub(crate) fn at(&self, time: i64) -> Spread<'_> {
        let all = |phase| vec![(ALL, phase)];
        let stretches = match &self.form {
            Form::All(phase) => all(*phase),
            Form::Buckets(buckets) => {
                let weights: Option<Vec<i64>> =
                    buckets.iter().map(|(_, weight)| i64::try_from(weight.at(time)).ok()).collect();
                let shares = weights.as_ref().and_then(|weights| Shares::of(weights.iter().copied()));
                let ends = weights
                    .zip(shares)
                    .and_then(|(weights, shares)| thresholds(Bucketing::FlagdV2, shares, &weights));
                match ends {
                    Some(ends) => ends.iter().zip(buckets).map(|(end, (phase, _))| (*end, *phase)).collect(),
                    None => all(self.fallback),
                }
            }
            Form::Ramp { base, ramp, phases } => {
                // Seen from the first hash on: whom nothing has reached, then each phase in turn.
                let mut stretches = Vec::with_capacity(phases.len() + 1);
                let mut phase = *base;
                let mut reached = 0;
                for (track, next) in ramp.tracks.iter().zip(phases) {
                    let begin = ALL - track.share(time);
                    reached = begin.max(reached);
                    stretches.push((reached, phase));
                    phase = *next;
                }
                stretches.push((ALL, phase));
                stretches
            }
        };
        Spread { key: &self.key, stretches, fallback: self.fallback }
    }

    fn bends(&self, into: &mut Vec<i64>) {
        match &self.form {
            Form::All(_) => {}
            Form::Buckets(buckets) => {
                let mut own = Vec::new();
                for (_, weight) in buckets {
                    weight.bends(&mut own);
                }
                // And where all of them together grow out of range.
                own.extend([0, LATEST]);
                own.sort_unstable();
                for pair in own.clone().windows(2) {
                    own.extend(crossing(pair[0], sum(buckets, pair[0]), pair[1], sum(buckets, pair[1])));
                }
                into.extend(own.into_iter().filter(|time| (1..LATEST).contains(time)));
            }
            Form::Ramp { ramp, .. } => ramp.bends(into),
        }
    }

    /// Whether somebody could pass two thresholds in one second without anybody being able to tell: more
    /// than two phases share a total that changes.
    fn is_uneven(&self, now: i64) -> bool {
        let Form::Buckets(buckets) = &self.form else { return false };
        let end = now.saturating_add(proof::HORIZON);
        let mut times = vec![now, end];
        self.bends(&mut times);
        times.retain(|time| (now..=end).contains(time));
        times.sort_unstable();
        times.windows(2).any(|pair| {
            let middle = pair[0] + (pair[1] - pair[0]) / 2;
            let positive = buckets.iter().filter(|(_, weight)| weight.at(middle) > 0).count();
            positive > 2 && sum(buckets, pair[0]) != sum(buckets, pair[1])
        })
    }
}

/// A time that no clock will show.
const LATEST: i64 = 1 << 40;

fn sum(buckets: &[(Option<Phase>, Linear)], time: i64) -> i128 {
    buckets.iter().map(|(_, weight)| weight.at(time).max(0)).sum()
}

/// Where a line goes out of range, if it does between the two times.
fn crossing(from: i64, start: i128, until: i64, end: i128) -> Option<i64> {
    if (start > MOST) == (end > MOST) {
        return None;
    }
    let passed = (MOST - start) * i128::from(until - from) / (end - start);
    i64::try_from(passed).ok().map(|passed| from + passed)
}

impl Linear {
    fn at(self, time: i64) -> i128 {
        self.constant + self.slope * i128::from(time)
    }

    /// Where the weight begins or ceases to count, and where it grows out of range.
    fn bends(self, into: &mut Vec<i64>) {
        if self.slope == 0 {
            return;
        }
        for level in [0, MOST] {
            let time = (level - self.constant).div_euclid(self.slope);
            // A time that no clock will show is no bend.
            into.extend(i64::try_from(time).ok().filter(|time| time.unsigned_abs() < LATEST.unsigned_abs()));
        }
    }
}

impl PhaseShape {
    pub(crate) fn bends(&self, into: &mut Vec<i64>) {
        match self {
            Self::Leaf(leaf) => leaf.bends(into),
            Self::If { then, otherwise, .. } => {
                then.bends(into);
                otherwise.bends(into);
            }
            Self::When { test, then, otherwise } => {
                into.push(test.from);
                then.bends(into);
                otherwise.bends(into);
            }
        }
    }

    /// The shape of a phase flag whose parts all are as they must be. Also proves its schedule, from `now`
    /// on. Findings say what is wrong.
    pub(crate) fn extract(
        flag: &CompiledFlag,
        targeting: Option<&Document>,
        evaluators: &HashMap<String, Document, RandomState>,
        at: &At<'_>,
        now: i64,
        findings: &mut Findings,
    ) -> Option<Self> {
        if findings.first_fault().is_some() {
            return None;
        }
        let variants_at = at.key("variants");
        for variant in &flag.variants {
            if variant.as_phase().is_none() {
                let message = format!(
                    "{} is no phase; a phase flag has off, dualwrite, shadow, ramp:PERCENT, live, rampdown, complete",
                    variant.value()
                );
                findings.fault(&variants_at.key(variant.name()), message);
            }
        }
        let metadata_at = at.key("metadata");
        if !matches!(flag.bucketing, Bucketing::FlagdV2 | Bucketing::FlagdV3) {
            let message = format!(
                "a phase flag needs the bucketing flagd-v2 or flagd-v3, this one has {}",
                flag.bucketing
            );
            findings.fault(&metadata_at.key(KIND), message);
        }
        let mut reader = Reader { flag, evaluators, findings, now };
        let shape = match targeting {
            Some(rule) => reader.shape(rule, &at.key("targeting"), 0),
            None => Some(Self::Leaf(reader.rest())),
        }?;
        reader.check_ramp(&metadata_at);
        if findings.first_fault().is_some() {
            return None;
        }
        for message in proof::check_schedule(&shape, flag.rollback, now) {
            findings.fault(at, message);
        }
        Some(shape)
    }
}

struct Reader<'a> {
    flag: &'a CompiledFlag,
    evaluators: &'a HashMap<String, Document, RandomState>,
    findings: &'a mut Findings,
    now: i64,
}

impl Reader<'_> {
    fn phase_of(&self, name: &str) -> Option<Phase> {
        self.flag.variants.iter().find(|variant| variant.name() == name).and_then(Variant::as_phase)
    }

    fn default(&self) -> Option<Phase> {
        self.flag.default.and_then(|index| self.flag.variant(index)).and_then(Variant::as_phase)
    }

    /// Where the targeting chooses nothing.
    fn rest(&self) -> Leaf {
        let base = self.default();
        let form = match &self.flag.ramp {
            None => Form::All(base),
            Some(ramp) => {
                let phases = ramp
                    .tracks
                    .iter()
                    .map(|track| self.flag.variant(track.variant).and_then(Variant::as_phase))
                    .collect();
                Form::Ramp { base, ramp: ramp.clone(), phases }
            }
        };
        Leaf { key: self.own_key(), form, fallback: base }
    }

    /// The hash input of a rule that names none.
    fn own_key(&self) -> String {
        format!("{} {}", self.flag.bucketing, self.flag.key)
    }

    fn check_ramp(&mut self, at: &At<'_>) {
        let Some(ramp) = &self.flag.ramp else { return };
        let phases = ramp.tracks.iter().filter_map(|track| self.flag.variant(track.variant)?.as_phase());
        let order: Vec<Phase> = self.default().into_iter().chain(phases).collect();
        if !order.windows(2).all(|pair| position(pair[0]) < position(pair[1])) {
            let message = "the phases must come in their order, the default variant before all of them";
            self.findings.fault(&at.key("zdm.ramp"), message);
        }
    }

    fn shape(&mut self, rule: &Document, at: &At<'_>, depth: usize) -> Option<PhaseShape> {
        match rule {
            Document::Null => Some(PhaseShape::Leaf(self.rest())),
            Document::Text(name) => match self.phase_of(name) {
                Some(phase) => {
                    let form = Form::All(Some(phase));
                    Some(PhaseShape::Leaf(Leaf { key: self.own_key(), form, fallback: Some(phase) }))
                }
                None => self.refuse(at, format!("there is no variant {name:?}")),
            },
            Document::Object(entries) => match entries.as_slice() {
                [(name, args)] => match name.as_str() {
                    "$ref" => self.reference(args, depth),
                    "if" | "?:" => self.condition(args, &at.key(name), depth),
                    "fractional" => self.buckets(args, &at.key(name)),
                    _ => self.refuse(
                        &at.key(name),
                        "a phase flag chooses its phase with if, fractional and names",
                    ),
                },
                _ => self.refuse(at, "a rule has one operator"),
            },
            other => {
                self.refuse(at, format!("a phase flag chooses a phase by name, this is {}", other.kind()))
            }
        }
    }

    fn refuse<T>(&mut self, at: &At<'_>, message: impl Into<String>) -> Option<T> {
        self.findings.fault(at, message);
        None
    }

    fn reference(&mut self, args: &Document, depth: usize) -> Option<PhaseShape> {
        // The compiler has already refused what is missing or goes in a circle.
        let Document::Text(name) = args else { return None };
        let rule = self.evaluators.get(name)?;
        let root = At::Root;
        let evaluators = root.key("$evaluators");
        self.shape(rule, &evaluators.key(name), depth + 1)
    }

    fn condition(&mut self, args: &Document, at: &At<'_>, depth: usize) -> Option<PhaseShape> {
        let Document::List(args) = args else {
            return self.refuse(at, "if needs a condition and what follows from it");
        };
        let mut parts = args.as_slice();
        let mut index = 0;
        let mut branches = Vec::new();
        let last = loop {
            match parts {
                [] => break PhaseShape::Leaf(self.rest()),
                [otherwise] if index > 0 => break self.shape(otherwise, &at.index(index), depth + 1)?,
                [_] => return self.refuse(at, "if needs a condition and what follows from it"),
                [condition, then, rest @ ..] => {
                    let test = self.test(condition, &at.index(index))?;
                    branches.push((test, self.shape(then, &at.index(index + 1), depth + 1)?));
                    parts = rest;
                    index += 2;
                }
            }
        };
        Some(branches.into_iter().rev().fold(last, |otherwise, (test, then)| {
            let (then, otherwise) = (Box::new(then), Box::new(otherwise));
            match test {
                Test::Subject(condition) => PhaseShape::If { condition, then, otherwise },
                Test::Time(test) => PhaseShape::When { test, then, otherwise },
            }
        }))
    }

    fn test(&mut self, condition: &Document, at: &At<'_>) -> Option<Test> {
        if let Some(test) = time_test(condition) {
            return Some(Test::Time(test));
        }
        let text = self.text(condition);
        if text.contains(TIMESTAMP) {
            let message = "a condition of a phase flag may compare $flagd.timestamp with a number, by itself; otherwise \
                           nobody can prove when subjects move";
            return self.refuse(at, message);
        }
        Some(Test::Subject(text))
    }

    /// A rule as text, with what `$ref` stands for in its place. Equal texts mean equal rules.
    fn text(&self, rule: &Document) -> String {
        match rule {
            Document::Object(entries) => match entries.as_slice() {
                [(name, Document::Text(evaluator))] if name == "$ref" => {
                    self.evaluators.get(evaluator).map(|rule| self.text(rule)).unwrap_or_default()
                }
                _ => {
                    let parts: Vec<String> =
                        entries.iter().map(|(key, rule)| format!("{key:?}:{}", self.text(rule))).collect();
                    format!("{{{}}}", parts.join(","))
                }
            },
            Document::List(items) => {
                let parts: Vec<String> = items.iter().map(|item| self.text(item)).collect();
                format!("[{}]", parts.join(","))
            }
            other => format!("{other:?}"),
        }
    }

    fn buckets(&mut self, args: &Document, at: &At<'_>) -> Option<PhaseShape> {
        let Document::List(args) = args else { return self.refuse(at, "fractional needs a list of buckets") };
        let (key, first) = match args.first() {
            Some(Document::Object(_)) => (self.text(&args[0]), 1),
            Some(Document::Null) => (self.own_key(), 1),
            Some(Document::List(_)) => (self.own_key(), 0),
            _ => return self.refuse(at, "what is bucketed by must be a rule"),
        };
        if key.contains(TIMESTAMP) {
            return self
                .refuse(&at.index(0), "a phase flag must not hash the time: every subject would move about");
        }
        // A key that is hashed by another algorithm puts subjects elsewhere.
        let key = if first == 1 { format!("{} {key}", self.flag.bucketing) } else { key };
        let mut buckets: Vec<(Option<Phase>, Linear)> = Vec::new();
        for (index, bucket) in args.iter().enumerate().skip(first) {
            let at = at.index(index);
            let (name, weight) = match bucket {
                Document::List(parts) => match parts.as_slice() {
                    [name] => (name, None),
                    [name, weight] => (name, Some(weight)),
                    _ => return self.refuse(&at, "a bucket is [variant] or [variant, weight]"),
                },
                _ => return self.refuse(&at, "a bucket is an array"),
            };
            let phase = match name {
                Document::Text(name) => self.phase_of(name),
                _ => None,
            };
            let Some(phase) = phase else {
                return self.refuse(&at.index(0), "a bucket of a phase flag must name one of its variants");
            };
            let before = buckets.last().and_then(|(phase, _)| *phase);
            if before.is_some_and(|before| position(before) >= position(phase)) {
                let message = "the buckets must come in the order of the phases, so that shifting weight to a later \
                               one only moves subjects forward";
                return self.refuse(&at, message);
            }
            let Some(weight) = weight.map_or(Some(Linear { constant: 1, slope: 0 }), linear) else {
                let message = "a weight of a phase flag must be a whole number, or $flagd.timestamp with whole numbers \
                               added, subtracted or multiplied";
                return self.refuse(&at.index(1), message);
            };
            buckets.push((Some(phase), weight));
        }
        let leaf = Leaf { key, form: Form::Buckets(buckets), fallback: self.default() };
        if leaf.is_uneven(self.now) {
            let message = "where more than two phases share the subjects, the weights must keep their sum";
            return self.refuse(at, message);
        }
        Some(PhaseShape::Leaf(leaf))
    }
}

enum Test {
    Subject(String),
    Time(TimeTest),
}

const TIMESTAMP: &str = "$flagd";

fn is_timestamp(rule: &Document) -> bool {
    let Document::Object(entries) = rule else { return false };
    let [(name, argument)] = entries.as_slice() else { return false };
    let argument = match argument {
        Document::List(items) if items.len() == 1 => &items[0],
        other => other,
    };
    name == "var" && *argument == Document::Text("$flagd.timestamp".to_owned())
}

fn whole(rule: &Document) -> Option<i128> {
    let Document::Number(number) = rule else { return None };
    number.as_i64().map(i128::from)
}

fn time_test(condition: &Document) -> Option<TimeTest> {
    let Document::Object(entries) = condition else { return None };
    let [(name, Document::List(sides))] = entries.as_slice() else { return None };
    let [left, right] = sides.as_slice() else { return None };
    let (name, bound) = if is_timestamp(left) {
        (name.as_str(), whole(right)?)
    } else if is_timestamp(right) {
        let mirrored = match name.as_str() {
            "<" => ">",
            "<=" => ">=",
            ">" => "<",
            ">=" => "<=",
            _ => return None,
        };
        (mirrored, whole(left)?)
    } else {
        return None;
    };
    let bound = i64::try_from(bound).ok().filter(|bound| bound.unsigned_abs() < 1 << 40)?;
    Some(match name {
        ">=" => TimeTest { from: bound, negated: false },
        ">" => TimeTest { from: bound + 1, negated: false },
        "<" => TimeTest { from: bound, negated: true },
        "<=" => TimeTest { from: bound + 1, negated: true },
        _ => return None,
    })
}

fn linear(rule: &Document) -> Option<Linear> {
    if let Some(constant) = whole(rule) {
        return Some(Linear { constant, slope: 0 });
    }
    if is_timestamp(rule) {
        return Some(Linear { constant: 0, slope: 1 });
    }
    let Document::Object(entries) = rule else { return None };
    let [(name, Document::List(args))] = entries.as_slice() else { return None };
    let parts: Vec<Linear> = args.iter().map(linear).collect::<Option<_>>()?;
    let combine = |sign: i128| {
        let mut parts = parts.iter();
        let first = *parts.next()?;
        if parts.len() == 0 && sign < 0 {
            return Some(Linear { constant: -first.constant, slope: -first.slope });
        }
        parts.try_fold(first, |sum, part| {
            Some(Linear {
                constant: sum.constant.checked_add(sign * part.constant)?,
                slope: sum.slope.checked_add(sign * part.slope)?,
            })
        })
    };
    let combined = match (name.as_str(), parts.as_slice()) {
        ("+", _) => combine(1)?,
        ("-", [_] | [_, _]) => combine(-1)?,
        ("*", [a, b]) if a.slope == 0 || b.slope == 0 => Linear {
            constant: a.constant.checked_mul(b.constant)?,
            slope: a.slope.checked_mul(b.constant)?.checked_add(b.slope.checked_mul(a.constant)?)?,
        },
        _ => return None,
    };
    // Small enough that no sum of them can overflow.
    let fits = combined.constant.unsigned_abs() < 1 << 100 && combined.slope.unsigned_abs() < 1 << 50;
    fits.then_some(combined)
}
