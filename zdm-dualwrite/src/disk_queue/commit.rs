//! Group commit: one thread writes and syncs for everybody.
//!
//! Whatever arrives while the last sync runs is the next group. There is no timer that gathers: the sync itself
//! gathers. Records that somebody waits for start a group; the others, of which acknowledgements are the most,
//! ride with the next group or go alone after a short while.
//!
//! The thread is one of the operating system, because writing and syncing block.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use zdm_core::error::{Error, Kind, Result};

use super::Durability;
use super::background_sync::BackgroundSync;
use super::file_system::FileSystem;
use super::journal::{Journal, Record, Records};

/// A group that is this large takes nothing more that somebody waits for. With the group that is being
/// written, this bounds the memory.
const GROUP_BYTES: usize = 1 << 20;
/// How long records that nobody waits for stay in memory at most.
const LAZY_DELAY: Duration = Duration::from_millis(10);
/// How often the thread lets others run before it falls asleep.
const YIELDS: u32 = 8;
/// How soon they are tried again when the disk was full.
const LAZY_RETRY: Duration = Duration::from_secs(1);

/// The side of the callers. Cheap to clone.
#[derive(Clone)]
pub(super) struct Commit {
    shared: Arc<Shared>,
}

struct Shared {
    state: Mutex<State>,
    /// There may be work; looked at without the lock.
    has_work: AtomicBool,
    /// Wakes the thread.
    work: Condvar,
    /// Wakes those whose records did not fit into the group.
    room: Notify,
    closed: Ticket,
}

struct State {
    group: Group,
    /// An emptied buffer, to be used again.
    buffer: Option<Records>,
    /// When records that nobody waits for must go.
    lazy_until: Option<Instant>,
    /// The thread waits for work.
    idle: bool,
    /// A background sync has ended.
    synced: bool,
    stop: bool,
    failed: Option<Error>,
}

/// Records that will be durable together.
struct Group {
    records: Records,
    ticket: Arc<Ticket>,
    /// Somebody waits for it.
    awaited: bool,
    /// It is synced before anybody is told, whatever the durability.
    sync: bool,
}

/// How a group ends.
#[derive(Default)]
struct Ticket {
    outcome: OnceLock<Result<()>>,
    done: Notify,
}

impl Ticket {
    fn finish(&self, outcome: Result<()>) {
        // Set once: a ticket has one group, and a group one end.
        let _ = self.outcome.set(outcome);
        self.done.notify_waiters();
    }

    async fn wait(&self) -> Result<()> {
        let done = self.done.notified();
        match self.outcome.get() {
            Some(outcome) => outcome.clone(),
            None => {
                done.await;
                self.outcome.get().cloned().unwrap_or_else(|| Err(stopped()))
            }
        }
    }
}

/// When records must be durable before their writer is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum When {
    /// As the queue's durability says.
    Usual,
    /// Synced in any case.
    Synced,
}

impl Commit {
    /// The two sides of a journal: for the callers, and for the thread that runs the loop.
    pub(super) fn new<F: FileSystem>(journal: Journal<F>, durability: Durability) -> (Self, CommitLoop<F>) {
        let state = State {
            group: Group::new(Records::default()),
            buffer: None,
            lazy_until: None,
            idle: false,
            synced: false,
            stop: false,
            failed: None,
        };
        let shared = Arc::new(Shared {
            state: Mutex::new(state),
            has_work: AtomicBool::new(false),
            work: Condvar::new(),
            room: Notify::new(),
            closed: Ticket::default(),
        });
        let commit_loop =
            CommitLoop { shared: Arc::clone(&shared), journal, durability, background: None, is_tidy: true };
        (Self { shared }, commit_loop)
    }

    /// Adds the records that `write` writes to the next group and waits until they are durable.
    ///
    /// # Errors
    /// `Kind::Unavailable` when the journal cannot store them; `Kind::Stopped` after the queue was closed.
    ///
    /// # Cancel safety
    /// When the future is dropped the records may become durable or not.
    pub(super) async fn append(&self, when: When, write: impl Fn(&mut Records)) -> Result<()> {
        let ticket = loop {
            let room = self.shared.room.notified();
            if let Some(ticket) = self.try_append(when, &write)? {
                break ticket;
            }
            room.await;
        };
        ticket.wait().await
    }

