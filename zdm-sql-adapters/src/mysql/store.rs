use std::fmt;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use async_trait::async_trait;
use sqlx::AssertSqlSafe;
use sqlx::mysql::MySqlRow;
use zdm_core::error::{Error, Kind, Result};
use zdm_core::key::KeyBytes;
use zdm_core::store::{Bulk, Capabilities, Change, Store};

use super::apply::Batch;
use super::arguments::{arguments, value};
use super::classify::classify;
use super::shape::{Shape, invalid};
use super::statements::{Table, Walk};
use super::{MySql, fence};
use crate::table::{
    ColumnType, Discovered, RecordBytes, RowMapping, RowValues, TableKey, TableMapping, Typed, Value,
    key_values,
};

/// A table of typed records. See [`TableStore`].
pub type MyTable<M> = TableStore<Typed<M>>;

/// A table whose columns and key were read from the database. See [`TableStore`].
pub type MyRows = TableStore<Discovered>;

/// The rows of a table as a store. Cheap to clone.
///
/// [`MyTable`] holds records of a type with a [`TableMapping`], [`MyRows`] the rows of any table. Reads go
/// to the server itself and see every write that has returned.
///
/// - An upsert names its key, and any other unique value that is taken is a conflict, also where two keys
///   are one only to the column's collation. Nothing is replaced or ignored.
/// - A value that the server would round, cut, pad or take for another is refused with its column.
/// - Foreign keys are checked at once by these servers. Within one call parents are written before their
///   children, whatever the order of the changes, and rows that refer to each other get their reference last.
/// - Where unique values move between the records of one call, the rows are first moved aside to NULL or to
///   temporary values, which triggers of the table can see.
/// - Texts are walked in the order of their bytes. Where no index has that order, a page sorts the rows whose
///   key begins like that of the page before, which is said in a warning; collations that need none end in
///   `_nopad_bin`, `_0900_bin` or, for a key of one column, `_bin`.
pub struct TableStore<M> {
    pub(super) inner: Arc<Inner<M>>,
    pub(super) fenced: bool,
}

pub(super) struct Inner<M> {
    pub(super) db: MySql,
    pub(super) table: Arc<Table>,
    pub(super) mapping: M,
    pub(super) record_bytes: RecordBytes,
    /// How many characters the texts of a page had to share, the last time.
    pub(super) beginning: AtomicUsize,
}

impl<M> Clone for TableStore<M> {
    fn clone(&self) -> Self {
        Self { inner: Arc::clone(&self.inner), fenced: self.fenced }
    }
}

impl<M> fmt::Debug for TableStore<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let database = self.inner.db.name();
        f.debug_struct("TableStore")
            .field("table", &self.inner.table.name())
            .field("database", &database)
            .finish()
    }
}

impl<M: TableMapping> MyTable<M> {
    /// The table that the mapping names.
    ///
    /// # Errors
    /// `Kind::Invalid` naming a table or column that is not there and what is, a column whose type cannot
    /// be carried, or a key that cannot address rows.
    pub async fn open(db: &MySql) -> Result<Self> {
        Self::open_as(db, M::TABLE).await
    }

    /// A table with the columns of the mapping and another name, which may have its database before it.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub async fn open_as(db: &MySql, table: &str) -> Result<Self> {
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

impl MyRows {
    /// Any table, addressed by its primary key or else by a unique index over NOT NULL columns. The name
    /// may have its database before it, `shop.users`; backticks hold a name with a dot together.
    ///
    /// # Errors
    /// `Kind::Invalid` when there is no such table, when it has no key, or naming a column whose type
    /// cannot be carried.
    pub async fn discover(db: &MySql, table: &str) -> Result<Self> {
        Self::discover_as(db, table, &[]).await
    }

    /// Any table, whose rows carry values of these types where they are named: those that both sides of a
    /// migration agree on. A text column whose rows carry UUIDs is read and written as such. The rows have
    /// the named columns in the order of the list, so that those of two tables are alike.
    ///
    /// # Errors
    /// As [`discover`](Self::discover), and naming a column that is not there.
    pub async fn discover_as(db: &MySql, table: &str, columns: &[(String, ColumnType)]) -> Result<Self> {
        let shape = db.shape(table).await?;
        for (name, _) in columns {
            shape.column(name)?;
        }
        let key = shape.natural_key()?;
        // In the order of the list, which both sides of a migration have; then what only this table has.
        let place = |name: &str| columns.iter().position(|(own, _)| own == name).unwrap_or(columns.len());
        let mut written: Vec<String> = shape
            .columns
            .iter()
            .filter(|column| !column.generated)
            .map(|column| column.name.clone())
            .collect();
        written.sort_by_key(|name| place(name));
        let mapping = Discovered::new(&shape.shown, key, written);
        Self::with(db, shape, mapping, columns)
    }

