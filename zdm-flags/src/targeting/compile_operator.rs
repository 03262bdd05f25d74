//! One operator at a time: its arguments, what the schema says about them, and the node that it becomes.

use serde_json::Value;

use super::compile::{Compiler, make};
use super::fractional::{Fractional, Subject, Weight, Weights, at_once};
use super::tree::{Bound, Math, Node, Op, Order, OwnedVersion};
use super::version::{Version, VersionTest, is_strict};
use crate::bucketing::{Shares, thresholds};
use crate::definition::document::Document;
use crate::definition::finding::At;

/// Every operator that is known, and how many arguments flagd's schema lets it have.
const OPERATORS: [(&str, usize, usize); 38] = [
    ("var", 0, usize::MAX),
    ("missing", 0, usize::MAX),
    ("missing_some", 2, 2),
    ("if", 1, usize::MAX),
    ("?:", 3, 3),
    ("==", 2, 2),
    ("===", 2, 2),
    ("!=", 2, 2),
    ("!==", 2, 2),
    ("<", 2, 3),
    ("<=", 2, 3),
    (">", 2, 2),
    (">=", 2, 2),
    ("!", 1, 1),
    ("!!", 1, 1),
    ("and", 1, usize::MAX),
    ("or", 1, usize::MAX),
    ("+", 1, usize::MAX),
    ("-", 1, usize::MAX),
    ("*", 2, usize::MAX),
    ("/", 2, 2),
    ("%", 2, 2),
    ("min", 1, usize::MAX),
    ("max", 1, usize::MAX),
    ("cat", 1, usize::MAX),
    ("substr", 2, 3),
    ("merge", 1, usize::MAX),
    ("in", 2, 2),
    ("map", 2, 2),
    ("filter", 2, 2),
    ("reduce", 3, 3),
    ("all", 2, 2),
    ("some", 2, 2),
    ("none", 2, 2),
    ("starts_with", 2, 2),
    ("ends_with", 2, 2),
    ("sem_ver", 3, 3),
    ("fractional", 1, usize::MAX),
];

impl<'a> Compiler<'a> {
    pub(crate) fn operator(
        &mut self,
        name: &str,
        args: &'a Document,
        at: &At<'_>,
        depth: usize,
        inside: bool,
    ) -> Node {
        let at = &at.key(name);
        let Some((_, least, most)) = OPERATORS.iter().find(|(known, ..)| *known == name) else {
            let known: Vec<&str> = OPERATORS.iter().map(|(known, ..)| *known).collect();
            return self.fault(at, format!("{name:?} is no operator; there are {}", known.join(" ")));
        };
        // One argument may stand without its array.
        let args = match args {
            Document::List(items) => items.as_slice(),
            single => std::slice::from_ref(single),
        };
        if args.len() < *least || args.len() > *most {
            let wanted = match (*least, *most) {
                (least, usize::MAX) => format!("at least {least}"),
                (least, most) if least == most => format!("{least}"),
                (least, most) => format!("{least} to {most}"),
            };
            self.findings.error(at, format!("{name} takes {wanted} arguments, there are {}", args.len()));
        }
        match name {
            "var" => return self.var(args, at, depth, inside),
            "fractional" => return self.fractional(args, at, depth, inside),
            "sem_ver" => return self.sem_ver(args, at, depth, inside),
            "starts_with" | "ends_with" => return self.text_test(name, args, at, depth, inside),
            "map" | "filter" | "all" | "some" | "none" | "reduce" => {
                return self.over_list(name, args, at, depth, inside);
            }
            _ => {}
        }
        let nodes = self.list(args, at, depth, inside);
        let op = match name {
            "if" | "?:" => Op::If(nodes),
            "and" => Op::And(nodes),
            "or" => Op::Or(nodes),
            "!" => Op::Not(Box::new(self.one(nodes, at))),
            "!!" => Op::Truth(Box::new(self.one(nodes, at))),
            "==" | "===" | "!=" | "!==" => Op::Equal {
                strict: name.len() == 3,
                negated: name.starts_with('!'),
                sides: self.exactly(nodes, at),
            },
            "<" => Op::Order { test: Order::Less, sides: self.at_least_two(nodes, at) },
            "<=" => Op::Order { test: Order::LessOrEqual, sides: self.at_least_two(nodes, at) },
            ">" => Op::Order { test: Order::Greater, sides: self.at_least_two(nodes, at) },
            ">=" => Op::Order { test: Order::GreaterOrEqual, sides: self.at_least_two(nodes, at) },
            "+" => Op::Math { math: Math::Add, args: nodes },
            "-" => Op::Math { math: Math::Subtract, args: nodes },
            "*" => Op::Math { math: Math::Multiply, args: nodes },
            "/" => Op::Math { math: Math::Divide, args: self.at_least_two(nodes, at) },
            "%" => Op::Math { math: Math::Modulo, args: self.at_least_two(nodes, at) },
            "min" => Op::Math { math: Math::Min, args: nodes },
            "max" => Op::Math { math: Math::Max, args: nodes },
            "cat" => Op::Cat(nodes),
            "substr" => Op::Substr(nodes),
            "merge" => Op::Merge(nodes),
            "missing" => Op::Missing(nodes),
            "missing_some" => Op::MissingSome(self.exactly(nodes, at)),
            // The table above has nothing else.
            _ => membership(self.exactly(nodes, at)),
        };
        self.fold(op, at)
    }

