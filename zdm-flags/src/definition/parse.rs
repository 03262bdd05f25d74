use std::collections::HashMap;
use std::sync::Arc;

use foldhash::fast::{FixedState, RandomState};
use serde_json::value::RawValue;

use super::document::{Document, Entries};
use super::finding::{At, Findings};
use super::flag::{FlagDefinition, Metadata, Variant, VariantType};

/// Why a whole file is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ParseError {
    /// It is larger than [`MAX_BYTES`].
    #[error("the file has {0} bytes; at most {MAX_BYTES} are read")]
    TooLarge(usize),
    /// It is not UTF-8.
    #[error("byte {0} is not UTF-8; JSON must be UTF-8")]
    NotUtf8(usize),
    /// It is not JSON.
    #[error("line {line}, column {column}: {message}")]
    NotJson {
        /// From 1.
        line: usize,
        /// From 1.
        column: usize,
        /// What the parser says.
        message: String,
    },
    /// It is JSON, but no flag file.
    #[error("{path}: {message}")]
    NotFlags {
        /// A JSON pointer.
        path: String,
        /// What is wrong.
        message: String,
    },
}

/// The largest file that is read, in bytes (64 MiB). A bound for accidents, far above any real flag file.
pub const MAX_BYTES: usize = 64 << 20;

/// A file whose flags are read, not yet compiled.
#[derive(Debug)]
pub(crate) struct ParsedSet {
    pub(crate) flags: Vec<Result<FlagDefinition, BrokenFlag>>,
    pub(crate) evaluators: HashMap<String, Document, RandomState>,
    pub(crate) evaluators_fingerprint: u64,
    pub(crate) metadata: Arc<Metadata>,
    pub(crate) findings: Findings,
}

/// A flag that cannot be evaluated.
#[derive(Debug)]
pub(crate) struct BrokenFlag {
    pub(crate) key: Arc<str>,
    pub(crate) reason: String,
    pub(crate) metadata: Arc<Metadata>,
    pub(crate) fingerprint: u64,
}

pub(crate) fn parse(bytes: &[u8]) -> Result<ParsedSet, ParseError> {
    if bytes.len() > MAX_BYTES {
        return Err(ParseError::TooLarge(bytes.len()));
    }
    let text = std::str::from_utf8(bytes).map_err(|error| ParseError::NotUtf8(error.valid_up_to()))?;
    // A byte order mark is what editors on one system leave behind, not a fault of the author.
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let Entries(top) = serde_json::from_str(text).map_err(|error| not_json(&error))?;
    let root = At::Root;
    let mut findings = Findings::default();
    let (mut flags, mut metadata, mut evaluators, mut schema) = (None, None, None, None);
    for (key, raw) in top {
        let slot = match key.as_str() {
            "flags" => &mut flags,
            "metadata" => &mut metadata,
            "$evaluators" => &mut evaluators,
            "$schema" => &mut schema,
            _ => continue,
        };
        if slot.replace(raw).is_some() {
            return Err(not_flags(&root.key(&key), "this key occurs twice; remove one of them"));
        }
    }
    let metadata = Arc::new(read_metadata(metadata, &root.key("metadata"), &mut findings));
    let evaluators_fingerprint = evaluators.map_or(0, |raw| fingerprint(raw.get()));
    let evaluators = read_evaluators(evaluators, &mut findings);
    let Some(flags) = flags else {
        return Err(not_flags(&root, "there is no \"flags\"; a flag file is {\"flags\": {..}}"));
    };
    let at = root.key("flags");
    let mut set = ParsedSet { flags: Vec::new(), evaluators, evaluators_fingerprint, metadata, findings };
    if flags.get().starts_with('[') {
        read_array(&mut set, flags, schema, &at)?;
    } else {
        let Entries(entries) = serde_json::from_str(flags.get())
            .map_err(|_| not_flags(&at, "\"flags\" must be an object of flags by key"))?;
        let mut seen: HashMap<String, usize, RandomState> = HashMap::default();
        for (key, raw) in entries {
            push_flag(&mut set, &mut seen, &key, raw, &at.key(&key));
        }
    }
    Ok(set)
}

/// Flags as a list, each with its key inside. Only files that say they are meant for the daemon have it.
fn read_array(
    set: &mut ParsedSet,
    flags: &RawValue,
    schema: Option<&RawValue>,
    at: &At<'_>,
) -> Result<(), ParseError> {
    if !schema.is_some_and(|raw| raw.get().trim_end_matches('"').ends_with("flagd.json")) {
        let message = "\"flags\" must be an object of flags by key; a list is for files whose \"$schema\" is \
                       flagd.json";
        return Err(not_flags(at, message));
    }
    let items: Vec<&RawValue> =
        serde_json::from_str(flags.get()).map_err(|error| not_flags(at, &error.to_string()))?;
    let mut seen = HashMap::default();
    for (index, raw) in items.into_iter().enumerate() {
        let here = at.index(index);
        #[derive(serde::Deserialize)]
        struct Keyed {
            key: String,
        }
        match serde_json::from_str::<Keyed>(raw.get()) {
            Ok(Keyed { key }) => push_flag(set, &mut seen, &key, raw, &here),
            Err(_) => set.findings.fault(&here, "a flag in a list needs a \"key\", a string"),
        }
    }
    Ok(())
}

