//! Rows that cross from SQLite's thread to ours as one JSON text.
//!
//! sqlx hands every row over a channel and every value through an allocation of its own; one text for
//! a page takes a fifth of the time. What JSON cannot say is said so that nothing is lost:
//!
//! - SQLite prints reals with errors in the last digits, so a real comes as whole numbers that make it
//!   up exactly: `[i, k, s]` is `(i + k / 2^62) * 2^s`. Where a real is too large or too small for that,
//!   the rows are read one by one.
//! - An infinity comes as a number that is too large for a float.
//! - A blob comes as an array around its hexadecimal digits.
//!
//! Only the sign of a zero may be lost.

use std::str;

use zdm_core::error::Result;

use super::shape::{Affinity, Column, quoted};
use crate::table::Value;

/// The expression that packs a column.
///
/// `exact` guards every column. Otherwise those are left bare that nearly always hold what JSON can say:
/// the scanner sees a real in one and SQLite refuses a blob, and the page is read again with `exact`.
pub(super) fn expression(column: &Column, exact: bool) -> String {
    let name = quoted(&column.name);
    if !exact && matches!(column.affinity, Affinity::Integer | Affinity::Text) {
        return name;
    }
    // Scaling by powers of two is exact. From 2^-10 up a float has no bit below 2^-62, and below 2^53
    // its whole part fits an integer that a float holds.
    let parts = |scaled: &str, shift: i32| {
        format!(
            "json_array(CAST({scaled} AS INTEGER), \
             CAST(({scaled} - CAST({scaled} AS INTEGER)) * 4611686018427387904.0 AS INTEGER), {shift})"
        )
    };
    let small = format!("({name} * 4503599627370496.0)");
    let large = format!("({name} / 4503599627370496.0)");
    format!(
        "CASE typeof({name}) WHEN 'real' THEN CASE \
         WHEN abs({name}) BETWEEN 0.0009765625 AND 9007199254740991.0 THEN {} \
         WHEN abs({name}) BETWEEN 2.168404344971009e-19 AND 1.0 THEN {} \
         WHEN abs({name}) BETWEEN 9007199254740991.0 AND 4.056481920730334e31 THEN {} \
         ELSE {name} END WHEN 'blob' THEN json_array(hex({name})) ELSE {name} END",
        parts(&name, 0),
        parts(&small, -52),
        parts(&large, 52),
    )
}

/// Why a page could not be scanned.
#[derive(Debug)]
pub(super) enum Unpacked {
    /// A real was printed, and so its last digits are lost.
    Inexact,
    /// The text is not what the statement makes.
    Damaged(usize),
}

/// Reads a page: an array of arrays. Calls `row` with the values of each row; text that is not UTF-8
/// comes as an error of its place.
pub(super) fn scan(
    text: &[u8],
    columns: usize,
    mut row: impl FnMut(&mut [Value], Option<usize>) -> Result<()>,
) -> Result<Result<(), Unpacked>> {
    let mut scanner = Scanner { text, at: 0 };
    let mut values = vec![Value::Null; columns];
    if !scanner.eat(b'[') {
        return Ok(Err(Unpacked::Damaged(0)));
    }
    if scanner.eat(b']') {
        return Ok(Ok(()));
    }
    loop {
        let mut not_utf8 = None;
        if let Err(error) = scanner.row(&mut values, &mut not_utf8) {
            return Ok(Err(error));
        }
        row(&mut values, not_utf8)?;
        match scanner.next() {
            Some(b',') => {}
            Some(b']') => return Ok(Ok(())),
            _ => return Ok(Err(Unpacked::Damaged(scanner.at))),
        }
    }
}

const TWO_TO_62: f64 = (1_u64 << 62) as f64;

struct Scanner<'a> {
    text: &'a [u8],
    at: usize,
}

