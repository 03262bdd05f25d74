use std::sync::Arc;

use crate::bucketing::Bucketing;
use crate::definition::finding::{At, Findings};
use crate::definition::flag::FlagDefinition;
use crate::definition::parse::{BrokenFlag, ParsedSet};
use crate::definition::{Metadata, Variant};
use crate::phase_flag::{PhaseShape, Ramp};
use crate::targeting::{Compiler, Node};

/// A flag that is ready to be evaluated.
#[derive(Debug)]
pub(crate) struct CompiledFlag {
    pub(crate) key: Arc<str>,
    pub(crate) state: State,
    pub(crate) variants: Box<[Variant]>,
    pub(crate) default: Option<u32>,
    pub(crate) targeting: Option<Node>,
    pub(crate) ramp: Option<Ramp>,
    pub(crate) metadata: Arc<Metadata>,
    pub(crate) requires: Box<[Requirement]>,
    pub(crate) bucketing: Bucketing,
    /// For phase flags: who is where, in a form that can be proved about.
    pub(crate) shape: Option<PhaseShape>,
    /// `zdm.rollback`: this file may move subjects back.
    pub(crate) rollback: bool,
    pub(crate) fingerprint: u64,
}

#[derive(Debug)]
pub(crate) enum State {
    Enabled,
    Disabled,
    /// Why it cannot be evaluated.
    Broken(Box<str>),
}

impl CompiledFlag {
    pub(crate) fn is_phase(&self) -> bool {
        self.metadata.get(KIND).and_then(|kind| kind.as_str()) == Some("phase")
    }

    pub(crate) fn variant(&self, index: u32) -> Option<&Variant> {
        self.variants.get(index as usize)
    }
}

/// Another flag that must be as required before this one is looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Requirement {
    pub(crate) key: Box<str>,
    /// The variant it must have. None: it must be `true`.
    pub(crate) variant: Option<Box<str>>,
}

pub(crate) const BUCKETING: &str = "zdm.bucketing";
pub(crate) const GROUP: &str = "zdm.group";
pub(crate) const KIND: &str = "zdm.kind";
pub(crate) const RAMP: &str = "zdm.ramp";
pub(crate) const REQUIRES: &str = "zdm.requires";
pub(crate) const REVISION: &str = "zdm.revision";
pub(crate) const ROLLBACK: &str = "zdm.rollback";
const KNOWN: [&str; 7] = [BUCKETING, GROUP, KIND, RAMP, REQUIRES, REVISION, ROLLBACK];

/// The flags of one file.
#[derive(Debug)]
pub(crate) struct CompiledSet {
    pub(crate) flags: Vec<Arc<CompiledFlag>>,
    pub(crate) metadata: Arc<Metadata>,
    pub(crate) findings: Findings,
}

/// How many nodes all flags of a file may have together.
const MOST_NODES: usize = 20_000_000;

/// Compiles every flag. `bucketing` is for those that name none; `now` (seconds since 1970) is where the
/// proof of schedules begins.
pub(crate) fn compile(set: ParsedSet, bucketing: Bucketing, now: i64) -> CompiledSet {
    let ParsedSet { flags, evaluators, evaluators_fingerprint, metadata, mut findings } = set;
    let root = At::Root;
    let set_at = root.key("metadata");
    check_names(&metadata, &set_at, None, &mut findings);
    let bucketing = named_bucketing(&metadata, &set_at, &mut findings).unwrap_or(bucketing);
    let flags_at = root.key("flags");
    let mut nodes = 0;
    let flags = flags
        .into_iter()
        .map(|flag| {
            Arc::new(match flag {
                Err(broken) => broken_flag(broken),
                Ok(definition) => {
                    let mut found = Findings::default();
                    let key = Arc::clone(&definition.key);
                    let at = flags_at.key(&key);
                    if nodes > MOST_NODES {
                        found.fault(&at, format!("the file has more than {MOST_NODES} rules"));
                    }
                    let environment = Environment {
                        evaluators: &evaluators,
                        evaluators_fingerprint,
                        set_metadata: &metadata,
                        bucketing,
                        now,
                    };
                    let flag = environment.flag(definition, &at, &mut found, &mut nodes);
                    findings.append(found);
                    flag
                }
            })
        })
        .collect();
    CompiledSet { flags, metadata, findings }
}

fn broken_flag(broken: BrokenFlag) -> CompiledFlag {
    CompiledFlag {
        key: broken.key,
        state: State::Broken(broken.reason.into()),
        variants: Box::default(),
        default: None,
        targeting: None,
        ramp: None,
        metadata: broken.metadata,
        requires: Box::default(),
        bucketing: Bucketing::default(),
        shape: None,
        rollback: false,
        fingerprint: broken.fingerprint,
    }
}

struct Environment<'a> {
    evaluators: &'a std::collections::HashMap<
        String,
        crate::definition::document::Document,
        foldhash::fast::RandomState,
    >,
    evaluators_fingerprint: u64,
    set_metadata: &'a Arc<Metadata>,
    bucketing: Bucketing,
    now: i64,
}

