//! What a service sees of a running engine: files that change, overrides, requirements, guards, reports.

use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use zdm_core::phase::Phase;
use zdm_flags::source::FileSource;
use zdm_flags::{Change, Context, ErrorCode, Flags, InCode, LoadError, Reason, ValueType, flags};

flags! {
    static NEW: bool = "new" => false;
    static LIMIT: i64 = "limit" => 10;
    static STORE: Phase = "store" => Phase::Off;
}

fn boolean(default: &str) -> Value {
    json!({"state": "ENABLED", "variants": {"on": true, "off": false}, "defaultVariant": default})
}

fn store(default: &str) -> Value {
    json!({"state": "ENABLED", "defaultVariant": default, "metadata": {"zdm.kind": "phase"},
        "variants": {"off": "off", "dualwrite": "dualwrite", "shadow": "shadow"}})
}

fn file(flags: Value) -> Vec<u8> {
    json!({"metadata": {"zdm.bucketing": "flagd-v2"}, "flags": flags}).to_string().into_bytes()
}

fn path(name: &str) -> std::path::PathBuf {
    std::env::temp_dir().join(format!("zdm-flags-{name}-{}", std::process::id()))
}

#[test]
fn a_file_is_followed_and_a_broken_one_leaves_the_last_good_flags() {
    let path = path("follow.json");
    std::fs::write(&path, file(json!({"new": boolean("off")}))).unwrap();
    let flags = Flags::builder().source(FileSource::poll(&path)).require([&NEW]).build().unwrap();
    let before = flags.snapshot();
    let cx = Context::key("ada");
    assert!(!flags.get(&NEW, &cx));

    // As an editor does: a new file takes the place of the old one.
    let fresh = path.with_extension("fresh");
    std::fs::write(&fresh, file(json!({"new": boolean("on")}))).unwrap();
    std::fs::rename(&fresh, &path).unwrap();
    flags.reload().unwrap();
    assert!(flags.get(&NEW, &cx));
    assert!(!before.get(&NEW, &cx), "a snapshot never changes");

    let whole = file(json!({"new": boolean("off")}));
    for bad in [&whole[..whole.len() / 2], b"", b"\xff\xfe{}", b"[]", br#"{"flags": {}}"#] {
        std::fs::write(&path, bad).unwrap();
        let error = flags.reload().unwrap_err();
        assert!(flags.get(&NEW, &cx), "{error}");
        let health = flags.health();
        assert!(health.sources[0].refused.is_some(), "{health:?}");
    }
    std::fs::write(&path, &whole).unwrap();
    flags.reload().unwrap();
    assert!(!flags.get(&NEW, &cx));
    assert_eq!(flags.health().sources[0].refused, None);
    std::fs::remove_file(&path).unwrap();
}

#[cfg(unix)]
#[test]
fn a_mounted_config_map_is_followed_through_its_links() {
    let folder = path("configmap");
    drop(std::fs::remove_dir_all(&folder));
    for (version, default) in [("v1", "off"), ("v2", "on")] {
        std::fs::create_dir_all(folder.join(version)).unwrap();
        std::fs::write(folder.join(version).join("flags.json"), file(json!({"new": boolean(default)})))
            .unwrap();
    }
    let link = |target: &str| {
        std::os::unix::fs::symlink(target, folder.join("..fresh")).unwrap();
        std::fs::rename(folder.join("..fresh"), folder.join("..data")).unwrap();
    };
    link("v1");
    std::os::unix::fs::symlink("..data/flags.json", folder.join("flags.json")).unwrap();
    let flags = Flags::builder().source(FileSource::poll(folder.join("flags.json"))).build().unwrap();
    assert!(!flags.get(&NEW, &Context::anonymous()));
    link("v2");
    flags.reload().unwrap();
    assert!(flags.get(&NEW, &Context::anonymous()));
    std::fs::remove_dir_all(&folder).unwrap();
}

#[test]
fn the_file_is_looked_at_without_being_asked() {
    let path = path("poll.json");
    std::fs::write(&path, file(json!({"new": boolean("off")}))).unwrap();
    let every = std::time::Duration::from_millis(10);
    let flags = Flags::builder().source(FileSource::poll(&path).every(every)).build().unwrap();
    let (sender, changes) = std::sync::mpsc::channel();
    let _subscription = flags.subscribe(move |change: &Change| drop(sender.send(change.clone())));
    std::fs::write(&path, file(json!({"new": boolean("on")}))).unwrap();
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
    while !flags.get(&NEW, &Context::anonymous()) {
        assert!(std::time::Instant::now() < deadline, "{:?}", flags.health());
        let _ = changes.recv_timeout(std::time::Duration::from_millis(100));
    }
    std::fs::remove_file(&path).unwrap();
}

