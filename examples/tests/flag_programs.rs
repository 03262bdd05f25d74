//! The flag programs, run as programs; and the service, reloaded under requests.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::Write as _;
use std::process::{Command, Output, Stdio};

use axum::body::{Body, to_bytes};
use axum::http::Request;
use serde_json::{Value, json};
use tower::ServiceExt as _;
use zdm_examples::flags::service;
use zdm_flags::Flags;

const FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/data/flags/orders.json");

fn run(program: &str, args: &[&str], input: &str) -> Output {
    let mut child = Command::new(program)
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    child.wait_with_output().unwrap()
}

#[test]
fn cases_are_evaluated_in_order() {
    let cases = [
        json!({"key": "new-pricing", "type": "Boolean", "default": false, "targetingKey": "tenant-1"}),
        json!({"key": "orders-store", "type": "string", "default": "off", "targetingKey": "tenant-2", "context": {"a": 1}}),
        json!({"key": "nowhere", "type": "Integer", "default": 7}),
        json!({"key": "new-pricing", "type": "Object", "default": {}}),
    ];
    let input: String = cases.iter().map(|case| format!("{case}\n")).collect();
    let program = env!("CARGO_BIN_EXE_evaluate-flags");
    let output = run(program, &["--flags", FILE, "--now", "1767225600", "--explain"], &input);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let lines: Vec<Value> = String::from_utf8(output.stdout)
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(lines.len(), 4);
    assert_eq!((&lines[0]["value"], &lines[0]["reason"]), (&json!(true), &json!("TARGETING_MATCH")));
    assert_eq!((&lines[1]["value"], &lines[1]["variant"]), (&json!("shadow"), &json!("shadow")));
    assert_eq!((&lines[2]["value"], &lines[2]["errorCode"]), (&json!(7), &json!("FLAG_NOT_FOUND")));
    assert_eq!((&lines[3]["value"], &lines[3]["errorCode"]), (&json!({}), &json!("TYPE_MISMATCH")));
    assert_eq!(lines[0]["metadata"]["flagSetId"], "orders");
    assert!(lines[0]["explain"].as_array().unwrap().len() > 1);

    let output = run(program, &["--flags", FILE], "{\"key\": 1}\n");
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8(output.stderr).unwrap().contains("line 1"));
}

#[test]
fn help_is_printed() {
    for program in [env!("CARGO_BIN_EXE_evaluate-flags"), env!("CARGO_BIN_EXE_compare-flags")] {
        let output = run(program, &["--help"], "");
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success() && text.contains("--bucketing"), "{text}");
    }
}

#[test]
fn the_linter_exits_with_1_on_errors() {
    let program = env!("CARGO_BIN_EXE_evaluate-flags");
    let output = run(program, &["--flags", FILE, "--lint"], "");
    assert_eq!((output.status.code(), output.stdout.as_slice()), (Some(0), b"".as_slice()));
    let bad = std::env::temp_dir().join(format!("zdm-examples-lint-{}.json", std::process::id()));
    std::fs::write(&bad, r#"{"flags": {"a": {"state": "ON", "variants": {"on": true}}}}"#).unwrap();
    let output = run(program, &["--flags", bad.to_str().unwrap(), "--lint"], "");
    std::fs::remove_file(&bad).unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8(output.stdout).unwrap().contains("/flags/a/state"));
}

#[test]
fn two_files_are_compared() {
    let changed = std::fs::read_to_string(FILE)
        .unwrap()
        .replace("[\"on\", 25], [\"off\", 75]", "[\"on\", 50], [\"off\", 50]");
    let path = std::env::temp_dir().join(format!("zdm-examples-compare-{}.json", std::process::id()));
    std::fs::write(&path, changed).unwrap();
    let program = env!("CARGO_BIN_EXE_compare-flags");
    let output = run(program, &[FILE, path.to_str().unwrap(), "--sample", "4000", "--max-moved", "10"], "");
    std::fs::remove_file(&path).unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("orders-store: 0 of 4000 subjects move"), "{text}");
    assert!(text.contains("from off to on") && !text.contains("from on to off"), "{text}");
}

/// A file in which two flags carry the same number. A request that saw two files would see two numbers.
fn numbered(number: i64) -> Vec<u8> {
    let text = std::fs::read_to_string(FILE).unwrap();
    text.replace("\"current\": 1", &format!("\"current\": {number}")).into_bytes()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_reloads_under_requests_show_no_torn_read() {
    let flags = Flags::builder().require([&service::ORDERS_STORE, &service::NEW_PRICING]).build().unwrap();
    flags.apply(&numbered(0)).unwrap();
    let router = service::router(flags.clone());
    let reloads = tokio::task::spawn_blocking(move || {
        for number in 1..=1_000 {
            flags.apply(&numbered(number)).unwrap();
            // Every tenth one is broken, and must change nothing.
            if number % 10 == 0 {
                let whole = numbered(-1);
                flags.apply(&whole[..whole.len() / 2]).unwrap_err();
            }
        }
    });
    let (mut requests, mut last, mut seen) = (0, 0, std::collections::BTreeSet::new());
    while !reloads.is_finished() || requests < 1_000 {
        let request = Request::get(format!("/orders/tenant-{}", requests % 50)).body(Body::empty()).unwrap();
        let answer = router.clone().oneshot(request).await.unwrap();
        assert_eq!(answer.status(), 200);
        let body: Value =
            serde_json::from_slice(&to_bytes(answer.into_body(), 10_000).await.unwrap()).unwrap();
        assert_eq!(body["priceList"], body["priceListTax"], "{body}");
        let number = body["priceList"].as_i64().unwrap();
        assert!(number >= last, "{number} after {last}");
        last = number;
        seen.insert(number);
        requests += 1;
    }
    reloads.await.unwrap();
    assert!(seen.len() > 10, "the requests ran during the reloads: {}", seen.len());
}