impl Scanner<'_> {
    fn next(&mut self) -> Option<u8> {
        let byte = self.text.get(self.at).copied();
        self.at += 1;
        byte
    }

    fn eat(&mut self, byte: u8) -> bool {
        let found = self.text.get(self.at) == Some(&byte);
        self.at += usize::from(found);
        found
    }

    fn damaged<T>(&self) -> Result<T, Unpacked> {
        Err(Unpacked::Damaged(self.at))
    }

    fn row(&mut self, values: &mut [Value], bad: &mut Option<usize>) -> Result<(), Unpacked> {
        if !self.eat(b'[') {
            return self.damaged();
        }
        for (index, value) in values.iter_mut().enumerate() {
            if index > 0 && !self.eat(b',') {
                return self.damaged();
            }
            *value = match self.text.get(self.at) {
                Some(b'"') => {
                    self.at += 1;
                    match String::from_utf8(self.string()?) {
                        Ok(text) => Value::Text(text),
                        Err(_) => {
                            *bad = Some(index);
                            Value::Null
                        }
                    }
                }
                Some(b'n') => {
                    self.at += 4;
                    Value::Null
                }
                Some(b'[') => {
                    self.at += 1;
                    let value = if self.text.get(self.at) == Some(&b'"') {
                        Value::Blob(self.blob()?)
                    } else {
                        Value::Real(self.real()?)
                    };
                    if !self.eat(b']') {
                        return self.damaged();
                    }
                    value
                }
                Some(b'-' | b'0'..=b'9') => self.number()?,
                _ => return self.damaged(),
            };
        }
        if self.eat(b']') { Ok(()) } else { self.damaged() }
    }

    fn number(&mut self) -> Result<Value, Unpacked> {
        let token = self.token()?;
        if !token.bytes().any(|byte| matches!(byte, b'.' | b'e' | b'E')) {
            return token.parse().map(Value::Integer).or_else(|_| self.damaged());
        }
        match token.parse::<f64>() {
            // No other float is printed like one of these.
            Ok(real) if real.is_infinite() || real == 0.0 => Ok(Value::Real(real)),
            Ok(_) => Err(Unpacked::Inexact),
            Err(_) => self.damaged(),
        }
    }

    /// A float from its parts.
    fn real(&mut self) -> Result<f64, Unpacked> {
        let whole: i64 = self.token()?.parse().or_else(|_| self.damaged())?;
        let mut fraction = 0_i64;
        let mut shift = 0_i32;
        if self.eat(b',') {
            fraction = self.token()?.parse().or_else(|_| self.damaged())?;
        }
        if self.eat(b',') {
            shift = self.token()?.parse().or_else(|_| self.damaged())?;
        }
        // Each part is a float already and so is the sum, which is why nothing is rounded.
        Ok((whole as f64 + fraction as f64 / TWO_TO_62) * 2_f64.powi(shift))
    }

    fn token(&mut self) -> Result<&str, Unpacked> {
        let rest = &self.text[self.at..];
        let length = rest.iter().position(|byte| matches!(byte, b',' | b']')).unwrap_or(rest.len());
        self.at += length;
        str::from_utf8(&rest[..length]).map_err(|_| Unpacked::Damaged(self.at))
    }

    /// The bytes of a string, whose opening quote has been read.
    fn string(&mut self) -> Result<Vec<u8>, Unpacked> {
        let mut out = Vec::new();
        loop {
            let rest = self.text.get(self.at..).unwrap_or_default();
            let plain = rest.iter().position(|byte| matches!(byte, b'"' | b'\\')).unwrap_or(rest.len());
            out.extend_from_slice(&rest[..plain]);
            self.at += plain;
            match self.next() {
                Some(b'"') => return Ok(out),
                Some(b'\\') => match self.next() {
                    Some(byte @ (b'"' | b'\\' | b'/')) => out.push(byte),
                    Some(b'b') => out.push(8),
                    Some(b'f') => out.push(12),
                    Some(b'n') => out.push(b'\n'),
                    Some(b'r') => out.push(b'\r'),
                    Some(b't') => out.push(b'\t'),
                    // SQLite escapes control characters only, which are one byte in UTF-8.
                    Some(b'u') => {
                        let digits =
                            self.text.get(self.at..self.at + 4).and_then(|hex| str::from_utf8(hex).ok());
                        match digits.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
                            Some(byte) if byte < 0x80 => out.push(byte),
                            _ => return self.damaged(),
                        }
                        self.at += 4;
                    }
                    _ => return self.damaged(),
                },
                _ => return self.damaged(),
            }
        }
    }

    /// The bytes behind hexadecimal digits in quotes.
    fn blob(&mut self) -> Result<Vec<u8>, Unpacked> {
        if !self.eat(b'"') {
            return self.damaged();
        }
        let mut out = Vec::new();
        loop {
            let high = match self.next() {
                Some(b'"') => return Ok(out),
                digit => digit,
            };
            match (hex(high), hex(self.next())) {
                (Some(high), Some(low)) => out.push(high << 4 | low),
                _ => return self.damaged(),
            }
        }
    }
}

fn hex(digit: Option<u8>) -> Option<u8> {
    match digit? {
        digit @ b'0'..=b'9' => Some(digit - b'0'),
        digit @ b'A'..=b'F' => Some(digit - b'A' + 10),
        _ => None,
    }
}
