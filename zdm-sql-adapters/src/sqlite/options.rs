use std::path::{Path, PathBuf};
use std::time::Duration;

use zdm_core::error::{Error, Kind, Result};

use super::Sqlite;

/// When a commit is on the disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Synchronous {
    /// At every commit. Survives a loss of power.
    #[default]
    Full,
    /// At every checkpoint. Survives the death of the process; a loss of power may take the last commits
    /// back, and never damages the file.
    Normal,
}

/// How a database file is opened.
///
/// ```no_run
/// # async fn example() -> zdm_core::Result<()> {
/// use zdm_sql_adapters::sqlite::{SqliteOptions, Synchronous};
///
/// let db = SqliteOptions::new("new.db").create(true).synchronous(Synchronous::Normal).open().await?;
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
pub struct SqliteOptions {
    pub(super) path: PathBuf,
    pub(super) create: bool,
    pub(super) wal: bool,
    pub(super) synchronous: Synchronous,
    pub(super) foreign_keys: bool,
    pub(super) busy_timeout: Duration,
    pub(super) write_timeout: Duration,
    pub(super) readers: u32,
    pub(super) cache_kib: u32,
}

impl SqliteOptions {
    /// The defaults for a file.
    pub fn new(path: impl AsRef<Path>) -> Self {
        Self {
            path: path.as_ref().to_owned(),
            create: false,
            wal: true,
            synchronous: Synchronous::Full,
            foreign_keys: true,
            busy_timeout: Duration::from_secs(1),
            write_timeout: Duration::from_secs(5),
            readers: 4,
            cache_kib: 8 * 1024,
        }
    }

    /// Whether a file that is not there is created. Default: no, a wrong path is an error.
    #[must_use]
    pub const fn create(mut self, create: bool) -> Self {
        self.create = create;
        self
    }

    /// Whether the file is put into WAL mode, in which readers and the writer do not wait for each other.
    /// Default: yes. The mode stays with the file.
    #[must_use]
    pub const fn wal(mut self, wal: bool) -> Self {
        self.wal = wal;
        self
    }

    /// When a commit is on the disk. Default: [`Synchronous::Full`], because less could lose data.
    #[must_use]
    pub const fn synchronous(mut self, synchronous: Synchronous) -> Self {
        self.synchronous = synchronous;
        self
    }

    /// Whether foreign keys are enforced. Default: yes.
    #[must_use]
    pub const fn foreign_keys(mut self, foreign_keys: bool) -> Self {
        self.foreign_keys = foreign_keys;
        self
    }

    /// How long a statement waits for the lock of another connection, from 1 ms to the write timeout.
    /// Default: 1 s.
    #[must_use]
    pub const fn busy_timeout(mut self, busy_timeout: Duration) -> Self {
        self.busy_timeout = busy_timeout;
        self
    }

    /// How long a write transaction may take from its start to its COMMIT, and how long a call waits for
    /// the writer, from 10 ms to one hour. Default: 5 s. With the busy timeout it makes the settle time.
    #[must_use]
    pub const fn write_timeout(mut self, write_timeout: Duration) -> Self {
        self.write_timeout = write_timeout;
        self
    }

    /// How many connections read at the same time, from 1 to 64. Default: 4.
    #[must_use]
    pub const fn readers(mut self, readers: u32) -> Self {
        self.readers = readers;
        self
    }

    /// Page cache of the connection that writes, in KiB, from 64 to 1,048,576. Default: 8,192. Those that
    /// read keep at most 2,048 each: the operating system has the same pages.
    #[must_use]
    pub const fn cache_kib(mut self, cache_kib: u32) -> Self {
        self.cache_kib = cache_kib;
        self
    }

    /// Opens the file.
    ///
    /// # Errors
    /// `Kind::Invalid` naming a setting out of range; `Kind::Unavailable` when the file cannot be opened;
    /// `Kind::Damaged` when it is not a database.
    pub async fn open(self) -> Result<Sqlite> {
        self.check()?;
        Sqlite::with(self).await
    }

    fn check(&self) -> Result<()> {
        let range = |name: &str, value: u128, low: u128, high: u128, unit: &str| {
            if (low..=high).contains(&value) {
                return Ok(());
            }
            let message =
                format!("{name} is {value}{unit}; it must lie between {low}{unit} and {high}{unit}");
            Err(Error::new(Kind::Invalid, message))
        };
        let write_timeout = self.write_timeout.as_millis();
        range("write_timeout", write_timeout, 10, 3_600_000, " ms")?;
        range("busy_timeout", self.busy_timeout.as_millis(), 1, write_timeout, " ms")?;
        range("readers", u128::from(self.readers), 1, 64, "")?;
        range("cache_kib", u128::from(self.cache_kib), 64, 1 << 20, " KiB")
    }
}