    /// The columns of the rows; generated ones are left out.
    pub fn columns(&self) -> &Arc<[String]> {
        self.inner.mapping.row_columns()
    }
}

impl MySql {
    pub(super) async fn shape(&self, table: &str) -> Result<Shape> {
        let mut reader = self.reader().await?;
        let shape = Shape::read(&mut reader, self.name(), self.is_mariadb(), table).await?;
        reader.release();
        Ok(shape)
    }
}

impl<M: RowMapping> TableStore<M> {
    fn with(db: &MySql, shape: Shape, mapping: M, carried: &[(String, ColumnType)]) -> Result<Self> {
        shape.check_key(mapping.key_columns(), M::Key::CLASSES)?;
        let in_order = shape.in_order(mapping.key_columns());
        let table = Table::new(shape, mapping.key_columns(), mapping.columns(), carried)?;
        if table.walk == Walk::Bytes || !in_order {
            tracing::warn!(
                table = table.name(),
                key = table.key_columns(),
                "no index has the keys in the order of their bytes; pages are sorted, which takes several times as long"
            );
        }
        let beginning = AtomicUsize::new(usize::MAX);
        let record_bytes = RecordBytes::default();
        let inner = Inner { db: db.clone(), table: Arc::new(table), mapping, record_bytes, beginning };
        Ok(Self { inner: Arc::new(inner), fenced: false })
    }

    /// This table with the fence: late writes are refused. Creates the bookkeeping tables if they are not
    /// there.
    ///
    /// # Errors
    /// As [`MySql::ensure_schema`].
    pub async fn with_fence(self) -> Result<Self> {
        self.inner.db.ensure_schema().await?;
        fence::prepare(&self.inner.db, self.table().name()).await?;
        Ok(Self { fenced: true, ..self })
    }

    /// The database.
    pub fn database(&self) -> &MySql {
        &self.inner.db
    }

    pub(super) fn table(&self) -> &Arc<Table> {
        &self.inner.table
    }

    /// The encoded values of a key.
    pub(super) fn key_values(&self, key: &M::Key) -> Result<Vec<Value>> {
        let table = self.table();
        let mut values = Vec::with_capacity(table.key_len);
        key_values(table.name(), table.key_len, key, &mut values)?;
        for (field, value) in table.key().iter().zip(&mut values) {
            *value = field.codec.encode(std::mem::take(value)).map_err(|reason| {
                let column = &field.column.name;
                let message = format!("the key {key:?} of table {}: column {column}: {reason}", table.name());
                Error::new(Kind::Rejected, message)
            })?;
        }
        Ok(values)
    }

    /// Appends the encoded values of a row. On an error `out` is as it was.
    pub(super) fn write_row(&self, key: &M::Key, record: &M::Record, out: &mut RowValues) -> Result<()> {
        let table = self.table();
        let start = out.values.len();
        self.inner.mapping.write(key, record, out).map_err(|error| self.at_key(error, key))?;
        for (field, value) in table.fields.iter().zip(&mut out.values[start..]) {
            let encoded = match std::mem::take(value) {
                // The server would count one up, or take the present time.
                Value::Null if field.column.not_null => Err("a NOT NULL column got NULL".to_owned()),
                value => field.codec.encode(value),
            };
            match encoded {
                Ok(encoded) => *value = encoded,
                Err(reason) => {
                    out.values.truncate(start);
                    let message = format!("column {} of table {}: {reason}", field.column.name, table.name());
                    return Err(self.at_key(Error::new(Kind::Rejected, message), key));
                }
            }
        }
        let size: usize = out.values[start..].iter().map(super::arguments::size).sum();
        if size > self.inner.db.max_packet() - 4_096 {
            out.values.truncate(start);
            let message = format!(
                "a row of {size} bytes for table {} is larger than the server's max_allowed_packet of {}; raise it",
                table.name(),
                self.inner.db.max_packet()
            );
            return Err(self.at_key(Error::new(Kind::Rejected, message), key));
        }
        Ok(())
    }

