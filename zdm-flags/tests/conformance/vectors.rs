use serde_json::{Value, json};
use zdm_flags::{Context, Flags};

use super::{read, suites};

/// A flag `key` whose only rule is this `fractional`, with this bucketing and group.
fn flags(key: &str, bucketing: &str, group: &str, variants: &[&str], fractional: Value) -> Flags {
    let variants: Value = variants
        .iter()
        .map(|name| ((*name).to_owned(), json!(name)))
        .collect::<serde_json::Map<_, _>>()
        .into();
    let file = json!({
        "metadata": {"zdm.bucketing": bucketing, "zdm.group": group},
        "flags": {key: {"state": "ENABLED", "variants": variants, "targeting": {"fractional": fractional}}}
    });
    Flags::from_json(file.to_string().as_bytes()).unwrap()
}

fn landed(flags: &Flags, flag: &str, cx: &Context<'_>) -> (Option<String>, u32) {
    let snapshot = flags.snapshot();
    let details = snapshot.details_by_name::<&'static str>(flag, "", cx);
    (details.variant.map(str::to_owned), details.bucket.unwrap().hash)
}

#[test]
fn flagd_fractional() {
    let Some(folder) = suites("vectors") else { return };
    let vectors = read(&folder.join("computed-vectors/vectors.json"));
    let vectors = &vectors["flagd_fractional"];
    let flag = vectors["flagKey"].as_str().unwrap();
    let cases = vectors["cases"].as_array().unwrap();
    for case in cases {
        let key = case["key"].as_str().unwrap();
        for version in ["v1", "v2", "v3"] {
            let expected = &case[version];
            let at = format!("{key:?} {version}");
            let bucketing = format!("flagd-{version}");
            let explicit = flags(
                flag,
                &bucketing,
                flag,
                &["a", "b", "c", "d"],
                json!([{"var": "bucketBy"}, ["a", 1], ["b", 9], ["c", 40], ["d", 50]]),
            );
            let value = Value::from(key);
            let (variant, hash) = landed(&explicit, flag, &Context::key("other").with("bucketBy", &value));
            assert_eq!(json!(variant), expected["explicit_1_9_40_50"], "{at}");
            assert_eq!(json!(hash), expected["explicit_hash"], "{at}");
            // The same key put together from parts.
            let (head, tail) = key.split_at(key.char_indices().nth(1).map_or(0, |(at, _)| at));
            let cat = flags(
                flag,
                &bucketing,
                flag,
                &["a", "b", "c", "d"],
                json!([{"cat": [{"var": "head"}, {"var": "tail"}]}, ["a", 1], ["b", 9], ["c", 40], ["d", 50]]),
            );
            let cx = Context::key("other").with("head", head).with("tail", tail);
            assert_eq!(json!(landed(&cat, flag, &cx).1), expected["explicit_hash"], "{at}, in parts");

            let implicit = flags(
                flag,
                &bucketing,
                flag,
                &["a", "b", "c", "d"],
                json!([["a", 250], ["b", 250], ["c", 250], ["d", 250]]),
            );
            let cx = Context::key(key);
            if key.is_empty() {
                // An empty targeting key is none to flagd.
                let snapshot = implicit.snapshot();
                let variant = snapshot.details_by_name::<&'static str>(flag, "", &cx).variant;
                assert_eq!(json!(variant), expected["implicit_250x4"], "{at}");
                continue;
            }
            let (variant, hash) = landed(&implicit, flag, &cx);
            assert_eq!(json!(variant), expected["implicit_250x4"], "{at}");
            if let Some(expected) = expected.get("implicit_hash") {
                assert_eq!(json!(hash), *expected, "{at}");
            }
        }
    }
    assert_eq!(cases.len(), 24);
}

