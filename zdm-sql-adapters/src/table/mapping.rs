use zdm_core::error::{Error, Kind, Result};
use zdm_core::store::Record;

use super::{FromValue, TableKey, ToValue, Value};

/// How the records of a type stand in a table.
///
/// The type that implements it may be the record itself or a marker, so that the old and the new schema
/// of one record are two mappings: columns may be renamed, split, converted or derived on either side.
/// The columns of [`KEY`](Self::KEY) are filled from the key, those of [`COLUMNS`](Self::COLUMNS) by
/// [`write`](Self::write). Columns of the table that are named in neither are left alone.
///
/// ```
/// use serde::Serialize;
/// use zdm_core::Result;
/// use zdm_sql_adapters::table::{RowReader, RowWriter, TableMapping};
///
/// #[derive(Clone, Debug, PartialEq, Serialize)]
/// struct User { id: i64, name: String, email: Option<String> }
///
/// impl TableMapping for User {
///     type Key = i64;
///     type Record = Self;
///     const TABLE: &'static str = "users";
///     const KEY: &'static [&'static str] = &["id"];
///     const COLUMNS: &'static [&'static str] = &["name", "email"];
///     fn write(user: &User, row: &mut RowWriter<'_>) -> Result<()> { row.set("name", &user.name).set("email", &user.email).done() }
///     fn read(id: &i64, row: &mut RowReader<'_>) -> Result<User> { Ok(User { id: *id, name: row.get("name")?, email: row.get("email")? }) }
/// }
/// ```
pub trait TableMapping: Send + Sync + 'static {
    /// What records are addressed by.
    type Key: TableKey;
    /// What the service speaks.
    type Record: Record;

    /// The table.
    const TABLE: &'static str;
    /// The columns of the key, in the order of the key's parts.
    const KEY: &'static [&'static str];
    /// The other columns that the mapping reads and writes.
    const COLUMNS: &'static [&'static str];

    /// Sets every column of [`COLUMNS`](Self::COLUMNS) from the record.
    ///
    /// # Errors
    /// [`RowWriter::reject`] makes the error of a record that has no place in the table.
    fn write(record: &Self::Record, row: &mut RowWriter<'_>) -> Result<()>;

    /// Makes the record from its key and columns.
    ///
    /// # Errors
    /// [`RowReader::reject`] makes the error of a row that is no record.
    fn read(key: &Self::Key, row: &mut RowReader<'_>) -> Result<Self::Record>;
}

fn rejected(table: &str, column: &str, reason: &str) -> Error {
    Error::new(Kind::Rejected, format!("column {column} of table {table}: {reason}"))
}

/// The place of a column. Looks on from the last one first: columns in declared order cost nothing.
fn place(columns: &[String], cursor: &mut usize, name: &str) -> Option<usize> {
    let found = (*cursor..columns.len()).chain(0..*cursor).find(|index| columns[*index] == name)?;
    *cursor = found + 1;
    Some(found)
}

/// The columns of one row that is being written.
pub struct RowWriter<'a> {
    table: &'a str,
    columns: &'a [String],
    values: &'a mut [Option<Value>],
    cursor: usize,
    error: Option<Error>,
}

impl<'a> RowWriter<'a> {
    pub(crate) fn new(table: &'a str, columns: &'a [String], values: &'a mut [Option<Value>]) -> Self {
        Self { table, columns, values, cursor: 0, error: None }
    }

    /// Sets a column. The first value that does not fit is reported by [`done`](Self::done).
    pub fn set(&mut self, column: &str, value: impl ToValue) -> &mut Self {
        if self.error.is_none() {
            match (place(self.columns, &mut self.cursor, column), value.to_value()) {
                (Some(index), Ok(value)) => self.values[index] = Some(value),
                (Some(_), Err(reason)) => self.error = Some(rejected(self.table, column, &reason)),
                (None, _) => {
                    let message =
                        format!("the mapping of table {} does not declare the column {column}", self.table);
                    self.error = Some(Error::new(Kind::Invalid, message));
                }
            }
        }
        self
    }

    /// Ends the row.
    ///
    /// # Errors
    /// [`Kind::Rejected`] naming the column whose value does not fit; [`Kind::Invalid`] naming a column
    /// that is not declared, or that was not set.
    pub fn done(&mut self) -> Result<()> {
        if let Some(error) = self.error.take() {
            return Err(error);
        }
        match self.values.iter().position(Option::is_none) {
            None => Ok(()),
            Some(missing) => {
                let column = &self.columns[missing];
                let message = format!("the mapping of table {} did not set the column {column}", self.table);
                Err(Error::new(Kind::Invalid, message))
            }
        }
    }

    /// The error of a record that does not fit the table, naming the column.
    pub fn reject(&self, column: &str, reason: impl AsRef<str>) -> Error {
        rejected(self.table, column, reason.as_ref())
    }
}

/// The columns of one row that was read.
pub struct RowReader<'a> {
    table: &'a str,
    columns: &'a [String],
    values: &'a mut [Value],
    cursor: usize,
}

impl<'a> RowReader<'a> {
    pub(crate) fn new(table: &'a str, columns: &'a [String], values: &'a mut [Value]) -> Self {
        Self { table, columns, values, cursor: 0 }
    }

    /// Takes the value of a column; it is moved out, so a column is read once.
    ///
    /// # Errors
    /// [`Kind::Rejected`] naming the column when its value does not fit; [`Kind::Invalid`] naming a
    /// column that is not declared.
    pub fn get<T: FromValue>(&mut self, column: &str) -> Result<T> {
        let Some(index) = place(self.columns, &mut self.cursor, column) else {
            let message = format!("the mapping of table {} does not declare the column {column}", self.table);
            return Err(Error::new(Kind::Invalid, message));
        };
        T::from_value(std::mem::take(&mut self.values[index]))
            .map_err(|reason| rejected(self.table, column, &reason))
    }

    /// The error of a row that is no record, naming the column.
    pub fn reject(&self, column: &str, reason: impl AsRef<str>) -> Error {
        rejected(self.table, column, reason.as_ref())
    }
}
