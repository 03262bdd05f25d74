use zdm_core::clock::Clock;

use crate::bucketing::{Bucketing, Murmur, cbor};
use crate::definition::finding::{At, Findings};
use crate::definition::parse::names;
use crate::definition::{Metadata, Variant};
use crate::evaluation::Context;
use crate::evaluation::compiled::{RAMP, text_of};

/// `zdm.ramp`: for each variant, the share of subjects at or past it, over time.
#[derive(Clone, Debug)]
pub(crate) struct Ramp {
    prefix: Murmur,
    bucketing: Bucketing,
    pub(crate) tracks: Box<[Track]>,
}

/// The share of subjects at or past a variant.
#[derive(Clone, Debug)]
pub(crate) struct Track {
    pub(crate) variant: u32,
    /// Times in seconds since 1970, ascending, with the share out of 2^32.
    points: Box<[(i64, u64)]>,
}

/// All subjects.
pub(crate) const ALL: u64 = 1 << 32;

impl Track {
    pub(crate) fn share(&self, time: i64) -> u64 {
        let after = self.points.partition_point(|(at, _)| *at <= time);
        let (before, after) =
            (after.checked_sub(1).and_then(|at| self.points.get(at)), self.points.get(after));
        match (before, after) {
            (None, None) => 0,
            (Some((_, share)), None) | (None, Some((_, share))) => *share,
            (Some((from, start)), Some((until, end))) => {
                let (start, end) = (i128::from(*start), i128::from(*end));
                let (passed, length) = (i128::from(time - from), i128::from(until - from));
                // Between 0 and 2^32, because both ends are.
                u64::try_from(start + (end - start) * passed / length).unwrap_or(0)
            }
        }
    }
}

impl Ramp {
    pub(crate) fn of(
        metadata: &Metadata,
        at: &At<'_>,
        key: &str,
        bucketing: Bucketing,
        variants: &[Variant],
        findings: &mut Findings,
    ) -> Option<Self> {
        let text = text_of(metadata, RAMP, at, findings)?;
        let at = at.key(RAMP);
        if !matches!(bucketing, Bucketing::FlagdV2 | Bucketing::FlagdV3) {
            findings.fault(
                &at,
                format!("a ramp needs the bucketing flagd-v2 or flagd-v3, this flag has {bucketing}"),
            );
            return None;
        }
        let mut tracks: Vec<Track> = Vec::new();
        for part in text.split(';').map(str::trim).filter(|part| !part.is_empty()) {
            match track(part, variants) {
                Ok(track) if tracks.iter().any(|known| known.variant == track.variant) => {
                    findings.fault(&at, format!("{part:?}: this variant has a track already"));
                }
                Ok(track) => tracks.push(track),
                Err(message) => findings.fault(&at, format!("{part:?}: {message}")),
            }
        }
        if tracks.is_empty() {
            findings.fault(&at, "no variant ramps; write \"VARIANT: SHARE% @ TIME, SHARE% @ TIME; ..\"");
            return None;
        }
        let prefix = bucketing.prefix(key, key, false);
        Some(Self { prefix, bucketing, tracks: tracks.into_boxed_slice() })
    }

    /// The variant of this subject now; `None` where it is not reached yet or has no key.
    pub(crate) fn land(&self, cx: &Context<'_>, clock: &dyn Clock) -> Option<u32> {
        let key = cx.targeting_key().filter(|key| !key.is_empty())?;
        let mut hash = self.prefix;
        if self.bucketing == Bucketing::FlagdV3 {
            cbor::text_header(key.len(), &mut hash);
        }
        hash.update(key.as_bytes());
        let hash = u64::from(hash.finish());
        let time = cx
            .unix_seconds()
            .unwrap_or_else(|| i64::try_from(clock.unix_millis() / 1_000).unwrap_or(i64::MAX));
        // The last track that has reached the subject. The highest hashes go first, as they do where
        // buckets are written in the order of the variants.
        let reached = self.tracks.iter().rev().find(|track| hash >= ALL - track.share(time));
        reached.map(|track| track.variant)
    }

    pub(crate) fn bends(&self, into: &mut Vec<i64>) {
        into.extend(self.tracks.iter().flat_map(|track| track.points.iter().map(|(time, _)| *time)));
    }
}

