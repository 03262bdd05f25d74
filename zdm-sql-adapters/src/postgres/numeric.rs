//! Decimal numbers as PostgreSQL sends them: digits to the base of 10,000.

use crate::table::Decimal;

const POSITIVE: u16 = 0x0000;
const NEGATIVE: u16 = 0x4000;
const NAN: u16 = 0xC000;
const INFINITY: u16 = 0xD000;
const NEGATIVE_INFINITY: u16 = 0xF000;

/// Appends the number as it goes over the wire.
///
/// # Errors
/// When it has more digits than the server takes.
pub(super) fn encode(decimal: &Decimal, out: &mut Vec<u8>) -> Result<(), String> {
    let header = |out: &mut Vec<u8>, digits: u16, weight: i16, sign: u16, scale: u16| {
        out.extend_from_slice(&digits.to_be_bytes());
        out.extend_from_slice(&weight.to_be_bytes());
        out.extend_from_slice(&sign.to_be_bytes());
        out.extend_from_slice(&scale.to_be_bytes());
    };
    let special = match decimal.as_str() {
        "NaN" => Some(NAN),
        "Infinity" => Some(INFINITY),
        "-Infinity" => Some(NEGATIVE_INFINITY),
        _ => None,
    };
    if let Some(sign) = special {
        header(out, 0, 0, sign, 0);
        return Ok(());
    }
    let (sign, text) = match decimal.as_str().strip_prefix('-') {
        Some(text) => (NEGATIVE, text),
        None => (POSITIVE, decimal.as_str()),
    };
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let whole = whole.trim_start_matches('0');
    if whole.len() > 131_072 || fraction.len() > 16_383 {
        return Err("a decimal with more digits than PostgreSQL keeps".to_owned());
    }
    // Groups of four digits on both sides of the point.
    let lead = (4 - whole.len() % 4) % 4;
    let tail = (4 - fraction.len() % 4) % 4;
    let digits = std::iter::repeat_n(b'0', lead)
        .chain(whole.bytes())
        .chain(fraction.bytes())
        .chain(std::iter::repeat_n(b'0', tail));
    let mut groups: Vec<u16> = Vec::with_capacity((whole.len() + fraction.len()) / 4 + 2);
    let mut group = 0;
    for (at, digit) in digits.enumerate() {
        group = group * 10 + u16::from(digit - b'0');
        if at % 4 == 3 {
            groups.push(group);
            group = 0;
        }
    }
    let whole_groups = (whole.len() + lead) / 4;
    let skipped = groups.iter().take_while(|group| **group == 0).count();
    while groups.last() == Some(&0) {
        groups.pop();
    }
    let kept = groups.get(skipped.min(groups.len())..).unwrap_or_default();
    let weight = if kept.is_empty() { 0 } else { whole_groups as i64 - 1 - skipped as i64 };
    let sign = if kept.is_empty() { POSITIVE } else { sign };
    let short =
        |number: usize| u16::try_from(number).map_err(|_| "a decimal with too many digits".to_owned());
    let weight = i16::try_from(weight).map_err(|_| "a decimal out of range".to_owned())?;
    header(out, short(kept.len())?, weight, sign, short(fraction.len())?);
    for group in kept {
        out.extend_from_slice(&group.to_be_bytes());
    }
    Ok(())
}

