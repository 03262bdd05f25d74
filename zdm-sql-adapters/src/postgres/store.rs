use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use sqlx::postgres::PgRow;
use sqlx::{AssertSqlSafe, Column, Row, ValueRef};
use zdm_core::error::{Error, Kind, Result};
use zdm_core::key::KeyBytes;
use zdm_core::store::{Bulk, Capabilities, Change, Store};

use super::apply::Batch;
use super::classify::classify;
use super::shape::{Shape, invalid};
use super::statements::Table;
use super::wire::{Param, Rows, arguments};
use super::{Postgres, digest, fence};
use crate::table::{
    ColumnType, Discovered, RecordBytes, RowMapping, RowValues, TableKey, TableMapping, Typed, Value,
    key_values,
};

/// A table of typed records. See [`TableStore`].
pub type PgTable<M> = TableStore<Typed<M>>;

/// A table whose columns and key were read from the database. See [`TableStore`].
pub type PgRows = TableStore<Discovered>;

/// The rows of a table as a store. Cheap to clone.
///
/// [`PgTable`] holds records of a type with a [`TableMapping`], [`PgRows`] the rows of any table. Reads go
/// to the server itself and see every write that has returned.
///
/// - An upsert names its key, and any other unique value that is taken is a conflict. Nothing is replaced or
///   ignored. A row that is equal already is not written again.
/// - A value that the server would round, cut or pad is refused with its column.
/// - Rows of one call are written by one statement, so they may refer to each other in any order.
/// - Where unique values move between the records of one call, the rows are first moved aside to NULL or to
///   temporary values, which triggers of the table can see.
/// - Texts are walked in the order of their bytes. Without an index in that order every page sorts what is
///   left of the table; a warning shows the statement that makes one.
/// - Types that only PostgreSQL has (arrays, ranges, addresses, composites) are carried as their text.
pub struct TableStore<M> {
    pub(super) inner: Arc<Inner<M>>,
    pub(super) fenced: bool,
}

pub(super) struct Inner<M> {
    pub(super) db: Postgres,
    pub(super) table: Arc<Table>,
    pub(super) mapping: M,
    pub(super) record_bytes: RecordBytes,
}

impl<M> Clone for TableStore<M> {
    fn clone(&self) -> Self {
        Self { inner: Arc::clone(&self.inner), fenced: self.fenced }
    }
}

impl<M> fmt::Debug for TableStore<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TableStore")
            .field("table", &self.inner.table.full_name)
            .field("database", &self.inner.db.name())
            .finish()
    }
}

impl<M: TableMapping> PgTable<M> {
    /// The table that the mapping names.
    ///
    /// # Errors
    /// `Kind::Invalid` naming a table or column that is not there and what is, a column whose type cannot
    /// be carried, or a key that cannot address rows.
    pub async fn open(db: &Postgres) -> Result<Self> {
        Self::open_as(db, M::TABLE).await
    }

    /// A table with the columns of the mapping and another name, which may have its schema before it.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub async fn open_as(db: &Postgres, table: &str) -> Result<Self> {
        let shape = db.shape(table).await?;
        if M::KEY.len() != M::Key::CLASSES.len() {
            let message = format!(
                "the mapping of table {table} names {} key columns for a key of {} parts",
                M::KEY.len(),
                M::Key::CLASSES.len()
            );
            return Err(invalid(message));
        }
        Self::with(db, shape, Typed::new(table), &[])
    }
}

impl PgRows {
    /// Any table, addressed by its primary key or else by a unique index over NOT NULL columns. The name may
    /// have its schema before it, `sales.users`; double quotes hold a name with a dot together.
    ///
    /// # Errors
    /// `Kind::Invalid` when there is no such table, when it has no key, or naming a column whose type
    /// cannot be carried.
    pub async fn discover(db: &Postgres, table: &str) -> Result<Self> {
        Self::discover_as(db, table, &[]).await
    }

    /// Any table, whose rows carry values of these types where they are named: those that both sides of a
    /// migration agree on. A text column whose rows carry UUIDs is read and written as such. The rows have
    /// the named columns in the order of the list, so that those of two tables are alike.
    ///
    /// # Errors
    /// As [`discover`](Self::discover), and naming a column that is not there.
    pub async fn discover_as(db: &Postgres, table: &str, columns: &[(String, ColumnType)]) -> Result<Self> {
        let shape = db.shape(table).await?;
        for (name, _) in columns {
            shape.column(name)?;
        }
        let key = shape.natural_key()?;
        // In the order of the list, which both sides of a migration have; then what only this table has.
        let place = |name: &str| columns.iter().position(|(own, _)| own == name).unwrap_or(columns.len());
        let written = shape.columns.iter().filter(|column| !column.generated);
        let mut written: Vec<String> = written.map(|column| column.name.clone()).collect();
        written.sort_by_key(|name| place(name));
        let mapping = Discovered::new(&shape.shown, key, written);
        Self::with(db, shape, mapping, columns)
    }

