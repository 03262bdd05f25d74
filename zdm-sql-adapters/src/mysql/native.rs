//! The types of columns that MySQL and MariaDB have.

use crate::table::ColumnType;

/// What a column keeps, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Native {
    Integer {
        bits: u32,
        unsigned: bool,
        /// `TINYINT(1)`, which stands for a truth value.
        boolean: bool,
    },
    Decimal {
        precision: u32,
        scale: u32,
        unsigned: bool,
    },
    /// 32 or 64 bits; with `FLOAT(7,4)` rounded to so many digits.
    Real {
        bits: u8,
        unsigned: bool,
        digits: Option<u32>,
    },
    Text {
        /// `CHAR`, which loses spaces at the end.
        fixed: bool,
        /// Characters for `CHAR` and `VARCHAR`, bytes for the `TEXT` types.
        max: u64,
        in_bytes: bool,
        utf8: bool,
    },
    Bytes {
        /// `BINARY`, which fills up with zeros.
        fixed: bool,
        max: u64,
    },
    Date,
    Time {
        digits: u8,
    },
    Datetime {
        digits: u8,
    },
    Timestamp {
        digits: u8,
    },
    Year,
    Bit {
        length: u32,
    },
    Json,
    Enum(Vec<String>),
    Set(Vec<String>),
    Uuid,
    /// `INET4`, `INET6`.
    Address(String),
    /// What cannot be carried.
    Other(String),
}

/// What `information_schema` says about the type of a column.
#[derive(Clone, Debug, Default)]
pub(super) struct Declared {
    /// `int(10) unsigned`.
    pub(super) column_type: String,
    /// `int`.
    pub(super) data_type: String,
    pub(super) characters: Option<u64>,
    pub(super) octets: Option<u64>,
    pub(super) precision: Option<u32>,
    pub(super) scale: Option<u32>,
    pub(super) time_digits: Option<u32>,
    pub(super) charset: Option<String>,
    /// MariaDB's JSON: a text that a check constraint keeps valid.
    pub(super) checked_json: bool,
}

impl Native {
    pub(super) fn of(declared: &Declared) -> Self {
        let column_type = declared.column_type.to_ascii_lowercase();
        let unsigned = column_type.contains("unsigned");
        let integer = |bits| Self::Integer {
            bits,
            unsigned,
            boolean: bits == 8 && !unsigned && column_type.starts_with("tinyint(1)"),
        };
        let digits = u8::try_from(declared.time_digits.unwrap_or_default()).unwrap_or(6);
        let utf8 = matches!(declared.charset.as_deref(), Some("utf8mb4" | "utf8mb3" | "utf8"));
        let real = |bits| Self::Real { bits, unsigned, digits: declared.scale };
        match declared.data_type.to_ascii_lowercase().as_str() {
            "tinyint" => integer(8),
            "smallint" => integer(16),
            "mediumint" => integer(24),
            "int" => integer(32),
            "bigint" => integer(64),
            "decimal" => Self::Decimal {
                precision: declared.precision.unwrap_or(10),
                scale: declared.scale.unwrap_or_default(),
                unsigned,
            },
            "float" => real(32),
            "double" => real(64),
            _ if declared.checked_json => Self::Json,
            kind @ ("char" | "varchar") => Self::Text {
                fixed: kind == "char",
                max: declared.characters.unwrap_or_default(),
                in_bytes: false,
                utf8,
            },
            "tinytext" | "text" | "mediumtext" | "longtext" => Self::Text {
                fixed: false,
                max: declared.octets.unwrap_or(u64::from(u16::MAX)),
                in_bytes: true,
                utf8,
            },
            kind @ ("binary" | "varbinary" | "tinyblob" | "blob" | "mediumblob" | "longblob") => {
                Self::Bytes {
                    fixed: kind == "binary",
                    max: declared.octets.or(declared.characters).unwrap_or(u64::from(u16::MAX)),
                }
            }
            "date" => Self::Date,
            "time" => Self::Time { digits },
            "datetime" => Self::Datetime { digits },
            "timestamp" => Self::Timestamp { digits },
            "year" => Self::Year,
            "bit" => Self::Bit { length: declared.precision.unwrap_or(1) },
            "json" => Self::Json,
            "enum" => Self::Enum(members(&declared.column_type)),
            "set" => Self::Set(members(&declared.column_type)),
            "uuid" => Self::Uuid,
            kind @ ("inet4" | "inet6") => Self::Address(kind.to_owned()),
            other => Self::Other(other.to_owned()),
        }
    }

