//! PostgreSQL servers.

use std::collections::BTreeSet;
use std::str::FromStr;

use async_trait::async_trait;
use futures_util::TryStreamExt;
use sqlx::postgres::PgConnectOptions;
use sqlx::{AssertSqlSafe, ConnectOptions, Connection, Row};
use zdm_core::store::{DynStore, StoreExt};
use zdm_sql_adapters::postgres::{PgRows, Postgres};
use zdm_sql_adapters::table::{ColumnType, DynKey, DynRow, TableShape};

use super::super::{Doing, Result};
use super::address::{Address, Engine};
use super::canonical::Raw;
use super::side::{BOOKKEEPING, Creation, PHASES, Side, TakeRow, quoted};

/// A database on a server.
pub struct PostgresSide {
    database: Postgres,
    address: Address,
}

impl PostgresSide {
    /// Connects.
    ///
    /// # Errors
    /// The server does not answer.
    pub async fn open(address: &Address) -> Result<Self> {
        let database =
            Postgres::connect(&address.text).await.doing(|| format!("{address} cannot be opened"))?;
        Ok(Self { database, address: address.clone() })
    }

    async fn connect(&self) -> Result<sqlx::PgConnection, sqlx::Error> {
        let options = PgConnectOptions::from_str(&self.address.text)?;
        let forms = [
            ("TimeZone", "UTC"),
            ("DateStyle", "ISO, YMD"),
            ("IntervalStyle", "postgres"),
            ("extra_float_digits", "1"),
        ];
        options.options(forms).connect().await
    }
}

#[async_trait]
impl Side for PostgresSide {
    fn engine(&self) -> Engine {
        Engine::Postgres
    }

    async fn identity(&self) -> Result<String> {
        let failed = || format!("{} cannot be asked who it is", self.address);
        let sql = "SELECT concat('postgres:', pg_postmaster_start_time(), ':', current_setting('port'), ':', \
                   current_database(), ':', current_schema())";
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
        Ok(PgRows::discover_as(&self.database, table, types).await?.with_fence().await?.into_dyn())
    }

    async fn counted(&self, table: &str) -> zdm_core::Result<Option<u64>> {
        self.database.last_sequence_value(table).await
    }

    async fn count_on_above(&self, table: &str, past: u64) -> zdm_core::Result<()> {
        self.database.advance_sequences(table, past).await.map(|_| ())
    }

    async fn installed(&self) -> Result<bool> {
        let failed = || format!("{} cannot be asked what zdm keeps there", self.address);
        let mut server = self.connect().await.doing(failed)?;
        let sql = "SELECT 'yes' WHERE to_regclass('zdm_schema') IS NOT NULL";
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
            let found: Vec<String> = sqlx::query_scalar(sql).fetch_all(&mut server).await.doing(failed)?;
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
        let expressions: Vec<_> = columns
            .iter()
            .map(|(name, ty)| {
                let name = quoted(name, '"');
                match ty {
                    ColumnType::Bytes { .. } => format!("encode({name}, 'hex')"),
                    // The text of a float of 32 bits is not that of its value.
                    ColumnType::Real { .. } => format!("{name}::float8::text"),
                    _ => format!("{name}::text"),
                }
            })
            .collect();
        let table = table.split('.').map(|part| quoted(part, '"')).collect::<Vec<_>>().join(".");
        let sql = format!("SELECT {} FROM {table}", expressions.join(", "));
        let mut rows = sqlx::query(AssertSqlSafe(sql)).fetch(&mut server);
        while let Some(row) = rows.try_next().await.doing(failed)? {
            let values = (0..columns.len()).map(|at| {
                let text: Option<String> = row.try_get(at)?;
                Ok(text.map_or(Raw::Null, Raw::Text))
            });
            take(values.collect::<Result<Vec<_>, sqlx::Error>>().doing(failed)?)?;
        }
        drop(rows);
        server.close().await.doing(failed)
    }

    async fn close(&self) {
        self.database.close().await;
    }
}
