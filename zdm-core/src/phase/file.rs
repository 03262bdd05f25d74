use std::fs::{File, TryLockError};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use tokio::sync::Mutex;

use super::{Audit, Coordinator, Member, MemoryCoordinator, MoveRecord, Phase, PhaseRecord};
use crate::clock::{Clock, SystemClock};
use crate::error::{Certainty, Error, Kind, Result};
use crate::queue::Epoch;
use crate::sealed_file::{Seal, blocking, io_error, sibling};

// A process that was just started holds the locks of the one that started it, until it runs its own program.
const LOCK_ATTEMPTS: u32 = 20;
const LOCK_PAUSE: Duration = Duration::from_millis(5);

const SEAL: Seal = Seal {
    kind: "phase",
    format: 1,
    remedy: "put back a copy. It says which store is primary, so to remove it with its lock file and begin \
             anew may lose writes",
};

/// A coordinator for one process whose phase and history are kept in a file.
///
/// Members are kept in memory only: there is one process, and its operations end with it.
///
/// ```
/// use zdm_core::error::Kind;
/// use zdm_core::phase::{Audit, Coordinator, FileCoordinator, Phase};
///
/// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
/// # let folder = std::env::temp_dir().join(format!("zdm-doc-phase-{}", std::process::id()));
/// # std::fs::create_dir_all(&folder).unwrap();
/// let path = folder.join("users.phase");
/// let phases = FileCoordinator::open(&path, "users").await?;
/// let now = phases.current().await?;
/// let audit = Audit { by: "ada".into(), reason: "begin".into(), ..Audit::default() };
/// phases.advance(now.epoch, Phase::DualWrite, audit).await?;
/// assert_eq!(FileCoordinator::open(&path, "users").await.unwrap_err().kind(), Kind::Owned);
/// drop(phases);
///
/// let phases = FileCoordinator::open(&path, "users").await?;
/// assert_eq!(phases.current().await?.phase, Phase::DualWrite);
/// assert_eq!(phases.history().await?[0].audit.by, "ada");
/// # std::fs::remove_dir_all(&folder).unwrap();
/// # Ok::<_, zdm_core::Error>(()) }).unwrap();
/// ```
#[derive(Debug)]
pub struct FileCoordinator {
    own: Arc<Own>,
}

#[derive(Debug)]
struct Own {
    path: PathBuf,
    migration: String,
    memory: MemoryCoordinator,
    /// Held by a move until it is done, also when its caller has gone: whoever asks then learns the end.
    moving: Arc<Mutex<()>>,
    /// Set when nobody knows whether the file holds the last move.
    in_doubt: AtomicBool,
    /// Locked until it is dropped.
    _lock: File,
}

#[derive(Serialize, Deserialize)]
struct Body {
    migration: String,
    record: PhaseRecord,
    history: Vec<MoveRecord>,
}

impl FileCoordinator {
    /// Opens the file of a migration. Without a file, the migration begins in [`Phase::Off`] with epoch 1.
    ///
    /// # Errors
    /// As [`starting_in`](Self::starting_in).
    ///
    /// # Cancel safety
    /// As [`starting_in`](Self::starting_in).
    pub async fn open(path: impl Into<PathBuf>, migration: impl Into<String>) -> Result<Self> {
        Self::starting_in(path, migration, Phase::Off).await
    }

    /// Opens the file of a migration. Without a file, the migration begins in `phase` with epoch 1; a file
    /// that is there says itself where the migration stands. The folder must be there.
    ///
    /// # Errors
    /// `Kind::Owned` when another process has it open; `Kind::Invalid` when it belongs to another
    /// migration or a newer release; `Kind::Damaged` when it is not whole, or was there and is gone;
    /// `Kind::Unavailable` when it cannot be read or made. Each names the file.
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped; a file that was not there may be.
    pub async fn starting_in(
        path: impl Into<PathBuf>,
        migration: impl Into<String>,
        phase: Phase,
    ) -> Result<Self> {
        Self::with_clock(path, migration, phase, Arc::new(SystemClock)).await
    }

    /// As [`starting_in`](Self::starting_in), with a clock.
    ///
    /// # Errors
    /// As [`starting_in`](Self::starting_in).
    pub async fn with_clock(
        path: impl Into<PathBuf>,
        migration: impl Into<String>,
        phase: Phase,
        clock: Arc<dyn Clock>,
    ) -> Result<Self> {
        let (path, migration) = (path.into(), migration.into());
        let own = blocking(move || Own::open(path, migration, phase, clock)).await?;
        Ok(Self { own: Arc::new(own) })
    }
}

