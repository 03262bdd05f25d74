use std::fmt;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use async_trait::async_trait;
use sqlx::AssertSqlSafe;
use zdm_core::error::{Error, Kind, Result};
use zdm_core::key::KeyBytes;
use zdm_core::store::{Bulk, Capabilities, Change, Store};

use super::apply::Batch;
use super::arguments::{arguments, value};
use super::classify::classify;
use super::codec::Carried;
use super::shape::{Shape, invalid};
use super::statements::Table;
use super::{Sqlite, codec, fence};
use crate::table::{
    ColumnType, Discovered, RecordBytes, RowMapping, RowValues, TableKey, TableMapping, Typed, Value,
    key_values,
};

/// A table of typed records. See [`TableStore`].
pub type SqliteTable<M> = TableStore<Typed<M>>;

/// A table whose columns and key were read from the database. See [`TableStore`].
pub type SqliteRows = TableStore<Discovered>;

/// The rows of a table as a store. Cheap to clone.
///
/// [`SqliteTable`] holds records of a type with a [`TableMapping`], [`SqliteRows`] the rows of any table.
/// Reads come from the file itself and see every write that has returned.
///
/// - An upsert names its key, and any other unique value that is taken is a conflict. Nothing is replaced
///   or ignored, whatever the table's own conflict clauses say.
/// - Foreign keys are checked at the COMMIT, so the order of the changes within one call does not matter.
/// - Where unique values move between the records of one call, the rows are first moved aside to
///   temporary values, which triggers of the table can see.
/// - NaN is refused, because SQLite would store NULL. The sign of a zero may be lost.
pub struct TableStore<M> {
    pub(super) inner: Arc<Inner<M>>,
    pub(super) fenced: bool,
}

pub(super) struct Inner<M> {
    pub(super) db: Sqlite,
    pub(super) table: Arc<Table>,
    pub(super) mapping: M,
    pub(super) record_bytes: RecordBytes,
    /// For each column of the table the logical type that its records carry; empty when none does.
    pub(super) carried: Vec<Option<Carried>>,
    /// Whether pages are read with every column guarded: some row needed it.
    pub(super) exact: AtomicBool,
}

impl<M> Clone for TableStore<M> {
    fn clone(&self) -> Self {
        Self { inner: Arc::clone(&self.inner), fenced: self.fenced }
    }
}

impl<M> fmt::Debug for TableStore<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = self.inner.db.path();
        f.debug_struct("TableStore").field("table", &self.inner.table.name()).field("path", &path).finish()
    }
}

impl<M: TableMapping> SqliteTable<M> {
    /// The table that the mapping names.
    ///
    /// # Errors
    /// `Kind::Invalid` naming a table or column that is not there and what is, a key that cannot address
    /// rows, or rows whose key is NULL.
    pub async fn open(db: &Sqlite) -> Result<Self> {
        Self::open_as(db, M::TABLE).await
    }

    /// A table with the columns of the mapping and another name.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub async fn open_as(db: &Sqlite, table: &str) -> Result<Self> {
        let shape = shape_of(db, table).await?;
        if M::KEY.len() != M::Key::CLASSES.len() {
            let message = format!(
                "the mapping of table {table} names {} key columns for a key of {} parts",
                M::KEY.len(),
                M::Key::CLASSES.len()
            );
            return Err(invalid(message));
        }
        Self::with(db, shape, Typed::new(table), &[]).await
    }
}

impl SqliteRows {
    /// Any table, addressed by its primary key or else by a unique index over NOT NULL columns.
    ///
    /// # Errors
    /// `Kind::Invalid` when there is no such table, when it has no key, or when rows have a key of NULL.
    pub async fn discover(db: &Sqlite, table: &str) -> Result<Self> {
        Self::discover_as(db, table, &[]).await
    }

    /// Any table, whose rows carry values of these types where they are named: those that both sides of a
    /// migration agree on. A text that is a UUID is read and written as such, `0.99` in a NUMERIC column as
    /// that decimal. A value that cannot be read or kept so is an error of its record, naming the column.
    /// [`ColumnType::Any`] carries values as they are. The rows have the named columns in the order of the
    /// list, so that those of two tables are alike.
    ///
    /// The values of key columns must stand in the form in which they would be written, because a row is
    /// looked up by it: a UUID in small letters, a point in time as `2021-01-01 00:00:00`.
    ///
    /// # Errors
    /// As [`discover`](Self::discover), and naming a column that is not there, or a key column whose rows
    /// do not stand in the order of the values they carry.
    pub async fn discover_as(db: &Sqlite, table: &str, columns: &[(String, ColumnType)]) -> Result<Self> {
        let shape = shape_of(db, table).await?;
        for (name, _) in columns {
            shape.column(name)?;
        }
        let written = shape.columns.iter().filter(|column| !column.generated);
        let mut written: Vec<String> = written.map(|column| column.name.clone()).collect();
        // In the order of the list, which both sides of a migration have; then what only this table has.
        let place = |name: &str| columns.iter().position(|(own, _)| own == name).unwrap_or(columns.len());
        written.sort_by_key(|name| place(name));
        let mapping = Discovered::new(&shape.table, shape.natural_key()?, written);
        Self::with(db, shape, mapping, columns).await
    }

