//! Every place at which a tail can be torn, and every bit that can flip.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use zdm_core::error::{Kind, Result};

use super::disk::SimulatedDisk;
use crate::disk_queue::journal::{Journal, JournalSettings, Opening, Record, Records, Session};

const BOOT: Session = Session { boot: [1; 16], unsynced: false, closed: false };
const REBOOT: Session = Session { boot: [2; 16], ..BOOT };

fn settings(session: Session) -> JournalSettings {
    let dir = PathBuf::from("/queue");
    let migration = "a to b".to_owned();
    JournalSettings { dir, migration, session, first_segment: 8 << 10, largest_segment: 8 << 10 }
}

fn open(disk: &SimulatedDisk, session: Session) -> Result<(Journal<SimulatedDisk>, BTreeSet<u64>)> {
    let mut opening = Opening::read(disk.clone(), settings(session))?;
    let found = opening.recovered().entries.iter().map(|(id, _)| *id).collect();
    Ok((opening.start(&Records::default())?, found))
}

/// Writes groups of one to three entries, each synced; returns the ids with the place where their frame ends.
fn write_groups(
    journal: &mut Journal<SimulatedDisk>,
    disk: &SimulatedDisk,
    path: &Path,
) -> Vec<(u64, usize)> {
    let mut ends = Vec::new();
    let mut before = disk.read_whole(path);
    let mut id = 0;
    for group in 0..12 {
        let mut records = Records::default();
        let mut ids = Vec::new();
        for _ in 0..=group % 3 {
            id += 1;
            records.push(Record::Put { id, payload: &id.to_be_bytes().repeat(1 + group % 4) });
            ids.push(id);
        }
        journal.append(&mut records).unwrap();
        journal.sync().unwrap();
        journal.note(&records);
        let after = disk.read_whole(path);
        let end = 1 + (0..after.len()).rev().find(|at| after[*at] != before[*at]).unwrap();
        ends.extend(ids.into_iter().map(|id| (id, end)));
        before = after;
    }
    ends
}

/// A disk with one segment full of groups, not closed.
fn written() -> (SimulatedDisk, PathBuf, Vec<(u64, usize)>) {
    let disk = SimulatedDisk::without_chance();
    let (mut journal, _) = open(&disk, BOOT).unwrap();
    let path = disk.segments(&settings(BOOT).dir).pop().unwrap();
    let ends = write_groups(&mut journal, &disk, &path);
    (disk, path, ends)
}

/// The bits of the header and of the frames up to `end`.
fn bits(end: usize) -> impl Iterator<Item = usize> {
    (0..120 * 8).chain(4096 * 8..end * 8)
}

#[test]
fn a_tail_torn_at_any_byte_is_cut_there() {
    let (disk, path, ends) = written();
    let whole = disk.read_whole(&path);
    let last = ends.last().unwrap().1;
    for fill in [0x00, 0xAA, 0xFF] {
        for torn in ends[0].1..=last {
            let mut bytes = whole.clone();
            bytes[torn..].fill(fill);
            let disk = disk.copy_with(&path, &bytes);
            let (_, found) = open(&disk, REBOOT).unwrap_or_else(|error| panic!("torn at {torn}: {error:?}"));
            let expected = ends.iter().filter(|(_, end)| *end <= torn).map(|(id, _)| *id).collect();
            assert_eq!(found, expected, "torn at {torn}, filled with {fill:#x}");
        }
    }
}

#[test]
fn a_cut_tail_stays_cut() {
    let (disk, path, ends) = written();
    let mut bytes = disk.read_whole(&path);
    let torn = ends[ends.len() - 4].1 - 1;
    bytes[torn..].fill(0);
    let disk = disk.copy_with(&path, &bytes);
    let (journal, found) = open(&disk, REBOOT).unwrap();
    drop(journal);
    let (_, again) = open(&disk, REBOOT).unwrap();
    assert_eq!(found, again);
}

#[test]
fn a_flipped_bit_is_an_error_unless_it_is_in_the_last_group() {
    let (disk, path, ends) = written();
    let whole = disk.read_whole(&path);
    let all: BTreeSet<u64> = ends.iter().map(|(id, _)| *id).collect();
    let last = ends.last().unwrap().1;
    let kept: BTreeSet<u64> = ends.iter().filter(|(_, end)| *end < last).map(|(id, _)| *id).collect();
    let last_group = kept.last().map_or(0, |id| ends[*id as usize - 1].1);
    for bit in bits(last) {
        let mut bytes = whole.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        let disk = disk.copy_with(&path, &bytes);
        match open(&disk, BOOT) {
            Ok((_, found)) => {
                let cut = bit / 8 >= last_group && found == kept;
                assert!(cut || found == all, "bit {bit} makes entries vanish: {found:?}");
            }
            Err(error) => {
                assert_eq!(error.kind(), Kind::Damaged, "bit {bit}: {error:?}");
                let text = error.to_string();
                assert!(text.contains(path.to_str().unwrap()), "{text}");
                assert!(bit / 8 < 4096 || text.contains("at byte"), "{text}");
            }
        }
    }
}

#[test]
fn a_flipped_bit_in_what_an_open_wrote_again_is_an_error() {
    let (disk, first, ends) = written();
    drop(open(&disk, REBOOT).unwrap());
    let all: BTreeSet<u64> = ends.iter().map(|(id, _)| *id).collect();
    for path in disk.segments(&settings(BOOT).dir) {
        let whole = disk.read_whole(&path);
        for bit in bits(5600) {
            let mut bytes = whole.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            match open(&disk.copy_with(&path, &bytes), REBOOT) {
                // Without its header the new segment was never begun, and the old one has everything still.
                Ok((_, found)) => assert_eq!(found, all, "bit {bit} of {path:?}"),
                Err(error) => {
                    assert_eq!(error.kind(), Kind::Damaged, "bit {bit} of {path:?}: {error:?}");
                    assert!(path == first || bit / 8 >= 4096, "bit {bit} of {path:?}: {error:?}");
                }
            }
        }
    }
}
