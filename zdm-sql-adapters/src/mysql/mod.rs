//! MySQL and MariaDB: tables as stores, through sqlx.
//!
//! [`MySql`] is a database on a server. [`MyTable`] is a table of typed records, [`MyRows`] any table.
//! [`MySqlQueue`], [`MySqlCheckpoints`] and [`MySqlCoordinator`] keep the bookkeeping of a migration.
//!
//! Why every write has a task of its own: a future that is dropped between START TRANSACTION and the
//! answer leaves its connection in a transaction that nobody owns, and the next statement on it reports
//! success and is never committed. A task is not dropped. For the same reason no connection is handed out
//! bare: one whose caller was dropped in the middle of an answer is closed, because what is left of the
//! answer would be taken for that of the next statement; and one that is inside a transaction is refused
//! when it is taken from the pool.
//!
//! What the server enforces and what this process does:
//!
//! | | MariaDB | MySQL |
//! | --- | --- | --- |
//! | a statement that runs too long | stopped by the server (`max_statement_time`) | a SELECT by the server (`max_execution_time`), others by a KILL from another connection |
//! | a wait for a lock | ended by the server (`innodb_lock_wait_timeout`) | the same |
//! | a transaction whose client is silent | closed by the server (`idle_transaction_timeout`) | closed by the server (`wait_timeout`) |
//! | a COMMIT after the write timeout | not sent | not sent |
//!
//! Connections are not encrypted, unless the program turns on one of sqlx's `tls-` features. MySQL's
//! `caching_sha2_password` needs such a connection or a socket; the way without needs RSA, which is left
//! out because of the unfixed RUSTSEC-2023-0071.

mod apply;
mod arguments;
mod capture;
mod care;
mod checkpoints;
mod classify;
mod codec;
mod coordinator;
mod create;
mod database;
mod fence;
mod load;
mod native;
mod options;
mod queue;
mod scan;
mod schema;
mod session;
mod shape;
mod sorted;
mod statements;
mod store;

pub use capture::MySqlCapture;
pub use checkpoints::MySqlCheckpoints;
pub use classify::classify;
pub use coordinator::MySqlCoordinator;
pub use create::TableSql;
pub use database::MySql;
pub use options::MySqlOptions;
pub use queue::MySqlQueue;
pub use store::{MyRows, MyTable, TableStore};
