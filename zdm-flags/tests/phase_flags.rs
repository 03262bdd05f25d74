//! Phase flags: only forward, one phase at a time, in every branch and over time.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use proptest::prelude::*;
use serde_json::{Value, json};
use zdm_core::clock::SteadyClock;
use zdm_core::phase::Phase;
use zdm_flags::{Context, ErrorCode, Flags, LoadError, flags};

flags! {
    static STORE: Phase = "store" => Phase::Off;
}

/// 2026-01-01.
const NOW: i64 = 1_767_225_600;

fn engine() -> Flags {
    let clock = SteadyClock::starting_at(u64::try_from(NOW).unwrap() * 1_000);
    Flags::builder().clock(clock).declare([&STORE]).build().unwrap()
}

fn file(targeting: Value, more: Value) -> Vec<u8> {
    let mut metadata = json!({"zdm.kind": "phase"});
    metadata.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let names = ["off", "dualwrite", "shadow", "ramp:10", "ramp:50", "live", "rampdown", "complete"];
    let variants: serde_json::Map<_, _> =
        names.iter().map(|name| ((*name).to_owned(), json!(name))).collect();
    let mut flag =
        json!({"state": "ENABLED", "variants": variants, "defaultVariant": "off", "metadata": metadata});
    if !targeting.is_null() {
        flag["targeting"] = targeting;
    }
    json!({"metadata": {"zdm.bucketing": "flagd-v2"}, "flags": {"store": flag}}).to_string().into_bytes()
}

fn shares(shares: &[(&str, i64)]) -> Value {
    json!({"fractional": shares.iter().map(|(name, weight)| json!([name, weight])).collect::<Vec<_>>()})
}

/// Whether a file may follow another one; the words of the refusal.
fn follows(old: &Value, new: &Value, more: &Value) -> Result<(), String> {
    let flags = engine();
    flags.apply(&file(old.clone(), json!({}))).unwrap();
    match flags.apply(&file(new.clone(), more.clone())) {
        Ok(_) => Ok(()),
        Err(LoadError::Phase(findings)) => {
            Err(findings.iter().map(|one| one.message.clone() + "\n").collect())
        }
        Err(other) => panic!("{other}"),
    }
}

#[test]
fn forward_one_phase_at_a_time() {
    let none = json!({});
    let at = |list: &[(&str, i64)]| shares(list);
    let ok = |old: &Value, new: &Value| follows(old, new, &none).unwrap();
    ok(&json!(null), &at(&[("off", 90), ("dualwrite", 10)]));
    ok(&at(&[("off", 90), ("dualwrite", 10)]), &at(&[("off", 50), ("dualwrite", 50)]));
    ok(&at(&[("off", 50), ("dualwrite", 50)]), &at(&[("off", 40), ("dualwrite", 50), ("shadow", 10)]));
    // Another sum, the same shares.
    ok(&at(&[("off", 50), ("dualwrite", 50)]), &at(&[("off", 1), ("dualwrite", 1)]));
    ok(&at(&[("shadow", 1)]), &at(&[("shadow", 9), ("live", 1)]));

    let no = |old: &Value, new: &Value, word: &str| {
        let refusal = follows(old, new, &none).unwrap_err();
        assert!(refusal.contains(word), "{refusal}");
    };
    no(
        &at(&[("off", 50), ("dualwrite", 50)]),
        &at(&[("off", 51), ("dualwrite", 49)]),
        "back from dualwrite to off",
    );
    no(
        &at(&[("off", 50), ("dualwrite", 50)]),
        &at(&[("off", 40), ("dualwrite", 0), ("shadow", 60)]),
        "jump from off to shadow",
    );
    no(&at(&[("dualwrite", 1)]), &at(&[("live", 1)]), "jump from dualwrite to live");
    no(&at(&[("complete", 1)]), &at(&[("rampdown", 1)]), "new migration");
    // Hashed by something else, everyone may land anywhere.
    let by_mail = json!({"fractional": [{"var": "email"}, ["off", 50], ["dualwrite", 50]]});
    no(&at(&[("off", 50), ("dualwrite", 50)]), &by_mail, "back");

    let rollback = json!({"zdm.rollback": true});
    let (before, after) = (at(&[("dualwrite", 1)]), at(&[("off", 1), ("dualwrite", 1)]));
    follows(&before, &after, &rollback).unwrap();
    follows(&at(&[("complete", 1)]), &at(&[("live", 1)]), &rollback).unwrap_err();
    follows(&at(&[("off", 1)]), &at(&[("shadow", 1)]), &rollback).unwrap_err();
}

