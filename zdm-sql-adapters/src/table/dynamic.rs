use std::cmp::Ordering;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};
use zdm_core::error::{Error, Kind, Result};
use zdm_core::key::{Key, KeyBytes, take_delimited};

use super::decimal::Rank;
use super::{Decimal, KeyClass, TableKey, ToValue, Value};

/// A row of any table: the values of all its columns, the key's included.
#[derive(Clone, Debug)]
pub struct DynRow {
    columns: Arc<[String]>,
    values: Vec<Value>,
}

impl DynRow {
    /// A row of given columns and values.
    ///
    /// # Errors
    /// [`Kind::Invalid`] when there are not as many values as columns.
    pub fn new(columns: Arc<[String]>, values: Vec<Value>) -> Result<Self> {
        if columns.len() != values.len() {
            let message = format!("{} values for {} columns", values.len(), columns.len());
            return Err(Error::new(Kind::Invalid, message));
        }
        Ok(Self { columns, values })
    }

    /// The names of the columns.
    pub const fn columns(&self) -> &Arc<[String]> {
        &self.columns
    }

    /// The values, in the order of the columns.
    pub fn values(&self) -> &[Value] {
        &self.values
    }

    /// The value of a column. `None` when there is no such column.
    pub fn get(&self, column: &str) -> Option<&Value> {
        self.columns.iter().position(|name| name == column).map(|index| &self.values[index])
    }

    /// Whether the row's values of the key's columns are the key.
    pub(crate) fn key_is(&self, key: &DynKey, columns: &[String]) -> bool {
        let own = columns.iter().map(|column| self.get(column).cloned().unwrap_or_default());
        DynKey::new(own).is_ok_and(|own| own == *key)
    }

    /// Sets the value of a column.
    ///
    /// # Errors
    /// [`Kind::Invalid`] naming a column that the row does not have; [`Kind::Rejected`] when the value
    /// cannot be stored.
    pub fn set(&mut self, column: &str, value: impl ToValue) -> Result<()> {
        let index = self.columns.iter().position(|name| name == column).ok_or_else(|| {
            let message = format!("the row has no column {column}; it has {}", self.columns.join(", "));
            Error::new(Kind::Invalid, message)
        })?;
        self.values[index] = value
            .to_value()
            .map_err(|reason| Error::new(Kind::Rejected, format!("column {column}: {reason}")))?;
        Ok(())
    }
}

impl PartialEq for DynRow {
    fn eq(&self, other: &Self) -> bool {
        self.values == other.values
            && (Arc::ptr_eq(&self.columns, &other.columns) || self.columns == other.columns)
    }
}

impl Serialize for DynRow {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.values.len()))?;
        for (column, value) in self.columns.iter().zip(&self.values) {
            map.serialize_entry(column, value)?;
        }
        map.end()
    }
}

/// The key of a row of any table: the values of its key columns.
///
/// The order is that of SQLite: numbers before texts before blobs, numbers by value whatever their
/// class, texts and blobs by bytes. As in SQLite, 1 and 1.0 are the same key. Then come decimals, dates,
/// times, timestamps and UUIDs, each by value; within one column all values are of one of these classes.
///
/// ```
/// use zdm_sql_adapters::table::{DynKey, Value};
///
/// let key = |value| DynKey::new([value]).unwrap();
/// assert!(key(Value::Integer(2)) < key(Value::Real(2.5)));
/// assert!(key(Value::Real(f64::INFINITY)) < key(Value::Text(String::new())));
/// assert_eq!(key(Value::Integer(1)), key(Value::Real(1.0)));
/// ```
#[derive(Clone, Debug)]
pub struct DynKey(Vec<Value>);

impl DynKey {
    /// A key of one or more values.
    ///
    /// # Errors
    /// [`Kind::Rejected`] when a value is NULL, not a number, or of a class without an order that every
    /// database shares: an interval, JSON, or a type of one database.
    pub fn new(values: impl IntoIterator<Item = Value>) -> Result<Self> {
        let values: Vec<_> = values.into_iter().collect();
        let fits = |value: &Value| match value {
            Value::Null => false,
            Value::Real(real) => !real.is_nan(),
            Value::Decimal(decimal) => decimal.is_finite(),
            Value::Interval(_) | Value::Json(_) | Value::Other(_) => false,
            _ => true,
        };
        match values.iter().all(fits) {
            true if !values.is_empty() => Ok(Self(values)),
            _ => {
                let shown: Vec<_> = values.iter().map(ToString::to_string).collect();
                let message = format!(
                    "({}) is no key: it takes one value or more, none of them NULL, NaN, an interval, JSON or of a \
                     type that only one database has",
                    shown.join(", ")
                );
                Err(Error::new(Kind::Rejected, message))
            }
        }
    }

