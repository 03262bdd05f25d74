//! What the journal keeps of an entry or a taint.
//!
//! ```text
//! entry         kind 0 | direction 1 | epoch 8 | opened at 8 | touch
//! parked entry  kind 1 | direction 1 | epoch 8 | opened at 8 | attempts 4 | length 4 | error | touch
//! taint         kind 2 | since 8 | length 4 | reason | range, written as a touch
//! ```

use zdm_core::error::{Error, Kind, Result};
use zdm_core::key::KeyRange;
use zdm_core::queue::{Direction, Entry, EntryId, EntryState, Epoch, Span, Taint, TaintId, Touch};

const ENTRY: u8 = 0;
const PARKED: u8 = 1;
const TAINT: u8 = 2;

/// Entries and taints share the journal's ids: the lowest bit tells which it is.
pub(super) fn entry_key(id: EntryId) -> u64 {
    id.0 << 1
}

pub(super) fn taint_key(id: TaintId) -> u64 {
    id.0 << 1 | 1
}

/// What a record of the journal holds.
#[derive(Debug)]
pub(super) enum Stored {
    Entry(Entry),
    Taint(Taint),
}

pub(super) fn write_open(
    out: &mut Vec<u8>,
    touch: &Touch,
    epoch: Epoch,
    direction: Direction,
    opened_at: u64,
) {
    write_head(out, ENTRY, epoch, direction, opened_at);
    touch.write_to(out);
}

/// Writes an entry in whatever state it is; of the states, only PARKED is kept.
pub(super) fn write_entry(out: &mut Vec<u8>, entry: &Entry) {
    let Entry { epoch, direction, opened_at, .. } = *entry;
    if entry.state != EntryState::Parked {
        return write_open(out, &entry.touch, epoch, direction, opened_at);
    }
    write_head(out, PARKED, epoch, direction, opened_at);
    out.extend_from_slice(&entry.attempts.to_le_bytes());
    write_text(out, entry.last_error.as_deref().unwrap_or_default());
    entry.touch.write_to(out);
}

pub(super) fn write_taint(out: &mut Vec<u8>, range: &KeyRange, since: u64, reason: &str) {
    out.push(TAINT);
    out.extend_from_slice(&since.to_le_bytes());
    write_text(out, reason);
    Touch::range(range.clone()).write_to(out);
}

pub(super) fn read(key: u64, bytes: &[u8]) -> Result<Stored> {
    let mut rest = bytes;
    read_parts(key, &mut rest).ok_or_else(|| {
        let text = format!("the stored entry {} cannot be read: {bytes:02x?}", key >> 1);
        Error::new(Kind::Damaged, text)
    })
}

fn read_parts(key: u64, rest: &mut &[u8]) -> Option<Stored> {
    let [kind] = take(rest)?;
    if kind == TAINT {
        let since = u64::from_le_bytes(take(rest)?);
        let reason = read_text(rest)?;
        let touch = Touch::read_from(rest).ok()?;
        let [item] = touch.items() else { return None };
        let Span::Range(range) = item.span.clone() else { return None };
        let id = TaintId(key >> 1);
        return (key & 1 == 1).then_some(Stored::Taint(Taint { id, range, since, reason }));
    }
    let direction = match take(rest)? {
        [0] => Direction::OldToNew,
        [1] => Direction::NewToOld,
        _ => return None,
    };
    let epoch = Epoch(u64::from_le_bytes(take(rest)?));
    let opened_at = u64::from_le_bytes(take(rest)?);
    let (state, attempts, last_error) = match kind {
        ENTRY => (EntryState::Released, 0, None),
        PARKED => (EntryState::Parked, u32::from_le_bytes(take(rest)?), Some(read_text(rest)?)),
        _ => return None,
    };
    let touch = Touch::read_from(rest).ok()?;
    let id = EntryId(key >> 1);
    let entry = Entry { id, touch, state, epoch, direction, opened_at, attempts, last_error };
    (key & 1 == 0).then_some(Stored::Entry(entry))
}

fn write_head(out: &mut Vec<u8>, kind: u8, epoch: Epoch, direction: Direction, opened_at: u64) {
    let direction = match direction {
        Direction::OldToNew => 0,
        Direction::NewToOld => 1,
    };
    out.extend_from_slice(&[kind, direction]);
    out.extend_from_slice(&epoch.0.to_le_bytes());
    out.extend_from_slice(&opened_at.to_le_bytes());
}

/// Longer texts are cut: what a store has to say must not fill the journal.
const LONGEST_TEXT: usize = 4096;

fn write_text(out: &mut Vec<u8>, text: &str) {
    let text = &text[..text.floor_char_boundary(LONGEST_TEXT)];
    out.extend_from_slice(&(text.len() as u32).to_le_bytes());
    out.extend_from_slice(text.as_bytes());
}

fn read_text(rest: &mut &[u8]) -> Option<String> {
    let length = u32::from_le_bytes(take(rest)?);
    let (text, tail) = rest.split_at_checked(length as usize)?;
    *rest = tail;
    String::from_utf8(text.to_vec()).ok()
}

fn take<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    let (head, tail) = rest.split_first_chunk()?;
    *rest = tail;
    Some(*head)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn entries_and_taints_come_back() {
        let touch = Touch::upsert(&7_u64).and(Touch::after(&9)).encode();
        let open = Entry {
            id: EntryId(5),
            touch,
            state: EntryState::Released,
            epoch: Epoch(3),
            direction: Direction::NewToOld,
            opened_at: 1_700_000_000_000,
            attempts: 0,
            last_error: None,
        };
        let parked = Entry {
            state: EntryState::Parked,
            attempts: 8,
            last_error: Some("too long".into()),
            ..open.clone()
        };
        for entry in [open, parked] {
            let mut bytes = Vec::new();
            write_entry(&mut bytes, &entry);
            let Stored::Entry(read) = read(entry_key(entry.id), &bytes).unwrap() else { panic!("a taint") };
            assert_eq!(format!("{read:?}"), format!("{entry:?}"));
        }
        let range = KeyRange::between(1_u64, 9).encode();
        let mut bytes = Vec::new();
        write_taint(&mut bytes, &range, 99, "the disk was full");
        let Stored::Taint(taint) = read(taint_key(TaintId(4)), &bytes).unwrap() else { panic!("an entry") };
        let expected = Taint { id: TaintId(4), range, since: 99, reason: "the disk was full".into() };
        assert_eq!(taint, expected);
        assert_eq!(read(entry_key(EntryId(4)), &bytes).unwrap_err().kind(), Kind::Damaged);
    }

    proptest! {
        #[test]
        fn any_bytes_are_an_entry_or_an_error(key in any::<u64>(), bytes in any::<Vec<u8>>()) {
            let _ = read(key, &bytes);
        }
    }
}
