//! Properties that hold for any input.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use proptest::prelude::*;
use serde_json::{Value, json};
use zdm_flags::bucketing::Bucketing;
use zdm_flags::targeting::Rule;
use zdm_flags::{Context, Flags, ValueType, lint};

fn ramp(key: &str, bucketing: &str, on: i64) -> Flags {
    let flag = json!({"state": "ENABLED", "variants": {"on": true, "off": false}, "defaultVariant": "off",
        "targeting": {"fractional": [["on", on], ["off", 100 - on]]}});
    let file = json!({"metadata": {"zdm.bucketing": bucketing}, "flags": {key: flag}});
    Flags::from_json(file.to_string().as_bytes()).unwrap()
}

proptest! {
    #[test]
    fn raising_a_percentage_never_removes_a_subject(
        (low, high) in (0_i64..=100, 0_i64..=100),
        keys in proptest::collection::vec("[a-z0-9-]{1,24}", 20),
        bucketing in prop_oneof![Just("flagd-v1"), Just("flagd-v2"), Just("flagd-v3"), Just("unleash")],
    ) {
        let (low, high) = (low.min(high), low.max(high));
        let (before, after) = (ramp("flag", bucketing, low).snapshot(), ramp("flag", bucketing, high).snapshot());
        for key in &keys {
            let on = |snapshot: &zdm_flags::Snapshot| snapshot.by_name::<bool>("flag", false, &Context::key(key));
            prop_assert!(!on(&before) || on(&after), "{} from {} to {}", key, low, high);
        }
    }
}

/// Two flags at 50 %: the four combinations are equally frequent.
#[test]
fn two_flags_are_independent() {
    for bucketing in ["flagd-v2", "flagd-v3"] {
        let (a, b) = (ramp("checkout", bucketing, 50).snapshot(), ramp("search", bucketing, 50).snapshot());
        let mut counts = [0_u32; 4];
        for number in 0..100_000 {
            let key = format!("user-{number}");
            let cx = Context::key(&key);
            let pair = (a.by_name::<bool>("checkout", false, &cx), b.by_name::<bool>("search", false, &cx));
            counts[usize::from(pair.0) * 2 + usize::from(pair.1)] += 1;
        }
        // Chi-square with 3 degrees of freedom stays below 16.3 in 999 of 1000 fair draws.
        let chi: f64 = counts.iter().map(|count| (f64::from(*count) - 25_000.0).powi(2) / 25_000.0).sum();
        assert!(chi < 16.3, "{bucketing}: {counts:?}");
    }
}

/// Another process, another machine, another day: these subjects are where they are.
#[test]
fn buckets_are_pinned() {
    let on: Vec<u32> = (0..40)
        .filter(|number| {
            let key = format!("user-{number}");
            ramp("orders", "flagd-v2", 25).snapshot().by_name::<bool>("orders", false, &Context::key(&key))
        })
        .collect();
    assert_eq!(on, PINNED);
}

const PINNED: [u32; 10] = [1, 9, 18, 23, 24, 27, 30, 35, 36, 39];

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        (-3_i64..4).prop_map(Value::from),
        "[ -~]{0,6}".prop_map(Value::from),
        prop_oneof![
            Just("on"),
            Just("a"),
            Just("a.b"),
            Just("$flagd.timestamp"),
            Just("$flagd.flagKey"),
            Just("targetingKey"),
            Just("1.2.3"),
            Just("=")
        ]
        .prop_map(Value::from),
    ];
    leaf.prop_recursive(6, 48, 5, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
            (operator(), inner.clone()).prop_map(|(name, args)| json!({name: args})),
            (operator(), proptest::collection::vec(inner.clone(), 0..5))
                .prop_map(|(name, args)| json!({name: args})),
            proptest::collection::btree_map("[a-c$.]{0,3}", inner, 0..3)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

fn operator() -> impl Strategy<Value = &'static str> {
    proptest::sample::select(vec![
        "var",
        "missing",
        "missing_some",
        "if",
        "?:",
        "==",
        "===",
        "!=",
        "!==",
        "<",
        "<=",
        ">",
        ">=",
        "!",
        "!!",
        "and",
        "or",
        "+",
        "-",
        "*",
        "/",
        "%",
        "min",
        "max",
        "cat",
        "substr",
        "merge",
        "in",
        "map",
        "filter",
        "reduce",
        "all",
        "some",
        "none",
        "starts_with",
        "ends_with",
        "sem_ver",
        "fractional",
        "$ref",
        "nonsense",
    ])
}

