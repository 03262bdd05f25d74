//! A database in a directory of its own, and the table that most tests use.

use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use serde::Serialize;
use zdm_core::Result;
use zdm_sql_adapters::sqlite::{Sqlite, SqliteOptions, SqliteTable};
use zdm_sql_adapters::table::{RowReader, RowWriter, TableMapping};

/// A directory that goes with the test.
pub(crate) struct Directory(PathBuf);

impl Directory {
    pub(crate) fn new() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("zdm-sqlite-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A database that goes with the test.
pub(crate) struct Database {
    pub(crate) db: Sqlite,
    _directory: Directory,
}

impl Deref for Database {
    type Target = Sqlite;

    fn deref(&self) -> &Sqlite {
        &self.db
    }
}

pub(crate) async fn database(schema: &str) -> Database {
    database_with(schema, |options| options).await
}

pub(crate) async fn database_with(
    schema: &str,
    change: impl FnOnce(SqliteOptions) -> SqliteOptions,
) -> Database {
    let directory = Directory::new();
    let options = SqliteOptions::new(directory.file("test.db")).create(true);
    let db = change(options).open().await.unwrap();
    db.execute(schema).await.unwrap();
    Database { db, _directory: directory }
}

/// All rows of a query as text, one line each.
pub(crate) async fn rows(db: &Sqlite, sql: &'static str) -> Vec<String> {
    sqlx::query_scalar(sql).fetch_all(db.readers()).await.unwrap()
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct User {
    pub(crate) id: i64,
    pub(crate) name: String,
    pub(crate) email: Option<String>,
    pub(crate) score: f64,
}

pub(crate) const USERS: &str = "CREATE TABLE users (id INTEGER PRIMARY KEY, name TEXT NOT NULL CHECK (name <> ''), \
                         email TEXT UNIQUE, score REAL NOT NULL DEFAULT 0)";

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

pub(crate) async fn users(schema: &str) -> (Database, SqliteTable<User>) {
    let db = database(schema).await;
    let table = SqliteTable::open(&db).await.unwrap();
    (db, table)
}
