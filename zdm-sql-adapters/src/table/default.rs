//! Defaults of columns in the SQL of each database.
//!
//! Understood are constants that are a value of the column's type, and the present time. Everything else is an
//! expression that means something to its own database only.

use super::{ColumnShape, ColumnType, Dialect, TableShape, Value};

/// A default that every database has words for.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Default {
    /// NULL, as without a default.
    Null,
    /// A value of the column's type.
    Value(Value),
    /// The day, the time of day or the point in time at which a row is written, as the column's type has it.
    Now {
        /// In UTC, also where the column has no zone; else as the server's clock shows it.
        utc: bool,
    },
}

impl Default {
    /// Reads what a database says. `None` for what only that database can evaluate, and for a constant that
    /// is no value of the type.
    pub(crate) fn read(sql: &str, dialect: Dialect, ty: &ColumnType) -> Option<Self> {
        let sql = bare(sql, dialect);
        if sql.eq_ignore_ascii_case("null") {
            return Some(Self::Null);
        }
        if let Some(utc) = present(sql, dialect) {
            let time = matches!(ty, ColumnType::Date | ColumnType::Time | ColumnType::Timestamp { .. });
            return time.then_some(Self::Now { utc });
        }
        let value = match constant(sql, dialect)? {
            Constant::Bytes(bytes) if matches!(ty, ColumnType::Bytes { .. } | ColumnType::Any) => {
                Value::Blob(bytes)
            }
            Constant::Bits(bits) if *ty == ColumnType::Bits => Value::Text(bits),
            Constant::Bits(bits) => ty.parse(&u64::from_str_radix(&bits, 2).ok()?.to_string()).ok()?,
            Constant::Bytes(_) => return None,
            Constant::Text(text) => match (ty, text.strip_prefix("\\x")) {
                (ColumnType::Bytes { .. }, Some(hex)) if dialect == Dialect::Postgres => {
                    Value::Blob(bytes(hex)?)
                }
                (ColumnType::Real { .. } | ColumnType::Decimal { .. }, _) => ty.parse(text.trim()).ok()?,
                // What has no type is a number where it is written as one.
                (ColumnType::Any, _) => return None,
                _ => ty.parse(&text).ok()?,
            },
            Constant::Number(text) => match ty {
                ColumnType::Any => return None,
                ColumnType::Date | ColumnType::Time | ColumnType::Timestamp { .. } => return None,
                // 1.0 is a whole number, too.
                ColumnType::Integer { .. } => ty.parse(whole(&text)).ok()?,
                _ => ty.parse(&text).ok()?,
            },
        };
        Some(Self::Value(value))
    }

    /// What stands behind the word DEFAULT; `None` where there is no word for it.
    pub(crate) fn sql(&self, dialect: Dialect, ty: &ColumnType) -> Option<String> {
        match self {
            Self::Null => Some("NULL".to_owned()),
            Self::Now { utc } => now(*utc, dialect, ty),
            Self::Value(value) => written(value, dialect, ty),
        }
    }
}

/// The clauses behind a column's type that say what it is when a row leaves it out. What has no words is noted.
pub(crate) fn default_clauses(
    table: &TableShape,
    column: &ColumnShape,
    dialect: Dialect,
    left_out: &mut Vec<String>,
) -> String {
    let mut clauses = String::new();
    let ours = table.dialect == Some(dialect);
    let mut note =
        |what: &str| left_out.push(format!("table {}, column {}: {what}", table.name, column.name));
    if let (Some(sql), Some(own)) = (&column.default, table.dialect) {
        let words = match Default::read(sql, own, &column.ty) {
            Some(Default::Null) => None,
            // PostgreSQL's own words need no other ones; elsewhere a column may get another type.
            _ if ours && dialect == Dialect::Postgres => Some(sql.clone()),
            Some(default) => default.sql(dialect, &column.ty).or_else(|| {
                note(&format!("its default {sql} has no words here and is left out"));
                None
            }),
            None if ours => Some(format!("({sql})")),
            None => {
                note(&format!("its default {sql} is left out"));
                None
            }
        };
        if let Some(words) = words {
            clauses = format!(" DEFAULT {words}");
        }
    }
    if column.on_update_now {
        match &column.ty {
            ColumnType::Timestamp { zone: false, digits } if ours => {
                clauses.push_str(&format!(" ON UPDATE CURRENT_TIMESTAMP({digits})"));
            }
            _ => note("that an UPDATE sets it to the present time is left out"),
        }
    }
    clauses
}

