use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::BoxFuture;
use sqlx::mysql::{MySqlConnection, MySqlPool, MySqlPoolOptions};
use sqlx::pool::PoolConnection;
use sqlx::{ConnectOptions, Connection};
use tokio::sync::oneshot;
use zdm_core::error::{Error, Kind, Result};

use super::MySqlOptions;
use super::classify::{classify, number_of, refused_at_commit};
use super::options::whole_seconds;
use super::session::{self, BEGIN, BEGIN_MIRRORING, Purpose, Reader, Server};

/// A database on a MySQL or MariaDB server. Cheap to clone.
///
/// Every write runs in a task of its own: a caller that is dropped in the middle leaves neither a
/// connection in a transaction nor half a change.
#[derive(Clone, Debug)]
pub struct MySql {
    writers: MySqlPool,
    readers: MySqlPool,
    options: Arc<MySqlOptions>,
    server: Arc<Server>,
}

impl MySql {
    /// Connects with the defaults of [`MySqlOptions`] to `mysql://user:password@host:port/database`.
    ///
    /// # Errors
    /// As [`MySqlOptions::new`] and [`MySqlOptions::connect`].
    pub async fn connect(url: &str) -> Result<Self> {
        MySqlOptions::new(url)?.connect().await
    }

    pub(super) async fn open(mut options: MySqlOptions) -> Result<Self> {
        // The statements of a table come in powers of two, and there may be several tables.
        options.connect =
            options.connect.disable_statement_logging().statement_cache_capacity(256).pipes_as_concat(false);
        let doing = format!("connecting to the database {}", options.database);
        let mut first = tokio::time::timeout(options.write_timeout, options.connect.connect())
            .await
            .map_err(|_| {
                let message = format!("{doing}: no answer within {:?}", options.write_timeout);
                Error::new(Kind::Unavailable, message).not_applied()
            })?
            .map_err(|error| classify(error, &doing).not_applied())?;
        let server = Server::ask(&mut first).await?;
        let _ = first.close().await;

        let readers = pool(&options, options.readers, session::setup(&options, &server, Purpose::Read))
            .before_acquire(|connection, _| Box::pin(session::is_sound(connection)))
            .connect_lazy_with(options.connect.clone());
        // START TRANSACTION finds out what `before_acquire` would, in the same round trip.
        let mut writers = pool(&options, options.writers, session::setup(&options, &server, Purpose::Write));
        if !server.mariadb {
            writers = writers.idle_timeout(options.write_timeout);
        }
        let writers = writers.connect_lazy_with(options.connect.clone());
        let db = Self { writers, readers, options: Arc::new(options), server: Arc::new(server) };
        // The settings of a connection are tried out now, and not at the first call.
        db.reader().await?.release();
        db.write(|_| Box::pin(async { Ok(()) })).await?;
        Ok(db)
    }

    /// The name of the database.
    pub fn name(&self) -> &str {
        &self.options.database
    }

    /// The version that the server reports, `10.11.14-MariaDB` for one.
    pub fn server_version(&self) -> &str {
        &self.server.version
    }

    /// How long a write whose caller has given up can still take effect: the write timeout, after which
    /// this process sends no COMMIT, and as long again for a COMMIT that is late on its way: the server
    /// closes a transaction that heard nothing for so long. Only a server whose disk hangs can outlast it.
    pub fn settle_time(&self) -> Duration {
        self.options.write_timeout + Duration::from_secs(whole_seconds(self.options.write_timeout) + 1)
    }

    /// Runs statements, separated by semicolons, one after the other on a connection of their own. For
    /// schemas and tests. There is no timeout, because building an index takes its time.
    ///
    /// # Errors
    /// Whatever the server says about the first statement that fails. Those before it have taken effect:
    /// MySQL and MariaDB commit every statement that changes the schema.
    ///
    /// # Cancel safety
    /// When the future is dropped, the statements go on to their end.
    pub async fn execute(&self, statements: impl Into<String>) -> Result<()> {
        let (statements, db) = (statements.into(), self.clone());
        let task = tokio::spawn(async move {
            let failed = |error| classify(error, "running statements");
            let mut connection = db.options.connect.connect().await.map_err(failed)?;
            session::run(&mut connection, db.setup(Purpose::Schema)).await.map_err(failed)?;
            session::run(&mut connection, statements).await.map_err(failed)?;
            let _ = connection.close().await;
            Ok(())
        });
        task.await.unwrap_or_else(|_| Err(ended()))
    }

