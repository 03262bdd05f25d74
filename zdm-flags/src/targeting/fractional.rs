use std::fmt::{self, Write};

use serde_json::Value;

use super::evaluate::{Item, Run};
use super::trace::{Hashed, Trace};
use super::tree::{Lands, Node, Op};
use super::value::Val;
use crate::bucketing::{Bucketing, Murmur, Shares, cbor, pick};

/// A compiled `fractional`: who lands in which bucket.
#[derive(Debug)]
pub(crate) struct Fractional {
    pub(crate) bucketing: Bucketing,
    pub(crate) key: Subject,
    /// What each bucket answers with.
    pub(crate) answers: Box<[Node]>,
    pub(crate) weights: Weights,
    /// The hash after the part that is the same for every subject, if the rule names its key.
    pub(crate) explicit_prefix: Murmur,
    /// The same, if it does not.
    pub(crate) implicit_prefix: Murmur,
    /// For each bucket, the first hash above it and where it leads, side by side in memory. Only for the
    /// usual rule: the targeting key, fixed weights, constant answers.
    pub(crate) at_once: Box<[(u64, Lands)]>,
}

/// The buckets of a rule that needs nothing but the hash.
pub(crate) fn at_once(key: &Subject, weights: &Weights, answers: &[Node]) -> Box<[(u64, Lands)]> {
    let (Subject::TargetingKey, Weights::Thresholds(ends)) = (key, weights) else { return Box::default() };
    let lands = answers.iter().map(|answer| match &answer.op {
        Op::Constant { lands, .. } => Some(*lands),
        _ => None,
    });
    let buckets: Option<Box<[_]>> = ends.iter().zip(lands).map(|(end, lands)| Some((*end, lands?))).collect();
    buckets.unwrap_or_default()
}

/// What is hashed.
#[derive(Debug)]
pub(crate) enum Subject {
    /// The targeting key.
    TargetingKey,
    /// What the rule says.
    Rule(Node),
    /// Nothing ever: the whole rule yields null.
    Never,
}

#[derive(Debug)]
pub(crate) enum Weights {
    /// For each bucket, the first hash above it.
    Thresholds(Box<[u64]>),
    Fixed {
        weights: Box<[i64]>,
        shares: Shares,
    },
    /// At least one is computed.
    Rules(Box<[Weight]>),
    /// Out of range: the rule yields null.
    Never,
}

#[derive(Debug)]
pub(crate) enum Weight {
    Fixed(i64),
    Rule(Node),
}

impl Fractional {
    /// Where the subject lands, when nothing but its hash decides. `None`: ask [`land`](Self::land).
    #[inline]
    pub(crate) fn land_at_once<'a, T: Trace<'a>>(&self, run: &Run<'a, '_, T>) -> Option<Lands> {
        if T::ON || self.at_once.is_empty() {
            return None;
        }
        let hash = u64::from(self.hash_targeting_key(run)?);
        self.at_once.iter().find(|(end, _)| hash < *end).map(|(_, lands)| *lands)
    }