/// The clause that makes a generated column. `None`, and noted, where the expression has no words here: then the
/// column is not made at all, because an ordinary one in its place would stay empty.
pub(crate) fn expression_clause(
    table: &TableShape,
    column: &ColumnShape,
    dialect: Dialect,
    left_out: &mut Vec<String>,
) -> Option<String> {
    match &column.expression {
        Some(expression) if table.dialect == Some(dialect) => {
            Some(format!(" GENERATED ALWAYS AS {expression}"))
        }
        expression => {
            let from = expression.as_ref().map_or_else(String::new, |from| format!(" from {from}"));
            left_out.push(format!(
                "table {}, column {}: it is generated{from}, and is left out; add it by hand",
                table.name, column.name
            ));
            None
        }
    }
}

/// The check constraints as parts of CREATE TABLE. Those of another database are noted.
pub(crate) fn check_clauses(
    table: &TableShape,
    dialect: Dialect,
    quoted: impl Fn(&str) -> String,
    left_out: &mut Vec<String>,
) -> Vec<String> {
    let mut clauses = Vec::new();
    for (name, condition) in &table.checks {
        if table.dialect == Some(dialect) {
            let name = if name.is_empty() { String::new() } else { format!("CONSTRAINT {} ", quoted(name)) };
            clauses.push(format!("{name}CHECK ({condition})"));
        } else {
            left_out.push(format!("table {}: the check {name} ({condition}) is left out", table.name));
        }
    }
    clauses
}

enum Constant {
    Text(String),
    Number(String),
    Bytes(Vec<u8>),
    /// Of 0 and 1.
    Bits(String),
}

/// Without parentheses around it and, in PostgreSQL, without casts behind it.
fn bare(sql: &str, dialect: Dialect) -> &str {
    let mut sql = sql.trim();
    loop {
        let places = outside(sql);
        let end = places.iter().find(|(at, depth)| *depth == 1 && sql[*at..].starts_with(')'));
        if sql.starts_with('(') && end.is_some_and(|(at, _)| at + 1 == sql.len()) {
            sql = sql[1..sql.len() - 1].trim();
            continue;
        }
        let cast = places.iter().rev().find(|(at, depth)| *depth == 0 && sql[*at..].starts_with("::"));
        match cast {
            Some((at, _)) if dialect == Dialect::Postgres && is_type(&sql[at + 2..]) => {
                sql = sql[..*at].trim();
            }
            _ => return sql,
        }
    }
}

/// Whether a text is the name of a type, and no more.
fn is_type(text: &str) -> bool {
    let mut words = text.split_whitespace();
    let in_name = |character: char| character.is_alphanumeric() || "_.\"(),[]".contains(character);
    let first = words.next().is_some_and(|word| word.chars().all(in_name));
    first
        && words.all(|word| {
            let word = word.split('(').next().unwrap_or_default();
            matches!(word, "varying" | "precision" | "without" | "with" | "time" | "zone")
        })
}

/// The places of the characters that are not inside quotes, and how many parentheses are around each. Those of
/// a pair count themselves.
pub(crate) fn outside(sql: &str) -> Vec<(usize, u32)> {
    let (mut places, mut depth, mut quote) = (Vec::new(), 0_u32, None);
    for (at, character) in sql.char_indices() {
        match (quote, character) {
            // A doubled quote ends and begins again.
            (Some(open), _) => {
                if character == open {
                    quote = None;
                }
                continue;
            }
            (None, '\'' | '"' | '`') => {
                quote = Some(character);
                continue;
            }
            (None, '(') => depth += 1,
            _ => {}
        }
        places.push((at, depth));
        if character == ')' {
            depth = depth.saturating_sub(1);
        }
    }
    places
}

/// Whether it is the present time, and if so whether in UTC.
fn present(sql: &str, dialect: Dialect) -> Option<bool> {
    let words: String = sql.to_ascii_lowercase().split_whitespace().collect();
    // Without the digits of a second, which the column has.
    let name = match words.split_once('(') {
        Some((name, digits)) if digits.trim_end_matches(')').bytes().all(|digit| digit.is_ascii_digit()) => {
            name
        }
        _ => &words,
    };
    let clock = match name {
        "current_timestamp" | "current_date" | "current_time" => true,
        "now" | "localtimestamp" | "localtime" => dialect != Dialect::Sqlite,
        "transaction_timestamp" | "statement_timestamp" | "clock_timestamp" | "'now'" => {
            dialect == Dialect::Postgres
        }
        "curdate" | "curtime" | "sysdate" => dialect == Dialect::MySql,
        _ => false,
    };
    let utc = match dialect {
        Dialect::Postgres => {
            let zone = words.replace("::text", "").replace("(now())", "now()");
            matches!(
                zone.as_str(),
                "timezone('utc',now())" | "now()attimezone'utc'" | "current_timestampattimezone'utc'"
            )
        }
        Dialect::MySql => matches!(name, "utc_timestamp" | "utc_date" | "utc_time"),
        Dialect::Sqlite => {
            matches!(words.as_str(), "datetime('now')" | "date('now')" | "time('now')") || clock
        }
    };
    (clock || utc).then_some(utc)
}

