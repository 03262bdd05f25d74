//! Between the values of records and what SQLite keeps.
//!
//! SQLite has five classes of values and turns some into others by the affinity of their column. A column
//! whose records carry values of a logical type is read as such, whatever class its rows have, and written
//! only when reading it back gives the same value.

use super::shape::Affinity;
use crate::table::{ColumnType, Decimal, Value};

/// Up to here every whole number is a float.
const EXACT_FLOATS: u64 = 1 << 53;

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

/// A column whose records carry values of a logical type.
#[derive(Clone, Debug)]
pub(super) struct Carried {
    pub(super) ty: ColumnType,
    affinity: Affinity,
}

impl Carried {
    /// `None` where the values are carried as they are.
    pub(super) fn new(ty: &ColumnType, affinity: Affinity) -> Option<Self> {
        (*ty != ColumnType::Any).then(|| Self { ty: ty.clone(), affinity })
    }

    /// Whether rows stand in the order of the values that they carry: a text of digits is not in the
    /// order of its number.
    pub(super) const fn keeps_order(&self) -> bool {
        use ColumnType as Ty;
        let numbers = !matches!(self.affinity, Affinity::Text | Affinity::Blob);
        match self.ty {
            Ty::Boolean | Ty::Integer { .. } | Ty::Decimal { .. } | Ty::Real { .. } => numbers,
            Ty::Any | Ty::Text { .. } | Ty::Bytes { .. } | Ty::Bits => true,
            // The canonical texts of four-digit years and of UUIDs; of spans and of times above a hundred
            // hours not, which a walk finds out.
            Ty::Date | Ty::Time | Ty::Timestamp { .. } | Ty::Uuid => true,
            Ty::Interval | Ty::Json | Ty::Other(_) => false,
        }
    }

    /// The value that a row holds.
    ///
    /// # Errors
    /// A short reason, naming the value.
    pub(super) fn read(&self, value: Value) -> Result<Value, String> {
        use ColumnType as Ty;
        let wrong = |value: &Value| Err(format!("{value} is {}, not {}", value.class(), self.ty));
        match (&self.ty, value) {
            (_, Value::Null) => Ok(Value::Null),
            (Ty::Boolean, Value::Integer(integer @ (0 | 1))) => Ok(Value::Integer(integer)),
            (Ty::Boolean, Value::Integer(integer)) => Err(format!("{integer} is neither 0 nor 1")),
            (Ty::Integer { .. }, Value::Integer(integer)) => Ok(Value::Integer(integer)),
            (Ty::Boolean | Ty::Integer { .. }, Value::Real(real)) => {
                let whole = real.trunc() == real && real.abs() <= EXACT_FLOATS as f64;
                if !whole {
                    return Err(format!("{real:?} is not a whole number that a float keeps"));
                }
                self.read(Value::Integer(real as i64))
            }
            (Ty::Decimal { .. }, Value::Integer(integer)) => Ok(Value::Decimal(Decimal::from(integer))),
            // The shortest decimal that is this float: what somebody wrote as 0.99 is 0.99 again.
            (Ty::Decimal { .. }, Value::Real(real)) if real.is_finite() => {
                format!("{real:?}").parse().map(Value::Decimal).map_err(|error| format!("{error}"))
            }
            (Ty::Real { .. }, Value::Real(real)) => Ok(Value::Real(real)),
            // A NUMERIC column keeps 1.0 as 1.
            (Ty::Real { .. }, Value::Integer(integer)) if integer.unsigned_abs() <= EXACT_FLOATS => {
                Ok(Value::Real(integer as f64))
            }
            (Ty::Bytes { .. }, Value::Blob(bytes)) => Ok(Value::Blob(bytes)),
            (Ty::Bytes { .. }, other) => wrong(&other),
            // A document that is a number alone becomes one in a column that takes it for such.
            (Ty::Json, Value::Integer(integer)) => Ok(Value::Json(integer.to_string())),
            (ty, Value::Text(text)) => ty.parse(&text),
            (_, other) => wrong(&other),
        }
    }

