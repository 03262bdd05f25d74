use std::cmp::Ordering;

/// A semantic version, borrowed from its text: reading one costs no memory.
///
/// Reads what flagd reads: a leading `v` or `V`, and one or two numbers where the rest is 0.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Version<'a> {
    numbers: [u64; 3],
    /// Without the `-`; empty for a release.
    pre: &'a str,
}

impl<'a> Version<'a> {
    #[inline]
    pub(crate) fn parse(text: &'a str) -> Option<Self> {
        let text = text.strip_prefix(['v', 'V']).unwrap_or(text);
        let bytes = text.as_bytes();
        let mut numbers = [0_u64; 3];
        let mut at = 0;
        for (index, number) in numbers.iter_mut().enumerate() {
            let start = at;
            while let Some(digit) = bytes.get(at).filter(|byte| byte.is_ascii_digit()) {
                *number = number.checked_mul(10)?.checked_add(u64::from(digit - b'0'))?;
                at += 1;
            }
            // No digit, or a zero in front of others.
            if at == start || (at - start > 1 && bytes[start] == b'0') {
                return None;
            }
            if index == 2 || bytes.get(at) != Some(&b'.') {
                break;
            }
            at += 1;
        }
        let rest = &text[at..];
        if rest.is_empty() {
            return Some(Self { numbers, pre: "" });
        }
        Self::with_labels(numbers, rest)
    }

    fn with_labels(numbers: [u64; 3], rest: &'a str) -> Option<Self> {
        let (rest, build) = match rest.split_once('+') {
            Some((rest, build)) => (rest, Some(build)),
            None => (rest, None),
        };
        if build.is_some_and(|build| !build.split('.').all(is_label)) {
            return None;
        }
        let pre = match rest.strip_prefix('-') {
            Some(pre) => pre,
            None if rest.is_empty() => return Some(Self { numbers, pre: "" }),
            None => return None,
        };
        let valid = pre
            .split('.')
            .all(|label| is_label(label) && !(label.len() > 1 && label.starts_with('0') && is_number(label)));
        valid.then_some(Self { numbers, pre })
    }

    pub(crate) fn parts(&self) -> ([u64; 3], &'a str) {
        (self.numbers, self.pre)
    }

    #[inline]
    pub(crate) fn from_parts(numbers: [u64; 3], pre: &'a str) -> Self {
        Self { numbers, pre }
    }

    pub(crate) fn same_minor(&self, other: &Version<'_>) -> bool {
        self.numbers[..2] == other.numbers[..2]
    }

    pub(crate) fn same_major(&self, other: &Version<'_>) -> bool {
        self.numbers[0] == other.numbers[0]
    }

    /// The order of semantic versions; build labels do not count.
    #[inline]
    pub(crate) fn compare(&self, other: &Version<'_>) -> Ordering {
        self.numbers.cmp(&other.numbers).then_with(|| match (self.pre, other.pre) {
            ("", "") => Ordering::Equal,
            ("", _) => Ordering::Greater,
            (_, "") => Ordering::Less,
            (mine, theirs) => compare_labels(mine, theirs),
        })
    }
}

fn compare_labels(mine: &str, theirs: &str) -> Ordering {
    let (mut mine, mut theirs) = (mine.split('.'), theirs.split('.'));
    loop {
        let (a, b) = match (mine.next(), theirs.next()) {
            (None, None) => return Ordering::Equal,
            (None, Some(_)) => return Ordering::Less,
            (Some(_), None) => return Ordering::Greater,
            (Some(a), Some(b)) => (a, b),
        };
        let order = match (is_number(a), is_number(b)) {
            // Without leading zeros, the longer number is the larger one.
            (true, true) => a.len().cmp(&b.len()).then_with(|| a.cmp(b)),
            (true, false) => Ordering::Less,
            (false, true) => Ordering::Greater,
            (false, false) => a.cmp(b),
        };
        if order != Ordering::Equal {
            return order;
        }
    }
}

fn is_label(label: &str) -> bool {
    !label.is_empty() && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
}

fn is_number(label: &str) -> bool {
    label.bytes().all(|byte| byte.is_ascii_digit())
}

/// How `sem_ver` compares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum VersionTest {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
    /// `~`: the same major and minor number.
    Minor,
    /// `^`: the same major number.
    Major,
}

impl VersionTest {
    pub(crate) fn parse(symbol: &str) -> Option<Self> {
        Some(match symbol {
            "=" => Self::Equal,
            "!=" => Self::NotEqual,
            "<" => Self::Less,
            "<=" => Self::LessOrEqual,
            ">" => Self::Greater,
            ">=" => Self::GreaterOrEqual,
            "~" => Self::Minor,
            "^" => Self::Major,
            _ => return None,
        })
    }

    #[inline]
    pub(crate) fn holds(self, version: &Version<'_>, bound: &Version<'_>) -> bool {
        match self {
            Self::Equal => version.compare(bound).is_eq(),
            Self::NotEqual => version.compare(bound).is_ne(),
            Self::Less => version.compare(bound).is_lt(),
            Self::LessOrEqual => version.compare(bound).is_le(),
            Self::Greater => version.compare(bound).is_gt(),
            Self::GreaterOrEqual => version.compare(bound).is_ge(),
            Self::Minor => version.same_minor(bound),
            Self::Major => version.same_major(bound),
        }
    }
}

/// Whether a literal is a version as the schema wants it: all three numbers, no `v`.
pub(crate) fn is_strict(text: &str) -> bool {
    let core = text.split(['-', '+']).next().unwrap_or_default();
    !text.starts_with(['v', 'V']) && core.split('.').count() == 3 && Version::parse(text).is_some()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// The `semver` crate is the oracle, for everything that it reads.
        #[test]
        fn orders_as_the_reference_does(
            a in "[0-3]\\.(0|1[0-9])\\.[0-9](-[0a-c1-3]{1,2}(\\.[0a-b1-2]{1,2})?)?(\\+[a-z0]{1,3})?",
            b in "[0-3]\\.(0|1[0-9])\\.[0-9](-[0a-c1-3]{1,2}(\\.[0a-b1-2]{1,2})?)?(\\+[a-z0]{1,3})?",
        ) {
            let reference = |text: &str| semver::Version::parse(text).ok();
            prop_assert_eq!(Version::parse(&a).is_some(), reference(&a).is_some(), "{}", a);
            if let (Some(x), Some(y)) = (reference(&a), reference(&b)) {
                let (mine, theirs) = (Version::parse(&a).unwrap(), Version::parse(&b).unwrap());
                prop_assert_eq!(mine.compare(&theirs), x.cmp_precedence(&y), "{} {}", a, b);
            }
        }
    }

    #[test]
    fn lenient_forms() {
        for (text, expected) in
            [("v1.0.0", [1, 0, 0]), ("1", [1, 0, 0]), ("1.2", [1, 2, 0]), ("V3", [3, 0, 0])]
        {
            assert_eq!(Version::parse(text).unwrap().numbers, expected, "{text}");
        }
        for text in [
            "",
            "v",
            "1.",
            "1..2",
            "01.0.0",
            "2.0.0.0",
            "1.0.0-",
            "1.0.0+",
            "1.0.0-01",
            "x",
            "99999999999999999999",
        ] {
            assert!(Version::parse(text).is_none(), "{text}");
        }
        assert!(is_strict("1.0.0-a+b"));
        assert!(!is_strict("v1.0.0") && !is_strict("1.0"));
    }
}
