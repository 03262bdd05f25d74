//! `kill -9` at random moments: what was acknowledged is there afterwards, on both sides.
//!
//! The test starts itself as a child process that writes through `DualWrite` with a `DiskQueue` and two
//! SQLite files, and says on its standard output what it is about to write and what was acknowledged.
//! After each kill the next child goes on in the same folder. At the end one child drains.

#![expect(clippy::unwrap_used, reason = "a test that fails panics")]

mod child;

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use sqlx::{Connection, Row};

const ROUNDS: u64 = 30;

/// The operations of one key, which one writer numbers upwards.
#[derive(Debug, Default)]
struct Told {
    acknowledged: u64,
    attempted: u64,
}

fn start(folder: &Path, mode: &str, base: u64) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child::child", "--nocapture", "--test-threads=1"])
        .env(child::FOLDER, folder)
        .env(child::MODE, mode)
        .env(child::BASE, base.to_string())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()
        .unwrap()
}

/// Lets a child write for a while, kills it, and takes down what it said.
fn round(folder: &Path, base: u64, lifetime: Duration, told: &mut BTreeMap<i64, Told>) -> u64 {
    let mut process = start(folder, "write", base);
    let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
    // The test harness has begun the line already.
    let ready = lines.by_ref().map_while(Result::ok).any(|line| line.ends_with("ready"));
    assert!(ready, "the child did not start after a kill");
    let killer = std::thread::spawn(move || {
        std::thread::sleep(lifetime);
        process.kill().unwrap();
        process.wait().unwrap();
    });
    let mut acknowledged = 0;
    // A line that the kill has cut short does not parse and counts as not said.
    for line in lines.map_while(Result::ok) {
        let words: Vec<&str> = line.split(' ').collect();
        let [word, key, number, "."] = words[..] else { continue };
        let (Ok(key), Ok(number)) = (key.parse(), number.parse()) else { continue };
        let of_key = told.entry(key).or_default();
        match word {
            "try" => of_key.attempted = number,
            "ack" => {
                of_key.acknowledged = number;
                acknowledged += 1;
            }
            _ => {}
        }
    }
    killer.join().unwrap();
    acknowledged
}

/// What a file holds, read without the library.
async fn rows(file: PathBuf, sql: &'static str) -> BTreeMap<i64, i64> {
    let options = SqliteConnectOptions::new().filename(file);
    let mut connection = SqliteConnection::connect_with(&options).await.unwrap();
    let rows = sqlx::query(sql).fetch_all(&mut connection).await.unwrap();
    rows.iter().map(|row| (row.get(0), row.get(1))).collect()
}

#[test]
fn nothing_acknowledged_is_missing_after_kills() {
    let folder = std::env::temp_dir().join(format!("zdm-crash-{}", std::process::id()));
    drop(std::fs::remove_dir_all(&folder));
    std::fs::create_dir_all(&folder).unwrap();
    let seed = std::env::var("ZDM_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = seed.unwrap_or_else(|| fastrand::u64(..));
    println!("ZDM_SEED={seed} repeats the lifetimes of this run");
    let mut random = fastrand::Rng::with_seed(seed);

    let mut told = BTreeMap::new();
    let mut acknowledged = 0;
    for round_number in 0..ROUNDS {
        let lifetime = Duration::from_millis(random.u64(1..250));
        acknowledged += round(&folder, (round_number + 1) * 1_000_000, lifetime, &mut told);
    }
    assert!(acknowledged > 1_000, "only {acknowledged} writes were acknowledged in {ROUNDS} rounds");

    let mut drain = start(&folder, "drain", 0);
    assert!(drain.wait().unwrap().success(), "the last child could not drain");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (old, new) = runtime.block_on(async {
        let old = rows(folder.join("old.db"), "SELECT id, number FROM items").await;
        let new = rows(folder.join("new.db"), "SELECT item_id, CAST(n AS INTEGER) FROM things").await;
        (old, new)
    });
    assert_eq!(old, new, "the stores differ after draining");
    for (key, Told { acknowledged, attempted }) in &told {
        // What was attempted after the last acknowledgement may have happened or not.
        let possible =
            |number: u64| number == *acknowledged || (number > *acknowledged && number <= *attempted);
        match old.get(key) {
            Some(number) => {
                let number = number.cast_unsigned();
                assert!(
                    possible(number) && !child::deletes(number),
                    "key {key}: {number}, told {acknowledged}..{attempted}"
                );
            }
            None => {
                let gone = (*acknowledged..=*attempted).any(|number| number == 0 || child::deletes(number));
                assert!(gone, "key {key} is missing, told {acknowledged}..{attempted}");
            }
        }
    }
    std::fs::remove_dir_all(folder).unwrap();
}
