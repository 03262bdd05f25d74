//! The bytes of a segment file. All numbers are little-endian.
//!
//! ```text
//! segment  header page (4096 bytes), then frames, each beginning at a multiple of 8
//! header   magic 8 | format 4 | crc of those 12 | crc of the rest 4 | length of the rest 2 | rest
//! frame    marker 4 | crc 4 | body length 4 | synced 4 | epoch 8 | older 4 | prologue 4 | body
//! body     records: tag 1, then what the tag says
//! ```
//!
//! A frame's checksum covers the segment's epoch and the frame's offset, so neither the bytes of a
//! recycled segment's former life nor a misplaced block ever pass for a frame. The format number has a
//! checksum of its own: a torn header is not mistaken for one of a newer version.

use std::ops::Range;

/// Where the first frame begins. The header has a page of its own, which is never written again while the
/// segment lives, so no torn write of a frame can reach it.
pub(super) const FIRST_FRAME: u64 = 4096;
/// The bytes of a frame before its body.
pub(super) const FRAME_HEAD: usize = 32;

const MAGIC: [u8; 8] = *b"zdmqueue";
const FORMAT: u32 = 1;
const MARKER: u32 = 0x5A44_4D66;

/// How the process that wrote a part of the log was running.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Session {
    /// The boot of the machine; zero when the system does not tell.
    pub(crate) boot: [u8; 16],
    /// Whether entries were acknowledged before they were synced.
    pub(crate) unsynced: bool,
    /// Whether it ended by closing the queue.
    pub(crate) closed: bool,
}

/// What the header of a segment says: the state of the log when the segment was begun.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Header {
    /// The segment's place in the log: greater is later. No number is used twice, but some are left out.
    pub(super) epoch: u64,
    /// The epoch of the segment before it, 0 when there was none, and where the frames of that one end.
    pub(super) previous: u64,
    pub(super) previous_end: u64,
    /// How many segments before this one are still needed.
    pub(super) older: u32,
    /// Up to where its frames were written and synced before the header was.
    pub(super) synced: u64,
    /// Every stamp below this one may have been drawn.
    pub(super) stamps: u64,
    pub(super) session: Session,
    pub(super) migration: String,
}

/// What stands where a header should be.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum HeaderRead {
    Whole(Header),
    /// Never finished, or damaged.
    Broken,
    /// Written by a newer version of this library, with this format number.
    Newer(u32),
}

impl Header {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut rest = Vec::with_capacity(64 + self.migration.len());
        rest.extend_from_slice(&self.epoch.to_le_bytes());
        rest.extend_from_slice(&self.previous.to_le_bytes());
        rest.extend_from_slice(&self.previous_end.to_le_bytes());
        rest.extend_from_slice(&self.older.to_le_bytes());
        rest.extend_from_slice(&self.synced.to_le_bytes());
        rest.extend_from_slice(&self.stamps.to_le_bytes());
        push_session(&mut rest, self.session);
        rest.extend_from_slice(self.migration.as_bytes());

        let mut page = Vec::with_capacity(FIRST_FRAME as usize);
        page.extend_from_slice(&MAGIC);
        page.extend_from_slice(&FORMAT.to_le_bytes());
        page.extend_from_slice(&crc32fast::hash(&page).to_le_bytes());
        page.extend_from_slice(&crc32fast::hash(&rest).to_le_bytes());
        page.extend_from_slice(&(rest.len() as u16).to_le_bytes());
        page.extend_from_slice(&rest);
        page.resize(FIRST_FRAME as usize, 0);
        page
    }

    pub(super) fn decode(page: &[u8]) -> HeaderRead {
        let mut read = Reader(page);
        let prelude = (read.bytes(8), read.u32(), read.u32());
        let (Some(magic), Some(format), Some(sum)) = prelude else { return HeaderRead::Broken };
        if magic != MAGIC || crc32fast::hash(&page[..12]) != sum {
            return HeaderRead::Broken;
        }
        if format != FORMAT {
            return HeaderRead::Newer(format);
        }
        Self::decode_rest(read).map_or(HeaderRead::Broken, HeaderRead::Whole)
    }

    fn decode_rest(mut read: Reader<'_>) -> Option<Self> {
        let sum = read.u32()?;
        let length = read.u16()?;
        let rest = read.bytes(usize::from(length))?;
        if crc32fast::hash(rest) != sum {
            return None;
        }
        let mut read = Reader(rest);
        Some(Self {
            epoch: read.u64()?,
            previous: read.u64()?,
            previous_end: read.u64()?,
            older: read.u32()?,
            synced: read.u64()?,
            stamps: read.u64()?,
            session: read.session()?,
            migration: String::from_utf8(read.0.to_vec()).ok()?,
        })
    }
}

