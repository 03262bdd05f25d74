//! `kill -9`: whatever a writer was told is there afterwards.

use std::collections::HashSet;
use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::Duration;

use zdm_core::queue::{EntryState, WriteQueue};
use zdm_dualwrite::{DiskQueue, Durability};

use super::{DIRECTION, MIGRATION, Scratch, open_key};

const DIR: &str = "ZDM_TEST_QUEUE_DIR";
const DURABILITY: &str = "ZDM_TEST_QUEUE_DURABILITY";
const ROUNDS: u32 = 15;

fn durability(name: &str) -> Durability {
    if name == "process" { Durability::Process } else { Durability::Power }
}

/// The process that is killed. Prints `+id` after an entry is acknowledged and `-id` before it is resolved.
/// Does nothing unless the test below has started it.
#[test]
fn child() {
    let (Ok(dir), Ok(name)) = (std::env::var(DIR), std::env::var(DURABILITY)) else { return };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let queue = DiskQueue::builder(dir, MIGRATION).durability(durability(&name)).open().unwrap();
        let queue = Arc::new(queue);
        queue.recover(Duration::ZERO).await.unwrap();
        for writer in 0..8_u64 {
            let queue = Arc::clone(&queue);
            tokio::spawn(async move {
                for count in 0.. {
                    let id = open_key(&queue, writer << 32 | count).await;
                    say(&format!("+{}", id.0));
                    queue.release(id, None);
                }
            });
        }
        loop {
            if let Some(claim) = queue.claim(DIRECTION, 20).await.unwrap() {
                let lines: Vec<_> = claim.ids().iter().map(|id| format!("-{}", id.0)).collect();
                say(&lines.join("\n"));
                queue.ack(&claim.ids());
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    });
}

fn say(text: &str) {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{text}").unwrap();
    out.flush().unwrap();
}

fn killed_again_and_again(name: &str) {
    let dir = Scratch::new();
    let mut pending = HashSet::new();
    for round in 0..ROUNDS {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["kill::child", "--exact", "--nocapture"])
            .env(DIR, &dir.0)
            .env(DURABILITY, name)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut output = BufReader::new(child.stdout.take().unwrap());
        let (begun, has_begun) = channel();
        let reader = std::thread::spawn(move || {
            let mut text = String::new();
            while output.read_line(&mut text).unwrap() > 0 {
                let _ = begun.send(());
            }
            text
        });
        // The test harness has three lines of its own to say.
        (0..10).for_each(|_| has_begun.recv().unwrap());
        std::thread::sleep(Duration::from_millis(u64::from(round * 37 % 150)));
        child.kill().unwrap();
        child.wait().unwrap();
        let mut acknowledged = 0;
        let said = reader.join().unwrap();
        // The last line may be cut short.
        let whole = said.rsplit_once('\n').map_or("", |(whole, _)| whole);
        for line in whole.lines() {
            match line.split_at_checked(1) {
                Some(("+", id)) => {
                    acknowledged += 1;
                    pending.insert(id.to_owned());
                }
                Some(("-", id)) => drop(pending.remove(id)),
                _ => {}
            }
        }
        assert!(acknowledged > 0, "the child did nothing");

        let queue = DiskQueue::builder(&dir.0, MIGRATION).durability(durability(name)).open().unwrap();
        let found: HashSet<String> = queue
            .entries(EntryState::Released, usize::MAX)
            .iter()
            .map(|entry| entry.id.0.to_string())
            .collect();
        let lost: Vec<_> = pending.difference(&found).collect();
        assert!(lost.is_empty(), "round {round} lost {lost:?}");
        assert!(queue.taints().is_empty(), "a killed process is no power loss");
        // What came back although it was resolved is harmless, and is pending from now on.
        pending = found;
    }
}

#[test]
fn entries_survive_kill_9_when_synced_before() {
    killed_again_and_again("power");
}

#[test]
fn entries_survive_kill_9_when_synced_in_the_background() {
    killed_again_and_again("process");
}
