//! Segment files: their names, sizes, and what of them lives.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::super::file_system::{FileSystem, JournalFile};
use super::JournalSettings;
use super::format::FIRST_FRAME;

/// Room kept at the end of a segment for frames without records. They tell that the chain has become shorter,
/// so that its files can be used again even when the disk is full.
pub(super) const RESERVE: u64 = 1024;

const PAGE: u64 = 4096;

/// A segment's file is named by a number that says nothing about its place in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct FileName(pub(super) u32);

impl FileName {
    const SUFFIX: &str = ".segment";

    /// `None` for files that are no segments.
    pub(super) fn parse(name: &str) -> Option<Self> {
        let number = name.strip_suffix(Self::SUFFIX)?;
        (number.len() >= 6 && number.bytes().all(|byte| byte.is_ascii_digit()))
            .then(|| number.parse().ok().map(Self))?
    }

    pub(super) fn path(self, dir: &Path) -> PathBuf {
        dir.join(format!("{:06}{}", self.0, Self::SUFFIX))
    }
}

/// The segment that is written.
#[derive(Debug)]
pub(super) struct ActiveSegment<H> {
    pub(super) file: Arc<H>,
    pub(super) name: FileName,
    pub(super) epoch: u64,
    pub(super) capacity: u64,
    /// Where the next frame goes.
    pub(super) position: u64,
    /// Everything before this is durable.
    pub(super) synced: u64,
    pub(super) live: Live,
}

impl<H> ActiveSegment<H> {
    pub(super) fn has_room(&self, frame: u64) -> bool {
        self.position + frame + RESERVE <= self.capacity
    }

    /// Whether a frame without records fits into what is kept for those.
    pub(super) fn has_room_for_mark(&self, frame: u64) -> bool {
        self.position + frame <= self.capacity
    }
}

/// A segment that is full and synced.
#[derive(Clone, Debug)]
pub(super) struct SealedSegment {
    pub(super) name: FileName,
    pub(super) epoch: u64,
    pub(super) capacity: u64,
    /// Where its frames end.
    pub(super) end: u64,
    pub(super) live: Live,
}

/// What of a segment is the newest record of a live entry.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Live {
    pub(super) entries: u64,
    pub(super) bytes: u64,
}

impl Live {
    pub(super) fn add(&mut self, bytes: u32) {
        self.entries += 1;
        self.bytes += u64::from(bytes);
    }

    pub(super) fn subtract(&mut self, bytes: u32) {
        self.entries -= 1;
        self.bytes -= u64::from(bytes);
    }
}

/// A file that no part of the chain uses.
#[derive(Clone, Copy, Debug)]
pub(super) struct Spare {
    pub(super) name: FileName,
    pub(super) capacity: u64,
}

impl Spare {
    /// Whether it was ever finished, as far as its size tells.
    pub(super) fn is_whole(self, settings: &JournalSettings) -> bool {
        self.capacity >= settings.first_segment && self.capacity.is_multiple_of(PAGE)
    }
}

/// The capacity of a segment that can take a frame.
pub(super) fn capacity_for(frame: u64, target: u64) -> u64 {
    (FIRST_FRAME + frame + RESERVE).max(target).next_multiple_of(PAGE)
}

/// Creates a file full of zeros, durable with its name. Leaves nothing behind when it fails.
pub(super) fn create_zeroed<F: FileSystem>(
    files: &F,
    dir: &Path,
    name: FileName,
    capacity: u64,
) -> io::Result<()> {
    let path = name.path(dir);
    let fill = |file: &F::File| -> io::Result<()> {
        // Page by page: one large write would make large units of the page cache, and every small write
        // later would send a whole unit to the disk.
        for offset in (0..capacity).step_by(PAGE as usize) {
            file.write_all_at(&[0; PAGE as usize], offset)?;
        }
        file.sync_data()?;
        files.sync_dir(dir)
    };
    let file = files.create(&path)?;
    fill(&file).inspect_err(|_| {
        drop(file);
        if let Err(error) = files.remove(&path) {
            tracing::warn!(path = %path.display(), %error, "cannot remove a half made segment file");
        }
    })
}
