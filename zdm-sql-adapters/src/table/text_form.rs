//! Values as text, for databases that have no type for them. The forms are those of ISO 8601 and of PostgreSQL.

use super::{ColumnType, Interval, Value};

const MICROS_PER_SECOND: i64 = 1_000_000;
const MICROS_PER_DAY: i64 = 86_400 * MICROS_PER_SECOND;

impl Value {
    /// The value as text. `None` for NULL and bytes.
    ///
    /// ```
    /// use zdm_sql_adapters::table::{ColumnType, Value};
    ///
    /// let leap = Value::Timestamp(951_782_400_500_000);
    /// assert_eq!(leap.to_text().unwrap(), "2000-02-29 00:00:00.5");
    /// let timestamp = ColumnType::Timestamp { zone: false, digits: 6 };
    /// assert_eq!(timestamp.parse("2000-02-29T00:00:00.500Z").unwrap(), leap);
    /// ```
    pub fn to_text(&self) -> Option<String> {
        Some(match self {
            Self::Null | Self::Blob(_) => return None,
            Self::Integer(number) => number.to_string(),
            Self::Unsigned(number) => number.to_string(),
            Self::Real(real) => format!("{real:?}"),
            Self::Decimal(decimal) => decimal.to_string(),
            Self::Text(text) | Self::Json(text) | Self::Other(text) => text.clone(),
            Self::Date(i32::MIN) | Self::Timestamp(i64::MIN) => "-infinity".to_owned(),
            Self::Date(i32::MAX) | Self::Timestamp(i64::MAX) => "infinity".to_owned(),
            Self::Date(days) => date_text(i64::from(*days)),
            Self::Time(micros) => time_text(*micros),
            Self::Timestamp(micros) => {
                let (days, within) = (micros.div_euclid(MICROS_PER_DAY), micros.rem_euclid(MICROS_PER_DAY));
                let (date, time) = (date_text(days), time_text(within));
                // The era stands at the end.
                match date.strip_suffix(" BC") {
                    Some(date) => format!("{date} {time} BC"),
                    None => format!("{date} {time}"),
                }
            }
            Self::Interval(Interval { months, days, micros }) => {
                format!("{months} mons {days} days {}", time_text(*micros))
            }
            Self::Uuid(bytes) => {
                let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
                [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]].join("-")
            }
        })
    }
}

impl ColumnType {
    /// Reads a value of this type from text.
    ///
    /// # Errors
    /// A short reason, without the column's name.
    pub fn parse(&self, text: &str) -> Result<Value, String> {
        let wrong = |wanted: &str| format!("{:?} is no {wanted}", text.chars().take(64).collect::<String>());
        match self {
            Self::Boolean => match text.to_ascii_lowercase().as_str() {
                "1" | "t" | "true" => Ok(Value::Integer(1)),
                "0" | "f" | "false" => Ok(Value::Integer(0)),
                _ => Err(wrong("truth value")),
            },
            Self::Integer { .. } => {
                let number = text.parse().map(Value::Integer);
                number.or_else(|_| text.parse().map(Value::integer)).map_err(|_| wrong("integer"))
            }
            Self::Decimal { .. } => text.parse().map(Value::Decimal).map_err(|_| wrong("decimal")),
            Self::Real { .. } => text.parse().map(Value::Real).map_err(|_| wrong("real")),
            Self::Any | Self::Text { .. } | Self::Bits => Ok(Value::Text(text.to_owned())),
            Self::Bytes { .. } => Ok(Value::Blob(text.as_bytes().to_vec())),
            Self::Date => parse_date(text).map(Value::Date).ok_or_else(|| wrong("date")),
            Self::Time => parse_time(text).map(Value::Time).ok_or_else(|| wrong("time")),
            Self::Timestamp { .. } => {
                parse_timestamp(text).map(Value::Timestamp).ok_or_else(|| wrong("timestamp"))
            }
            Self::Interval => parse_interval(text).map(Value::Interval).ok_or_else(|| wrong("interval")),
            Self::Json => match serde_json::from_str::<serde::de::IgnoredAny>(text) {
                Ok(_) => Ok(Value::Json(text.to_owned())),
                Err(_) => Err(wrong("JSON document")),
            },
            Self::Uuid => parse_uuid(text).map(Value::Uuid).ok_or_else(|| wrong("UUID")),
            Self::Other(_) => Ok(Value::Other(text.to_owned())),
        }
    }
}

