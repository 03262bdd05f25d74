//! The public table of the six stages of migration flags: which stores a read or a write calls in each stage.
//!
//! What is different here, on purpose, and what each row is checked for instead:
//!
//! - The second write of a stage is not part of the request: an entry in the queue carries it out. So the order
//!   is the primary first, and the secondary gets its write once the queue has drained.
//! - A comparison runs beside the read and never holds it up. So the second store is asked after the answer.

#![expect(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "a test that fails panics, one that is left out says so"
)]

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;
use zdm_core::phase::{MemoryCoordinator, Phase, Side};
use zdm_core::store::{MemoryStore, Store};
use zdm_core::testkit::{Call, CallLog, FaultyStore, Step};
use zdm_dualwrite::{DualWrite, Settings};

#[derive(Deserialize)]
struct Table {
    rows: Vec<Row>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Row {
    operation: String,
    stage: String,
    origins_in_order: Vec<String>,
    authoritative: String,
    compare: bool,
}

/// The folder of the public suites. Without it the test is left out, which is an error in CI.
fn suites() -> Option<PathBuf> {
    let folder = std::env::var_os("ZDM_CONFORMANCE").map(PathBuf::from).filter(|folder| folder.is_dir());
    if folder.is_none() {
        assert!(
            std::env::var_os("CI").is_none(),
            "ZDM_CONFORMANCE must name the folder of the public suites"
        );
        eprintln!("left out: ZDM_CONFORMANCE names no folder of public suites");
    }
    folder
}

fn phase(stage: &str) -> Phase {
    match stage {
        "off" => Phase::Off,
        "dualwrite" => Phase::DualWrite,
        "shadow" => Phase::Shadow,
        "live" => Phase::Live,
        "rampdown" => Phase::RampDown,
        "complete" => Phase::Complete,
        other => panic!("the table has a stage {other}"),
    }
}

const RECORDS: [(&str, &str); 2] = [("old", "from old"), ("new", "from new")];

/// Carries out the operation in its stage. Returns which stores were called in which order, the answer of a
/// read, and how many comparisons were made.
async fn play(row: &Row) -> (Vec<String>, Option<String>, u64) {
    let log = CallLog::new();
    let mut sides = HashMap::new();
    for (name, record) in RECORDS {
        let memory = MemoryStore::<u64, String>::new();
        memory.put(&1, &record.to_owned()).await.unwrap();
        sides.insert(name, Arc::new(FaultyStore::new(memory).logging(name, log.clone())));
    }
    let mut settings = Settings::default();
    settings.shadow.sample = 1.0;
    let users = DualWrite::builder(Arc::clone(&sides["old"]), Arc::clone(&sides["new"]))
        .coordinator(Arc::new(MemoryCoordinator::starting_in(phase(&row.stage))))
        .settings(settings)
        .start()
        .await
        .unwrap();
    log.clear();
    let mut answer = None;
    let calls: fn(Call) -> bool = match row.operation.as_str() {
        "read" => {
            answer = users.get(&1).await.unwrap();
            |call| matches!(call, Call::Get | Call::GetMany)
        }
        "write" => {
            users.put(&1, &"written".to_owned()).await.unwrap();
            Call::writes
        }
        other => panic!("the table has an operation {other}"),
    };
    users.drained().await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    let mut origins: Vec<String> = Vec::new();
    for line in log.steps(Step::TookEffect).into_iter().filter(|line| calls(line.call)) {
        if !origins.contains(&line.store.to_owned()) {
            origins.push(line.store.to_owned());
        }
    }
    (origins, answer, users.shadow_counts().compared)
}

#[tokio::test(start_paused = true)]
async fn reads_and_writes_call_the_stores_of_each_stage() {
    let Some(folder) = suites() else { return };
    let text =
        std::fs::read_to_string(folder.join("launchdarkly-stages/migration_stage_table.json")).unwrap();
    let table: Table = serde_json::from_str(&text).unwrap();
    for row in &table.rows {
        let (origins, answer, compared) = play(row).await;
        assert_eq!(origins, row.origins_in_order, "{row:?}");
        assert_eq!(compared, u64::from(row.compare), "{row:?}");
        let (_, record) = RECORDS.iter().find(|(name, _)| *name == row.authoritative).unwrap();
        if row.operation == "read" {
            assert_eq!(answer.as_deref(), Some(*record), "{row:?}");
        } else {
            assert_eq!(origins[0], row.authoritative, "{row:?}");
            let primary = if row.authoritative == "old" { Side::Old } else { Side::New };
            assert_eq!(phase(&row.stage).routing().primary, primary, "{row:?}");
        }
    }
    assert_eq!(table.rows.len(), 12);
}