    /// The answer of the bucket that the subject lands in; `None` when there is none.
    #[inline]
    pub(crate) fn land<'a, T: Trace<'a>>(
        &'a self,
        node: &'a Node,
        run: &mut Run<'a, '_, T>,
        item: &Item<'a>,
    ) -> Option<&'a Node> {
        let hash = self.hash(run, item)?;
        let index = match &self.weights {
            Weights::Thresholds(ends) => ends.iter().position(|end| u64::from(hash) < *end),
            Weights::Fixed { weights, shares } => {
                pick(self.bucketing, hash, *shares, weights.iter().copied())
            }
            Weights::Rules(weights) => self.land_by_rules(hash, weights, run, item),
            Weights::Never => None,
        };
        if T::ON {
            run.trace.hashed(node, Hashed { hash, bucketing: self.bucketing, bucket: index });
        }
        self.answers.get(index?)
    }

    /// Out of the way of the usual case, in which all weights are constants.
    #[inline(never)]
    fn land_by_rules<'a, T: Trace<'a>>(
        &'a self,
        hash: u32,
        weights: &'a [Weight],
        run: &mut Run<'a, '_, T>,
        item: &Item<'a>,
    ) -> Option<usize> {
        let mut values = smallvec::SmallVec::<[i64; 8]>::new();
        for weight in weights {
            values.push(match weight {
                Weight::Fixed(weight) => *weight,
                Weight::Rule(rule) => whole_weight(self.bucketing, &run.value(rule, item))?,
            });
        }
        let shares = Shares::of(values.iter().copied())?;
        pick(self.bucketing, hash, shares, values.iter().copied())
    }

    #[inline]
    fn hash<'a, T: Trace<'a>>(&'a self, run: &mut Run<'a, '_, T>, item: &Item<'a>) -> Option<u32> {
        match &self.key {
            Subject::TargetingKey => self.hash_targeting_key(run),
            Subject::Rule(rule) => self.hash_rule(rule, run, item),
            Subject::Never => None,
        }
    }

    #[inline]
    fn hash_targeting_key<'a, T: Trace<'a>>(&self, run: &Run<'a, '_, T>) -> Option<u32> {
        // An empty key is none: everyone without one would land in the same bucket.
        let key = run.scope.targeting_key().filter(|key| !key.is_empty())?;
        let mut hash = self.implicit_prefix;
        if self.bucketing == Bucketing::FlagdV3 {
            cbor::text_header(key.len(), &mut hash);
        }
        hash.update(key.as_bytes());
        Some(hash.finish())
    }

    #[inline(never)]
    fn hash_rule<'a, T: Trace<'a>>(
        &'a self,
        rule: &'a Node,
        run: &mut Run<'a, '_, T>,
        item: &Item<'a>,
    ) -> Option<u32> {
        let mut hash = self.explicit_prefix;
        let v3 = self.bucketing == Bucketing::FlagdV3;
        // The usual key: parts put together. They go into the hash one by one.
        if let Op::Cat(parts) = &rule.op {
            if v3 {
                let mut length = Length(0);
                run.write_parts(parts, item, &mut length);
                cbor::text_header(length.0, &mut hash);
            }
            run.write_parts(parts, item, &mut Sink(&mut hash));
            return Some(hash.finish());
        }
        let value = run.value(rule, item);
        if v3 {
            return match &value {
                Val::Null | Val::List(_) | Val::Json(Value::Array(_)) => None,
                other => {
                    write_cbor(other, &mut hash);
                    Some(hash.finish())
                }
            };
        }
        match (value.as_str(), &value) {
            (Some(text), _) => {
                hash.update(text.as_bytes());
                Some(hash.finish())
            }
            (None, Val::Null) => self.hash_targeting_key(run),
            // flagd reads it as a bucket, which it is not.
            (None, _) => None,
        }
    }
}

/// A computed weight: whole, except that `flagd-v1` cuts fractions off.
pub(crate) fn whole_weight(bucketing: Bucketing, value: &Val<'_>) -> Option<i64> {
    match value {
        Val::Int(weight) => Some(*weight),
        Val::Float(weight) if bucketing == Bucketing::FlagdV1 => {
            crate::definition::flag::whole_of(weight.trunc())
        }
        Val::Float(weight) => crate::definition::flag::whole_of(*weight),
        _ => None,
    }
}

/// Writes text into the hash.
pub(crate) struct Sink<'h>(pub(crate) &'h mut Murmur);

impl Write for Sink<'_> {
    #[inline]
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.0.update(text.as_bytes());
        Ok(())
    }
}

/// Counts the bytes of text.
struct Length(usize);

impl Write for Length {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.0 += text.len();
        Ok(())
    }
}

fn write_cbor(value: &Val<'_>, out: &mut Murmur) {
    match value {
        Val::Null => cbor::null(out),
        Val::Bool(value) => cbor::boolean(*value, out),
        Val::Int(value) => cbor::whole(*value, out),
        Val::Big(value) => cbor::large(*value, out),
        Val::Float(value) => cbor::float(*value, out),
        Val::Str(text) => cbor::text(text, out),
        Val::Text(text) => cbor::text(text, out),
        Val::Json(Value::Object(map)) => {
            write_map(map.iter().map(|(key, item)| (key.as_str(), Val::from_json(item))).collect(), out);
        }
        Val::Record(entries) => write_map(entries.clone(), out),
        Val::Json(_) | Val::List(_) => {
            cbor::list_header(value.items().into_iter().flatten().count(), out);
            for item in value.items().into_iter().flatten() {
                write_cbor(&item, out);
            }
        }
    }
}

fn write_map(mut entries: Vec<(&str, Val<'_>)>, out: &mut Murmur) {
    // The order of the encoded keys: by length first, because the length is encoded first.
    entries.sort_by(|(a, _), (b, _)| a.len().cmp(&b.len()).then_with(|| a.cmp(b)));
    cbor::map_header(entries.len(), out);
    for (key, item) in &entries {
        cbor::text(key, out);
        write_cbor(item, out);
    }
}