    /// The type of the values that the column has by itself.
    pub(super) fn natural(&self) -> ColumnType {
        let limit = |max: u64| u32::try_from(max).ok().filter(|max| *max < u32::MAX);
        let longest = |members: &[String]| members.iter().map(|member| member.chars().count() as u64).max();
        match self {
            Self::Integer { boolean: true, .. } => ColumnType::Boolean,
            Self::Integer { bits, unsigned: true, .. } => ColumnType::unsigned(*bits),
            Self::Integer { bits, .. } => ColumnType::signed(*bits),
            Self::Decimal { precision, scale, .. } => {
                ColumnType::Decimal { precision: Some(*precision), scale: Some(*scale), special: false }
            }
            Self::Real { bits, .. } => ColumnType::Real { bits: *bits, special: false },
            Self::Text { max, .. } => ColumnType::Text { max: limit(*max) },
            Self::Bytes { max, .. } => ColumnType::Bytes { max: limit(*max) },
            Self::Date => ColumnType::Date,
            Self::Time { .. } => ColumnType::Time,
            Self::Datetime { digits } => ColumnType::Timestamp { zone: false, digits: *digits },
            Self::Timestamp { digits } => ColumnType::Timestamp { zone: true, digits: *digits },
            Self::Year => ColumnType::Integer { min: 0, max: 2155 },
            Self::Bit { .. } => ColumnType::Bits,
            Self::Json => ColumnType::Json,
            Self::Enum(members) => ColumnType::Text { max: limit(longest(members).unwrap_or_default()) },
            Self::Set(members) => {
                let all: u64 = members.iter().map(|member| member.chars().count() as u64 + 1).sum();
                ColumnType::Text { max: limit(all.saturating_sub(1)) }
            }
            Self::Uuid => ColumnType::Uuid,
            Self::Address(name) | Self::Other(name) => ColumnType::Other(name.clone()),
        }
    }
}

/// The members of `enum('a','it''s')`. The server writes a backslash before itself and for characters that do
/// not print.
fn members(column_type: &str) -> Vec<String> {
    let Some(inner) = column_type.split_once('(').and_then(|(_, rest)| rest.rsplit_once(')')) else {
        return Vec::new();
    };
    let (mut members, mut member) = (Vec::new(), None::<String>);
    let mut characters = inner.0.chars().peekable();
    while let Some(character) = characters.next() {
        match (&mut member, character) {
            (None, '\'') => member = Some(String::new()),
            (None, _) => {}
            (Some(text), '\'') if characters.peek() == Some(&'\'') => {
                characters.next();
                text.push('\'');
            }
            (Some(_), '\'') => members.extend(member.take()),
            (Some(text), '\\') => text.extend(characters.next().map(|escaped| match escaped {
                '0' => '\0',
                'n' => '\n',
                'r' => '\r',
                't' => '\t',
                'Z' => '\u{1a}',
                other => other,
            })),
            (Some(text), other) => text.push(other),
        }
    }
    members
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_are_read_with_their_quotes() {
        assert_eq!(members("enum('a','it''s','','x,y','(b)')"), ["a", "it's", "", "x,y", "(b)"]);
        assert_eq!(members(r"set('a\\b','x\ny','\'','\0')"), ["a\\b", "x\ny", "'", "\0"]);
        assert!(members("enum()").is_empty());
    }

    #[test]
    fn the_width_of_a_tinyint_tells_a_truth_value() {
        let tiny = |column_type: &str| {
            let declared = Declared {
                column_type: column_type.to_owned(),
                data_type: "tinyint".to_owned(),
                ..Declared::default()
            };
            Native::of(&declared).natural()
        };
        assert_eq!(tiny("tinyint(1)"), ColumnType::Boolean);
        assert_eq!(tiny("tinyint(4)"), ColumnType::signed(8));
        assert_eq!(tiny("tinyint(1) unsigned"), ColumnType::unsigned(8));
    }
}
