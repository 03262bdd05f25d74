//! What a connection is told when it is opened, how a transaction begins and ends, and the guard around a
//! connection that is in use.

use std::ops::{Deref, DerefMut};

use sqlx::pool::PoolConnection;
use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Executor, Row};

use super::PostgresOptions;

/// What a connection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    Write,
    Read,
    /// Schemas: statements may take as long as they need.
    Schema,
}

/// The statements that set up a connection. Values have one form as text, whatever the server's own
/// settings are; a policy that would hide rows is an error, because what is hidden would be taken for gone.
///
/// Plans are made for each call, which costs some 20 microseconds: one that was kept from when a table was empty
/// walks the whole table, once a migration has filled it.
pub(super) fn setup(options: &PostgresOptions, version: u32, purpose: Purpose) -> String {
    let mut sql =
        "SET default_transaction_isolation = 'read committed'; SET standard_conforming_strings = on; \
                   SET IntervalStyle = postgres; SET lc_monetary = 'C'; SET client_min_messages = warning; \
                   SET row_security = off; SET default_transaction_read_only = off; SET bytea_output = hex; \
                   SET xmloption = content; SET array_nulls = on; "
            .to_owned();
    let limit = match purpose {
        Purpose::Write => options.write_timeout,
        Purpose::Read => options.read_timeout,
        Purpose::Schema => {
            return sql
                + "SET statement_timeout = 0; SET lock_timeout = 0; \
                          SET idle_in_transaction_session_timeout = 0";
        }
    }
    .as_millis();
    let (lock, silence) = (options.longest_lock().as_millis(), options.write_timeout.as_millis());
    sql.push_str(&format!(
        "SET plan_cache_mode = force_custom_plan; SET statement_timeout = {limit}; SET lock_timeout = {lock}; \
         SET idle_in_transaction_session_timeout = {silence}"
    ));
    if version >= 140_000 {
        // Connections rest in the pool for as long as they like.
        sql.push_str("; SET idle_session_timeout = 0");
    }
    if version >= 170_000 && purpose == Purpose::Write {
        sql.push_str(&format!("; SET transaction_timeout = {silence}"));
    }
    sql
}

pub(super) async fn run(connection: &mut PgConnection, sql: impl Into<String>) -> sqlx::Result<()> {
    connection.execute(sqlx::raw_sql(AssertSqlSafe(sql.into()))).await?;
    Ok(())
}

/// Whether a connection that comes from the pool answers and is in no transaction: inside one, the clock of
/// the transaction stands still. A transaction that has failed answers with an error.
pub(super) async fn is_sound(connection: &mut PgConnection) -> sqlx::Result<bool> {
    let sql = "SELECT now() = statement_timestamp()";
    let outside = match connection.fetch_one(sqlx::raw_sql(sql)).await {
        Ok(row) => row.try_get::<bool, _>(0),
        Err(error) => Err(error),
    };
    if matches!(outside, Ok(false)) {
        tracing::warn!("closing a connection that is still in a transaction");
    }
    // An error would be logged once more; the connection is closed either way.
    Ok(outside.unwrap_or(false))
}

/// A transaction that has begun, and what it takes to learn later what became of it.
#[derive(Clone, Debug)]
pub(super) struct Begun {
    /// The transaction's number, unique for the life of the server's data.
    pub(super) xid: String,
    /// When it began, by the server's clock.
    at: String,
    /// When the server process was started.
    server: String,
}

/// Begins a transaction and learns its number, in one round trip. `None` on a connection that was already
/// inside a transaction, which BEGIN alone would join.
pub(super) async fn begin(connection: &mut PgConnection, mirroring: bool) -> sqlx::Result<Option<Begun>> {
    // Triggers of capture look at the setting, which ends with the transaction.
    let silence = if mirroring { "SET LOCAL zdm.mirroring = 'on'; " } else { "" };
    let sql = format!(
        "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE; {silence}\
               SELECT now() = statement_timestamp(), pg_current_xact_id()::text, now()::text, \
               pg_postmaster_start_time()::text"
    );
    let row = connection.fetch_one(sqlx::raw_sql(AssertSqlSafe(sql))).await?;
    let begun = Begun { xid: row.try_get(1)?, at: row.try_get(2)?, server: row.try_get(3)? };
    Ok(row.try_get::<bool, _>(0)?.then_some(begun))
}

/// Commits. Fails where the transaction is no longer the one that began, and, other than COMMIT alone, where
/// a statement in it has failed: that would roll back and report success.
pub(super) async fn commit(connection: &mut PgConnection, begun: &Begun) -> sqlx::Result<()> {
    let xid = &begun.xid;
    let same = format!("(pg_current_xact_id_if_assigned() IS NOT DISTINCT FROM '{xid}'::xid8)");
    run(connection, format!("SELECT 1 / {same}::int; COMMIT")).await
}

/// What became of a transaction whose COMMIT was not answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    Committed,
    RolledBack,
    InProgress,
    /// The server cannot tell.
    Forgotten,
}

/// Asks for the fate of a transaction.
///
/// A server that crashed, or a replica that took its place, may give the number of a transaction that it
/// lost to another one. So a COMMIT is believed only to the process that began the transaction, if it has
/// not recovered from a crash since then, which resets its statistics.
pub(super) async fn fate(connection: &mut PgConnection, begun: &Begun) -> sqlx::Result<Fate> {
    let answer: Result<(Option<String>, bool), _> = sqlx::query_as(
        "SELECT pg_xact_status($1::text::xid8), pg_postmaster_start_time() = $2::text::timestamptz AND \
         coalesce((SELECT stats_reset < $3::text::timestamptz FROM pg_stat_bgwriter), false)",
    )
    .bind(&begun.xid)
    .bind(&begun.server)
    .bind(&begun.at)
    .fetch_one(connection)
    .await;
    match answer {
        Ok((status, same_server)) => Ok(match status.as_deref() {
            Some("committed") if same_server => Fate::Committed,
            Some("aborted") => Fate::RolledBack,
            Some("in progress") if same_server => Fate::InProgress,
            _ => Fate::Forgotten,
        }),
        // A number that the server has not given away: it lost the transaction in a crash.
        Err(sqlx::Error::Database(error)) if error.code().as_deref() == Some("22023") => Ok(Fate::RolledBack),
        Err(error) => Err(error),
    }
}

/// A connection in use. Goes back to the pool by [`release`](Self::release); one that is dropped before, by
/// a caller that gave up or after an error, is closed: the rest of an answer may still be under way.
#[derive(Debug)]
pub(super) struct Lent {
    connection: PoolConnection<sqlx::Postgres>,
    released: bool,
}

impl Lent {
    pub(super) const fn new(connection: PoolConnection<sqlx::Postgres>) -> Self {
        Self { connection, released: false }
    }

    pub(super) fn release(mut self) {
        self.released = true;
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        if !self.released {
            self.connection.close_on_drop();
        }
    }
}

impl Deref for Lent {
    type Target = PgConnection;

    fn deref(&self) -> &PgConnection {
        &self.connection
    }
}

impl DerefMut for Lent {
    fn deref_mut(&mut self) -> &mut PgConnection {
        &mut self.connection
    }
}