/// How many inputs the fuzzing tests try. `ZDM_FUZZ_CASES` asks for more.
fn cases() -> ProptestConfig {
    let cases = std::env::var("ZDM_FUZZ_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(512);
    ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(cases())]

    /// Whatever a file and a context hold, loading and evaluating end, without a panic.
    #[test]
    fn any_rule_and_any_context(
        rule in any_json(),
        evaluator in any_json(),
        data in any_json(),
        settings in any_json(),
        bucketing in prop_oneof![Just("flagd-v1"), Just("flagd-v2"), Just("flagd-v3"), Just("unleash")],
        kind in prop_oneof![Just("phase"), Just("plain")],
        key in "[a-z]{0,3}",
    ) {
        let metadata = json!({"zdm.bucketing": bucketing, "zdm.kind": kind, "zdm.ramp": settings, "zdm.requires": settings});
        let file = json!({"flags": {
            "a": {"state": "ENABLED", "variants": {"on": "off", "true": "live"}, "defaultVariant": "on", "targeting": rule},
            "b": {"state": "ENABLED", "variants": {"on": "off", "true": "live"}, "defaultVariant": "on", "targeting": rule,
                "metadata": metadata},
            "c": evaluator,
        }, "$evaluators": {"a": evaluator, "on": rule}, "metadata": settings}).to_string();
        let flags = Flags::from_json(file.as_bytes()).unwrap();
        let f = flags.snapshot();
        let cx = Context::key(&key).with("a", &data).with("b", &rule).with("1", f64::NAN);
        for flag in ["a", "b", "c"] {
            for wanted in [ValueType::String, ValueType::Boolean, ValueType::Integer] {
                let details = f.evaluate(flag, wanted, &cx);
                prop_assert!(details.error.is_none() || details.value.is_none());
            }
            // What explains comes to the same as what evaluates.
            let pinned = cx.clone().at(5);
            let details = f.evaluate(flag, ValueType::String, &pinned);
            let explanation = f.explain_by_name(flag, &pinned);
            prop_assert_eq!(details.variant.map(str::to_owned), explanation.variant);
        }
        // A reload with the same file moves nobody.
        prop_assert!(flags.apply(file.as_bytes()).is_ok());
    }

    #[test]
    fn any_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..200), text in "[{}\\[\\]\",:a-z0-9.]{0,200}") {
        drop(lint(&bytes));
        drop(lint(text.as_bytes()));
        drop(lint(format!("{{\"flags\": {{\"a\": {text}}}}}").as_bytes()));
    }

    /// Against an independent engine, where both define the same.
    #[test]
    fn rules_come_out_as_in_another_engine(rule in truth(3), a in -5_i64..6, b in "[a-c]{0,3}", c in any::<bool>()) {
        let data = json!({"a": a, "b": b, "c": c, "list": [1, 2, a], "nested": {"x": a, "y": b}});
        let expected = jsonlogic_rs::apply(&rule, &data);
        if let Ok(expected) = expected {
            let ours = Rule::parse(rule.to_string().as_bytes()).unwrap().evaluate(&data);
            prop_assert!(same(&ours, &expected), "{} over {}: {} but {}", rule, data, ours, expected);
        }
    }
}

fn same(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Number(a), Value::Number(b)) => a.as_f64() == b.as_f64(),
        _ => a == b,
    }
}

fn number(depth: u32) -> BoxedStrategy<Value> {
    let leaf = prop_oneof![
        (-5_i64..6).prop_map(Value::from),
        Just(json!({"var": "a"})),
        Just(json!({"var": "nested.x"})),
        Just(json!({"var": ["list.1", 4]})),
        Just(json!({"var": ["nowhere", 3]})),
    ];
    if depth == 0 {
        return leaf.boxed();
    }
    let inner = || number(depth - 1);
    prop_oneof![
        leaf,
        (proptest::sample::select(vec!["+", "-", "*", "min", "max"]), inner(), inner())
            .prop_map(|(name, x, y)| json!({name: [x, y]})),
        (truth(depth - 1), inner(), inner()).prop_map(|(test, x, y)| json!({"if": [test, x, y]})),
        inner().prop_map(
            |x| json!({"reduce": [{"var": "list"}, {"+": [{"var": "current"}, {"var": "accumulator"}]}, x]})
        ),
    ]
    .boxed()
}

fn text(depth: u32) -> BoxedStrategy<Value> {
    let leaf = prop_oneof![
        "[a-c]{0,3}".prop_map(Value::from),
        Just(json!({"var": "b"})),
        Just(json!({"var": "nested.y"})),
    ];
    if depth == 0 {
        return leaf.boxed();
    }
    let inner = || text(depth - 1);
    prop_oneof![
        leaf,
        (inner(), inner()).prop_map(|(x, y)| json!({"cat": [x, y]})),
        (inner(), 0_i64..3, 1_i64..3).prop_map(|(x, from, length)| json!({"substr": [x, from, length]})),
        (truth(depth - 1), inner(), inner()).prop_map(|(test, x, y)| json!({"if": [test, x, y]})),
    ]
    .boxed()
}

fn truth(depth: u32) -> BoxedStrategy<Value> {
    let leaf = prop_oneof![any::<bool>().prop_map(Value::from), Just(json!({"var": "c"}))];
    if depth == 0 {
        return leaf.boxed();
    }
    let inner = || truth(depth - 1);
    let compare = || proptest::sample::select(vec!["==", "===", "!=", "!==", "<", "<=", ">", ">="]);
    let quantifier = proptest::sample::select(vec!["all", "some", "none"]);
    prop_oneof![
        leaf,
        (compare(), number(depth - 1), number(depth - 1)).prop_map(|(name, x, y)| json!({name: [x, y]})),
        (compare(), text(depth - 1), text(depth - 1)).prop_map(|(name, x, y)| json!({name: [x, y]})),
        (proptest::sample::select(vec!["and", "or"]), inner(), inner())
            .prop_map(|(name, x, y)| json!({name: [x, y]})),
        (proptest::sample::select(vec!["!", "!!"]), inner()).prop_map(|(name, x)| json!({name: [x]})),
        (text(depth - 1), text(depth - 1)).prop_map(|(x, y)| json!({"in": [x, y]})),
        number(depth - 1).prop_map(|x| json!({"in": [x, {"var": "list"}]})),
        (quantifier, number(0))
            .prop_map(|(name, x)| json!({name: [{"var": "list"}, {"<": [{"var": ""}, x]}]})),
        Just(json!({"!": {"missing": ["a", "nowhere"]}})),
    ]
    .boxed()
}

#[test]
fn the_default_bucketing_is_named() {
    assert_eq!(Bucketing::default().name(), "flagd-v2");
}
