use std::borrow::Cow;
use std::fmt::{self, Write};

use serde_json::{Map, Number, Value};

/// A value while a rule is evaluated. What comes from the file or the context is borrowed; only operators
/// that build a string, a list or an object own memory.
#[derive(Clone, Debug)]
pub(crate) enum Val<'a> {
    Null,
    Bool(bool),
    Int(i64),
    /// Whole numbers above those of `Int`.
    Big(u64),
    Float(f64),
    Str(&'a str),
    Text(Box<str>),
    /// An array or an object.
    Json(&'a Value),
    List(Vec<Val<'a>>),
    Record(Vec<(&'a str, Val<'a>)>),
}

impl<'a> Val<'a> {
    #[inline]
    pub(crate) fn from_json(value: &'a Value) -> Self {
        match value {
            Value::Null => Self::Null,
            Value::Bool(value) => Self::Bool(*value),
            Value::Number(number) => Self::from_number(number),
            Value::String(text) => Self::Str(text),
            Value::Array(_) | Value::Object(_) => Self::Json(value),
        }
    }

    pub(crate) fn from_number(number: &Number) -> Self {
        match (number.as_i64(), number.as_u64(), number.as_f64()) {
            (Some(whole), ..) => Self::Int(whole),
            (None, Some(whole), _) => Self::Big(whole),
            (None, None, Some(float)) => Self::Float(float),
            (None, None, None) => Self::Null,
        }
    }

    /// A computed number. What is no number in JSON (an overflow, 0 / 0) is null.
    pub(crate) fn number(float: f64) -> Self {
        if !float.is_finite() {
            return Self::Null;
        }
        crate::definition::flag::whole_of(float).map_or(Self::Float(float), Self::Int)
    }

    pub(crate) fn to_json(&self) -> Value {
        match self {
            Self::Null => Value::Null,
            Self::Bool(value) => Value::Bool(*value),
            Self::Int(value) => Value::from(*value),
            Self::Big(value) => Value::from(*value),
            Self::Float(value) => Number::from_f64(*value).map_or(Value::Null, Value::Number),
            Self::Str(text) => Value::from(*text),
            Self::Text(text) => Value::from(&**text),
            Self::Json(value) => (*value).clone(),
            Self::List(items) => Value::Array(items.iter().map(Val::to_json).collect()),
            Self::Record(entries) => {
                Value::Object(entries.iter().map(|(key, item)| ((*key).to_owned(), item.to_json())).collect())
            }
        }
    }

    #[inline]
    pub(crate) fn as_str(&self) -> Option<&str> {
        match self {
            Self::Str(text) => Some(text),
            Self::Text(text) => Some(text),
            _ => None,
        }
    }

    pub(crate) fn is_null(&self) -> bool {
        matches!(self, Self::Null)
    }

    /// As JsonLogic has it: an empty array is false, an empty object is true.
    #[inline]
    pub(crate) fn truthy(&self) -> bool {
        match self {
            Self::Null => false,
            Self::Bool(value) => *value,
            Self::Int(value) => *value != 0,
            Self::Big(_) => true,
            Self::Float(value) => *value != 0.0 && !value.is_nan(),
            Self::Str(text) => !text.is_empty(),
            Self::Text(text) => !text.is_empty(),
            Self::Json(Value::Array(items)) => !items.is_empty(),
            Self::List(items) => !items.is_empty(),
            Self::Json(_) | Self::Record(_) => true,
        }
    }

    /// The items of an array, or none.
    pub(crate) fn items(&self) -> Option<Items<'a, '_>> {
        match self {
            Self::Json(Value::Array(items)) => Some(Items::Json(items.iter())),
            Self::List(items) => Some(Items::List(items.iter())),
            _ => None,
        }
    }

    /// The member of an object, or the item of an array, of that name.
    pub(crate) fn member(&self, name: &str) -> Option<Val<'a>> {
        match self {
            Self::Json(value) => member_of(value, name),
            Self::List(items) => items.get(name.parse::<usize>().ok()?).cloned(),
            Self::Record(entries) => {
                entries.iter().find(|(key, _)| *key == name).map(|(_, item)| item.clone())
            }
            _ => None,
        }
    }

    /// As a number, the way JavaScript's `Number()` reads it. NaN where it is none.
    pub(crate) fn to_number(&self) -> f64 {
        match self {
            Self::Null => 0.0,
            Self::Bool(value) => f64::from(u8::from(*value)),
            Self::Int(value) => as_float(*value),
            Self::Big(value) => large_as_float(*value),
            Self::Float(value) => *value,
            Self::Str(text) => text_to_number(text),
            Self::Text(text) => text_to_number(text),
            Self::Json(Value::Object(_)) | Self::Record(_) => f64::NAN,
            Self::Json(_) | Self::List(_) => text_to_number(&self.to_text()),
        }
    }

    /// As a number, the way JavaScript's `parseFloat` reads it: the longest beginning that is one.
    pub(crate) fn parse_float(&self) -> f64 {
        match self {
            Self::Int(_) | Self::Big(_) | Self::Float(_) => self.to_number(),
            Self::Null | Self::Bool(_) => f64::NAN,
            _ => longest_number(&self.to_text()),
        }
    }

    /// As text, the way JavaScript turns a value into a string.
    pub(crate) fn to_text(&self) -> Cow<'_, str> {
        match self.as_str() {
            Some(text) => Cow::Borrowed(text),
            None => {
                let mut text = String::new();
                // Writing to a string cannot fail.
                let _ = self.write_text(&mut text);
                Cow::Owned(text)
            }
        }
    }

    pub(crate) fn write_text(&self, out: &mut impl Write) -> fmt::Result {
        match self {
            Self::Null => out.write_str("null"),
            Self::Bool(value) => out.write_str(if *value { "true" } else { "false" }),
            Self::Int(value) => write!(out, "{value}"),
            Self::Big(value) => write!(out, "{value}"),
            Self::Float(value) => write_float(*value, out),
            Self::Str(text) => out.write_str(text),
            Self::Text(text) => out.write_str(text),
            Self::Json(Value::Object(_)) | Self::Record(_) => out.write_str("[object Object]"),
            Self::Json(_) | Self::List(_) => {
                for (index, item) in self.items().into_iter().flatten().enumerate() {
                    if index > 0 {
                        out.write_char(',')?;
                    }
                    // In a list, null is the empty string.
                    if !item.is_null() {
                        item.write_text(out)?;
                    }
                }
                Ok(())
            }
        }
    }

    /// `===`: the same type and the same value. Arrays and objects are never the same.
    #[inline]
    pub(crate) fn same(&self, other: &Val<'_>) -> bool {
        match (self, other) {
            (Self::Null, Val::Null) => true,
            (Self::Bool(a), Val::Bool(b)) => a == b,
            (Self::Int(a), Val::Int(b)) => a == b,
            (Self::Big(a), Val::Big(b)) => a == b,
            (Self::Int(_) | Self::Big(_) | Self::Float(_), Val::Int(_) | Val::Big(_) | Val::Float(_)) => {
                same_number(self, other)
            }
            _ => match (self.as_str(), other.as_str()) {
                (Some(a), Some(b)) => a == b,
                _ => false,
            },
        }
    }

    /// `==`: as `===`, after the conversions of JavaScript.
    pub(crate) fn equals(&self, other: &Val<'_>) -> bool {
        match (self.rank(), other.rank()) {
            (Rank::Null, Rank::Null) => true,
            (Rank::Null, _) | (_, Rank::Null) => false,
            (Rank::Number, Rank::Number) => same_number(self, other),
            (Rank::Text, Rank::Text) => self.same(other),
            (Rank::Composite, Rank::Composite) => false,
            (Rank::Composite, Rank::Text) | (Rank::Text, Rank::Composite) => {
                self.to_text() == other.to_text()
            }
            _ => self.to_number() == other.to_number(),
        }
    }

    /// `<`, after the conversions of JavaScript: as text if both are, else as numbers.
    pub(crate) fn compare(&self, other: &Val<'_>) -> Option<std::cmp::Ordering> {
        match (self, other) {
            (Self::Int(a), Val::Int(b)) => return Some(a.cmp(b)),
            (Self::Big(a), Val::Big(b)) => return Some(a.cmp(b)),
            (Self::Big(_), Val::Int(_)) => return Some(std::cmp::Ordering::Greater),
            (Self::Int(_), Val::Big(_)) => return Some(std::cmp::Ordering::Less),
            _ => {}
        }
        let textual = |rank| matches!(rank, Rank::Text | Rank::Composite);
        if textual(self.rank()) && textual(other.rank()) {
            return Some(self.to_text().as_ref().cmp(other.to_text().as_ref()));
        }
        self.to_number().partial_cmp(&other.to_number())
    }

    fn rank(&self) -> Rank {
        match self {
            Self::Null => Rank::Null,
            Self::Bool(_) => Rank::Bool,
            Self::Int(_) | Self::Big(_) | Self::Float(_) => Rank::Number,
            Self::Str(_) | Self::Text(_) => Rank::Text,
            Self::Json(_) | Self::List(_) | Self::Record(_) => Rank::Composite,
        }
    }
}

