//! Values of columns as they go over the wire, and back. Whatever the server would round, cut, pad or take
//! for something else is refused here, because it would do so without an error.

use super::native::Native;
use crate::table::{ColumnType, Decimal, Value, civil, days_of};

const MICROS_PER_SECOND: i64 = 1_000_000;
const MICROS_PER_DAY: i64 = 86_400 * MICROS_PER_SECOND;
/// 0001-01-01.
const FIRST_DAY: i64 = -719_162;
/// 9999-12-31.
const LAST_DAY: i64 = 2_932_896;
/// 838:59:59.999999, the longest TIME of MariaDB. That of MySQL ends a fraction earlier, which it says by itself.
const LONGEST_TIME: i64 = ((838 * 60 + 59) * 60 + 60) * MICROS_PER_SECOND - 1;

/// A column of a table whose records carry values of a type that may be another than the column's own.
#[derive(Clone, Debug)]
pub(super) struct Codec {
    pub(super) native: Native,
    natural: ColumnType,
    /// What records carry; `None` for the column's own type.
    carried: Option<ColumnType>,
}

impl Codec {
    pub(super) fn new(native: Native, carried: Option<&ColumnType>) -> Self {
        let natural = native.natural();
        let carried = carried.filter(|carried| !same_values(&natural, carried)).cloned();
        Self { native, natural, carried }
    }

    /// What records carry.
    pub(super) const fn carried(&self) -> &ColumnType {
        match &self.carried {
            Some(carried) => carried,
            None => &self.natural,
        }
    }

    /// Whether the order of what records carry is that of the column.
    pub(super) const fn keeps_order(&self) -> bool {
        use ColumnType as Ty;
        match (&self.natural, self.carried()) {
            (_, _) if self.carried.is_none() => true,
            (Ty::Integer { .. } | Ty::Boolean | Ty::Real { .. }, Ty::Integer { .. } | Ty::Boolean | Ty::Real { .. })
            | (Ty::Integer { .. } | Ty::Boolean, Ty::Decimal { .. })
            | (Ty::Decimal { .. }, Ty::Decimal { .. })
            // In their canonical form these texts are in the order of their values.
            | (Ty::Text { .. }, Ty::Uuid | Ty::Bits)
            | (Ty::Uuid | Ty::Bits, Ty::Text { .. }) => true,
            _ => false,
        }
    }

    /// The value that a row holds.
    ///
    /// # Errors
    /// A short reason.
    pub(super) fn decode(&self, raw: Option<&[u8]>) -> Result<Value, String> {
        let Some(raw) = raw else { return Ok(Value::Null) };
        let value = self.native.decode(raw)?;
        match &self.carried {
            None => Ok(value),
            Some(carried) => converted(value, carried),
        }
    }

    /// The value as a parameter: NULL, an integer, a float, a text or bytes.
    ///
    /// # Errors
    /// Why the column would hold something else.
    pub(super) fn encode(&self, value: Value) -> Result<Value, String> {
        match value {
            Value::Null => Ok(Value::Null),
            value => self.native.encode(converted(value, &self.natural)?),
        }
    }
}

/// Whether values of two types are of the same class, so that nothing is to be converted.
fn same_values(left: &ColumnType, right: &ColumnType) -> bool {
    use ColumnType as Ty;
    match (left, right) {
        (Ty::Integer { .. } | Ty::Boolean, Ty::Integer { .. } | Ty::Boolean) => true,
        (_, Ty::Any) => true,
        (Ty::Other(left), Ty::Other(right)) => left == right,
        (left, right) => std::mem::discriminant(left) == std::mem::discriminant(right),
    }
}

