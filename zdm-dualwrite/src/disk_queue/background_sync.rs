//! Syncing what `Durability::Process` has acknowledged, beside the thread that writes.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use super::file_system::JournalFile;
use super::journal::SyncPoint;

/// How often at most. Until the next sync a power loss can take what was acknowledged since.
const PAUSE: Duration = Duration::from_millis(20);

/// A thread that syncs one file at a time.
pub(super) struct BackgroundSync<H> {
    requests: Sender<(Arc<H>, SyncPoint)>,
    ended: Receiver<(SyncPoint, io::Result<()>)>,
    running: bool,
    last: Instant,
}

impl<H: JournalFile> BackgroundSync<H> {
    /// `wake` is called after each sync.
    pub(super) fn spawn(wake: impl Fn() + Send + 'static) -> io::Result<Self> {
        let (requests, work) = channel::<(Arc<H>, SyncPoint)>();
        let (answers, ended) = channel();
        // It ends when the requests' sender is dropped.
        thread::Builder::new().name("zdm-queue-sync".to_owned()).spawn(move || {
            for (file, point) in work {
                if answers.send((point, file.sync_data())).is_err() {
                    return;
                }
                wake();
            }
        })?;
        Ok(Self { requests, ended, running: false, last: Instant::now() })
    }

    /// When [`start_if_due`](Self::start_if_due) should be called, if ever.
    pub(super) fn next_at(&self, unsynced: bool) -> Option<Instant> {
        (unsynced && !self.running).then(|| self.last + PAUSE)
    }

    /// How a sync ended, if one has.
    pub(super) fn take_ended(&mut self) -> Option<(SyncPoint, io::Result<()>)> {
        let ended = self.ended.try_recv().ok()?;
        self.running = false;
        self.last = Instant::now();
        Some(ended)
    }

    /// Starts a sync unless one runs or the last is too recent.
    pub(super) fn start_if_due(&mut self, file: Arc<H>, point: SyncPoint) {
        if !self.running && self.last.elapsed() >= PAUSE {
            self.running = self.requests.send((file, point)).is_ok();
        }
    }
}
