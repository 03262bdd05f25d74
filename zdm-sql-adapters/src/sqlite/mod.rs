//! SQLite: tables as stores, through sqlx.
//!
//! [`Sqlite`] is a database file. [`SqliteTable`] is a table of typed records, [`SqliteRows`] any table.
//! [`SqliteCheckpoints`] and [`SqliteQueue`] keep the bookkeeping of a migration in such a file.
//!
//! Why every write has a task of its own: a future that is dropped between BEGIN and the answer leaves
//! its connection in a transaction that nobody owns, and the next statement on it reports success and is
//! never committed. A task is not dropped; and a connection in a transaction is refused when it is taken
//! from the pool.

mod apply;
mod arguments;
mod capture;
mod checkpoints;
mod classify;
mod codec;
mod create;
mod database;
mod fence;
mod load;
mod options;
mod packed;
mod queue;
mod scan;
mod schema;
mod shape;
mod statements;
mod store;

pub use capture::SqliteCapture;
pub use checkpoints::SqliteCheckpoints;
pub use classify::classify;
pub use create::TableSql;
pub use database::Sqlite;
pub use options::{SqliteOptions, Synchronous};
pub use queue::SqliteQueue;
pub use store::{SqliteRows, SqliteTable, TableStore};
