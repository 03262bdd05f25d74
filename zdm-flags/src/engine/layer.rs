use std::collections::HashMap;
use std::sync::Arc;

use foldhash::fast::RandomState;
use zdm_core::clock::Clock;
use zdm_core::phase::Phase;

use crate::bucketing::Bucketing;
use crate::definition::finding::{At, Findings};
use crate::definition::parse::parse;
use crate::definition::{Finding, Metadata, ParseError, Variant};
use crate::evaluation::compiled::{self, CompiledFlag, CompiledSet, State};
use crate::exposure::Exposures;
use crate::phase_flag;
use crate::snapshot::{Entry, Parts, Snapshot};

/// One file, as it was read last.
#[derive(Clone, Debug)]
pub(crate) struct Layer {
    pub(crate) bytes: Arc<[u8]>,
    pub(crate) signature: Option<Arc<[u8]>>,
    pub(crate) flags: Arc<Vec<Arc<CompiledFlag>>>,
    pub(crate) findings: Arc<Vec<Finding>>,
    pub(crate) metadata: Arc<Metadata>,
}

impl Layer {
    pub(crate) fn read(
        bytes: &[u8],
        signature: Option<&[u8]>,
        bucketing: Bucketing,
        clock: &dyn Clock,
    ) -> Result<Self, ParseError> {
        let now = i64::try_from(clock.unix_millis() / 1_000).unwrap_or(i64::MAX);
        let CompiledSet { flags, metadata, findings } = compiled::compile(parse(bytes)?, bucketing, now);
        Ok(Self {
            bytes: bytes.into(),
            signature: signature.map(Into::into),
            flags: Arc::new(flags),
            findings: Arc::new(findings.into_vec()),
            metadata,
        })
    }
}

/// What is laid over the files in this process.
#[derive(Clone, Debug, Default)]
pub(crate) struct Laid {
    pub(crate) overrides: HashMap<String, Variant, RandomState>,
    pub(crate) ceilings: HashMap<String, Phase, RandomState>,
}

/// How much work the requirements of one flag may cause.
const MOST_REQUIRED: u32 = 1_000;

/// Puts the files together, the later ones over the earlier.
pub(crate) fn assemble(
    layers: &[Layer],
    laid: &Laid,
    revision: u64,
    clock: Arc<dyn Clock>,
    exposures: Option<Arc<Exposures>>,
) -> Snapshot {
    let mut entries: Vec<Entry> = Vec::new();
    let mut index: HashMap<Arc<str>, u32, RandomState> = HashMap::default();
    let mut findings = Vec::new();
    let mut metadata = Arc::default();
    for layer in layers {
        findings.extend(layer.findings.iter().cloned());
        metadata = Arc::clone(&layer.metadata);
        for flag in layer.flags.iter() {
            put(&mut entries, &mut index, Arc::clone(flag));
        }
    }
    for key in laid.overrides.keys() {
        if !index.contains_key(key.as_str()) {
            put(&mut entries, &mut index, Arc::new(unknown(key)));
        }
    }
    let mut found = Findings::default();
    require(&mut entries, &index, &mut found);
    for (key, variant) in &laid.overrides {
        if let Some(entry) = index.get(key.as_str()).and_then(|at| entries.get_mut(*at as usize)) {
            entry.overlay.get_or_insert_default().value = Some(variant.clone());
        }
    }
    for (key, ceiling) in &laid.ceilings {
        if let Some(entry) = index.get(key.as_str()).and_then(|at| entries.get_mut(*at as usize)) {
            let held = phase_flag::held(&entry.flag.variants, *ceiling);
            entry.overlay.get_or_insert_default().ceiling = Some(held);
        }
    }
    findings.extend(found.into_vec());
    Snapshot::new(Parts { revision, entries, index, clock, exposures, findings, metadata })
}

fn put(entries: &mut Vec<Entry>, index: &mut HashMap<Arc<str>, u32, RandomState>, flag: Arc<CompiledFlag>) {
    let entry = |flag| Entry { flag, requires: Box::default(), overlay: None };
    if let Some(at) = index.get(&flag.key) {
        entries[*at as usize] = entry(flag);
        return;
    }
    // A file of the largest size holds far fewer flags than that.
    if let Ok(at) = u32::try_from(entries.len()) {
        index.insert(Arc::clone(&flag.key), at);
        entries.push(entry(flag));
    }
}