impl Environment<'_> {
    fn flag(
        &self,
        definition: FlagDefinition,
        at: &At<'_>,
        findings: &mut Findings,
        nodes: &mut usize,
    ) -> CompiledFlag {
        let FlagDefinition { key, enabled, variants, default_variant, targeting, metadata, fingerprint } =
            definition;
        let at_metadata = at.key("metadata");
        check_names(&metadata, &at_metadata, Some(self.set_metadata), findings);
        let named = named_bucketing(&metadata, &at_metadata, findings);
        let bucketing = named.unwrap_or(self.bucketing);
        let group = text_of(&metadata, GROUP, &at_metadata, findings).unwrap_or(&key);
        let mut compiler = Compiler {
            flag_key: &key,
            bucketing,
            group,
            variants: &variants,
            evaluators: self.evaluators,
            findings,
            nodes: 0,
            open: Vec::new(),
            fractional_at: None,
        };
        let node = targeting.as_ref().map(|rules| compiler.node(rules, &at.key("targeting"), 0, false));
        *nodes += compiler.nodes;
        let fractional_at = compiler.fractional_at.take();
        if let (Some(place), None) = (fractional_at, named) {
            let message = format!(
                "{place} buckets subjects, but nothing says how; set \"{BUCKETING}\" in the metadata of the flag or \
                 of the set, so that no upgrade can ever move a subject (\"{}\" is used)",
                bucketing.name()
            );
            findings.warning(at, message);
        }
        let ramp = Ramp::of(&metadata, &at_metadata, &key, bucketing, &variants, findings);
        let requires = requirements(&metadata, &at_metadata, &key, findings);
        let mut flag = CompiledFlag {
            state: if enabled { State::Enabled } else { State::Disabled },
            default: default_variant,
            targeting: node,
            ramp,
            requires,
            bucketing,
            shape: None,
            rollback: metadata.get(ROLLBACK).and_then(serde_json::Value::as_bool).unwrap_or(false),
            // An evaluator that changes may change any flag of the file.
            fingerprint: fingerprint ^ self.evaluators_fingerprint.rotate_left(1),
            variants: variants.into_boxed_slice(),
            metadata,
            key,
        };
        if flag.is_phase() {
            flag.shape =
                PhaseShape::extract(&flag, targeting.as_ref(), self.evaluators, at, self.now, findings);
        }
        if let Some(fault) = findings.first_fault() {
            flag.state = State::Broken(fault.to_string().into());
        }
        flag
    }
}

fn check_names(metadata: &Metadata, at: &At<'_>, of_set: Option<&Metadata>, findings: &mut Findings) {
    for (name, value) in metadata {
        let inherited = of_set.is_some_and(|set| set.get(name) == Some(value));
        if name.starts_with("zdm.") && !KNOWN.contains(&name.as_str()) && !inherited {
            findings
                .warning(&at.key(name), format!("this setting is not known; there are {}", KNOWN.join(", ")));
        }
    }
    if let Some(kind) = metadata.get(KIND)
        && kind.as_str() != Some("phase")
    {
        findings.error(&at.key(KIND), format!("{kind} is no kind of flag; it must be \"phase\" or left out"));
    }
    if let Some(rollback) = metadata.get(ROLLBACK)
        && !rollback.is_boolean()
    {
        findings.error(&at.key(ROLLBACK), "must be true or false");
    }
}

fn named_bucketing(metadata: &Metadata, at: &At<'_>, findings: &mut Findings) -> Option<Bucketing> {
    let name = text_of(metadata, BUCKETING, at, findings)?;
    match name.parse() {
        Ok(bucketing) => Some(bucketing),
        Err(error) => {
            findings.fault(&at.key(BUCKETING), error.to_string());
            None
        }
    }
}

/// A setting that must be text.
pub(crate) fn text_of<'m>(
    metadata: &'m Metadata,
    name: &str,
    at: &At<'_>,
    findings: &mut Findings,
) -> Option<&'m str> {
    let value = metadata.get(name)?;
    if value.as_str().is_none() {
        findings.fault(&at.key(name), format!("must be a string, this is {value}"));
    }
    value.as_str()
}

/// `zdm.requires`: `flag`, or `flag=variant`, with commas between.
fn requirements(metadata: &Metadata, at: &At<'_>, key: &str, findings: &mut Findings) -> Box<[Requirement]> {
    let Some(text) = text_of(metadata, REQUIRES, at, findings) else { return Box::default() };
    let mut requires = Vec::new();
    for part in text.split(',').map(str::trim) {
        let (name, variant) = match part.split_once('=') {
            Some((name, variant)) => (name.trim(), Some(variant.trim().into())),
            None => (part, None),
        };
        if name.is_empty() {
            let message =
                "names flags with commas between: \"flag\" must be true, \"flag=variant\" must have it";
            findings.fault(&at.key(REQUIRES), message);
        } else if name == key {
            findings.fault(&at.key(REQUIRES), "a flag cannot require itself");
        } else {
            requires.push(Requirement { key: name.into(), variant });
        }
    }
    requires.into_boxed_slice()
}