    /// The values of the key columns.
    pub fn values(&self) -> &[Value] {
        &self.0
    }
}

impl PartialEq for DynKey {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for DynKey {}

impl PartialOrd for DynKey {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for DynKey {
    fn cmp(&self, other: &Self) -> Ordering {
        KeyBytes::of(self).cmp(&KeyBytes::of(other))
    }
}

impl Hash for DynKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        KeyBytes::of(self).hash(state);
    }
}

const NUMBER: u8 = 1;
const TEXT: u8 = 2;
const BLOB: u8 = 3;
const DECIMAL: u8 = 4;
const DATE: u8 = 5;
const TIME: u8 = 6;
const TIMESTAMP: u8 = 7;
const UUID: u8 = 8;
const END: u8 = 0;

/// The greatest float that is not above the integer, and what is left over, which is below 2048.
fn floor(integer: i128) -> (f64, u16) {
    let nearest = integer as f64;
    let float = if nearest as i128 > integer { nearest.next_down() } else { nearest };
    (float, u16::try_from(integer - float as i128).unwrap_or(u16::MAX))
}

/// Bits whose order as unsigned integers is the order of the floats. Both zeros are one.
fn ordered_bits(float: f64) -> u64 {
    let bits = if float == 0.0 { 0 } else { float.to_bits() };
    if bits >> 63 == 1 { !bits } else { bits | 1 << 63 }
}

fn encode_number(tag: u8, number: i64, out: &mut KeyBytes) {
    out.extend(&[tag]);
    out.extend(&(number.cast_unsigned() ^ 1 << 63).to_be_bytes());
}

fn decode_number(bytes: &mut &[u8]) -> Option<i64> {
    let (number, rest) = bytes.split_first_chunk::<8>()?;
    *bytes = rest;
    Some((u64::from_be_bytes(*number) ^ 1 << 63).cast_signed())
}

const NEGATIVE: u8 = 1;
const ZERO: u8 = 2;
const POSITIVE: u8 = 3;

/// The sign, the power of ten, and the digits up to an end below every digit; of a negative number the
/// complement of both, so that the greater amount comes first.
fn encode_decimal(decimal: &Decimal, out: &mut KeyBytes) {
    let (rank, power, whole, fraction) = decimal.parts();
    let mask = match rank {
        Rank::Negative => 0xFF,
        Rank::Positive => 0,
        _ => return out.extend(&[ZERO]),
    };
    out.extend(&[if mask == 0 { POSITIVE } else { NEGATIVE }]);
    let power = power.cast_unsigned() ^ 1 << 31;
    out.extend(&power.to_be_bytes().map(|byte| byte ^ mask));
    for digit in whole.iter().chain(fraction) {
        out.extend(&[digit ^ mask]);
    }
    out.extend(&[mask]);
}

fn decode_decimal(bytes: &mut &[u8]) -> Option<Decimal> {
    let (sign, rest) = bytes.split_first()?;
    *bytes = rest;
    let mask = match *sign {
        ZERO => return Some(Decimal::from(0)),
        NEGATIVE => 0xFF,
        POSITIVE => 0,
        _ => return None,
    };
    let (power, rest) = bytes.split_first_chunk::<4>()?;
    let power = (u32::from_be_bytes(power.map(|byte| byte ^ mask)) ^ 1 << 31).cast_signed();
    let end = rest.iter().position(|byte| byte ^ mask == 0)?;
    let digits: Vec<u8> = rest[..end].iter().map(|byte| byte ^ mask).collect();
    *bytes = &rest[end + 1..];
    let sign = if mask == 0 { "" } else { "-" };
    let digits = String::from_utf8(digits).ok()?;
    format!("{sign}0.{digits}e{power}").parse().ok()
}

impl Key for DynKey {
    fn encode(&self, out: &mut KeyBytes) {
        for value in &self.0 {
            match value {
                Value::Integer(_) | Value::Unsigned(_) | Value::Real(_) => {
                    let (float, rest) = match value {
                        Value::Integer(integer) => floor(i128::from(*integer)),
                        Value::Unsigned(integer) => floor(i128::from(*integer)),
                        Value::Real(real) => (*real, 0),
                        _ => (f64::NEG_INFINITY, 0),
                    };
                    out.extend(&[NUMBER]);
                    out.extend(&ordered_bits(float).to_be_bytes());
                    out.extend(&rest.to_be_bytes());
                }
                Value::Text(text) => {
                    out.extend(&[TEXT]);
                    out.extend_delimited(text.as_bytes());
                }
                Value::Blob(blob) => {
                    out.extend(&[BLOB]);
                    out.extend_delimited(blob);
                }
                Value::Decimal(decimal) => {
                    out.extend(&[DECIMAL]);
                    encode_decimal(decimal, out);
                }
                Value::Date(days) => encode_number(DATE, i64::from(*days), out),
                Value::Time(micros) => encode_number(TIME, *micros, out),
                Value::Timestamp(micros) => encode_number(TIMESTAMP, *micros, out),
                Value::Uuid(bytes) => {
                    out.extend(&[UUID]);
                    out.extend(bytes);
                }
                // `new` lets none in.
                Value::Null | Value::Interval(_) | Value::Json(_) | Value::Other(_) => out.extend(&[NUMBER]),
            }
        }
        out.extend(&[END]);
    }

