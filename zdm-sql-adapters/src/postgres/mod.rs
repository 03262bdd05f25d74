//! PostgreSQL: tables as stores, through sqlx. Version 13 or newer.
//!
//! [`Postgres`] is a database on a server. [`PgTable`] is a table of typed records, [`PgRows`] any table.
//!
//! Why every write has a task of its own: a future that is dropped between BEGIN and the answer leaves its
//! connection in a transaction that nobody owns, and the next statement on it reports success and is never
//! committed. A task is not dropped. For the same reason no connection is handed out bare: one whose caller
//! was dropped in the middle of an answer is closed, and one that is inside a transaction is refused when it
//! is taken from the pool.
//!
//! What ends what takes too long:
//!
//! | | |
//! | --- | --- |
//! | a statement | the server (`statement_timeout`) |
//! | a wait for a lock | the server (`lock_timeout`) |
//! | a transaction whose client is silent | the server (`idle_in_transaction_session_timeout`) |
//! | a transaction of many short statements | this process: it sends no COMMIT after the write timeout |
//!
//! A COMMIT whose answer is lost is looked up: the number of every write transaction is known from its BEGIN,
//! and another connection asks what became of it. Only when that cannot be told, because the server is gone
//! or was restarted meanwhile, is the outcome unknown.
//!
//! Connections are not encrypted, unless the program turns on one of sqlx's `tls-` features. A pooler in
//! between must keep one server connection for one client connection: the timeouts belong to the session.

mod apply;
mod capture;
mod care;
mod checkpoints;
mod classify;
mod codec;
mod coordinator;
mod create;
mod database;
mod digest;
mod fence;
mod load;
mod native;
mod numeric;
mod options;
mod queue;
mod scan;
mod schema;
mod sequences;
mod session;
mod shape;
mod statements;
mod store;
mod wire;

pub use capture::PgCapture;
pub use checkpoints::PgCheckpoints;
pub use classify::classify;
pub use coordinator::PgCoordinator;
pub use create::TableSql;
pub use database::Postgres;
pub use options::PostgresOptions;
pub use queue::PgQueue;
pub use store::{PgRows, PgTable, TableStore};
