//! A log of entries in a few recycled files, which forgets in any order.
//!
//! # Files
//!
//! A directory holds *segments*: files of fixed size, filled with zeros before they are used, so that
//! syncing an append never has to write a file's length or block map as well. The log is a chain of
//! segments numbered by *epoch*. Only the last, the *active* one, is written. When it is full it is synced to its
//! end, and only then does the header of the next one say where it ended. A segment that is no longer needed
//! becomes the *spare*, the next to be used, or is removed. Its old bytes stay; they carry another
//! epoch and never pass for new ones.
//!
//! # What a power cut leaves
//!
//! A group of records is one *frame* with a checksum. Each frame says up to where the segment was known to be
//! synced when it was written. So a frame that does not check out is judged by what stands after it:
//!
//! - a later frame or header proves that it was synced: acknowledged data is damaged, and opening says so;
//! - nothing does: it is a torn tail that nobody was promised, and is cut.
//!
//! The very last frame has no successor to testify for it. If the disk damages exactly that one, it is cut.
//!
//! Opening always goes on in a new segment. What the old one holds behind its last mark may be in the
//! system's memory alone: the process may have been killed before it synced, and after a failed sync the
//! system takes pages for written that are not. So those records are written again, as the *prologue*
//! of the new segment, and its header, which says where the old one ends, is written when they are synced. A
//! segment that was only just begun, so that no frame proves its header to be synced, is replaced altogether.
//!
//! # Forgetting
//!
//! Segments leave the chain from the front only, each when no entry that it holds is live. So the record of a
//! removal always outlives the record of what it removes. Entries that stay while everything around them goes are
//! copied to the active segment when the files take more than four times what lives in them. A
//! segment's file is used again only after a synced frame has said that the chain begins behind it; else
//! a crash could find a hole in the chain.
//!
//! # Failing
//!
//! A full disk fails the records at hand and nothing else. Any other failed write, and any failed sync, ends
//! the use of this journal: after a failed sync nobody knows what the disk holds until it is read again.

mod format;
mod reclaim;
mod recover;
mod rotate;
mod segment;
mod start;

pub(crate) use format::{Record, Records, Session};
pub(crate) use recover::Opening;

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasherDefault, Hasher};
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use zdm_core::error::{Error, Kind, Result};

use self::format::{Frame, Mark};
use self::segment::{ActiveSegment, FileName, SealedSegment, Spare};
use super::file_system::{FileSystem, JournalFile, is_full};

/// Where a journal lives and how large its files are.
#[derive(Clone, Debug)]
pub(crate) struct JournalSettings {
    pub(crate) dir: PathBuf,
    /// The migration whose entries these are; a journal of another one is refused.
    pub(crate) migration: String,
    /// How this process runs.
    pub(crate) session: Session,
    /// Bytes of the first segment. Each new one is twice as large as the one before.
    pub(crate) first_segment: u64,
    /// Bytes of a segment at most, unless one frame needs more.
    pub(crate) largest_segment: u64,
}

/// The log, open for appending. One thread owns it.
pub(crate) struct Journal<F: FileSystem> {
    files: F,
    settings: JournalSettings,
    /// Oldest first, all of them older than the active one.
    sealed: VecDeque<SealedSegment>,
    active: ActiveSegment<F::File>,
    live: IdMap<Place>,
    /// Left the chain, and no frame says so yet.
    retired: Vec<Spare>,
    /// Left the chain, and the frame that ends here says so.
    recorded: VecDeque<(u64, Spare)>,
    /// The file that the next segment will use.
    spare: Option<Spare>,
    /// The next segment's file, once its header may have been written. From then on the active segment is
    /// closed for good: a header on the disk may already say where it ended.
    next: Option<Spare>,
    next_file: FileName,
    stamps: u64,
    session: Session,
    failed: Option<Error>,
    _lock: F::Lock,
}

/// Where the newest record of a live entry stands.
#[derive(Clone, Copy, Debug)]
struct Place {
    epoch: u64,
    bytes: u32,
}

/// Up to where a sync that was begun will reach.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SyncPoint {
    epoch: u64,
    position: u64,
}

impl<F: FileSystem> Journal<F> {
    /// Writes the records as one frame. They survive the death of this process when it returns, and a
    /// power cut after [`sync`](Self::sync). [`note`](Self::note) must follow before the next append.
    ///
    /// # Errors
    /// `Kind::Unavailable`. When the disk is full, nothing else has changed and a later append may pass.
    pub(crate) fn append(&mut self, records: &mut Records) -> Result<()> {
        self.usable()?;
        while !self.active.has_room(records.frame_len() as u64) || self.next.is_some() {
            self.rotate(records.frame_len() as u64)?;
        }
        self.write_frame(records)
    }

    /// Takes account of records that were appended. Apart from [`append`](Self::append), so that whoever
    /// waits for the append need not wait for this too.
    pub(crate) fn note(&mut self, records: &Records) {
        for record in records.iter().map_while(Result::ok) {
            match record {
                Record::Put { id, payload } => self.note_put(id, payload.len()),
                Record::Remove { id } => self.note_gone(id),
                Record::Stamps { below } => self.stamps = self.stamps.max(below),
                Record::Opened(session) => self.session = session,
                Record::Closed => self.session.closed = true,
            }
        }
        self.retire();
    }