    /// The columns of the rows; generated ones are left out.
    pub fn columns(&self) -> &Arc<[String]> {
        self.inner.mapping.row_columns()
    }
}

impl Postgres {
    pub(super) async fn shape(&self, table: &str) -> Result<Shape> {
        let mut reader = self.reader().await?;
        let shape = Shape::read(&mut reader, table).await?;
        reader.release();
        Ok(shape)
    }
}

impl<M: RowMapping> TableStore<M> {
    fn with(db: &Postgres, shape: Shape, mapping: M, carried: &[(String, ColumnType)]) -> Result<Self> {
        shape.check_key(mapping.key_columns(), M::Key::CLASSES)?;
        let table = Table::new(shape, mapping.key_columns(), mapping.columns(), carried)?;
        if let Some(advice) = table.missing_order() {
            tracing::warn!(
                table = table.name(),
                advice,
                "no index has the keys in the order of their bytes; every page sorts the rest of the table"
            );
        }
        let record_bytes = RecordBytes::default();
        let inner = Inner { db: db.clone(), table: Arc::new(table), mapping, record_bytes };
        Ok(Self { inner: Arc::new(inner), fenced: false })
    }

    /// This table with the fence: late writes are refused. Creates the bookkeeping tables if they are not
    /// there.
    ///
    /// # Errors
    /// As [`Postgres::ensure_schema`].
    pub async fn with_fence(self) -> Result<Self> {
        self.inner.db.ensure_schema().await?;
        Ok(Self { fenced: true, ..self })
    }

    /// The database.
    pub fn database(&self) -> &Postgres {
        &self.inner.db
    }

    pub(super) fn table(&self) -> &Arc<Table> {
        &self.inner.table
    }

    /// Refuses a row whose columns are no longer of the types that its bytes are read as.
    pub(super) fn check_types(&self, row: &PgRow) -> Result<()> {
        let table = self.table();
        for (field, column) in table.fields.iter().zip(row.columns()) {
            let same = column.type_info().oid().is_some_and(|oid| field.codec.native.comes_as(oid.0));
            if !same {
                let message = format!(
                    "column {} of table {} has been altered since the store was opened; open it again",
                    field.column.name,
                    table.name()
                );
                return Err(invalid(message));
            }
        }
        Ok(())
    }

    /// The values of a key's columns.
    pub(super) fn key_values(&self, key: &M::Key) -> Result<Vec<Value>> {
        let table = self.table();
        let mut values = Vec::with_capacity(table.key_len);
        key_values(table.name(), table.key_len, key, &mut values)?;
        Ok(values)
    }

    /// Appends an encoded key as a row of its own.
    pub(super) fn write_key(&self, key: &M::Key, out: &mut Rows) -> Result<()> {
        let table = self.table();
        let values = self.key_values(key)?;
        out.begin(table.key_len);
        for (field, value) in table.key().iter().zip(&values) {
            if let Err(reason) = field.codec.encode(value, &mut out.bytes) {
                out.undo();
                let column = &field.column.name;
                let message = format!("the key {key:?} of table {}: column {column}: {reason}", table.name());
                return Err(Error::new(Kind::Rejected, message));
            }
        }
        out.end();
        Ok(())
    }

    /// Appends the encoded row of a record. On an error `out` is as it was.
    pub(super) fn write_row(
        &self,
        key: &M::Key,
        record: &M::Record,
        scratch: &mut RowValues,
        out: &mut Rows,
    ) -> Result<()> {
        let table = self.table();
        scratch.values.clear();
        self.inner.mapping.write(key, record, scratch).map_err(|error| self.at_key(error, key))?;
        out.begin(table.stride());
        for (field, value) in table.fields.iter().zip(&scratch.values) {
            if let Err(reason) = field.codec.encode(value, &mut out.bytes) {
                out.undo();
                let message = format!("column {} of table {}: {reason}", field.column.name, table.name());
                return Err(self.at_key(Error::new(Kind::Rejected, message), key));
            }
        }
        out.end();
        Ok(())
    }