/// What a frame says beside its records.
#[derive(Clone, Copy, Debug)]
pub(super) struct Mark {
    pub(super) epoch: u64,
    pub(super) synced: u64,
    pub(super) older: u32,
    pub(super) prologue: bool,
}

/// One frame of a segment that was read into memory.
#[derive(Clone, Debug)]
pub(super) struct Frame {
    /// Up to where the segment was known to be synced when the frame was written.
    pub(super) synced: u64,
    pub(super) epoch: u64,
    /// How many segments before this one were still needed.
    pub(super) older: u32,
    /// Written before the header of its segment.
    pub(super) prologue: bool,
    /// Where its body stands.
    pub(super) body: Range<usize>,
}

impl Frame {
    /// Fills in the head of a frame whose body follows it in `frame`. It stands at `offset`.
    pub(super) fn seal(frame: &mut [u8], offset: u64, Mark { epoch, synced, older, prologue }: Mark) {
        let length = (frame.len() - FRAME_HEAD) as u32;
        frame[0..4].copy_from_slice(&MARKER.to_le_bytes());
        frame[8..12].copy_from_slice(&length.to_le_bytes());
        frame[12..16].copy_from_slice(&(synced as u32).to_le_bytes());
        frame[16..24].copy_from_slice(&epoch.to_le_bytes());
        frame[24..28].copy_from_slice(&older.to_le_bytes());
        frame[28..32].copy_from_slice(&u32::from(prologue).to_le_bytes());
        let sum = checksum(offset, &frame[8..]);
        frame[4..8].copy_from_slice(&sum.to_le_bytes());
    }

    /// The frame that begins at `offset`, of whichever epoch, if it is whole.
    pub(super) fn read(segment: &[u8], offset: usize) -> Option<Self> {
        let mut head = Reader(segment.get(offset..offset + FRAME_HEAD)?);
        if head.u32()? != MARKER {
            return None;
        }
        let sum = head.u32()?;
        let length = head.u32()? as usize;
        let (synced, epoch, older, prologue) = (head.u32()?, head.u64()?, head.u32()?, head.u32()? != 0);
        let body = offset + FRAME_HEAD..offset.checked_add(FRAME_HEAD + length)?;
        let covered = segment.get(offset + 8..body.end)?;
        let whole = checksum(offset as u64, covered) == sum;
        whole.then(|| Self { synced: u64::from(synced), epoch, older, prologue, body })
    }

    /// The first whole frame that begins at `from` or later. `from` is a multiple of 8.
    pub(super) fn find(segment: &[u8], mut from: usize) -> Option<Self> {
        let marker = MARKER.to_le_bytes();
        loop {
            let (words, _) = segment.get(from..)?.as_chunks::<8>();
            from += 8 * words.iter().position(|word| word[..4] == marker)?;
            match Self::read(segment, from) {
                Some(frame) => return Some(frame),
                None => from += 8,
            }
        }
    }

    /// Where the next frame begins.
    pub(super) fn end(&self) -> usize {
        self.body.end.next_multiple_of(8)
    }
}

/// The epoch lies inside the covered bytes.
fn checksum(offset: u64, covered: &[u8]) -> u32 {
    let mut sum = crc32fast::Hasher::new();
    sum.update(&offset.to_le_bytes());
    sum.update(covered);
    sum.finalize()
}

/// One change that the log tells of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Record<'a> {
    /// The entry exists and holds this; an earlier record of the same id is replaced.
    Put { id: u64, payload: &'a [u8] },
    /// The entry is gone.
    Remove { id: u64 },
    /// Every stamp below this one may have been drawn.
    Stamps { below: u64 },
    /// A process has opened the queue.
    Opened(Session),
    /// The process has closed the queue.
    Closed,
}

