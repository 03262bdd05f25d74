//! What a connection is told when it is opened, and the guard around one that reads.

use std::ops::{Deref, DerefMut};

use sqlx::mysql::MySqlConnection;
use sqlx::pool::PoolConnection;
use sqlx::{AssertSqlSafe, Connection, Executor};
use zdm_core::error::{Error, Kind, Result};

use super::MySqlOptions;
use super::classify::{classify, number_of};
use super::options::whole_seconds;

/// Zero stays zero in an AUTO_INCREMENT column, and whatever does not fit is an error, in every engine.
const SQL_MODE: &str = "STRICT_ALL_TABLES,NO_ZERO_DATE,NO_ZERO_IN_DATE,ERROR_FOR_DIVISION_BY_ZERO,\
                        NO_AUTO_VALUE_ON_ZERO,NO_ENGINE_SUBSTITUTION";

/// Fails inside a transaction, where this cannot be set any more. MariaDB would tell with
/// `@@in_transaction`; this works on MySQL too.
const OUTSIDE: &str = "SET TRANSACTION ISOLATION LEVEL READ COMMITTED";

/// One round trip: fails on a connection that is inside a stray transaction, which START TRANSACTION alone
/// would commit.
pub(super) const BEGIN: &str =
    "SET @zdm_mirroring = NULL; SET TRANSACTION ISOLATION LEVEL READ COMMITTED; START TRANSACTION";

/// As [`BEGIN`], for rows that come from the other side: triggers of capture look at the variable.
pub(super) const BEGIN_MIRRORING: &str =
    "SET @zdm_mirroring = 1; SET TRANSACTION ISOLATION LEVEL READ COMMITTED; START TRANSACTION";

/// The variable that silences the triggers of capture.
pub(super) const MIRRORING: &str = "zdm_mirroring";

/// How many bytes of a text are looked at when rows are sorted. By its own default the server looks at 1024,
/// and rows whose keys begin alike would come in any order, and some of them never.
pub(super) const LONGEST_KEY: u64 = 65_535;

/// What the server is.
#[derive(Clone, Debug)]
pub(super) struct Server {
    pub(super) version: String,
    pub(super) mariadb: bool,
    /// Whether it knows SKIP LOCKED.
    pub(super) skips_locked: bool,
    /// The longest statement that it takes, in bytes.
    pub(super) max_packet: usize,
}

impl Server {
    pub(super) async fn ask(connection: &mut MySqlConnection) -> Result<Self> {
        let doing = |error| classify(error, "asking the server for its version");
        let (version, packet): (String, i64) =
            sqlx::query_as("SELECT CAST(VERSION() AS CHAR), CAST(@@max_allowed_packet AS SIGNED)")
                .fetch_one(connection)
                .await
                .map_err(doing)?;
        let mariadb = version.contains("MariaDB");
        let numbers: Vec<u32> =
            version.split(['.', '-']).map_while(|number| number.parse().ok()).take(2).collect();
        let skips_locked = numbers >= if mariadb { vec![10, 6] } else { vec![8, 0] };
        // Less than a page of rows would not do.
        let max_packet = usize::try_from(packet).unwrap_or_default().max(64 << 10);
        Ok(Self { version, mariadb, skips_locked, max_packet })
    }
}

/// What a connection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    Write,
    Read,
    /// Schemas: statements may take as long as they need.
    Schema,
}