fn push_flag(
    set: &mut ParsedSet,
    seen: &mut HashMap<String, usize, RandomState>,
    key: &str,
    raw: &RawValue,
    at: &At<'_>,
) {
    let mut findings = Findings::default();
    let fingerprint = fingerprint(raw.get());
    let read = read_flag(key, raw.get(), &set.metadata, at, &mut findings);
    let earlier = seen.insert(key.to_owned(), set.flags.len());
    if earlier.is_some() {
        findings.fault(at, "this flag is defined twice; remove one of them");
    }
    let flag = match (read, findings.first_fault()) {
        (Some(flag), None) => Ok(flag),
        (read, fault) => Err(BrokenFlag {
            key: key.into(),
            reason: fault.map_or_else(|| "it cannot be read".to_owned(), ToString::to_string),
            metadata: read.map_or_else(|| Arc::clone(&set.metadata), |flag| flag.metadata),
            fingerprint,
        }),
    };
    set.findings.append(findings);
    match earlier {
        // Neither of two definitions is the right one, so both are out.
        Some(index) => {
            set.flags[index] = flag;
            seen.insert(key.to_owned(), index);
        }
        None => set.flags.push(flag),
    }
}

fn read_flag(
    key: &str,
    text: &str,
    of_set: &Arc<Metadata>,
    at: &At<'_>,
    findings: &mut Findings,
) -> Option<FlagDefinition> {
    let document = match serde_json::from_str::<Document>(text) {
        Ok(document) => document,
        Err(error) => {
            findings.fault(at, describe(&error));
            return None;
        }
    };
    let Document::Object(entries) = document else {
        findings.fault(at, format!("a flag must be an object, this is {}", document.kind()));
        return None;
    };
    if key.is_empty() {
        findings.fault(at, "a flag needs a key; the empty string is none");
    }
    let (mut state, mut variants, mut default, mut targeting, mut metadata) = (None, None, None, None, None);
    for (name, value) in entries {
        let slot = match name.as_str() {
            "state" => &mut state,
            "variants" => &mut variants,
            "defaultVariant" => &mut default,
            "targeting" => &mut targeting,
            "metadata" => &mut metadata,
            _ => continue,
        };
        if slot.replace(value).is_some() {
            findings.fault(&at.key(&name), "this key occurs twice; remove one of them");
        }
    }
    let enabled = match &state {
        Some(Document::Text(word)) if word == "ENABLED" => true,
        Some(Document::Text(word)) if word == "DISABLED" => false,
        Some(_) => {
            findings.fault(&at.key("state"), "the state must be \"ENABLED\" or \"DISABLED\"");
            false
        }
        None => {
            findings.fault(at, "the flag has no \"state\"; it must be \"ENABLED\" or \"DISABLED\"");
            false
        }
    };
    let variants = read_variants(variants.as_ref(), at, findings);
    let default_variant = match &default {
        None | Some(Document::Null) => None,
        Some(Document::Text(name)) => {
            let index = variants.iter().position(|variant| variant.name() == name);
            if index.is_none() {
                let message = format!("there is no variant {name:?}; the variants are {}", names(&variants));
                findings.fault(&at.key("defaultVariant"), message);
            }
            index.and_then(|index| u32::try_from(index).ok())
        }
        Some(other) => {
            let message = format!("the default variant must be a name or null, this is {}", other.kind());
            findings.fault(&at.key("defaultVariant"), message);
            None
        }
    };
    let targeting = match targeting {
        None | Some(Document::Null) => None,
        Some(Document::Object(entries)) if entries.is_empty() => None,
        Some(Document::Object(entries)) => Some(Document::Object(entries)),
        Some(other) => {
            findings
                .fault(&at.key("targeting"), format!("targeting must be a rule, this is {}", other.kind()));
            None
        }
    };
    let metadata = match metadata {
        None => Arc::clone(of_set),
        Some(document) => {
            let mut merged = Metadata::clone(of_set);
            merged.extend(metadata_of(&document, &at.key("metadata"), findings));
            Arc::new(merged)
        }
    };
    let key = key.into();
    let fingerprint = fingerprint(text);
    Some(FlagDefinition { key, enabled, variants, default_variant, targeting, metadata, fingerprint })
}

