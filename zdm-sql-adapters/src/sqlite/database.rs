use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use futures_util::future::BoxFuture;
use sqlx::pool::PoolConnection;
use sqlx::sqlite::{
    SqliteConnectOptions, SqliteConnection, SqliteJournalMode, SqlitePool, SqlitePoolOptions,
    SqliteSynchronous,
};
use sqlx::{AssertSqlSafe, ConnectOptions, Connection};
use tokio::sync::oneshot;
use zdm_core::error::{Error, Kind, Result};

use super::classify::{classify, code_of, refused_at_commit};
use super::{SqliteOptions, Synchronous, capture};

/// A database file: one connection that writes, several that read. Cheap to clone.
///
/// SQLite has a single writer, so every write of the process goes through one connection and waits its
/// turn here, and not in SQLite's busy loop.
///
/// Every write runs in a task of its own: a caller that is dropped in the middle leaves neither a
/// connection in a transaction nor half a change.
#[derive(Clone, Debug)]
pub struct Sqlite {
    writer: SqlitePool,
    readers: SqlitePool,
    deadline: Arc<Deadline>,
    options: Arc<SqliteOptions>,
}

impl Sqlite {
    /// Opens an existing file with the defaults of [`SqliteOptions`].
    ///
    /// # Errors
    /// As [`SqliteOptions::open`].
    pub async fn open(path: impl AsRef<Path>) -> Result<Self> {
        SqliteOptions::new(path).open().await
    }

    /// Opens a file with the defaults of [`SqliteOptions`], and creates it if it is not there.
    ///
    /// # Errors
    /// As [`SqliteOptions::open`].
    pub async fn create(path: impl AsRef<Path>) -> Result<Self> {
        SqliteOptions::new(path).create(true).open().await
    }

    pub(super) async fn with(options: SqliteOptions) -> Result<Self> {
        let deadline = Arc::new(Deadline::new());
        let doing = format!("opening {}", options.path.display());
        let connect = SqliteConnectOptions::new()
            .filename(&options.path)
            .create_if_missing(options.create)
            .foreign_keys(options.foreign_keys)
            .busy_timeout(options.busy_timeout)
            .synchronous(match options.synchronous {
                Synchronous::Full => SqliteSynchronous::Full,
                Synchronous::Normal => SqliteSynchronous::Normal,
            })
            // The statements of a table come in powers of two, and there may be several tables.
            .statement_cache_capacity(512)
            .disable_statement_logging();
        let connect = if options.wal { connect.journal_mode(SqliteJournalMode::Wal) } else { connect };

        let armed = Arc::clone(&deadline);
        let writer = pool(1, options.write_timeout)
            .after_connect(move |connection, _| {
                let deadline = Arc::clone(&armed);
                Box::pin(async move {
                    let mut handle = connection.lock_handle().await?;
                    // Often enough to stop a statement within a millisecond, too rarely to be felt.
                    handle.set_progress_handler(10_000, move || !deadline.has_passed());
                    Ok(())
                })
            })
            .connect_with(connect.clone().pragma("cache_size", format!("-{}", options.cache_kib)))
            .await
            .map_err(|error| classify(error, &doing))?;
        let cache = format!("-{}", options.cache_kib.min(2_048));
        let connect = connect.create_if_missing(false).pragma("cache_size", cache).pragma("query_only", "1");
        let readers = pool(options.readers, options.write_timeout)
            .connect_with(connect)
            .await
            .map_err(|error| classify(error, &doing))?;
        Ok(Self { writer, readers, deadline, options: Arc::new(options) })
    }

    /// The connections that read, for queries of your own. They refuse to write.
    pub const fn readers(&self) -> &SqlitePool {
        &self.readers
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.options.path
    }