/// The same value as one of another type.
fn converted(value: Value, ty: &ColumnType) -> Result<Value, String> {
    use ColumnType as Ty;
    match (&value, ty) {
        (Value::Null, _)
        | (_, Ty::Any)
        | (Value::Integer(_) | Value::Unsigned(_), Ty::Integer { .. } | Ty::Boolean)
        | (Value::Real(_), Ty::Real { .. })
        | (Value::Decimal(_), Ty::Decimal { .. })
        | (Value::Text(_), Ty::Text { .. } | Ty::Bits)
        | (Value::Blob(_), Ty::Bytes { .. })
        | (Value::Date(_), Ty::Date)
        | (Value::Time(_), Ty::Time)
        | (Value::Timestamp(_), Ty::Timestamp { .. })
        | (Value::Interval(_), Ty::Interval)
        | (Value::Json(_), Ty::Json)
        | (Value::Uuid(_), Ty::Uuid)
        | (Value::Other(_), Ty::Other(_)) => Ok(value),
        (Value::Integer(integer), Ty::Real { .. }) => {
            let real = *integer as f64;
            let same = real as i128 == i128::from(*integer);
            if same { Ok(Value::Real(real)) } else { Err(format!("{integer} is no float without loss")) }
        }
        (Value::Real(real), Ty::Integer { .. } | Ty::Boolean) => {
            let whole = real.trunc() == *real && real.abs() < 9.3e18;
            let integer = *real as i128;
            match i64::try_from(integer) {
                Ok(integer) if whole => Ok(Value::Integer(integer)),
                _ => Err(format!("{real:?} is no integer")),
            }
        }
        (Value::Decimal(decimal), Ty::Integer { .. } | Ty::Boolean) => {
            let text = decimal.as_str();
            let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
            if fraction.bytes().any(|digit| digit != b'0') {
                return Err(format!("{decimal} is no integer"));
            }
            ty.parse(whole)
        }
        (Value::Blob(_), _) => Err(format!("{value} is no {ty}")),
        (_, Ty::Bytes { .. }) => Err(format!("{value} is {}, not {ty}", value.class())),
        (_, Ty::Text { .. }) => Ok(value.to_text().map_or(Value::Null, Value::Text)),
        (Value::Text(text) | Value::Json(text), ty) => ty.parse(text),
        (Value::Integer(_) | Value::Unsigned(_), Ty::Decimal { .. }) => {
            value.to_text().map_or_else(|| Err("no number".to_owned()), |text| ty.parse(&text))
        }
        _ => Err(format!("{value} is {}, not {ty}", value.class())),
    }
}

impl Native {
    fn decode(&self, raw: &[u8]) -> Result<Value, String> {
        let text = || {
            let text = std::str::from_utf8(raw).map_err(|_| "the text is not UTF-8".to_owned())?;
            Ok::<_, String>(text.to_owned())
        };
        match self {
            Self::Integer { unsigned, .. } => {
                let mut bytes = [0; 8];
                let Some(place) = bytes.get_mut(..raw.len()).filter(|place| !place.is_empty()) else {
                    return Err(format!("an integer of {} bytes", raw.len()));
                };
                place.copy_from_slice(raw);
                let number = u64::from_le_bytes(bytes);
                if *unsigned {
                    return Ok(Value::integer(number));
                }
                let shift = 64 - 8 * u32::try_from(raw.len()).unwrap_or(8);
                Ok(Value::Integer((number << shift).cast_signed() >> shift))
            }
            Self::Year => match raw {
                [low, high] => Ok(Value::Integer(i64::from(u16::from_le_bytes([*low, *high])))),
                _ => Err(format!("a year of {} bytes", raw.len())),
            },
            Self::Real { .. } => match raw.len() {
                4 => Ok(Value::Real(f64::from(f32::from_le_bytes(array(raw)?)))),
                _ => Ok(Value::Real(f64::from_le_bytes(array(raw)?))),
            },
            Self::Decimal { .. } => text()?
                .parse()
                .map(Value::Decimal)
                .map_err(|error: crate::table::NotDecimal| error.to_string()),
            Self::Text { .. } | Self::Enum(_) | Self::Set(_) => text().map(Value::Text),
            Self::Bytes { .. } => Ok(Value::Blob(raw.to_vec())),
            Self::Json => text().map(Value::Json),
            Self::Address(_) | Self::Other(_) => text().map(Value::Other),
            Self::Uuid => ColumnType::Uuid.parse(&text()?),
            Self::Bit { length } => {
                let number = raw.iter().fold(0_u64, |number, byte| number << 8 | u64::from(*byte));
                Ok(Value::Text(format!("{number:0>width$b}", width = *length as usize)))
            }
            Self::Date => {
                let days = day(raw)?;
                i32::try_from(days).map(Value::Date).map_err(|_| "a date out of range".to_owned())
            }
            Self::Datetime { .. } | Self::Timestamp { .. } => {
                let (days, within) = (day(raw)?, raw.get(5..).unwrap_or_default());
                let micros = match within {
                    [] => 0,
                    [hours, minutes, seconds, fraction @ ..] => clock(*hours, *minutes, *seconds, fraction)?,
                    _ => return Err("a timestamp that is cut off".to_owned()),
                };
                Ok(Value::Timestamp(days * MICROS_PER_DAY + micros))
            }
            Self::Time { .. } => match raw {
                [0] => Ok(Value::Time(0)),
                [_, negative, a, b, c, d, hours, minutes, seconds, fraction @ ..] => {
                    let days = i64::from(u32::from_le_bytes([*a, *b, *c, *d]));
                    let micros = days * MICROS_PER_DAY + clock(*hours, *minutes, *seconds, fraction)?;
                    Ok(Value::Time(if *negative == 1 { -micros } else { micros }))
                }
                _ => Err("a time that is cut off".to_owned()),
            },
        }
    }