#[test]
fn later_sources_count_more_and_code_least() {
    let path = path("layers.json");
    std::fs::write(&path, file(json!({"b": boolean("on")}))).unwrap();
    let flags = Flags::builder()
        .flag(InCode::disabled("a"))
        .flag(InCode::disabled("b"))
        .flag(InCode::disabled("c").users(["ada"]))
        .source(FileSource::poll(&path))
        .build()
        .unwrap();
    flags.apply(&file(json!({"a": boolean("on")}))).unwrap();
    let on = |key: &str, user: &str| flags.snapshot().by_name::<bool>(key, false, &Context::key(user));
    assert!(on("a", "bob") && on("b", "bob"));
    assert!(on("c", "ada") && !on("c", "bob"));
    assert!(matches!(
        Flags::builder().flag(InCode::percentage("a", f64::NAN)).build(),
        Err(LoadError::Setting(_))
    ));
    std::fs::remove_file(&path).unwrap();
}

#[test]
fn a_required_flag_must_be_whole_and_of_its_type() {
    let flags = Flags::builder().require([&NEW, &LIMIT]).build().unwrap();
    let good = json!({"new": boolean("on"), "limit": {"state": "ENABLED", "variants": {"a": 5.0}, "defaultVariant": "a"}});
    flags.apply(&file(good.clone())).unwrap();
    let cx = Context::anonymous();
    assert_eq!(flags.get(&LIMIT, &cx), 5);
    for (change, words) in [
        (json!({"limit": null}), "cannot be evaluated"),
        (
            json!({"limit": {"state": "ENABLED", "variants": {"a": 5.5}, "defaultVariant": "a"}}),
            "cannot use the variant",
        ),
        (
            json!({"new": {"state": "ENABLED", "variants": {"on": "yes"}, "defaultVariant": "on"}}),
            "wants a boolean",
        ),
    ] {
        let mut bad = good.clone();
        bad.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        let error = flags.apply(&file(bad)).unwrap_err();
        assert!(matches!(error, LoadError::Required(_)) && error.to_string().contains(words), "{error}");
        assert_eq!(flags.snapshot().revision(), 1);
    }
}

#[test]
fn one_bad_flag_makes_only_itself_unusable() {
    let deep = format!("{}1{}", "{\"!\":".repeat(500), "}".repeat(500));
    let text = format!(
        r#"{{"metadata": {{"zdm.bucketing": "flagd-v2"}}, "$evaluators": {{"a": {{"$ref": "b"}}, "b": {{"$ref": "a"}}}}, "flags": {{
        "good": {{"state": "ENABLED", "variants": {{"on": true}}, "defaultVariant": "on"}},
        "twice": {{"state": "ENABLED", "variants": {{"on": true, "on": false}}, "defaultVariant": "on"}},
        "default": {{"state": "ENABLED", "variants": {{"on": true}}, "defaultVariant": "no"}},
        "cycle": {{"state": "ENABLED", "variants": {{"on": true}}, "targeting": {{"if": [{{"$ref": "a"}}, "on"]}}}},
        "deep": {{"state": "ENABLED", "variants": {{"on": true}}, "targeting": {deep}}},
        "huge": {{"state": "ENABLED", "variants": {{"on": 1e999}}, "defaultVariant": "on"}},
        "operator": {{"state": "ENABLED", "variants": {{"on": true}}, "targeting": {{"frob~/": 1}}}},
        "weights": {{"state": "ENABLED", "variants": {{"on": true}}, "defaultVariant": "on",
            "targeting": {{"fractional": [["on", 2147483647], ["on", 1]]}}}}
    }}}}"#
    );
    let flags = Flags::from_json(text.as_bytes()).unwrap();
    let f = flags.snapshot();
    let cx = Context::key("ada");
    assert!(f.by_name::<bool>("good", false, &cx));
    let paths: Vec<&str> = f.findings().iter().map(|finding| finding.path.as_str()).collect();
    for (key, path) in [
        ("twice", "/flags/twice/variants/on"),
        ("default", "/flags/default/defaultVariant"),
        ("cycle", "/$evaluators/b/$ref"),
        ("deep", "/flags/deep"),
        ("huge", "/flags/huge"),
        ("operator", "/flags/operator/targeting/frob~0~1"),
    ] {
        let details = f.details_by_name::<bool>(key, false, &cx);
        assert_eq!(details.error, Some(ErrorCode::ParseError), "{key}");
        assert!(details.message.is_some(), "{key}");
        assert!(paths.contains(&path), "{path} in {paths:?}");
    }
    let details = f.details_by_name::<bool>("weights", false, &cx);
    assert_eq!((details.value, details.reason), (true, Reason::Default), "a sum out of range picks nobody");
    assert!(paths.contains(&"/flags/weights/targeting/fractional"));
}