/// The year, month and day of a number of days since 1970-01-01, in the Gregorian calendar of all times.
///
/// Years are counted from March in eras of 400 years, so that the leap day is the last one of its year.
pub(crate) fn civil(days: i64) -> (i64, u32, u32) {
    let shifted = days + 719_468;
    let (era, of_era) = (shifted.div_euclid(146_097), shifted.rem_euclid(146_097));
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
    let year = era * 400 + year_of_era + i64::from(month <= 2);
    (year, u32::try_from(month).unwrap_or(1), u32::try_from(day).unwrap_or(1))
}

/// The inverse of [`civil`]. `None` when there is no such day.
pub(crate) fn days_of(year: i64, month: u32, day: u32) -> Option<i64> {
    if !(1..=12).contains(&month) || !(1..=31).contains(&day) || year.abs() > 10_000_000 {
        return None;
    }
    let (month, shifted) = (i64::from(month), if month <= 2 { year - 1 } else { year });
    let (era, year_of_era) = (shifted.div_euclid(400), shifted.rem_euclid(400));
    let from_march = if month > 2 { month - 3 } else { month + 9 };
    let of_year = (153 * from_march + 2) / 5 + i64::from(day) - 1;
    let of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + of_year;
    let days = era * 146_097 + of_era - 719_468;
    (civil(days) == (year, u32::try_from(month).ok()?, day)).then_some(days)
}

fn date_text(days: i64) -> String {
    let (year, month, day) = civil(days);
    if year > 0 {
        format!("{year:04}-{month:02}-{day:02}")
    } else {
        format!("{:04}-{month:02}-{day:02} BC", 1 - year)
    }
}

fn time_text(micros: i64) -> String {
    let sign = if micros < 0 { "-" } else { "" };
    let (seconds, fraction) = (micros.unsigned_abs() / 1_000_000, micros.unsigned_abs() % 1_000_000);
    let (hours, minutes, seconds) = (seconds / 3_600, seconds / 60 % 60, seconds % 60);
    let fraction = match fraction {
        0 => String::new(),
        fraction => format!(".{fraction:06}").trim_end_matches('0').to_owned(),
    };
    format!("{sign}{hours:02}:{minutes:02}:{seconds:02}{fraction}")
}

fn number<T: std::str::FromStr>(text: &str) -> Option<T> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok())?
}

fn era(text: &str) -> (&str, bool) {
    text.strip_suffix(" BC").map_or((text, false), |text| (text, true))
}

fn parse_days(text: &str, before_christ: bool) -> Option<i64> {
    let mut parts = text.split('-');
    let (year, month, day) = (number(parts.next()?)?, number(parts.next()?)?, number(parts.next()?)?);
    if parts.next().is_some() {
        return None;
    }
    days_of(if before_christ { 1_i64.checked_sub(year)? } else { year }, month, day)
}

fn parse_date(text: &str) -> Option<i32> {
    match text {
        "infinity" => Some(i32::MAX),
        "-infinity" => Some(i32::MIN),
        _ => {
            let (text, before_christ) = era(text);
            i32::try_from(parse_days(text, before_christ)?).ok()
        }
    }
}

fn parse_time(text: &str) -> Option<i64> {
    let (negative, text) = text.strip_prefix('-').map_or((false, text), |text| (true, text));
    let (clock, fraction) = text.split_once('.').unwrap_or((text, ""));
    let mut parts = clock.split(':');
    let (hours, minutes): (i64, i64) = (number(parts.next()?)?, number(parts.next()?)?);
    let seconds: i64 = parts.next().map_or(Some(0), number)?;
    // The end of a day is 24:00:00, and a leap second is written as one.
    if parts.next().is_some() || minutes > 59 || seconds > 60 || hours > 2_000_000_000 {
        return None;
    }
    // What is finer than a microsecond has no place in the value.
    if fraction.len() > 6 && fraction[6..].bytes().any(|digit| digit != b'0') {
        return None;
    }
    let fraction: i64 = match fraction.get(..fraction.len().min(6))? {
        "" => 0,
        digits => number::<i64>(digits)? * 10_i64.pow(6 - u32::try_from(digits.len()).ok()?),
    };
    let micros = ((hours * 60 + minutes) * 60 + seconds) * MICROS_PER_SECOND + fraction;
    Some(if negative { -micros } else { micros })
}

fn parse_timestamp(text: &str) -> Option<i64> {
    match text {
        "infinity" => return Some(i64::MAX),
        "-infinity" => return Some(i64::MIN),
        _ => {}
    }
    let (text, before_christ) = era(text);
    let (date, clock) = text.split_once([' ', 'T']).unwrap_or((text, "00:00:00"));
    let days = parse_days(date, before_christ)?;
    let (clock, offset) = match clock.find(['Z', 'z', '+', '-']) {
        Some(at) => (clock[..at].trim_end(), parse_offset(&clock[at..])?),
        None => (clock, 0),
    };
    days.checked_mul(MICROS_PER_DAY)?.checked_add(parse_time(clock)?)?.checked_sub(offset)
}

