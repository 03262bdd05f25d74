use std::fmt;

use serde::{Serialize, Serializer};

/// A value of a column, exactly as the database holds it.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Value {
    /// No value.
    #[default]
    Null,
    /// A whole number.
    Integer(i64),
    /// A floating point number, infinities included. Not a number (NaN) is no value: SQLite would store NULL.
    Real(f64),
    /// Text, which may contain NUL characters.
    Text(String),
    /// Bytes.
    Blob(Vec<u8>),
}

impl Value {
    /// The storage class in words, for messages.
    pub const fn class(&self) -> &'static str {
        match self {
            Self::Null => "NULL",
            Self::Integer(_) => "an integer",
            Self::Real(_) => "a real",
            Self::Text(_) => "a text",
            Self::Blob(_) => "a blob",
        }
    }
}

impl fmt::Display for Value {
    /// Short enough for a message.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Null => f.write_str("NULL"),
            Self::Integer(value) => write!(f, "{value}"),
            Self::Real(value) => write!(f, "{value:?}"),
            Self::Text(value) if value.len() <= 64 => write!(f, "{value:?}"),
            Self::Text(value) => write!(f, "a text of {} bytes", value.len()),
            Self::Blob(value) => write!(f, "a blob of {} bytes", value.len()),
        }
    }
}

impl Serialize for Value {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Null => serializer.serialize_unit(),
            Self::Integer(value) => serializer.serialize_i64(*value),
            Self::Real(value) => serializer.serialize_f64(*value),
            Self::Text(value) => serializer.serialize_str(value),
            Self::Blob(value) => serializer.serialize_bytes(value),
        }
    }
}

/// Turns a field into a value of a column.
pub trait ToValue {
    /// The value, or why there is none.
    ///
    /// # Errors
    /// A short reason, without the column's name: the caller knows it.
    fn to_value(&self) -> Result<Value, String>;
}

/// Turns a value of a column into a field.
pub trait FromValue: Sized {
    /// The field, or why there is none.
    ///
    /// # Errors
    /// A short reason, without the column's name: the caller knows it.
    fn from_value(value: Value) -> Result<Self, String>;
}

fn unfit<T>(value: &Value, wanted: &str) -> Result<T, String> {
    Err(format!("{value} is {}, not {wanted}", value.class()))
}

macro_rules! integers {
    ($($type:ty),*) => {$(
        impl ToValue for $type {
            fn to_value(&self) -> Result<Value, String> {
                let fits = i64::try_from(*self);
                fits.map(Value::Integer).map_err(|_| format!("{self} does not fit a signed 64-bit integer"))
            }
        }

        impl FromValue for $type {
            fn from_value(value: Value) -> Result<Self, String> {
                match value {
                    Value::Integer(integer) => Self::try_from(integer)
                        .map_err(|_| format!("{integer} does not fit {}", stringify!($type))),
                    other => unfit(&other, "an integer"),
                }
            }
        }
    )*};
}

integers!(i8, i16, i32, i64, u8, u16, u32, u64, usize);

impl ToValue for bool {
    fn to_value(&self) -> Result<Value, String> {
        Ok(Value::Integer(i64::from(*self)))
    }
}

impl FromValue for bool {
    fn from_value(value: Value) -> Result<Self, String> {
        match value {
            Value::Integer(integer @ (0 | 1)) => Ok(integer == 1),
            other => Err(format!("{other} is neither 0 nor 1")),
        }
    }
}

impl ToValue for f64 {
    fn to_value(&self) -> Result<Value, String> {
        if self.is_nan() {
            return Err("NaN would be stored as NULL; map it to None or to a number".to_owned());
        }
        Ok(Value::Real(*self))
    }
}

impl FromValue for f64 {
    fn from_value(value: Value) -> Result<Self, String> {
        match value {
            Value::Real(real) => Ok(real),
            // A NUMERIC column keeps 1.0 as 1. Up to 2^53 every integer is a float.
            Value::Integer(integer) if integer.unsigned_abs() <= 1 << 53 => Ok(integer as Self),
            other => unfit(&other, "a real"),
        }
    }
}

impl ToValue for str {
    fn to_value(&self) -> Result<Value, String> {
        Ok(Value::Text(self.to_owned()))
    }
}

impl ToValue for String {
    fn to_value(&self) -> Result<Value, String> {
        Ok(Value::Text(self.clone()))
    }
}

impl FromValue for String {
    fn from_value(value: Value) -> Result<Self, String> {
        match value {
            Value::Text(text) => Ok(text),
            other => unfit(&other, "a text"),
        }
    }
}

impl ToValue for [u8] {
    fn to_value(&self) -> Result<Value, String> {
        Ok(Value::Blob(self.to_vec()))
    }
}

impl<const N: usize> ToValue for [u8; N] {
    fn to_value(&self) -> Result<Value, String> {
        Ok(Value::Blob(self.to_vec()))
    }
}

impl<const N: usize> FromValue for [u8; N] {
    fn from_value(value: Value) -> Result<Self, String> {
        match value {
            Value::Blob(blob) => {
                Self::try_from(blob).map_err(|blob| format!("a blob of {} bytes, not of {N}", blob.len()))
            }
            other => unfit(&other, "a blob"),
        }
    }
}

impl ToValue for Vec<u8> {
    fn to_value(&self) -> Result<Value, String> {
        Ok(Value::Blob(self.clone()))
    }
}

impl FromValue for Vec<u8> {
    fn from_value(value: Value) -> Result<Self, String> {
        match value {
            Value::Blob(blob) => Ok(blob),
            other => unfit(&other, "a blob"),
        }
    }
}

impl<T: ToValue> ToValue for Option<T> {
    fn to_value(&self) -> Result<Value, String> {
        self.as_ref().map_or(Ok(Value::Null), ToValue::to_value)
    }
}

impl<T: FromValue> FromValue for Option<T> {
    fn from_value(value: Value) -> Result<Self, String> {
        match value {
            Value::Null => Ok(None),
            other => T::from_value(other).map(Some),
        }
    }
}

impl ToValue for Value {
    fn to_value(&self) -> Result<Value, String> {
        match self {
            Self::Real(real) => real.to_value(),
            other => Ok(other.clone()),
        }
    }
}

impl FromValue for Value {
    fn from_value(value: Value) -> Result<Self, String> {
        Ok(value)
    }
}

impl<T: ToValue + ?Sized> ToValue for &T {
    fn to_value(&self) -> Result<Value, String> {
        (**self).to_value()
    }
}