    fn encode(&self, value: Value) -> Result<Value, String> {
        match (self, value) {
            (Self::Integer { bits, unsigned, .. }, value @ (Value::Integer(_) | Value::Unsigned(_))) => {
                let number = match &value {
                    Value::Unsigned(number) => i128::from(*number),
                    Value::Integer(number) => i128::from(*number),
                    _ => 0,
                };
                let (least, greatest) = if *unsigned {
                    (0, (1_i128 << bits) - 1)
                } else {
                    (-(1_i128 << (bits - 1)), (1_i128 << (bits - 1)) - 1)
                };
                if (least..=greatest).contains(&number) {
                    Ok(value)
                } else {
                    Err(format!("{number} does not lie between {least} and {greatest}"))
                }
            }
            // Smaller numbers would be taken for years of two digits.
            (Self::Year, Value::Integer(year @ (0 | 1901..=2155))) => Ok(Value::Integer(year)),
            (Self::Year, value) => Err(format!("{value} is no year: 0, or from 1901 to 2155")),
            (Self::Decimal { precision, scale, unsigned }, Value::Decimal(decimal)) => {
                fits(&decimal, *precision, *scale, *unsigned)?;
                Ok(Value::Text(decimal.as_str().to_owned()))
            }
            (Self::Real { bits, unsigned, digits }, Value::Real(real)) => {
                if !real.is_finite() {
                    return Err(format!(
                        "{real:?} has no place in a MySQL column; map it to NULL or a number"
                    ));
                }
                if *unsigned && real < 0.0 {
                    return Err(format!("{real:?} is negative"));
                }
                let narrow = *bits == 64 || f64::from(real as f32) == real;
                let rounded = digits.is_none_or(|digits| {
                    let digits = digits as usize;
                    format!("{real:.digits$}").parse::<f64>().is_ok_and(|rounded| {
                        rounded == real || *bits == 32 && f64::from(rounded as f32) == real
                    })
                });
                if narrow && rounded {
                    Ok(Value::Real(real))
                } else {
                    Err(format!("{real:?} would be rounded"))
                }
            }
            (Self::Text { fixed, max, in_bytes, utf8 }, Value::Text(text)) => {
                if *fixed && text.ends_with(' ') {
                    return Err("CHAR would lose the spaces at the end".to_owned());
                }
                // A text in fewer bytes has no more characters.
                if text.len() as u64 > *max {
                    let length =
                        if *in_bytes && *utf8 { text.len() as u64 } else { text.chars().count() as u64 };
                    if length > *max {
                        let unit = if *in_bytes { "bytes" } else { "characters" };
                        return Err(format!("a text of {length} {unit}, where {max} have room"));
                    }
                }
                Ok(Value::Text(text))
            }
            (Self::Bytes { fixed, max }, Value::Blob(bytes)) => {
                let length = bytes.len() as u64;
                if length > *max {
                    return Err(format!("{length} bytes, where {max} have room"));
                }
                if *fixed && length < *max {
                    return Err(format!("{length} bytes, which BINARY({max}) would fill up with zeros"));
                }
                Ok(Value::Blob(bytes))
            }
            (Self::Date, Value::Date(days)) => {
                in_range(i64::from(days))?;
                Ok(Value::Text(point(i64::from(days), None)))
            }
            (Self::Datetime { digits }, Value::Timestamp(micros)) => {
                in_range(micros.div_euclid(MICROS_PER_DAY))?;
                whole(micros, *digits)?;
                Ok(Value::Text(moment(micros)))
            }
            (Self::Timestamp { digits }, Value::Timestamp(micros)) => {
                in_range(micros.div_euclid(MICROS_PER_DAY))?;
                whole(micros, *digits)?;
                if micros < MICROS_PER_SECOND {
                    return Err("TIMESTAMP begins at 1970-01-01 00:00:01".to_owned());
                }
                Ok(Value::Text(moment(micros)))
            }
            (Self::Time { digits }, Value::Time(micros)) => {
                if micros.abs() > LONGEST_TIME {
                    return Err("TIME ends at 838:59:59".to_owned());
                }
                whole(micros, *digits)?;
                text_of(&Value::Time(micros))
            }
            (Self::Bit { length }, Value::Text(text)) => {
                let bits = text.bytes().all(|bit| matches!(bit, b'0' | b'1'));
                if !bits || text.len() != *length as usize {
                    return Err(format!(
                        "{:?} is not {length} bits",
                        text.chars().take(70).collect::<String>()
                    ));
                }
                u64::from_str_radix(&text, 2).map(Value::integer).map_err(|error| error.to_string())
            }
            // The server would take the number of a member for the member.
            (Self::Enum(members), Value::Text(text)) => {
                if members.contains(&text) {
                    Ok(Value::Text(text))
                } else {
                    Err(format!("{text:?} is no member"))
                }
            }
            (Self::Set(members), Value::Text(text)) => {
                let mut left = members.iter();
                if text.is_empty() || text.split(',').all(|member| left.any(|own| own == member)) {
                    return Ok(Value::Text(text));
                }
                Err(format!("{text:?} is no set of members in the order of their declaration"))
            }
            (Self::Json, Value::Json(text)) => Ok(Value::Text(text)),
            (Self::Uuid, Value::Uuid(uuid)) => text_of(&Value::Uuid(uuid)),
            (Self::Address(_), Value::Other(text)) => Ok(Value::Text(text)),
            (_, value) => Err(format!("{value} is {}, which the column does not take", value.class())),
        }
    }
}