impl FileCoordinator {
    /// Changes the record, one at a time. The work owns what it needs, so it ends whole even if this future
    /// is dropped.
    async fn change(
        &self,
        change: impl FnOnce(&Own) -> Result<PhaseRecord> + Send + 'static,
    ) -> Result<PhaseRecord> {
        let own = Arc::clone(&self.own);
        let one_at_a_time = Arc::clone(&own.moving).lock_owned().await;
        blocking(move || {
            let record = change(&own);
            drop(one_at_a_time);
            record
        })
        .await
    }
}

impl Own {
    fn open(path: PathBuf, migration: String, phase: Phase, clock: Arc<dyn Clock>) -> Result<Self> {
        let mut lock = lock(&path)?;
        let mut mark = String::new();
        lock.read_to_string(&mut mark).map_err(|error| io_error("read the lock file of", &path, error))?;
        let body = match SEAL.read(&path)? {
            Some(bytes) => serde_json::from_slice::<Body>(&bytes)
                .map_err(|error| SEAL.damaged(&path, "its body is not a phase").with_source(error))?,
            None if !mark.is_empty() => return Err(SEAL.damaged(&path, "it was there and is gone")),
            None => {
                let record =
                    PhaseRecord { phase, epoch: Epoch(1), since: clock.unix_millis(), handover: None };
                let body = Body { migration: migration.clone(), record, history: Vec::new() };
                write(&path, &body)?;
                body
            }
        };
        if body.migration != migration {
            let message = format!(
                "the phase file {} belongs to the migration {:?}, not to {migration:?}: give each migration a \
                 file of its own",
                path.display(),
                body.migration
            );
            return Err(Error::new(Kind::Invalid, message));
        }
        if mark.is_empty() {
            // From now on a missing phase file is a loss and not a beginning.
            lock.write_all(b"The phase file beside this one has been made.\n")
                .and_then(|()| lock.sync_all())
                .map_err(|error| io_error("mark the lock file of", &path, error))?;
        }
        let memory = MemoryCoordinator::restored(body.record, body.history, clock);
        Ok(Self {
            path,
            migration,
            memory,
            moving: Arc::default(),
            in_doubt: AtomicBool::new(false),
            _lock: lock,
        })
    }

    fn advance(&self, expected: Epoch, to: Phase, audit: Audit) -> Result<PhaseRecord> {
        self.check()?;
        let (record, made) = self.memory.plan(expected, to, audit)?;
        self.store(record, Some(made))
    }

    /// Writes a record to the file, and takes it.
    fn store(&self, record: PhaseRecord, made: Option<MoveRecord>) -> Result<PhaseRecord> {
        let mut history = self.memory.moves();
        history.extend(made.clone());
        let body = Body { migration: self.migration.clone(), record: record.clone(), history };
        write(&self.path, &body).inspect_err(|error| {
            if error.certainty() == Certainty::Unknown {
                self.in_doubt.store(true, Ordering::Release);
            }
        })?;
        self.memory.install(record.clone(), made);
        Ok(record)
    }

    fn check(&self) -> Result<()> {
        if self.in_doubt.load(Ordering::Acquire) {
            let message = format!(
                "nobody knows whether the last move is in the phase file {}: stop this process, see to the \
                 disk, and start again",
                self.path.display()
            );
            return Err(Error::new(Kind::Stopped, message));
        }
        Ok(())
    }
}

fn lock(path: &Path) -> Result<File> {
    let lock_path = sibling(path, ".lock");
    let lock = File::options().create(true).read(true).append(true).open(&lock_path);
    let lock = lock.map_err(|error| io_error("open", &lock_path, error).not_applied())?;
    for _ in 1..LOCK_ATTEMPTS {
        if !matches!(lock.try_lock(), Err(TryLockError::WouldBlock)) {
            break;
        }
        std::thread::sleep(LOCK_PAUSE);
    }
    // What is held already may be taken again.
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(TryLockError::WouldBlock) => {
            let message = format!(
                "the phase file {} is open already, here or in another process, which holds the lock on {}: a \
                 phase file is for one process, several share their phase through a database",
                path.display(),
                lock_path.display()
            );
            Err(Error::new(Kind::Owned, message))
        }
        Err(TryLockError::Error(error)) => Err(io_error("lock", &lock_path, error)),
    }
}

fn write(path: &Path, body: &Body) -> Result<()> {
    let bytes = serde_json::to_vec(body).map_err(|error| {
        Error::new(Kind::Invalid, "cannot write the phase and its history as JSON").with_source(error)
    })?;
    SEAL.replace(path, &bytes)
}