/// A flag that only a test knows.
fn unknown(key: &str) -> CompiledFlag {
    CompiledFlag {
        key: key.into(),
        state: State::Enabled,
        variants: Box::default(),
        default: None,
        targeting: None,
        ramp: None,
        metadata: Arc::default(),
        requires: Box::default(),
        bucketing: Bucketing::default(),
        shape: None,
        rollback: false,
        fingerprint: 0,
    }
}

/// Finds what flags require of each other, and refuses what is missing or goes in a circle.
fn require(entries: &mut [Entry], index: &HashMap<Arc<str>, u32, RandomState>, findings: &mut Findings) {
    let mut costs: Vec<Cost> = vec![Cost::Unknown; entries.len()];
    let requiring: Vec<u32> = (0..)
        .zip(entries.iter())
        .filter(|(_, entry)| !entry.flag.requires.is_empty())
        .map(|(at, _)| at)
        .collect();
    for at in requiring {
        let outcome = cost(at, entries, index, &mut costs, 0);
        let entry = &mut entries[at as usize];
        match outcome {
            Ok(_) => {
                let flags = entry.flag.requires.iter();
                let found = flags.filter_map(|one| Some((*index.get(&*one.key)?, one.variant.clone())));
                entry.requires = found.collect();
            }
            Err(why) => {
                let root = At::Root;
                let flags = root.key("flags");
                let flag = flags.key(&entry.flag.key);
                findings.fault(&flag.key("metadata").key(compiled::REQUIRES), why.clone());
                entry.overlay.get_or_insert_default().broken = Some(why.into());
            }
        }
    }
}

#[derive(Clone)]
enum Cost {
    Unknown,
    Open,
    Known(u32),
    Refused(String),
}

/// How many flags are evaluated for this one.
fn cost(
    at: u32,
    entries: &[Entry],
    index: &HashMap<Arc<str>, u32, RandomState>,
    costs: &mut [Cost],
    depth: usize,
) -> Result<u32, String> {
    let flag = &entries[at as usize].flag;
    match &costs[at as usize] {
        Cost::Known(cost) => return Ok(*cost),
        Cost::Refused(why) => return Err(why.clone()),
        Cost::Open => return Err(format!("the requirements go in a circle through {:?}", &*flag.key)),
        Cost::Unknown => {}
    }
    costs[at as usize] = Cost::Open;
    let mut total = 1_u32;
    let mut outcome = Ok(());
    for one in &flag.requires {
        let step = match index.get(&*one.key) {
            None => Err(format!("there is no flag {:?} to require", one.key)),
            Some(_) if depth > 32 => Err("the requirements are more than 32 flags deep".to_owned()),
            Some(next) => check_variant(&entries[*next as usize].flag, one)
                .and_then(|()| cost(*next, entries, index, costs, depth + 1)),
        };
        match step {
            Ok(more) => total = total.saturating_add(more),
            Err(why) => {
                outcome = Err(why);
                break;
            }
        }
    }
    if outcome.is_ok() && total > MOST_REQUIRED {
        outcome = Err(format!(
            "the requirements make {total} evaluations of one; at most {MOST_REQUIRED} are done"
        ));
    }
    costs[at as usize] = match &outcome {
        Ok(()) => Cost::Known(total),
        Err(why) => Cost::Refused(why.clone()),
    };
    outcome.map(|()| total)
}

fn check_variant(flag: &CompiledFlag, required: &compiled::Requirement) -> Result<(), String> {
    let known = match &required.variant {
        // A broken flag has no variants to be checked against; it meets no requirement anyhow.
        _ if flag.variants.is_empty() => true,
        Some(name) => flag.variants.iter().any(|variant| variant.name() == &**name),
        None => flag.variants.iter().any(|variant| variant.as_bool().is_some()),
    };
    match (known, &required.variant) {
        (true, _) => Ok(()),
        (false, Some(name)) => Err(format!("the flag {:?} has no variant {name:?}", required.key)),
        (false, None) => Err(format!(
            "the flag {0:?} is not boolean; name the variant it must have: \"{0}=variant\"",
            required.key
        )),
    }
}