fn array<const N: usize>(raw: &[u8]) -> Result<[u8; N], String> {
    raw.try_into().map_err(|_| format!("a number of {} bytes", raw.len()))
}

fn moment(micros: i64) -> String {
    point(micros.div_euclid(MICROS_PER_DAY), Some(micros.rem_euclid(MICROS_PER_DAY)))
}

/// A day, and a time of it, as text. Every row of many tables has such columns, so it takes one piece of
/// memory and no formatter.
fn point(days: i64, within: Option<i64>) -> String {
    fn put(text: &mut String, number: i64, digits: u32) {
        for power in (0..digits).rev() {
            let digit = u32::try_from(number / 10_i64.pow(power) % 10).unwrap_or_default();
            text.extend(char::from_digit(digit, 10));
        }
    }
    let (year, month, day) = civil(days);
    let mut text = String::with_capacity(26);
    put(&mut text, year, 4);
    text.push('-');
    put(&mut text, i64::from(month), 2);
    text.push('-');
    put(&mut text, i64::from(day), 2);
    if let Some(micros) = within {
        let seconds = micros / MICROS_PER_SECOND;
        for (mark, number) in [(' ', seconds / 3_600), (':', seconds / 60 % 60), (':', seconds % 60)] {
            text.push(mark);
            put(&mut text, number, 2);
        }
        if micros % MICROS_PER_SECOND > 0 {
            text.push('.');
            put(&mut text, micros % MICROS_PER_SECOND, 6);
        }
    }
    text
}