/// Reads what [`encode`] writes.
///
/// # Errors
/// When the bytes are no number.
pub(super) fn decode(raw: &[u8]) -> Result<Decimal, String> {
    let damaged = || "the bytes are no decimal number".to_owned();
    let (header, groups) = raw.split_at_checked(8).ok_or_else(damaged)?;
    let field = |at: usize| u16::from_be_bytes([header[at], header[at + 1]]);
    let (weight, sign, scale) = (i64::from(field(2).cast_signed()), field(4), usize::from(field(6)));
    let word = match sign {
        NAN => Some("NaN"),
        INFINITY => Some("Infinity"),
        NEGATIVE_INFINITY => Some("-Infinity"),
        POSITIVE | NEGATIVE => None,
        _ => return Err(damaged()),
    };
    if let Some(word) = word {
        return word.parse().map_err(|_| damaged());
    }
    if groups.len() != usize::from(field(0)) * 2 {
        return Err(damaged());
    }
    let mut text = String::with_capacity(groups.len() * 2 + scale + 8);
    if sign == NEGATIVE {
        text.push('-');
    }
    let group = |place: i64| -> u16 {
        // The place 0 stands right before the point.
        usize::try_from(weight - place)
            .ok()
            .and_then(|at| groups.get(at * 2..at * 2 + 2))
            .map_or(0, |bytes| u16::from_be_bytes([bytes[0], bytes[1]]))
    };
    if weight < 0 {
        text.push('0');
    }
    for place in (0..=weight).rev() {
        if place == weight { text.push_str(&group(place).to_string()) } else { push(&mut text, group(place)) }
    }
    if scale > 0 {
        text.push('.');
        let end = text.len() + scale;
        let mut place = -1;
        while text.len() < end {
            push(&mut text, group(place));
            place -= 1;
        }
        text.truncate(end);
    }
    text.parse().map_err(|_| damaged())
}

fn push(text: &mut String, group: u16) {
    for power in [1_000, 100, 10, 1] {
        text.push(char::from(b'0' + u8::try_from(group / power % 10).unwrap_or_default()));
    }
}

/// Whether the number fits `NUMERIC(precision, scale)` without being rounded.
///
/// # Errors
/// A short reason.
pub(super) fn fits(decimal: &Decimal, precision: i32, scale: i32) -> Result<(), String> {
    let text = decimal.as_str();
    let refused = || format!("{decimal} does not fit NUMERIC({precision},{scale})");
    if !decimal.is_finite() {
        return if text == "NaN" { Ok(()) } else { Err(refused()) };
    }
    let text = text.trim_start_matches('-');
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let (whole, fraction) = (whole.trim_start_matches('0'), fraction.trim_end_matches('0'));
    let behind = i32::try_from(fraction.len()).unwrap_or(i32::MAX);
    // Zeros at the end of the whole part, which a negative scale asks for.
    let round = i32::try_from(whole.len() - whole.trim_end_matches('0').len()).unwrap_or(i32::MAX);
    let leading = if whole.is_empty() {
        -i32::try_from(fraction.len() - fraction.trim_start_matches('0').len()).unwrap_or(i32::MAX)
    } else {
        i32::try_from(whole.len()).unwrap_or(i32::MAX)
    };
    let zero = whole.is_empty() && fraction.is_empty();
    let exact = if scale >= 0 { behind <= scale } else { behind == 0 && round >= -scale };
    if zero || exact && leading <= precision - scale { Ok(()) } else { Err(refused()) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_was_written_is_read_again(text in "-?[0-9]{1,30}(\\.[0-9]{1,30})?") {
            let decimal: Decimal = text.parse().unwrap();
            let mut raw = Vec::new();
            encode(&decimal, &mut raw).unwrap();
            let again = decode(&raw).unwrap();
            prop_assert_eq!(again.as_str(), decimal.as_str());
        }

        #[test]
        fn reading_any_bytes_never_panics(raw: Vec<u8>) {
            let _ = decode(&raw);
        }
    }

    #[test]
    fn what_would_be_rounded_does_not_fit() {
        for (text, precision, scale, good) in [
            ("99.99", 4, 2, true),
            ("99.990", 4, 2, true),
            ("100", 4, 2, false),
            ("0.005", 4, 2, false),
            ("NaN", 4, 2, true),
            ("Infinity", 4, 2, false),
            ("12300", 3, -2, true),
            ("12350", 3, -2, false),
            ("0.0012", 2, 4, true),
            ("0.012", 2, 4, false),
            ("0", 2, 4, true),
        ] {
            assert_eq!(
                fits(&text.parse().unwrap(), precision, scale).is_ok(),
                good,
                "{text} in ({precision},{scale})"
            );
        }
    }
}
