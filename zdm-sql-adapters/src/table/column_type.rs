//! The types of columns in the words of no particular database, and which of them records can move between.

use std::fmt;

/// What the values of a column are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ColumnType {
    /// Whatever a row holds: SQLite's columns.
    Any,
    /// True or false.
    Boolean,
    /// Whole numbers of a range.
    Integer {
        /// The least value.
        min: i64,
        /// The greatest value.
        max: u64,
    },
    /// Decimal numbers.
    Decimal {
        /// How many digits at most; none for any number of them.
        precision: Option<u32>,
        /// How many of them behind the point at most; none for any number of them.
        scale: Option<u32>,
        /// Whether NaN and the infinities have a place.
        special: bool,
    },
    /// Floating point numbers.
    Real {
        /// 32 or 64.
        bits: u8,
        /// Whether NaN and the infinities have a place.
        special: bool,
    },
    /// Text.
    Text {
        /// How many characters at most.
        max: Option<u32>,
    },
    /// Bytes.
    Bytes {
        /// How many at most.
        max: Option<u32>,
    },
    /// Days.
    Date,
    /// Times of day, or spans.
    Time,
    /// Points in time.
    Timestamp {
        /// Whether they are known in UTC; else they are what a clock on some wall shows.
        zone: bool,
        /// How many digits of a second are kept, 0 to 6.
        digits: u8,
    },
    /// Spans of months, days and microseconds.
    Interval,
    /// JSON documents.
    Json,
    /// UUIDs.
    Uuid,
    /// Strings of bits, as text of 0 and 1.
    Bits,
    /// A type that only one database has, by its name there.
    Other(String),
}

impl ColumnType {
    /// A signed integer of so many bits, up to 64.
    pub const fn signed(bits: u32) -> Self {
        Self::Integer { min: i64::MIN >> (64 - bits), max: u64::MAX >> (65 - bits) }
    }

    /// An unsigned integer of so many bits, up to 64.
    pub const fn unsigned(bits: u32) -> Self {
        Self::Integer { min: 0, max: u64::MAX >> (64 - bits) }
    }
}

impl fmt::Display for ColumnType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any => f.write_str("anything"),
            Self::Boolean => f.write_str("boolean"),
            Self::Integer { min, max } => write!(f, "integer from {min} to {max}"),
            Self::Decimal { precision: Some(precision), scale, .. } => {
                write!(f, "decimal of {precision} digits, {} behind the point", scale.unwrap_or_default())
            }
            Self::Decimal { .. } => f.write_str("decimal"),
            Self::Real { bits, .. } => write!(f, "real of {bits} bits"),
            Self::Text { max: Some(max) } => write!(f, "text of at most {max} characters"),
            Self::Text { max: None } => f.write_str("text"),
            Self::Bytes { max: Some(max) } => write!(f, "at most {max} bytes"),
            Self::Bytes { max: None } => f.write_str("bytes"),
            Self::Date => f.write_str("date"),
            Self::Time => f.write_str("time"),
            Self::Timestamp { zone: true, digits } => {
                write!(f, "timestamp in UTC, {digits} digits of a second")
            }
            Self::Timestamp { zone: false, digits } => {
                write!(f, "timestamp without zone, {digits} digits of a second")
            }
            Self::Interval => f.write_str("interval"),
            Self::Json => f.write_str("JSON"),
            Self::Uuid => f.write_str("UUID"),
            Self::Bits => f.write_str("bits"),
            Self::Other(name) => f.write_str(name),
        }
    }
}

/// How values of one column get into another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fit {
    /// Both columns hold the same values.
    Exact,
    /// The new column holds every value of the old one, and more.
    Widened,
    /// The new column holds some values of the old one. Each value is looked at, and a record with one that
    /// does not fit is set aside with its error.
    Checked,
}

/// What records carry between two columns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pair {
    /// The type of the values of the records: that of the side that says more.
    pub ty: ColumnType,
    /// How they fit the new column.
    pub fit: Fit,
}

