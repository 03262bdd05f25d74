use std::fmt::Write;

use serde_json::Value;
use zdm_core::clock::Clock;

use super::operators;
use super::trace::Trace;
use super::tree::{Bound, Lands, Node, Op, VarPath};
use super::value::{Val, member_of};
use super::version::Version;
use crate::definition::Variant;
use crate::evaluation::Context;

/// What a rule can ask about.
#[derive(Clone, Copy)]
pub(crate) struct Scope<'a> {
    pub(crate) data: Data<'a>,
    pub(crate) flag_key: &'a str,
    pub(crate) clock: &'a dyn Clock,
    pub(crate) variants: &'a [Variant],
}

#[derive(Clone, Copy)]
pub(crate) enum Data<'a> {
    Context(&'a Context<'a>),
    Json(&'a Value),
}

impl<'a> Scope<'a> {
    #[inline]
    pub(crate) fn targeting_key(&self) -> Option<&'a str> {
        match self.data {
            Data::Context(cx) => cx.targeting_key(),
            Data::Json(value) => value.get("targetingKey").and_then(Value::as_str),
        }
    }

    pub(crate) fn unix_seconds(&self) -> i64 {
        let pinned = match self.data {
            Data::Context(cx) => cx.unix_seconds(),
            Data::Json(_) => None,
        };
        pinned.unwrap_or_else(|| i64::try_from(self.clock.unix_millis() / 1_000).unwrap_or(i64::MAX))
    }

    fn member(&self, name: &str) -> Option<Val<'a>> {
        match self.data {
            Data::Context(cx) => match name {
                "targetingKey" => cx.targeting_key().map(Val::Str),
                "$flagd" => Some(self.injected()),
                _ => cx.attribute(name),
            },
            Data::Json(value) => member_of(value, name),
        }
    }

    fn injected(&self) -> Val<'a> {
        let time = Val::Int(self.unix_seconds());
        Val::Record(vec![("flagKey", Val::Str(self.flag_key)), ("timestamp", time)])
    }

    /// The whole context as an object.
    fn whole(&self) -> Val<'a> {
        match self.data {
            Data::Json(value) => Val::from_json(value),
            Data::Context(cx) => {
                let mut entries: Vec<_> = cx.attributes().collect();
                entries.extend(cx.targeting_key().map(|key| ("targetingKey", Val::Str(key))));
                entries.push(("$flagd", self.injected()));
                Val::Record(entries)
            }
        }
    }
}

/// What `var` reads: the context, or inside of `map` and its like the item at hand.
pub(crate) enum Item<'a> {
    Outside,
    Value(Val<'a>),
    Reduce { current: Val<'a>, accumulator: Val<'a> },
}

/// What targeting comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Landing {
    Variant(u32),
    Default,
    Nowhere,
}

impl From<Lands> for Landing {
    #[inline]
    fn from(lands: Lands) -> Self {
        match lands {
            Lands::Variant(index) => Self::Variant(index),
            Lands::Default => Self::Default,
            Lands::Nowhere => Self::Nowhere,
        }
    }
}

/// One evaluation.
pub(crate) struct Run<'a, 't, T> {
    pub(crate) scope: Scope<'a>,
    pub(crate) trace: &'t mut T,
}

impl<'a, T: Trace<'a>> Run<'a, '_, T> {
    /// The result of targeting. Follows branches down to a constant without making values of them.
    #[inline]
    pub(crate) fn land(&mut self, node: &'a Node) -> Landing {
        let mut node = node;
        loop {
            node = match &node.op {
                Op::Constant { lands, .. } => {
                    if T::ON {
                        self.trace.landed(node);
                    }
                    return Landing::from(*lands);
                }
                Op::If(args) => match self.branch(args, &Item::Outside) {
                    Branch::Node(next) => next,
                    Branch::Condition(value) => return self.land_value(node, &value),
                    Branch::None => return self.land_value(node, &Val::Null),
                },
                Op::Fractional(fractional) => {
                    if let Some(lands) = fractional.land_at_once(self) {
                        return Landing::from(lands);
                    }
                    match fractional.land(node, self, &Item::Outside) {
                        Some(next) => next,
                        None => return self.land_value(node, &Val::Null),
                    }
                }
                _ => {
                    let value = self.value(node, &Item::Outside);
                    return self.land_value(node, &value);
                }
            };
        }
    }

    fn land_value(&mut self, node: &'a Node, value: &Val<'a>) -> Landing {
        if T::ON {
            self.trace.landed(node);
        }
        lookup(self.scope.variants, value)
    }