const PUT: u8 = 1;
const REMOVE: u8 = 2;
const STAMPS: u8 = 3;
const OPENED: u8 = 4;
const CLOSED: u8 = 5;

/// Records on their way into one frame. Room for the frame's head is kept in front.
#[derive(Clone, Debug)]
pub(crate) struct Records {
    bytes: Vec<u8>,
}

impl Default for Records {
    fn default() -> Self {
        Self { bytes: vec![0; FRAME_HEAD] }
    }
}

impl Records {
    /// Bytes that a put needs beside its payload.
    pub(crate) const PUT_OVERHEAD: usize = 13;

    pub(crate) fn is_empty(&self) -> bool {
        self.bytes.len() == FRAME_HEAD
    }

    /// The bytes of the frame that these records make.
    pub(crate) fn frame_len(&self) -> usize {
        self.bytes.len()
    }

    pub(crate) fn clear(&mut self) {
        self.bytes.truncate(FRAME_HEAD);
    }

    /// Adds a put whose payload `write` appends.
    pub(crate) fn put_with(&mut self, id: u64, write: impl FnOnce(&mut Vec<u8>)) {
        self.bytes.push(PUT);
        self.bytes.extend_from_slice(&id.to_le_bytes());
        let length_at = self.bytes.len();
        self.bytes.extend_from_slice(&[0; 4]);
        write(&mut self.bytes);
        let length = (self.bytes.len() - length_at - 4) as u32;
        self.bytes[length_at..length_at + 4].copy_from_slice(&length.to_le_bytes());
    }

    pub(crate) fn push(&mut self, record: Record<'_>) {
        match record {
            Record::Put { id, payload } => self.put_with(id, |out| out.extend_from_slice(payload)),
            Record::Remove { id } => {
                self.bytes.push(REMOVE);
                self.bytes.extend_from_slice(&id.to_le_bytes());
            }
            Record::Stamps { below } => {
                self.bytes.push(STAMPS);
                self.bytes.extend_from_slice(&below.to_le_bytes());
            }
            Record::Opened(session) => {
                self.bytes.push(OPENED);
                push_session(&mut self.bytes, session);
            }
            Record::Closed => self.bytes.push(CLOSED),
        }
    }

    pub(crate) fn iter(&self) -> RecordIter<'_> {
        RecordIter::new(&self.bytes[FRAME_HEAD..])
    }

    /// The whole frame, its head not yet filled in.
    pub(super) fn frame_mut(&mut self) -> &mut [u8] {
        &mut self.bytes
    }
}

/// Reads records out of a frame's body. Ends with an error when a record cannot be read.
#[derive(Clone, Debug)]
pub(crate) struct RecordIter<'a> {
    rest: Reader<'a>,
    failed: bool,
}

/// A body whose checksum is right holds something that is not a record.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NotARecord;

impl<'a> RecordIter<'a> {
    pub(super) fn new(body: &'a [u8]) -> Self {
        Self { rest: Reader(body), failed: false }
    }

    fn record(&mut self) -> Option<Record<'a>> {
        let read = &mut self.rest;
        Some(match read.bytes(1)?[0] {
            PUT => {
                let id = read.u64()?;
                let length = read.u32()?;
                Record::Put { id, payload: read.bytes(length as usize)? }
            }
            REMOVE => Record::Remove { id: read.u64()? },
            STAMPS => Record::Stamps { below: read.u64()? },
            OPENED => Record::Opened(read.session()?),
            CLOSED => Record::Closed,
            _ => return None,
        })
    }
}

impl<'a> Iterator for RecordIter<'a> {
    type Item = Result<Record<'a>, NotARecord>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.failed || self.rest.0.is_empty() {
            return None;
        }
        let record = self.record().ok_or(NotARecord);
        self.failed = record.is_err();
        Some(record)
    }
}

fn push_session(out: &mut Vec<u8>, Session { boot, unsynced, closed }: Session) {
    out.extend_from_slice(&boot);
    out.push(u8::from(unsynced) | u8::from(closed) << 1);
}