#[async_trait]
impl Coordinator for FileCoordinator {
    async fn current(&self) -> Result<PhaseRecord> {
        drop(self.own.moving.lock().await);
        self.own.check()?;
        self.own.memory.current().await
    }

    async fn advance(&self, expected: Epoch, to: Phase, audit: Audit) -> Result<PhaseRecord> {
        self.change(move |own| own.advance(expected, to, audit)).await
    }

    /// Never: a file has one process.
    fn is_shared(&self) -> bool {
        false
    }

    async fn announce(&self, expected: Epoch, to: Phase) -> Result<PhaseRecord> {
        self.change(move |own| {
            own.check()?;
            own.store(own.memory.plan_announcement(expected, to)?, None)
        })
        .await
    }

    async fn withdraw(&self, expected: Epoch) -> Result<PhaseRecord> {
        self.change(move |own| {
            own.check()?;
            own.store(own.memory.plan_withdrawal(expected)?, None)
        })
        .await
    }

    async fn history(&self) -> Result<Vec<MoveRecord>> {
        drop(self.own.moving.lock().await);
        self.own.check()?;
        self.own.memory.history().await
    }

    async fn changed(&self, known: Epoch) -> Result<PhaseRecord> {
        self.own.memory.changed(known).await
    }

    async fn report(&self, member: Member, lease: Duration) -> Result<()> {
        self.own.memory.report(member, lease).await
    }

    async fn members(&self) -> Result<Vec<Member>> {
        self.own.memory.members().await
    }