    /// How long a write whose caller has given up can still take effect: the write timeout, which is
    /// enforced by interrupting the statement and refusing the COMMIT, and the busy timeout, for which a
    /// COMMIT may wait outside WAL mode. Only a disk that hangs can outlast it.
    pub fn settle_time(&self) -> Duration {
        self.options.write_timeout + self.options.busy_timeout
    }

    /// Runs statements, separated by semicolons, in one transaction. For schemas and tests.
    ///
    /// # Errors
    /// Whatever SQLite says; then none of them took effect.
    ///
    /// # Cancel safety
    /// As [`write`](Self::write).
    pub async fn execute(&self, statements: impl Into<String>) -> Result<()> {
        let statements = statements.into();
        self.write(move |connection| {
            Box::pin(async move {
                sqlx::raw_sql(AssertSqlSafe(statements))
                    .execute(connection)
                    .await
                    .map_err(|error| classify(error, "running statements"))?;
                Ok(())
            })
        })
        .await
    }

    /// Runs `work` in one write transaction, which commits when it returns `Ok` and rolls back otherwise.
    /// Do not begin, commit or roll back inside; savepoints are fine.
    ///
    /// ```no_run
    /// # async fn example(db: zdm_sql_adapters::sqlite::Sqlite) -> zdm_core::Result<()> {
    /// use zdm_sql_adapters::sqlite::classify;
    ///
    /// db.write(|connection| Box::pin(async move {
    ///     sqlx::query("UPDATE users SET name = ? WHERE id = ?").bind("Ada").bind(7)
    ///         .execute(connection).await.map_err(|error| classify(error, "renaming a user"))
    /// })).await?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// What `work` returns, or what SQLite says about the transaction. Everything before COMMIT is
    /// certainly not applied, and so is a COMMIT that SQLite refuses; one that the disk fails is unknown.
    ///
    /// # Cancel safety
    /// When the future is dropped, the transaction has not begun and never will, or it commits or rolls
    /// back as a whole within the [`settle_time`](Self::settle_time).
    pub async fn write<T, W>(&self, work: W) -> Result<T>
    where
        T: Send + 'static,
        W: for<'c> FnOnce(&'c mut SqliteConnection) -> BoxFuture<'c, Result<T>> + Send + 'static,
    {
        let (mut answer, outcome) = oneshot::channel();
        let db = self.clone();
        tokio::spawn(async move {
            let result = db.run(work, &mut answer).await;
            // Nobody listens any more when the caller has given up.
            let _ = answer.send(result);
        });
        outcome.await.unwrap_or_else(|_| {
            let message =
                "the task of a write ended without an answer: it panicked, or the runtime shuts down";
            Err(Error::new(Kind::Stopped, message).unknown())
        })
    }

    /// As [`write`](Self::write), for rows that come from the other side: triggers do not note them.
    pub(super) async fn mirror<T, W>(&self, work: W) -> Result<T>
    where
        T: Send + 'static,
        W: for<'c> FnOnce(&'c mut SqliteConnection) -> BoxFuture<'c, Result<T>> + Send + 'static,
    {
        self.write(move |connection| {
            Box::pin(async move {
                let noted = capture::begin_mirroring(connection).await?;
                let outcome = work(connection).await?;
                if noted {
                    capture::end_mirroring(connection).await?;
                }
                Ok(outcome)
            })
        })
        .await
    }

    /// Closes all connections, after waiting for those in use.
    pub async fn close(&self) {
        self.readers.close().await;
        self.writer.close().await;
    }

    pub(super) async fn reader(&self) -> Result<PoolConnection<sqlx::Sqlite>> {
        self.readers.acquire().await.map_err(|error| classify(error, "waiting for a reader"))
    }

    pub(super) fn synchronous(&self) -> Synchronous {
        self.options.synchronous
    }

    pub(super) fn has_foreign_keys(&self) -> bool {
        self.options.foreign_keys
    }

    async fn run<T, W>(&self, work: W, answer: &mut oneshot::Sender<Result<T>>) -> Result<T>
    where
        W: for<'c> FnOnce(&'c mut SqliteConnection) -> BoxFuture<'c, Result<T>> + Send,
    {
        let mut connection = tokio::select! {
            biased;
            () = answer.closed() => return Err(abandoned()),
            connection = self.writer.acquire() => {
                connection.map_err(|error| classify(error, "waiting for the writer").not_applied())?
            }
        };
        self.deadline.arm(self.options.write_timeout);
        let result = self.transact(&mut connection, work, answer).await;
        self.deadline.disarm();
        settle(connection).await;
        result
    }

    async fn transact<T, W>(
        &self,
        connection: &mut SqliteConnection,
        work: W,
        answer: &oneshot::Sender<Result<T>>,
    ) -> Result<T>
    where
        W: for<'c> FnOnce(&'c mut SqliteConnection) -> BoxFuture<'c, Result<T>> + Send,
    {
        // IMMEDIATE takes the write lock now; a later upgrade could fail in the middle.
        let mut transaction = connection
            .begin_with("BEGIN IMMEDIATE")
            .await
            .map_err(|error| classify(error, "beginning a transaction").not_applied())?;
        let mut result = work(&mut transaction).await;
        if result.is_ok() {
            if answer.is_closed() {
                result = Err(abandoned());
            } else if self.deadline.has_passed() {
                let message = format!("the write took longer than {:?}", self.options.write_timeout);
                result = Err(Error::new(Kind::Timeout, message));
            }
        }
        match result {
            Ok(value) => match transaction.commit().await {
                Ok(()) => Ok(value),
                Err(error) => {
                    let certain = refused_at_commit(code_of(&error));
                    let error = classify(error, "committing");
                    Err(if certain { error.not_applied() } else { error })
                }
            },
            Err(error) => {
                // SQLite may have rolled back by itself, on a full disk for one. `settle` looks.
                let _ = transaction.rollback().await;
                Err(error.not_applied())
            }
        }
    }
}