    fn decode(bytes: &mut &[u8]) -> Result<Self> {
        let mut values = Vec::new();
        loop {
            let damaged = || Error::new(Kind::Damaged, "the stored bytes are not the key of a row");
            let (&tag, rest) = bytes.split_first().ok_or_else(damaged)?;
            *bytes = rest;
            values.push(match tag {
                END if values.is_empty() => return Err(damaged()),
                END => return Ok(Self(values)),
                NUMBER => {
                    let (head, rest) = bytes.split_first_chunk::<8>().ok_or_else(damaged)?;
                    let (tail, rest) = rest.split_first_chunk::<2>().ok_or_else(damaged)?;
                    *bytes = rest;
                    let bits = u64::from_be_bytes(*head);
                    let float = f64::from_bits(if bits >> 63 == 1 { bits & !(1 << 63) } else { !bits });
                    // A whole number is an integer again: to SQLite both are the same key.
                    let whole = float.is_finite() && float.trunc() == float && float.abs() < 2_f64.powi(65);
                    let integer = float as i128 + i128::from(u16::from_be_bytes(*tail));
                    match (i64::try_from(integer), u64::try_from(integer)) {
                        (Ok(integer), _) if whole => Value::Integer(integer),
                        (_, Ok(integer)) if whole => Value::Unsigned(integer),
                        _ if float.is_nan() => return Err(damaged()),
                        _ => Value::Real(float),
                    }
                }
                TEXT => {
                    let text = take_delimited(bytes).ok_or_else(damaged)?;
                    Value::Text(String::from_utf8(text).map_err(|_| damaged())?)
                }
                BLOB => Value::Blob(take_delimited(bytes).ok_or_else(damaged)?),
                DECIMAL => Value::Decimal(decode_decimal(bytes).ok_or_else(damaged)?),
                DATE => {
                    Value::Date(decode_number(bytes).and_then(|n| i32::try_from(n).ok()).ok_or_else(damaged)?)
                }
                TIME => Value::Time(decode_number(bytes).ok_or_else(damaged)?),
                TIMESTAMP => Value::Timestamp(decode_number(bytes).ok_or_else(damaged)?),
                UUID => {
                    let (uuid, rest) = bytes.split_first_chunk::<16>().ok_or_else(damaged)?;
                    *bytes = rest;
                    Value::Uuid(*uuid)
                }
                _ => return Err(damaged()),
            });
        }
    }
}

impl TableKey for DynKey {
    const CLASSES: &'static [KeyClass] = &[KeyClass::Any];

    fn to_values(&self, out: &mut Vec<Value>) -> Result<(), String> {
        out.extend(self.0.iter().cloned());
        Ok(())
    }

    fn from_values(values: &mut [Value]) -> Result<Self, String> {
        Self::new(values.iter_mut().map(std::mem::take)).map_err(|error| error.message().to_owned())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn decimals() -> impl Strategy<Value = Decimal> {
        ("-?[0-9]{1,25}(\\.[0-9]{1,25})?").prop_map(|text| text.parse().unwrap())
    }

    proptest! {
        #[test]
        fn decimals_as_keys_keep_their_order_and_value(left in decimals(), right in decimals(), then: i64) {
            let key = |decimal: &Decimal| DynKey::new([Value::Decimal(decimal.clone()), Value::Integer(then)]).unwrap();
            prop_assert_eq!(key(&left).cmp(&key(&right)), left.cmp(&right));
            let again: DynKey = KeyBytes::of(&key(&left)).to_key().unwrap();
            prop_assert_eq!(&again, &key(&left));
        }

        #[test]
        fn numbers_of_all_sizes_are_one_order(left: u64, right: i64, micros: i64) {
            let key = |value| DynKey::new([value]).unwrap();
            let order = i128::from(left).cmp(&i128::from(right));
            prop_assert_eq!(key(Value::integer(left)).cmp(&key(Value::Integer(right))), order);
            for value in [Value::integer(left), Value::Timestamp(micros), Value::Time(micros), Value::Uuid([7; 16])] {
                let again: DynKey = KeyBytes::of(&key(value.clone())).to_key().unwrap();
                prop_assert_eq!(again.values(), &[value][..]);
            }
            prop_assert_eq!(key(Value::Timestamp(micros)).cmp(&key(Value::Timestamp(right))), micros.cmp(&right));
        }
    }
}