    /// `None` when the group is full.
    fn try_append(&self, when: When, write: impl Fn(&mut Records)) -> Result<Option<Arc<Ticket>>> {
        let mut state = self.shared.lock();
        state.usable()?;
        if state.group.records.frame_len() >= GROUP_BYTES {
            return Ok(None);
        }
        write(&mut state.group.records);
        state.group.awaited = true;
        state.group.sync |= when == When::Synced;
        let ticket = Arc::clone(&state.group.ticket);
        let idle = std::mem::take(&mut state.idle);
        drop(state);
        if idle {
            self.shared.work.notify_one();
        } else {
            self.shared.has_work.store(true, Ordering::Relaxed);
        }
        Ok(Some(ticket))
    }

    /// Adds records that nobody waits for. They are lost when the journal fails for good; when the disk is
    /// full, only removals are kept for later.
    pub(super) fn append_lazily(&self, write: impl FnOnce(&mut Records)) {
        let mut state = self.shared.lock();
        if state.usable().is_err() {
            return;
        }
        write(&mut state.group.records);
        // Removals cannot wait for room, but there are never more of them than entries.
        let first = state.lazy_until.is_none();
        state.lazy_until.get_or_insert_with(|| Instant::now() + LAZY_DELAY);
        if first && std::mem::take(&mut state.idle) {
            drop(state);
            self.shared.work.notify_one();
        }
    }

    /// Why the journal takes nothing more, if it does not.
    pub(super) fn failure(&self) -> Option<Error> {
        self.shared.lock().usable().err()
    }

    /// Asks the loop to end, after everything that was added.
    pub(super) fn stop(&self) {
        self.shared.lock().stop = true;
        self.shared.work.notify_one();
    }

    /// Waits until the loop has ended and the journal is closed.
    pub(super) async fn closed(&self) -> Result<()> {
        self.shared.closed.wait().await
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing that can panic runs between two changes that belong together.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn usable(&self) -> Result<()> {
        match &self.failed {
            Some(error) => Err(error.clone()),
            None if self.stop => Err(stopped()),
            None => Ok(()),
        }
    }
}

impl Group {
    fn new(records: Records) -> Self {
        Self { records, ticket: Arc::default(), awaited: false, sync: false }
    }
}

/// The side of the thread.
pub(super) struct CommitLoop<F: FileSystem> {
    shared: Arc<Shared>,
    journal: Journal<F>,
    durability: Durability,
    /// Syncs what was acknowledged unsynced. Without it the loop does it when it has nothing else to do.
    background: Option<BackgroundSync<F::File>>,
    /// No files were set free since the last tidying.
    is_tidy: bool,
}

enum Work {
    Group(Group),
    Sync,
    Tidy,
    Stop(Group),
}

impl<F: FileSystem> CommitLoop<F> {
    /// Runs in a thread of its own until [`Commit::stop`].
    pub(super) fn spawn(mut self) -> io::Result<JoinHandle<()>> {
        if self.durability == Durability::Process {
            let shared = Arc::clone(&self.shared);
            self.background = Some(BackgroundSync::spawn(move || shared.sync_ended())?);
        }
        thread::Builder::new().name("zdm-queue".to_owned()).spawn(move || self.run())
    }

    pub(super) fn run(mut self) {
        loop {
            match self.next_work() {
                Work::Group(group) => self.commit(group),
                Work::Sync => self.sync_in_background(),
                Work::Tidy => self.tidy(),
                Work::Stop(group) => return self.close(group),
            }
        }
    }

    /// Commits what is there, without waiting. Returns whether there was anything.
    #[cfg(test)]
    pub(super) fn step(&mut self) -> bool {
        let group = self.shared.take_group(&mut self.shared.lock());
        let any = group.awaited || !group.records.is_empty();
        self.commit(group);
        self.tidy();
        any
    }

    /// Syncs what was acknowledged unsynced, as the thread beside it does: `meanwhile` happens after the
    /// sync has begun and before it has ended.
    #[cfg(test)]
    pub(super) fn sync_beside(&mut self, meanwhile: impl FnOnce(&mut Self)) -> Result<()> {
        use super::file_system::JournalFile;

        let (file, point) = self.journal.begin_sync()?;
        let result = file.sync_data();
        meanwhile(self);
        self.journal.end_sync(point, result)
    }

