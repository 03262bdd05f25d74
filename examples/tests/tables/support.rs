//! How tests run the program, and databases that go with a test.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use serde_json::Value;
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{AssertSqlSafe, ConnectOptions, Connection};
use zdm_examples::live_migration::options::TemporaryDirectory;

pub(crate) fn program(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_live-migration"));
    command.args(arguments).stdin(Stdio::null());
    command
}

pub(crate) fn text(output: &Output) -> String {
    let [out, err] = [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes));
    format!("{}\n{out}\n{err}", output.status)
}

/// Runs to the end and returns the last line of standard output as JSON.
pub(crate) fn run(arguments: &[&str]) -> Value {
    told(arguments).0
}

/// As [`run`], with what was printed beside it.
pub(crate) fn told(arguments: &[&str]) -> (Value, String) {
    let output = program(arguments).arg("--json").output().unwrap();
    assert!(output.status.success(), "{}", text(&output));
    let out = String::from_utf8(output.stdout.clone()).unwrap();
    let json: Value = serde_json::from_str(out.lines().last().unwrap()).unwrap();
    for name in ["failed_requests", "lost", "extra", "mismatches", "parked"] {
        assert_eq!(json[name], 0, "{name}: {}", text(&output));
    }
    (json, text(&output))
}

/// Runs and expects a failure that says so.
pub(crate) fn refused(arguments: &[&str], words: &[&str]) {
    let output = program(arguments).output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", text(&output));
    for word in words {
        assert!(String::from_utf8_lossy(&output.stderr).contains(word), "{word}: {}", text(&output));
    }
}

pub(crate) fn chinook(dir: &Path) -> String {
    let packed = include_bytes!("../../data/chinook.sqlite.xz");
    let file = dir.join("chinook.db");
    let mut reader = lzma_rust2::XzReader::new(&packed[..], false);
    std::io::copy(&mut reader, &mut std::fs::File::create(&file).unwrap()).unwrap();
    sqlite(&file)
}

pub(crate) fn sqlite(file: &Path) -> String {
    format!("sqlite:{}", file.display())
}

pub(crate) fn execute(file: &Path, sql: &'static str) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let options = SqliteConnectOptions::new().filename(file).create_if_missing(true).foreign_keys(false);
        let mut database = options.connect().await.unwrap();
        sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut database).await.unwrap();
        database.close().await.unwrap();
    });
}

/// How many tables of zdm a file has.
pub(crate) fn installed(file: &Path) -> i64 {
    let file = file.to_owned();
    wait(async move {
        let options = SqliteConnectOptions::new().filename(file).create_if_missing(true);
        let mut database = options.connect().await.unwrap();
        let count = "SELECT count(*) FROM sqlite_schema WHERE name LIKE 'zdm\\_%' ESCAPE '\\'";
        let count = sqlx::query_scalar(count).fetch_one(&mut database).await.unwrap();
        database.close().await.unwrap();
        count
    })
    .unwrap()
}

pub(crate) fn files() -> (TemporaryDirectory, PathBuf, PathBuf) {
    let dir = TemporaryDirectory::create().unwrap();
    let (old, new) = (dir.path().join("old.db"), dir.path().join("new.db"));
    (dir, old, new)
}

/// Runs work on a runtime of its own, which may be that of no test.
pub(crate) fn wait<T: Send + 'static>(work: impl Future<Output = T> + Send + 'static) -> thread::Result<T> {
    let run = || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(work)
    };
    thread::spawn(run).join()
}

/// The kinds of servers.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Server {
    Postgres,
    MySql,
}

/// A database on a server that goes with the test.
pub(crate) struct Database {
    pub(crate) url: String,
    server: Server,
    name: String,
    base: String,
}

impl Database {
    /// `None` when there is no such server, which is said; in CI that is an error.
    #[expect(clippy::print_stderr, reason = "a test that is left out says so")]
    pub(crate) fn create(server: Server) -> Option<Self> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let variable = match server {
            Server::Postgres => "ZDM_TEST_POSTGRES_URL",
            Server::MySql => "ZDM_TEST_MYSQL_URL",
        };
        let Some(base) = std::env::var(variable).ok().filter(|url| !url.is_empty()) else {
            assert!(std::env::var_os("CI").is_none(), "{variable} is not set, and CI must not skip tests");
            eprintln!("skipped: {variable} is not set");
            return None;
        };
        let name = format!("zdm_tables_{}_{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let (host, query) = base.split_once('?').map_or((base.as_str(), ""), |(host, query)| (host, query));
        let query = if query.is_empty() { String::new() } else { format!("?{query}") };
        let url = format!("{}/{name}{query}", host.rsplit_once('/').unwrap().0);
        let database = Self { url, server, name, base: base.clone() };
        let charset = if server == Server::MySql { " CHARACTER SET utf8mb4" } else { "" };
        database.at(&base, format!("CREATE DATABASE {}{charset}", database.name)).unwrap();
        Some(database)
    }

    /// Runs statements in the database.
    pub(crate) fn execute(&self, sql: &str) {
        self.at(&self.url, sql.to_owned()).unwrap();
    }

    /// The first column of a query, as text.
    pub(crate) fn texts(&self, sql: &str) -> Vec<String> {
        let (url, sql, server) = (self.url.clone(), AssertSqlSafe(sql.to_owned()), self.server);
        wait(async move {
            match server {
                Server::Postgres => {
                    let mut connection = sqlx::PgConnection::connect(&url).await.unwrap();
                    sqlx::query_scalar(sql).fetch_all(&mut connection).await.unwrap()
                }
                Server::MySql => {
                    let mut connection = sqlx::MySqlConnection::connect(&url).await.unwrap();
                    sqlx::query_scalar(sql).fetch_all(&mut connection).await.unwrap()
                }
            }
        })
        .unwrap()
    }

    fn at(&self, url: &str, sql: String) -> thread::Result<()> {
        let (url, sql, server) = (url.to_owned(), AssertSqlSafe(sql), self.server);
        wait(async move {
            match server {
                Server::Postgres => {
                    let mut connection = sqlx::PgConnection::connect(&url).await.unwrap();
                    sqlx::raw_sql(sql).execute(&mut connection).await.unwrap();
                }
                Server::MySql => {
                    let mut connection = sqlx::MySqlConnection::connect(&url).await.unwrap();
                    sqlx::raw_sql(sql).execute(&mut connection).await.unwrap();
                }
            }
        })
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        let force = if self.server == Server::Postgres { " WITH (FORCE)" } else { "" };
        // A test that fails shall say why, and not that its database could not be dropped.
        let _dropped = self.at(&self.base, format!("DROP DATABASE {}{force}", self.name));
    }
}
