use std::fmt;
use std::time::{Duration, SystemTime};

use serde::{Serialize, Serializer};

use super::{ColumnType, Decimal};

/// A value of a column, in the words of no particular database.
///
/// Two values are equal when they mean the same: decimals whatever their trailing zeros, JSON whatever the
/// order of its keys, zeros whatever their sign, and a float that is not a number equals itself.
///
/// ```
/// use zdm_sql_adapters::table::Value;
///
/// let decimal = |text: &str| Value::Decimal(text.parse().unwrap());
/// assert_eq!(decimal("1.50"), decimal("1.5"));
/// assert_eq!(Value::Json(r#"{"a":1,"b":2}"#.into()), Value::Json(r#"{ "b": 2, "a": 1 }"#.into()));
/// assert_ne!(Value::Integer(1), Value::Real(1.0));
/// ```
#[derive(Clone, Debug, Default)]
pub enum Value {
    /// No value.
    #[default]
    Null,
    /// A whole number. Truth values are 0 and 1.
    Integer(i64),
    /// A whole number above the greatest [`Integer`](Self::Integer); smaller ones are never kept here.
    Unsigned(u64),
    /// A floating point number. SQLite and MySQL have no NaN, MySQL has no infinities.
    Real(f64),
    /// A decimal number of any precision.
    Decimal(Decimal),
    /// Text. In PostgreSQL it may not contain NUL characters.
    Text(String),
    /// Bytes.
    Blob(Vec<u8>),
    /// Days since 1970-01-01; the least and the greatest number are the infinities.
    Date(i32),
    /// Microseconds since midnight; as a span it may be negative or longer than a day.
    Time(i64),
    /// Microseconds since 1970-01-01, in UTC where the column has a zone; the least and the greatest
    /// number are the infinities.
    Timestamp(i64),
    /// A span of months, days and microseconds, which do not convert into each other.
    Interval(Interval),
    /// A JSON document as text.
    Json(String),
    /// A UUID.
    Uuid([u8; 16]),
    /// The text of a value whose type only one database has: an array, a range, a network address.
    Other(String),
}

/// A span of time as PostgreSQL keeps it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct Interval {
    /// Whole months.
    pub months: i32,
    /// Whole days.
    pub days: i32,
    /// Microseconds.
    pub micros: i64,
}

impl Value {
    /// How many bytes it takes beside the value itself.
    #[cfg(any(feature = "mysql", feature = "sqlite"))]
    pub(crate) fn content_len(&self) -> usize {
        match self {
            Self::Text(text) | Self::Json(text) | Self::Other(text) => text.len(),
            Self::Decimal(number) => number.as_str().len(),
            Self::Blob(bytes) => bytes.len(),
            _ => 0,
        }
    }

    /// The class in words, for messages.
    pub const fn class(&self) -> &'static str {
        match self {
            Self::Null => "NULL",
            Self::Integer(_) | Self::Unsigned(_) => "an integer",
            Self::Real(_) => "a real",
            Self::Decimal(_) => "a decimal",
            Self::Text(_) => "a text",
            Self::Blob(_) => "a blob",
            Self::Date(_) => "a date",
            Self::Time(_) => "a time",
            Self::Timestamp(_) => "a timestamp",
            Self::Interval(_) => "an interval",
            Self::Json(_) => "a JSON document",
            Self::Uuid(_) => "a UUID",
            Self::Other(_) => "a value of a type of its own",
        }
    }

    /// A whole number of any size up to 64 bits.
    pub fn integer(number: u64) -> Self {
        i64::try_from(number).map_or(Self::Unsigned(number), Self::Integer)
    }
}

impl PartialEq for Value {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Null, Self::Null) => true,
            (Self::Integer(a), Self::Integer(b)) => a == b,
            (Self::Unsigned(a), Self::Unsigned(b)) => a == b,
            (Self::Real(a), Self::Real(b)) => a == b || a.is_nan() && b.is_nan(),
            (Self::Decimal(a), Self::Decimal(b)) => a == b,
            (Self::Text(a), Self::Text(b)) | (Self::Other(a), Self::Other(b)) => a == b,
            (Self::Blob(a), Self::Blob(b)) => a == b,
            (Self::Date(a), Self::Date(b)) => a == b,
            (Self::Time(a), Self::Time(b)) | (Self::Timestamp(a), Self::Timestamp(b)) => a == b,
            (Self::Interval(a), Self::Interval(b)) => a == b,
            (Self::Json(a), Self::Json(b)) => a == b || super::json::same(a, b),
            (Self::Uuid(a), Self::Uuid(b)) => a == b,
            _ => false,
        }
    }
}

impl fmt::Display for Value {
    /// Short enough for a message.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Null => f.write_str("NULL"),
            Self::Integer(value) => write!(f, "{value}"),
            Self::Unsigned(value) => write!(f, "{value}"),
            Self::Real(value) => write!(f, "{value:?}"),
            Self::Decimal(value) => write!(f, "{value}"),
            Self::Text(value) | Self::Json(value) | Self::Other(value) if value.len() <= 64 => {
                write!(f, "{value:?}")
            }
            Self::Text(value) | Self::Json(value) | Self::Other(value) => {
                write!(f, "a text of {} bytes", value.len())
            }
            Self::Blob(value) => write!(f, "a blob of {} bytes", value.len()),
            Self::Date(_) | Self::Time(_) | Self::Timestamp(_) | Self::Interval(_) | Self::Uuid(_) => {
                f.write_str(&self.to_text().unwrap_or_default())
            }
        }
    }
}