enum Rank {
    Null,
    Bool,
    Number,
    Text,
    Composite,
}

pub(crate) fn member_of<'a>(value: &'a Value, name: &str) -> Option<Val<'a>> {
    match value {
        Value::Object(map) => object_member(map, name),
        Value::Array(items) => items.get(name.parse::<usize>().ok()?).map(Val::from_json),
        _ => None,
    }
}

fn object_member<'a>(map: &'a Map<String, Value>, name: &str) -> Option<Val<'a>> {
    map.get(name).map(Val::from_json)
}

/// The items of an array, whoever owns them.
pub(crate) enum Items<'a, 'v> {
    Json(std::slice::Iter<'a, Value>),
    List(std::slice::Iter<'v, Val<'a>>),
}

impl<'a> Iterator for Items<'a, '_> {
    type Item = Val<'a>;

    fn next(&mut self) -> Option<Val<'a>> {
        match self {
            Self::Json(items) => items.next().map(Val::from_json),
            Self::List(items) => items.next().cloned(),
        }
    }
}

fn same_number(a: &Val<'_>, b: &Val<'_>) -> bool {
    match (a, b) {
        (Val::Int(a), Val::Int(b)) => a == b,
        (Val::Big(a), Val::Big(b)) => a == b,
        (Val::Int(_), Val::Big(_)) | (Val::Big(_), Val::Int(_)) => false,
        _ => a.to_number() == b.to_number(),
    }
}