#[test]
fn every_branch_is_looked_at() {
    let none = json!({});
    let gold = json!({"==": [{"var": "plan"}, "gold"]});
    let beta = json!({"in": [{"var": "targetingKey"}, ["ada"]]});
    let old = json!({"if": [gold, "dualwrite", "off"]});
    follows(&old, &json!({"if": [gold, "shadow", "dualwrite"]}), &none).unwrap();
    follows(&old, &json!({"if": [gold, "shadow", "shadow"]}), &none).unwrap_err();
    // The same condition further down, and asked twice.
    follows(
        &old,
        &json!({"if": [beta, {"if": [gold, "shadow", "dualwrite"]}, gold, "dualwrite", "off"]}),
        &none,
    )
    .unwrap();
    follows(&old, &json!({"if": [beta, "off", gold, "dualwrite", "off"]}), &none).unwrap_err();
    // Leaving the condition out sends gold subjects back.
    follows(&old, &json!({"if": [beta, "dualwrite", "off"]}), &none).unwrap_err();
    follows(&old, &json!({"if": [{"!!": [true]}, "dualwrite", "dualwrite"]}), &none).unwrap();
}

#[test]
fn a_running_phase_flag_may_not_vanish() {
    let flags = engine();
    flags.apply(&file(shares(&[("dualwrite", 1)]), json!({}))).unwrap();
    let other = br#"{"flags": {}}"#;
    assert!(matches!(flags.apply(other), Err(LoadError::Phase(_))));
    let broken = file(json!({"fractional": [["dualwrite", 1], ["off", 1]]}), json!({}));
    let error = flags.apply(&broken).unwrap_err();
    assert!(error.to_string().contains("order of the phases"), "{error}");
    let off = String::from_utf8(file(shares(&[("dualwrite", 1)]), json!({})))
        .unwrap()
        .replace("ENABLED", "DISABLED");
    assert!(matches!(flags.apply(off.as_bytes()), Err(LoadError::Phase(_))));
    assert_eq!(flags.get(&STORE, &Context::key("ada")), Phase::DualWrite);
}

#[test]
fn what_cannot_be_proved_is_refused() {
    let now = json!({"var": "$flagd.timestamp"});
    for (targeting, words) in [
        (json!({"fractional": [["shadow", 1], ["off", 1]]}), "order"),
        (json!({"fractional": [["off", {"var": "weight"}], ["dualwrite", 1]]}), "must be a whole number"),
        (json!({"fractional": [["nowhere", 1]]}), "name one of its variants"),
        (json!({"if": [{"and": [{">": [now, 5]}, true]}, "off"]}), "by itself"),
        (json!({"cat": ["o", "ff"]}), "chooses its phase with"),
        (json!({"fractional": [{"cat": [now, "x"]}, ["off", 1], ["dualwrite", 1]]}), "hash the time"),
    ] {
        let flags = engine();
        flags.apply(&file(targeting.clone(), json!({}))).unwrap();
        let f = flags.snapshot();
        let cx = Context::key("ada");
        let details = f.details(&STORE, &cx);
        assert_eq!(details.error, Some(ErrorCode::ParseError), "{targeting}");
        assert!(details.message.unwrap().contains(words), "{:?}", details.message);
    }
}