    /// The value as SQLite keeps it in this column.
    ///
    /// # Errors
    /// A short reason, when reading it back would give another value.
    pub(super) fn write(&self, value: Value) -> Result<Value, String> {
        if matches!(value, Value::Null) {
            return Ok(Value::Null);
        }
        let numbers = !matches!(self.affinity, Affinity::Text | Affinity::Blob);
        let kept = match &value {
            Value::Decimal(decimal) if numbers => number(decimal)?,
            Value::Integer(_) | Value::Unsigned(_) | Value::Real(_) if self.affinity == Affinity::Text => {
                Value::Text(value.to_text().unwrap_or_default())
            }
            Value::Integer(integer)
                if self.affinity == Affinity::Real && integer.unsigned_abs() > EXACT_FLOATS =>
            {
                return Err(format!("{integer} would be rounded to a float"));
            }
            Value::Integer(_) | Value::Real(_) | Value::Blob(_) => native(value.clone())?,
            other => {
                let text = other.to_text().unwrap_or_default();
                if numbers && reads_as_a_number(&text) {
                    self.number_in_place_of_text(&value, text)?
                } else {
                    Value::Text(text)
                }
            }
        };
        match self.read(kept.clone()) {
            Ok(again) if again == value => Ok(kept),
            Ok(again) => Err(format!("{value} would be read again as {again}")),
            Err(reason) => Err(reason),
        }
    }

    /// A text of digits in a column that turns it into a number.
    fn number_in_place_of_text(&self, value: &Value, text: String) -> Result<Value, String> {
        match text.parse() {
            Ok(integer) if self.ty == ColumnType::Json => Ok(Value::Integer(integer)),
            _ => Err(format!("{value} would become a number in a column of {:?} affinity", self.affinity)),
        }
    }
}

/// A decimal as the number that an affinity makes of it.
fn number(decimal: &Decimal) -> Result<Value, String> {
    let text = decimal.as_str();
    if let (true, Ok(integer)) = (decimal.scale() == 0, text.parse()) {
        return Ok(Value::Integer(integer));
    }
    let real: f64 = text.parse().map_err(|_| format!("{decimal} is no number"))?;
    let again: Option<Decimal> = real.is_finite().then(|| format!("{real:?}").parse().ok()).flatten();
    match again {
        Some(again) if again == *decimal => Ok(Value::Real(real)),
        _ => Err(format!("{decimal} has more digits than a float; declare the column as text")),
    }
}

