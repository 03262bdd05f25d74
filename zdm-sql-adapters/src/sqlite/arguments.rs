use sqlx::sqlite::{SqliteArguments, SqliteRow};
use sqlx::{Arguments, Decode, Row, Sqlite, TypeInfo, ValueRef};
use zdm_core::error::{Error, Kind, Result};

use super::classify::classify;
use crate::table::Value;

/// The values as the parameters of a statement.
pub(super) fn arguments(values: impl IntoIterator<Item = Value>) -> Result<SqliteArguments> {
    let values = values.into_iter();
    let mut arguments = SqliteArguments::default();
    arguments.reserve(values.size_hint().0, 0);
    for value in values {
        let added = match value {
            Value::Null => arguments.add(None::<i64>),
            Value::Integer(integer) => arguments.add(integer),
            Value::Real(real) => arguments.add(real),
            Value::Text(text) => arguments.add(text),
            Value::Blob(blob) => arguments.add(blob),
            other => {
                let message = format!("{other} has not been turned into what SQLite keeps");
                return Err(Error::new(Kind::Rejected, message));
            }
        };
        added.map_err(|error| classify(sqlx::Error::Encode(error), "binding a value"))?;
    }
    Ok(arguments)
}

/// A value of a row, in the class that it is stored in.
pub(super) fn value(row: &SqliteRow, index: usize) -> Result<Value> {
    let read = || -> Result<Value, sqlx::Error> {
        let raw = row.try_get_raw(index)?;
        if raw.is_null() {
            return Ok(Value::Null);
        }
        let class = raw.type_info().into_owned();
        let read = match class.name() {
            "INTEGER" => <i64 as Decode<'_, Sqlite>>::decode(raw).map(Value::Integer),
            "REAL" => <f64 as Decode<'_, Sqlite>>::decode(raw).map(Value::Real),
            "TEXT" => <String as Decode<'_, Sqlite>>::decode(raw).map(Value::Text),
            _ => <Vec<u8> as Decode<'_, Sqlite>>::decode(raw).map(Value::Blob),
        };
        read.map_err(sqlx::Error::Decode)
    };
    read().map_err(|error| {
        let message = format!("column {} cannot be read; its text is not UTF-8", index + 1);
        Error::new(Kind::Rejected, message).with_source(error)
    })
}
