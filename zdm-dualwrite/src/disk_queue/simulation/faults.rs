//! Single faults, told step by step.

use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use zdm_core::clock::SystemClock;
use zdm_core::error::{Certainty, Kind, Result};
use zdm_core::queue::{Direction, EntryId, EntryState, Epoch, Touch, WriteQueue};

use super::disk::SimulatedDisk;
use crate::disk_queue::commit::CommitLoop;
use crate::disk_queue::journal::{Opening, Session};
use crate::disk_queue::{DiskQueue, DiskQueueBuilder, Durability};

fn start(
    disk: &SimulatedDisk,
    durability: Durability,
    boot: u8,
) -> Result<(DiskQueue, CommitLoop<SimulatedDisk>)> {
    let settings = DiskQueueBuilder::new("/queue".into(), "a to b".to_owned())
        .durability(durability)
        .clock(Arc::new(SystemClock));
    let session = Session { boot: [boot; 16], unsynced: durability == Durability::Process, closed: false };
    let mut sizes = settings.journal_settings(session)?;
    (sizes.first_segment, sizes.largest_segment) = (8 << 10, 8 << 10);
    DiskQueue::from_journal(Opening::read(disk.clone(), sizes)?, settings)
}

fn put(queue: &DiskQueue, commit: &mut CommitLoop<SimulatedDisk>, key: u64) -> Result<EntryId> {
    let mut call = queue.open(Touch::upsert(&key).encode(), Epoch(1), Direction::OldToNew);
    loop {
        if let Poll::Ready(result) = call.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            return result;
        }
        commit.step();
    }
}

fn keys(queue: &DiskQueue) -> usize {
    queue.entries(EntryState::Released, usize::MAX).len()
}

#[test]
fn a_full_disk_refuses_what_is_at_hand_and_nothing_else() {
    let disk = SimulatedDisk::without_chance();
    let (queue, mut commit) = start(&disk, Durability::Power, 1).unwrap();
    for key in 0..20 {
        put(&queue, &mut commit, key).unwrap();
    }
    disk.set_full(true);
    let mut stored = 20;
    // What still fits into the segment is taken.
    let error = loop {
        match put(&queue, &mut commit, stored) {
            Ok(_) => stored += 1,
            Err(error) => break error,
        }
    };
    assert_eq!((error.kind(), error.certainty()), (Kind::Unavailable, Certainty::NotApplied));
    let text = error.to_string();
    assert!(text.contains("/queue/") && text.contains("free some space"), "{text}");
    assert_eq!(queue.stats().open, stored, "the refused entry is gone");
    while put(&queue, &mut commit, stored).is_ok() {
        stored += 1;
    }
    disk.set_full(false);
    put(&queue, &mut commit, stored).unwrap();
    drop((queue, commit));
    disk.restart_machine();
    let (queue, _commit) = start(&disk, Durability::Power, 2).unwrap();
    assert_eq!(keys(&queue) as u64, stored + 1);
}

#[test]
fn removals_wait_for_room_on_a_full_disk() {
    let disk = SimulatedDisk::without_chance();
    let (queue, mut commit) = start(&disk, Durability::Power, 1).unwrap();
    let ids: Vec<_> = (0..60).map(|key| put(&queue, &mut commit, key).unwrap()).collect();
    disk.set_full(true);
    while put(&queue, &mut commit, 1000).is_ok() {}
    ids.iter().for_each(|id| queue.cancel(*id));
    commit.step();
    disk.set_full(false);
    commit.step();
    let left = queue.stats().open;
    drop((queue, commit));
    disk.restart_machine();
    let (queue, _commit) = start(&disk, Durability::Power, 2).unwrap();
    assert_eq!(keys(&queue) as u64, left);
}

#[test]
fn a_failed_sync_stops_the_queue_until_it_is_opened_again() {
    let disk = SimulatedDisk::without_chance();
    let (queue, mut commit) = start(&disk, Durability::Power, 1).unwrap();
    put(&queue, &mut commit, 1).unwrap();
    disk.set_failing(1000);
    assert_eq!(put(&queue, &mut commit, 2).unwrap_err().kind(), Kind::Unavailable);
    disk.set_failing(0);
    let error = put(&queue, &mut commit, 3).unwrap_err();
    assert_eq!(error.kind(), Kind::Unavailable);
    assert!(error.to_string().contains("opened again"), "{error}");
    drop((queue, commit));
    let (queue, mut commit) = start(&disk, Durability::Power, 1).unwrap();
    assert!(keys(&queue) >= 1);
    put(&queue, &mut commit, 4).unwrap();
}

#[test]
fn a_power_loss_after_unsynced_acknowledgements_leaves_a_taint() {
    for (durability, reboot, taints) in
        [(Durability::Process, true, 1), (Durability::Process, false, 0), (Durability::Power, true, 0)]
    {
        let disk = SimulatedDisk::without_chance();
        let (queue, mut commit) = start(&disk, durability, 1).unwrap();
        put(&queue, &mut commit, 1).unwrap();
        drop((queue, commit));
        if reboot {
            disk.restart_machine();
        }
        let boot = if reboot { 2 } else { 1 };
        for _ in 0..2 {
            // It stands until it is cleared, also if nobody gets to it before the next restart.
            let (queue, _commit) = start(&disk, durability, boot).unwrap();
            assert_eq!(queue.taints().len(), taints, "{durability:?}, reboot: {reboot}");
            assert!(reboot || keys(&queue) == 1);
        }
    }
}

#[test]
fn closing_leaves_nothing_to_doubt() {
    let disk = SimulatedDisk::without_chance();
    let (queue, mut commit) = start(&disk, Durability::Process, 1).unwrap();
    put(&queue, &mut commit, 1).unwrap();
    queue.close_on_this_thread(commit);
    disk.restart_machine();
    let (queue, _commit) = start(&disk, Durability::Process, 2).unwrap();
    assert_eq!((queue.taints().len(), keys(&queue)), (0, 1));
}

#[test]
fn a_second_owner_is_refused_and_the_first_is_named() {
    let disk = SimulatedDisk::without_chance();
    let (_queue, _commit) = start(&disk, Durability::Power, 1).unwrap();
    let error = start(&disk, Durability::Power, 1).err().unwrap();
    assert_eq!(error.kind(), Kind::Owned);
    assert!(error.to_string().contains("/queue is in use by process 1"), "{error}");
}
