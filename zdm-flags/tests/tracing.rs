//! What an evaluation tells through `tracing`: the names are those of OpenTelemetry's `feature_flag.evaluation`.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::{Arc, Mutex};

use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};
use zdm_flags::{Context, Flags};

type Fields = BTreeMap<&'static str, String>;

/// Keeps the events of this crate.
#[derive(Clone, Default)]
struct Listener(Arc<Mutex<Vec<(&'static str, Fields)>>>);

struct Reader(Fields);

impl Visit for Reader {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.0.insert(field.name(), format!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.0.insert(field.name(), value.to_owned());
    }
}

impl Subscriber for Listener {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target() == "zdm_flags"
    }

    fn event(&self, event: &Event<'_>) {
        let mut reader = Reader(Fields::new());
        event.record(&mut reader);
        self.0.lock().unwrap().push((event.metadata().name(), reader.0));
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}
    fn record_follows_from(&self, _: &Id, _: &Id) {}
    fn enter(&self, _: &Id) {}
    fn exit(&self, _: &Id) {}
}

const FILE: &str = r#"{"metadata": {"zdm.bucketing": "flagd-v2", "flagSetId": "shop", "version": "17"}, "flags": {
    "pricing": {"state": "ENABLED", "variants": {"on": true, "off": false}, "defaultVariant": "off",
        "targeting": {"if": [{"==": [{"var": "plan"}, "gold"]}, "on"]}}}}"#;

fn expect(found: &Fields, expected: &[(&str, &str)]) {
    for (name, value) in expected {
        assert_eq!(found.get(name).map(String::as_str), Some(*value), "{name} in {found:?}");
    }
}

#[test]
fn an_evaluation_is_told_in_the_words_of_open_telemetry() {
    let flags = Flags::from_json(FILE.as_bytes()).unwrap();
    let listener = Listener::default();
    tracing::subscriber::with_default(listener.clone(), || {
        let snapshot = flags.snapshot();
        let cx = Context::key("tenant-7").with("plan", "gold");
        assert!(snapshot.by_name::<bool>("pricing", false, &cx));
        snapshot.by_name::<&'static str>("pricing", "", &cx);
        snapshot.details_by_name::<i64>("pricing", 0, &cx);
        snapshot.by_name::<bool>("nowhere", false, &cx);
    });
    let events = listener.0.lock().unwrap().clone();
    assert!(events.iter().all(|(name, _)| *name == "feature_flag.evaluation"), "{events:?}");
    assert_eq!(events.len(), 4);
    expect(
        &events[0].1,
        &[
            ("feature_flag.key", "pricing"),
            ("feature_flag.provider.name", "zdm-flags"),
            ("feature_flag.result.variant", "on"),
            ("feature_flag.result.reason", "targeting_match"),
            ("feature_flag.context.id", "tenant-7"),
            ("feature_flag.set.id", "shop"),
            ("feature_flag.version", "17"),
        ],
    );
    assert!(!events[0].1.contains_key("error.type"));
    expect(&events[2].1, &[("feature_flag.result.reason", "error"), ("error.type", "type_mismatch")]);
    expect(&events[3].1, &[("feature_flag.key", "nowhere"), ("error.type", "flag_not_found")]);
}
