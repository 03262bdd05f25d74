//! Whose directory it is, and in what shape.

use std::fs;

use zdm_core::error::Kind;
use zdm_core::queue::WriteQueue;
use zdm_dualwrite::DiskQueue;

use super::{MIGRATION, Scratch, open_key};

#[tokio::test]
async fn one_owner_at_a_time() {
    let dir = Scratch::new();
    let queue = DiskQueue::open(&dir.0, MIGRATION).unwrap();
    let error = DiskQueue::open(&dir.0, MIGRATION).unwrap_err();
    assert_eq!(error.kind(), Kind::Owned);
    let text = error.to_string();
    let owner = format!("in use by process {}", std::process::id());
    assert!(text.contains(dir.0.to_str().unwrap()) && text.contains(&owner), "{text}");
    drop(queue);
    DiskQueue::open(&dir.0, MIGRATION).unwrap();
}

#[tokio::test]
async fn closing_frees_the_directory_and_ends_the_queue() {
    let dir = Scratch::new();
    let queue = DiskQueue::open(&dir.0, MIGRATION).unwrap();
    let id = open_key(&queue, 1).await;
    queue.close().await.unwrap();
    let again = DiskQueue::open(&dir.0, MIGRATION).unwrap();
    assert_eq!(again.stats().pending(), 1);
    again.close().await.unwrap();
    queue.close().await.unwrap();
    queue.cancel(id);
    let touch = zdm_core::queue::Touch::upsert(&2_u64).encode();
    let refused = queue.open(touch, zdm_core::queue::Epoch(1), super::DIRECTION).await.unwrap_err();
    assert_eq!(refused.kind(), Kind::Stopped);
}

#[test]
fn the_queue_of_another_migration_is_refused() {
    let dir = Scratch::new();
    drop(DiskQueue::open(&dir.0, MIGRATION).unwrap());
    let error = DiskQueue::open(&dir.0, "orders to baskets").unwrap_err();
    assert_eq!(error.kind(), Kind::Invalid);
    let text = error.to_string();
    for part in [dir.0.to_str().unwrap(), MIGRATION, "orders to baskets", "directory of its own"] {
        assert!(text.contains(part), "{text} does not say {part}");
    }
}

#[test]
fn a_newer_format_is_refused() {
    let dir = Scratch::new();
    drop(DiskQueue::open(&dir.0, MIGRATION).unwrap());
    let file = dir.segments().pop().unwrap();
    let mut bytes = fs::read(&file).unwrap();
    bytes[8..12].copy_from_slice(&7_u32.to_le_bytes());
    let sum = crc32fast::hash(&bytes[..12]);
    bytes[12..16].copy_from_slice(&sum.to_le_bytes());
    fs::write(&file, &bytes).unwrap();
    let error = DiskQueue::open(&dir.0, MIGRATION).unwrap_err();
    assert_eq!(error.kind(), Kind::Invalid);
    let text = error.to_string();
    assert!(text.contains(file.to_str().unwrap()) && text.contains("format 7"), "{text}");
    assert_eq!(fs::read(&file).unwrap(), bytes, "nothing was written to it");
}

#[tokio::test]
async fn a_damaged_middle_is_an_error_that_names_the_place() {
    let dir = Scratch::new();
    let queue = DiskQueue::open(&dir.0, MIGRATION).unwrap();
    for key in 0..50 {
        open_key(&queue, key).await;
    }
    let file = dir.segments().pop().unwrap();
    drop(queue);
    let mut bytes = fs::read(&file).unwrap();
    bytes[5000] ^= 4;
    fs::write(&file, &bytes).unwrap();
    let error = DiskQueue::open(&dir.0, MIGRATION).unwrap_err();
    assert_eq!(error.kind(), Kind::Damaged);
    let text = error.to_string();
    for part in [file.to_str().unwrap(), "at byte 4", "restore", "verification"] {
        assert!(text.contains(part), "{text} does not say {part}");
    }
    assert_eq!(fs::read(&file).unwrap(), bytes, "what is damaged is left for a person to look at");
}

#[test]
fn a_directory_that_cannot_be_made_is_named() {
    let dir = Scratch::new();
    fs::create_dir_all(dir.0.parent().unwrap()).unwrap();
    fs::write(&dir.0, "a file").unwrap();
    let error = DiskQueue::open(dir.0.join("queue"), MIGRATION).unwrap_err();
    assert_eq!(error.kind(), Kind::Unavailable);
    assert!(error.to_string().contains(dir.0.to_str().unwrap()), "{error}");
    fs::remove_file(&dir.0).unwrap();
}

#[test]
fn settings_out_of_range_are_named() {
    let dir = Scratch::new();
    let limit = DiskQueue::builder(&dir.0, MIGRATION).limit(0).open().unwrap_err();
    assert!(limit.kind() == Kind::Invalid && limit.to_string().contains("limit"), "{limit}");
    for name in [String::new(), "x".repeat(201)] {
        let error = DiskQueue::open(&dir.0, name).unwrap_err();
        assert!(error.kind() == Kind::Invalid && error.to_string().contains("1 to 200 bytes"), "{error}");
    }
    assert!(!dir.0.exists(), "nothing was made");
}

/// As by a process that was forked from the earlier owner and has not begun its own program yet.
#[tokio::test]
async fn an_owner_that_lets_go_in_a_moment_is_waited_for() {
    let dir = Scratch::new();
    drop(DiskQueue::open(&dir.0, MIGRATION).unwrap());
    let held = std::fs::File::options().read(true).write(true).open(dir.0.join("lock")).unwrap();
    held.lock().unwrap();
    let lets_go = std::thread::spawn(move || {
        std::thread::sleep(std::time::Duration::from_millis(15));
        drop(held);
    });
    DiskQueue::open(&dir.0, MIGRATION).unwrap();
    lets_go.join().unwrap();
}