#[test]
fn references_that_double_at_each_step_are_bounded() {
    let mut evaluators = serde_json::Map::new();
    evaluators.insert("e0".to_owned(), json!({"cat": [{"var": "a"}, "x"]}));
    for step in 1..40 {
        let before = json!({"$ref": format!("e{}", step - 1)});
        evaluators.insert(format!("e{step}"), json!({"cat": [before.clone(), before]}));
    }
    let flag = json!({"state": "ENABLED", "variants": {"on": true}, "targeting": {"$ref": "e39"}});
    let text = json!({"$evaluators": evaluators, "flags": {"bomb": flag, "good": boolean("on")}}).to_string();
    let flags = Flags::from_json(text.as_bytes()).unwrap();
    assert!(flags.snapshot().by_name::<bool>("good", false, &Context::anonymous()));
    let details = flags.snapshot().evaluate("bomb", ValueType::Boolean, &Context::anonymous()).error;
    assert_eq!(details, Some(ErrorCode::ParseError));
}

#[test]
fn a_large_file_loads_and_a_larger_one_is_refused() {
    let list: Vec<String> = (0..600_000).map(|number| format!("user-{number:08}")).collect();
    let flag = json!({"state": "ENABLED", "variants": {"on": true, "off": false}, "defaultVariant": "off",
        "targeting": {"if": [{"in": [{"var": "targetingKey"}, list]}, "on"]}});
    let bytes = file(json!({"new": flag}));
    assert!(bytes.len() > 9 << 20);
    let flags = Flags::from_json(&bytes).unwrap();
    assert!(flags.get(&NEW, &Context::key("user-00599999")));
    assert!(!flags.get(&NEW, &Context::key("user-00600000")));
    assert!(matches!(Flags::from_json(&vec![b' '; 65 << 20]), Err(LoadError::Parse { .. })));
}

#[test]
fn requirements_come_first_and_circles_are_refused() {
    let with = |requires: &str| {
        let mut flag = boolean("on");
        flag["metadata"] = json!({"zdm.requires": requires});
        flag
    };
    let flags = Flags::from_json(&file(json!({
        "base": boolean("off"),
        "top": with("base"),
        "exact": with("base=off"),
        "x": with("y"), "y": with("x"),
        "lost": with("nowhere"),
        "wrong": with("base=blue"),
    })))
    .unwrap();
    let f = flags.snapshot();
    let cx = Context::anonymous();
    let details = f.details_by_name::<bool>("top", false, &cx);
    assert_eq!((details.value, details.reason), (false, Reason::Prerequisite));
    assert!(f.by_name::<bool>("exact", false, &cx));
    for key in ["x", "y", "lost", "wrong"] {
        assert_eq!(f.details_by_name::<bool>(key, false, &cx).error, Some(ErrorCode::ParseError), "{key}");
        let path = format!("/flags/{key}/metadata/zdm.requires");
        assert!(f.findings().iter().any(|finding| finding.path == path), "{path}");
    }
    let _base = flags.override_flag("base", true);
    assert!(flags.snapshot().by_name::<bool>("top", false, &cx));
}

#[test]
fn overrides_end_with_their_guards() {
    let flags = Flags::from_json(&file(json!({"new": boolean("off")}))).unwrap();
    let cx = Context::anonymous();
    {
        let _outer = flags.override_flag("new", true);
        let _absent = flags.override_flag("store", Phase::Shadow);
        assert!(flags.get(&NEW, &cx));
        assert_eq!(flags.get(&STORE, &cx), Phase::Shadow);
        assert_eq!(flags.snapshot().details(&NEW, &cx).reason, Reason::Override);
        {
            let _inner = flags.override_flag("new", false);
            assert!(!flags.get(&NEW, &cx));
        }
        assert!(flags.get(&NEW, &cx));
    }
    assert!(!flags.get(&NEW, &cx));
    assert_eq!(flags.get(&STORE, &cx), Phase::Off);
}