/// Whether SQLite takes a text for a number: with spaces around, a sign, a point, an exponent.
fn reads_as_a_number(text: &str) -> bool {
    let text = text.trim_matches(|c: char| c.is_ascii_whitespace() || c == '\u{b}');
    text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'+' | b'-' | b'.' | b'e' | b'E'))
        && text.parse::<f64>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn carried(ty: &ColumnType, affinity: Affinity) -> Carried {
        Carried::new(ty, affinity).unwrap()
    }

    fn decimal(text: &str) -> Value {
        Value::Decimal(text.parse().unwrap())
    }

    const DECIMAL: ColumnType = ColumnType::Decimal { precision: None, scale: None, special: false };
    const TEXT: ColumnType = ColumnType::Text { max: None };

    #[test]
    fn decimals_are_exact_or_refused() {
        let column = carried(&DECIMAL, Affinity::Numeric);
        for text in ["0.99", "-1.98", "12345678901234.5", "0.1", "1e-7", "25"] {
            let kept = column.write(decimal(text)).unwrap();
            assert_eq!(column.read(kept), Ok(decimal(text)), "{text}");
        }
        assert_eq!(column.write(decimal("25.00")), Ok(Value::Real(25.0)));
        assert_eq!(column.write(decimal("9223372036854775807")), Ok(Value::Integer(i64::MAX)));
        for text in ["12345678901234567.89", "0.12345678901234567891", "NaN", "Infinity"] {
            let reason = column.write(decimal(text)).unwrap_err();
            assert!(reason.contains(text.trim_end_matches("ity")), "{reason}");
        }
        let as_text = carried(&DECIMAL, Affinity::Text);
        let long = "12345678901234567.89";
        assert_eq!(as_text.write(decimal(long)), Ok(Value::Text(long.to_owned())));
        assert_eq!(as_text.read(Value::Text(long.to_owned())), Ok(decimal(long)));
        assert!(column.read(Value::Text("twelve".to_owned())).is_err());
    }

    #[test]
    fn numbers_in_texts_and_texts_in_numbers() {
        let integer = carried(&ColumnType::signed(64), Affinity::Text);
        assert_eq!(integer.write(Value::Integer(-7)), Ok(Value::Text("-7".to_owned())));
        assert_eq!(integer.read(Value::Text("-7".to_owned())), Ok(Value::Integer(-7)));
        assert_eq!(integer.write(Value::Unsigned(u64::MAX)), Ok(Value::Text(u64::MAX.to_string())));
        let wide = carried(&ColumnType::unsigned(64), Affinity::Integer);
        assert!(wide.write(Value::Unsigned(u64::MAX)).is_err());
        let text = carried(&TEXT, Affinity::Numeric);
        for lost in ["007", " 1 ", "1e3", "-5", "+.5"] {
            assert!(text.write(Value::Text(lost.to_owned())).is_err(), "{lost}");
        }
        for kept in ["1-2", "", "x1", "1 2", "inf", "nan", "0x10"] {
            assert!(text.write(Value::Text(kept.to_owned())).is_ok(), "{kept}");
        }
        let json = carried(&ColumnType::Json, Affinity::Numeric);
        assert_eq!(json.write(Value::Json("17".to_owned())), Ok(Value::Integer(17)));
        assert_eq!(json.read(Value::Integer(17)), Ok(Value::Json("17".to_owned())));
        assert!(json.write(Value::Json("1.0".to_owned())).is_err(), "it would come back as 1");
        assert!(json.write(Value::Json("[1.0]".to_owned())).is_ok());
    }

    #[test]
    fn each_type_is_read_from_what_sqlite_keeps() {
        let micros = 1_609_459_200_000_000;
        for (ty, kept, value) in [
            (ColumnType::Boolean, Value::Integer(1), Value::Integer(1)),
            (ColumnType::Date, Value::Text("2021-01-01".to_owned()), Value::Date(18_628)),
            (
                ColumnType::Timestamp { zone: false, digits: 6 },
                Value::Text("2021-01-01 00:00:00".to_owned()),
                Value::Timestamp(micros),
            ),
            (ColumnType::Time, Value::Text("00:00:01.5".to_owned()), Value::Time(1_500_000)),
            (
                ColumnType::Uuid,
                Value::Text("00000000-0000-0000-0000-00000000000a".to_owned()),
                Value::Uuid([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 10]),
            ),
            (ColumnType::Json, Value::Text("{\"a\":1}".to_owned()), Value::Json("{\"a\":1}".to_owned())),
            (ColumnType::Bits, Value::Text("x0101".to_owned()), Value::Text("x0101".to_owned())),
            (ColumnType::Other("inet".into()), Value::Text("::1".into()), Value::Other("::1".into())),
            (ColumnType::Bytes { max: None }, Value::Blob(vec![0, 1]), Value::Blob(vec![0, 1])),
            (ColumnType::Real { bits: 64, special: false }, Value::Integer(3), Value::Real(3.0)),
        ] {
            let column = carried(&ty, Affinity::Numeric);
            assert_eq!(column.read(kept.clone()), Ok(value.clone()), "{ty}");
            assert!(column.write(value).is_ok(), "{ty}");
            assert_eq!(column.read(Value::Null), Ok(Value::Null));
            assert_eq!(column.write(Value::Null), Ok(Value::Null));
        }
        for (ty, kept) in [
            (ColumnType::Boolean, Value::Integer(2)),
            (ColumnType::Date, Value::Integer(18_628)),
            (ColumnType::Uuid, Value::Blob(vec![0; 16])),
            (ColumnType::Bytes { max: None }, Value::Text("text".to_owned())),
            (ColumnType::Json, Value::Text("{".to_owned())),
            (ColumnType::signed(64), Value::Real(0.5)),
            (TEXT, Value::Integer(5)),
        ] {
            let reason = carried(&ty, Affinity::Blob).read(kept.clone()).unwrap_err();
            assert!(reason.contains(&ty.to_string()) || !reason.is_empty(), "{ty}: {reason}");
        }
    }
}