    /// The key and the record of a row; `scratch` is used up.
    pub(super) fn record<'r>(
        &self,
        mut fields: impl Iterator<Item = Option<&'r [u8]>>,
        scratch: &mut Vec<Value>,
    ) -> Result<(M::Key, Result<M::Record>)> {
        let table = self.table();
        let key = self.key_of(&mut fields, scratch)?;
        scratch.clear();
        for field in &table.fields[table.key_len..] {
            match field.codec.decode(fields.next().flatten()) {
                Ok(value) => scratch.push(value),
                Err(reason) => {
                    let message = format!("column {} of table {}: {reason}", field.column.name, table.name());
                    let error = self.at_key(Error::new(Kind::Rejected, message), &key);
                    return Ok((key, Err(error)));
                }
            }
        }
        let record = self.inner.mapping.read(&key, scratch).map_err(|error| self.at_key(error, &key));
        Ok((key, record))
    }

    /// The key in the first fields of a row.
    pub(super) fn key_of<'r>(
        &self,
        fields: &mut impl Iterator<Item = Option<&'r [u8]>>,
        scratch: &mut Vec<Value>,
    ) -> Result<M::Key> {
        let table = self.table();
        let refused = |shown: &str, reason: &str| {
            let (table, columns) = (table.name(), table.key_columns());
            let message = format!(
                "table {table} has a row whose key {shown} in {columns} is no key of this type: {reason}"
            );
            Error::new(Kind::Rejected, message)
        };
        scratch.clear();
        for field in table.key() {
            let value = field.codec.decode(fields.next().flatten()).map_err(|reason| refused("", &reason))?;
            scratch.push(value);
        }
        match M::Key::from_values(scratch) {
            Ok(key) => Ok(key),
            Err(reason) => {
                let shown = scratch.iter().map(ToString::to_string).collect::<Vec<_>>();
                Err(refused(&shown.join(", "), &reason))
            }
        }
    }

    pub(super) fn at_key(&self, error: Error, key: &M::Key) -> Error {
        error.context(format_args!("the record {key:?}"))
    }

    /// The changes as encoded rows, ready to leave this task.
    pub(super) fn batch(&self, changes: &[Change<M::Key, M::Record>]) -> Result<Batch> {
        let mut batch = Batch::default();
        let (mut deleted, mut scratch) = (Vec::new(), RowValues::default());
        for change in changes {
            match change {
                Change::Put(key, record) => {
                    self.write_row(key, record, &mut scratch, &mut batch.puts)?;
                    batch.keys.push(KeyBytes::of(key));
                }
                Change::Delete(key) => {
                    self.write_key(key, &mut batch.deletes)?;
                    deleted.push(KeyBytes::of(key));
                }
            }
        }
        batch.keys.append(&mut deleted);
        Ok(batch)
    }

    /// Applies a batch in one transaction: fast, and if a row does not fit, once more with care.
    async fn apply_batch(&self, changes: &[Change<M::Key, M::Record>]) -> Result<()> {
        let batch = Arc::new(self.batch(changes)?);
        let (again, table) = (Arc::clone(&batch), Arc::clone(self.table()));
        let fast = self.inner.db.mirror(move |connection| {
            Box::pin(async move { batch.apply(connection, &table, &batch.all()).await })
        });
        match fast.await {
            Err(error) if Batch::deserves_care(&error) => {
                let store = self.clone();
                self.inner
                    .db
                    .mirror(move |connection| {
                        Box::pin(async move { store.apply_with_care(connection, &again, &again.all()).await })
                    })
                    .await
            }
            outcome => outcome,
        }
    }
}

/// The fields of a row that a statement returned.
pub(super) fn fields(row: &PgRow) -> impl Iterator<Item = Option<&[u8]>> {
    (0..row.len()).map(|index| row.try_get_raw(index).ok().filter(|raw| !raw.is_null())?.as_bytes().ok())
}

#[async_trait]
impl<M: RowMapping> Store for TableStore<M> {
    type Key = M::Key;
    type Record = M::Record;

    async fn get(&self, key: &M::Key) -> Result<Option<M::Record>> {
        let table = self.table();
        let mut encoded = Rows::default();
        self.write_key(key, &mut encoded)?;
        let types = table.types(table.key_len).map(|(element, _)| element);
        let parameters = types.zip(encoded.fields(0)).map(|(oid, field)| Param::of_field(oid, field));
        let query = sqlx::query_with(AssertSqlSafe(table.one.clone()), arguments(parameters)?);
        let mut reader = self.inner.db.reader().await?;
        let row = query
            .fetch_optional(&mut *reader)
            .await
            .map_err(|error| classify(error, &format!("reading a row of table {}", table.name())))?;
        reader.release();
        match row {
            Some(row) => {
                self.check_types(&row)?;
                self.record(fields(&row), &mut Vec::new())?.1.map(Some)
            }
            None => Ok(None),
        }
    }

    async fn put(&self, key: &M::Key, record: &M::Record) -> Result<()> {
        self.apply_batch(std::slice::from_ref(&Change::Put(key.clone(), record.clone()))).await
    }

    async fn delete(&self, key: &M::Key) -> Result<()> {
        self.apply_batch(std::slice::from_ref(&Change::Delete(key.clone()))).await
    }

    fn settle_time(&self) -> Duration {
        self.inner.db.settle_time()
    }

    fn capabilities(&self) -> Capabilities<'_, M::Key, M::Record> {
        Capabilities {
            bulk: Some(self),
            digest: digest::capability(self),
            scan: Some(self),
            fenced: fence::capability(self),
        }
    }
}

#[async_trait]
impl<M: RowMapping> Bulk for TableStore<M> {
    async fn get_many(&self, keys: &[M::Key]) -> Result<Vec<Option<M::Record>>> {
        self.read_many(keys).await
    }

    async fn apply(&self, changes: &[Change<M::Key, M::Record>]) -> Result<()> {
        if changes.is_empty() {
            return Ok(());
        }
        self.apply_batch(changes).await
    }
}
