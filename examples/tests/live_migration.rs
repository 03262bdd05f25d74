//! The program as a user runs it: whole, with an outage, with a way back, killed again and again, and misused.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::thread::sleep;
use std::time::Duration;

use serde_json::Value;
use zdm_examples::live_migration::options::TemporaryDirectory;

const FIELDS: [&str; 16] = [
    "rows",
    "reads",
    "writes",
    "failed_requests",
    "lost",
    "extra",
    "mismatches",
    "parked",
    "phases",
    "backfill_rows_per_second",
    "p99_ms",
    "handover_pause_ms",
    "verification",
    "verified_rows",
    "verified_differences",
    "seconds",
];
const FORWARD: [&str; 7] = ["Off", "DualWrite", "Shadow", "Ramp", "Live", "RampDown", "Complete"];

fn program(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_live-migration"));
    command.args(arguments).stdin(Stdio::null());
    command
}

fn text(output: &Output) -> String {
    let [out, err] = [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes));
    format!("{}\n{out}\n{err}", output.status)
}

/// Runs to the end and returns the last line of standard output as JSON.
fn run(arguments: &[&str]) -> Value {
    let output = program(arguments).arg("--json").output().unwrap();
    assert!(output.status.success(), "{}", text(&output));
    let out = String::from_utf8(output.stdout.clone()).unwrap();
    let json: Value = serde_json::from_str(out.lines().last().unwrap()).unwrap();
    for name in ["failed_requests", "lost", "extra", "mismatches", "parked"] {
        assert_eq!(json[name], 0, "{name}: {}", text(&output));
    }
    json
}

fn names(json: &Value) -> Vec<&str> {
    json.as_object().unwrap().keys().map(String::as_str).collect()
}

/// Whether both hold the same names, whatever their order.
fn same(found: &[&str], expected: &[&str]) -> bool {
    let sorted = |names: &[&str]| {
        let mut names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
        names.sort();
        names
    };
    sorted(found) == sorted(expected)
}

#[test]
fn a_whole_migration_is_clean_and_reports_every_field() {
    let json = run(&["--rows", "5000", "--writes-per-second", "300", "--readers", "2"]);
    assert!(same(&names(&json), &FIELDS), "{json}");
    assert!(same(&names(&json["phases"]), &FORWARD), "{json}");
    assert_eq!(json["rows"], 5_000);
    assert!(json["reads"].as_u64().unwrap() > 100, "{json}");
    assert!(json["writes"].as_u64().unwrap() > 100, "{json}");
    assert!(json["backfill_rows_per_second"].as_u64().unwrap() > 0, "{json}");
    assert!(json["handover_pause_ms"].as_f64().unwrap() > 0.0, "{json}");
    assert!(json["p99_ms"]["Live"].as_f64().unwrap() > 0.0, "{json}");
}

#[test]
fn an_outage_of_the_new_database_and_the_way_back_lose_nothing() {
    let json = run(&["--rows", "5000", "--writes-per-second", "300", "--outage", "3", "--rollback"]);
    assert!(same(&names(&json["phases"]), &FORWARD[..5]), "{json}");
    assert!(json["phases"]["DualWrite"].as_f64().unwrap() > 3.0, "the outage is over before Shadow: {json}");
}

#[test]
fn killed_again_and_again_it_resumes_and_ends_clean() {
    let dir = TemporaryDirectory::create().unwrap();
    let path = dir.path().to_str().unwrap();
    let arguments = ["--dir", path, "--rows", "20000", "--writes-per-second", "400"];
    let mut random = fastrand::Rng::with_seed(11);
    for round in 0..6 {
        let mut child = program(&arguments).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        // A child that was killed while it loaded starts over, so the first one is given the time to load.
        // After a kill, writes of unknown outcome settle for six seconds, so some are given the time to get further.
        let least = [1_500, 300, 7_000, 300, 9_000, 300][round];
        sleep(Duration::from_millis(least + random.u64(0..2_500)));
        child.kill().unwrap();
        child.wait().unwrap();
    }
    let json = run(&["--dir", path, "--writes-per-second", "400"]);
    assert_eq!(json["rows"], 20_000, "what was loaded in the first run is what is checked");

    // A migration that is complete stays complete, and is checked again.
    let again = run(&["--dir", path]);
    assert_eq!(again["rows"], 20_000);
    let other = program(&["--dir", path, "--rows", "10"]).output().unwrap();
    assert_eq!(other.status.code(), Some(1), "{}", text(&other));
    assert!(text(&other).contains("20000"), "{}", text(&other));
    damaged_rows_are_found(dir.path());
}

/// The exit status speaks up when a row is taken away behind the program's back.
fn damaged_rows_are_found(dir: &Path) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        use sqlx::{ConnectOptions, Connection};
        let options = zdm_examples::live_migration::load::connect_options(&dir.join("new.db"));
        let mut database = options.connect().await.unwrap();
        let sql = "DELETE FROM departures WHERE flight_id IN (SELECT min(flight_id) FROM departures)";
        sqlx::query(sql).execute(&mut database).await.unwrap();
        database.close().await.unwrap();
    });
    let output = program(&["--dir", dir.to_str().unwrap(), "--json"]).output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", text(&output));
    assert!(text(&output).contains("\"lost\":1"), "{}", text(&output));
}

#[test]
fn a_wrong_command_line_ends_with_status_2_and_says_why() {
    for (arguments, expected) in [
        (["--rows", "0"], "--rows takes a number from 1 to 336776, not '0'"),
        (["--outrage", "3"], "unknown option --outrage"),
    ] {
        let output = program(&arguments).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{}", text(&output));
        assert!(String::from_utf8_lossy(&output.stderr).contains(expected), "{}", text(&output));
    }
    let help = program(&["--help"]).output().unwrap();
    assert!(help.status.success() && text(&help).contains("--writes-per-second"), "{}", text(&help));
}

#[test]
fn a_directory_that_cannot_be_used_is_named() {
    let dir = TemporaryDirectory::create().unwrap();
    let file = dir.path().join("file");
    std::fs::write(&file, "text").unwrap();
    let output = program(&["--dir", file.to_str().unwrap()]).output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", text(&output));
    assert!(text(&output).contains(file.to_str().unwrap()), "{}", text(&output));
}