#[test]
fn subscribers_hear_what_is_different() {
    let flags = Flags::builder().build().unwrap();
    let heard: Arc<Mutex<Vec<Change>>> = Arc::default();
    let subscription = {
        let heard = Arc::clone(&heard);
        flags.subscribe(move |change| heard.lock().unwrap().push(change.clone()))
    };
    flags.apply(&file(json!({"a": boolean("on"), "b": boolean("on")}))).unwrap();
    // Spaces are no change.
    let spaced =
        String::from_utf8(file(json!({"a": boolean("on"), "c": boolean("on")}))).unwrap().replace(':', " : ");
    flags.apply(spaced.as_bytes()).unwrap();
    flags.apply(&file(json!({"a": boolean("off"), "c": boolean("on")}))).unwrap();
    drop(subscription);
    flags.apply(&file(json!({}))).unwrap();
    let heard = heard.lock().unwrap();
    assert_eq!(heard.len(), 3);
    assert_eq!((heard[0].added.len(), heard[0].changed.len()), (2, 0));
    assert_eq!(heard[1].added, ["c"]);
    assert_eq!(heard[1].removed, ["b"]);
    assert_eq!(heard[1].changed, Vec::<String>::new());
    assert_eq!(heard[2].changed, ["a"]);
}

#[test]
fn growing_a_share_in_the_middle_is_warned_about() {
    let shares = |a: i64, b: i64, c: i64| {
        file(
            json!({"new": {"state": "ENABLED", "variants": {"a": "a", "b": "b", "c": "c"}, "defaultVariant": "a",
            "targeting": {"fractional": [["a", a], ["b", b], ["c", c]]}}}),
        )
    };
    let flags = Flags::from_json(&shares(50, 30, 20)).unwrap();
    let change = flags.apply(&shares(40, 40, 20)).unwrap();
    assert_eq!(change.findings, [], "only subjects between a and b move");
    let change = flags.apply(&shares(30, 40, 30)).unwrap();
    assert_eq!(change.findings.len(), 1, "{:?}", change.findings);
    assert_eq!(change.findings[0].path, "/flags/new/targeting/fractional");
}

#[test]
fn exposures_are_told_once_in_bounded_memory() {
    type Seen = Vec<(String, String, Option<String>)>;
    let seen: Arc<Mutex<Seen>> = Arc::default();
    let observer = {
        let seen = Arc::clone(&seen);
        move |exposure: &zdm_flags::Exposure<'_>| {
            let key = exposure.targeting_key.map(str::to_owned);
            seen.lock().unwrap().push((exposure.flag.to_owned(), exposure.variant.to_owned(), key));
        }
    };
    let flags = Flags::builder().exposures(1 << 16, observer).build().unwrap();
    flags.apply(&file(json!({"new": boolean("on")}))).unwrap();
    for _ in 0..10 {
        for user in ["ada", "grace"] {
            flags.get(&NEW, &Context::key(user));
        }
    }
    let mut seen = seen.lock().unwrap().clone();
    seen.sort();
    let exposure = |user: &str| ("new".to_owned(), "on".to_owned(), Some(user.to_owned()));
    // The two may share a slot, which repeats them; nothing else may be there.
    seen.dedup();
    assert_eq!(seen, [exposure("ada"), exposure("grace")]);
}

#[test]
fn code_and_files_are_compared() {
    let flags = Flags::builder().declare([&NEW, &LIMIT, &STORE]).build().unwrap();
    flags.apply(&file(json!({"new": boolean("on"), "old": boolean("on"), "limit": boolean("on")}))).unwrap();
    let report = flags.report();
    assert_eq!(report.missing, ["store"]);
    assert_eq!(report.undeclared, ["old"]);
    assert_eq!(report.mismatched[0].0, "limit");
}