    fn one(&self, nodes: Box<[Node]>, at: &At<'_>) -> Node {
        nodes.into_iter().next().unwrap_or_else(|| self.null(at))
    }

    /// The first `N`; what is missing is null.
    fn exactly<const N: usize>(&self, nodes: Box<[Node]>, at: &At<'_>) -> Box<[Node; N]> {
        let mut nodes = nodes.into_iter();
        Box::new(std::array::from_fn(|_| nodes.next().unwrap_or_else(|| self.null(at))))
    }

    fn at_least_two(&self, nodes: Box<[Node]>, at: &At<'_>) -> Box<[Node]> {
        let mut nodes = nodes.into_vec();
        while nodes.len() < 2 {
            nodes.push(self.null(at));
        }
        nodes.into_boxed_slice()
    }

    fn over_list(
        &mut self,
        name: &str,
        args: &'a [Document],
        at: &At<'_>,
        depth: usize,
        inside: bool,
    ) -> Node {
        // What is applied to each item reads from the item; the rest reads from outside.
        let nodes: Box<[Node]> = args
            .iter()
            .enumerate()
            .map(|(index, arg)| self.node(arg, &at.index(index), depth + 1, inside || index == 1))
            .collect();
        make(
            match name {
                "map" => Op::Map(self.exactly(nodes, at)),
                "filter" => Op::Filter(self.exactly(nodes, at)),
                "all" => Op::All(self.exactly(nodes, at)),
                "some" => Op::Some(self.exactly(nodes, at)),
                "none" => Op::None(self.exactly(nodes, at)),
                _ => Op::Reduce(self.exactly(nodes, at)),
            },
            at,
        )
    }

    fn text_test(
        &mut self,
        name: &str,
        args: &'a [Document],
        at: &At<'_>,
        depth: usize,
        inside: bool,
    ) -> Node {
        for (index, arg) in args.iter().enumerate() {
            if !matches!(arg, Document::Text(_) | Document::Object(_)) {
                let message = format!("{name} compares strings, this is {}", arg.kind());
                self.findings.error(&at.index(index), message);
            }
        }
        let nodes = self.list(args, at, depth, inside);
        if nodes.len() != 2 {
            return self.null(at);
        }
        let sides = self.exactly(nodes, at);
        self.fold(if name == "starts_with" { Op::StartsWith(sides) } else { Op::EndsWith(sides) }, at)
    }

    fn sem_ver(&mut self, args: &'a [Document], at: &At<'_>, depth: usize, inside: bool) -> Node {
        let [version, symbol, bound] = args else { return self.null(at) };
        for (index, arg) in [(0, version), (2, bound)] {
            let message = match arg {
                Document::Text(text) if is_strict(text) => continue,
                Document::Object(_) => continue,
                Document::Text(text) => format!("{text:?} is no semantic version, such as 1.2.3"),
                other => format!("sem_ver compares versions, this is {}", other.kind()),
            };
            self.findings.error(&at.index(index), message);
        }
        let test = match symbol {
            Document::Text(symbol) => VersionTest::parse(symbol),
            _ => None,
        };
        let Some(test) = test else {
            let message = "sem_ver compares with one of = != < <= > >= ~ ^";
            self.findings.error(&at.index(1), message);
            return self.null(at);
        };
        let version = Box::new(self.node(version, &at.index(0), depth + 1, inside));
        let bound = match bound {
            Document::Text(text) => match Version::parse(text) {
                Some(version) => Bound::Literal(OwnedVersion::new(&version)),
                None => return self.null(at),
            },
            rule => Bound::Rule(Box::new(self.node(rule, &at.index(2), depth + 1, inside))),
        };
        make(Op::SemVer { version, test, bound }, at)
    }

