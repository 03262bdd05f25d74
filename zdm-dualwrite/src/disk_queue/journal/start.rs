//! Beginning to write, in a new segment, after what an earlier process left has been read.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;

use zdm_core::error::Result;

use super::format::{FIRST_FRAME, Frame, Header, Mark, Record, Records};
use super::recover::{Opening, unavailable};
use super::segment::{ActiveSegment, Live, Spare, capacity_for, create_zeroed};
use super::{Journal, JournalSettings};
use crate::disk_queue::file_system::{FileSystem, JournalFile};

impl<F: FileSystem> Opening<F> {
    /// Goes on in a new segment. Its first frame tells of this session and holds the given records, all or
    /// none of it.
    ///
    /// # Errors
    /// `Kind::Unavailable`; the log is as it was.
    pub(crate) fn start(mut self, also: &Records) -> Result<Journal<F>> {
        let mut first = std::mem::take(&mut self.tail);
        first.push(Record::Opened(self.settings.session));
        also.iter().map_while(Result::ok).for_each(|record| first.push(record));

        let dir = self.settings.dir.clone();
        let failed = |error| unavailable("cannot begin a segment in", &dir, error);
        let file = self.take_file(first.frame_len() as u64).map_err(failed)?;
        let epoch = self.next_epoch;
        let older = self.chain.len() as u32;
        let frame = first.frame_mut();
        Frame::seal(frame, FIRST_FRAME, Mark { epoch, synced: FIRST_FRAME, older, prologue: true });
        let position = (FIRST_FRAME + frame.len() as u64).next_multiple_of(8);
        let header = Header {
            epoch,
            previous: self.chain.back().map_or(0, |last| last.epoch),
            previous_end: self.chain.back().map_or(0, |last| last.end),
            older,
            synced: position,
            stamps: self.recovered.stamps,
            session: self.settings.session,
            migration: self.settings.migration.clone(),
        };
        let begin = |handle: F::File| {
            handle.write_all_at(frame, FIRST_FRAME)?;
            handle.sync_data()?;
            handle.write_all_at(&header.encode(), 0)?;
            handle.sync_data()?;
            Ok(handle)
        };
        let handle = self.files.open(&file.name.path(&dir)).and_then(begin).map_err(failed)?;
        let mut journal = Journal {
            files: self.files,
            settings: self.settings,
            sealed: self.chain,
            active: ActiveSegment {
                file: Arc::new(handle),
                name: file.name,
                epoch,
                capacity: file.capacity,
                position,
                synced: position,
                live: Live::default(),
            },
            live: self.live,
            retired: Vec::new(),
            recorded: VecDeque::new(),
            spare: None,
            next: None,
            next_file: self.next_file,
            stamps: header.stamps,
            session: header.session,
            failed: None,
            _lock: self.lock,
        };
        // The new header is synced and says that they are not needed.
        self.free.into_iter().chain(self.left).for_each(|file| journal.release(file));
        journal.note(&first);
        // Each open adds a segment, so a process that is restarted often must move entries here too.
        journal.relocate(0)?;
        Ok(journal)
    }

    /// A file for the new segment.
    fn take_file(&mut self, frame: u64) -> io::Result<Spare> {
        // What an earlier process created need not have a durable name.
        self.files.sync_dir(&self.settings.dir)?;
        let JournalSettings { dir, first_segment, largest_segment, .. } = &self.settings;
        let sizes = self
            .chain
            .iter()
            .map(|segment| segment.capacity)
            .chain(self.free.iter().map(|file| file.capacity));
        let target = sizes.max().unwrap_or(0).min(*largest_segment).max(*first_segment);
        let (least, wanted) = (capacity_for(frame, *first_segment), capacity_for(frame, target));
        let fits = |file: &&Spare| file.capacity >= least && file.is_whole(&self.settings);
        if let Some(found) = self.free.iter().filter(fits).max_by_key(|file| file.capacity).copied() {
            self.free.retain(|file| file.name != found.name);
            return Ok(found);
        }
        let name = self.next_file;
        self.next_file.0 += 1;
        create_zeroed(&self.files, dir, name, wanted)?;
        Ok(Spare { name, capacity: wanted })
    }
}