#[derive(Clone, Copy, Debug)]
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn bytes(&mut self, count: usize) -> Option<&'a [u8]> {
        let (head, tail) = self.0.split_at_checked(count)?;
        self.0 = tail;
        Some(head)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, tail) = self.0.split_first_chunk()?;
        self.0 = tail;
        Some(*head)
    }

    fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_le_bytes)
    }

    fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    fn session(&mut self) -> Option<Session> {
        let boot = self.array()?;
        let [flags] = self.array()?;
        (flags < 4).then_some(Session { boot, unsynced: flags & 1 != 0, closed: flags & 2 != 0 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MARK: Mark = Mark { epoch: 5, synced: 64, older: 2, prologue: true };

    fn header() -> Header {
        Header {
            epoch: 7,
            previous: 6,
            previous_end: 8192,
            older: 3,
            synced: 4096,
            stamps: 1 << 40,
            session: Session { boot: [9; 16], unsynced: true, closed: false },
            migration: "users to accounts".to_owned(),
        }
    }

    #[test]
    fn a_header_comes_back() {
        assert_eq!(Header::decode(&header().encode()), HeaderRead::Whole(header()));
    }

    #[test]
    fn no_flipped_bit_of_a_header_goes_unseen() {
        let page = header().encode();
        let used = 22 + 61 + header().migration.len();
        for bit in 0..used * 8 {
            let mut page = page.clone();
            page[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Header::decode(&page), HeaderRead::Broken, "bit {bit}");
        }
    }

    #[test]
    fn a_newer_format_is_told_from_a_broken_header() {
        let mut page = header().encode();
        page[8..12].copy_from_slice(&9_u32.to_le_bytes());
        assert_eq!(Header::decode(&page), HeaderRead::Broken);
        let sum = crc32fast::hash(&page[..12]);
        page[12..16].copy_from_slice(&sum.to_le_bytes());
        assert_eq!(Header::decode(&page), HeaderRead::Newer(9));
    }

    proptest! {
        #[test]
        fn records_come_back(puts in proptest::collection::vec((any::<u64>(), any::<Vec<u8>>()), 0..8)) {
            let mut records = Records::default();
            let mut expected = Vec::new();
            for (id, payload) in &puts {
                expected.push(Record::Put { id: *id, payload });
                expected.push(Record::Remove { id: *id });
                expected.push(Record::Stamps { below: *id });
            }
            let session = Session { boot: [3; 16], unsynced: false, closed: true };
            expected.extend([Record::Opened(session), Record::Closed]);
            expected.iter().for_each(|record| records.push(*record));
            let read: Vec<_> = records.iter().map(Result::unwrap).collect();
            prop_assert_eq!(&read, &expected);

            let offset = 4096;
            let mut segment = vec![0; offset];
            Frame::seal(records.frame_mut(), offset as u64, MARK);
            segment.extend_from_slice(records.frame_mut());
            let frame = Frame::read(&segment, offset).unwrap();
            prop_assert_eq!((frame.epoch, frame.synced, frame.older), (5, 64, 2));
            let body = RecordIter::new(&segment[frame.body]);
            prop_assert_eq!(body.map(Result::unwrap).collect::<Vec<_>>(), expected);
        }

        #[test]
        fn any_bytes_are_records_or_an_error(bytes in any::<Vec<u8>>()) {
            let _ = RecordIter::new(&bytes).count();
            let _ = Frame::read(&bytes, 0);
            let _ = Header::decode(&bytes);
        }
    }

    #[test]
    fn no_flipped_bit_of_a_frame_goes_unseen() {
        let mut records = Records::default();
        records.push(Record::Put { id: 1, payload: b"one" });
        let mut segment = vec![0; 64];
        Frame::seal(records.frame_mut(), 64, MARK);
        segment.extend_from_slice(records.frame_mut());
        assert!(Frame::read(&segment, 64).is_some());
        for bit in 64 * 8..segment.len() * 8 {
            let mut segment = segment.clone();
            segment[bit / 8] ^= 1 << (bit % 8);
            assert!(Frame::read(&segment, 64).is_none(), "bit {bit}");
        }
        segment.splice(0..0, [0; 8]);
        assert!(Frame::read(&segment, 72).is_none(), "a frame at another place");
    }
}
