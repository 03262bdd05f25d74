//! The types of columns that PostgreSQL has, and how their values cross the wire.

use crate::table::ColumnType;

/// What a column keeps, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Native {
    Boolean,
    /// 16, 32 or 64 bits.
    Integer {
        bits: u32,
    },
    Oid,
    /// The precision and the scale, where they are declared.
    Numeric(Option<(i32, i32)>),
    /// 32 or 64 bits.
    Real {
        bits: u8,
    },
    Text {
        max: Option<u32>,
    },
    /// `name`, of at most 63 bytes.
    Name,
    /// `char(n)`, which fills up with spaces.
    Padded {
        length: Option<u32>,
    },
    Bytes,
    Date,
    Time {
        digits: u8,
    },
    Timestamp {
        zone: bool,
        digits: u8,
    },
    Interval {
        digits: u8,
    },
    Json,
    Jsonb,
    Uuid,
    Bits {
        length: Option<u32>,
        varying: bool,
    },
    /// Crosses as text: its name as SQL text.
    Enum {
        name: String,
    },
    /// `citext`, which thinks of texts as equal that are not.
    Loose {
        name: String,
    },
    /// Crosses as text: its name as SQL text.
    Other {
        name: String,
        /// What stands in parentheses behind the name, `(5,2)`; the server rounds and cuts by it.
        modifier: String,
    },
}

/// A type as the catalog describes it, beneath all domains.
#[derive(Clone, Debug)]
pub(super) struct Declared<'a> {
    pub(super) schema: &'a str,
    pub(super) name: &'a str,
    /// The kind in the catalog: `b`ase, `c`omposite, `e`num, `r`ange, `m`ultirange, `p`seudo.
    pub(super) kind: &'a str,
    /// The name as SQL text.
    pub(super) quoted: &'a str,
    /// What stands in parentheses, as the catalog packs it; -1 for nothing.
    pub(super) modifier: i32,
    /// The same as SQL text with its parentheses, empty for nothing.
    pub(super) written: &'a str,
}

impl Native {
    /// What a type is; `None` for one whose values cannot be written.
    pub(super) fn of(declared: &Declared<'_>) -> Option<Self> {
        let (name, written) = (declared.quoted.to_owned(), declared.written.to_owned());
        match declared.kind {
            "e" => return Some(Self::Enum { name }),
            "p" => return None,
            _ => {}
        }
        let modifier = (declared.modifier >= 0).then_some(declared.modifier);
        let length = modifier.and_then(|modifier| u32::try_from(modifier - 4).ok());
        let digits = modifier.map_or(6, |modifier| u8::try_from(modifier & 0xFFFF).unwrap_or(6).min(6));
        if declared.schema != "pg_catalog" {
            return Some(match declared.name {
                "citext" => Self::Loose { name },
                _ => Self::Other { name, modifier: written },
            });
        }
        Some(match declared.name {
            "bool" => Self::Boolean,
            "int2" => Self::Integer { bits: 16 },
            "int4" => Self::Integer { bits: 32 },
            "int8" => Self::Integer { bits: 64 },
            "oid" => Self::Oid,
            "numeric" => Self::Numeric(modifier.map(|modifier| {
                let packed = modifier - 4;
                // Eleven bits with a sign.
                (packed >> 16 & 0xFFFF, ((packed & 0x7FF) ^ 1_024) - 1_024)
            })),
            "float4" => Self::Real { bits: 32 },
            "float8" => Self::Real { bits: 64 },
            "text" => Self::Text { max: None },
            "varchar" => Self::Text { max: length },
            "name" => Self::Name,
            "bpchar" => Self::Padded { length },
            "bytea" => Self::Bytes,
            "date" => Self::Date,
            "time" => Self::Time { digits },
            "timestamp" => Self::Timestamp { zone: false, digits },
            "timestamptz" => Self::Timestamp { zone: true, digits },
            // With a range of fields the server would cut values without an error.
            "interval" if modifier.is_some_and(|modifier| modifier >> 16 & 0x7FFF != 0x7FFF) => return None,
            "interval" => Self::Interval { digits },
            "json" => Self::Json,
            "jsonb" => Self::Jsonb,
            "uuid" => Self::Uuid,
            "bit" => Self::Bits { length: u32::try_from(modifier.unwrap_or(1)).ok(), varying: false },
            "varbit" => {
                Self::Bits { length: modifier.and_then(|most| u32::try_from(most).ok()), varying: true }
            }
            // Their input functions refuse everything.
            "pg_node_tree"
            | "pg_ndistinct"
            | "pg_dependencies"
            | "pg_mcv_list"
            | "pg_brin_bloom_summary"
            | "pg_brin_minmax_multi_summary" => return None,
            _ => Self::Other { name, modifier: written },
        })
    }