    /// The columns of the rows; generated ones are left out.
    pub fn columns(&self) -> &Arc<[String]> {
        self.inner.mapping.row_columns()
    }
}

async fn shape_of(db: &Sqlite, table: &str) -> Result<Shape> {
    let mut connection = db.reader().await?;
    Shape::read(&mut connection, table).await
}

impl<M: RowMapping> TableStore<M> {
    async fn with(db: &Sqlite, shape: Shape, mapping: M, types: &[(String, ColumnType)]) -> Result<Self> {
        shape.check_key(mapping.key_columns(), M::Key::CLASSES)?;
        let table = Table::new(shape, mapping.key_columns(), mapping.columns())?;
        let carried = if types.is_empty() { Vec::new() } else { carried(&table, types)? };
        if let Some(sql) = table.any_null_key() {
            let found: bool = sqlx::query_scalar(AssertSqlSafe(sql))
                .fetch_one(db.readers())
                .await
                .map_err(|error| classify(error, "looking for keys that are NULL"))?;
            if found {
                return Err(null_key(&table));
            }
        }
        let exact = AtomicBool::new(false);
        let record_bytes = RecordBytes::default();
        let inner = Inner { db: db.clone(), table: Arc::new(table), mapping, record_bytes, carried, exact };
        Ok(Self { inner: Arc::new(inner), fenced: false })
    }

    /// This table with the fence: late writes are refused. Creates the bookkeeping tables if they are not
    /// there.
    ///
    /// # Errors
    /// As [`Sqlite::ensure_schema`].
    pub async fn with_fence(self) -> Result<Self> {
        self.inner.db.ensure_schema().await?;
        Ok(Self { fenced: true, ..self })
    }

    /// The database.
    pub fn database(&self) -> &Sqlite {
        &self.inner.db
    }

    pub(super) fn table(&self) -> &Arc<Table> {
        &self.inner.table
    }

    pub(super) fn key_values(&self, key: &M::Key) -> Result<Vec<Value>> {
        let mut values = Vec::with_capacity(self.table().key_len);
        key_values(self.table().name(), self.table().key_len, key, &mut values)?;
        self.make_native(&mut values)?;
        Ok(values)
    }

    /// Appends the row of a record.
    pub(super) fn write_row(&self, key: &M::Key, record: &M::Record, out: &mut RowValues) -> Result<()> {
        let start = out.values.len();
        let written = self.inner.mapping.write(key, record, out);
        let written = written.and_then(|()| self.make_native(&mut out.values[start..]));
        written.map_err(|error| {
            out.values.truncate(start);
            self.at_key(error, key)
        })
    }

    /// Turns the values of a row, or of its key, into what SQLite keeps.
    fn make_native(&self, values: &mut [Value]) -> Result<()> {
        for (at, value) in values.iter_mut().enumerate() {
            let native = match self.carried(at) {
                Some(carried) => carried.write(std::mem::take(value)),
                None if codec::is_native(value) => continue,
                None => codec::native(std::mem::take(value)),
            };
            *value = native.map_err(|reason| self.misfit(at, &reason))?;
        }
        Ok(())
    }

    /// Turns values that SQLite keeps, from a column on, into what records carry.
    pub(super) fn make_logical(&self, from: usize, values: &mut [Value]) -> Result<()> {
        for (at, value) in (from..).zip(values) {
            if let Some(carried) = self.carried(at) {
                *value = carried.read(std::mem::take(value)).map_err(|reason| self.misfit(at, &reason))?;
            }
        }
        Ok(())
    }

    fn carried(&self, at: usize) -> Option<&Carried> {
        self.inner.carried.get(at)?.as_ref()
    }

    fn misfit(&self, at: usize, reason: &str) -> Error {
        let table = self.table();
        let column = table.columns.get(at).map(String::as_str).unwrap_or_default();
        Error::new(Kind::Rejected, format!("column {column} of table {}: {reason}", table.name()))
    }

