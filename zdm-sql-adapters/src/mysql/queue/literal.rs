use std::fmt::{Display, Write};
use std::time::Duration;

/// `x'..'`, or NULL.
pub(super) fn bytes(out: &mut String, bytes: Option<&[u8]>) {
    const DIGITS: [u8; 16] = *b"0123456789abcdef";
    let Some(bytes) = bytes else {
        out.push_str("NULL");
        return;
    };
    out.reserve(bytes.len() * 2 + 3);
    out.push_str("x'");
    for byte in bytes {
        out.push(char::from(DIGITS[usize::from(byte >> 4)]));
        out.push(char::from(DIGITS[usize::from(byte & 15)]));
    }
    out.push('\'');
}

/// A text, or NULL.
pub(super) fn text(out: &mut String, text: Option<&str>) {
    match text {
        None => out.push_str("NULL"),
        Some(text) => {
            out.push_str("CONVERT(");
            bytes(out, Some(text.as_bytes()));
            out.push_str(" USING utf8mb4)");
        }
    }
}

/// A number.
pub(super) fn number(out: &mut String, number: impl Display) {
    // Writing to a string cannot fail.
    let _ = write!(out, "{number}");
}

/// `one,two,three`.
pub(super) fn list<T>(
    out: &mut String,
    items: impl IntoIterator<Item = T>,
    mut write: impl FnMut(&mut String, T),
) {
    for (place, item) in items.into_iter().enumerate() {
        if place > 0 {
            out.push(',');
        }
        write(out, item);
    }
}

/// A moment so long after now, by the server's clock.
pub(super) fn from_now(after: Duration) -> String {
    format!("UTC_TIMESTAMP(6) + INTERVAL {} MICROSECOND", micros(after))
}

pub(super) fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX / 2)
}
