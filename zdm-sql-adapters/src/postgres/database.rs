use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::BoxFuture;
use sqlx::pool::PoolConnection;
use sqlx::postgres::{PgConnection, PgPool, PgPoolOptions};
use sqlx::{ConnectOptions, Connection};
use tokio::sync::oneshot;
use zdm_core::error::{Error, Kind, Result};

use super::PostgresOptions;
use super::classify::{classify, is_broken, refused_at_commit, state_of};
use super::session::{self, Begun, Fate, Lent, Purpose};

/// A database on a PostgreSQL server. Cheap to clone.
///
/// Every write runs in a task of its own: a caller that is dropped in the middle leaves neither a
/// connection in a transaction nor half a change.
#[derive(Clone, Debug)]
pub struct Postgres {
    writers: PgPool,
    readers: PgPool,
    options: Arc<PostgresOptions>,
    version: u32,
}

/// Versions before lack `pg_current_xact_id`.
const OLDEST: u32 = 130_000;

impl Postgres {
    /// Connects with the defaults of [`PostgresOptions`] to `postgres://user:password@host:port/database`.
    ///
    /// # Errors
    /// As [`PostgresOptions::new`] and [`PostgresOptions::connect`].
    pub async fn connect(url: &str) -> Result<Self> {
        PostgresOptions::new(url)?.connect().await
    }

    pub(super) async fn open(mut options: PostgresOptions) -> Result<Self> {
        options.connect = options.connect.disable_statement_logging().statement_cache_capacity(256);
        let doing = format!("connecting to the database {}", options.database);
        let first = tokio::time::timeout(options.write_timeout, options.connect.connect())
            .await
            .map_err(|_| {
                let message = format!("{doing}: no answer within {:?}", options.write_timeout);
                Error::new(Kind::Unavailable, message).not_applied()
            })?
            .map_err(|error| classify(error, &doing).not_applied())?;
        let version = first.server_version_num().unwrap_or_default();
        let _ = first.close().await;
        if version < OLDEST {
            let message = format!(
                "{doing}: the server has version {}; it must be {} or newer",
                version / 10_000,
                OLDEST / 10_000
            );
            return Err(Error::new(Kind::Invalid, message));
        }

        let readers = pool(&options, options.readers, session::setup(&options, version, Purpose::Read))
            .before_acquire(|connection, _| Box::pin(session::is_sound(connection)))
            .connect_lazy_with(options.connect.clone());
        // BEGIN finds out what `before_acquire` would, in the same round trip.
        let writers = pool(&options, options.writers, session::setup(&options, version, Purpose::Write))
            .connect_lazy_with(options.connect.clone());
        let db = Self { writers, readers, options: Arc::new(options), version };
        // The settings of a connection are tried out now, and not at the first call.
        db.reader().await?.release();
        db.write(|_| Box::pin(async { Ok(()) })).await?;
        Ok(db)
    }

    /// The name of the database.
    pub fn name(&self) -> &str {
        &self.options.database
    }

    /// The version of the server as one number: 150018 is 15.18.
    pub const fn server_version(&self) -> u32 {
        self.version
    }

    /// How long a write whose caller has given up can still take effect: the write timeout, after which
    /// this process sends no COMMIT, and as long again for a COMMIT that is late on its way: the server ends
    /// a transaction that heard nothing for so long. Only a server whose disk hangs can outlast it.
    pub fn settle_time(&self) -> Duration {
        self.options.write_timeout * 2 + Duration::from_secs(1)
    }

    /// Runs statements, separated by semicolons, in one transaction on a connection of their own. For
    /// schemas and tests. There is no timeout, because building an index takes its time. A statement that
    /// takes no transaction, CREATE INDEX CONCURRENTLY for one, stands alone.
    ///
    /// # Errors
    /// Whatever the server says; then none of them took effect.
    ///
    /// # Cancel safety
    /// When the future is dropped, the statements go on to their end.
    pub async fn execute(&self, statements: impl Into<String>) -> Result<()> {
        let statements = statements.into();
        self.alone(move |connection| {
            Box::pin(async move {
                let ran = session::run(connection, statements).await;
                ran.map_err(|error| classify(error, "running statements"))
            })
        })
        .await
    }

