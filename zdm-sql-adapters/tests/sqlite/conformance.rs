//! The suites that every store, queue and checkpoint store passes.

use std::path::PathBuf;

use async_trait::async_trait;
use zdm_core::clock::SystemClock;
use zdm_core::testkit::{
    CheckpointFactory, QueueFactory, StoreFactory, checkpoint_suite, queue_suite, store_suite,
};
use zdm_sql_adapters::sqlite::{Sqlite, SqliteCheckpoints, SqliteQueue, SqliteRows, SqliteTable};
use zdm_sql_adapters::table::{DynKey, DynRow, Value};

use crate::support::{Database, Directory, USERS, User, database};

/// Keeps the files until the suite is through.
struct Typed {
    databases: Vec<Database>,
    fenced: bool,
}

#[async_trait]
impl StoreFactory for Typed {
    type Store = SqliteTable<User>;

    async fn create(&mut self) -> SqliteTable<User> {
        let db = database(USERS).await;
        let table = SqliteTable::open(&db).await.unwrap();
        self.databases.push(db);
        if self.fenced { table.with_fence().await.unwrap() } else { table }
    }

    fn key(&self, number: u64) -> i64 {
        number as i64 - 3
    }

    fn record(&self, number: u64, version: u64) -> User {
        let name = format!("\0 version {version} \u{1f980}");
        User { id: self.key(number), name, email: Some(format!("own {number}")), score: 1.0 / version as f64 }
    }

    fn holding(&self, number: u64, value: u64) -> Option<User> {
        Some(User { email: Some(format!("shared {value}")), ..self.record(number, 1) })
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn typed_tables_with_and_without_fence() {
    store_suite(Typed { databases: Vec::new(), fenced: true }).await;
    store_suite(Typed { databases: Vec::new(), fenced: false }).await;
}

/// Two key columns of which the second has no type, a unique pair, a generated column, no rowid.
const THINGS: &str = "CREATE TABLE things (label TEXT NOT NULL, id, half INTEGER NOT NULL, other BLOB, \
                      size INTEGER AS (length(label)) VIRTUAL, PRIMARY KEY (half, id), UNIQUE (label, other)) WITHOUT ROWID";

struct Rows {
    databases: Vec<Database>,
    sample: SqliteRows,
}

impl Rows {
    async fn new() -> Self {
        let db = database(THINGS).await;
        let sample = SqliteRows::discover(&db, "things").await.unwrap();
        Self { databases: vec![db], sample }
    }

    fn row(&self, number: u64, label: &str, other: Value) -> DynRow {
        let key = self.key(number);
        let [half, id] = key.values() else { panic!("{key:?}") };
        let values = vec![Value::Text(label.to_owned()), id.clone(), half.clone(), other];
        DynRow::new(self.sample.columns().clone(), values).unwrap()
    }
}

#[async_trait]
impl StoreFactory for Rows {
    type Store = SqliteRows;

    async fn create(&mut self) -> SqliteRows {
        let db = database(THINGS).await;
        let rows = SqliteRows::discover(&db, "things").await.unwrap().with_fence().await.unwrap();
        self.databases.push(db);
        rows
    }

    fn key(&self, number: u64) -> DynKey {
        let id = match number % 4 {
            0 => Value::Integer(number as i64),
            1 => Value::Real(number as f64 + 0.5),
            2 => Value::Text(format!("{number}\0")),
            _ => Value::Blob(number.to_be_bytes().to_vec()),
        };
        DynKey::new([Value::Integer(number as i64 / 2), id]).unwrap()
    }

    fn record(&self, number: u64, version: u64) -> DynRow {
        self.row(number, &format!("own {number}"), Value::Real(version as f64 / 7.0))
    }

    fn holding(&self, number: u64, value: u64) -> Option<DynRow> {
        Some(self.row(number, "shared", Value::Blob(value.to_be_bytes().to_vec())))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn discovered_tables() {
    store_suite(Rows::new().await).await;
}

#[derive(Default)]
struct Checkpoints {
    directories: Vec<Directory>,
    last: Option<PathBuf>,
}

#[async_trait]
impl CheckpointFactory for Checkpoints {
    type Store = SqliteCheckpoints;

    async fn create(&mut self) -> SqliteCheckpoints {
        let directory = Directory::new();
        let path = directory.file("checkpoints.db");
        self.directories.push(directory);
        self.last = Some(path.clone());
        SqliteCheckpoints::open(&Sqlite::create(path).await.unwrap()).await.unwrap()
    }

    async fn reopen(&mut self) -> Option<SqliteCheckpoints> {
        let path = self.last.as_ref()?;
        Some(SqliteCheckpoints::open(&Sqlite::open(path).await.unwrap()).await.unwrap())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn checkpoints() {
    checkpoint_suite(Checkpoints::default()).await;
}

#[derive(Default)]
struct Queues {
    directories: Vec<Directory>,
    last: Option<(PathBuf, usize)>,
}

impl Queues {
    async fn open(&self) -> Option<SqliteQueue> {
        let (path, limit) = self.last.as_ref()?;
        let db = Sqlite::create(path).await.unwrap();
        Some(SqliteQueue::open_with(&db, "a to b", *limit, std::sync::Arc::new(SystemClock)).await.unwrap())
    }
}

#[async_trait]
impl QueueFactory for Queues {
    type Queue = SqliteQueue;

    async fn create(&mut self, limit: usize) -> SqliteQueue {
        let directory = Directory::new();
        self.last = Some((directory.file("queue.db"), limit));
        self.directories.push(directory);
        self.open().await.unwrap()
    }

    async fn reopen(&mut self) -> Option<SqliteQueue> {
        self.open().await
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn queues() {
    queue_suite(Queues::default()).await;
}