fn text_of(value: &Value) -> Result<Value, String> {
    value.to_text().map(Value::Text).ok_or_else(|| "no text".to_owned())
}

/// Days since 1970-01-01 of a date on the wire: its length, year, month, day.
fn day(raw: &[u8]) -> Result<i64, String> {
    const ZERO: &str = "a zero date, which is no date; give it one, or NULL";
    match raw {
        [_, low, high, month, day, ..] => {
            let year = i64::from(u16::from_le_bytes([*low, *high]));
            days_of(year, u32::from(*month), u32::from(*day)).ok_or_else(|| ZERO.to_owned())
        }
        _ => Err(ZERO.to_owned()),
    }
}

fn clock(hours: u8, minutes: u8, seconds: u8, fraction: &[u8]) -> Result<i64, String> {
    let fraction = match fraction {
        [] => 0,
        _ => u32::from_le_bytes(array(fraction)?),
    };
    let seconds = (i64::from(hours) * 60 + i64::from(minutes)) * 60 + i64::from(seconds);
    Ok(seconds * MICROS_PER_SECOND + i64::from(fraction))
}

fn in_range(days: i64) -> Result<(), String> {
    if (FIRST_DAY..=LAST_DAY).contains(&days) {
        return Ok(());
    }
    let (year, _, _) = civil(days);
    Err(format!("the year {year} does not lie between 1 and 9999"))
}

fn whole(micros: i64, digits: u8) -> Result<(), String> {
    let unit = 10_i64.pow(6_u32.saturating_sub(u32::from(digits)));
    if micros % unit == 0 {
        return Ok(());
    }
    Err(format!("a time with more than {digits} digits of a second, which would be rounded"))
}