fn track(part: &str, variants: &[Variant]) -> Result<Track, String> {
    // A phase may have a colon of its own, as in `ramp:10`.
    let (name, points) = part.rsplit_once(": ").ok_or("write \"VARIANT: SHARE% @ TIME, SHARE% @ TIME\"")?;
    let name = name.trim();
    let variant = (0..).zip(variants).find(|(_, variant)| variant.name() == name).map(|(index, _)| index);
    let variant =
        variant.ok_or_else(|| format!("there is no variant {name:?}; there are {}", names(variants)))?;
    let mut parsed: Vec<(i64, u64)> = Vec::new();
    for point in points.split(',').map(str::trim) {
        let (share, time) =
            point.split_once('@').ok_or_else(|| format!("{point:?} is no point; write \"SHARE% @ TIME\""))?;
        let share = share.trim().trim_end_matches('%').trim_end();
        let percent: f64 = share.parse().map_err(|_| format!("{share:?} is no percentage"))?;
        if !(0.0..=100.0).contains(&percent) {
            return Err(format!("{percent} is not between 0 and 100 %"));
        }
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            clippy::cast_precision_loss,
            reason = "between 0 and 2^32"
        )]
        let share = (percent / 100.0 * ALL as f64).round() as u64;
        let time = parse_time(time.trim()).ok_or_else(|| {
            format!(
                "{:?} is no time; write 2026-03-01, 2026-03-01T12:00:00Z or seconds since 1970",
                time.trim()
            )
        })?;
        if parsed.last().is_some_and(|(before, _)| *before >= time) {
            return Err("the times must ascend".to_owned());
        }
        parsed.push((time, share));
    }
    Ok(Track { variant, points: parsed.into_boxed_slice() })
}

/// Seconds since 1970, or a date in UTC with or without a time.
fn parse_time(text: &str) -> Option<i64> {
    if let Ok(seconds) = text.parse::<i64>() {
        // From 1973 on, so that a bare year is not taken for a time, and far from an overflow.
        return (100_000_000..1 << 40).contains(&seconds).then_some(seconds);
    }
    let (date, time) = text.split_once('T').unwrap_or((text, "00:00:00Z"));
    let numbers = |text: &str, separator: char| -> Option<[i64; 3]> {
        let mut parts = text.split(separator).map(|part| {
            let digits =
                !part.is_empty() && part.len() <= 4 && part.bytes().all(|byte| byte.is_ascii_digit());
            digits.then(|| part.parse().ok()).flatten()
        });
        let numbers = [parts.next()??, parts.next()??, parts.next()??];
        parts.next().is_none().then_some(numbers)
    };
    let [year, month, day] = numbers(date, '-')?;
    let [hour, minute, second] = numbers(time.strip_suffix('Z')?, ':')?;
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let days_in_month = match month {
        4 | 6 | 9 | 11 => 30,
        2 => 28 + i64::from(leap),
        1..=12 => 31,
        _ => return None,
    };
    if !(1970..=9999).contains(&year) || !(1..=days_in_month).contains(&day) {
        return None;
    }
    if hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    // Years that begin in March put the leap day at their end.
    let shifted = year - i64::from(month <= 2);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let days = 365 * shifted + shifted / 4 - shifted / 100 + shifted / 400 + day_of_year - 719_468;
    Some(days * 86_400 + hour * 3_600 + minute * 60 + second)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times() {
        assert_eq!(parse_time("1970-01-01"), Some(0));
        assert_eq!(parse_time("2000-02-29T12:00:01Z"), Some(951_825_601));
        assert_eq!(parse_time("2026-03-01"), Some(1_772_323_200));
        assert_eq!(parse_time("1772323200"), Some(1_772_323_200));
        for text in
            ["", "2026", "2026-13-01", "2026-02-29", "2026-01-01T24:00:00Z", "2026-01-01T00:00:00", "+1-1-1"]
        {
            assert_eq!(parse_time(text), None, "{text}");
        }
    }

    #[test]
    fn shares_are_linear_between_the_points() {
        let track = Track { variant: 0, points: vec![(100, 0), (200, ALL)].into() };
        assert_eq!(track.share(0), 0);
        assert_eq!(track.share(100), 0);
        assert_eq!(track.share(150), ALL / 2);
        assert_eq!(track.share(200), ALL);
        assert_eq!(track.share(i64::from(i32::MAX)), ALL);
    }
}