    /// The type in the words of no particular database.
    pub(super) fn natural(&self) -> ColumnType {
        match self {
            Self::Boolean => ColumnType::Boolean,
            Self::Integer { bits } => ColumnType::signed(*bits),
            Self::Oid => ColumnType::unsigned(32),
            Self::Numeric(None) => ColumnType::Decimal { precision: None, scale: None, special: true },
            Self::Numeric(Some((precision, scale))) => {
                // A negative scale leaves zeros before the point, one above the precision leaves them behind.
                let precision = *precision.max(scale) - (*scale).min(0);
                ColumnType::Decimal {
                    precision: u32::try_from(precision).ok(),
                    scale: u32::try_from((*scale).max(0)).ok(),
                    special: true,
                }
            }
            Self::Real { bits } => ColumnType::Real { bits: *bits, special: true },
            Self::Text { max } => ColumnType::Text { max: *max },
            Self::Name => ColumnType::Text { max: Some(63) },
            Self::Padded { length } => ColumnType::Text { max: *length },
            Self::Loose { .. } | Self::Enum { .. } => ColumnType::Text { max: None },
            Self::Bytes => ColumnType::Bytes { max: None },
            Self::Date => ColumnType::Date,
            Self::Time { .. } => ColumnType::Time,
            Self::Timestamp { zone, digits } => ColumnType::Timestamp { zone: *zone, digits: *digits },
            Self::Interval { .. } => ColumnType::Interval,
            Self::Json | Self::Jsonb => ColumnType::Json,
            Self::Uuid => ColumnType::Uuid,
            Self::Bits { .. } => ColumnType::Bits,
            Self::Other { name, modifier } => ColumnType::Other(format!("{name}{modifier}")),
        }
    }

    /// The number of the type that crosses the wire, and of its arrays. Fixed since the types exist.
    pub(super) const fn wire(&self) -> (u32, u32) {
        match self {
            Self::Boolean => (16, 1000),
            Self::Integer { bits: 16 } => (21, 1005),
            Self::Integer { bits: 32 } => (23, 1007),
            Self::Integer { .. } => (20, 1016),
            Self::Oid => (26, 1028),
            Self::Numeric(_) => (1700, 1231),
            Self::Real { bits: 32 } => (700, 1021),
            Self::Real { .. } => (701, 1022),
            Self::Text { .. } | Self::Loose { .. } | Self::Enum { .. } | Self::Other { .. } => (25, 1009),
            Self::Name => (19, 1003),
            Self::Padded { .. } => (1042, 1014),
            Self::Bytes => (17, 1001),
            Self::Date => (1082, 1182),
            Self::Time { .. } => (1083, 1183),
            Self::Timestamp { zone: false, .. } => (1114, 1115),
            Self::Timestamp { zone: true, .. } => (1184, 1185),
            Self::Interval { .. } => (1186, 1187),
            Self::Json => (114, 199),
            Self::Jsonb => (3802, 3807),
            Self::Uuid => (2950, 2951),
            Self::Bits { varying: false, .. } => (1560, 1561),
            Self::Bits { varying: true, .. } => (1562, 1563),
        }
    }

    /// Whether values that come with the number of a type are read as this one.
    pub(super) const fn comes_as(&self, number: u32) -> bool {
        // `varchar` crosses as `text` does, and so does what is cast to it.
        number == self.wire().0 || matches!(self, Self::Text { .. }) && number == 1043
    }

