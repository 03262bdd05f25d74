//! What this program asks of a database, whatever its kind.

use std::collections::BTreeSet;
use std::sync::Arc;

use async_trait::async_trait;
use zdm_core::store::DynStore;
use zdm_sql_adapters::table::{ColumnType, DynKey, DynRow, TableShape};

use super::super::Result;
use super::address::{Address, Engine};
use super::canonical::Raw;
use super::mysql_side::MySqlSide;
use super::postgres_side::PostgresSide;
use super::sqlite_side::SqliteSide;

/// The statements that make a table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Creation {
    /// Makes the table with its columns and its key.
    pub create: String,
    /// Make indexes, once the rows are there.
    pub indexes: Vec<String>,
    /// Make foreign keys, once the rows of all tables are there.
    pub foreign_keys: Vec<String>,
    /// What the table will not have here, as sentences.
    pub left_out: Vec<String>,
}

/// Takes one row of the checker's own reading.
pub type TakeRow<'a> = &'a mut (dyn FnMut(Vec<Raw>) -> Result<()> + Send);

/// A database of a migration.
#[async_trait]
pub trait Side: Send + Sync {
    /// The kind.
    fn engine(&self) -> Engine;

    /// What no other database says of itself.
    async fn identity(&self) -> Result<String>;

    /// Its tables, parents first.
    async fn tables(&self) -> zdm_core::Result<Vec<String>>;

    /// What a table is.
    async fn describe(&self, table: &str) -> zdm_core::Result<TableShape>;

    /// The statements that make the like of a table here.
    fn creation(&self, shape: &TableShape) -> zdm_core::Result<Creation>;

    /// Runs statements that change the schema.
    async fn execute(&self, sql: String) -> zdm_core::Result<()>;

    /// A table as a store, with its fence.
    async fn store(
        &self,
        table: &str,
        types: &[(String, ColumnType)],
    ) -> zdm_core::Result<DynStore<DynKey, DynRow>>;

    /// The last number that the database has counted up to in a table, if it counts.
    async fn counted(&self, table: &str) -> zdm_core::Result<Option<u64>>;

    /// Lets it count on above a number, and above all that it has given out itself.
    async fn count_on_above(&self, table: &str, past: u64) -> zdm_core::Result<()>;

    /// Whether tables of zdm are there.
    async fn installed(&self) -> Result<bool>;

    /// What zdm keeps in them for migrations: the tables that have stamps, and a word for a queue, a
    /// checkpoint and a phase.
    async fn bookkeeping(&self) -> Result<BTreeSet<String>>;

    /// Removes everything of zdm.
    async fn remove_bookkeeping(&self) -> zdm_core::Result<()>;

    /// Reads every row with SQL of its own, for the checker: nothing of the stores takes part.
    async fn read(&self, table: &str, columns: &[(String, ColumnType)], take: TakeRow<'_>) -> Result<()>;

    /// Ends all connections.
    async fn close(&self);
}

/// Connects to a database. Only a SQLite file that is to be the new side is created.
///
/// # Errors
/// It cannot be opened, or does not answer.
pub async fn open(address: &Address, create: bool) -> Result<Arc<dyn Side>> {
    match address.engine {
        Engine::Sqlite => Ok(Arc::new(SqliteSide::open(&address.text, create).await?)),
        Engine::MySql => Ok(Arc::new(MySqlSide::open(address).await?)),
        Engine::Postgres => Ok(Arc::new(PostgresSide::open(address).await?)),
    }
}

/// Asks what zdm keeps; what is kept in queues, checkpoints and phases is named by its kind only.
pub const BOOKKEEPING: [&str; 5] = [
    "SELECT DISTINCT table_name FROM zdm_stamp",
    "SELECT DISTINCT table_name FROM zdm_page",
    "SELECT DISTINCT table_name FROM zdm_fence",
    "SELECT 'a queue' FROM zdm_queue",
    "SELECT 'a checkpoint' FROM zdm_checkpoint",
];
/// The same, where there are phases.
pub const PHASES: &str = "SELECT 'a phase' FROM zdm_phase";

/// A name in quotes of a kind.
pub fn quoted(name: &str, quote: char) -> String {
    format!("{quote}{}{quote}", name.replace(quote, &format!("{quote}{quote}")))
}
