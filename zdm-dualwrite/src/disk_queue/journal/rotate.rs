//! Going over to the next segment.

use std::sync::Arc;

use zdm_core::error::{Error, Kind, Result};

use super::Journal;
use super::format::{FIRST_FRAME, Header};
use super::segment::{ActiveSegment, Live, SealedSegment, Spare, capacity_for, create_zeroed};
use crate::disk_queue::file_system::{FileSystem, JournalFile, is_full};

impl<F: FileSystem> Journal<F> {
    /// Seals the active segment and begins the next, which has room for a frame of the given size unless
    /// an earlier attempt has already settled on a smaller file.
    pub(super) fn rotate(&mut self, frame: u64) -> Result<()> {
        self.record_retired()?;
        // The next header will say where this segment ends, so all of it must be durable before.
        self.sync()?;
        let next = match self.next {
            Some(next) => next,
            None => self.spare_or_new(frame)?,
        };
        self.next = Some(next);

        let header = Header {
            epoch: self.active.epoch + 1,
            previous: self.active.epoch,
            previous_end: self.active.position,
            older: self.sealed.len() as u32 + 1,
            synced: FIRST_FRAME,
            stamps: self.stamps,
            session: self.session,
            migration: self.settings.migration.clone(),
        };
        let file = self.begin_segment(next, &header)?;
        self.next = None;
        let active = ActiveSegment {
            file: Arc::new(file),
            name: next.name,
            epoch: header.epoch,
            capacity: next.capacity,
            position: FIRST_FRAME,
            synced: FIRST_FRAME,
            live: Live::default(),
        };
        let full = std::mem::replace(&mut self.active, active);
        self.sealed.push_back(SealedSegment {
            name: full.name,
            epoch: full.epoch,
            capacity: full.capacity,
            end: full.position,
            live: full.live,
        });
        // The header is synced and does not count them.
        for file in std::mem::take(&mut self.retired) {
            self.release(file);
        }
        self.retire();
        self.relocate(frame)
    }

    /// The spare where it is large enough, else a new file. When the disk is full a small spare will do.
    fn spare_or_new(&mut self, frame: u64) -> Result<Spare> {
        let target = (self.active.capacity * 2).min(self.settings.largest_segment);
        let (least, wanted) = (capacity_for(frame, 0), capacity_for(frame, target));
        if let Some(spare) = self.spare.take_if(|spare| spare.capacity >= wanted) {
            return Ok(spare);
        }
        let name = self.next_file;
        self.next_file.0 += 1;
        match create_zeroed(&self.files, &self.settings.dir, name, wanted) {
            Ok(()) => {
                if let Some(small) = self.spare.take() {
                    self.remove_file(small.name);
                }
                Ok(Spare { name, capacity: wanted })
            }
            Err(error) => self.spare.take_if(|spare| spare.capacity >= least).ok_or_else(|| {
                // The chain is as it was, whatever the disk said.
                let path = name.path(&self.settings.dir);
                let advice =
                    if is_full(&error) { "free some space and the queue goes on" } else { "check the disk" };
                let text = format!(
                    "cannot create {} of {wanted} bytes; what is already acknowledged is safe; {advice}",
                    path.display()
                );
                Error::new(Kind::Unavailable, text).not_applied().with_source(error)
            }),
        }
    }

    fn begin_segment(&mut self, next: Spare, header: &Header) -> Result<F::File> {
        let path = next.name.path(&self.settings.dir);
        let file = match self.files.open(&path) {
            Ok(file) => file,
            Err(error) => return Err(self.fail("cannot open the segment after", error)),
        };
        if let Err(error) = file.write_all_at(&header.encode(), 0) {
            return Err(self.write_failed(error));
        }
        match file.sync_data() {
            Ok(()) => Ok(file),
            Err(error) => Err(self.fail("cannot sync the segment after", error)),
        }
    }
}
