//! The suites that every store passes.

use async_trait::async_trait;
use zdm_core::testkit::{StoreFactory, store_suite};
use zdm_sql_adapters::postgres::{PgRows, PgTable};
use zdm_sql_adapters::table::{DynKey, DynRow, Value};

use crate::support::{Database, USERS, User, database, url};

/// Keeps the schemas until the suite is through.
struct Typed {
    databases: Vec<Database>,
    fenced: bool,
}

/// A rule needs two schemas at most, and a server has so many connections only.
fn keep(databases: &mut Vec<Database>, db: Database) {
    databases.push(db);
    if databases.len() > 3 {
        databases.remove(0);
    }
}

#[async_trait]
impl StoreFactory for Typed {
    type Store = PgTable<User>;

    async fn create(&mut self) -> PgTable<User> {
        let db = database(USERS).await.unwrap();
        let table = PgTable::open(&db).await.unwrap();
        keep(&mut self.databases, db);
        if self.fenced { table.with_fence().await.unwrap() } else { table }
    }

    fn key(&self, number: u64) -> i64 {
        number as i64 - 3
    }

    fn record(&self, number: u64, version: u64) -> User {
        let name = format!("\u{1} version {version} \u{1f980}");
        User { id: self.key(number), name, email: Some(format!("own {number}")), score: 1.0 / version as f64 }
    }

    fn holding(&self, number: u64, value: u64) -> Option<User> {
        Some(User { email: Some(format!("shared {value}")), ..self.record(number, 1) })
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn typed_tables_with_and_without_fence() {
    if url().is_none() {
        return;
    }
    for fenced in [true, false] {
        store_suite(Typed { databases: Vec::new(), fenced }).await;
    }
}

/// Two key columns in another order than the table's, a text key whose collation has another order, a
/// unique pair, a generated column, an array that crosses as text.
const THINGS: &str = "CREATE TABLE things (label varchar(100) NOT NULL, id text NOT NULL, half numeric(10, 1) NOT NULL, \
    other bytea NOT NULL, size int GENERATED ALWAYS AS (length(label)) STORED, tags int[], \
    PRIMARY KEY (half, id), UNIQUE (label, other))";

struct Rows {
    databases: Vec<Database>,
    sample: PgRows,
}

impl Rows {
    async fn new() -> Option<Self> {
        let db = database(THINGS).await?;
        let sample = PgRows::discover(&db, "things").await.unwrap();
        Some(Self { databases: vec![db], sample })
    }

    fn row(&self, number: u64, label: &str, other: Vec<u8>) -> DynRow {
        let key = self.key(number);
        let [half, id] = key.values() else { panic!("{key:?}") };
        let tags = Value::Other(format!("{{{number},NULL}}"));
        let values = vec![Value::Text(label.to_owned()), id.clone(), half.clone(), Value::Blob(other), tags];
        DynRow::new(self.sample.columns().clone(), values).unwrap()
    }
}

#[async_trait]
impl StoreFactory for Rows {
    type Store = PgRows;

    async fn create(&mut self) -> PgRows {
        let db = database(THINGS).await.unwrap();
        let rows = PgRows::discover(&db, "things").await.unwrap().with_fence().await.unwrap();
        keep(&mut self.databases, db);
        rows
    }

    fn key(&self, number: u64) -> DynKey {
        let half = format!("{}.{}", number / 4, number % 2 * 5);
        let id = ["Zebra", "apple", "Äpfel", "_"][number as usize % 4];
        DynKey::new([Value::Decimal(half.parse().unwrap()), Value::Text(format!("{id}{number}"))]).unwrap()
    }

    fn record(&self, number: u64, version: u64) -> DynRow {
        self.row(number, &format!("own {number} {version}"), vec![1])
    }

    fn holding(&self, number: u64, value: u64) -> Option<DynRow> {
        Some(self.row(number, "shared", value.to_be_bytes().to_vec()))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn discovered_tables() {
    if let Some(rows) = Rows::new().await {
        store_suite(rows).await;
    }
}
