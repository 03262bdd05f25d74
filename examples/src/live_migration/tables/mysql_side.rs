//! MySQL and MariaDB servers.

use std::collections::{BTreeSet, HashMap};
use std::str::FromStr;

use async_trait::async_trait;
use futures_util::TryStreamExt;
use sqlx::mysql::{MySqlConnectOptions, MySqlRow};
use sqlx::{AssertSqlSafe, ConnectOptions, Connection, Row};
use zdm_core::store::{DynStore, StoreExt};
use zdm_sql_adapters::mysql::{MyRows, MySql};
use zdm_sql_adapters::table::{ColumnType, DynKey, DynRow, TableShape};

use super::super::{Doing, Result};
use super::address::{Address, Engine};
use super::canonical::Raw;
use super::side::{BOOKKEEPING, Creation, PHASES, Side, TakeRow, quoted};

/// A database on a server.
pub struct MySqlSide {
    database: MySql,
    address: Address,
}

impl MySqlSide {
    /// Connects.
    ///
    /// # Errors
    /// The server does not answer.
    pub async fn open(address: &Address) -> Result<Self> {
        let database = MySql::connect(&address.text).await.doing(|| format!("{address} cannot be opened"))?;
        Ok(Self { database, address: address.clone() })
    }

    async fn connect(&self) -> Result<sqlx::MySqlConnection, sqlx::Error> {
        let options = MySqlConnectOptions::from_str(&self.address.text)?
            .charset("utf8mb4")
            .timezone(Some("+00:00".into()));
        options.connect().await
    }
}

#[async_trait]
impl Side for MySqlSide {
    fn engine(&self) -> Engine {
        Engine::MySql
    }

    async fn identity(&self) -> Result<String> {
        let failed = || format!("{} cannot be asked who it is", self.address);
        let sql = "SELECT CONCAT('mysql:', @@hostname, ':', @@port, ':', @@datadir, ':', DATABASE())";
        let mut server = self.connect().await.doing(failed)?;
        let identity = sqlx::query_scalar(sql).fetch_one(&mut server).await.doing(failed)?;
        server.close().await.doing(failed)?;
        Ok(identity)
    }

    async fn tables(&self) -> zdm_core::Result<Vec<String>> {
        self.database.tables().await
    }

    async fn describe(&self, table: &str) -> zdm_core::Result<TableShape> {
        self.database.describe(table).await
    }

    fn creation(&self, shape: &TableShape) -> zdm_core::Result<Creation> {
        let sql = self.database.create_sql(shape)?;
        Ok(Creation {
            create: sql.create,
            indexes: sql.indexes,
            foreign_keys: sql.foreign_keys,
            left_out: sql.left_out,
        })
    }

    async fn execute(&self, sql: String) -> zdm_core::Result<()> {
        self.database.execute(sql).await
    }

    async fn store(
        &self,
        table: &str,
        types: &[(String, ColumnType)],
    ) -> zdm_core::Result<DynStore<DynKey, DynRow>> {
        Ok(MyRows::discover_as(&self.database, table, types).await?.with_fence().await?.into_dyn())
    }

    async fn counted(&self, table: &str) -> zdm_core::Result<Option<u64>> {
        self.database.last_auto_increment(table).await
    }

    async fn count_on_above(&self, table: &str, past: u64) -> zdm_core::Result<()> {
        self.database.advance_auto_increment(table, past).await.map(|_| ())
    }

    async fn installed(&self) -> Result<bool> {
        let failed = || format!("{} cannot be asked what zdm keeps there", self.address);
        let mut server = self.connect().await.doing(failed)?;
        let sql = "SELECT 'yes' FROM information_schema.tables WHERE table_schema = DATABASE() AND table_name = 'zdm_schema'";
        let found: Option<String> =
            sqlx::query_scalar(sql).fetch_optional(&mut server).await.doing(failed)?;
        server.close().await.doing(failed)?;
        Ok(found.is_some())
    }