    /// The name of the type that crosses the wire. A statement is prepared once for its text, so the text must
    /// say which types it was prepared for.
    pub(super) const fn wire_name(&self) -> &'static str {
        match self {
            Self::Boolean => "bool",
            Self::Integer { bits: 16 } => "int2",
            Self::Integer { bits: 32 } => "int4",
            Self::Integer { .. } => "int8",
            Self::Oid => "oid",
            Self::Numeric(_) => "numeric",
            Self::Real { bits: 32 } => "float4",
            Self::Real { .. } => "float8",
            Self::Text { .. } | Self::Loose { .. } | Self::Enum { .. } | Self::Other { .. } => "text",
            Self::Name => "name",
            Self::Padded { .. } => "bpchar",
            Self::Bytes => "bytea",
            Self::Date => "date",
            Self::Time { .. } => "pg_catalog.time",
            Self::Timestamp { zone: false, .. } => "pg_catalog.timestamp",
            Self::Timestamp { zone: true, .. } => "timestamptz",
            Self::Interval { .. } => "pg_catalog.interval",
            Self::Json => "json",
            Self::Jsonb => "jsonb",
            Self::Uuid => "uuid",
            // Without the quotes it would be a single bit.
            Self::Bits { varying: false, .. } => "pg_catalog.\"bit\"",
            Self::Bits { varying: true, .. } => "varbit",
        }
    }

    /// The name of a type whose values cross as text.
    pub(super) fn cast(&self) -> Option<&str> {
        match self {
            Self::Loose { name } | Self::Enum { name } | Self::Other { name, .. } => Some(name),
            _ => None,
        }
    }

    /// The type that a bound of a range has: wide enough for keys that have no place in the column.
    pub(super) const fn bound(&self) -> &'static str {
        match self {
            Self::Boolean => "boolean",
            Self::Integer { .. } => "bigint",
            Self::Oid => "oid",
            Self::Numeric(_) => "numeric",
            Self::Real { .. } => "double precision",
            Self::Padded { .. } => "bpchar",
            Self::Bytes => "bytea",
            Self::Date => "date",
            Self::Time { .. } => "time",
            Self::Timestamp { zone: false, .. } => "timestamp",
            Self::Timestamp { zone: true, .. } => "timestamptz",
            Self::Uuid => "uuid",
            Self::Bits { .. } => "varbit",
            _ => "text",
        }
    }

    /// Whether the server thinks of values as equal that are not, so that they are compared as text.
    pub(super) const fn equal_as_text(&self) -> bool {
        matches!(self, Self::Json | Self::Interval { .. } | Self::Loose { .. } | Self::Other { .. })
    }

    /// Whether rows can be told apart by it, in an order that every database shares.
    pub(super) const fn makes_key(&self) -> bool {
        !matches!(
            self,
            Self::Json | Self::Jsonb | Self::Interval { .. } | Self::Loose { .. } | Self::Other { .. }
        )
    }

    /// An expression whose value hardly any other row has, of a type that the column takes.
    pub(super) fn temporary(&self) -> Option<String> {
        let hex = "md5(random()::text || clock_timestamp()::text)";
        Some(match self {
            Self::Integer { bits } => {
                format!("-1 - floor(random() * {})::bigint", (1_i64 << (bits - 1).min(52)) - 1)
            }
            Self::Numeric(None) => "(-1 - random())::numeric".to_owned(),
            Self::Numeric(Some((precision, scale))) => {
                format!(
                    "round((random() * 1e{0})::numeric - 5e{1}, {scale})",
                    precision - scale,
                    precision - scale - 1
                )
            }
            Self::Real { .. } => "-random()".to_owned(),
            Self::Text { max: Some(max) } | Self::Padded { length: Some(max) } => {
                format!("left({hex}, {max})")
            }
            Self::Text { .. } | Self::Padded { .. } => format!("'zdm-aside-' || {hex}"),
            Self::Loose { name } => format!("('zdm-aside-' || {hex})::{name}"),
            Self::Bytes => format!("decode({hex}, 'hex')"),
            Self::Date => "date '0001-01-01' + floor(random() * 600000)::int".to_owned(),
            Self::Timestamp { .. } => "timestamp '0001-01-01' + random() * interval '600000 days'".to_owned(),
            Self::Time { .. } => "time '00:00' + random() * interval '1 day'".to_owned(),
            Self::Uuid => "gen_random_uuid()".to_owned(),
            _ => return None,
        })
    }
}
