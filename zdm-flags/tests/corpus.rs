//! Files and contexts that a fuzzer found to reach different code. None of them may make the engine panic, and
//! each of them must come out the same twice.
//!
//! A line of `corpus.jsonl` is a file and a context. Each character stands for a byte, because the fuzzer does
//! not stop at text.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use serde_json::{Map, Value};
use zdm_flags::{Context, Flags, ValueType};

const CORPUS: &str = include_str!("corpus.jsonl");
const TYPES: [ValueType; 5] =
    [ValueType::Boolean, ValueType::String, ValueType::Integer, ValueType::Float, ValueType::Object];

fn bytes(text: &str) -> Vec<u8> {
    text.chars().map(|character| u8::try_from(u32::from(character)).unwrap()).collect()
}

/// Everything that can be asked about a file, as text. `None` for a file that is refused.
fn answers(file: &[u8], context: &Map<String, Value>) -> Option<String> {
    let flags = Flags::from_json(file).ok()?;
    let key = context.get("targetingKey").and_then(Value::as_str);
    let mut cx = key.map_or_else(Context::anonymous, Context::key).at(1_767_225_600);
    for (name, value) in context.iter().filter(|(name, _)| *name != "targetingKey") {
        cx.set(name, value);
    }
    let snapshot = flags.snapshot();
    let keys: Vec<String> = snapshot.keys().map(str::to_owned).collect();
    let mut text = String::new();
    for key in &keys {
        for wanted in TYPES {
            text.push_str(&format!("{:?}", snapshot.evaluate(key, wanted, &cx)));
        }
        text.push_str(&format!(
            "{} {}",
            snapshot.by_name::<bool>(key, false, &cx),
            snapshot.explain_by_name(key, &cx)
        ));
    }
    // Its own successor is as good as it was, or is refused with a reason.
    let again = flags.apply(file).map(drop).map_err(|error| error.to_string());
    Some(format!("{text} {again:?} {:?}", snapshot.findings()))
}

#[test]
fn nothing_that_was_found_breaks_the_engine() {
    let mut loaded = 0;
    for line in CORPUS.lines() {
        let [file, context]: [String; 2] = serde_json::from_str(line).unwrap();
        let context: Map<String, Value> = serde_json::from_slice(&bytes(&context)).unwrap_or_default();
        let first = answers(&bytes(&file), &context);
        loaded += usize::from(first.is_some());
        assert_eq!(first, answers(&bytes(&file), &context), "{line}");
    }
    assert_eq!(CORPUS.lines().count(), 400);
    assert!(loaded > 100, "most of the corpus is about flags that load: {loaded}");
}
