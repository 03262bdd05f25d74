//! Rows that cross from SQLite's thread to ours as one JSON text.
//!
//! sqlx hands every row over a channel and every value through an allocation of its own; one text for
//! a page takes a fifth of the time. What JSON cannot say is said so that nothing is lost: a real is
//! printed with 17 digits, which bring every float back, an infinity as a number too large for a float,
//! a blob as an array around its hexadecimal digits. Only the sign of a zero may be lost.

use std::str;

use zdm_core::error::{Error, Kind, Result};

use super::shape::{Affinity, Column, quoted};
use crate::table::Value;

/// The expression that packs a column.
///
/// `exact` guards every column. Otherwise those are left bare that nearly always hold what JSON can say:
/// the scanner sees a real in one and SQLite refuses a blob, and the page is read again with `exact`.
pub(super) fn expression(column: &Column, exact: bool) -> String {
    let name = quoted(&column.name);
    match column.affinity {
        Affinity::Integer | Affinity::Text if !exact => name,
        _ => format!(
            "CASE typeof({name}) WHEN 'real' THEN json(printf('%!.17g', {name})) \
             WHEN 'blob' THEN json_array(hex({name})) ELSE {name} END"
        ),
    }
}

/// Why a page could not be scanned.
#[derive(Debug)]
pub(super) enum Unpacked {
    /// A real stood in a column that was packed bare: its digits are cut.
    Inexact,
    /// The text is not what the statement makes.
    Damaged(usize),
}

impl From<Unpacked> for Error {
    fn from(unpacked: Unpacked) -> Self {
        match unpacked {
            Unpacked::Inexact => Self::new(Kind::Rejected, "a page holds a real where none was expected"),
            Unpacked::Damaged(at) => {
                Self::new(Kind::Damaged, format!("a page of rows cannot be read at byte {at}"))
            }
        }
    }
}

/// Reads a page: an array of arrays. Calls `row` with the values of each row; text that is not UTF-8
/// comes as an error of its place.
pub(super) fn scan(
    text: &[u8],
    guarded: &[bool],
    mut row: impl FnMut(&mut [Value], Option<usize>) -> Result<()>,
) -> Result<Result<(), Unpacked>> {
    let mut scanner = Scanner { text, at: 0 };
    let mut values = vec![Value::Null; guarded.len()];
    if !scanner.eat(b'[') {
        return Ok(Err(Unpacked::Damaged(0)));
    }
    if scanner.eat(b']') {
        return Ok(Ok(()));
    }
    loop {
        let mut not_utf8 = None;
        if let Err(error) = scanner.row(guarded, &mut values, &mut not_utf8) {
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

    fn row(
        &mut self,
        guarded: &[bool],
        values: &mut [Value],
        bad: &mut Option<usize>,
    ) -> Result<(), Unpacked> {
        if !self.eat(b'[') {
            return self.damaged();
        }
        for index in 0..values.len() {
            if index > 0 && !self.eat(b',') {
                return self.damaged();
            }
            values[index] = match self.text.get(self.at) {
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
                    let blob = self.blob()?;
                    if !self.eat(b']') {
                        return self.damaged();
                    }
                    Value::Blob(blob)
                }
                Some(b'-' | b'0'..=b'9') => self.number(guarded[index])?,
                _ => return self.damaged(),
            };
        }
        if self.eat(b']') { Ok(()) } else { self.damaged() }
    }

    fn number(&mut self, guarded: bool) -> Result<Value, Unpacked> {
        let rest = &self.text[self.at..];
        let length = rest.iter().position(|byte| matches!(byte, b',' | b']')).unwrap_or(rest.len());
        let token = str::from_utf8(&rest[..length]).or_else(|_| self.damaged())?;
        let value = if token.bytes().any(|byte| matches!(byte, b'.' | b'e' | b'E')) {
            if !guarded {
                return Err(Unpacked::Inexact);
            }
            token.parse().map(Value::Real).or_else(|_| self.damaged())?
        } else {
            token.parse().map(Value::Integer).or_else(|_| self.damaged())?
        };
        self.at += length;
        Ok(value)
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
