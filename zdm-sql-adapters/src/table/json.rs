//! When two JSON documents are the same: white space, the order of keys and the way a number is written do not
//! matter, every digit of it does.

use std::collections::HashMap;

use serde::Deserialize;
use serde_json::value::RawValue;

/// Documents that are nested deeper are only the same when their texts are.
const DEEPEST: usize = 200;

pub(super) fn same(one: &str, other: &str) -> bool {
    match (parsed::<&RawValue>(one), parsed::<&RawValue>(other)) {
        (Some(one), Some(other)) => same_values(one, other, 0),
        _ => false,
    }
}

fn parsed<'a, T: Deserialize<'a>>(text: &'a str) -> Option<T> {
    serde_json::from_str(text).ok()
}

fn same_values(one: &RawValue, other: &RawValue, depth: usize) -> bool {
    let (one, other) = (one.get(), other.get());
    if one == other {
        return true;
    }
    if depth == DEEPEST {
        return false;
    }
    let same_inside = |(one, other): (&&RawValue, &&RawValue)| same_values(one, other, depth + 1);
    match (one.as_bytes().first(), other.as_bytes().first()) {
        (Some(b'{'), Some(b'{')) => {
            let members = |text| parsed::<HashMap<String, &RawValue>>(text);
            let (Some(one), Some(other)) = (members(one), members(other)) else { return false };
            one.len() == other.len()
                && one
                    .iter()
                    .all(|(name, value)| other.get(name).is_some_and(|other| same_inside((value, other))))
        }
        (Some(b'['), Some(b'[')) => {
            let (Some(one), Some(other)) = (parsed::<Vec<&RawValue>>(one), parsed::<Vec<&RawValue>>(other))
            else {
                return false;
            };
            one.len() == other.len() && one.iter().zip(&other).all(same_inside)
        }
        (Some(b'"'), Some(b'"')) => parsed::<String>(one) == parsed::<String>(other),
        (Some(b'-' | b'0'..=b'9'), Some(b'-' | b'0'..=b'9')) => match (number(one), number(other)) {
            (Some(one), Some(other)) => one == other,
            _ => false,
        },
        _ => false,
    }
}

/// A number as its sign, its digits without zeros around them, and the power of ten of the last one. `None` for a
/// power beyond all measure.
fn number(text: &str) -> Option<(bool, String, i64)> {
    let (mantissa, power) = text.split_once(['e', 'E']).unwrap_or((text, "0"));
    let power: i64 = power.parse().ok()?;
    let (negative, mantissa) = mantissa.strip_prefix('-').map_or((false, mantissa), |rest| (true, rest));
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let digits = [whole, fraction].concat();
    let kept = digits.trim_end_matches('0');
    let shift = i64::try_from(digits.len() - kept.len()).ok()? - i64::try_from(fraction.len()).ok()?;
    match kept.trim_start_matches('0') {
        "" => Some((false, String::new(), 0)),
        digits => Some((negative, digits.to_owned(), power.checked_add(shift)?)),
    }
}

#[cfg(test)]
mod tests {
    use super::same;

    #[test]
    fn the_way_it_is_written_does_not_matter() {
        for (one, other) in [
            (r#"{"a":1,"b":[true,null]}"#, r#" { "b" : [ true , null ] , "a" : 1 } "#),
            (r#""\u00e9\n""#, "\"é\\n\""),
            ("1", "1.0"),
            ("-0.0", "0"),
            ("1e3", "1000"),
            ("1.50E-2", "0.015"),
            ("12345678901234567890123.10", "12345678901234567890123.1"),
            ("1e999999999", "10E999999998"),
            (r#"{"a":1,"a":2}"#, r#"{"a":2}"#),
        ] {
            assert!(same(one, other) && same(other, one), "{one} {other}");
        }
    }

    #[test]
    fn every_digit_does() {
        for (one, other) in [
            ("12345678901234567890123", "12345678901234567890124"),
            ("0.1", "0.1000000000000000000000001"),
            ("1", "-1"),
            ("1", "10"),
            ("1e400", "1e401"),
            ("1", r#""1""#),
            ("{}", "[]"),
            ("null", "false"),
            ("[1,2]", "[2,1]"),
            ("[1]", "[1,1]"),
            (r#"{"a":1}"#, r#"{"a":1,"b":null}"#),
            (r#"{"a":1}"#, r#"{"b":1}"#),
            ("1e99999999999999999999", "1e99999999999999999998"),
            ("{", "{ "),
        ] {
            assert!(!same(one, other) && !same(other, one), "{one} {other}");
        }
    }

    #[test]
    fn deep_documents_take_no_deep_stack() {
        let deep = |space: &str| format!("{}{space}{}", "[".repeat(100_000), "]".repeat(100_000));
        assert!(!same(&deep(""), &deep(" ")));
        let nested = |space: &str| format!("{}{space}{}", "[".repeat(150), "]".repeat(150));
        assert!(same(&nested(""), &nested(" ")));
    }
}
