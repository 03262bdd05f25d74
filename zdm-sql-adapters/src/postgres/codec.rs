//! Values of columns as they cross the wire, in PostgreSQL's binary form. Whatever the server would round,
//! cut or pad is refused here, because it would do so without an error.

use super::native::Native;
use super::numeric;
use crate::table::{ColumnType, Interval, Value, converted, keeps_order, same_values};

/// From 1970-01-01 to 2000-01-01.
const DAYS: i32 = 10_957;
const MICROS: i64 = DAYS as i64 * 86_400_000_000;

/// A column of a table whose records carry values of a type that may be another than the column's own.
#[derive(Clone, Debug)]
pub(super) struct Codec {
    pub(super) native: Native,
    pub(super) natural: ColumnType,
    /// What records carry; `None` for the column's own type.
    carried: Option<ColumnType>,
}

impl Codec {
    pub(super) fn new(native: Native, carried: Option<&ColumnType>) -> Self {
        let natural = native.natural();
        let carried = carried.filter(|carried| !same_values(&natural, carried)).cloned();
        Self { native, natural, carried }
    }

    /// Whether the order of what records carry is that of the column.
    pub(super) fn keeps_order(&self) -> bool {
        self.carried.as_ref().is_none_or(|carried| keeps_order(&self.natural, carried))
    }

    /// The value that a row holds.
    ///
    /// # Errors
    /// A short reason.
    pub(super) fn decode(&self, raw: Option<&[u8]>) -> Result<Value, String> {
        let Some(raw) = raw else { return Ok(Value::Null) };
        let value = decode(&self.native, raw)?;
        match &self.carried {
            None => Ok(value),
            Some(carried) => converted(value, carried),
        }
    }

    /// Appends the value with its length before it, as arrays and COPY have it.
    ///
    /// # Errors
    /// Why the column would hold something else. Then `out` is as it was.
    pub(super) fn encode(&self, value: &Value, out: &mut Vec<u8>) -> Result<(), String> {
        if matches!(value, Value::Null) {
            out.extend_from_slice(&(-1_i32).to_be_bytes());
            return Ok(());
        }
        let start = out.len();
        out.extend_from_slice(&[0; 4]);
        let encoded = match encode(&self.native, value, out) {
            Ok(true) => Ok(()),
            Ok(false) => converted(value.clone(), &self.natural).and_then(|value| {
                match encode(&self.native, &value, out)? {
                    true => Ok(()),
                    false => Err(format!("{value} is {}, which the column does not take", value.class())),
                }
            }),
            Err(reason) => Err(reason),
        };
        let length = i32::try_from(out.len() - start - 4).map_err(|_| "a value above 2 GiB".to_owned());
        match encoded.and(length) {
            Ok(length) => {
                out[start..start + 4].copy_from_slice(&length.to_be_bytes());
                Ok(())
            }
            Err(reason) => {
                out.truncate(start);
                Err(reason)
            }
        }
    }

    /// The value as SQL text, to compare the column with; it need not fit the column. `alone`: it is the
    /// whole key.
    ///
    /// # Errors
    /// When there is no such value.
    pub(super) fn literal(&self, value: &Value, alone: bool) -> Result<String, String> {
        let value = converted(value.clone(), &self.natural)?;
        let mut text = match (&self.native, &value) {
            (Native::Boolean, Value::Integer(0)) => "f".to_owned(),
            (Native::Boolean, Value::Integer(_)) => "t".to_owned(),
            (_, Value::Blob(bytes)) => {
                let mut hex = String::with_capacity(bytes.len() * 2 + 2);
                hex.push_str("\\x");
                for byte in bytes {
                    hex.push_str(&format!("{byte:02x}"));
                }
                hex
            }
            (_, Value::Null) => return Err("NULL".to_owned()),
            (_, value) => value.to_text().unwrap_or_default(),
        };
        if let Some(nul) = text.find('\0') {
            if !alone {
                return Err("a text with a NUL character, which PostgreSQL does not keep".to_owned());
            }
            // No text here lies between the one before the NUL and the whole one.
            text.truncate(nul);
        }
        let ty = if matches!(value, Value::Unsigned(_)) { "numeric" } else { self.native.bound() };
        Ok(format!("'{}'::{ty}", text.replace('\'', "''")))
    }
}

fn array<const N: usize>(raw: &[u8]) -> Result<[u8; N], String> {
    raw.try_into().map_err(|_| format!("a value of {} bytes, not of {N}", raw.len()))
}

fn text(raw: &[u8]) -> Result<String, String> {
    std::str::from_utf8(raw).map(str::to_owned).map_err(|_| "the text is not UTF-8".to_owned())
}

