//! Giving files back: segments without live entries leave the chain, and entries that stay alone are moved.

use zdm_core::error::Result;

use super::format::{FIRST_FRAME, FRAME_HEAD, Frame, Record, RecordIter};
use super::segment::{FileName, RESERVE, SealedSegment, Spare};
use super::{Journal, Records, damaged};
use crate::disk_queue::file_system::{FileSystem, read_fully};

/// The files may take this many times the bytes that live in them, and one segment more.
const SLACK: u64 = 4;

impl<F: FileSystem> Journal<F> {
    /// Takes segments without live entries out of the chain, from the front only: a removal must not be
    /// forgotten before what it removes.
    pub(super) fn retire(&mut self) {
        while let Some(front) = self.sealed.pop_front_if(|front| front.live.entries == 0) {
            self.retired.push(Spare { name: front.name, capacity: front.capacity });
        }
    }

    /// Whether no segment has left the chain whose file could be given back.
    pub(crate) fn is_tidy(&self) -> bool {
        self.retired.is_empty()
    }

    /// Gives back the files of segments that have left the chain, as soon as it can be done.
    ///
    /// # Errors
    /// `Kind::Unavailable`; the journal refuses all further use.
    pub(crate) fn tidy(&mut self) -> Result<()> {
        if self.retired.is_empty() || self.failed.is_some() {
            return Ok(());
        }
        self.record_retired()?;
        self.sync()
    }

    /// Lets a frame without records say that the chain has become shorter. Then the files that left it can be
    /// used for the next segment.
    pub(super) fn record_retired(&mut self) -> Result<()> {
        let mark = FRAME_HEAD as u64;
        if self.retired.is_empty() || self.next.is_some() || !self.active.has_room_for_mark(mark) {
            return Ok(());
        }
        match self.write_frame(&mut Records::default()) {
            // Only the files stay unusable for a while.
            Err(_) if self.failed.is_none() => Ok(()),
            result => result,
        }
    }

    /// Frees the files whose leaving is told by a frame that is now synced.
    pub(super) fn release_recorded(&mut self) {
        let synced = self.active.synced;
        while let Some((_, file)) = self.recorded.pop_front_if(|(end, _)| *end <= synced) {
            self.release(file);
        }
    }

    /// Keeps one file as the spare, the largest that is not too large, and removes the others.
    pub(super) fn release(&mut self, file: Spare) {
        let keep = file.is_whole(&self.settings)
            && file.capacity <= self.settings.largest_segment
            && self.spare.is_none_or(|spare| spare.capacity < file.capacity);
        let surplus = if keep { self.spare.replace(file) } else { Some(file) };
        if let Some(surplus) = surplus {
            self.remove_file(surplus.name);
        }
    }

    pub(super) fn remove_file(&self, name: FileName) {
        let path = name.path(&self.settings.dir);
        if let Err(error) = self.files.remove(&path) {
            // It is no part of the chain, so it only takes space; the next open tries again.
            tracing::warn!(path = %path.display(), %error, "cannot remove a segment file that is no longer used");
        }
    }

    /// Moves entries out of the oldest segments while the chain is much larger than what lives in it. The
    /// frame that is about to be written keeps its room, and at most half of the rest is used; what is
    /// left over is moved after the next rotation.
    pub(super) fn relocate(&mut self, frame: u64) -> Result<()> {
        let room = self.active.capacity.saturating_sub(self.active.position + frame + RESERVE);
        let budget_end = self.active.position + room / 2;
        while self.is_sparse() && self.active.position < budget_end {
            let Some(front) = self.sealed.front().cloned() else { break };
            if !self.move_entries(&front, budget_end)? {
                break;
            }
            self.retire();
        }
        Ok(())
    }

    fn is_sparse(&self) -> bool {
        let files: u64 = self.sealed.iter().map(|segment| segment.capacity).sum();
        let live: u64 = self.sealed.iter().map(|segment| segment.live.bytes).sum();
        files > SLACK * (live + self.active.live.bytes) + self.settings.largest_segment
    }

    /// Copies live entries of a segment to the active one. `false` when the room for it ran out.
    fn move_entries(&mut self, from: &SealedSegment, budget_end: u64) -> Result<bool> {
        let bytes = self.read_segment(from)?;
        let mut moved = Records::default();
        let mut offset = FIRST_FRAME as usize;
        while offset < from.end as usize {
            let Some(frame) = Frame::read(&bytes, offset).filter(|frame| frame.epoch == from.epoch) else {
                return Err(self.unreadable(from, offset));
            };
            for record in RecordIter::new(&bytes[frame.body.clone()]) {
                let Ok(record) = record else { return Err(self.unreadable(from, offset)) };
                let Record::Put { id, payload } = record else { continue };
                if self.live.get(&id).is_none_or(|place| place.epoch != from.epoch) {
                    continue;
                }
                let room =
                    self.active.position + (moved.frame_len() + Records::PUT_OVERHEAD + payload.len()) as u64;
                if room > budget_end {
                    self.write_moved(&mut moved)?;
                    return Ok(false);
                }
                moved.push(record);
            }
            offset = frame.end();
        }
        self.write_moved(&mut moved)?;
        Ok(true)
    }

    fn write_moved(&mut self, moved: &mut Records) -> Result<()> {
        if moved.is_empty() {
            return Ok(());
        }
        match self.write_frame(moved) {
            Ok(()) => {
                self.note(moved);
                Ok(())
            }
            // A full disk: they stay where they are.
            Err(_) if self.failed.is_none() => Ok(()),
            Err(error) => Err(error),
        }
    }

    fn read_segment(&mut self, segment: &SealedSegment) -> Result<Vec<u8>> {
        let path = segment.name.path(&self.settings.dir);
        let mut bytes = vec![0; segment.end as usize];
        let read = self.files.open(&path).and_then(|file| read_fully(&file, &mut bytes, 0));
        match read {
            Ok(read) if read == bytes.len() => Ok(bytes),
            Ok(read) => Err(self.unreadable(segment, read)),
            Err(error) => Err(self.fail("cannot read the segments before", error)),
        }
    }

    /// The segment was whole when it was written or opened, and no longer is.
    fn unreadable(&mut self, segment: &SealedSegment, offset: usize) -> zdm_core::error::Error {
        let path = segment.name.path(&self.settings.dir);
        let error = damaged(format_args!("{} at byte {offset}", path.display()));
        self.failed = Some(error.clone());
        error
    }
}

const _: () = assert!(FRAME_HEAD.is_multiple_of(8) && FIRST_FRAME.is_multiple_of(8));