    async fn leave(&self, name: &str) -> Result<()> {
        self.own.memory.leave(name).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::phase::{Gate, GateCheck, Override, Percent};
    use crate::sealed_file::tests::TestDir;
    use std::fs;

    fn audit() -> Audit {
        let check = GateCheck {
            gate: Gate::BackfillComplete,
            passed: false,
            value: "3 rows left".into(),
            needed: "no row left".into(),
        };
        let word =
            Override { gate: Gate::BackfillComplete, by: "ada".into(), reason: "test \"data\"".into() };
        Audit { by: "ada".into(), reason: "ü".into(), checks: vec![check], overrides: vec![word] }
    }

    #[tokio::test]
    async fn phase_and_history_come_back() {
        let dir = TestDir::new();
        let phases = FileCoordinator::open(dir.path("users.phase"), "users").await.unwrap();
        let ramp = Phase::Ramp(Percent::new(12.5).unwrap());
        for (epoch, to) in [(1, Phase::DualWrite), (2, Phase::Shadow), (3, ramp)] {
            phases.advance(Epoch(epoch), to, audit()).await.unwrap();
        }
        let (record, history) = (phases.current().await.unwrap(), phases.history().await.unwrap());
        assert_eq!((record.phase, record.epoch), (ramp, Epoch(4)));
        drop(phases);
        let phases = FileCoordinator::open(dir.path("users.phase"), "users").await.unwrap();
        assert_eq!(phases.current().await.unwrap(), record);
        assert_eq!(phases.history().await.unwrap(), history);
        assert_eq!(history.len(), 3);
        assert_eq!(history[2].audit, audit());
    }

    #[tokio::test]
    async fn another_migration_and_a_second_owner_are_refused_by_name() {
        let dir = TestDir::new();
        let path = dir.path("users.phase");
        let phases = FileCoordinator::open(&path, "users").await.unwrap();
        let error = FileCoordinator::open(&path, "users").await.unwrap_err();
        assert_eq!(error.kind(), Kind::Owned);
        assert!(error.to_string().contains(path.to_str().unwrap()), "{error}");
        drop(phases);
        let error = FileCoordinator::open(&path, "orders").await.unwrap_err();
        assert_eq!(error.kind(), Kind::Invalid);
        let text = error.to_string();
        assert!(text.contains("\"users\"") && text.contains("\"orders\""), "{text}");
        FileCoordinator::open(&path, "users").await.unwrap();
    }

    #[tokio::test]
    async fn a_damaged_file_never_looks_like_a_new_migration() {
        let dir = TestDir::new();
        let path = dir.path("users.phase");
        drop(FileCoordinator::open(&path, "users").await.unwrap());
        let whole = fs::read(&path).unwrap();
        for at in 0..whole.len() {
            fs::write(&path, &whole[..at]).unwrap();
            let error = FileCoordinator::open(&path, "users").await.unwrap_err();
            assert_eq!(error.kind(), Kind::Damaged, "cut at {at}");
            assert!(error.to_string().contains(path.to_str().unwrap()), "{error}");
            if at > 0 {
                let mut flipped = whole.clone();
                flipped[at - 1] ^= 1;
                fs::write(&path, flipped).unwrap();
                let error = FileCoordinator::open(&path, "users").await.unwrap_err();
                assert_eq!(error.kind(), Kind::Damaged, "byte {at}");
            }
        }
        // Sealed well, but of a phase that this release does not know.
        let body = String::from_utf8(whole[whole.iter().position(|b| *b == b'\n').unwrap() + 1..].to_vec());
        SEAL.replace(&path, body.unwrap().replace("off", "sideways").as_bytes()).unwrap();
        let error = FileCoordinator::open(&path, "users").await.unwrap_err();
        assert_eq!(error.kind(), Kind::Damaged);
        assert!(format!("{error:?}").contains("sideways"), "{error:?}");
    }

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn a_move_that_cannot_be_stored_has_not_happened() {
        let dir = TestDir::new();
        let path = dir.path("users.phase");
        let phases = FileCoordinator::open(&path, "users").await.unwrap();
        std::os::unix::fs::symlink("/dev/full", sibling(&path, ".tmp")).unwrap();
        let error = phases.advance(Epoch(1), Phase::DualWrite, audit()).await.unwrap_err();
        assert_eq!((error.kind(), error.certainty()), (Kind::Unavailable, Certainty::NotApplied));
        assert_eq!(phases.current().await.unwrap().phase, Phase::Off);
        assert!(phases.history().await.unwrap().is_empty());
        phases.advance(Epoch(1), Phase::DualWrite, audit()).await.unwrap();
    }

    #[tokio::test]
    async fn a_file_that_is_gone_is_a_loss_and_not_a_beginning() {
        let dir = TestDir::new();
        let path = dir.path("users.phase");
        drop(FileCoordinator::starting_in(&path, "users", Phase::Live).await.unwrap());
        drop(FileCoordinator::open(&path, "users").await.unwrap());
        fs::remove_file(&path).unwrap();
        let error = FileCoordinator::open(&path, "users").await.unwrap_err();
        assert_eq!(error.kind(), Kind::Damaged);
        assert!(
            error.to_string().contains("users.phase") && error.to_string().contains("is gone"),
            "{error}"
        );
    }

    #[tokio::test]
    async fn the_file_and_not_the_caller_says_where_the_migration_stands() {
        let dir = TestDir::new();
        let path = dir.path("users.phase");
        let phases = FileCoordinator::starting_in(&path, "users", Phase::Shadow).await.unwrap();
        assert_eq!(
            phases.advance(Epoch(1), Phase::Complete, audit()).await.unwrap_err().kind(),
            Kind::Refused
        );
        phases.advance(Epoch(1), Phase::Live, audit()).await.unwrap();
        assert_eq!(phases.advance(Epoch(1), Phase::Shadow, audit()).await.unwrap_err().kind(), Kind::Refused);
        drop(phases);
        let phases = FileCoordinator::starting_in(&path, "users", Phase::Shadow).await.unwrap();
        assert_eq!(phases.current().await.unwrap().phase, Phase::Live);
    }

    #[cfg(unix)]
    #[tokio::test]
    async fn after_a_move_in_doubt_nobody_goes_on() {
        let dir = TestDir::new();
        let path = dir.path("users.phase");
        let phases = FileCoordinator::open(&path, "users").await.unwrap();
        phases.own.in_doubt.store(true, Ordering::Release);
        assert_eq!(phases.current().await.unwrap_err().kind(), Kind::Stopped);
        let error = phases.advance(Epoch(1), Phase::DualWrite, audit()).await.unwrap_err();
        assert!(error.kind() == Kind::Stopped && error.to_string().contains("users.phase"), "{error}");
    }

    #[tokio::test]
    async fn a_dropped_move_is_recorded_whole_or_not_at_all() {
        let dir = TestDir::new();
        let phases = FileCoordinator::open(dir.path("users.phase"), "users").await.unwrap();
        for _ in 0..50 {
            let now = phases.current().await.unwrap();
            let to = if now.phase == Phase::Off { Phase::DualWrite } else { Phase::Off };
            let moving = phases.advance(now.epoch, to, audit());
            // Polled once, so that the file work begins, and dropped.
            drop(tokio::time::timeout(Duration::ZERO, moving).await);
            // `current` waits for the work that goes on.
            let then = phases.current().await.unwrap();
            assert_eq!((then.phase, then.epoch), (to, now.epoch.next()));
        }
        assert_eq!(phases.history().await.unwrap().len(), 50);
    }
}