fn decode(native: &Native, raw: &[u8]) -> Result<Value, String> {
    Ok(match native {
        Native::Boolean => Value::Integer(i64::from(array::<1>(raw)?[0])),
        Native::Integer { bits: 16 } => Value::Integer(i64::from(i16::from_be_bytes(array(raw)?))),
        Native::Integer { bits: 32 } => Value::Integer(i64::from(i32::from_be_bytes(array(raw)?))),
        Native::Integer { .. } => Value::Integer(i64::from_be_bytes(array(raw)?)),
        Native::Oid => Value::Integer(i64::from(u32::from_be_bytes(array(raw)?))),
        Native::Numeric(_) => Value::Decimal(numeric::decode(raw)?),
        Native::Real { bits: 32 } => Value::Real(f64::from(f32::from_be_bytes(array(raw)?))),
        Native::Real { .. } => Value::Real(f64::from_be_bytes(array(raw)?)),
        Native::Text { .. } | Native::Name | Native::Loose { .. } | Native::Enum { .. } => {
            Value::Text(text(raw)?)
        }
        Native::Padded { .. } => {
            let mut text = text(raw)?;
            text.truncate(text.trim_end_matches(' ').len());
            Value::Text(text)
        }
        Native::Other { .. } => Value::Other(text(raw)?),
        Native::Bytes => Value::Blob(raw.to_vec()),
        Native::Date => match i32::from_be_bytes(array(raw)?) {
            infinite @ (i32::MIN | i32::MAX) => Value::Date(infinite),
            days => Value::Date(days.checked_add(DAYS).ok_or("a date out of range")?),
        },
        Native::Time { .. } => Value::Time(i64::from_be_bytes(array(raw)?)),
        Native::Timestamp { .. } => match i64::from_be_bytes(array(raw)?) {
            infinite @ (i64::MIN | i64::MAX) => Value::Timestamp(infinite),
            micros => {
                Value::Timestamp(micros.checked_add(MICROS).ok_or("a timestamp after the year 294246")?)
            }
        },
        Native::Interval { .. } => {
            let (micros, rest) = raw.split_at_checked(8).ok_or("the bytes are no interval")?;
            let (days, months) = rest.split_at_checked(4).ok_or("the bytes are no interval")?;
            Value::Interval(Interval {
                months: i32::from_be_bytes(array(months)?),
                days: i32::from_be_bytes(array(days)?),
                micros: i64::from_be_bytes(array(micros)?),
            })
        }
        Native::Json => Value::Json(text(raw)?),
        Native::Jsonb => match raw {
            [1, json @ ..] => Value::Json(text(json)?),
            _ => return Err("a form of jsonb that is not known".to_owned()),
        },
        Native::Uuid => Value::Uuid(array(raw)?),
        Native::Bits { .. } => {
            let (length, bytes) = raw.split_at_checked(4).ok_or("the bytes are no bit string")?;
            let length = usize::try_from(i32::from_be_bytes(array(length)?)).unwrap_or(usize::MAX);
            if length.div_ceil(8) != bytes.len() {
                return Err("the bytes are no bit string".to_owned());
            }
            let bit = |at: usize| if bytes[at / 8] >> (7 - at % 8) & 1 == 1 { '1' } else { '0' };
            Value::Text((0..length).map(bit).collect())
        }
    })
}

