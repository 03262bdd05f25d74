//! Evaluating needs no memory.

use std::hint::black_box;

use zdm_core::phase::Phase;
use zdm_flags::{Context, Flags, flags};

flags! {
    static ROLLOUT: bool = "rollout" => false;
    static RULE: bool = "rule" => false;
    static VARIANTS: &'static str = "variants" => "";
    static BY_PARTS: bool = "by-parts" => false;
    static COMPARED: bool = "compared" => false;
    static STORE: Phase = "store" => Phase::Off;
    static ABSENT: i64 = "absent" => 7;
}

const FILE: &str = r#"{
    "metadata": {"zdm.bucketing": "flagd-v2"},
    "flags": {
        "rollout": {"state": "ENABLED", "variants": {"on": true, "off": false}, "defaultVariant": "off",
            "targeting": {"fractional": [["on", 25], ["off", 75]]}},
        "rule": {"state": "ENABLED", "variants": {"on": true, "off": false}, "defaultVariant": "off",
            "targeting": {"if": [{"and": [
                {"in": [{"var": "country"}, ["DE", "FR", "ES", "IT"]]},
                {"or": [{"sem_ver": [{"var": "version"}, ">=", "1.2.3-rc.1"]}, {"starts_with": [{"var": "version"}, "dev-"]}]}]},
                {"fractional": [["on", 50], ["off", 50]]}, "off"]}},
        "variants": {"state": "ENABLED", "variants": {"a": "a", "b": "b", "c": "c"}, "defaultVariant": "a",
            "targeting": {"fractional": [["a", 50], ["b", 30], ["c", 20]]}},
        "by-parts": {"state": "ENABLED", "variants": {"on": true, "off": false}, "defaultVariant": "off",
            "targeting": {"fractional": [{"cat": [{"var": "$flagd.flagKey"}, {"var": "items"}, {"var": "country"}]},
                ["on", {"-": [{"var": "$flagd.timestamp"}, 1000000000]}], ["off", 900000000]]}},
        "compared": {"state": "ENABLED", "variants": {"on": true, "off": false}, "defaultVariant": "off",
            "targeting": {"if": [{"<": [1, {"+": [{"var": "items"}, 0.5]}, 10]}, "on"]}},
        "store": {"state": "ENABLED", "variants": {"off": "off", "dualwrite": "dualwrite"}, "defaultVariant": "off",
            "targeting": {"fractional": [["off", 50], ["dualwrite", 50]]},
            "metadata": {"zdm.kind": "phase"}}
    }
}"#;

#[test]
fn evaluating_needs_no_memory() {
    let flags = Flags::from_json(FILE.as_bytes()).unwrap();
    let users: Vec<String> = (0..1_000).map(|number| format!("user-{number}")).collect();
    let mut on = 0_usize;
    let mut all = || {
        for (number, user) in users.iter().enumerate() {
            let country = if number % 3 == 0 { "DE" } else { "BR" };
            let version = if number % 2 == 0 { "1.10.0-beta.2+build" } else { "0.9.9" };
            let cx =
                Context::key(user).with("country", country).with("version", version).with("items", number);
            let f = flags.load();
            on += usize::from(f.get(&ROLLOUT, &cx)) + usize::from(f.get(&RULE, &cx));
            on += usize::from(f.get(&BY_PARTS, &cx)) + usize::from(f.get(&COMPARED, &cx));
            on += f.get(&VARIANTS, &cx).len();
            on += usize::from(f.get(&STORE, &cx) == Phase::DualWrite);
            on += usize::from(f.get(&ABSENT, &cx) == 7);
            on += usize::from(f.by_name::<bool>("rollout", false, &cx));
            black_box(f.details(&RULE, &cx).reason);
        }
    };
    // The first round sets up what belongs to the thread.
    all();
    let counted = allocation_counter::measure(&mut all);
    assert_eq!(counted.count_total, 0, "{counted:?}");
    assert!(on > 1_000, "the flags are evaluated at all: {on}");
}