/// Which values records carry between an old and a new column. This is the whole table of type pairs.
///
/// | from | exact or widened into | checked into |
/// | --- | --- | --- |
/// | boolean | boolean, integer, decimal, text | |
/// | integer | a range that contains it, decimal with room, text | another range, boolean, decimal, real |
/// | decimal | decimal with room, text | narrower decimal, integer |
/// | real | real of as many bits or more, text | real of fewer bits or without NaN |
/// | text | text with room, bytes never | shorter text, and every type that is written as text |
/// | bytes | bytes with room | shorter bytes |
/// | date, time, interval, UUID | the same, text | |
/// | timestamp | as many digits and the same kind of zone, text | fewer digits, without zone where it had one (UTC is kept) |
/// | JSON | JSON, text | |
/// | bits | bits, text | |
/// | a type of one database | the same type of the same database with the same limits or none, text | |
/// | anything (SQLite) | anything | whatever the other side is |
///
/// ```
/// use zdm_sql_adapters::table::{ColumnType, Fit, pair};
///
/// let text = ColumnType::Text { max: None };
/// assert_eq!(pair(&ColumnType::Uuid, &text).unwrap().ty, ColumnType::Uuid);
/// assert_eq!(pair(&ColumnType::signed(32), &ColumnType::signed(64)).unwrap().fit, Fit::Widened);
/// assert_eq!(pair(&ColumnType::signed(64), &ColumnType::signed(32)).unwrap().fit, Fit::Checked);
/// assert!(pair(&ColumnType::Json, &ColumnType::Date).is_err());
/// ```
///
/// # Errors
/// Both types in words, when no value of the one is a value of the other.
pub fn pair(old: &ColumnType, new: &ColumnType) -> Result<Pair, String> {
    use ColumnType as Ty;
    let by = |ty: &ColumnType, all: bool| {
        Ok(Pair { ty: ty.clone(), fit: if all { Fit::Widened } else { Fit::Checked } })
    };
    if old == new {
        return Ok(Pair { ty: old.clone(), fit: Fit::Exact });
    }
    match (old, new) {
        (Ty::Any, other) => by(other, false),
        (other, Ty::Any) => by(other, true),
        (Ty::Boolean, Ty::Integer { min, max }) => by(&Ty::Boolean, *min <= 0 && *max >= 1),
        (Ty::Boolean, Ty::Decimal { .. }) => by(&Ty::Boolean, true),
        (Ty::Integer { .. }, Ty::Boolean) => by(&Ty::Boolean, false),
        (Ty::Integer { min, max }, Ty::Integer { min: least, max: greatest }) => {
            by(old, least <= min && max <= greatest)
        }
        (Ty::Integer { min, max }, Ty::Decimal { precision, scale, .. }) => {
            let digits = min.unsigned_abs().max(*max).checked_ilog10().unwrap_or_default() + 1;
            by(
                old,
                precision
                    .is_none_or(|precision| precision.saturating_sub(scale.unwrap_or_default()) >= digits),
            )
        }
        (Ty::Integer { .. }, Ty::Real { .. }) => by(old, false),
        (Ty::Decimal { .. }, Ty::Integer { .. }) => by(old, false),
        (
            Ty::Decimal { precision, scale, special },
            Ty::Decimal { precision: room, scale: behind, special: takes },
        ) => {
            let whole = |precision: &Option<u32>, scale: &Option<u32>| {
                Some((*precision)?.saturating_sub(scale.unwrap_or_default()))
            };
            let fits = |have: Option<u32>, room: Option<u32>| {
                room.is_none_or(|room| have.is_some_and(|have| have <= room))
            };
            let behind = if room.is_some() { Some(behind.unwrap_or_default()) } else { *behind };
            let all = fits(whole(precision, scale), whole(room, &behind)) && fits(*scale, behind);
            by(old, all && (*takes || !special || precision.is_some()))
        }
        (Ty::Real { bits, special }, Ty::Real { bits: room, special: takes }) => {
            by(old, bits <= room && (*takes || !special))
        }
        (Ty::Text { max: have }, Ty::Text { max: room }) => {
            by(old, room.is_none() || have.is_some_and(|have| Some(have) <= *room))
        }
        (Ty::Bytes { max: have }, Ty::Bytes { max: room }) => {
            by(old, room.is_none() || have.is_some_and(|have| Some(have) <= *room))
        }
        (Ty::Timestamp { zone, digits }, Ty::Timestamp { zone: kept, digits: room }) => {
            by(old, zone == kept && digits <= room)
        }
        // With the limits of the one and without any: `numeric(5,2)[]` into `numeric[]`.
        (Ty::Other(narrow), Ty::Other(wide))
            if narrow.strip_prefix(wide.as_str()).is_some_and(|limits| limits.starts_with('(')) =>
        {
            by(old, true)
        }
        // Every other type can be written as text, but for bytes, which need not be one.
        (Ty::Bytes { .. }, Ty::Text { .. }) | (Ty::Text { .. }, Ty::Bytes { .. }) => refused(old, new),
        (other, Ty::Text { max }) => by(other, max.is_none_or(|max| max >= longest(other))),
        (Ty::Text { .. }, Ty::Other(_)) => refused(old, new),
        (Ty::Text { .. }, other) => by(other, false),
        _ => refused(old, new),
    }
}

