//! Between records and the rows of a table: typed mappings and rows of any table behind one face.

use std::marker::PhantomData;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use zdm_core::error::{Error, Kind, Result};
use zdm_core::store::Record;

use super::{DynKey, DynRow, RowReader, RowWriter, TableKey, TableMapping, Value};

/// The values of whole rows, one behind the other, and room to put a row together.
#[derive(Clone, Debug, Default)]
pub struct RowValues {
    pub(crate) values: Vec<Value>,
    row: Vec<Option<Value>>,
}

impl From<Vec<Value>> for RowValues {
    fn from(values: Vec<Value>) -> Self {
        Self { values, row: Vec::new() }
    }
}

/// About how many bytes a record takes in memory, by the latest page.
#[derive(Debug, Default)]
pub(crate) struct RecordBytes(AtomicUsize);

impl RecordBytes {
    /// Learns from a page: how many records it has, and how long the contents of their values are together.
    pub(crate) fn learn(&self, records: usize, contents: usize, mapping: &impl RowMapping) {
        if let Some(contents) = contents.checked_div(records) {
            self.0.store(mapping.least_bytes() + contents, Ordering::Relaxed);
        }
    }

    pub(crate) fn get(&self) -> Option<usize> {
        Some(self.0.load(Ordering::Relaxed)).filter(|bytes| *bytes > 0)
    }
}

/// What a table store needs to know about its records. Sealed: [`Typed`] and [`Discovered`] have it.
pub trait RowMapping: Send + Sync + 'static {
    /// What records are addressed by.
    type Key: TableKey;
    /// The records.
    type Record: Record;

    /// The key's columns.
    fn key_columns(&self) -> &[String];

    /// The other columns.
    fn columns(&self) -> &[String];

    /// Appends the values of the key's columns and of the others. On an error `out` is as it was.
    ///
    /// # Errors
    /// Why the record has no place in the table.
    fn write(&self, key: &Self::Key, record: &Self::Record, out: &mut RowValues) -> Result<()>;

    /// The bytes that every record takes, beside the contents of its values.
    fn least_bytes(&self) -> usize;

    /// The record of a key and the values of the other columns.
    ///
    /// # Errors
    /// Why the row is no record.
    fn read(&self, key: &Self::Key, values: &mut [Value]) -> Result<Self::Record>;
}

/// Records of a type that has a [`TableMapping`].
#[derive(Debug)]
pub struct Typed<M> {
    table: String,
    key: Vec<String>,
    columns: Vec<String>,
    mapping: PhantomData<fn() -> M>,
}

impl<M: TableMapping> Typed<M> {
    pub(crate) fn new(table: &str) -> Self {
        let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        Self { table: table.to_owned(), key: owned(M::KEY), columns: owned(M::COLUMNS), mapping: PhantomData }
    }
}

impl<M: TableMapping> RowMapping for Typed<M> {
    type Key = M::Key;
    type Record = M::Record;

    fn key_columns(&self) -> &[String] {
        &self.key
    }

    fn columns(&self) -> &[String] {
        &self.columns
    }

    fn write(&self, key: &M::Key, record: &M::Record, out: &mut RowValues) -> Result<()> {
        let RowValues { values, row } = out;
        row.clear();
        row.resize_with(self.columns.len(), || None);
        let mut writer = RowWriter::new(&self.table, &self.columns, row);
        M::write(record, &mut writer)?;
        writer.done()?;
        key_values(&self.table, self.key.len(), key, values)?;
        values.extend(row.drain(..).flatten());
        Ok(())
    }

    fn least_bytes(&self) -> usize {
        size_of::<(M::Key, Result<M::Record>)>()
    }

    fn read(&self, key: &M::Key, values: &mut [Value]) -> Result<M::Record> {
        M::read(key, &mut RowReader::new(&self.table, &self.columns, values))
    }
}

/// Rows of a table whose columns were read from the database.
#[derive(Debug)]
pub struct Discovered {
    table: String,
    key: Vec<String>,
    columns: Vec<String>,
    all: Arc<[String]>,
    /// Where each column of the row comes from: the key or the others.
    origins: Vec<Origin>,
}

#[derive(Clone, Copy, Debug)]
enum Origin {
    Key(usize),
    Other(usize),
}

impl Discovered {
    /// The rows of a table: the columns that can be written, in the table's order, and those of the key.
    pub(crate) fn new(table: &str, key: Vec<String>, written: impl IntoIterator<Item = String>) -> Self {
        let (mut columns, mut all, mut origins) = (Vec::new(), Vec::new(), Vec::new());
        for column in written {
            origins.push(match key.iter().position(|name| *name == column) {
                Some(index) => Origin::Key(index),
                None => {
                    columns.push(column.clone());
                    Origin::Other(columns.len() - 1)
                }
            });
            all.push(column);
        }
        Self { table: table.to_owned(), key, columns, all: all.into(), origins }
    }

    /// The columns of the rows: all of the table but the generated ones.
    pub(crate) const fn row_columns(&self) -> &Arc<[String]> {
        &self.all
    }
}

impl RowMapping for Discovered {
    type Key = DynKey;
    type Record = DynRow;

    fn key_columns(&self) -> &[String] {
        &self.key
    }

    fn columns(&self) -> &[String] {
        &self.columns
    }

    fn write(&self, key: &DynKey, row: &DynRow, out: &mut RowValues) -> Result<()> {
        let table = &self.table;
        if row.columns() != &self.all {
            let message = format!(
                "the row has the columns {}; table {table} has {}",
                row.columns().join(", "),
                self.all.join(", ")
            );
            return Err(Error::new(Kind::Rejected, message));
        }
        if !row.key_is(key, &self.key) {
            let message = format!("the row's own values of {} are not its key {key:?}", self.key.join(", "));
            return Err(Error::new(Kind::Rejected, message));
        }
        let out = &mut out.values;
        let start = out.len();
        out.resize(start + self.all.len(), Value::Null);
        for (origin, value) in self.origins.iter().zip(row.values()) {
            let place = match origin {
                Origin::Key(index) => *index,
                Origin::Other(index) => self.key.len() + index,
            };
            out[start + place] = value.clone();
        }
        Ok(())
    }

    fn least_bytes(&self) -> usize {
        size_of::<(DynKey, Result<DynRow>)>() + (self.key.len() + self.all.len()) * size_of::<Value>()
    }

    fn read(&self, key: &DynKey, values: &mut [Value]) -> Result<DynRow> {
        let take = |origin: &Origin| match *origin {
            Origin::Key(index) => key.values()[index].clone(),
            Origin::Other(index) => std::mem::take(&mut values[index]),
        };
        let values = self.origins.iter().map(take).collect();
        DynRow::new(Arc::clone(&self.all), values)
    }
}

/// Appends the values of a key's columns.
pub(crate) fn key_values<K: TableKey>(
    table: &str,
    parts: usize,
    key: &K,
    out: &mut Vec<Value>,
) -> Result<()> {
    let start = out.len();
    let refused =
        |reason: &str| Error::new(Kind::Rejected, format!("the key {key:?} of table {table}: {reason}"));
    key.to_values(out).map_err(|reason| refused(&reason))?;
    if out.len() - start == parts { Ok(()) } else { Err(refused("it has not one value for each key column")) }
}
