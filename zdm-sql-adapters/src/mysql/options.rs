use std::fmt;
use std::time::Duration;

use sqlx::mysql::MySqlConnectOptions;
use zdm_core::error::{Error, Kind, Result};

use super::MySql;

/// How a database on a server is reached.
///
/// ```no_run
/// # async fn example() -> zdm_core::Result<()> {
/// use std::time::Duration;
/// use zdm_sql_adapters::mysql::MySqlOptions;
///
/// let db = MySqlOptions::new("mysql://app:secret@db.internal/shop")?
///     .write_timeout(Duration::from_secs(3))
///     .connect()
///     .await?;
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct MySqlOptions {
    pub(super) connect: MySqlConnectOptions,
    pub(super) database: String,
    pub(super) writers: u32,
    pub(super) readers: u32,
    pub(super) write_timeout: Duration,
    pub(super) read_timeout: Duration,
    lock_timeout: Option<Duration>,
    pub(super) kill_overdue: Option<bool>,
}

impl fmt::Debug for MySqlOptions {
    /// Without the connection, which holds the password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MySqlOptions")
            .field("host", &self.connect.get_host())
            .field("port", &self.connect.get_port())
            .field("database", &self.database)
            .field("writers", &self.writers)
            .field("readers", &self.readers)
            .field("write_timeout", &self.write_timeout)
            .field("read_timeout", &self.read_timeout)
            .field("lock_timeout", &self.lock_timeout)
            .field("kill_overdue", &self.kill_overdue)
            .finish()
    }
}

impl MySqlOptions {
    /// The defaults for a URL, `mysql://user:password@host:port/database`.
    ///
    /// # Errors
    /// `Kind::Invalid` when it is not such a URL or names no database.
    pub fn new(url: &str) -> Result<Self> {
        let connect: MySqlConnectOptions = url.parse().map_err(|error: sqlx::Error| {
            // Without the URL itself: it holds the password.
            let message =
                "the URL of the MySQL server cannot be read; it looks like mysql://user:password@host:3306/database";
            Error::new(Kind::Invalid, message).with_source(error)
        })?;
        Self::with(connect)
    }

    /// The defaults for connections that were set up with sqlx: sockets, certificates.
    ///
    /// # Errors
    /// `Kind::Invalid` when no database is named.
    pub fn with(connect: MySqlConnectOptions) -> Result<Self> {
        let Some(database) = connect.get_database().filter(|name| !name.is_empty()).map(str::to_owned) else {
            let message = "the URL of the MySQL server names no database; add it behind the host: \
                           mysql://user:password@host:3306/database";
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
            kill_overdue: None,
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

    /// How long a write transaction may take from its start to its COMMIT, and how long a call waits for
    /// a connection, from 100 ms to one hour. Default: 5 s. It makes the settle time.
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

    /// How long a statement waits for the lock of another transaction, from 1 s to the write timeout
    /// rounded up to seconds. Default: 2 s, or that where it is shorter. The server knows whole seconds only;
    /// the rest is rounded up.
    #[must_use]
    pub const fn lock_timeout(mut self, lock_timeout: Duration) -> Self {
        self.lock_timeout = Some(lock_timeout);
        self
    }

    /// Whether a write that is over its time is ended by a KILL from another connection. Default: only on
    /// MySQL, because MariaDB stops statements by itself. Needs no privilege beyond the user's own.
    #[must_use]
    pub const fn kill_overdue(mut self, kill: bool) -> Self {
        self.kill_overdue = Some(kill);
        self
    }

    /// Connects.
    ///
    /// # Errors
    /// `Kind::Invalid` naming a setting out of range, or a database that is not there; `Kind::Refused`
    /// when the server does not let this user in; `Kind::Unavailable` when it cannot be reached.
    pub async fn connect(self) -> Result<MySql> {
        self.check()?;
        MySql::open(self).await
    }

    /// How long a statement waits for a lock.
    pub(super) fn longest_lock(&self) -> Duration {
        self.lock_timeout.unwrap_or_else(|| {
            Duration::from_secs(2).min(Duration::from_secs(whole_seconds(self.write_timeout)))
        })
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
        let longest = u128::from(whole_seconds(self.write_timeout)) * 1_000;
        range("lock_timeout", self.longest_lock().as_millis(), 1_000, longest, " ms")?;
        range("writers", u128::from(self.writers), 1, 256, "")?;
        range("readers", u128::from(self.readers), 1, 256, "")
    }
}

/// Seconds, rounded up, at least one.
pub(super) fn whole_seconds(time: Duration) -> u64 {
    (time.as_secs() + u64::from(time.subsec_nanos() > 0)).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_password_is_not_shown() {
        let options = MySqlOptions::new("mysql://app:secret@db.internal/shop").unwrap();
        let shown = format!("{options:?}");
        assert!(shown.contains("db.internal") && !shown.contains("secret"), "{shown}");
        let error = MySqlOptions::new("mysql://app:secret@db:internal/shop").unwrap_err();
        assert!(!format!("{error:?}").contains("secret"), "{error:?}");
    }
}
