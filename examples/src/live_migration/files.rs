//! The directory of a migration: what lies in it, who may use it, and what a killed run left.

use std::fs::{File, OpenOptions, TryLockError};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::ledger::Ledger;
use super::load::load;
use super::options::{Options, TemporaryDirectory};
use super::{Doing, FLIGHTS_IN_2013, Failure, Result};

const LOCK_TRIES: u32 = 20;
const LOCK_PAUSE: Duration = Duration::from_millis(50);

/// The files of one migration. They stay locked while this lives.
#[derive(Debug)]
pub struct Files {
    dir: PathBuf,
    _lock: File,
    /// Dropped last, after the lock.
    _temporary: Option<TemporaryDirectory>,
}

/// What a run begins with.
#[derive(Debug)]
pub struct Prepared {
    /// The record of writes, new or continued.
    pub ledger: Ledger,
    /// Flights that the old database was loaded with.
    pub rows: u64,
    /// Whether an earlier run was continued.
    pub resumed: bool,
}

impl Files {
    /// Uses the directory that was asked for, or a temporary one.
    ///
    /// # Errors
    /// The directory cannot be made or written, or another process uses it.
    pub fn open(options: &Options) -> Result<Self> {
        let (dir, temporary) = match &options.dir {
            Some(dir) => (dir.clone(), None),
            None => {
                let temporary = TemporaryDirectory::create()?;
                (temporary.path().to_owned(), Some(temporary))
            }
        };
        let failed = || format!("the directory {} cannot be used", dir.display());
        std::fs::create_dir_all(&dir).doing(failed)?;
        let file = OpenOptions::new().create(true).append(true).open(dir.join("lock")).doing(failed)?;
        let mut locked = file.try_lock();
        // A process that was just killed may need a moment to go.
        for _ in 0..LOCK_TRIES {
            if !matches!(locked, Err(TryLockError::WouldBlock)) {
                break;
            }
            std::thread::sleep(LOCK_PAUSE);
            locked = file.try_lock();
        }
        match locked {
            Ok(()) => Ok(Self { dir, _lock: file, _temporary: temporary }),
            Err(TryLockError::WouldBlock) => Err(Failure::new(format!(
                "another process migrates in {}; wait for it, or give another --dir",
                dir.display()
            ))),
            Err(TryLockError::Error(error)) => Err(error).doing(failed),
        }
    }

    /// Loads the old database, or finds it loaded. The ledger is made last, so without one nothing counts.
    ///
    /// # Errors
    /// A file cannot be read or written, or the directory holds a migration of another number of rows.
    pub async fn prepare(&self, rows: Option<u64>) -> Result<Prepared> {
        if self.ledger().exists() {
            let (ledger, loaded) = Ledger::resume(&self.ledger())?;
            if let Some(wanted) = rows.filter(|wanted| *wanted != loaded) {
                let dir = self.dir.display();
                return Err(Failure::new(format!(
                    "{dir} holds a migration of {loaded} rows, not {wanted}; leave out --rows, or give another --dir"
                )));
            }
            return Ok(Prepared { ledger, rows: loaded, resumed: true });
        }
        for suffix in ["", "-wal", "-shm", "-journal"] {
            let left = self.dir.join(format!("old.db{suffix}"));
            match std::fs::remove_file(&left) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(error).doing(|| format!("{} cannot be removed", left.display()));
                }
                _ => {}
            }
        }
        let rows = load(&self.old(), rows.unwrap_or(FLIGHTS_IN_2013)).await?;
        Ok(Prepared { ledger: Ledger::create(&self.ledger(), rows)?, rows, resumed: false })
    }

    /// The old database.
    pub fn old(&self) -> PathBuf {
        self.dir.join("old.db")
    }

    /// The new database.
    pub fn new_database(&self) -> PathBuf {
        self.dir.join("new.db")
    }

    /// The record of the load generator.
    pub fn ledger(&self) -> PathBuf {
        self.dir.join("ledger")
    }

    /// Where zdm keeps a file or directory of its own.
    pub fn zdm(&self, name: &str) -> PathBuf {
        self.dir.join("zdm").join(name)
    }

    /// The directory of all of them.
    pub fn dir(&self) -> &Path {
        &self.dir
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_directory_has_one_user_and_one_number_of_rows() {
        let dir = TemporaryDirectory::create().unwrap();
        let options = Options { dir: Some(dir.path().join("kept")), ..Options::default() };
        let files = Files::open(&options).unwrap();
        let error = Files::open(&options).unwrap_err().to_string();
        assert!(error.contains("another process") && error.contains("kept"), "{error}");

        // A run that was killed while it loaded has left a file that is no database yet.
        std::fs::write(files.old(), "half a database").unwrap();
        let first = files.prepare(Some(30)).await.unwrap();
        assert_eq!((first.rows, first.resumed), (30, false));
        drop(first);
        let again = files.prepare(None).await.unwrap();
        assert_eq!((again.rows, again.resumed), (30, true));
        let error = files.prepare(Some(31)).await.unwrap_err().to_string();
        assert!(error.contains("30 rows, not 31"), "{error}");
    }
}