    async fn bookkeeping(&self) -> Result<BTreeSet<String>> {
        let failed = || format!("{} cannot be asked what zdm keeps there", self.address);
        let mut server = self.connect().await.doing(failed)?;
        let mut kept = BTreeSet::new();
        for sql in BOOKKEEPING.into_iter().chain([PHASES]) {
            // Names are kept as bytes.
            let sql = sql.replace("DISTINCT table_name", "DISTINCT CONVERT(table_name USING utf8mb4)");
            let found: Vec<String> =
                sqlx::query_scalar(AssertSqlSafe(sql)).fetch_all(&mut server).await.doing(failed)?;
            kept.extend(found);
        }
        server.close().await.doing(failed)?;
        Ok(kept)
    }

    async fn remove_bookkeeping(&self) -> zdm_core::Result<()> {
        self.database.remove_schema().await
    }

    async fn read(&self, table: &str, columns: &[(String, ColumnType)], take: TakeRow<'_>) -> Result<()> {
        let failed = || format!("the checker cannot read table {table} of {}", self.address);
        let mut server = self.connect().await.doing(failed)?;
        let (database, name) = match table.split_once('.') {
            Some((database, name)) => (Some(database), name),
            None => (None, table),
        };
        let bits: HashMap<String, u64> = sqlx::query_as::<_, (String, u64)>(
            "SELECT CONVERT(column_name USING utf8mb4), CAST(numeric_precision AS UNSIGNED) \
             FROM information_schema.columns \
             WHERE table_schema = IFNULL(?, DATABASE()) AND table_name = ? AND data_type = 'bit'",
        )
        .bind(database)
        .bind(name)
        .fetch_all(&mut server)
        .await
        .doing(failed)?
        .into_iter()
        .collect();
        let expressions: Vec<_> = columns
            .iter()
            .map(|(column, ty)| {
                let name = quoted(column, '`');
                match ty {
                    // So does any other BIT column; elsewhere bits are digits.
                    ColumnType::Bits if bits.contains_key(column) => {
                        format!("LPAD(BIN({name} + 0), {}, '0')", bits[column])
                    }
                    ColumnType::Bytes { .. } => format!("HEX({name})"),
                    // Printed, a float would lose digits.
                    ColumnType::Real { .. } => format!("CAST({name} AS DOUBLE)"),
                    // A BIT column prints as bytes.
                    ColumnType::Boolean => format!("CAST({name} + 0 AS CHAR)"),
                    _ => format!("CAST({name} AS CHAR CHARACTER SET utf8mb4)"),
                }
            })
            .collect();
        let table = table.split('.').map(|part| quoted(part, '`')).collect::<Vec<_>>().join(".");
        let sql = format!("SELECT {} FROM {table}", expressions.join(", "));
        let mut rows = sqlx::query(AssertSqlSafe(sql)).fetch(&mut server);
        while let Some(row) = rows.try_next().await.doing(failed)? {
            let values = columns.iter().enumerate().map(|(at, (_, ty))| raw(&row, at, ty));
            take(values.collect::<Result<Vec<_>, _>>().doing(failed)?)?;
        }
        drop(rows);
        server.close().await.doing(failed)
    }

    async fn close(&self) {
        self.database.close().await;
    }
}

fn raw(row: &MySqlRow, at: usize, ty: &ColumnType) -> Result<Raw, sqlx::Error> {
    if matches!(ty, ColumnType::Real { .. }) {
        return Ok(row.try_get::<Option<f64>, _>(at)?.map_or(Raw::Null, Raw::Real));
    }
    let text: Option<String> = row.try_get_unchecked(at)?;
    Ok(text.map_or(Raw::Null, |text| match ty {
        ColumnType::Bytes { .. } => Raw::Text(text.to_ascii_lowercase()),
        _ => Raw::Text(text),
    }))
}