    /// Runs `work` on a connection of its own without timeouts, in a task of its own.
    pub(super) async fn alone<T, W>(&self, work: W) -> Result<T>
    where
        T: Send + 'static,
        W: for<'c> FnOnce(&'c mut PgConnection) -> BoxFuture<'c, Result<T>> + Send + 'static,
    {
        let db = self.clone();
        let task = tokio::spawn(async move {
            let failed = |error| classify(error, "connecting").not_applied();
            let mut connection = db.options.connect.connect().await.map_err(failed)?;
            let setup = session::setup(&db.options, db.version, Purpose::Schema);
            session::run(&mut connection, setup).await.map_err(failed)?;
            let outcome = work(&mut connection).await;
            let _ = connection.close().await;
            outcome
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
        W: for<'c> FnOnce(&'c mut PgConnection) -> BoxFuture<'c, Result<T>> + Send,
    {
        let mut reader = self.reader().await?;
        let outcome = work(&mut reader).await?;
        reader.release();
        Ok(outcome)
    }

    /// Runs `work` in one write transaction, which commits when it returns `Ok` and rolls back otherwise.
    ///
    /// Do not begin, commit or roll back inside, nor call sqlx's `begin`; SAVEPOINT statements are fine.
    /// Return an error that a statement gave you: the server takes no other statement after it, and the
    /// COMMIT fails. The isolation level is READ COMMITTED, whatever the server's default is.
    ///
    /// ```no_run
    /// # async fn example(db: zdm_sql_adapters::postgres::Postgres) -> zdm_core::Result<()> {
    /// use zdm_sql_adapters::postgres::classify;
    ///
    /// db.write(|connection| Box::pin(async move {
    ///     sqlx::query("UPDATE users SET name = $1 WHERE id = $2").bind("Ada").bind(7)
    ///         .execute(connection).await.map_err(|error| classify(error, "renaming a user"))
    /// })).await?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// What `work` returns, or what the server says about the transaction. Everything before COMMIT is
    /// certainly not applied, and so is a COMMIT that the server refuses. One whose answer is lost is looked
    /// up on another connection; it is unknown only when the server cannot be asked, or was restarted.
    ///
    /// # Cancel safety
    /// When the future is dropped, the transaction has not begun and never will, or it commits or rolls
    /// back as a whole within the [`settle_time`](Self::settle_time).
    pub async fn write<T, W>(&self, work: W) -> Result<T>
    where
        T: Send + 'static,
        W: for<'c> FnOnce(&'c mut PgConnection) -> BoxFuture<'c, Result<T>> + Send + 'static,
    {
        self.spawn(false, work).await
    }

    /// As [`write`](Self::write), for rows that come from the other side: triggers do not note them.
    pub(super) async fn mirror<T, W>(&self, work: W) -> Result<T>
    where
        T: Send + 'static,
        W: for<'c> FnOnce(&'c mut PgConnection) -> BoxFuture<'c, Result<T>> + Send + 'static,
    {
        self.spawn(true, work).await
    }

    async fn spawn<T, W>(&self, mirroring: bool, work: W) -> Result<T>
    where
        T: Send + 'static,
        W: for<'c> FnOnce(&'c mut PgConnection) -> BoxFuture<'c, Result<T>> + Send + 'static,
    {
        let (mut answer, outcome) = oneshot::channel();
        let db = self.clone();
        tokio::spawn(async move {
            let result = db.run(mirroring, work, &mut answer).await;
            // Nobody listens any more when the caller has given up.
            let _ = answer.send(result);
        });
        outcome.await.unwrap_or_else(|_| Err(ended()))
    }

    /// Runs one statement that commits by itself and may be repeated: two round trips less than
    /// [`write`](Self::write). For tasks that nobody drops in the middle. A connection is in no transaction
    /// here, because it comes back to the pool only after an end that is known. `work` is told whether an
    /// earlier attempt may have committed.
    pub(super) async fn statement<W>(&self, work: W) -> Result<()>
    where
        W: for<'c> Fn(&'c mut PgConnection, bool) -> BoxFuture<'c, sqlx::Result<()>> + Send,
    {
        let mut attempts = 0;
        loop {
            let mut connection = Lent::new(self.acquire(&self.writers, self.options.writers).await?);
            let done =
                tokio::time::timeout(self.options.write_timeout, work(&mut connection, attempts > 0)).await;
            attempts += 1;
            match done {
                Ok(Ok(())) => {
                    connection.release();
                    return Ok(());
                }
                // It rested in the pool while the server closed it.
                Ok(Err(error)) if is_broken(&error) && attempts <= self.options.writers => {}
                Ok(Err(error)) => return Err(classify(error, "running a statement")),
                Err(_) => return Err(self.overdue().unknown()),
            }
        }
    }

    /// Closes all connections, after waiting for those in use.
    pub async fn close(&self) {
        self.readers.close().await;
        self.writers.close().await;
    }

    pub(super) async fn reader(&self) -> Result<Lent> {
        Ok(Lent::new(self.acquire(&self.readers, self.options.readers).await?))
    }

    async fn acquire(&self, pool: &PgPool, size: u32) -> Result<PoolConnection<sqlx::Postgres>> {
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

    async fn run<T, W>(&self, mirroring: bool, work: W, answer: &mut oneshot::Sender<Result<T>>) -> Result<T>
    where
        W: for<'c> FnOnce(&'c mut PgConnection) -> BoxFuture<'c, Result<T>> + Send,
    {
        let mut attempts = 0;
        loop {
            let connection = tokio::select! {
                biased;
                () = answer.closed() => return Err(abandoned()),
                connection = self.acquire(&self.writers, self.options.writers) => connection?,
            };
            // From here on it goes back to the pool only after an end that is known; a panic closes it too.
            let mut connection = Lent::new(connection);
            let deadline = Instant::now() + self.options.write_timeout;
            let begun =
                tokio::time::timeout(self.options.write_timeout, session::begin(&mut connection, mirroring));
            let begun = match begun.await {
                Ok(Ok(Some(begun))) => begun,
                Ok(outcome) => {
                    // It rested in the pool while the server closed it, or somebody left it in a
                    // transaction. Nothing has been done, so another one may do.
                    attempts += 1;
                    let idle = outcome.as_ref().map_or_else(is_broken, |_| true);
                    match outcome {
                        _ if idle && attempts <= self.options.writers => continue,
                        Err(error) => return Err(classify(error, "beginning a transaction").not_applied()),
                        Ok(_) => {
                            let message = "every connection is inside a transaction that somebody left open";
                            return Err(Error::new(Kind::Busy, message).not_applied());
                        }
                    }
                }
                Err(_) => return Err(self.overdue()),
            };
            return match self.transact(&mut connection, &begun, work, deadline, answer).await {
                Ended::Clean(outcome) => {
                    connection.release();
                    outcome
                }
                Ended::Broken(outcome) => outcome,
                Ended::Unanswered(value, error) => {
                    drop(connection);
                    self.look_up(&begun, value, error).await
                }
            };
        }
    }

    async fn transact<T, W>(
        &self,
        connection: &mut PgConnection,
        begun: &Begun,
        work: W,
        deadline: Instant,
        answer: &oneshot::Sender<Result<T>>,
    ) -> Ended<T>
    where
        W: for<'c> FnOnce(&'c mut PgConnection) -> BoxFuture<'c, Result<T>> + Send,
    {
        // The server stops a single statement a little earlier than this; many short ones it does not.
        let left = deadline.saturating_duration_since(Instant::now()) + Duration::from_millis(50);
        let mut result = match tokio::time::timeout(left, work(connection)).await {
            Ok(result) => result,
            Err(_) => return Ended::Broken(Err(self.overdue())),
        };
        if result.is_ok() {
            if answer.is_closed() {
                result = Err(abandoned());
            } else if Instant::now() >= deadline {
                result = Err(self.overdue());
            }
        }
        match result {
            Ok(value) => match session::commit(connection, begun).await {
                Ok(()) => Ended::Clean(Ok(value)),
                Err(error) if state_of(&error) == Some("22012") => {
                    let message = "the work ended the transaction by itself; what it did is not one change";
                    Ended::Broken(Err(Error::new(Kind::Invalid, message).with_source(error).unknown()))
                }
                Err(error) if refused_at_commit(&error) => {
                    Ended::Broken(Err(classify(error, "committing").not_applied()))
                }
                Err(error) => Ended::Unanswered(value, classify(error, "committing").unknown()),
            },
            Err(error) => {
                let error = error.not_applied();
                match session::run(connection, "ROLLBACK").await {
                    Ok(()) => Ended::Clean(Err(error)),
                    Err(_) => Ended::Broken(Err(error)),
                }
            }
        }
    }

    /// Learns on another connection whether a COMMIT took effect whose answer was lost.
    async fn look_up<T>(&self, begun: &Begun, value: T, error: Error) -> Result<T> {
        let deadline = Instant::now() + self.options.write_timeout;
        loop {
            let asked = tokio::time::timeout_at(deadline.into(), self.ask(begun)).await;
            match asked {
                Ok(Ok(Fate::Committed)) => return Ok(value),
                Ok(Ok(Fate::RolledBack)) => return Err(error.not_applied()),
                Ok(Ok(Fate::Forgotten)) | Err(_) => return Err(error),
                Ok(Ok(Fate::InProgress) | Err(_)) => {}
            }
            if Instant::now() >= deadline {
                return Err(error);
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn ask(&self, begun: &Begun) -> sqlx::Result<Fate> {
        let mut connection = self.options.connect.connect().await?;
        let fate = session::fate(&mut connection, begun).await?;
        let _ = connection.close().await;
        Ok(fate)
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
    /// COMMIT was sent and not answered.
    Unanswered(T, Error),
}

fn abandoned() -> Error {
    Error::new(Kind::Stopped, "the caller has given up").not_applied()
}

fn ended() -> Error {
    let message = "the task of a write ended without an answer: it panicked, or the runtime shuts down";
    Error::new(Kind::Stopped, message).unknown()
}

fn pool(options: &PostgresOptions, size: u32, setup: String) -> PgPoolOptions {
    let setup: Arc<str> = setup.into();
    PgPoolOptions::new()
        .max_connections(size)
        .acquire_timeout(options.write_timeout)
        .idle_timeout(Duration::from_secs(600))
        .max_lifetime(None)
        .test_before_acquire(false)
        .after_connect(move |connection, _| {
            let setup = setup.to_string();
            Box::pin(async move { session::run(connection, setup).await })
        })
}
