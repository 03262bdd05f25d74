//! A database of its own for each test.

use std::ops::Deref;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::Serialize;
use sqlx::mysql::{MySqlConnectOptions, MySqlConnection};
use sqlx::{AssertSqlSafe, ConnectOptions, Connection, Executor};
use zdm_core::Result;
use zdm_core::store::Change;
use zdm_sql_adapters::mysql::{MyRows, MySql, MySqlOptions, MyTable};
use zdm_sql_adapters::table::{DynKey, DynRow, RowReader, RowWriter, TableMapping, Value};

/// The URL of the server. `None` when there is none, which is said; in CI that is an error.
#[expect(clippy::print_stderr, reason = "a test that is left out says so")]
pub(crate) fn url() -> Option<String> {
    let url = std::env::var("ZDM_TEST_MYSQL_URL").ok().filter(|url| !url.is_empty());
    if url.is_none() {
        assert!(
            std::env::var_os("CI").is_none(),
            "ZDM_TEST_MYSQL_URL is not set, and CI must not skip tests"
        );
        eprintln!("skipped: ZDM_TEST_MYSQL_URL is not set");
    }
    url
}

fn options(url: &str) -> MySqlConnectOptions {
    url.parse().unwrap()
}

async fn plain(url: &str) -> MySqlConnection {
    options(url).connect().await.unwrap()
}

/// A database that goes with the test.
pub(crate) struct Database {
    pub(crate) db: MySql,
    url: String,
}

impl Database {
    /// A connection that the adapter knows nothing of.
    pub(crate) async fn other(&self) -> MySqlConnection {
        options(&self.url).database(self.db.name()).connect().await.unwrap()
    }

    /// Another handle to the same database, with its own connections.
    pub(crate) async fn again(&self, change: impl FnOnce(MySqlOptions) -> MySqlOptions) -> MySql {
        let options = MySqlOptions::with(options(&self.url).database(self.db.name())).unwrap();
        change(options).connect().await.unwrap()
    }
}

impl Deref for Database {
    type Target = MySql;

    fn deref(&self) -> &MySql {
        &self.db
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        let (url, name) = (self.url.clone(), self.db.name().to_owned());
        // The test's own runtime may be waiting for this very thread.
        let dropped = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let mut connection = plain(&url).await;
                let sql = format!("DROP DATABASE IF EXISTS `{name}`");
                connection.execute(AssertSqlSafe(sql)).await.unwrap();
                connection.close().await.unwrap();
            });
        })
        .join();
        assert!(dropped.is_ok() || std::thread::panicking(), "the database of the test was not dropped");
    }
}

pub(crate) async fn database(schema: &str) -> Option<Database> {
    database_with(schema, |options| options).await
}

pub(crate) async fn database_with(
    schema: &str,
    change: impl FnOnce(MySqlOptions) -> MySqlOptions,
) -> Option<Database> {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let url = url()?;
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let name = format!("zdm_test_{}_{number}", std::process::id());
    let mut connection = plain(&url).await;
    connection.execute(AssertSqlSafe(format!("DROP DATABASE IF EXISTS `{name}`"))).await.unwrap();
    connection
        .execute(AssertSqlSafe(format!("CREATE DATABASE `{name}` CHARACTER SET utf8mb4")))
        .await
        .unwrap();
    connection.close().await.unwrap();
    let options = MySqlOptions::with(options(&url).database(&name)).unwrap();
    let db = change(options).connect().await.unwrap();
    let database = Database { db, url };
    if !schema.is_empty() {
        database.execute(schema).await.unwrap();
    }
    Some(database)
}

/// All rows of a query of one text column, one line each.
pub(crate) async fn rows(db: &MySql, sql: impl Into<String>) -> Vec<String> {
    let sql = sql.into();
    db.read(|connection| {
        Box::pin(async move {
            let found: Vec<Vec<u8>> =
                sqlx::query_scalar(AssertSqlSafe(sql)).fetch_all(connection).await.unwrap();
            Ok(found.into_iter().map(|row| String::from_utf8(row).unwrap()).collect())
        })
    })
    .await
    .unwrap()
}

/// Runs one statement in a write transaction.
pub(crate) async fn write(db: &MySql, sql: impl Into<String>) -> Result<()> {
    let sql = sql.into();
    db.write(|connection| {
        Box::pin(async move {
            let run = connection.execute(sqlx::raw_sql(AssertSqlSafe(sql))).await;
            run.map_err(|error| zdm_sql_adapters::mysql::classify(error, "writing"))?;
            Ok(())
        })
    })
    .await
}

pub(crate) fn text(text: &str) -> Value {
    Value::Text(text.to_owned())
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct User {
    pub(crate) id: i64,
    pub(crate) name: String,
    pub(crate) email: Option<String>,
    pub(crate) score: f64,
}

pub(crate) const USERS: &str = "CREATE TABLE users (id BIGINT PRIMARY KEY, name VARCHAR(60) NOT NULL CHECK (name <> ''), \
                         email VARCHAR(60) UNIQUE, score DOUBLE NOT NULL DEFAULT 0)";

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

pub(crate) async fn users(schema: &str) -> Option<(Database, MyTable<User>)> {
    let db = database(schema).await?;
    let table = MyTable::open(&db).await.unwrap();
    Some((db, table))
}

pub(crate) async fn rows_of(schema: &str, table: &str) -> Option<(Database, MyRows)> {
    let db = database(schema).await?;
    let rows = MyRows::discover(&db, table).await.unwrap();
    Some((db, rows))
}

/// A row of a dynamic table as a change that puts it; the key is the first column.
pub(crate) fn put_row(table: &MyRows, values: Vec<Value>) -> Change<DynKey, DynRow> {
    let key = DynKey::new([values[0].clone()]).unwrap();
    Change::Put(key, DynRow::new(table.columns().clone(), values).unwrap())
}