fn refused(old: &ColumnType, new: &ColumnType) -> Result<Pair, String> {
    Err(format!("no {old} is kept in a column of {new}"))
}

/// How many characters a value of the type has at most as text.
fn longest(ty: &ColumnType) -> u32 {
    match ty {
        ColumnType::Boolean => 1,
        ColumnType::Integer { .. } => 20,
        ColumnType::Decimal { precision: Some(precision), .. } => precision + 3,
        ColumnType::Real { .. } | ColumnType::Time => 25,
        ColumnType::Date => 16,
        ColumnType::Timestamp { .. } => 32,
        ColumnType::Uuid => 36,
        _ => u32::MAX,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decimal(precision: u32, scale: u32) -> ColumnType {
        ColumnType::Decimal { precision: Some(precision), scale: Some(scale), special: false }
    }

    #[test]
    fn ranges_of_integers() {
        assert_eq!(ColumnType::signed(8), ColumnType::Integer { min: -128, max: 127 });
        assert_eq!(
            ColumnType::signed(64),
            ColumnType::Integer { min: i64::MIN, max: i64::MAX.unsigned_abs() }
        );
        assert_eq!(ColumnType::unsigned(24), ColumnType::Integer { min: 0, max: 0xFF_FFFF });
        assert_eq!(ColumnType::unsigned(64), ColumnType::Integer { min: 0, max: u64::MAX });
    }

    #[test]
    fn each_pair_says_what_is_kept() {
        use ColumnType as Ty;
        let any_decimal = Ty::Decimal { precision: None, scale: None, special: true };
        let text = Ty::Text { max: None };
        let micro = |zone| Ty::Timestamp { zone, digits: 6 };
        for (old, new, ty, fit) in [
            (Ty::Boolean, Ty::signed(8), Ty::Boolean, Fit::Widened),
            (Ty::signed(8), Ty::Boolean, Ty::Boolean, Fit::Checked),
            (Ty::unsigned(64), Ty::signed(64), Ty::unsigned(64), Fit::Checked),
            (Ty::unsigned(64), decimal(20, 0), Ty::unsigned(64), Fit::Widened),
            (Ty::unsigned(64), decimal(20, 1), Ty::unsigned(64), Fit::Checked),
            (Ty::signed(32), any_decimal.clone(), Ty::signed(32), Fit::Widened),
            (decimal(10, 2), decimal(12, 3), decimal(10, 2), Fit::Widened),
            (decimal(10, 2), decimal(10, 3), decimal(10, 2), Fit::Checked),
            (any_decimal.clone(), decimal(65, 30), any_decimal.clone(), Fit::Checked),
            (decimal(10, 2), any_decimal.clone(), decimal(10, 2), Fit::Widened),
            (Ty::Text { max: Some(10) }, Ty::Text { max: Some(9) }, Ty::Text { max: Some(10) }, Fit::Checked),
            (text.clone(), Ty::Uuid, Ty::Uuid, Fit::Checked),
            (Ty::Uuid, text.clone(), Ty::Uuid, Fit::Widened),
            (micro(true), micro(false), micro(true), Fit::Checked),
            (Ty::Any, Ty::Date, Ty::Date, Fit::Checked),
            (Ty::Date, Ty::Any, Ty::Date, Fit::Widened),
            (Ty::Other("inet".into()), text.clone(), Ty::Other("inet".into()), Fit::Widened),
            (Ty::Other("t(5,2)".into()), Ty::Other("t".into()), Ty::Other("t(5,2)".into()), Fit::Widened),
            (
                Ty::Real { bits: 64, special: true },
                Ty::Real { bits: 64, special: false },
                Ty::Real { bits: 64, special: true },
                Fit::Checked,
            ),
        ] {
            assert_eq!(pair(&old, &new), Ok(Pair { ty, fit }), "{old} into {new}");
        }
        for (old, new) in [
            (Ty::Bytes { max: None }, text.clone()),
            (text, Ty::Bytes { max: None }),
            (Ty::Date, Ty::Time),
            (Ty::Other("inet".into()), Ty::Other("cidr".into())),
            (Ty::Other("t".into()), Ty::Other("t(5,2)".into())),
            (Ty::Other("t(6,2)".into()), Ty::Other("t(5,2)".into())),
            (Ty::Json, Ty::Uuid),
        ] {
            let error = pair(&old, &new).unwrap_err();
            assert!(error.contains(&old.to_string()) && error.contains(&new.to_string()), "{error}");
        }
    }
}