#[test]
fn ramps_move_subjects_forward_over_time_and_explain_when() {
    let flags = engine();
    let ramp =
        "dualwrite: 0% @ 2026-01-01, 100% @ 2026-01-02; shadow: 0% @ 2026-01-02, 50% @ 2026-01-03T00:00:00Z";
    flags.apply(&file(json!(null), json!({"zdm.ramp": ramp}))).unwrap();
    let f = flags.snapshot();
    let users: Vec<String> = (0..500).map(|number| format!("user-{number}")).collect();
    let at = |time: i64, phase: Phase| {
        users.iter().filter(|user| f.get(&STORE, &Context::key(user).at(time)) == phase).count()
    };
    assert_eq!(at(NOW, Phase::Off), 500);
    assert!((200..300).contains(&at(NOW + 43_200, Phase::DualWrite)));
    assert_eq!(at(NOW + 86_400, Phase::DualWrite), 500);
    assert!((200..300).contains(&at(NOW + 10 * 86_400, Phase::Shadow)));
    for user in &users[..50] {
        let (moment, variant) = f.explain(&STORE, &Context::key(user)).moves.unwrap();
        assert_eq!(variant.as_deref(), Some("dualwrite"));
        assert_eq!(f.get(&STORE, &Context::key(user).at(moment - 1)), Phase::Off);
        assert_eq!(f.get(&STORE, &Context::key(user).at(moment)), Phase::DualWrite);
    }
    // The same as weights: nobody is elsewhere.
    let weights = json!({"fractional": [["off", {"-": [NOW + 86_400, {"var": "$flagd.timestamp"}]}],
        ["dualwrite", {"-": [{"var": "$flagd.timestamp"}, NOW]}]]});
    let other = engine();
    other.apply(&file(weights, json!({}))).unwrap();
    let other = other.snapshot();
    for (index, user) in users.iter().enumerate() {
        let time = NOW + 1 + 172 * i64::try_from(index).unwrap();
        let cx = Context::key(user).at(time);
        assert_eq!(f.get(&STORE, &cx), other.get(&STORE, &cx), "{user} at {time}");
    }
}

#[test]
fn schedules_that_go_back_or_jump_are_refused() {
    let now = json!({"var": "$flagd.timestamp"});
    let before = |time: i64| json!({"<": [now, time]});
    let refused = |targeting: Value, ramp: Option<&str>, word: &str| {
        let flags = engine();
        let more = ramp.map_or(json!({}), |ramp| json!({"zdm.ramp": ramp}));
        flags.apply(&file(targeting, more)).unwrap();
        let f = flags.snapshot();
        let cx = Context::key("ada");
        let details = f.details(&STORE, &cx);
        assert_eq!(details.error, Some(ErrorCode::ParseError));
        assert!(details.message.unwrap().contains(word), "{:?}", details.message);
    };
    refused(json!({"if": [before(NOW + 9), "dualwrite", "off"]}), None, "go back from dualwrite to off");
    refused(json!({"if": [before(NOW + 9), "off", "shadow"]}), None, "jump from off to shadow");
    refused(json!(null), Some("dualwrite: 0 @ 2026-01-01, 90 @ 2026-01-02, 10 @ 2026-01-03"), "go back");
    refused(json!(null), Some("shadow: 0 @ 2026-01-01, 90 @ 2026-01-02"), "jump from off to shadow");
}

fn distribution() -> impl Strategy<Value = Vec<(&'static str, i64)>> {
    let names = ["off", "dualwrite", "shadow", "ramp:50", "live", "rampdown", "complete"];
    proptest::collection::vec(0_i64..5, names.len()).prop_map(move |mut weights| {
        if weights.iter().sum::<i64>() == 0 {
            weights[0] = 1;
        }
        names.into_iter().zip(weights).collect()
    })
}

proptest! {
    /// The proof against the truth: what it lets pass moves nobody in a way that is not allowed, and what it
    /// refuses would move somebody so.
    #[test]
    fn the_proof_agrees_with_a_thousand_subjects(old in distribution(), new in distribution()) {
        let flags = engine();
        flags.apply(&file(shares(&old), json!({}))).unwrap();
        let before = flags.snapshot();
        let loose = Flags::from_json(&file(shares(&new), json!({}))).unwrap().snapshot();
        let taken = flags.apply(&file(shares(&new), json!({}))).is_ok();
        let mut allowed = true;
        for number in 0..1_000 {
            let key = format!("user-{number}");
            let cx = Context::key(&key);
            let (was, will_be) = (before.get(&STORE, &cx), loose.get(&STORE, &cx));
            let forward = was == will_be || zdm_core::phase::Move::between(was, will_be).is_ok_and(|planned| {
                use zdm_core::phase::MoveKind::{Abandon, HandBack, StepBack};
                !matches!(planned.kind, Abandon | HandBack | StepBack)
            });
            allowed &= forward;
        }
        // Stretches are at least a 35th of the axis here, so a thousand subjects find each of them.
        prop_assert_eq!(taken, allowed, "{:?} -> {:?}", old, new);
    }
}