/// Appends a value of the column's own class. Whether it was one.
fn encode(native: &Native, value: &Value, out: &mut Vec<u8>) -> Result<bool, String> {
    match (native, value) {
        (Native::Boolean, Value::Integer(truth @ (0 | 1))) => out.push(u8::from(*truth == 1)),
        (Native::Boolean, Value::Integer(other)) => return Err(format!("{other} is neither 0 nor 1")),
        (Native::Integer { bits: 16 }, Value::Integer(integer)) => {
            let narrow = i16::try_from(*integer).map_err(|_| format!("{integer} does not fit smallint"))?;
            out.extend_from_slice(&narrow.to_be_bytes());
        }
        (Native::Integer { bits: 32 }, Value::Integer(integer)) => {
            let narrow = i32::try_from(*integer).map_err(|_| format!("{integer} does not fit integer"))?;
            out.extend_from_slice(&narrow.to_be_bytes());
        }
        (Native::Integer { .. }, Value::Integer(integer)) => out.extend_from_slice(&integer.to_be_bytes()),
        (Native::Integer { .. } | Native::Oid, Value::Unsigned(integer)) => {
            return Err(format!("{integer} does not fit the column"));
        }
        (Native::Oid, Value::Integer(integer)) => {
            let narrow = u32::try_from(*integer).map_err(|_| format!("{integer} does not fit oid"))?;
            out.extend_from_slice(&narrow.to_be_bytes());
        }
        (Native::Numeric(declared), Value::Decimal(decimal)) => {
            if let Some((precision, scale)) = declared {
                numeric::fits(decimal, *precision, *scale)?;
            }
            numeric::encode(decimal, out)?;
        }
        (Native::Real { bits: 32 }, Value::Real(real)) => {
            let narrow = *real as f32;
            if f64::from(narrow) != *real && !real.is_nan() {
                return Err(format!("{real:?} would be rounded"));
            }
            out.extend_from_slice(&narrow.to_be_bytes());
        }
        (Native::Real { .. }, Value::Real(real)) => out.extend_from_slice(&real.to_be_bytes()),
        (Native::Text { max }, Value::Text(text)) => {
            let most = max.map_or(usize::MAX, |max| max as usize);
            // A text in fewer bytes has no more characters.
            if text.len() > most && text.chars().count() > most {
                return Err(format!("a text of {} characters, where {most} have room", text.chars().count()));
            }
            checked(text, out)?;
        }
        (Native::Padded { length }, Value::Text(text)) => {
            if text.ends_with(' ') {
                return Err("char(n) would lose the spaces at the end".to_owned());
            }
            let most = length.map_or(usize::MAX, |length| length as usize);
            if text.len() > most && text.chars().count() > most {
                return Err(format!("a text of {} characters, where {most} have room", text.chars().count()));
            }
            checked(text, out)?;
        }
        (Native::Name, Value::Text(text)) => {
            if text.len() > 63 {
                return Err(format!("a name of {} bytes, where 63 have room", text.len()));
            }
            checked(text, out)?;
        }
        (Native::Loose { .. } | Native::Enum { .. }, Value::Text(text)) => checked(text, out)?,
        (Native::Other { .. }, Value::Other(text)) => checked(text, out)?,
        (Native::Bytes, Value::Blob(bytes)) => out.extend_from_slice(bytes),
        (Native::Date, Value::Date(infinite @ (i32::MIN | i32::MAX))) => {
            out.extend_from_slice(&infinite.to_be_bytes());
        }
        (Native::Date, Value::Date(days)) => {
            let days = days.checked_sub(DAYS).ok_or("a date out of range")?;
            out.extend_from_slice(&days.to_be_bytes());
        }
        (Native::Time { digits }, Value::Time(micros)) => {
            if !(0..=86_400_000_000).contains(micros) {
                return Err("a time that is not within a day; map it to an interval".to_owned());
            }
            whole(*micros, *digits)?;
            out.extend_from_slice(&micros.to_be_bytes());
        }
        (Native::Timestamp { .. }, Value::Timestamp(infinite @ (i64::MIN | i64::MAX))) => {
            out.extend_from_slice(&infinite.to_be_bytes());
        }
        (Native::Timestamp { digits, .. }, Value::Timestamp(micros)) => {
            whole(*micros, *digits)?;
            let micros = micros.checked_sub(MICROS).ok_or("a timestamp out of range")?;
            out.extend_from_slice(&micros.to_be_bytes());
        }
        (Native::Interval { digits }, Value::Interval(interval)) => {
            whole(interval.micros, *digits)?;
            out.extend_from_slice(&interval.micros.to_be_bytes());
            out.extend_from_slice(&interval.days.to_be_bytes());
            out.extend_from_slice(&interval.months.to_be_bytes());
        }
        (Native::Json, Value::Json(json)) => checked(json, out)?,
        (Native::Jsonb, Value::Json(json)) => {
            out.push(1);
            checked(json, out)?;
        }
        (Native::Uuid, Value::Uuid(uuid)) => out.extend_from_slice(uuid),
        (Native::Bits { length, varying }, Value::Text(text)) => {
            let most = length.map_or(usize::MAX, |length| length as usize);
            if text.bytes().any(|bit| !matches!(bit, b'0' | b'1'))
                || text.len() > most
                || !varying && text.len() != most
            {
                let shown: String = text.chars().take(70).collect();
                return Err(format!("{shown:?} is not {most} bits"));
            }
            let count = i32::try_from(text.len()).map_err(|_| "too many bits")?;
            out.extend_from_slice(&count.to_be_bytes());
            for byte in text.as_bytes().chunks(8) {
                let bits = byte.iter().enumerate().map(|(at, bit)| (bit - b'0') << (7 - at));
                out.push(bits.sum());
            }
        }
        _ => return Ok(false),
    }
    Ok(true)
}

fn checked(text: &str, out: &mut Vec<u8>) -> Result<(), String> {
    if text.as_bytes().contains(&0) {
        return Err("a text with a NUL character, which PostgreSQL does not keep".to_owned());
    }
    out.extend_from_slice(text.as_bytes());
    Ok(())
}