    fn fractional(&mut self, args: &'a [Document], at: &At<'_>, depth: usize, inside: bool) -> Node {
        if self.fractional_at.is_none() {
            self.fractional_at = Some(at.to_string());
        }
        let v3 = self.bucketing == crate::bucketing::Bucketing::FlagdV3;
        let (key, first) = match args.first() {
            None | Some(Document::List(_)) => (Subject::TargetingKey, 0),
            Some(Document::Null) => (if v3 { Subject::Never } else { Subject::TargetingKey }, 1),
            Some(rule) => {
                if !matches!(rule, Document::Object(_)) {
                    let message = format!(
                        "what is bucketed by must be a rule, such as {{\"var\": \"email\"}}; this is {}",
                        rule.kind()
                    );
                    self.findings.error(&at.index(0), message);
                }
                (Subject::Rule(self.node(rule, &at.index(0), depth + 1, inside)), 1)
            }
        };
        let mut answers = Vec::with_capacity(args.len());
        let mut weights = Vec::with_capacity(args.len());
        let mut usable = true;
        for (index, bucket) in args.iter().enumerate().skip(first) {
            let at = at.index(index);
            let (answer, weight) = match bucket {
                Document::List(parts) => match parts.as_slice() {
                    [answer] => (answer, None),
                    [answer, weight] => (answer, Some(weight)),
                    _ => {
                        let message = format!(
                            "a bucket is [variant] or [variant, weight], this has {} parts",
                            parts.len()
                        );
                        self.findings.error(&at, message);
                        usable = false;
                        continue;
                    }
                },
                other => {
                    self.findings.error(&at, format!("a bucket is an array, this is {}", other.kind()));
                    usable = false;
                    continue;
                }
            };
            let answer = self.node(answer, &at.index(0), depth + 1, inside);
            self.check_answer(&answer, &at);
            answers.push(answer);
            match weight {
                None => weights.push(Weight::Fixed(1)),
                Some(weight) => match self.weight(weight, &at.index(1), depth, inside) {
                    Some(weight) => weights.push(weight),
                    None => usable = false,
                },
            }
        }
        if answers.is_empty() {
            self.findings.error(at, "there are no buckets");
        }
        let weights = if usable { self.weights(weights, at) } else { Weights::Never };
        let prefix = |explicit| self.bucketing.prefix(self.flag_key, self.group, explicit);
        let at_once = at_once(&key, &weights, &answers);
        let fractional = Fractional {
            at_once,
            bucketing: self.bucketing,
            key,
            answers: answers.into_boxed_slice(),
            weights,
            explicit_prefix: prefix(true),
            implicit_prefix: prefix(false),
        };
        make(Op::Fractional(Box::new(fractional)), at)
    }

    /// A bucket that names no variant gives an error to everyone in it. As a condition it may.
    fn check_answer(&mut self, answer: &Node, at: &At<'_>) {
        use super::tree::Lands;
        if let Op::Constant { value: Value::String(name), lands: Lands::Nowhere } = &answer.op
            && !self.variants.is_empty()
        {
            self.findings.warning(&at.index(0), format!("there is no variant {name:?}"));
        }
    }

    fn weight(&mut self, weight: &'a Document, at: &At<'_>, depth: usize, inside: bool) -> Option<Weight> {
        let message = match weight {
            Document::Object(_) => return Some(Weight::Rule(self.node(weight, at, depth + 1, inside))),
            Document::Number(number) => {
                let value = super::value::Val::from_number(number);
                let strict = super::fractional::whole_weight(crate::bucketing::Bucketing::FlagdV2, &value);
                match strict {
                    Some(weight) if weight >= 0 => return Some(Weight::Fixed(weight)),
                    Some(weight) => {
                        self.findings
                            .error(at, format!("a weight must not be negative; {weight} counts as 0"));
                        return Some(Weight::Fixed(weight));
                    }
                    None => {
                        let cut = super::fractional::whole_weight(self.bucketing, &value).map(Weight::Fixed);
                        self.findings.error(at, format!("a weight must be a whole number, this is {number}"));
                        return cut;
                    }
                }
            }
            other => format!("a weight must be a whole number or a rule, this is {}", other.kind()),
        };
        self.findings.error(at, message);
        None
    }

    fn weights(&mut self, weights: Vec<Weight>, at: &At<'_>) -> Weights {
        let fixed: Option<Box<[i64]>> = weights
            .iter()
            .map(|weight| match weight {
                Weight::Fixed(weight) => Some(*weight),
                Weight::Rule(_) => None,
            })
            .collect();
        let Some(weights) = fixed else { return Weights::Rules(weights.into_boxed_slice()) };
        let Some(shares) = Shares::of(weights.iter().copied()) else {
            if !weights.is_empty() {
                let message =
                    "the weights must add up to a number between 1 and 2147483647; nobody lands here";
                self.findings.warning(at, message);
            }
            return Weights::Never;
        };
        match thresholds(self.bucketing, shares, &weights) {
            Some(ends) => Weights::Thresholds(ends),
            None => Weights::Fixed { weights, shares },
        }
    }
}

fn membership(sides: Box<[Node; 2]>) -> Op {
    let set = match &sides[1].op {
        Op::Constant { value: Value::Array(items), .. } => {
            items.iter().map(|item| item.as_str().map(Into::into)).collect::<Option<_>>()
        }
        _ => None,
    };
    match set {
        Some(set) => {
            let [needle, _] = *sides;
            Op::InSet { needle: Box::new(needle), set }
        }
        None => Op::In(sides),
    }
}