fn fits(decimal: &Decimal, precision: u32, scale: u32, unsigned: bool) -> Result<(), String> {
    let text = decimal.as_str();
    if !decimal.is_finite() {
        return Err(format!("{text} has no place in a MySQL column"));
    }
    let (negative, text) = text.strip_prefix('-').map_or((false, text), |text| (true, text));
    let (before, behind) = text.split_once('.').unwrap_or((text, ""));
    let (before, behind) = (before.trim_start_matches('0').len(), behind.trim_end_matches('0').len());
    if before > (precision.saturating_sub(scale)) as usize || behind > scale as usize {
        return Err(format!("{decimal} does not fit DECIMAL({precision},{scale})"));
    }
    if unsigned && negative {
        return Err(format!("{decimal} is negative"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_server_would_change_is_refused() {
        let text = |text: &str| Value::Text(text.to_owned());
        let decimal = |text: &str| Value::Decimal(text.parse().unwrap());
        let tiny = Native::Integer { bits: 8, unsigned: false, boolean: false };
        let price = Native::Decimal { precision: 5, scale: 2, unsigned: true };
        let char3 = Native::Text { fixed: true, max: 3, in_bytes: false, utf8: true };
        let tinytext = Native::Text { fixed: false, max: 4, in_bytes: true, utf8: true };
        let pair = Native::Bytes { fixed: true, max: 2 };
        let colors = vec!["red".to_owned(), "blue".to_owned()];
        for (native, good, bad) in [
            (&tiny, Value::Integer(-128), Value::Integer(128)),
            (&price, decimal("999.990"), decimal("1.234")),
            (&price, decimal("0"), decimal("1000")),
            (&price, decimal("1"), decimal("-1")),
            (&Native::Real { bits: 32, unsigned: false, digits: None }, Value::Real(0.5), Value::Real(0.1)),
            (
                &Native::Real { bits: 64, unsigned: false, digits: None },
                Value::Real(0.1),
                Value::Real(f64::NAN),
            ),
            (
                &Native::Real { bits: 64, unsigned: false, digits: Some(1) },
                Value::Real(0.1),
                Value::Real(0.12),
            ),
            (&char3, text("äöü"), text("abcd")),
            (&char3, text(" a"), text("a ")),
            (&tinytext, text("äö"), text("äöu")),
            (&pair, Value::Blob(vec![1, 2]), Value::Blob(vec![1])),
            (&Native::Date, Value::Date(0), Value::Date(i32::MAX)),
            (&Native::Date, Value::Date(-719_162), Value::Date(-719_163)),
            (&Native::Datetime { digits: 3 }, Value::Timestamp(-1_000), Value::Timestamp(1)),
            (&Native::Timestamp { digits: 6 }, Value::Timestamp(1_000_000), Value::Timestamp(0)),
            (&Native::Time { digits: 6 }, Value::Time(-LONGEST_TIME), Value::Time(LONGEST_TIME + 1)),
            (&Native::Year, Value::Integer(1901), Value::Integer(99)),
            (&Native::Bit { length: 3 }, text("010"), text("10")),
            (&Native::Enum(colors.clone()), text("red"), text("1")),
            (&Native::Set(colors), text("red,blue"), text("blue,red")),
        ] {
            let codec = Codec::new(native.clone(), None);
            assert!(codec.encode(good.clone()).is_ok(), "{native:?} takes {good}");
            assert!(codec.encode(bad.clone()).is_err(), "{native:?} takes {bad}");
        }
    }

    #[test]
    fn points_in_time_are_written_as_text() {
        for (micros, text) in [
            (0, "1970-01-01 00:00:00"),
            (-1, "1969-12-31 23:59:59.999999"),
            (951_782_400_500_000, "2000-02-29 00:00:00.500000"),
            (FIRST_DAY * MICROS_PER_DAY, "0001-01-01 00:00:00"),
            ((LAST_DAY + 1) * MICROS_PER_DAY - 1, "9999-12-31 23:59:59.999999"),
        ] {
            assert_eq!(moment(micros), text);
            assert_eq!(point(micros.div_euclid(MICROS_PER_DAY), None), text[..10]);
        }
    }

    #[test]
    fn records_may_carry_another_type_than_the_column() {
        let words = Native::Text { fixed: false, max: 100, in_bytes: false, utf8: true };
        let codec = Codec::new(words.clone(), Some(&ColumnType::Uuid));
        assert_eq!(
            codec.decode(Some(b"00000000-0000-0000-0000-0000000000ff")).unwrap(),
            Value::Uuid({
                let mut bytes = [0; 16];
                bytes[15] = 0xFF;
                bytes
            })
        );
        assert_eq!(
            codec.encode(Value::Uuid([0; 16])).unwrap(),
            Value::Text("00000000-0000-0000-0000-000000000000".to_owned())
        );
        assert!(codec.decode(Some(b"no uuid")).is_err());
        let whole = Native::Decimal { precision: 20, scale: 2, unsigned: false };
        let codec = Codec::new(whole, Some(&ColumnType::signed(32)));
        assert_eq!(codec.decode(Some(b"5.00")).unwrap(), Value::Integer(5));
        assert!(codec.decode(Some(b"5.50")).is_err());
        assert_eq!(codec.encode(Value::Integer(7)).unwrap(), Value::Text("7".to_owned()));
        let real = Native::Real { bits: 64, unsigned: false, digits: None };
        assert!(Codec::new(real, None).encode(Value::Integer((1 << 53) + 1)).is_err());
        assert!(!Codec::new(words, Some(&ColumnType::signed(8))).keeps_order());
    }
}
