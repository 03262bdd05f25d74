//! The suites that every store passes, over every kind of key.

use std::time::Duration;

use async_trait::async_trait;
use zdm_core::testkit::{StoreFactory, store_suite};
use zdm_sql_adapters::mysql::{MyRows, MyTable};
use zdm_sql_adapters::table::{DynKey, DynRow, Value};

use crate::support::{Database, USERS, User, database_with, text, url};

/// With a short settle time, which the suite waits for.
async fn database(schema: &str) -> Database {
    database_with(schema, |options| options.write_timeout(Duration::from_secs(1))).await.unwrap()
}

/// Keeps the databases until the suite is through.
struct Typed {
    databases: Vec<Database>,
    fenced: bool,
}

#[async_trait]
impl StoreFactory for Typed {
    type Store = MyTable<User>;

    async fn create(&mut self) -> MyTable<User> {
        let db = database(USERS).await;
        let table = MyTable::open(&db).await.unwrap();
        self.databases.push(db);
        if self.fenced { table.with_fence().await.unwrap() } else { table }
    }

    fn key(&self, number: u64) -> i64 {
        number as i64 - 3
    }

    fn record(&self, number: u64, version: u64) -> User {
        let name = format!("\0 version {version} \u{1f980}");
        User {
            id: self.key(number),
            name,
            email: Some(format!("own {number}")),
            score: 1.0 / (version + 1) as f64,
        }
    }

    fn holding(&self, number: u64, value: u64) -> Option<User> {
        Some(User { email: Some(format!("shared {value}")), ..self.record(number, 1) })
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn typed_tables_with_fence() {
    if url().is_some() {
        store_suite(Typed { databases: Vec::new(), fenced: true }).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn typed_tables_without_fence() {
    if url().is_some() {
        store_suite(Typed { databases: Vec::new(), fenced: false }).await;
    }
}

type MakeKey = fn(u64) -> Vec<Value>;

/// Rows of any table: a key of one or more columns, a generated column, a unique pair.
struct Rows {
    databases: Vec<Database>,
    sample: MyRows,
    schema: String,
    key: MakeKey,
}

impl Rows {
    async fn new(columns: &str, primary: &str, key: MakeKey) -> Self {
        let schema = format!(
            "CREATE TABLE things (label VARCHAR(40) NOT NULL, {columns}, other VARBINARY(40), ratio DOUBLE NOT NULL, \
             size INT AS (CHAR_LENGTH(label)) VIRTUAL, PRIMARY KEY ({primary}), UNIQUE (label, other))"
        );
        let db = database(&schema).await;
        let sample = MyRows::discover(&db, "things").await.unwrap();
        Self { databases: vec![db], sample, schema, key }
    }

    fn row(&self, number: u64, label: &str, other: Value, ratio: f64) -> DynRow {
        let mut values = vec![text(label)];
        values.extend((self.key)(number));
        values.extend([other, Value::Real(ratio)]);
        DynRow::new(self.sample.columns().clone(), values).unwrap()
    }
}

#[async_trait]
impl StoreFactory for Rows {
    type Store = MyRows;

    async fn create(&mut self) -> MyRows {
        let db = database(&self.schema).await;
        let rows = MyRows::discover(&db, "things").await.unwrap().with_fence().await.unwrap();
        self.databases.push(db);
        rows
    }

    fn key(&self, number: u64) -> DynKey {
        DynKey::new((self.key)(number)).unwrap()
    }

    fn record(&self, number: u64, version: u64) -> DynRow {
        self.row(number, &format!("own {number}"), Value::Null, version as f64 / 7.0)
    }

    fn holding(&self, number: u64, value: u64) -> Option<DynRow> {
        Some(self.row(number, "shared", Value::Blob(value.to_be_bytes().to_vec()), 1.0))
    }
}

async fn suite(columns: &str, primary: &str, key: MakeKey) {
    if url().is_some() {
        store_suite(Rows::new(columns, primary, key).await).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_key_columns_of_which_one_is_bytes() {
    suite("half BIGINT NOT NULL, id VARBINARY(20) NOT NULL", "half, id", |number| {
        vec![Value::Integer(number as i64 / 2), Value::Blob(vec![number as u8 % 2; number as usize % 5])]
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn texts_in_an_index_that_pads_them() {
    suite("id VARCHAR(40) COLLATE utf8mb4_bin NOT NULL", "id", |number| {
        // One goes on with a control character where another one ends, and with a space.
        let rest = ["", "\t", "\0x", " z", "\u{1f980}"][number as usize % 5];
        vec![text(&format!("k{}{rest}", number / 5))]
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn texts_of_another_collation() {
    suite("id VARCHAR(40) COLLATE utf8mb4_general_ci NOT NULL", "id", |number| {
        let letter = char::from(if number % 2 == 0 { b'A' } else { b'b' } + number as u8 % 20);
        vec![text(&format!("{letter}{number}"))]
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn decimals_and_points_in_time() {
    suite("id DECIMAL(30,10) NOT NULL, at DATETIME(6) NOT NULL", "id, at", |number| {
        let decimal = format!("{}.{:05}", number as i64 / 3 - 5, number * 7919 % 100_000);
        vec![Value::Decimal(decimal.parse().unwrap()), Value::Timestamp(number as i64 * 1_234_567)]
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn numbers_above_the_signed_ones() {
    suite("id BIGINT UNSIGNED NOT NULL", "id", |number| {
        vec![if number % 2 == 0 { Value::Integer(number as i64) } else { Value::Unsigned(u64::MAX - number) }]
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn uuids_of_the_server() {
    let Some(db) = crate::support::database("").await else { return };
    if !db.server_version().contains("MariaDB") {
        return;
    }
    suite("id UUID NOT NULL", "id", |number| {
        let mut bytes = [0x11; 16];
        bytes[0] = (number as u8).wrapping_mul(37);
        bytes[4..6].copy_from_slice(&(number as u16).to_be_bytes());
        // The server takes no others.
        (bytes[6], bytes[8]) = (0x41, 0x91);
        vec![Value::Uuid(bytes)]
    })
    .await;
}
