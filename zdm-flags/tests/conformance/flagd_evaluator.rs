use serde_json::Value;
use zdm_flags::bucketing::Bucketing;
use zdm_flags::{Context, Flags, ValueType};

use super::{read, same, suites};

#[test]
fn the_evaluator_suite_of_flagd() {
    let Some(folder) = suites("flagd evaluator") else { return };
    let folder = folder.join("flagd-testbed");
    let file = std::fs::read(folder.join("evaluator/flags/testkit-flags.json")).unwrap();
    let load = |bucketing| {
        let flags = Flags::builder().bucketing(bucketing).build().unwrap();
        flags.apply(&file).unwrap();
        flags
    };
    let (v1, v2) = (load(Bucketing::FlagdV1), load(Bucketing::FlagdV2));
    let cases = read(&folder.join("derived/evaluator_cases.json"));
    let mut run = 0;
    let mut failed = Vec::new();
    for case in cases.as_array().unwrap() {
        let tagged = |tag: &str| case["tags"].as_array().unwrap().iter().any(|found| found == tag);
        // Cases that name no bucketing must come out the same with both.
        // Nested ones are of the time of v2.
        let engines: &[(&str, &Flags)] = if tagged("@fractional-v1") {
            &[("v1", &v1)]
        } else if tagged("@fractional-v2") || tagged("@fractional-nested") {
            &[("v2", &v2)]
        } else {
            &[("v1", &v1), ("v2", &v2)]
        };
        for (name, flags) in engines {
            if let Err(message) = check(case, flags) {
                failed.push(format!("{name}: {message}: {case}"));
            }
        }
        run += 1;
    }
    assert_eq!(failed, Vec::<String>::new());
    assert_eq!(run, 140);
}

fn check(case: &Value, flags: &Flags) -> Result<(), String> {
    let flag = &case["flag"];
    let wanted: ValueType = flag["type"].as_str().unwrap().parse().unwrap();
    let mut cx = case["targetingKey"].as_str().map_or_else(Context::anonymous, Context::key);
    for (name, value) in case["context"].as_object().unwrap() {
        cx.set(name, value);
    }
    let snapshot = flags.snapshot();
    let details = snapshot.evaluate(flag["key"].as_str().unwrap(), wanted, &cx);
    let value = details.value.clone().unwrap_or_else(|| flag["default"].clone());
    for (what, expected) in case["expect"].as_object().unwrap() {
        let found = match what.as_str() {
            "value" => value.clone(),
            "variant" => details.variant.into(),
            "reason" => details.reason.as_str().into(),
            "errorCode" => details.error.map(|error| error.as_str()).into(),
            "metadata" => details.metadata.cloned().unwrap_or_default().into(),
            other => panic!("{other} is not compared"),
        };
        if !same(&found, expected) {
            return Err(format!("{what} is {found}, expected {expected}"));
        }
    }
    Ok(())
}
