use std::path::PathBuf;
use std::sync::Arc;

use zdm_core::clock::{Clock, SystemClock};
use zdm_core::error::{Error, Kind, Result};

use super::boot::boot_id;
use super::file_system::RealFileSystem;
use super::journal::{JournalSettings, Opening, Session};
use super::queue::DiskQueue;

/// What an entry survives once it is acknowledged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Durability {
    /// A power loss: the entry is synced to the disk before the call that it covers.
    #[default]
    Power,
    /// The death of the process, `kill -9` included. The entry is written before the call and synced in the
    /// background, at most some tens of milliseconds later. What a power loss takes away is not known; so when the
    /// queue is opened after a reboot without having been closed, a taint over all keys says so.
    Process,
}

/// Settings of a [`DiskQueue`].
#[derive(Debug)]
#[must_use]
pub struct DiskQueueBuilder {
    pub(super) dir: PathBuf,
    pub(super) migration: String,
    pub(super) durability: Durability,
    pub(super) limit: usize,
    pub(super) clock: Arc<dyn Clock>,
}

impl DiskQueueBuilder {
    pub(super) fn new(dir: PathBuf, migration: String) -> Self {
        Self {
            dir,
            migration,
            durability: Durability::default(),
            limit: DiskQueue::DEFAULT_LIMIT,
            clock: Arc::new(SystemClock),
        }
    }

    /// What an entry survives. Default: [`Durability::Power`].
    pub fn durability(mut self, durability: Durability) -> Self {
        self.durability = durability;
        self
    }

    /// How many entries the queue takes. Default: [`DiskQueue::DEFAULT_LIMIT`].
    pub fn limit(mut self, entries: usize) -> Self {
        self.limit = entries;
        self
    }

    /// Where the time comes from. Default: [`SystemClock`].
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// Opens the queue, or makes a new one where the directory is missing or empty. Reads what is pending:
    /// about a millisecond for a thousand entries at most, during which the calling thread is blocked.
    ///
    /// # Errors
    /// - `Kind::Owned`: another process, or another queue of this one, has the directory.
    /// - `Kind::Invalid`: a setting is out of range, or the directory belongs to another migration or was
    ///   written by a newer version.
    /// - `Kind::Damaged`: entries that were acknowledged cannot be read; the text names the file and the byte.
    /// - `Kind::Unavailable`: the disk fails or is full.
    pub fn open(self) -> Result<DiskQueue> {
        let session =
            Session { boot: boot_id(), unsynced: self.durability == Durability::Process, closed: false };
        let opening = Opening::read(RealFileSystem, self.journal_settings(session)?)?;
        let dir = self.dir.clone();
        let (queue, commit_loop) = DiskQueue::from_journal(opening, self)?;
        let thread = commit_loop.spawn().map_err(|error| {
            let text = format!("cannot start the thread of the queue in {}", dir.display());
            Error::new(Kind::Unavailable, text).not_applied().with_source(error)
        })?;
        Ok(queue.with_thread(thread))
    }

    pub(super) fn journal_settings(&self, session: Session) -> Result<JournalSettings> {
        if self.migration.is_empty() || self.migration.len() > 200 {
            let text = format!("the name of a migration has 1 to 200 bytes; \"{}\" has not", self.migration);
            return Err(Error::new(Kind::Invalid, text));
        }
        if self.limit == 0 {
            return Err(Error::new(Kind::Invalid, "the limit of a queue is at least 1 entry; it is 0"));
        }
        Ok(JournalSettings {
            dir: self.dir.clone(),
            migration: self.migration.clone(),
            session,
            first_segment: 256 << 10,
            largest_segment: 4 << 20,
        })
    }
}

/// Says whether the last process may have acknowledged entries that a power loss has taken.
pub(super) fn lost_a_window(last: Option<Session>, now: Session) -> bool {
    last.is_some_and(|last| last.unsynced && !last.closed && (last.boot == [0; 16] || last.boot != now.boot))
}
