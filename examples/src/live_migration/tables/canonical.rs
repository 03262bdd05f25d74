//! Rows as text that is the same whatever database they stand in.

use zdm_sql_adapters::table::{ColumnType, Decimal, Value};

/// A value as a database hands it out.
#[derive(Clone, Debug, PartialEq)]
pub enum Raw {
    /// No value.
    Null,
    /// A whole number.
    Integer(i64),
    /// A floating point number.
    Real(f64),
    /// Text, or the text of anything else.
    Text(String),
    /// Bytes.
    Bytes(Vec<u8>),
}

impl From<&Value> for Raw {
    fn from(value: &Value) -> Self {
        match value {
            Value::Null => Self::Null,
            Value::Integer(integer) => Self::Integer(*integer),
            Value::Real(real) => Self::Real(*real),
            Value::Blob(bytes) => Self::Bytes(bytes.clone()),
            other => other.to_text().map_or(Self::Null, Self::Text),
        }
    }
}

/// The canonical text of a value of a column whose rows carry a type. What is no value of that type stays
/// as it is, so it differs from everything that is one.
pub fn canonical(raw: &Raw, ty: &ColumnType) -> Option<String> {
    let plain = match raw {
        Raw::Null => return None,
        Raw::Integer(integer) => integer.to_string(),
        Raw::Real(real) => real_text(*real),
        Raw::Text(text) => text.clone(),
        Raw::Bytes(bytes) => bytes.iter().map(|byte| format!("{byte:02x}")).collect(),
    };
    let better = match (ty, raw) {
        (ColumnType::Any, Raw::Bytes(_)) => Some(format!("bytes {plain}")),
        (ColumnType::Boolean, _) => match plain.as_str() {
            "t" | "true" => Some("1".to_owned()),
            "f" | "false" => Some("0".to_owned()),
            _ => None,
        },
        (ColumnType::Integer { .. } | ColumnType::Decimal { .. }, _) => decimal_text(&plain),
        (ColumnType::Real { .. }, Raw::Text(text)) => text.parse().ok().map(real_text),
        (ColumnType::Real { .. }, Raw::Integer(integer)) => Some(real_text(*integer as f64)),
        (ColumnType::Time, _) => Some(without_zeros(&plain).to_owned()),
        (ColumnType::Timestamp { .. }, _) => Some(timestamp_text(&plain)),
        (ColumnType::Interval, _) => {
            ColumnType::Interval.parse(&plain).ok().and_then(|interval| interval.to_text())
        }
        // The keys of an object stand in their order then.
        (ColumnType::Json, _) => {
            serde_json::from_str::<serde_json::Value>(&plain).ok().map(|document| document.to_string())
        }
        (ColumnType::Uuid, _) => Some(plain.to_ascii_lowercase()),
        _ => None,
    };
    Some(better.unwrap_or(plain))
}

/// A row, or a key, as one line: an array of texts.
pub fn line<'a>(values: impl IntoIterator<Item = (&'a Raw, &'a ColumnType)>) -> String {
    let values: Vec<_> = values.into_iter().map(|(raw, ty)| canonical(raw, ty)).collect();
    serde_json::Value::from_iter(values).to_string()
}

fn real_text(real: f64) -> String {
    // Zeros of both signs are one.
    format!("{:?}", if real == 0.0 { 0.0 } else { real })
}

fn decimal_text(text: &str) -> Option<String> {
    let decimal = text.parse::<Decimal>().ok()?.to_string();
    Some(without_zeros(&decimal).to_owned())
}

/// Without zeros at the end of a fraction, and without a point that nothing follows.
fn without_zeros(text: &str) -> &str {
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { text }
}

fn timestamp_text(text: &str) -> String {
    let text = text.replacen('T', " ", 1);
    let text = text.strip_suffix("+00").or_else(|| text.strip_suffix('Z')).unwrap_or(&text);
    without_zeros(text).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_that_mean_the_same_have_one_text() {
        let decimal = ColumnType::Decimal { precision: None, scale: None, special: false };
        let timestamp = ColumnType::Timestamp { zone: false, digits: 6 };
        let text = |text: &str| Raw::Text(text.to_owned());
        for (ty, same, expected) in [
            (decimal, vec![text("1.50"), Raw::Real(1.5), text("1.5")], "1.5"),
            (
                timestamp,
                vec![text("2021-01-01 00:00:00.500000"), text("2021-01-01T00:00:00.5Z")],
                "2021-01-01 00:00:00.5",
            ),
            (ColumnType::Boolean, vec![text("t"), Raw::Integer(1), text("true")], "1"),
            (
                ColumnType::Real { bits: 64, special: false },
                vec![Raw::Integer(2), Raw::Real(2.0), text("2")],
                "2.0",
            ),
            (
                ColumnType::Json,
                vec![text("{\"b\":1,\"a\":2}"), text("{ \"a\": 2, \"b\": 1 }")],
                "{\"a\":2,\"b\":1}",
            ),
            (ColumnType::Bytes { max: None }, vec![Raw::Bytes(vec![0, 255])], "00ff"),
            (ColumnType::signed(64), vec![Raw::Integer(100), text("100"), text("100.00")], "100"),
        ] {
            for raw in same {
                assert_eq!(canonical(&raw, &ty).as_deref(), Some(expected), "{raw:?}");
            }
        }
        assert_eq!(canonical(&Raw::Null, &ColumnType::Date), None);
        assert_eq!(
            line([(&Raw::Null, &ColumnType::Any), (&text("a\n\"b"), &ColumnType::Any)]),
            r#"[null,"a\n\"b"]"#
        );
    }
}
