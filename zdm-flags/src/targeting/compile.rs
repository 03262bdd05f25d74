use std::collections::HashMap;

use foldhash::fast::RandomState;
use serde_json::Value;

use super::evaluate::{Data, Item, Landing, Run, Scope, lookup};
use super::trace::NoTrace;
use super::tree::{Lands, Node, Op, VarPath};
use super::value::Val;
use crate::bucketing::Bucketing;
use crate::definition::Variant;
use crate::definition::document::Document;
use crate::definition::finding::{At, Findings};

/// How deep rules may nest, counting those behind `$ref`. Far above what people write, far below what a
/// stack holds.
const DEEPEST: usize = 128;

/// How many nodes one flag may have, counting those behind `$ref` once per use: a file in which references
/// double at each step must not fill the memory.
const MOST_NODES: usize = 200_000;

/// Constants larger than this are not put together at load.
const MOST_FOLDED: usize = 64 << 10;

/// What the rules of a flag are compiled against.
pub(crate) struct Compiler<'a> {
    pub(crate) flag_key: &'a str,
    pub(crate) bucketing: Bucketing,
    pub(crate) group: &'a str,
    pub(crate) variants: &'a [Variant],
    pub(crate) evaluators: &'a HashMap<String, Document, RandomState>,
    pub(crate) findings: &'a mut Findings,
    pub(crate) nodes: usize,
    /// The evaluators that are being compiled, outermost first.
    pub(crate) open: Vec<&'a str>,
    /// The first `fractional`, for the linter.
    pub(crate) fractional_at: Option<String>,
}

impl<'a> Compiler<'a> {
    /// A rule, and whatever is wrong with it in the findings.
    pub(crate) fn node(&mut self, document: &'a Document, at: &At<'_>, depth: usize, inside: bool) -> Node {
        self.nodes += 1;
        if depth > DEEPEST {
            return self.fault(at, format!("rules nest more than {DEEPEST} levels deep; that is the limit"));
        }
        if self.nodes > MOST_NODES {
            if self.nodes == MOST_NODES + 1 {
                let message =
                    format!("the flag has more than {MOST_NODES} rules, counting every use of a $ref");
                return self.fault(at, message);
            }
            return self.null(at);
        }
        match document {
            Document::Object(entries) => match entries.as_slice() {
                [] => self.constant(Value::Object(serde_json::Map::new()), at),
                [(name, args)] if name == "$ref" => self.reference(args, at, depth, inside),
                [(name, args)] => self.operator(name, args, at, depth, inside),
                _ => {
                    let found: Vec<&str> = entries.iter().take(4).map(|(name, _)| name.as_str()).collect();
                    let message = format!(
                        "a rule has one operator, this object has {} keys: {}",
                        entries.len(),
                        found.join(", ")
                    );
                    self.fault(at, message)
                }
            },
            Document::List(items) if items.iter().any(holds_rule) => {
                let op = Op::List(self.list(items, at, depth, inside));
                self.fold(op, at)
            }
            other => {
                if !self.open.is_empty() {
                    self.nodes += weight_of(other) / 64;
                }
                let value = other.to_value(at, self.findings);
                self.constant(value, at)
            }
        }
    }

    fn reference(&mut self, args: &'a Document, at: &At<'_>, depth: usize, inside: bool) -> Node {
        let Document::Text(name) = args else {
            return self.fault(at, format!("$ref names an evaluator, this is {}", args.kind()));
        };
        let evaluators = self.evaluators;
        let Some((name, document)) = evaluators.get_key_value(name) else {
            return self.fault(&at.key("$ref"), format!("there is no evaluator {name:?} in $evaluators"));
        };
        if self.open.contains(&name.as_str()) {
            let message = format!("$ref goes in a circle: {} -> {name}", self.open.join(" -> "));
            return self.fault(&at.key("$ref"), message);
        }
        self.open.push(name);
        let root = At::Root;
        let evaluators = root.key("$evaluators");
        let node = self.node(document, &evaluators.key(name), depth + 1, inside);
        self.open.pop();
        node
    }

    pub(crate) fn list(
        &mut self,
        items: &'a [Document],
        at: &At<'_>,
        depth: usize,
        inside: bool,
    ) -> Box<[Node]> {
        items
            .iter()
            .enumerate()
            .map(|(index, item)| self.node(item, &at.index(index), depth + 1, inside))
            .collect()
    }

    pub(crate) fn constant(&self, value: Value, at: &At<'_>) -> Node {
        let lands = match lookup(self.variants, &Val::from_json(&value)) {
            Landing::Variant(index) => Lands::Variant(index),
            Landing::Default => Lands::Default,
            Landing::Nowhere => Lands::Nowhere,
        };
        make(Op::Constant { value, lands }, at)
    }

