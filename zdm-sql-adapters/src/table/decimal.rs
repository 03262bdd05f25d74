use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;

/// A decimal number of any precision, kept as it was written.
///
/// Equality and order are those of the numbers: trailing zeros do not count. As in PostgreSQL, NaN equals
/// itself and is greater than every number.
///
/// ```
/// use zdm_sql_adapters::table::Decimal;
///
/// let decimal = |text: &str| text.parse::<Decimal>().unwrap();
/// assert_eq!(decimal("-0012.340"), decimal("-12.34"));
/// assert_eq!(decimal("12.340").to_string(), "12.340");
/// assert!(decimal("-1e3") < decimal("0.001") && decimal("9") < decimal("NaN"));
/// assert!("12,5".parse::<Decimal>().is_err());
/// ```
#[derive(Clone, Debug)]
pub struct Decimal(String);

impl Decimal {
    /// The text: an optional minus, digits, and an optional fraction; or `NaN`, `Infinity`, `-Infinity`.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// How many digits stand behind the point.
    pub fn scale(&self) -> usize {
        self.0.split_once('.').map_or(0, |(_, fraction)| fraction.len())
    }

    /// Whether it is a number, and neither NaN nor an infinity.
    pub fn is_finite(&self) -> bool {
        self.0.ends_with(|last: char| last.is_ascii_digit())
    }

    /// What decides equality and order: the class or sign, the power of ten above the first digit, and the
    /// digits without zeros at either end.
    pub(crate) fn parts(&self) -> (Rank, i32, &[u8], &[u8]) {
        let rank = match self.0.as_str() {
            "NaN" => Rank::NaN,
            "Infinity" => Rank::Infinity,
            "-Infinity" => Rank::NegativeInfinity,
            text if text.starts_with('-') => Rank::Negative,
            _ => Rank::Positive,
        };
        if !self.is_finite() {
            return (rank, 0, b"", b"");
        }
        let text = self.0.trim_start_matches('-');
        let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
        let (whole, fraction) = (whole.trim_start_matches('0'), fraction.trim_end_matches('0'));
        let length = |text: &str| i32::try_from(text.len()).unwrap_or(i32::MAX);
        if whole.is_empty() {
            let digits = fraction.trim_start_matches('0');
            if digits.is_empty() {
                return (Rank::Zero, 0, b"", b"");
            }
            return (rank, -length(&fraction[..fraction.len() - digits.len()]), b"", digits.as_bytes());
        }
        let whole_digits = if fraction.is_empty() { whole.trim_end_matches('0') } else { whole };
        (rank, length(whole), whole_digits.as_bytes(), fraction.as_bytes())
    }
}

/// The classes of decimals, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Rank {
    NegativeInfinity,
    Negative,
    Zero,
    Positive,
    Infinity,
    NaN,
}

impl PartialEq for Decimal {
    fn eq(&self, other: &Self) -> bool {
        self.0 == other.0 || self.cmp(other).is_eq()
    }
}

impl Eq for Decimal {}

impl PartialOrd for Decimal {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Decimal {
    fn cmp(&self, other: &Self) -> Ordering {
        let ((rank, power, whole, fraction), (rank2, power2, whole2, fraction2)) =
            (self.parts(), other.parts());
        rank.cmp(&rank2).then_with(|| {
            let digits = whole.iter().chain(fraction).cmp(whole2.iter().chain(fraction2));
            let size = power.cmp(&power2).then(digits);
            if rank == Rank::Negative { size.reverse() } else { size }
        })
    }
}

impl std::hash::Hash for Decimal {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        let (rank, power, whole, fraction) = self.parts();
        (rank, power).hash(state);
        whole.iter().chain(fraction).for_each(|digit| digit.hash(state));
    }
}

impl fmt::Display for Decimal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl From<i64> for Decimal {
    fn from(number: i64) -> Self {
        Self(number.to_string())
    }
}

