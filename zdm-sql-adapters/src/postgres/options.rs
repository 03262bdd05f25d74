use std::fmt;
use std::time::Duration;

use sqlx::postgres::PgConnectOptions;
use zdm_core::error::{Error, Kind, Result};

use super::Postgres;

/// How a database on a server is reached.
///
/// ```no_run
/// # async fn example() -> zdm_core::Result<()> {
/// use std::time::Duration;
/// use zdm_sql_adapters::postgres::PostgresOptions;
///
/// let db = PostgresOptions::new("postgres://app:secret@db.internal/shop")?
///     .write_timeout(Duration::from_secs(3))
///     .connect()
///     .await?;
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct PostgresOptions {
    pub(super) connect: PgConnectOptions,
    pub(super) database: String,
    pub(super) writers: u32,
    pub(super) readers: u32,
    pub(super) write_timeout: Duration,
    pub(super) read_timeout: Duration,
    lock_timeout: Option<Duration>,
}

impl fmt::Debug for PostgresOptions {
    /// Without the connection, which holds the password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PostgresOptions")
            .field("host", &self.connect.get_host())
            .field("port", &self.connect.get_port())
            .field("database", &self.database)
            .field("writers", &self.writers)
            .field("readers", &self.readers)
            .field("write_timeout", &self.write_timeout)
            .field("read_timeout", &self.read_timeout)
            .field("lock_timeout", &self.lock_timeout)
            .finish()
    }
}

impl PostgresOptions {
    /// The defaults for a URL, `postgres://user:password@host:port/database`.
    ///
    /// # Errors
    /// `Kind::Invalid` when it is not such a URL or names no database.
    pub fn new(url: &str) -> Result<Self> {
        // Without the URL itself in the messages: it holds the password.
        let wanted = "it looks like postgres://user:password@host:5432/database";
        if !url.starts_with("postgres://") && !url.starts_with("postgresql://") {
            let message = format!("the URL of the PostgreSQL server begins with another scheme; {wanted}");
            return Err(Error::new(Kind::Invalid, message));
        }
        let connect: PgConnectOptions = url.parse().map_err(|error: sqlx::Error| {
            let message = format!("the URL of the PostgreSQL server cannot be read; {wanted}");
            Error::new(Kind::Invalid, message).with_source(error)
        })?;
        Self::with(connect)
    }

    /// The defaults for connections that were set up with sqlx: sockets, certificates, a search path.
    ///
    /// # Errors
    /// `Kind::Invalid` when no database is named.
    pub fn with(connect: PgConnectOptions) -> Result<Self> {
        let Some(database) = connect.get_database().filter(|name| !name.is_empty()).map(str::to_owned) else {
            let message = "the URL of the PostgreSQL server names no database; add it behind the host: \
                           postgres://user:password@host:5432/database";
            return Err(Error::new(Kind::Invalid, message));
        };
        Ok(Self {
            connect,
            database,
            writers: 8,
            readers: 4,
            write_timeout: Duration::from_secs(5),
            read_timeout: Duration::from_secs(60),
            lock_timeout: None,
        })
    }

    /// How many transactions write at the same time, from 1 to 256. Default: 8. Connections are opened
    /// when they are needed.
    #[must_use]
    pub const fn writers(mut self, writers: u32) -> Self {
        self.writers = writers;
        self
    }

    /// How many connections read at the same time, from 1 to 256. Default: 4.
    #[must_use]
    pub const fn readers(mut self, readers: u32) -> Self {
        self.readers = readers;
        self
    }

    /// How long a write transaction may take from its start to its COMMIT, how long the server lets one of
    /// its statements run or its client be silent, and how long a call waits for a connection, from 100 ms
    /// to one hour. Default: 5 s. It makes the settle time.
    #[must_use]
    pub const fn write_timeout(mut self, write_timeout: Duration) -> Self {
        self.write_timeout = write_timeout;
        self
    }

    /// How long a statement that reads may take, from 100 ms to one day. Default: 60 s.
    #[must_use]
    pub const fn read_timeout(mut self, read_timeout: Duration) -> Self {
        self.read_timeout = read_timeout;
        self
    }

    /// How long a statement waits for the lock of another transaction, from 10 ms to the write timeout.
    /// Default: 2 s, or the write timeout where that is shorter.
    #[must_use]
    pub const fn lock_timeout(mut self, lock_timeout: Duration) -> Self {
        self.lock_timeout = Some(lock_timeout);
        self
    }

    /// Connects.
    ///
    /// # Errors
    /// `Kind::Invalid` naming a setting out of range, a database that is not there, or a server older than
    /// version 13; `Kind::Refused` when the server does not let this user in; `Kind::Unavailable` when it
    /// cannot be reached.
    pub async fn connect(self) -> Result<Postgres> {
        self.check()?;
        Postgres::open(self).await
    }

    /// How long a statement waits for a lock.
    pub(super) fn longest_lock(&self) -> Duration {
        self.lock_timeout.unwrap_or_else(|| Duration::from_secs(2).min(self.write_timeout))
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
        range("write_timeout", self.write_timeout.as_millis(), 100, 3_600_000, " ms")?;
        range("read_timeout", self.read_timeout.as_millis(), 100, 86_400_000, " ms")?;
        range("lock_timeout", self.longest_lock().as_millis(), 10, self.write_timeout.as_millis(), " ms")?;
        range("writers", u128::from(self.writers), 1, 256, "")?;
        range("readers", u128::from(self.readers), 1, 256, "")
    }
}