    /// The key and the record of a row; the values are used up.
    pub(super) fn record(&self, values: &mut [Value]) -> Result<(M::Key, Result<M::Record>)> {
        let (key, others) = values.split_at_mut(self.table().key_len);
        let key = self.key(key)?;
        let record = self.make_logical(self.table().key_len, others);
        let record = record.and_then(|()| self.inner.mapping.read(&key, others));
        let record = record.map_err(|error| self.at_key(error, &key));
        Ok((key, record))
    }

    /// The key in the values of its columns.
    pub(super) fn key(&self, values: &mut [Value]) -> Result<M::Key> {
        if values.iter().any(|value| matches!(value, Value::Null)) {
            return Err(null_key(self.table()));
        }
        let shown = values.iter().map(ToString::to_string).collect::<Vec<_>>();
        for (at, value) in values.iter_mut().enumerate() {
            let Some(carried) = self.carried(at) else { continue };
            let logical = carried.read(value.clone()).map_err(|reason| self.misfit(at, &reason))?;
            let canonical = carried.write(logical.clone()).map_err(|reason| self.misfit(at, &reason))?;
            if canonical != *value {
                let reason = format!("the key {value} stands there in another form than {canonical}");
                return Err(self.misfit(at, &reason));
            }
            *value = logical;
        }
        M::Key::from_values(values).map_err(|reason| {
            let (table, columns) = (self.table().name(), self.table().key().join(", "));
            let message = format!(
                "table {table} has a row whose key {} in {columns} is no key of this type: {reason}",
                shown.join(", ")
            );
            Error::new(Kind::Rejected, message)
        })
    }

    pub(super) fn at_key(&self, error: Error, key: &M::Key) -> Error {
        error.context(format_args!("the record {key:?}"))
    }

    /// The changes as values, ready to leave this task.
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
    pub(super) async fn apply_batch(&self, changes: &[Change<M::Key, M::Record>]) -> Result<()> {
        let (batch, table) = (self.batch(changes)?, Arc::clone(self.table()));
        let fast = self
            .inner
            .db
            .mirror(move |connection| Box::pin(async move { batch.apply(connection, &table).await }));
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

    /// The encoded key in the values of its columns.
    pub(super) fn key_bytes(&self, values: &mut [Value]) -> Result<KeyBytes> {
        self.key(values).map(|key| KeyBytes::of(&key))
    }
}

/// The logical type of each column of the table that has one.
fn carried(table: &Table, types: &[(String, ColumnType)]) -> Result<Vec<Option<Carried>>> {
    let carried: Vec<_> = table
        .columns
        .iter()
        .map(|name| {
            let ty = types.iter().find(|(column, _)| column == name).map(|(_, ty)| ty);
            let affinity = table.shape.column(name)?.affinity;
            Ok(ty.and_then(|ty| Carried::new(ty, affinity)))
        })
        .collect::<Result<_>>()?;
    for (name, carried) in table.key().iter().zip(&carried) {
        if let Some(carried) = carried.as_ref().filter(|carried| !carried.keeps_order()) {
            return Err(invalid(format!(
                "the key column {name} of table {} cannot carry {}: its rows would not stand in the order of \
                 those values",
                table.name(),
                carried.ty
            )));
        }
    }
    Ok(carried)
}

pub(super) fn null_key(table: &Table) -> Error {
    invalid(format!(
        "table {} has rows whose key is NULL in {}; no call can address them: give them a key or delete them, \
         and declare the column NOT NULL",
        table.name(),
        table.nullable_key()
    ))
}

#[async_trait]
impl<M: RowMapping> Store for TableStore<M> {
    type Key = M::Key;
    type Record = M::Record;

    async fn get(&self, key: &M::Key) -> Result<Option<M::Record>> {
        let table = self.table();
        let sql = AssertSqlSafe(Arc::clone(&table.one));
        let arguments = arguments(self.key_values(key)?)?;
        let mut connection = self.inner.db.reader().await?;
        let row = sqlx::query_with(sql, arguments)
            .fetch_optional(&mut *connection)
            .await
            .map_err(|error| classify(error, &format!("reading a row of table {}", table.name())))?;
        let Some(row) = row else { return Ok(None) };
        let read = || {
            let values = (0..table.stride()).map(|index| value(&row, index)).collect::<Result<Vec<_>>>();
            let mut values = values?;
            let others = &mut values[table.key_len..];
            self.make_logical(table.key_len, others)?;
            self.inner.mapping.read(key, others)
        };
        read().map(Some).map_err(|error| self.at_key(error, key))
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
        Capabilities { bulk: Some(self), digest: None, scan: Some(self), fenced: fence::capability(self) }
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