#[expect(clippy::cast_precision_loss, reason = "JavaScript has floats only")]
fn as_float(value: i64) -> f64 {
    value as f64
}

#[expect(clippy::cast_precision_loss, reason = "JavaScript has floats only")]
fn large_as_float(value: u64) -> f64 {
    value as f64
}

fn text_to_number(text: &str) -> f64 {
    let text = text.trim();
    if text.is_empty() {
        return 0.0;
    }
    let radix = |digits: &str, radix| {
        // More digits than fit are far beyond any number a rule compares with.
        u64::from_str_radix(digits, radix).map_or(f64::NAN, large_as_float)
    };
    match text.get(..2) {
        Some("0x" | "0X") => return radix(&text[2..], 16),
        Some("0b" | "0B") => return radix(&text[2..], 2),
        Some("0o" | "0O") => return radix(&text[2..], 8),
        _ => {}
    }
    if longest_decimal(text) == text.len() { text.parse().unwrap_or(f64::NAN) } else { infinity(text) }
}

fn longest_number(text: &str) -> f64 {
    let text = text.trim_start();
    match longest_decimal(text) {
        0 => f64::NAN,
        length => text[..length].parse().unwrap_or(f64::NAN),
    }
}

fn infinity(text: &str) -> f64 {
    match text {
        "Infinity" | "+Infinity" => f64::INFINITY,
        "-Infinity" => f64::NEG_INFINITY,
        _ => f64::NAN,
    }
}

/// How many bytes at the beginning are a decimal number.
fn longest_decimal(text: &str) -> usize {
    let bytes = text.as_bytes();
    let digits = |mut at: usize| {
        let start = at;
        while bytes.get(at).is_some_and(u8::is_ascii_digit) {
            at += 1;
        }
        at - start
    };
    let mut at = usize::from(matches!(bytes.first(), Some(b'+' | b'-')));
    let whole = digits(at);
    at += whole;
    let mut fraction = 0;
    if bytes.get(at) == Some(&b'.') {
        fraction = digits(at + 1);
        if whole + fraction > 0 {
            at += 1 + fraction;
        }
    }
    if whole + fraction == 0 {
        return 0;
    }
    if matches!(bytes.get(at), Some(b'e' | b'E')) {
        let sign = usize::from(matches!(bytes.get(at + 1), Some(b'+' | b'-')));
        let exponent = digits(at + 1 + sign);
        if exponent > 0 {
            at += 1 + sign + exponent;
        }
    }
    at
}

/// As JavaScript prints a number: no exponent from 1e-6 up to 1e21.
fn write_float(value: f64, out: &mut impl Write) -> fmt::Result {
    let size = value.abs();
    if value == 0.0 {
        out.write_char('0')
    } else if (1e-6..1e21).contains(&size) {
        write!(out, "{value}")
    } else {
        let text = format!("{value:e}");
        match text.split_once('e') {
            Some((digits, exponent)) if !exponent.starts_with('-') => write!(out, "{digits}e+{exponent}"),
            _ => out.write_str(&text),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_printed_as_javascript_prints_them() {
        let text = |value: f64| Val::Float(value).to_text().into_owned();
        let cases = [
            (1.0, "1"),
            (0.1, "0.1"),
            (-0.0, "0"),
            (1e21, "1e+21"),
            (1.5e-7, "1.5e-7"),
            (1e20, "100000000000000000000"),
        ];
        for (value, expected) in cases {
            assert_eq!(text(value), expected);
        }
    }

    #[test]
    fn text_is_read_as_javascript_reads_it() {
        let number = |text| Val::Str(text).to_number();
        assert_eq!(number(""), 0.0);
        assert_eq!(number(" 12 "), 12.0);
        assert_eq!(number("0x10"), 16.0);
        assert_eq!(number("1e3"), 1000.0);
        for text in ["abc", "1a", "inf", "nan", "infinity", ".", "-", "1e"] {
            assert!(number(text).is_nan(), "{text}");
        }
        assert_eq!(Val::Str("3.5abc").parse_float(), 3.5);
        assert_eq!(Val::Str("3e").parse_float(), 3.0);
        assert!(Val::Str("abc").parse_float().is_nan());
    }

    #[test]
    fn large_numbers_keep_every_digit() {
        assert!(!Val::Int(9_007_199_254_740_993).same(&Val::Int(9_007_199_254_740_992)));
        assert_eq!(Val::Big(u64::MAX).to_text(), "18446744073709551615");
    }
}