fn constant(sql: &str, dialect: Dialect) -> Option<Constant> {
    match sql.to_ascii_lowercase().as_str() {
        "true" => return Some(Constant::Number("1".to_owned())),
        "false" => return Some(Constant::Number("0".to_owned())),
        _ => {}
    }
    if let Some(text) = sql.strip_prefix(['B', 'b']).and_then(|text| unquoted(text, false)) {
        return text.bytes().all(|bit| matches!(bit, b'0' | b'1')).then_some(Constant::Bits(text));
    }
    if let Some(hex) = sql.strip_prefix("0x").filter(|_| dialect == Dialect::MySql) {
        return bytes(hex).map(Constant::Bytes);
    }
    if let Some(hex) = sql.strip_prefix(['X', 'x']).and_then(|text| unquoted(text, false)) {
        return bytes(&hex).map(Constant::Bytes);
    }
    if let Some(text) = sql.strip_prefix(['E', 'e']).and_then(|text| unquoted(text, true)) {
        return (dialect == Dialect::Postgres).then_some(Constant::Text(text));
    }
    if let Some(text) = unquoted(sql, dialect == Dialect::MySql) {
        return Some(Constant::Text(text));
    }
    let digits = sql.strip_prefix(['+', '-']).unwrap_or(sql).trim_start();
    let number = digits.starts_with(|first: char| first.is_ascii_digit() || first == '.')
        && digits.parse::<f64>().is_ok();
    let sign = if sql.starts_with('-') { "-" } else { "" };
    number.then(|| Constant::Number(format!("{sign}{digits}")))
}

/// The text between single quotes, if that is all there is.
fn unquoted(sql: &str, escapes: bool) -> Option<String> {
    let mut characters = sql.strip_prefix('\'')?.chars().peekable();
    let mut text = String::new();
    while let Some(character) = characters.next() {
        match character {
            '\'' if characters.peek() == Some(&'\'') => text.extend(characters.next()),
            '\'' => return characters.next().is_none().then_some(text),
            '\\' if escapes => text.push(match characters.next()? {
                'n' => '\n',
                'r' => '\r',
                't' => '\t',
                '0' => '\0',
                'Z' => '\u{1a}',
                other => other,
            }),
            other => text.push(other),
        }
    }
    None
}

fn bytes(hex: &str) -> Option<Vec<u8>> {
    let digits: Option<Vec<_>> = hex.chars().map(|digit| digit.to_digit(16)).collect();
    let digits = digits.filter(|digits| digits.len().is_multiple_of(2))?;
    Some(digits.chunks(2).filter_map(|pair| u8::try_from(pair[0] * 16 + pair[1]).ok()).collect())
}

/// Without a fraction of zeros.
fn whole(number: &str) -> &str {
    match number.split_once('.') {
        Some((whole, fraction)) if fraction.bytes().all(|digit| digit == b'0') => whole,
        _ => number,
    }
}

fn now(utc: bool, dialect: Dialect, ty: &ColumnType) -> Option<String> {
    use Dialect::{MySql, Postgres, Sqlite};
    Some(match (ty, dialect) {
        (ColumnType::Timestamp { zone: true, .. }, Postgres) => "CURRENT_TIMESTAMP".to_owned(),
        (ColumnType::Timestamp { .. }, Postgres) if utc => "(now() AT TIME ZONE 'UTC')".to_owned(),
        (ColumnType::Timestamp { .. }, Postgres) => "LOCALTIMESTAMP".to_owned(),
        // Columns with a zone become points in time in UTC there.
        (ColumnType::Timestamp { zone, digits }, MySql) if utc || *zone => {
            format!("(UTC_TIMESTAMP({digits}))")
        }
        (ColumnType::Timestamp { digits, .. }, MySql) => format!("CURRENT_TIMESTAMP({digits})"),
        (ColumnType::Timestamp { zone, .. }, Sqlite) if utc || *zone => "CURRENT_TIMESTAMP".to_owned(),
        (ColumnType::Timestamp { .. }, Sqlite) => "(datetime('now', 'localtime'))".to_owned(),
        (ColumnType::Date, Postgres) if utc => "((now() AT TIME ZONE 'UTC')::date)".to_owned(),
        (ColumnType::Date, Postgres) => "CURRENT_DATE".to_owned(),
        (ColumnType::Date, MySql) => if utc { "(UTC_DATE())" } else { "(CURRENT_DATE())" }.to_owned(),
        (ColumnType::Date, Sqlite) => {
            if utc { "CURRENT_DATE" } else { "(date('now', 'localtime'))" }.to_owned()
        }
        (ColumnType::Time, Postgres) if utc => "((now() AT TIME ZONE 'UTC')::time)".to_owned(),
        (ColumnType::Time, Postgres) => "LOCALTIME".to_owned(),
        (ColumnType::Time, MySql) => if utc { "(UTC_TIME(6))" } else { "(CURRENT_TIME(6))" }.to_owned(),
        (ColumnType::Time, Sqlite) => {
            if utc { "CURRENT_TIME" } else { "(time('now', 'localtime'))" }.to_owned()
        }
        _ => return None,
    })
}