impl Serialize for Value {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Null => serializer.serialize_unit(),
            Self::Integer(value) => serializer.serialize_i64(*value),
            Self::Unsigned(value) => serializer.serialize_u64(*value),
            Self::Real(value) => serializer.serialize_f64(*value),
            Self::Text(value) => serializer.serialize_str(value),
            Self::Blob(value) => serializer.serialize_bytes(value),
            other => serializer.serialize_str(&other.to_text().unwrap_or_default()),
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
                let fits = i64::try_from(*self).map(Value::Integer);
                fits.or_else(|_| u64::try_from(*self).map(Value::Unsigned))
                    .map_err(|_| format!("{self} does not fit a 64-bit integer"))
            }
        }

        impl FromValue for $type {
            fn from_value(value: Value) -> Result<Self, String> {
                match value {
                    Value::Integer(integer) => Self::try_from(integer)
                        .map_err(|_| format!("{integer} does not fit {}", stringify!($type))),
                    Value::Unsigned(integer) => Self::try_from(integer)
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

impl ToValue for f32 {
    fn to_value(&self) -> Result<Value, String> {
        Ok(Value::Real(f64::from(*self)))
    }
}

impl FromValue for f32 {
    fn from_value(value: Value) -> Result<Self, String> {
        let wide = f64::from_value(value)?;
        let narrow = wide as Self;
        let same = f64::from(narrow) == wide || wide.is_nan();
        if same { Ok(narrow) } else { Err(format!("{wide:?} does not fit f32 without loss")) }
    }
}

macro_rules! fields {
    ($($(#[$doc:meta])* $name:ident($type:ty), $ty:expr, $wanted:literal;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
        pub struct $name(pub $type);

        impl ToValue for $name {
            fn to_value(&self) -> Result<Value, String> {
                Ok(Value::$name(self.0.clone()))
            }
        }

        impl FromValue for $name {
            fn from_value(value: Value) -> Result<Self, String> {
                match value {
                    Value::$name(inner) => Ok(Self(inner)),
                    // A database without the type keeps the text.
                    Value::Text(text) => match $ty.parse(&text)? {
                        Value::$name(inner) => Ok(Self(inner)),
                        other => unfit(&other, $wanted),
                    },
                    other => unfit(&other, $wanted),
                }
            }
        }
    )*};
}

fields! {
    /// A day, as a field of a record: days since 1970-01-01.
    Date(i32), ColumnType::Date, "a date";
    /// A time of day, as a field of a record: microseconds since midnight.
    Time(i64), ColumnType::Time, "a time";
    /// A point in time, as a field of a record: microseconds since 1970-01-01.
    Timestamp(i64), ColumnType::Timestamp { zone: true, digits: 6 }, "a timestamp";
    /// A UUID, as a field of a record.
    Uuid([u8; 16]), ColumnType::Uuid, "a UUID";
    /// A JSON document, as a field of a record.
    Json(String), ColumnType::Json, "a JSON document";
}

impl ToValue for SystemTime {
    fn to_value(&self) -> Result<Value, String> {
        let (sign, distance) = match self.duration_since(Self::UNIX_EPOCH) {
            Ok(since) => (1, since),
            Err(before) => (-1, before.duration()),
        };
        if distance.subsec_nanos() % 1_000 != 0 {
            return Err("a time finer than a microsecond; round it first".to_owned());
        }
        let micros = i64::try_from(distance.as_micros()).map_err(|_| "a time out of range".to_owned())?;
        Ok(Value::Timestamp(sign * micros))
    }
}

impl FromValue for SystemTime {
    fn from_value(value: Value) -> Result<Self, String> {
        match value {
            Value::Text(_) => Timestamp::from_value(value)?.to_value().and_then(Self::from_value),
            Value::Timestamp(micros) => {
                let distance = Duration::from_micros(micros.unsigned_abs());
                let time = if micros < 0 {
                    Self::UNIX_EPOCH.checked_sub(distance)
                } else {
                    Self::UNIX_EPOCH.checked_add(distance)
                };
                time.ok_or_else(|| "a time out of range".to_owned())
            }
            other => unfit(&other, "a timestamp"),
        }
    }
}

impl ToValue for Decimal {
    fn to_value(&self) -> Result<Value, String> {
        Ok(Value::Decimal(self.clone()))
    }
}

impl FromValue for Decimal {
    fn from_value(value: Value) -> Result<Self, String> {
        match value {
            Value::Decimal(decimal) => Ok(decimal),
            Value::Text(text) => text.parse().map_err(|error| format!("{error}")),
            Value::Integer(integer) => Ok(Self::from(integer)),
            other => unfit(&other, "a decimal"),
        }
    }
}

impl ToValue for Interval {
    fn to_value(&self) -> Result<Value, String> {
        Ok(Value::Interval(*self))
    }
}

impl FromValue for Interval {
    fn from_value(value: Value) -> Result<Self, String> {
        match value {
            Value::Interval(interval) => Ok(interval),
            Value::Text(text) => ColumnType::Interval.parse(&text).and_then(Self::from_value),
            other => unfit(&other, "an interval"),
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
        Ok(self.clone())
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