    /// Whether a condition holds.
    #[inline]
    pub(crate) fn truth(&mut self, node: &'a Node, item: &Item<'a>) -> bool {
        let truth = match &node.op {
            Op::And(args) => args.iter().all(|arg| self.truth(arg, item)),
            Op::Or(args) => args.iter().any(|arg| self.truth(arg, item)),
            Op::Not(arg) => !self.truth(arg, item),
            Op::Truth(arg) => self.truth(arg, item),
            Op::InSet { needle, set } => match self.text(needle, item) {
                Some(text) => set.contains(text),
                None => {
                    let needle = self.value(needle, item);
                    needle.as_str().is_some_and(|text| set.contains(text))
                }
            },
            _ => return self.value(node, item).truthy(),
        };
        if T::ON {
            self.trace.value(node, &Val::Bool(truth));
        }
        truth
    }

    /// The text of a constant or of an attribute of the context, without making a value of it. `None` where
    /// it is anything else, or somebody wants to see the value.
    #[inline]
    fn text(&self, node: &'a Node, item: &Item<'a>) -> Option<&'a str> {
        if T::ON {
            return None;
        }
        match (&node.op, item, self.scope.data) {
            (Op::Var { path: VarPath::One(name), default: None }, Item::Outside, Data::Context(cx)) => {
                cx.attribute_text(name)
            }
            (Op::TargetingKey, _, _) => self.scope.targeting_key(),
            (Op::Constant { value: Value::String(text), .. }, _, _) => Some(text),
            _ => None,
        }
    }

    fn branch(&mut self, args: &'a [Node], item: &Item<'a>) -> Branch<'a> {
        let mut rest = args;
        loop {
            match rest {
                [] => return Branch::None,
                [only] if rest.len() == args.len() => return Branch::Condition(self.value(only, item)),
                [otherwise] => return Branch::Node(otherwise),
                [condition, then, next @ ..] => {
                    if self.truth(condition, item) {
                        return Branch::Node(then);
                    }
                    rest = next;
                }
            }
        }
    }

    /// The value of a rule.
    pub(crate) fn value(&mut self, node: &'a Node, item: &Item<'a>) -> Val<'a> {
        let value = self.compute(node, item);
        if T::ON {
            self.trace.value(node, &value);
        }
        value
    }

    fn compute(&mut self, node: &'a Node, item: &Item<'a>) -> Val<'a> {
        match &node.op {
            Op::Constant { value, .. } => Val::from_json(value),
            Op::List(args) => Val::List(args.iter().map(|arg| self.value(arg, item)).collect()),
            Op::Var { path, default } => match (self.read(path, item), default) {
                (Some(value), _) => value,
                (None, Some(default)) => self.value(default, item),
                (None, None) => Val::Null,
            },
            Op::VarOf { name, default } => {
                let name = self.value(name, item);
                match (self.read_named(&name, item), default) {
                    (Some(value), _) => value,
                    (None, Some(default)) => self.value(default, item),
                    (None, None) => Val::Null,
                }
            }
            Op::TargetingKey => self.scope.targeting_key().map_or(Val::Null, Val::Str),
            Op::FlagKey => Val::Str(self.scope.flag_key),
            Op::Timestamp => Val::Int(self.scope.unix_seconds()),
            Op::If(args) => match self.branch(args, item) {
                Branch::Node(node) => self.value(node, item),
                Branch::Condition(value) => value,
                Branch::None => Val::Null,
            },
            Op::And(args) => self.first(args, item, false),
            Op::Or(args) => self.first(args, item, true),
            Op::Not(_) | Op::Truth(_) | Op::InSet { .. } => Val::Bool(self.truth(node, item)),
            Op::Equal { strict, negated, sides } => {
                if let (Some(a), Some(b)) = (self.text(&sides[0], item), self.text(&sides[1], item)) {
                    return Val::Bool((a == b) != *negated);
                }
                let (a, b) = (self.value(&sides[0], item), self.value(&sides[1], item));
                let equal = if *strict { a.same(&b) } else { a.equals(&b) };
                Val::Bool(equal != *negated)
            }
            Op::SemVer { version, test, bound } => self.sem_ver(version, *test, bound, item),
            Op::StartsWith(sides) => self.text_test(sides, item, |text, part| text.starts_with(part)),
            Op::EndsWith(sides) => self.text_test(sides, item, |text, part| text.ends_with(part)),
            Op::Fractional(fractional) => match fractional.land(node, self, item) {
                Some(answer) => self.value(answer, item),
                None => Val::Null,
            },
            _ => operators::compute(self, &node.op, item),
        }
    }

    fn first(&mut self, args: &'a [Node], item: &Item<'a>, wanted: bool) -> Val<'a> {
        let mut last = Val::Null;
        for arg in args {
            last = self.value(arg, item);
            if last.truthy() == wanted {
                break;
            }
        }
        last
    }

    fn read(&self, path: &VarPath, item: &Item<'a>) -> Option<Val<'a>> {
        match path {
            VarPath::Whole => self.whole(item),
            VarPath::One(name) => self.member(name, item),
            VarPath::Many(names) => {
                let (first, rest) = names.split_first()?;
                rest.iter().try_fold(self.member(first, item)?, |value, name| value.member(name))
            }
        }
    }

    /// Reads an attribute whose name was computed.
    pub(crate) fn read_named(&self, name: &Val<'_>, item: &Item<'a>) -> Option<Val<'a>> {
        if name.is_null() {
            return self.whole(item);
        }
        self.read(&VarPath::parse(&name.to_text()), item)
    }

    fn whole(&self, item: &Item<'a>) -> Option<Val<'a>> {
        Some(match item {
            Item::Outside => self.scope.whole(),
            Item::Value(value) => value.clone(),
            Item::Reduce { current, accumulator } => {
                Val::Record(vec![("current", current.clone()), ("accumulator", accumulator.clone())])
            }
        })
    }

    fn member(&self, name: &str, item: &Item<'a>) -> Option<Val<'a>> {
        match (item, name) {
            (Item::Outside, _) => self.scope.member(name),
            (Item::Value(value), _) => value.member(name),
            (Item::Reduce { current, .. }, "current") => Some(current.clone()),
            (Item::Reduce { accumulator, .. }, "accumulator") => Some(accumulator.clone()),
            (Item::Reduce { .. }, _) => None,
        }
    }

    /// Writes the parts of a `cat`, one after the other.
    pub(crate) fn write_parts(&mut self, parts: &'a [Node], item: &Item<'a>, out: &mut impl Write) {
        for part in parts {
            let value = self.value(part, item);
            // Nothing that is written to here can fail. Null is nothing, as in a joined list.
            if !value.is_null() {
                let _ = value.write_text(out);
            }
        }
    }

    fn sem_ver(
        &mut self,
        version: &'a Node,
        test: super::version::VersionTest,
        bound: &'a Bound,
        item: &Item<'a>,
    ) -> Val<'a> {
        if let (Some(text), Bound::Literal(bound)) = (self.text(version, item), bound) {
            return match Version::parse(text) {
                Some(version) => Val::Bool(test.holds(&version, &bound.get())),
                None => Val::Null,
            };
        }
        let version = self.value(version, item);
        let mut buffer = operators::ShortText::default();
        let Some(version) = operators::version_text(&version, &mut buffer).and_then(Version::parse) else {
            return Val::Null;
        };
        match bound {
            Bound::Literal(bound) => Val::Bool(test.holds(&version, &bound.get())),
            Bound::Rule(rule) => {
                let bound = self.value(rule, item);
                let mut buffer = operators::ShortText::default();
                let bound = operators::version_text(&bound, &mut buffer).and_then(Version::parse);
                bound.map_or(Val::Null, |bound| Val::Bool(test.holds(&version, &bound)))
            }
        }
    }

    /// Null, not false, where one of the two is no string.
    fn text_test(
        &mut self,
        sides: &'a [Node; 2],
        item: &Item<'a>,
        test: impl Fn(&str, &str) -> bool,
    ) -> Val<'a> {
        if let (Some(text), Some(part)) = (self.text(&sides[0], item), self.text(&sides[1], item)) {
            return Val::Bool(test(text, part));
        }
        let (text, part) = (self.value(&sides[0], item), self.value(&sides[1], item));
        match (text.as_str(), part.as_str()) {
            (Some(text), Some(part)) => Val::Bool(test(text, part)),
            _ => Val::Null,
        }
    }
}

enum Branch<'a> {
    Node(&'a Node),
    /// An `if` with nothing but a condition answers with it.
    Condition(Val<'a>),
    None,
}

/// The variant that a value names. Booleans and numbers name one by their text.
pub(crate) fn lookup(variants: &[Variant], value: &Val<'_>) -> Landing {
    let find = |name: &str| {
        variants
            .iter()
            .position(|variant| variant.name() == name)
            .and_then(|index| u32::try_from(index).ok())
            .map_or(Landing::Nowhere, Landing::Variant)
    };
    match value {
        Val::Null => Landing::Default,
        Val::Bool(value) => find(if *value { "true" } else { "false" }),
        Val::Int(_) | Val::Big(_) | Val::Float(_) | Val::Str(_) | Val::Text(_) => find(&value.to_text()),
        Val::Json(_) | Val::List(_) | Val::Record(_) => Landing::Nowhere,
    }
}