/// `Z`, `+HH`, `+HHMM`, `+HH:MM` or `+HH:MM:SS` in microseconds.
fn parse_offset(text: &str) -> Option<i64> {
    if text.eq_ignore_ascii_case("z") {
        return Some(0);
    }
    let (sign, digits) = text.split_at(1);
    let digits: String = digits.split(':').collect();
    if digits.is_empty() || digits.len() > 6 || digits.len() % 2 == 1 {
        return None;
    }
    let part = |at: usize| digits.get(at..at + 2).map_or(Some(0), number::<i64>);
    let seconds = (part(0)? * 60 + part(2)?) * 60 + part(4)?;
    Some(seconds * if sign == "-" { -MICROS_PER_SECOND } else { MICROS_PER_SECOND })
}

fn parse_interval(text: &str) -> Option<Interval> {
    let mut interval = Interval::default();
    let mut words = text.split_whitespace();
    while let Some(word) = words.next() {
        if word.contains(':') {
            // PostgreSQL writes the sign where the part before it is negative.
            interval.micros = parse_time(word.strip_prefix('+').unwrap_or(word))?;
            continue;
        }
        let count: i32 = word.parse().ok()?;
        match words.next()?.trim_end_matches('s') {
            "year" => interval.months = interval.months.checked_add(count.checked_mul(12)?)?,
            "mon" | "month" => interval.months = interval.months.checked_add(count)?,
            "day" => interval.days = interval.days.checked_add(count)?,
            _ => return None,
        }
    }
    Some(interval)
}

fn parse_uuid(text: &str) -> Option<[u8; 16]> {
    let digits: String = text.trim_matches(['{', '}']).chars().filter(|c| *c != '-').collect();
    if digits.len() != 32 || !digits.is_ascii() {
        return None;
    }
    let mut bytes = [0; 16];
    for (at, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&digits[at * 2..at * 2 + 2], 16).ok()?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn days_count_through_eras_and_leap_years() {
        for (days, text) in [
            (0, "1970-01-01"),
            (-1, "1969-12-31"),
            (11_016, "2000-02-29"),
            (-719_162, "0001-01-01"),
            (-719_163, "0001-12-31 BC"),
            (2_932_896, "9999-12-31"),
            (-2_440_588, "4714-11-24 BC"),
        ] {
            assert_eq!(date_text(days), text);
            assert_eq!(ColumnType::Date.parse(text), Ok(Value::Date(i32::try_from(days).unwrap())));
        }
        for text in ["2001-02-29", "2000-13-01", "2000-00-10", "2000-1", "x", "2000-01-01-01", "1900-02-29"] {
            assert!(ColumnType::Date.parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn offsets_and_fractions_are_read() {
        let timestamp = ColumnType::Timestamp { zone: true, digits: 6 };
        for text in [
            "2024-05-06 07:08:09.25",
            "2024-05-06T07:08:09.250Z",
            "2024-05-06 09:08:09.25+02",
            "2024-05-06 01:38:09.25-05:30",
        ] {
            assert_eq!(timestamp.parse(text), Ok(Value::Timestamp(1_714_979_289_250_000)), "{text}");
        }
        assert!(timestamp.parse("2024-05-06 07:08:09.0000001").is_err());
        assert!(timestamp.parse("2024-05-06 07:60:09").is_err());
        assert_eq!(ColumnType::Time.parse("-838:59:59"), Ok(Value::Time(-3_020_399_000_000)));
        let interval = Value::Interval(Interval { months: 14, days: -2, micros: 10_800_000_001 });
        assert_eq!(ColumnType::Interval.parse("1 year 2 mons -2 days +03:00:00.000001"), Ok(interval));
    }

    proptest! {
        #[test]
        fn what_was_written_is_read_again(days in -2_400_000..2_900_000_i32, micros in any::<i64>(), months in any::<i32>(), bytes: [u8; 16]) {
            let wide = micros / 8;
            for (ty, value) in [
                (ColumnType::Date, Value::Date(days)),
                (ColumnType::Time, Value::Time(micros % 3_020_399_000_000)),
                (ColumnType::Timestamp { zone: true, digits: 6 }, Value::Timestamp(wide / 8)),
                (ColumnType::Interval, Value::Interval(Interval { months, days, micros: wide })),
                (ColumnType::Uuid, Value::Uuid(bytes)),
            ] {
                let text = value.to_text().unwrap();
                prop_assert_eq!(ty.parse(&text), Ok(value), "{}", text);
            }
        }
    }
}