fn written(value: &Value, dialect: Dialect, ty: &ColumnType) -> Option<String> {
    let quoted = |text: String| {
        let text = text.replace('\'', "''");
        let text = if dialect == Dialect::MySql { text.replace('\\', "\\\\") } else { text };
        format!("'{text}'")
    };
    let plain = match (value, ty) {
        (Value::Blob(bytes), _) => {
            let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
            if dialect == Dialect::Postgres { format!("'\\x{hex}'") } else { format!("x'{hex}'") }
        }
        (Value::Integer(truth), ColumnType::Boolean) if dialect == Dialect::Postgres => {
            if *truth == 0 { "false" } else { "true" }.to_owned()
        }
        (Value::Integer(_) | Value::Unsigned(_) | Value::Decimal(_), _) => value.to_text()?,
        (Value::Real(real), _) if real.is_finite() => value.to_text()?,
        (Value::Timestamp(_), ColumnType::Timestamp { zone: true, .. }) if dialect == Dialect::Postgres => {
            quoted(format!("{}+00", value.to_text()?))
        }
        _ => quoted(value.to_text()?),
    };
    // Those that are kept beside the row take an expression only.
    let beside = matches!(
        ty,
        ColumnType::Text { .. }
            | ColumnType::Bytes { .. }
            | ColumnType::Json
            | ColumnType::Bits
            | ColumnType::Other(_)
    );
    // PostgreSQL has special decimals as text.
    let special = matches!(value, Value::Decimal(_)) && plain.bytes().any(|byte| byte.is_ascii_alphabetic());
    match dialect {
        Dialect::MySql | Dialect::Sqlite if special => None,
        Dialect::Postgres if special => Some(format!("'{plain}'")),
        Dialect::MySql if beside => Some(format!("({plain})")),
        _ => Some(plain),
    }
}

#[cfg(test)]
mod tests {
    use super::Dialect::{MySql, Postgres, Sqlite};
    use super::*;

    const TEXT: ColumnType = ColumnType::Text { max: None };
    const DECIMAL: ColumnType = ColumnType::Decimal { precision: Some(10), scale: Some(2), special: false };
    const LOCAL: ColumnType = ColumnType::Timestamp { zone: false, digits: 3 };
    const ZONED: ColumnType = ColumnType::Timestamp { zone: true, digits: 6 };