#[test]
fn a_guard_holds_a_phase_back_at_once() {
    let flags = Flags::from_json(&file(json!({"store": store("shadow")}))).unwrap();
    let cx = Context::key("ada");
    flags.lower_ceiling("store", Phase::DualWrite).unwrap();
    let f = flags.snapshot();
    let details = f.details(&STORE, &cx);
    assert_eq!(
        (details.value, details.reason, details.variant),
        (Phase::DualWrite, Reason::Guard, Some("dualwrite"))
    );
    flags.lower_ceiling("store", Phase::Shadow).unwrap();
    assert_eq!(flags.get(&STORE, &cx), Phase::DualWrite, "a guard only lowers");
    flags.apply(&file(json!({"store": store("shadow"), "new": boolean("on")}))).unwrap();
    assert_eq!(flags.get(&STORE, &cx), Phase::DualWrite, "a new file does not lift it");
    flags.lift_ceiling("store");
    assert_eq!(flags.get(&STORE, &cx), Phase::Shadow);
    assert!(matches!(flags.lower_ceiling("new", Phase::Off), Err(LoadError::Setting(_))));
}

#[test]
fn a_cold_start_takes_the_last_good_copy() {
    let (path, copy) = (path("cold.json"), path("cold.copy"));
    drop(std::fs::remove_file(&copy));
    let start = || Flags::builder().source(FileSource::poll(&path)).last_good(&copy).build();
    std::fs::write(&path, file(json!({"new": boolean("on")}))).unwrap();
    drop(start().unwrap());
    for broken in [None, Some("{\"flags\": ")] {
        match broken {
            None => std::fs::remove_file(&path).unwrap(),
            Some(text) => std::fs::write(&path, text).unwrap(),
        }
        let flags = start().unwrap();
        assert!(flags.get(&NEW, &Context::anonymous()));
        assert!(flags.health().on_last_good && flags.health().sources[0].refused.is_some());
    }
    let mut bytes = std::fs::read(&copy).unwrap();
    let at = bytes.windows(6).position(|window| window == b"ENABLE").unwrap();
    bytes[at] = b'X';
    std::fs::write(&copy, bytes).unwrap();
    assert!(start().is_err(), "a damaged copy is not taken");
    let flags = Flags::builder()
        .source(FileSource::poll(&path))
        .last_good(&copy)
        .start_without_sources()
        .build()
        .unwrap();
    assert!(!flags.get(&NEW, &Context::anonymous()), "the code default");
    assert!(flags.health().last_good_error.unwrap().contains("checksum"));
    std::fs::remove_file(&path).unwrap();
    std::fs::remove_file(&copy).unwrap();
}

#[test]
fn explanations_name_rules_hashes_and_results() {
    let flags =
        Flags::from_json(&file(json!({"new": {"state": "ENABLED", "variants": {"on": true, "off": false},
        "defaultVariant": "off", "targeting": {"if": [{"==": [{"var": "plan"}, "gold"]}, "on",
            {"fractional": [["on", 25], ["off", 75]]}]}}})))
        .unwrap();
    let f = flags.snapshot();
    let explanation = f.explain(&NEW, &Context::key("ada").with("plan", "free"));
    let text = explanation.to_string();
    assert!(text.contains("/flags/new/targeting/if/0/== = false"), "{text}");
    assert!(text.contains("/flags/new/targeting/if/2/fractional: flagd-v2 hash"), "{text}");
    assert_eq!(explanation.moves, None);
}

#[test]
fn a_file_that_is_not_utf_8_is_refused_with_the_byte_and_changes_nothing() {
    let flags = Flags::from_json(&file(json!({"new": boolean("on")}))).unwrap();
    let mut bytes = file(json!({"new": boolean("off")}));
    let at = bytes.len() - 3;
    bytes[at] = 0xFF;
    let refused = chain(&flags.apply(&bytes).unwrap_err());
    assert!(refused.contains(&at.to_string()) && refused.contains("UTF-8"), "{refused}");
    assert!(flags.get(&NEW, &Context::key("ada")), "the last good flags stay");
}

#[test]
fn a_number_that_is_none_is_null_as_in_json() {
    let mut flag = boolean("off");
    flag["targeting"] = json!({"if": [{"===": [{"var": "score"}, null]}, "on", "off"]});
    let flags = Flags::from_json(&file(json!({"new": flag}))).unwrap();
    for score in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
        assert!(flags.get(&NEW, &Context::key("ada").with("score", score)), "{score}");
    }
    assert!(!flags.get(&NEW, &Context::key("ada").with("score", f64::MAX)));
    let refused = Flags::from_json(br#"{"flags": {"new": {"state": "ENABLED", "variants": {"on": NaN}}}}"#);
    assert!(chain(&refused.unwrap_err()).contains("line 1"), "NaN is no JSON");
}

/// An error with everything beneath it.
fn chain(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(source) => format!("{error}: {}", chain(source)),
        None => error.to_string(),
    }
}
