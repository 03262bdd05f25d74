use crate::table::Value;

/// The value as SQLite keeps it: what it has no class for becomes text.
///
/// # Errors
/// A short reason, when SQLite would keep something else.
pub(super) fn native(value: Value) -> Result<Value, String> {
    match value {
        Value::Real(real) if real.is_nan() => {
            Err("NaN would be stored as NULL; map it to None or to a number".to_owned())
        }
        Value::Unsigned(number) => Err(format!("{number} does not fit a signed 64-bit integer")),
        Value::Null | Value::Integer(_) | Value::Real(_) | Value::Text(_) | Value::Blob(_) => Ok(value),
        other => Ok(other.to_text().map_or(Value::Null, Value::Text)),
    }
}

/// Whether SQLite keeps the value as it is.
pub(super) const fn is_native(value: &Value) -> bool {
    match value {
        Value::Real(real) => !real.is_nan(),
        Value::Null | Value::Integer(_) | Value::Text(_) | Value::Blob(_) => true,
        _ => false,
    }
}