    #[test]
    fn constants_and_the_present_time_have_words_in_every_database() {
        let whole = ColumnType::signed(32);
        let bytes = ColumnType::Bytes { max: None };
        for (sql, dialect, ty, [postgres, mysql, sqlite]) in [
            ("0", Postgres, &whole, ["0", "0", "0"]),
            ("'-5'::integer", Postgres, &whole, ["-5", "-5", "-5"]),
            ("(- 5)", Sqlite, &whole, ["-5", "-5", "-5"]),
            ("'7'", MySql, &whole, ["7", "7", "7"]),
            ("1.00", MySql, &whole, ["1", "1", "1"]),
            ("1.50", Postgres, &DECIMAL, ["1.50", "1.50", "1.50"]),
            ("(1)::numeric", Postgres, &DECIMAL, ["1", "1", "1"]),
            ("NULL::character varying", Postgres, &TEXT, ["NULL", "NULL", "NULL"]),
            (
                "'it''s \\ (::)'::text",
                Postgres,
                &TEXT,
                ["'it''s \\ (::)'", "('it''s \\\\ (::)')", "'it''s \\ (::)'"],
            ),
            ("E'a\\\\b'", Postgres, &TEXT, ["'a\\b'", "('a\\\\b')", "'a\\b'"]),
            ("'it\\'s'", MySql, &TEXT, ["'it''s'", "('it''s')", "'it''s'"]),
            ("true", Postgres, &ColumnType::Boolean, ["true", "1", "1"]),
            ("b'1'", MySql, &ColumnType::Boolean, ["true", "1", "1"]),
            (
                "'2024-02-29'::date",
                Postgres,
                &ColumnType::Date,
                ["'2024-02-29'", "'2024-02-29'", "'2024-02-29'"],
            ),
            (
                "'2024-02-29 10:00:00+02'::timestamp with time zone",
                Postgres,
                &ZONED,
                ["'2024-02-29 08:00:00+00'", "'2024-02-29 08:00:00'", "'2024-02-29 08:00:00'"],
            ),
            ("'\\x00ff'::bytea", Postgres, &bytes, ["'\\x00ff'", "(x'00ff')", "x'00ff'"]),
            ("X'00FF'", Sqlite, &bytes, ["'\\x00ff'", "(x'00ff')", "x'00ff'"]),
            ("'{}'::jsonb", Postgres, &ColumnType::Json, ["'{}'", "('{}')", "'{}'"]),
            ("now()", Postgres, &ZONED, ["CURRENT_TIMESTAMP", "(UTC_TIMESTAMP(6))", "CURRENT_TIMESTAMP"]),
            (
                "now()",
                Postgres,
                &LOCAL,
                ["LOCALTIMESTAMP", "CURRENT_TIMESTAMP(3)", "(datetime('now', 'localtime'))"],
            ),
            (
                "(now() AT TIME ZONE 'utc'::text)",
                Postgres,
                &LOCAL,
                ["(now() AT TIME ZONE 'UTC')", "(UTC_TIMESTAMP(3))", "CURRENT_TIMESTAMP"],
            ),
            (
                "timezone('utc'::text, now())",
                Postgres,
                &LOCAL,
                ["(now() AT TIME ZONE 'UTC')", "(UTC_TIMESTAMP(3))", "CURRENT_TIMESTAMP"],
            ),
            (
                "CURRENT_TIMESTAMP",
                Sqlite,
                &LOCAL,
                ["(now() AT TIME ZONE 'UTC')", "(UTC_TIMESTAMP(3))", "CURRENT_TIMESTAMP"],
            ),
            (
                "current_timestamp(3)",
                MySql,
                &LOCAL,
                ["LOCALTIMESTAMP", "CURRENT_TIMESTAMP(3)", "(datetime('now', 'localtime'))"],
            ),
            (
                "('now'::text)::date",
                Postgres,
                &ColumnType::Date,
                ["CURRENT_DATE", "(CURRENT_DATE())", "(date('now', 'localtime'))"],
            ),
        ] {
            let read = Default::read(sql, dialect, ty).unwrap_or_else(|| panic!("{sql} is not understood"));
            for (dialect, expected) in [(Postgres, postgres), (MySql, mysql), (Sqlite, sqlite)] {
                assert_eq!(read.sql(dialect, ty).as_deref(), Some(expected), "{sql} in {dialect:?}");
            }
        }
    }

    #[test]
    fn what_is_no_constant_of_the_type_is_not_understood() {
        for (sql, dialect, ty) in [
            ("now() + '1 day'::interval", Postgres, ZONED),
            ("now()", Postgres, TEXT),
            ("nextval('s'::regclass)", Postgres, ColumnType::signed(64)),
            ("'a'::text || 'b'::text", Postgres, TEXT),
            ("'a'::text IS NULL", Postgres, ColumnType::Boolean),
            ("'1'::text = '2'::character varying(3)", Postgres, ColumnType::Boolean),
            ("('a') || ('b')", Sqlite, TEXT),
            ("1 + 1", Sqlite, ColumnType::signed(64)),
            ("'0000-00-00'", MySql, ColumnType::Date),
            ("'x'", MySql, ColumnType::signed(8)),
            ("1.5", MySql, ColumnType::signed(8)),
            ("random()", Sqlite, ColumnType::signed(64)),
            ("\"name\"", Sqlite, TEXT),
            ("uuid()", MySql, ColumnType::Uuid),
            ("1", Sqlite, ColumnType::Any),
            ("'open", Sqlite, TEXT),
            ("inf", Postgres, ColumnType::Real { bits: 64, special: true }),
        ] {
            assert_eq!(Default::read(sql, dialect, &ty), None, "{sql}");
        }
    }
}