fn read_variants(document: Option<&Document>, at: &At<'_>, findings: &mut Findings) -> Vec<Variant> {
    let Some(document) = document else {
        findings.fault(at, "the flag has no \"variants\"");
        return Vec::new();
    };
    let at = at.key("variants");
    let Document::Object(entries) = document else {
        findings.fault(&at, format!("variants must be an object, this is {}", document.kind()));
        return Vec::new();
    };
    if entries.is_empty() {
        findings.fault(&at, "a flag needs at least one variant");
    }
    let mut variants: Vec<Variant> = Vec::with_capacity(entries.len());
    let mut seen = foldhash::HashSet::default();
    let mut common = None;
    for (name, value) in entries {
        let here = at.key(name);
        if name.is_empty() {
            findings.fault(&here, "a variant needs a name; the empty string is none");
        }
        if !seen.insert(name.as_str()) {
            findings.fault(&here, "this variant is defined twice; remove one of them");
        }
        let value = value.to_value(&here, findings);
        match (VariantType::of(&value), common) {
            (None, _) => {
                findings.fault(&here, "a variant must be a boolean, a string, a number or an object");
            }
            (Some(found), None) => common = Some(found),
            (Some(found), Some(expected)) if found != expected => {
                let message = format!(
                    "this variant is a {}, the first one is a {}; all must be of one type",
                    found.word(),
                    expected.word()
                );
                findings.fault(&here, message);
            }
            (Some(_), Some(_)) => {}
        }
        variants.push(Variant::new(name, value));
    }
    variants
}

fn read_evaluators(
    raw: Option<&RawValue>,
    findings: &mut Findings,
) -> HashMap<String, Document, RandomState> {
    let mut evaluators = HashMap::default();
    let Some(raw) = raw else { return evaluators };
    let root = At::Root;
    let at = root.key("$evaluators");
    let Ok(Entries(entries)) = serde_json::from_str(raw.get()) else {
        findings.error(&at, "\"$evaluators\" must be an object of rules by name");
        return evaluators;
    };
    for (name, raw) in entries {
        let here = at.key(&name);
        match serde_json::from_str::<Document>(raw.get()) {
            Ok(document) => {
                if evaluators.insert(name.clone(), document).is_some() {
                    findings.error(&here, "this evaluator is defined twice; the last one counts");
                }
            }
            Err(error) => findings.error(&here, describe(&error)),
        }
    }
    evaluators
}

fn read_metadata(raw: Option<&RawValue>, at: &At<'_>, findings: &mut Findings) -> Metadata {
    let Some(raw) = raw else { return Metadata::new() };
    match serde_json::from_str::<Document>(raw.get()) {
        Ok(document) => {
            let metadata = metadata_of(&document, at, findings);
            for key in ["flagSetId", "version"] {
                if metadata.get(key).is_some_and(|value| !value.is_string()) {
                    findings.error(&at.key(key), "must be a string");
                }
            }
            metadata
        }
        Err(error) => {
            findings.error(at, describe(&error));
            Metadata::new()
        }
    }
}

/// Entries that are not flat are left out and reported.
fn metadata_of(document: &Document, at: &At<'_>, findings: &mut Findings) -> Metadata {
    let Document::Object(entries) = document else {
        findings.error(at, format!("metadata must be an object, this is {}", document.kind()));
        return Metadata::new();
    };
    let mut metadata = Metadata::new();
    for (key, value) in entries {
        let here = at.key(key);
        if matches!(value, Document::Null | Document::List(_) | Document::Object(_)) {
            let message = format!("metadata holds strings, numbers and booleans; this is {}", value.kind());
            findings.error(&here, message);
            continue;
        }
        let value = value.to_value(&here, findings);
        if metadata.insert(key.clone(), value).is_some() {
            findings.error(&here, "this key occurs twice; the last one counts");
        }
    }
    metadata
}

/// Variant names for a message, at most a line of them.
pub(crate) fn names(variants: &[Variant]) -> String {
    let mut list: Vec<&str> = variants.iter().take(12).map(Variant::name).collect();
    if variants.len() > list.len() {
        list.push("..");
    }
    list.join(", ")
}

fn fingerprint(text: &str) -> u64 {
    use std::hash::BuildHasher as _;
    // Spaces outside of strings do not count, so that a formatter changes nothing.
    let mut bare = Vec::with_capacity(text.len());
    let (mut quoted, mut escaped) = (false, false);
    for byte in text.bytes() {
        if quoted {
            quoted = escaped || byte != b'"';
            escaped = !escaped && byte == b'\\';
        } else if byte.is_ascii_whitespace() {
            continue;
        } else {
            quoted = byte == b'"';
        }
        bare.push(byte);
    }
    FixedState::with_seed(0).hash_one(&bare)
}

fn describe(error: &serde_json::Error) -> String {
    let text = error.to_string();
    if text.starts_with("recursion limit") {
        return "nested more than 128 levels deep; that is the limit".to_owned();
    }
    text
}

fn not_json(error: &serde_json::Error) -> ParseError {
    let text = error.to_string();
    let message = text.rsplit_once(" at line").map_or(text.as_str(), |(message, _)| message).to_owned();
    ParseError::NotJson { line: error.line(), column: error.column(), message }
}

fn not_flags(at: &At<'_>, message: &str) -> ParseError {
    ParseError::NotFlags { path: at.to_string(), message: message.to_owned() }
}
