//! Tables in files.

use std::process::Stdio;
use std::thread::sleep;
use std::time::Duration;

use crate::support::{chinook, execute, files, installed, program, refused, run, sqlite, text, told};

#[test]
fn all_tables_of_a_shop_move_with_their_references_and_go_back() {
    let (dir, _, new) = files();
    let old = chinook(dir.path());
    let kept = dir.path().join("kept");
    let kept = kept.to_str().unwrap();
    let arguments = ["--old", &old, "--new", &sqlite(&new), "--create", "--dir", kept, "--rollback"];
    let json = run(&[&arguments[..], &["--writes-per-second", "200", "--outage", "2"]].concat());
    assert_eq!(json["rows"], 15_607);
    assert!(json["writes"].as_u64().unwrap() > 200, "{json}");
    assert!(json["phases"].get("Live").is_some() && json["phases"].get("Complete").is_none(), "{json}");
    assert!(json["handover_pause_ms"].as_f64().unwrap() > 0.0, "{json}");

    // The proof finds what is taken away, added and changed behind the program's back.
    execute(
        &new,
        "DELETE FROM Genre WHERE GenreId = 3; INSERT INTO MediaType VALUES (777, 'x'); \
                   UPDATE Playlist SET Name = Name || '?' WHERE PlaylistId = 5",
    );
    let output = program(&[&arguments[..], &["--json"]].concat()).output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", text(&output));
    let out = text(&output);
    assert!(out.contains("\"lost\":1,") && out.contains("\"extra\":1,"), "{out}");
    assert!(
        out.contains("\"mismatches\":1,") && out.contains("Genre [\"3\"] is lost in the new database"),
        "{out}"
    );
}

#[test]
fn killed_again_and_again_the_tables_arrive_all_the_same() {
    let (dir, _, new) = files();
    let (old, new) = (chinook(dir.path()), sqlite(&new));
    let kept = dir.path().join("kept");
    let arguments = ["--old", &old, "--new", &new, "--create", "--dir", kept.to_str().unwrap()];
    let mut random = fastrand::Rng::with_seed(5);
    for least in [100, 1_500, 8_000, 8_000] {
        let mut child = program(&arguments).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        sleep(Duration::from_millis(least + random.u64(0..2_000)));
        child.kill().unwrap();
        child.wait().unwrap();
    }
    let json = run(&arguments);
    assert_eq!(json["rows"], 15_607);
}

#[test]
fn tables_of_every_shape_move() {
    let (_dir, old, new) = files();
    execute(
        &old,
        "CREATE TABLE node (id INTEGER PRIMARY KEY, up INTEGER REFERENCES node, name TEXT NOT NULL UNIQUE); \
         INSERT INTO node VALUES (9, NULL, 'root'), (1, 9, 'a'), (2, 1, 'b'); \
         CREATE TABLE \"odd \"\"name\" (\"the key\" TEXT PRIMARY KEY NOT NULL, at DATETIME, day DATE, doc JSON_TEXT, \
         price DECIMAL(10,2), raw BLOB, code UUID, yes BOOLEAN, ratio REAL, any, double INTEGER AS (ratio * 2)); \
         INSERT INTO \"odd \"\"name\" VALUES ('x', '2021-01-01 00:00:00', '2021-01-01', '{\"b\":1,\"a\":2}', 0.1, x'00', \
         '00000000-0000-0000-0000-00000000000a', 1, 0.1, 7), ('y', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, 'text'); \
         CREATE TABLE left_one (a INTEGER NOT NULL, b TEXT NOT NULL, other INTEGER REFERENCES right_one, PRIMARY KEY (a, b)); \
         CREATE TABLE right_one (id INTEGER PRIMARY KEY, a INTEGER, b TEXT, FOREIGN KEY (a, b) REFERENCES left_one); \
         INSERT INTO left_one VALUES (1, 'x', NULL), (2, 'y', 1); INSERT INTO right_one VALUES (1, 1, 'x'), (2, 2, 'y'); \
         CREATE TABLE empty (id INTEGER PRIMARY KEY, v INTEGER)",
    );
    let json =
        run(&["--old", &sqlite(&old), "--new", &sqlite(&new), "--create", "--writes-per-second", "300"]);
    assert_eq!(json["rows"], 9);
    assert!(json["writes"].as_u64().unwrap() > 300, "{json}");
}

