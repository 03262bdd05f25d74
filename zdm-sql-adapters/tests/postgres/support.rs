//! A schema of its own for each test.

use std::ops::Deref;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::Serialize;
use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{AssertSqlSafe, ConnectOptions, Connection, Executor};
use zdm_core::Result;
use zdm_sql_adapters::postgres::{PgTable, Postgres, PostgresOptions};
use zdm_sql_adapters::table::{RowReader, RowWriter, TableMapping};

/// The URL of the server. `None` when there is none, which is said; in CI that is an error.
#[expect(clippy::print_stderr, reason = "a test that is left out says so")]
pub(crate) fn url() -> Option<String> {
    let url = std::env::var("ZDM_TEST_POSTGRES_URL").ok().filter(|url| !url.is_empty());
    if url.is_none() {
        assert!(
            std::env::var_os("CI").is_none(),
            "ZDM_TEST_POSTGRES_URL is not set, and CI must not skip tests"
        );
        eprintln!("skipped: ZDM_TEST_POSTGRES_URL is not set");
    }
    url
}

/// A schema that goes with the test.
pub(crate) struct Database {
    pub(crate) db: Postgres,
    pub(crate) schema: String,
    url: String,
}

impl Database {
    /// How a connection reaches the schema.
    pub(crate) fn options(&self) -> PgConnectOptions {
        let options: PgConnectOptions = self.url.parse().unwrap();
        options.options([("search_path", &self.schema)]).application_name(&self.schema)
    }

    /// A connection that the adapter knows nothing of.
    pub(crate) async fn other(&self) -> PgConnection {
        self.options().application_name("other").connect().await.unwrap()
    }

    /// Another handle to the same schema, with its own connections.
    pub(crate) async fn again(&self, change: impl FnOnce(PostgresOptions) -> PostgresOptions) -> Postgres {
        change(PostgresOptions::with(self.options()).unwrap()).connect().await.unwrap()
    }

    /// Ends all connections of the test but those of `other`. How many there were.
    pub(crate) async fn kill_all(&self, other: &mut PgConnection) -> usize {
        let killed: Vec<bool> = sqlx::query_scalar(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = $1",
        )
        .bind(&self.schema)
        .fetch_all(other)
        .await
        .unwrap();
        killed.len()
    }
}

impl Deref for Database {
    type Target = Postgres;

    fn deref(&self) -> &Postgres {
        &self.db
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        let (url, schema) = (self.url.clone(), self.schema.clone());
        // The test's own runtime may be waiting for this very thread.
        let dropped = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let mut connection = PgConnection::connect(&url).await.unwrap();
                // What the test left running may hold locks.
                let _ = sqlx::query(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = $1",
                )
                .bind(&schema)
                .execute(&mut connection)
                .await;
                let sql =
                    format!("SET client_min_messages = warning; DROP SCHEMA IF EXISTS \"{schema}\" CASCADE");
                connection.execute(sqlx::raw_sql(AssertSqlSafe(sql))).await.unwrap();
                connection.close().await.unwrap();
            });
        })
        .join();
        assert!(dropped.is_ok() || std::thread::panicking(), "the schema of the test was not dropped");
    }
}

pub(crate) async fn database(schema: &str) -> Option<Database> {
    database_with(schema, |options| options).await
}

pub(crate) async fn database_with(
    schema: &str,
    change: impl FnOnce(PostgresOptions) -> PostgresOptions,
) -> Option<Database> {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let url = url()?;
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let name = format!("zdm_test_{}_{number}", std::process::id());
    let mut connection = PgConnection::connect(&url).await.unwrap();
    let sql = format!(
        "SET client_min_messages = warning; DROP SCHEMA IF EXISTS {name} CASCADE; CREATE SCHEMA {name}"
    );
    connection.execute(sqlx::raw_sql(AssertSqlSafe(sql))).await.unwrap();
    connection.close().await.unwrap();
    let options: PgConnectOptions = url.parse().unwrap();
    let options = options.options([("search_path", &name)]).application_name(&name);
    let db = change(PostgresOptions::with(options).unwrap()).connect().await.unwrap();
    let database = Database { db, schema: name, url };
    if !schema.is_empty() {
        database.execute(schema).await.unwrap();
    }
    Some(database)
}

/// All rows of a query of one text column, one line each.
pub(crate) async fn rows(db: &Postgres, sql: impl Into<String>) -> Vec<String> {
    let sql = sql.into();
    db.read(|connection| {
        Box::pin(
            async move { Ok(sqlx::query_scalar(AssertSqlSafe(sql)).fetch_all(connection).await.unwrap()) },
        )
    })
    .await
    .unwrap()
}

/// Runs statements in a write transaction.
pub(crate) async fn write(db: &Postgres, sql: impl Into<String>) -> zdm_core::Result<()> {
    let sql = sql.into();
    db.write(|connection| {
        Box::pin(async move {
            let run = connection.execute(sqlx::raw_sql(AssertSqlSafe(sql))).await;
            run.map_err(|error| zdm_sql_adapters::postgres::classify(error, "writing"))?;
            Ok(())
        })
    })
    .await
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct User {
    pub(crate) id: i64,
    pub(crate) name: String,
    pub(crate) email: Option<String>,
    pub(crate) score: f64,
}

pub(crate) const USERS: &str = "CREATE TABLE users (id bigint PRIMARY KEY, name text NOT NULL CHECK (name <> ''), \
    email text UNIQUE, score float8 NOT NULL DEFAULT 0)";

impl TableMapping for User {
    type Key = i64;
    type Record = Self;
    const TABLE: &'static str = "users";
    const KEY: &'static [&'static str] = &["id"];
    const COLUMNS: &'static [&'static str] = &["name", "email", "score"];

    fn write(user: &Self, row: &mut RowWriter<'_>) -> Result<()> {
        row.set("name", &user.name).set("email", &user.email).set("score", user.score).done()
    }

    fn read(id: &i64, row: &mut RowReader<'_>) -> Result<Self> {
        Ok(Self { id: *id, name: row.get("name")?, email: row.get("email")?, score: row.get("score")? })
    }
}

pub(crate) fn user(id: i64, email: &str) -> User {
    User { id, name: format!("user {id}"), email: Some(email.to_owned()), score: id as f64 / 3.0 }
}

/// The users of a schema, with the fence.
pub(crate) async fn users(schema: &str) -> Option<(Database, PgTable<User>)> {
    let db = database(schema).await?;
    let table = PgTable::open(&db).await.unwrap().with_fence().await.unwrap();
    Some((db, table))
}