    /// The key and the record of a row.
    pub(super) fn record(&self, row: &MySqlRow, contents: &mut usize) -> Result<(M::Key, Result<M::Record>)> {
        let table = self.table();
        let key = self.key_of(row)?;
        let mut others = Vec::with_capacity(table.stride() - table.key_len);
        for (index, field) in table.fields.iter().enumerate().skip(table.key_len) {
            match value(row, index, &field.codec) {
                Ok(value) => {
                    *contents += value.content_len();
                    others.push(value);
                }
                Err(reason) => {
                    let message = format!("column {} of table {}: {reason}", field.column.name, table.name());
                    let error = self.at_key(Error::new(Kind::Rejected, message), &key);
                    return Ok((key, Err(error)));
                }
            }
        }
        let record = self.inner.mapping.read(&key, &mut others).map_err(|error| self.at_key(error, &key));
        Ok((key, record))
    }

    /// The key in the first columns of a row.
    pub(super) fn key_of(&self, row: &MySqlRow) -> Result<M::Key> {
        let table = self.table();
        let refused = |shown: &str, reason: &str| {
            let (table, columns) = (table.name(), table.key_columns());
            let message = format!(
                "table {table} has a row whose key {shown} in {columns} is no key of this type: {reason}"
            );
            Error::new(Kind::Rejected, message)
        };
        let mut values = Vec::with_capacity(table.key_len);
        for (index, field) in table.key().iter().enumerate() {
            values.push(value(row, index, &field.codec).map_err(|reason| refused("", &reason))?);
        }
        let shown = values.iter().map(ToString::to_string).collect::<Vec<_>>();
        M::Key::from_values(&mut values).map_err(|reason| refused(&shown.join(", "), &reason))
    }

    pub(super) fn at_key(&self, error: Error, key: &M::Key) -> Error {
        error.context(format_args!("the record {key:?}"))
    }

    /// The changes as encoded values, ready to leave this task.
    pub(super) fn batch(&self, changes: &[Change<M::Key, M::Record>]) -> Result<Batch> {
        let mut batch = Batch::new(self.table());
        let mut deleted = Vec::new();
        for change in changes {
            match change {
                Change::Put(key, record) => {
                    self.write_row(key, record, &mut batch.puts)?;
                    batch.keys.push(KeyBytes::of(key));
                }
                Change::Delete(key) => {
                    batch.deletes.append(&mut self.key_values(key)?);
                    deleted.push(KeyBytes::of(key));
                }
            }
        }
        batch.keys.append(&mut deleted);
        Ok(batch)
    }

    /// Applies a batch in one transaction: fast, and if a row does not fit, once more with care.
    async fn apply_batch(&self, changes: &[Change<M::Key, M::Record>]) -> Result<()> {
        let (batch, table, packet) =
            (self.batch(changes)?, Arc::clone(self.table()), self.inner.db.max_packet());
        let fast = self
            .inner
            .db
            .mirror(move |connection| Box::pin(async move { batch.apply(connection, &table, packet).await }));
        match fast.await {
            Err(error) if Batch::deserves_care(&error) => {
                let (batch, store) = (self.batch(changes)?, self.clone());
                self.inner
                    .db
                    .mirror(move |connection| {
                        Box::pin(async move { store.apply_with_care(connection, batch).await })
                    })
                    .await
            }
            outcome => outcome,
        }
    }
}

#[async_trait]
impl<M: RowMapping> Store for TableStore<M> {
    type Key = M::Key;
    type Record = M::Record;

    async fn get(&self, key: &M::Key) -> Result<Option<M::Record>> {
        let table = self.table();
        let sql = AssertSqlSafe(Arc::clone(&table.one));
        let arguments = arguments(self.key_values(key)?)?;
        let mut reader = self.inner.db.reader().await?;
        let row = sqlx::query_with(sql, arguments)
            .fetch_all(&mut *reader)
            .await
            .map_err(|error| classify(error, &format!("reading a row of table {}", table.name())))?;
        reader.release();
        // The server may think of another key as equal.
        match row.first().map(|row| self.record(row, &mut 0)).transpose()? {
            Some((found, record)) if found == *key => record.map(Some),
            _ => Ok(None),
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
        Capabilities { bulk: Some(self), scan: Some(self), fenced: fence::capability(self), digest: None }
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