/// The statements that set up a connection.
pub(super) fn setup(options: &MySqlOptions, server: &Server, purpose: Purpose) -> String {
    let lock = whole_seconds(options.longest_lock());
    let mut sql = format!(
        "SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED, READ WRITE; \
         SET SESSION sql_mode = '{SQL_MODE}', time_zone = '+00:00', innodb_lock_wait_timeout = {lock}, \
         autocommit = 1, foreign_key_checks = 1, unique_checks = 1, sql_safe_updates = 0, \
         sql_select_limit = 18446744073709551615, sql_big_selects = 1, completion_type = 0, \
         max_sort_length = {LONGEST_KEY}"
    );
    if server.mariadb {
        sql.push_str(", check_constraint_checks = 1");
    }
    let limit = match purpose {
        Purpose::Write => options.write_timeout,
        Purpose::Read => options.read_timeout,
        Purpose::Schema => {
            return sql + if server.mariadb { ", max_statement_time = 0" } else { "" };
        }
    };
    let silence = whole_seconds(options.write_timeout);
    if server.mariadb {
        let seconds = limit.as_secs_f64();
        sql.push_str(&format!(", max_statement_time = {seconds:.3}, idle_transaction_timeout = {silence}"));
    } else {
        sql.push_str(&format!(", max_execution_time = {}", limit.as_millis()));
        if purpose == Purpose::Write {
            // Also for connections that rest in the pool, which closes them a little earlier.
            sql.push_str(&format!(", wait_timeout = {}", silence + 1));
        }
    }
    sql
}

pub(super) async fn run(connection: &mut MySqlConnection, sql: String) -> sqlx::Result<()> {
    connection.execute(sqlx::raw_sql(AssertSqlSafe(sql))).await?;
    Ok(())
}

/// Whether a connection that comes from the pool answers and is in no transaction.
pub(super) async fn is_sound(connection: &mut MySqlConnection) -> sqlx::Result<bool> {
    match connection.execute(sqlx::raw_sql(OUTSIDE)).await {
        Ok(_) => Ok(true),
        Err(error) => {
            if is_stray(&error) {
                tracing::warn!("closing a connection that is still in a transaction");
            }
            // An error would be logged once more; the connection is closed either way.
            Ok(false)
        }
    }
}

/// Whether an error says that the connection is inside a transaction that it should not be in.
pub(super) fn is_stray(error: &sqlx::Error) -> bool {
    number_of(error) == Some(1568)
}

/// A connection that reads. Goes back to the pool by [`release`](Self::release); one that is dropped
/// before, by a caller that gave up or after an error, is closed: the rest of an answer may still be under
/// way, and would be taken for the answer to the next statement.
#[derive(Debug)]
pub(super) struct Reader {
    connection: PoolConnection<sqlx::MySql>,
    released: bool,
}

impl Reader {
    pub(super) const fn new(connection: PoolConnection<sqlx::MySql>) -> Self {
        Self { connection, released: false }
    }

    pub(super) fn release(mut self) {
        self.released = true;
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        if !self.released {
            self.connection.close_on_drop();
        }
    }
}

impl Deref for Reader {
    type Target = MySqlConnection;

    fn deref(&self) -> &MySqlConnection {
        &self.connection
    }
}

impl DerefMut for Reader {
    fn deref_mut(&mut self) -> &mut MySqlConnection {
        &mut self.connection
    }
}

/// Ends another connection and what it is doing.
pub(super) async fn kill(options: &MySqlOptions, connection: u64) -> Result<()> {
    use sqlx::ConnectOptions;

    let doing = |error| classify(error, "ending a write that is over its time");
    let mut killer = options.connect.connect().await.map_err(doing)?;
    let outcome = run(&mut killer, format!("KILL {connection}")).await;
    let _ = killer.close().await;
    match outcome {
        // It had ended by itself.
        Err(error) if number_of(&error) == Some(1094) => Ok(()),
        outcome => outcome.map_err(doing),
    }
}

/// The server's number of a connection.
pub(super) async fn number(connection: &mut MySqlConnection) -> Result<u64> {
    let number: i64 = sqlx::query_scalar("SELECT CAST(CONNECTION_ID() AS SIGNED)")
        .fetch_one(connection)
        .await
        .map_err(|error| classify(error, "asking for the number of a connection").not_applied())?;
    u64::try_from(number).map_err(|_| Error::new(Kind::Damaged, "the number of a connection is negative"))
}