/// The text is no decimal number.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no decimal number")]
pub struct NotDecimal(String);

impl FromStr for Decimal {
    type Err = NotDecimal;

    /// Takes digits with an optional sign, point and exponent, and the words for NaN and the infinities.
    fn from_str(text: &str) -> Result<Self, NotDecimal> {
        let refused = || NotDecimal(text.chars().take(64).collect());
        let (negative, rest) = match text.as_bytes() {
            [b'-', ..] => (true, &text[1..]),
            [b'+', ..] => (false, &text[1..]),
            _ => (false, text),
        };
        if rest.eq_ignore_ascii_case("nan") && rest.len() == text.len() {
            return Ok(Self("NaN".to_owned()));
        }
        if ["inf", "infinity"].iter().any(|word| rest.eq_ignore_ascii_case(word)) {
            return Ok(Self(if negative { "-Infinity" } else { "Infinity" }.to_owned()));
        }
        let (mantissa, exponent) = match rest.split_once(['e', 'E']) {
            Some((mantissa, exponent)) => (mantissa, exponent.parse::<i32>().map_err(|_| refused())?),
            None => (rest, 0),
        };
        let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
        let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
        if whole.len() + fraction.len() == 0
            || !digits(whole)
            || !digits(fraction)
            || exponent.abs() > 200_000
        {
            return Err(refused());
        }
        let (mut whole, mut fraction) = (whole.to_owned(), fraction.to_owned());
        for _ in 0..exponent {
            whole.push(if fraction.is_empty() { '0' } else { fraction.remove(0) });
        }
        if exponent < 0 {
            let shift = usize::try_from(-exponent).unwrap_or_default();
            let padded = format!("{whole:0>width$}", width = shift + 1);
            let (left, right) = padded.split_at(padded.len() - shift);
            fraction.insert_str(0, right);
            whole = left.to_owned();
        }
        let kept = whole.trim_start_matches('0');
        let whole = if kept.is_empty() { "0" } else { kept };
        let zero = whole == "0" && fraction.bytes().all(|digit| digit == b'0');
        let sign = if negative && !zero { "-" } else { "" };
        let point = if fraction.is_empty() { "" } else { "." };
        Ok(Self(format!("{sign}{whole}{point}{fraction}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decimal(text: &str) -> Decimal {
        text.parse().unwrap()
    }

    #[test]
    fn the_order_is_that_of_the_numbers() {
        let ascending = [
            "-Infinity",
            "-100",
            "-99.9",
            "-1.01",
            "-1",
            "-0.5",
            "-0.05",
            "0",
            "0.005",
            "0.05",
            "0.5",
            "0.50001",
            "1",
            "1.01",
            "9",
            "10",
            "10.5",
            "99999999999999999999",
            "1e30",
            "Infinity",
            "NaN",
        ];
        for (at, left) in ascending.iter().enumerate() {
            for (other, right) in ascending.iter().enumerate() {
                assert_eq!(decimal(left).cmp(&decimal(right)), at.cmp(&other), "{left} and {right}");
            }
        }
    }

    #[test]
    fn texts_of_the_same_number_are_equal_and_keep_their_digits() {
        for (text, kept, same) in [
            ("1.50", "1.50", "1.5"),
            ("-0", "0", "0.000"),
            ("+007", "7", "7.0"),
            ("1.5e3", "1500", "1500"),
            ("15e-3", "0.015", "0.0150"),
            (".5", "0.5", "0.5"),
            ("5.", "5", "5"),
            ("100", "100", "1e2"),
        ] {
            assert_eq!(decimal(text).as_str(), kept);
            assert_eq!(decimal(text), decimal(same), "{text} and {same}");
        }
        for text in ["", "-", ".", "1.2.3", "0x1", "1e", "1e999999", "--1", "-nan"] {
            assert!(text.parse::<Decimal>().is_err(), "{text}");
        }
    }
}
