use super::Bucketing;

/// The largest weight and the largest sum of weights.
const MOST: i64 = 0x7fff_ffff;

/// Weights that were checked: none negative, the sum between 1 and 2^31 - 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shares {
    sum: u32,
}

impl Shares {
    /// Negative weights count as 0. `None` when a weight or the sum is out of range: then no bucket is
    /// picked at all.
    #[inline]
    pub(crate) fn of(weights: impl Iterator<Item = i64>) -> Option<Self> {
        let mut sum = 0_i64;
        for weight in weights {
            if weight > MOST {
                return None;
            }
            sum += weight.max(0);
            if sum > MOST {
                return None;
            }
        }
        u32::try_from(sum).ok().filter(|sum| *sum > 0).map(|sum| Self { sum })
    }
}

/// The bucket that a hash lands in. `None` only for `flagd-v1`, which may miss.
#[inline]
pub(crate) fn pick(
    bucketing: Bucketing,
    hash: u32,
    shares: Shares,
    weights: impl Iterator<Item = i64>,
) -> Option<usize> {
    match bucketing {
        Bucketing::FlagdV1 => {
            // Scaled to a float in percent and summed up step by step, as its first implementation did:
            // the rounding is part of the algorithm.
            let signed = f64::from(hash.cast_signed());
            let at = signed.abs() / f64::from(i32::MAX) * 100.0;
            let mut end = 0.0;
            for (index, weight) in weights.enumerate() {
                #[expect(clippy::cast_precision_loss, reason = "weights have 31 bits")]
                let weight = weight.max(0) as f64;
                end += 100.0 * weight / f64::from(shares.sum);
                if at < end {
                    return Some(index);
                }
            }
            None
        }
        Bucketing::FlagdV2 | Bucketing::FlagdV3 => {
            let bucket = (u64::from(hash) * u64::from(shares.sum)) >> 32;
            first_above(bucket, weights)
        }
        Bucketing::Unleash | Bucketing::UnleashVariants => first_above(u64::from(hash % shares.sum), weights),
    }
}

#[inline]
fn first_above(bucket: u64, weights: impl Iterator<Item = i64>) -> Option<usize> {
    let mut end = 0;
    for (index, weight) in weights.enumerate() {
        end += weight.max(0).unsigned_abs();
        if end > bucket {
            return Some(index);
        }
    }
    None
}

/// For each bucket, the first hash that is above it, out of 2^32: picking is then one comparison per
/// bucket. Only where a larger hash never means an earlier bucket.
pub(crate) fn thresholds(bucketing: Bucketing, shares: Shares, weights: &[i64]) -> Option<Box<[u64]>> {
    match bucketing {
        Bucketing::FlagdV2 | Bucketing::FlagdV3 => {
            let mut end = 0;
            let ends = weights.iter().map(|weight| {
                end += weight.max(&0).unsigned_abs();
                (end << 32).div_ceil(u64::from(shares.sum))
            });
            Some(ends.collect())
        }
        Bucketing::FlagdV1 | Bucketing::Unleash | Bucketing::UnleashVariants => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thresholds_pick_as_the_formula_does() {
        let weights = [1_i64, 0, 9, -3, 40, 2_000_000_000, 7];
        let shares = Shares::of(weights.iter().copied()).unwrap();
        let ends = thresholds(Bucketing::FlagdV2, shares, &weights).unwrap();
        let near = ends.iter().flat_map(|end| [end.saturating_sub(1), *end, end + 1]);
        let spread = (0..100_000_u64).map(|step| step * 42_949);
        for hash in near.chain(spread).filter_map(|hash| u32::try_from(hash).ok()) {
            let formula = pick(Bucketing::FlagdV2, hash, shares, weights.iter().copied());
            let compared = ends.iter().position(|end| u64::from(hash) < *end);
            assert_eq!(formula, compared, "{hash}");
        }
    }

    #[test]
    fn weights_out_of_range_are_refused() {
        let shares = |weights: &[i64]| Shares::of(weights.iter().copied()).map(|shares| shares.sum);
        assert_eq!(shares(&[0, 0]), None);
        assert_eq!(shares(&[-1]), None);
        assert_eq!(shares(&[-50, 100]), Some(100));
        assert_eq!(shares(&[MOST]), Some(0x7fff_ffff));
        assert_eq!(shares(&[MOST, 1]), None);
        assert_eq!(shares(&[MOST + 1]), None);
        assert_eq!(shares(&[i64::MAX, i64::MAX]), None);
    }
}
