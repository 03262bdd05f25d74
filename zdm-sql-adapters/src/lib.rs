//! Tables of SQL databases as the stores of a zero-downtime migration: PostgreSQL, MySQL and MariaDB, SQLite,
//! through sqlx.
//!
//! A mapping says how a record stands in a table; the old and the new schema of one record are two
//! mappings. Any table can also be moved as rows of values, with its columns read from the database. What
//! comes with a store: authoritative reads, bulk changes in one transaction, pages in key order, and a fence
//! that refuses late writes.
//!
//! | | PostgreSQL | MySQL and MariaDB | SQLite |
//! | --- | --- | --- | --- |
//! | feature | `postgres` | `mysql` | `sqlite` |
//! | typed records | `PgTable` | `MyTable` | `SqliteTable` |
//! | rows of any table | `PgRows` | `MyRows` | `SqliteRows` |
//! | queue | `PgQueue`, shared by instances | `MySqlQueue`, shared by instances | `SqliteQueue`, of one process |
//! | an entry in the writer's own transaction | `PgQueue::write_in` | `MySqlQueue::write_in` | - |
//! | writers that know nothing of it | `PgCapture` | `MySqlCapture` | `SqliteCapture` |
//! | checkpoints | `PgCheckpoints` | `MySqlCheckpoints` | `SqliteCheckpoints` |
//! | phase and members | `PgCoordinator` | `MySqlCoordinator` | a file, see `zdm_core::phase` |
//! | sums of ranges for verification | yes | no | no |
//!
//! Which types of columns records can move between is one table: [`pair`](table::pair).
//!
//! What it is not: an ORM, or a tool that changes your tables. It reads and writes the rows that you name,
//! and keeps its own bookkeeping in tables whose names begin with `zdm_`.
//!
//! ```
//! use serde::Serialize;
//! use zdm_core::Result;
//! use zdm_core::store::{Store, StoreExt};
//! use zdm_sql_adapters::sqlite::{Sqlite, SqliteTable};
//! use zdm_sql_adapters::table::{RowReader, RowWriter, TableMapping};
//!
//! #[derive(Clone, Debug, PartialEq, Serialize)]
//! struct User { id: i64, name: String }
//!
//! impl TableMapping for User {
//!     type Key = i64;
//!     type Record = Self;
//!     const TABLE: &'static str = "users";
//!     const KEY: &'static [&'static str] = &["id"];
//!     const COLUMNS: &'static [&'static str] = &["name"];
//!     fn write(user: &User, row: &mut RowWriter<'_>) -> Result<()> { row.set("name", &user.name).done() }
//!     fn read(id: &i64, row: &mut RowReader<'_>) -> Result<User> { Ok(User { id: *id, name: row.get("name")? }) }
//! }
//!
//! # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
//! # let path = std::env::temp_dir().join(format!("zdm-{}-users.db", std::process::id()));
//! let db = Sqlite::create(path).await?;
//! db.execute("CREATE TABLE users (id INTEGER PRIMARY KEY, name TEXT NOT NULL)").await?;
//! let users = SqliteTable::<User>::open(&db).await?;
//! users.put(&7, &User { id: 7, name: "Ada".to_owned() }).await?;
//! assert_eq!(users.fetch(&7).await?.name, "Ada");
//! # db.close().await;
//! # std::fs::remove_file(db.path()).unwrap();
//! # Ok::<_, zdm_core::Error>(()) }).unwrap();
//! ```

#[cfg(not(any(feature = "mysql", feature = "postgres", feature = "sqlite")))]
compile_error!(
    "zdm-sql-adapters needs a database: choose postgres, mysql or sqlite in Cargo.toml, \
     for example zdm-sql-adapters = { version = \"0.1\", features = [\"sqlite\"] }"
);

#[cfg(any(feature = "mysql", feature = "postgres", feature = "sqlite"))]
pub mod capture;
#[cfg(feature = "mysql")]
pub mod mysql;
#[cfg(feature = "postgres")]
pub mod postgres;
#[cfg(any(feature = "mysql", feature = "postgres"))]
pub mod shared_phase;
#[cfg(any(feature = "mysql", feature = "postgres"))]
pub mod shared_queue;
#[cfg(feature = "sqlite")]
pub mod sqlite;
#[cfg(any(feature = "mysql", feature = "postgres", feature = "sqlite"))]
pub mod table;