    fn next_work(&self) -> Work {
        let shared = &*self.shared;
        // Writers that were just told come back at once. To let them run first is cheaper than to fall
        // asleep and be woken by the first of them, and makes larger groups.
        for _ in 0..YIELDS {
            if shared.has_work.load(Ordering::Relaxed) {
                break;
            }
            thread::yield_now();
        }
        shared.has_work.store(false, Ordering::Relaxed);
        let mut state = shared.lock();
        loop {
            state.idle = false;
            if state.stop {
                return Work::Stop(shared.take_group(&mut state));
            }
            let now = Instant::now();
            let lazy_due = state.lazy_until.is_some_and(|until| until <= now);
            if state.group.awaited || lazy_due || state.group.records.frame_len() >= GROUP_BYTES {
                return Work::Group(shared.take_group(&mut state));
            }
            let sync_at =
                self.background.as_ref().and_then(|background| background.next_at(!self.journal.is_synced()));
            if std::mem::take(&mut state.synced) || sync_at.is_some_and(|at| at <= now) {
                return Work::Sync;
            }
            if !self.is_tidy {
                return Work::Tidy;
            }
            let until = [state.lazy_until, sync_at].into_iter().flatten().min();
            state.idle = true;
            state = match until {
                None => shared.work.wait(state).unwrap_or_else(PoisonError::into_inner),
                Some(until) => {
                    let wait = shared.work.wait_timeout(state, until.saturating_duration_since(now));
                    wait.unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
    }

    fn commit(&mut self, mut group: Group) {
        let result = self.store(&mut group);
        let stored = result.is_ok();
        group.ticket.finish(result);
        if stored {
            self.journal.note(&group.records);
            self.is_tidy = self.journal.is_tidy();
        }
        self.sync_in_background();

        let mut state = self.shared.lock();
        state.failed = self.journal.failure().cloned();
        if !stored && state.failed.is_none() {
            state.keep_removals(&group.records);
        }
        group.records.clear();
        state.buffer = Some(group.records);
    }

    fn store(&mut self, group: &mut Group) -> Result<()> {
        if !group.records.is_empty() {
            self.journal.append(&mut group.records)?;
        }
        if self.durability == Durability::Power || group.sync {
            self.journal.sync()?;
        }
        Ok(())
    }

    /// Starts and ends syncs of what was acknowledged unsynced. A failed one makes the journal refuse further use.
    fn sync_in_background(&mut self) {
        let Some(background) = &mut self.background else { return };
        let ended = background.take_ended();
        let failed = ended.is_some_and(|(point, result)| self.journal.end_sync(point, result).is_err());
        if failed {
            self.shared.lock().failed = self.journal.failure().cloned();
        } else if !self.journal.is_synced()
            && let Ok((file, point)) = self.journal.begin_sync()
        {
            background.start_if_due(file, point);
        }
    }

    /// Gives files back while there is nothing else to do. Tried once: on a full disk it may not work.
    fn tidy(&mut self) {
        self.is_tidy = true;
        if self.journal.tidy().is_err() {
            self.shared.lock().failed = self.journal.failure().cloned();
        }
    }

    fn close(mut self, group: Group) {
        self.commit(group);
        let closed = self.journal.close();
        // The lock is free before anybody is told.
        drop(self.background);
        self.shared.closed.finish(closed);
    }
}

impl Shared {
    fn sync_ended(&self) {
        let mut state = self.lock();
        state.synced = true;
        state.idle = false;
        drop(state);
        self.work.notify_one();
    }

    fn take_group(&self, state: &mut State) -> Group {
        let empty = Group::new(state.buffer.take().unwrap_or_default());
        let group = std::mem::replace(&mut state.group, empty);
        state.lazy_until = None;
        if group.records.frame_len() >= GROUP_BYTES {
            self.room.notify_waiters();
        }
        group
    }
}

impl State {
    fn keep_removals(&mut self, records: &Records) {
        let mut kept = false;
        for record in records.iter().map_while(Result::ok) {
            if let Record::Remove { .. } = record {
                self.group.records.push(record);
                kept = true;
            }
        }
        if kept {
            self.lazy_until = Some(Instant::now() + LAZY_RETRY);
        }
    }
}

fn stopped() -> Error {
    Error::new(Kind::Stopped, "the queue is closed: open it again")
}
