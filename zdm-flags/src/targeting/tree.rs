use foldhash::HashSet;
use serde_json::Value;

use super::fractional::Fractional;
use super::version::{Version, VersionTest};

/// One compiled rule.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) op: Op,
    /// A JSON pointer into the file, for explanations.
    pub(crate) path: Box<str>,
}

/// What a node does. Arguments that the file leaves out are constants of null.
#[derive(Debug)]
pub(crate) enum Op {
    Constant {
        value: Value,
        lands: Lands,
    },
    /// An array that holds rules.
    List(Box<[Node]>),
    Var {
        path: VarPath,
        default: Option<Box<Node>>,
    },
    /// `var` whose name is itself computed.
    VarOf {
        name: Box<Node>,
        default: Option<Box<Node>>,
    },
    TargetingKey,
    FlagKey,
    Timestamp,
    Missing(Box<[Node]>),
    MissingSome(Box<[Node; 2]>),
    If(Box<[Node]>),
    And(Box<[Node]>),
    Or(Box<[Node]>),
    Not(Box<Node>),
    Truth(Box<Node>),
    Equal {
        strict: bool,
        negated: bool,
        sides: Box<[Node; 2]>,
    },
    Order {
        test: Order,
        sides: Box<[Node]>,
    },
    Math {
        math: Math,
        args: Box<[Node]>,
    },
    Cat(Box<[Node]>),
    Substr(Box<[Node]>),
    Merge(Box<[Node]>),
    In(Box<[Node; 2]>),
    /// `in` a literal list of strings.
    InSet {
        needle: Box<Node>,
        set: HashSet<Box<str>>,
    },
    Map(Box<[Node; 2]>),
    Filter(Box<[Node; 2]>),
    Reduce(Box<[Node; 3]>),
    All(Box<[Node; 2]>),
    Some(Box<[Node; 2]>),
    None(Box<[Node; 2]>),
    StartsWith(Box<[Node; 2]>),
    EndsWith(Box<[Node; 2]>),
    SemVer {
        version: Box<Node>,
        test: VersionTest,
        bound: Bound,
    },
    Fractional(Box<Fractional>),
}

/// Where a constant leads when it is the result of the targeting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lands {
    /// The variant with this index.
    Variant(u32),
    /// Null: the default variant.
    Default,
    /// Nothing of that name.
    Nowhere,
}

/// Which attribute to read, split at the dots.
#[derive(Debug)]
pub(crate) enum VarPath {
    Whole,
    One(Box<str>),
    Many(Box<[Box<str>]>),
}

impl VarPath {
    pub(crate) fn parse(name: &str) -> Self {
        if name.is_empty() {
            Self::Whole
        } else if name.contains('.') {
            Self::Many(name.split('.').map(Into::into).collect())
        } else {
            Self::One(name.into())
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Order {
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Math {
    Add,
    Subtract,
    Multiply,
    Divide,
    Modulo,
    Min,
    Max,
}

/// What a version is compared with.
#[derive(Debug)]
pub(crate) enum Bound {
    /// Parsed at load.
    Literal(OwnedVersion),
    Rule(Box<Node>),
}

#[derive(Debug)]
pub(crate) struct OwnedVersion(Box<str>, [u64; 3]);

impl OwnedVersion {
    pub(crate) fn new(version: &Version<'_>) -> Self {
        let (numbers, pre) = version.parts();
        Self(pre.into(), numbers)
    }

    #[inline]
    pub(crate) fn get(&self) -> Version<'_> {
        Version::from_parts(self.1, &self.0)
    }
}

/// The rules directly inside of a rule.
pub(crate) fn children(node: &Node) -> Vec<&Node> {
    use super::fractional::{Subject, Weight, Weights};
    match &node.op {
        Op::Constant { .. } | Op::TargetingKey | Op::FlagKey | Op::Timestamp => Vec::new(),
        Op::List(nodes) | Op::If(nodes) | Op::And(nodes) | Op::Or(nodes) | Op::Missing(nodes) => {
            nodes.iter().collect()
        }
        Op::Cat(nodes) | Op::Substr(nodes) | Op::Merge(nodes) => nodes.iter().collect(),
        Op::Order { sides: nodes, .. } | Op::Math { args: nodes, .. } => nodes.iter().collect(),
        Op::Var { default, .. } => default.iter().map(|node| &**node).collect(),
        Op::VarOf { name, default } => {
            std::iter::once(&**name).chain(default.iter().map(|node| &**node)).collect()
        }
        Op::Not(node) | Op::Truth(node) | Op::InSet { needle: node, .. } => vec![node],
        Op::Equal { sides, .. } | Op::In(sides) | Op::MissingSome(sides) => sides.iter().collect(),
        Op::Map(sides) | Op::Filter(sides) | Op::All(sides) | Op::Some(sides) | Op::None(sides) => {
            sides.iter().collect()
        }
        Op::StartsWith(sides) | Op::EndsWith(sides) => sides.iter().collect(),
        Op::Reduce(args) => args.iter().collect(),
        Op::SemVer { version, bound, .. } => match bound {
            Bound::Literal(_) => vec![version],
            Bound::Rule(rule) => vec![version, rule],
        },
        Op::Fractional(fractional) => {
            let mut nodes: Vec<&Node> = fractional.answers.iter().collect();
            if let Subject::Rule(rule) = &fractional.key {
                nodes.push(rule);
            }
            if let Weights::Rules(weights) = &fractional.weights {
                nodes.extend(weights.iter().filter_map(|weight| match weight {
                    Weight::Rule(rule) => Some(rule),
                    Weight::Fixed(_) => None,
                }));
            }
            nodes
        }
    }
}
