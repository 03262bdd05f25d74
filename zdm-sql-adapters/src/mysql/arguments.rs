use sqlx::mysql::{MySqlArguments, MySqlRow};
use sqlx::{Arguments, Decode, MySql, Row, ValueRef};
use zdm_core::error::{Error, Kind, Result};

use super::classify::classify;
use super::codec::Codec;
use crate::table::Value;

/// Encoded values as the parameters of a statement.
pub(super) fn arguments(values: impl IntoIterator<Item = Value>) -> Result<MySqlArguments> {
    let values = values.into_iter();
    let mut arguments = MySqlArguments::default();
    let count = values.size_hint().0;
    arguments.reserve(count, count * 8);
    for value in values {
        let added = match value {
            // A column of a type of its own takes a text, and no integer.
            Value::Null => arguments.add(None::<String>),
            Value::Integer(integer) => arguments.add(integer),
            Value::Unsigned(integer) => arguments.add(integer),
            Value::Real(real) => arguments.add(real),
            Value::Text(text) => arguments.add(text),
            Value::Blob(blob) => arguments.add(blob),
            other => {
                let message = format!("{other} has not been turned into what goes over the wire");
                return Err(Error::new(Kind::Rejected, message));
            }
        };
        added.map_err(|error| classify(sqlx::Error::Encode(error), "binding a value"))?;
    }
    Ok(arguments)
}

/// About how many bytes a parameter takes in a statement.
pub(super) const fn size(value: &Value) -> usize {
    match value {
        Value::Text(text) => text.len() + 12,
        Value::Blob(blob) => blob.len() + 12,
        _ => 11,
    }
}

/// The bytes of a text parameter, for comparisons byte by byte.
pub(super) fn as_bytes(value: Value) -> Value {
    match value {
        Value::Text(text) => Value::Blob(text.into_bytes()),
        other => other,
    }
}

/// A value of a row.
///
/// # Errors
/// A short reason, without the column's name.
pub(super) fn value(row: &MySqlRow, index: usize, codec: &Codec) -> Result<Value, String> {
    let raw = row.try_get_raw(index).map_err(|error| error.to_string())?;
    // sqlx takes a zero date for NULL; the bytes tell them apart.
    let bytes = match <&[u8] as Decode<'_, MySql>>::decode(raw.clone()) {
        Ok(bytes) => Some(bytes),
        Err(_) if raw.is_null() => None,
        Err(error) => return Err(error.to_string()),
    };
    codec.decode(bytes)
}