    /// Makes everything that was appended durable.
    ///
    /// # Errors
    /// `Kind::Unavailable`; the journal refuses all further use.
    pub(crate) fn sync(&mut self) -> Result<()> {
        let (file, point) = self.begin_sync()?;
        let result = file.sync_data();
        self.end_sync(point, result)
    }

    /// What must be synced, for a sync in another thread, and what to hand back to
    /// [`end_sync`](Self::end_sync) then.
    pub(crate) fn begin_sync(&self) -> Result<(Arc<F::File>, SyncPoint)> {
        self.usable()?;
        let ActiveSegment { epoch, position, .. } = self.active;
        Ok((Arc::clone(&self.active.file), SyncPoint { epoch, position }))
    }

    /// Takes note of how a sync ended.
    pub(crate) fn end_sync(&mut self, point: SyncPoint, result: io::Result<()>) -> Result<()> {
        if let Err(error) = result {
            return Err(self.fail("cannot make the entries in", error));
        }
        // A segment that is no longer active was synced when it was sealed.
        if point.epoch == self.active.epoch {
            self.active.synced = self.active.synced.max(point.position);
            self.release_recorded();
        }
        Ok(())
    }

    /// Whether anything was appended that is not synced.
    pub(crate) fn is_synced(&self) -> bool {
        self.active.synced == self.active.position
    }

    /// Marks the log as closed in good order, so that the next open knows that nothing is missing.
    pub(crate) fn close(mut self) -> Result<()> {
        let mut last = Records::default();
        last.push(Record::Closed);
        self.append(&mut last)?;
        self.sync()
    }

    /// Why the journal refuses use, if it does.
    pub(crate) fn failure(&self) -> Option<&Error> {
        self.failed.as_ref()
    }

    fn usable(&self) -> Result<()> {
        self.failed.clone().map_or(Ok(()), Err)
    }

    fn write_frame(&mut self, records: &mut Records) -> Result<()> {
        let older = self.sealed.len() as u32;
        let ActiveSegment { epoch, position, synced, .. } = self.active;
        let frame = records.frame_mut();
        Frame::seal(frame, position, Mark { epoch, synced, older, prologue: false });
        if let Err(error) = self.active.file.write_all_at(frame, position) {
            return Err(self.write_failed(error));
        }
        self.active.position = (position + frame.len() as u64).next_multiple_of(8);
        let end = self.active.position;
        self.recorded.extend(self.retired.drain(..).map(|file| (end, file)));
        Ok(())
    }

    fn note_put(&mut self, id: u64, payload: usize) {
        let bytes = (Records::PUT_OVERHEAD + payload) as u32;
        let place = Place { epoch: self.active.epoch, bytes };
        self.active.live.add(bytes);
        if let Some(old) = self.live.insert(id, place) {
            self.forget_place(old);
        }
    }

    fn note_gone(&mut self, id: u64) {
        if let Some(place) = self.live.remove(&id) {
            self.forget_place(place);
        }
    }

    fn forget_place(&mut self, place: Place) {
        let live = match self.sealed.binary_search_by_key(&place.epoch, |segment| segment.epoch) {
            Ok(index) => &mut self.sealed[index].live,
            Err(_) => &mut self.active.live,
        };
        live.subtract(place.bytes);
    }

    /// A write failed. A full disk leaves everything as it was; the bytes that were written stand where the next frame goes.
    fn write_failed(&mut self, error: io::Error) -> Error {
        if is_full(&error) {
            let path = self.active.name.path(&self.settings.dir);
            let text = format!(
                "the disk is full: {} cannot be written; what is already acknowledged is safe; free some space and \
                 the queue goes on",
                path.display()
            );
            return Error::new(Kind::Unavailable, text).not_applied().with_source(error);
        }
        self.fail("cannot write to", error)
    }

    /// Nobody knows any more what the disk holds: ends the use of this journal.
    fn fail(&mut self, what: &str, error: io::Error) -> Error {
        let path = self.active.name.path(&self.settings.dir);
        let text = format!(
            "{what} {}; the queue takes nothing more until it is opened again: check the disk, then restart",
            path.display()
        );
        let error = Error::new(Kind::Unavailable, text).with_source(error);
        self.failed = Some(error.clone());
        error
    }
}

fn damaged(what: impl std::fmt::Display) -> Error {
    let text = format!(
        "{what}: entries that were acknowledged are damaged; restore the directory from a copy, or set it aside, \
         start with an empty queue and repair by a full verification"
    );
    Error::new(Kind::Damaged, text)
}

/// A map from ids.
type IdMap<V> = HashMap<u64, V, BuildHasherDefault<IdHasher>>;

/// Spreads ids that count up over a hash table. They come from this library, so nobody can choose them to
/// collide.
#[derive(Default)]
struct IdHasher(u64);

impl Hasher for IdHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.write_u64(self.0 ^ u64::from(*byte)));
    }

    fn write_u64(&mut self, id: u64) {
        self.0 = id.wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(26);
    }
}
