//! SQLite files.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use async_trait::async_trait;
use futures_util::TryStreamExt;
use sqlx::sqlite::{SqliteConnectOptions, SqliteRow};
use sqlx::{AssertSqlSafe, ConnectOptions, Connection, Decode, Row, Sqlite as Driver, TypeInfo, ValueRef};
use zdm_core::store::{DynStore, StoreExt};
use zdm_sql_adapters::sqlite::{Sqlite, SqliteOptions, SqliteRows, Synchronous};
use zdm_sql_adapters::table::{ColumnType, DynKey, DynRow, TableShape};

use super::super::{Doing, Result};
use super::address::Engine;
use super::canonical::Raw;
use super::side::{BOOKKEEPING, Creation, Side, TakeRow, quoted};

/// A file.
pub struct SqliteSide {
    database: Sqlite,
    file: PathBuf,
}

impl SqliteSide {
    /// Opens a file, or creates it.
    ///
    /// # Errors
    /// It cannot be opened.
    pub async fn open(path: &str, create: bool) -> Result<Self> {
        let options = SqliteOptions::new(path).create(create).synchronous(Synchronous::Normal);
        let database = options.open().await.doing(|| format!("sqlite:{path} cannot be opened"))?;
        Ok(Self { database, file: Path::new(path).to_owned() })
    }
}

#[async_trait]
impl Side for SqliteSide {
    fn engine(&self) -> Engine {
        Engine::Sqlite
    }

    async fn identity(&self) -> Result<String> {
        let file = self.file.canonicalize().doing(|| format!("{} cannot be found", self.file.display()))?;
        Ok(format!("sqlite:{}", file.display()))
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
            foreign_keys: Vec::new(),
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
        let rows = SqliteRows::discover_as(&self.database, table, types).await?;
        Ok(rows.with_fence().await?.into_dyn())
    }

    async fn counted(&self, table: &str) -> zdm_core::Result<Option<u64>> {
        self.database.last_counted(table).await
    }

    async fn count_on_above(&self, table: &str, past: u64) -> zdm_core::Result<()> {
        self.database.advance_autoincrement(table, past).await.map(|_| ())
    }

    async fn installed(&self) -> Result<bool> {
        let failed = || format!("{} cannot be asked what zdm keeps there", self.file.display());
        let mut server = SqliteConnectOptions::new().filename(&self.file).connect().await.doing(failed)?;
        let sql = "SELECT 'yes' FROM sqlite_schema WHERE name = 'zdm_schema'";
        let found: Option<String> =
            sqlx::query_scalar(sql).fetch_optional(&mut server).await.doing(failed)?;
        server.close().await.doing(failed)?;
        Ok(found.is_some())
    }

    async fn bookkeeping(&self) -> Result<BTreeSet<String>> {
        let failed = || format!("{} cannot be asked what zdm keeps there", self.file.display());
        let mut server = SqliteConnectOptions::new().filename(&self.file).connect().await.doing(failed)?;
        let mut kept = BTreeSet::new();
        for sql in BOOKKEEPING {
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
        let failed = || format!("the checker cannot read table {table} of {}", self.file.display());
        let options = SqliteConnectOptions::new().filename(&self.file).create_if_missing(false);
        let mut database = options.connect().await.doing(failed)?;
        let names: Vec<_> = columns.iter().map(|(name, _)| quoted(name, '"')).collect();
        let sql = format!("SELECT {} FROM {}", names.join(", "), quoted(table, '"'));
        let mut rows = sqlx::query(AssertSqlSafe(sql)).fetch(&mut database);
        while let Some(row) = rows.try_next().await.doing(failed)? {
            let values: Result<Vec<_>, sqlx::Error> = (0..columns.len()).map(|at| raw(&row, at)).collect();
            take(values.doing(failed)?)?;
        }
        drop(rows);
        database.close().await.doing(failed)
    }

    async fn close(&self) {
        self.database.close().await;
    }
}

fn raw(row: &SqliteRow, at: usize) -> Result<Raw, sqlx::Error> {
    let value = row.try_get_raw(at)?;
    if value.is_null() {
        return Ok(Raw::Null);
    }
    let class = value.type_info().name().to_owned();
    let raw = match class.as_str() {
        "INTEGER" => <i64 as Decode<'_, Driver>>::decode(value).map(Raw::Integer),
        "REAL" => <f64 as Decode<'_, Driver>>::decode(value).map(Raw::Real),
        "TEXT" => <String as Decode<'_, Driver>>::decode(value).map(Raw::Text),
        _ => <Vec<u8> as Decode<'_, Driver>>::decode(value).map(Raw::Bytes),
    };
    raw.map_err(sqlx::Error::Decode)
}