fn abandoned() -> Error {
    Error::new(Kind::Stopped, "the caller has given up").not_applied()
}

/// Gives a connection back, or closes it if it may still be in a transaction.
async fn settle(mut connection: PoolConnection<sqlx::Sqlite>) {
    // A failed COMMIT has queued its rollback; the ping waits behind it.
    let sound =
        !connection.is_in_transaction() || connection.ping().await.is_ok() && !connection.is_in_transaction();
    if !sound {
        tracing::warn!("closing a connection that is still in a transaction");
        let _ = connection.close().await;
    }
}

fn pool(size: u32, acquire_timeout: Duration) -> SqlitePoolOptions {
    SqlitePoolOptions::new()
        .max_connections(size)
        .acquire_timeout(acquire_timeout)
        .idle_timeout(None)
        .max_lifetime(None)
        .test_before_acquire(false)
        // A statement on a connection that is inside a stray transaction would report success and
        // never be committed. Such a connection is closed instead.
        .before_acquire(|connection, _| {
            let sound = !connection.is_in_transaction();
            Box::pin(async move { Ok(sound) })
        })
}

/// When the running write must stop. In real time: SQLite does not follow tokio's clock.
#[derive(Debug)]
struct Deadline {
    start: Instant,
    /// Milliseconds after the start; the greatest number when no write runs.
    at: AtomicU64,
}

impl Deadline {
    fn new() -> Self {
        Self { start: Instant::now(), at: AtomicU64::new(u64::MAX) }
    }

    fn passed(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn arm(&self, after: Duration) {
        let after = u64::try_from(after.as_millis()).unwrap_or(u64::MAX);
        self.at.store(self.passed().saturating_add(after), Ordering::Relaxed);
    }

    fn disarm(&self) {
        self.at.store(u64::MAX, Ordering::Relaxed);
    }

    fn has_passed(&self) -> bool {
        self.at.load(Ordering::Relaxed) < self.passed()
    }
}