#[test]
fn what_zdm_has_installed_goes_when_the_migration_is_over_and_nothing_else_does() {
    let (dir, old, new) = files();
    execute(&old, "CREATE TABLE t (id INTEGER PRIMARY KEY, v TEXT); INSERT INTO t VALUES (1, 'a'), (2, 'b')");
    let (from, to) = (sqlite(&old), sqlite(&new));
    let kept = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let arguments = |to: &str, name: &str, more: &[&str]| {
        let own =
            ["--old", &from, "--new", to, "--create", "--dir", &kept(name), "--writes-per-second", "50"];
        own.iter().chain(more).map(|word| (*word).to_owned()).collect::<Vec<_>>()
    };
    let run = |arguments: Vec<String>| told(&arguments.iter().map(String::as_str).collect::<Vec<_>>());

    // Not finished: the old database is in charge again.
    run(arguments(&to, "one", &["--rollback"]));
    assert!(installed(&old) > 0 && installed(&new) > 0);
    // Gone on with to the end, and run once more.
    run(arguments(&to, "one", &[]));
    assert_eq!((installed(&old), installed(&new)), (0, 0));
    let (again, _) = run(arguments(&to, "one", &[]));
    assert_eq!((again["rows"].as_u64(), again["writes"].as_u64()), (Some(2), Some(0)));
    assert_eq!((installed(&old), installed(&new)), (0, 0));

    // Another migration keeps stamps in the old database, and in the third there was something before.
    let third = dir.path().join("third.db");
    execute(&third, "CREATE TABLE zdm_schema (version INTEGER PRIMARY KEY)");
    let mut child =
        program(&arguments(&sqlite(&third), "two", &[]).iter().map(String::as_str).collect::<Vec<_>>());
    let mut child = child.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    while installed(&old) == 0 {
        assert!(child.try_wait().unwrap().is_none(), "it ended before it began");
        sleep(Duration::from_millis(20));
    }
    sleep(Duration::from_millis(100));
    execute(&old, "INSERT INTO zdm_fence VALUES ('elsewhere', 7)");
    assert!(child.wait().unwrap().success());
    assert!(installed(&old) > 0 && installed(&third) > 0);
    let (_, told) = run(arguments(&sqlite(&third), "two", &[]));
    assert!(told.contains("tables of the old database stay: they hold elsewhere"), "{told}");
    assert!(told.contains("tables of the new database stay: they were there before"), "{told}");
}

#[test]
fn tables_that_refer_to_each_other_in_a_circle_move_without_the_reference_that_closes_it() {
    let (dir, old, new) = files();
    const CIRCLE: &str = "CREATE TABLE a (id INTEGER PRIMARY KEY, b INTEGER REFERENCES b (id)); \
                          CREATE TABLE b (id INTEGER PRIMARY KEY, a INTEGER REFERENCES a (id));";
    execute(&old, CIRCLE);
    execute(
        &old,
        "PRAGMA foreign_keys = off; INSERT INTO a VALUES (1, 1), (2, 2); INSERT INTO b VALUES (1, 2), (2, 1)",
    );
    let (from, to) = (sqlite(&old), sqlite(&new));
    let both = ["--old", &from, "--new", &to, "--writes-per-second", "50"];
    let (json, told) = told(&[&both[..], &["--create"]].concat());
    assert_eq!(json["parked"], 0);
    assert!(told.contains("(b) to b closes a circle") || told.contains("(a) to a closes a circle"), "{told}");

    let third = dir.path().join("third.db");
    execute(&third, CIRCLE);
    let to = sqlite(&third);
    refused(&["--old", &from, "--new", &to], &["closes a circle", "drop it"]);
}

#[test]
fn what_cannot_move_is_refused_before_anything_is_touched() {
    let (dir, old, new) = files();
    execute(
        &old,
        "CREATE TABLE good (id INTEGER PRIMARY KEY, day DATE); CREATE TABLE bare (a, b); \
         INSERT INTO good VALUES (1, '2021-01-01')",
    );
    let (from, to) = (sqlite(&old), sqlite(&new));
    let both = ["--old", &from, "--new", &to];
    let with = |more: &[&'static str]| [&both[..], more].concat();
    refused(&with(&["--create"]), &["bare", "no key", "add one"]);
    refused(&with(&["--table", "missing"]), &["no table missing", "bare, good"]);
    assert!(!new.exists(), "the new side is created when the old one is known to be fit");
    refused(&with(&["--table", "good"]), &["new.db cannot be opened"]);
    execute(&new, "CREATE TABLE good (id INTEGER PRIMARY KEY, day BLOB, must TEXT NOT NULL)");
    refused(&with(&["--table", "good"]), &["table good", "column day", "must is NOT NULL"]);
    refused(&with(&["--table", "good", "--create"]), &["table good already", "leave out --create"]);
    execute(
        &new,
        "DROP TABLE good; CREATE TABLE good (id INTEGER PRIMARY KEY, day DATE); INSERT INTO good VALUES (5, NULL)",
    );
    refused(&with(&["--table", "good"]), &["table good of the new database holds rows", "empty it"]);
    let link = dir.path().join(".").join("old.db");
    refused(&["--old", &from, "--new", &sqlite(&link), "--table", "good"], &["are the same database"]);
}