#[test]
fn murmur() {
    let Some(folder) = suites("vectors") else { return };
    let vectors = read(&folder.join("computed-vectors/vectors.json"));
    let cases = vectors["murmur3_x86_32"].as_array().unwrap();
    for case in cases {
        let input = case["input"].as_str().unwrap();
        for (name, seed) in [("seed0", 0), ("seed1", 1), ("seed86028157", 86_028_157)] {
            let hash = murmur3::murmur3_32(&mut std::io::Cursor::new(input), seed).unwrap();
            assert_eq!(json!(hash), case[name], "{input:?}");
        }
    }
    assert_eq!(cases.len(), 24);
}

#[test]
fn unleash_rollouts() {
    let Some(folder) = suites("vectors") else { return };
    let vectors = read(&folder.join("computed-vectors/vectors.json"));
    let cases = vectors["unleash_gradual_rollout"].as_array().unwrap();
    for case in cases {
        let user = case["userId"].as_str().unwrap();
        let normalized = case["normalized_1_100"].as_i64().unwrap();
        let group = case["groupId"].as_str().unwrap();
        // On at exactly this percentage, and not below it.
        for (rollout, expected) in [(normalized, "on"), (normalized - 1, "off")] {
            let by_user = json!([{"var": "id"}, ["on", rollout], ["off", 100 - rollout]]);
            let flags = flags("some-flag", "unleash", group, &["on", "off"], by_user);
            let id = Value::from(user);
            let (variant, hash) = landed(&flags, "some-flag", &Context::anonymous().with("id", &id));
            assert_eq!(variant.as_deref(), Some(expected), "{user} in {group} at {rollout}");
            assert_eq!(json!(hash), case["murmur3_seed0"]);
        }
    }
    assert_eq!(cases.len(), 46);
}

#[test]
fn unleash_variants() {
    let Some(folder) = suites("vectors") else { return };
    let vectors = read(&folder.join("computed-vectors/vectors.json"));
    let cases = vectors["unleash_variants"].as_array().unwrap();
    for case in cases {
        let flag = case["feature"].as_str().unwrap();
        let fractional = json!([["red", 100], ["green", 300], ["blue", 250], ["rest", 350]]);
        let flags = flags(flag, "unleash-variants", flag, &["red", "green", "blue", "rest"], fractional);
        let (variant, hash) = landed(&flags, flag, &Context::key(case["userId"].as_str().unwrap()));
        assert_eq!(json!(variant), case["variant_red100_green300_blue250_rest350"], "{case}");
        assert_eq!(json!(hash), case["murmur3_seed86028157"], "{case}");
    }
    assert_eq!(cases.len(), 23);
}

/// How much of a cohort stays when the algorithm changes under it: the reason why it is pinned.
#[test]
fn churn_between_generations() {
    let Some(folder) = suites("vectors") else { return };
    let vectors = read(&folder.join("computed-vectors/vectors.json"));
    let case = &vectors["flagd_generation_churn"][2];
    assert_eq!(case["pct"], 10);
    let fractional = json!([["on", 10], ["off", 90]]);
    let load = |bucketing| flags("orders-cutover", bucketing, "", &["on", "off"], fractional.clone());
    let [v1, v2, v3] = ["flagd-v1", "flagd-v2", "flagd-v3"].map(load).map(|flags| flags.snapshot());
    let (mut on_v1, mut v1_v2, mut on_v2, mut v2_v3) = (0.0, 0.0, 0.0, 0.0);
    for number in 0..50_000 {
        let key = format!("user-{number}");
        let cx = Context::key(&key);
        let on = |snapshot: &zdm_flags::Snapshot| {
            snapshot.by_name::<&'static str>("orders-cutover", "", &cx) == "on"
        };
        let (v1, v2, v3) = (on(&v1), on(&v2), on(&v3));
        on_v1 += f64::from(v1);
        on_v2 += f64::from(v2);
        v1_v2 += f64::from(v1 && v2);
        v2_v3 += f64::from(v2 && v3);
    }
    let near = |found: f64, name: &str| {
        let expected = case[name].as_f64().unwrap();
        assert!((found - expected).abs() < 0.02, "{name}: {found}, expected about {expected}");
    };
    near(v1_v2 / on_v1, "kept_v1_to_v2");
    near(v2_v3 / on_v2, "kept_v2_to_v3");
}