fn whole(micros: i64, digits: u8) -> Result<(), String> {
    let unit = 10_i64.pow(6_u32.saturating_sub(u32::from(digits)));
    if micros % unit == 0 {
        return Ok(());
    }
    Err(format!("a time with more than {digits} digits of a second, which would be rounded"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round_trip(codec: &Codec, value: &Value) -> Result<Value, String> {
        let mut raw = Vec::new();
        codec.encode(value, &mut raw)?;
        codec.decode(Some(&raw[4..]))
    }

    #[test]
    fn what_the_server_would_change_is_refused() {
        let text = |text: &str| Value::Text(text.to_owned());
        let decimal = |text: &str| Value::Decimal(text.parse().unwrap());
        for (native, good, bad) in [
            (Native::Boolean, Value::Integer(1), Value::Integer(2)),
            (Native::Integer { bits: 16 }, Value::Integer(-32_768), Value::Integer(32_768)),
            (Native::Integer { bits: 64 }, Value::Integer(i64::MIN), Value::Unsigned(u64::MAX)),
            (Native::Oid, Value::Integer(4_294_967_295), Value::Integer(-1)),
            (Native::Numeric(Some((4, 2))), decimal("99.99"), decimal("0.001")),
            (Native::Real { bits: 32 }, Value::Real(0.5), Value::Real(0.1)),
            (Native::Text { max: Some(3) }, text("äöü"), text("abc ")),
            (Native::Text { max: None }, text("\u{1}"), text("a\0")),
            (Native::Padded { length: Some(3) }, text(" a"), text("a ")),
            (Native::Time { digits: 0 }, Value::Time(86_400_000_000), Value::Time(1)),
            (Native::Time { digits: 6 }, Value::Time(0), Value::Time(-1)),
            (Native::Timestamp { zone: true, digits: 3 }, Value::Timestamp(-1_000), Value::Timestamp(1)),
            (Native::Bits { length: Some(3), varying: false }, text("010"), text("10")),
            (Native::Bits { length: None, varying: true }, text("010101010"), text("2")),
            (Native::Jsonb, Value::Json("{}".to_owned()), text("no json")),
        ] {
            let codec = Codec::new(native, None);
            assert_eq!(round_trip(&codec, &good), Ok(good));
            let mut out = vec![7];
            assert!(codec.encode(&bad, &mut out).is_err(), "{codec:?} takes {bad}");
            assert_eq!(out, [7]);
        }
    }

    #[test]
    fn infinities_stay_infinite_and_epochs_differ() {
        let date = Codec::new(Native::Date, None);
        let timestamp = Codec::new(Native::Timestamp { zone: false, digits: 6 }, None);
        for value in [i32::MIN, i32::MAX, 0, 10_957, -2_440_588] {
            assert_eq!(round_trip(&date, &Value::Date(value)), Ok(Value::Date(value)));
        }
        for value in [i64::MIN, i64::MAX, 0, 946_684_800_000_000, -1] {
            assert_eq!(round_trip(&timestamp, &Value::Timestamp(value)), Ok(Value::Timestamp(value)));
        }
        let mut raw = Vec::new();
        timestamp.encode(&Value::Timestamp(946_684_800_000_001), &mut raw).unwrap();
        assert_eq!(raw[4..], 1_i64.to_be_bytes());
    }

    #[test]
    fn records_may_carry_another_type_than_the_column() {
        let codec = Codec::new(Native::Text { max: None }, Some(&ColumnType::Uuid));
        assert_eq!(round_trip(&codec, &Value::Uuid([7; 16])), Ok(Value::Uuid([7; 16])));
        assert!(codec.decode(Some(b"no uuid")).is_err() && codec.keeps_order());
        let codec = Codec::new(Native::Numeric(None), Some(&ColumnType::signed(32)));
        assert_eq!(round_trip(&codec, &Value::Integer(-5)), Ok(Value::Integer(-5)));
        assert!(!Codec::new(Native::Text { max: None }, Some(&ColumnType::signed(8))).keeps_order());
    }

    #[test]
    fn literals_cannot_end_early() {
        let text = Codec::new(Native::Text { max: Some(1) }, None);
        assert_eq!(text.literal(&Value::Text("a'; --\\".to_owned()), true).unwrap(), "'a''; --\\'::text");
        let bytes = Codec::new(Native::Bytes, None);
        assert_eq!(bytes.literal(&Value::Blob(vec![0, 255]), true).unwrap(), "'\\x00ff'::bytea");
        let small = Codec::new(Native::Integer { bits: 16 }, None);
        assert_eq!(small.literal(&Value::Integer(70_000), true).unwrap(), "'70000'::bigint");
        assert_eq!(
            small.literal(&Value::Unsigned(u64::MAX), true).unwrap(),
            format!("'{}'::numeric", u64::MAX)
        );
        let nul = Value::Text("a\0b".to_owned());
        assert_eq!(text.literal(&nul, true).unwrap(), "'a'::text");
        assert!(text.literal(&nul, false).is_err());
    }
}