    /// Runs `work` on a connection that reads, outside a transaction. For queries of your own: a connection
    /// that is not in the middle of anything comes back to the pool, any other is closed.
    ///
    /// # Errors
    /// What `work` returns, or that there is no connection.
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped.
    pub async fn read<T, W>(&self, work: W) -> Result<T>
    where
        W: for<'c> FnOnce(&'c mut MySqlConnection) -> BoxFuture<'c, Result<T>> + Send,
    {
        let mut reader = self.reader().await?;
        let outcome = work(&mut reader).await?;
        reader.release();
        Ok(outcome)
    }

    /// Runs `work` in one write transaction, which commits when it returns `Ok` and rolls back otherwise.
    ///
    /// Do not begin, commit or roll back inside, nor change the schema, which commits by itself; savepoints
    /// are fine. Return an error that a statement gave you: after a deadlock the server has rolled back, and
    /// a later statement would stand alone.
    ///
    /// ```no_run
    /// # async fn example(db: zdm_sql_adapters::mysql::MySql) -> zdm_core::Result<()> {
    /// use zdm_sql_adapters::mysql::classify;
    ///
    /// db.write(|connection| Box::pin(async move {
    ///     sqlx::query("UPDATE users SET name = ? WHERE id = ?").bind("Ada").bind(7)
    ///         .execute(connection).await.map_err(|error| classify(error, "renaming a user"))
    /// })).await?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// What `work` returns, or what the server says about the transaction. Everything before COMMIT is
    /// certainly not applied, and so is a COMMIT that the server refuses; one whose answer is lost is
    /// unknown.
    ///
    /// # Cancel safety
    /// When the future is dropped, the transaction has not begun and never will, or it commits or rolls
    /// back as a whole within the [`settle_time`](Self::settle_time).
    pub async fn write<T, W>(&self, work: W) -> Result<T>
    where
        T: Send + 'static,
        W: for<'c> FnOnce(&'c mut MySqlConnection) -> BoxFuture<'c, Result<T>> + Send + 'static,
    {
        self.spawn(BEGIN, work).await
    }

    /// As [`write`](Self::write), for rows that come from the other side: triggers do not note them.
    pub(super) async fn mirror<T, W>(&self, work: W) -> Result<T>
    where
        T: Send + 'static,
        W: for<'c> FnOnce(&'c mut MySqlConnection) -> BoxFuture<'c, Result<T>> + Send + 'static,
    {
        self.spawn(BEGIN_MIRRORING, work).await
    }

    async fn spawn<T, W>(&self, begin: &'static str, work: W) -> Result<T>
    where
        T: Send + 'static,
        W: for<'c> FnOnce(&'c mut MySqlConnection) -> BoxFuture<'c, Result<T>> + Send + 'static,
    {
        let (mut answer, outcome) = oneshot::channel();
        let db = self.clone();
        tokio::spawn(async move {
            let result = db.run(begin, work, &mut answer).await;
            // Nobody listens any more when the caller has given up.
            let _ = answer.send(result);
        });
        outcome.await.unwrap_or_else(|_| Err(ended()))
    }

    /// Closes all connections, after waiting for those in use.
    pub async fn close(&self) {
        self.readers.close().await;
        self.writers.close().await;
    }

    pub(super) async fn reader(&self) -> Result<Reader> {
        Ok(Reader::new(self.acquire(&self.readers, self.options.readers).await?))
    }

    pub(super) fn setup(&self, purpose: Purpose) -> String {
        session::setup(&self.options, &self.server, purpose)
    }

    pub(super) fn is_mariadb(&self) -> bool {
        self.server.mariadb
    }

    pub(super) fn skips_locked(&self) -> bool {
        self.server.skips_locked
    }

    /// The longest statement that the server takes, in bytes.
    pub(super) fn max_packet(&self) -> usize {
        self.server.max_packet
    }

    async fn acquire(&self, pool: &MySqlPool, size: u32) -> Result<PoolConnection<sqlx::MySql>> {
        pool.acquire().await.map_err(|error| {
            // The pool goes on connecting until its time is up, and says no more than that.
            if matches!(error, sqlx::Error::PoolTimedOut) && pool.size() < size {
                let message =
                    format!("connecting to the database {}: the server does not answer", self.name());
                return Error::new(Kind::Unavailable, message).with_source(error).not_applied();
            }
            classify(error, "waiting for a connection").not_applied()
        })
    }

    async fn run<T, W>(
        &self,
        begin: &'static str,
        work: W,
        answer: &mut oneshot::Sender<Result<T>>,
    ) -> Result<T>
    where
        W: for<'c> FnOnce(&'c mut MySqlConnection) -> BoxFuture<'c, Result<T>> + Send,
    {
        let mut attempts = 0;
        loop {
            let connection = tokio::select! {
                biased;
                () = answer.closed() => return Err(abandoned()),
                connection = self.acquire(&self.writers, self.options.writers) => connection?,
            };
            // From here on it goes back to the pool only after an end that is known; a panic closes it too.
            let mut connection = Reader::new(connection);
            let deadline = Instant::now() + self.options.write_timeout;
            let begun = tokio::time::timeout(self.options.write_timeout, connection.begin_with(begin));
            let ended = match begun.await {
                Ok(Ok(transaction)) => self.transact(transaction, work, deadline, answer).await,
                Ok(Err(error)) => {
                    // It rested in the pool while the server closed it, or somebody left it in a
                    // transaction. Nothing has been done, so another one may do.
                    attempts += 1;
                    let broken = matches!(error, sqlx::Error::Io(_) | sqlx::Error::Protocol(_));
                    let idle = broken || matches!(number_of(&error), Some(1568 | 1927 | 1053 | 4031));
                    if idle && attempts <= self.options.writers {
                        continue;
                    }
                    return Err(classify(error, "beginning a transaction").not_applied());
                }
                Err(_) => return Err(self.overdue()),
            };
            return match ended {
                Ended::Clean(outcome) => {
                    connection.release();
                    outcome
                }
                Ended::Broken(outcome) => outcome,
            };
        }
    }

    async fn transact<T, W>(
        &self,
        mut transaction: sqlx::Transaction<'_, sqlx::MySql>,
        work: W,
        deadline: Instant,
        answer: &oneshot::Sender<Result<T>>,
    ) -> Ended<T>
    where
        W: for<'c> FnOnce(&'c mut MySqlConnection) -> BoxFuture<'c, Result<T>> + Send,
    {
        let killed = if self.options.kill_overdue.unwrap_or(!self.server.mariadb) {
            match session::number(&mut transaction).await {
                Ok(number) => Some(number),
                Err(error) => return Ended::Broken(Err(error)),
            }
        } else {
            None
        };
        // The server stops a single statement a little earlier than this; many short ones it does not.
        let left = deadline.saturating_duration_since(Instant::now()) + Duration::from_millis(50);
        let mut result = match tokio::time::timeout(left, work(&mut transaction)).await {
            Ok(result) => result,
            Err(_) => {
                self.end(killed);
                return Ended::Broken(Err(self.overdue()));
            }
        };
        if result.is_ok() {
            if answer.is_closed() {
                result = Err(abandoned());
            } else if Instant::now() >= deadline {
                result = Err(self.overdue());
            }
        }
        match result {
            Ok(value) => match transaction.commit().await {
                Ok(()) => Ended::Clean(Ok(value)),
                Err(error) => {
                    let certain = refused_at_commit(number_of(&error));
                    let error = classify(error, "committing");
                    Ended::Broken(Err(if certain { error.not_applied() } else { error.unknown() }))
                }
            },
            Err(error) => {
                let error = error.not_applied();
                match transaction.rollback().await {
                    Ok(()) => Ended::Clean(Err(error)),
                    Err(_) => Ended::Broken(Err(error)),
                }
            }
        }
    }

    /// Frees the locks of a transaction whose connection is being closed: the server notices that only at
    /// the end of the running statement.
    fn end(&self, connection: Option<u64>) {
        let Some(connection) = connection else { return };
        let options = Arc::clone(&self.options);
        tokio::spawn(async move {
            if let Err(error) = session::kill(&options, connection).await {
                tracing::warn!(?error, connection, "a write that is over its time could not be ended");
            }
        });
    }

    fn overdue(&self) -> Error {
        let message = format!("the write took longer than {:?}", self.options.write_timeout);
        Error::new(Kind::Timeout, message).not_applied()
    }
}

/// How a transaction ended.
enum Ended<T> {
    /// The connection is in no transaction.
    Clean(Result<T>),
    /// It may be; it must be closed.
    Broken(Result<T>),
}

fn abandoned() -> Error {
    Error::new(Kind::Stopped, "the caller has given up").not_applied()
}

fn ended() -> Error {
    let message = "the task of a write ended without an answer: it panicked, or the runtime shuts down";
    Error::new(Kind::Stopped, message).unknown()
}

fn pool(options: &MySqlOptions, size: u32, setup: String) -> MySqlPoolOptions {
    let setup: Arc<str> = setup.into();
    MySqlPoolOptions::new()
        .max_connections(size)
        .acquire_timeout(options.write_timeout)
        .idle_timeout(Duration::from_secs(600))
        .max_lifetime(None)
        .test_before_acquire(false)
        .after_connect(move |connection, _| {
            let setup = setup.to_string();
            Box::pin(session::run(connection, setup))
        })
}