    pub(crate) fn null(&self, at: &At<'_>) -> Node {
        self.constant(Value::Null, at)
    }

    pub(crate) fn fault(&mut self, at: &At<'_>, message: impl Into<String>) -> Node {
        self.findings.fault(at, message);
        self.null(at)
    }

    /// Computes at load what does not depend on the context.
    pub(crate) fn fold(&self, op: Op, at: &At<'_>) -> Node {
        let node = make(op, at);
        if !foldable(&node.op) {
            return node;
        }
        let scope = Scope {
            data: Data::Json(&Value::Null),
            flag_key: "",
            clock: &zdm_core::clock::SystemClock,
            variants: &[],
        };
        let value = Run { scope, trace: &mut NoTrace }.value(&node, &Item::Outside).to_json();
        self.constant(value, at)
    }

    pub(crate) fn var(&mut self, args: &'a [Document], at: &At<'_>, depth: usize, inside: bool) -> Node {
        let default =
            args.get(1).map(|default| Box::new(self.node(default, &at.index(1), depth + 1, inside)));
        let path = match args.first() {
            None | Some(Document::Null) => VarPath::Whole,
            Some(Document::Text(name)) => {
                let injected = name.strip_prefix("$flagd.");
                match injected {
                    Some("flagKey") if !inside => return make(Op::FlagKey, at),
                    Some("timestamp") if !inside => return make(Op::Timestamp, at),
                    Some(other) if other != "flagKey" && other != "timestamp" => {
                        let message =
                            format!("{name:?} is never there; it must be $flagd.flagKey or $flagd.timestamp");
                        self.findings.error(at, message);
                    }
                    _ => {}
                }
                if name == "targetingKey" && !inside && default.is_none() {
                    return make(Op::TargetingKey, at);
                }
                VarPath::parse(name)
            }
            Some(Document::Number(number)) => VarPath::parse(&Val::from_number(number).to_text()),
            Some(rule) => {
                let name = Box::new(self.node(rule, &at.index(0), depth + 1, inside));
                return make(Op::VarOf { name, default }, at);
            }
        };
        make(Op::Var { path, default }, at)
    }
}

pub(crate) fn make(op: Op, at: &At<'_>) -> Node {
    Node { op, path: at.to_string().into_boxed_str() }
}

fn holds_rule(document: &Document) -> bool {
    match document {
        Document::Object(entries) => !entries.is_empty(),
        Document::List(items) => items.iter().any(holds_rule),
        _ => false,
    }
}

/// About how many bytes a constant has.
fn weight_of(document: &Document) -> usize {
    match document {
        Document::Text(text) => text.len(),
        Document::List(items) => items.iter().map(|item| 8 + weight_of(item)).sum(),
        Document::Object(entries) => entries.iter().map(|(key, item)| key.len() + weight_of(item)).sum(),
        Document::Null | Document::Bool(_) | Document::Number(_) => 8,
    }
}

fn foldable(op: &Op) -> bool {
    let constant = |node: &Node| matches!(node.op, Op::Constant { .. });
    let all =
        |nodes: &[Node]| nodes.iter().all(constant) && nodes.iter().map(size).sum::<usize>() < MOST_FOLDED;
    match op {
        Op::List(nodes) | Op::If(nodes) | Op::And(nodes) | Op::Or(nodes) => all(nodes),
        Op::Order { sides: nodes, .. } | Op::Math { args: nodes, .. } => all(nodes),
        Op::Cat(nodes) | Op::Substr(nodes) | Op::Merge(nodes) => all(nodes),
        Op::Equal { sides, .. } => all(&sides[..]),
        Op::In(sides) | Op::StartsWith(sides) | Op::EndsWith(sides) => all(&sides[..]),
        Op::Not(node) | Op::Truth(node) => constant(node),
        Op::InSet { needle, .. } => constant(needle),
        _ => false,
    }
}

fn size(node: &Node) -> usize {
    fn of(value: &Value) -> usize {
        match value {
            Value::String(text) => text.len(),
            Value::Array(items) => items.iter().map(of).sum::<usize>() + 8,
            Value::Object(map) => map.iter().map(|(key, item)| key.len() + of(item)).sum::<usize>() + 8,
            Value::Null | Value::Bool(_) | Value::Number(_) => 8,
        }
    }
    match &node.op {
        Op::Constant { value, .. } => of(value),
        _ => 0,
    }
}
