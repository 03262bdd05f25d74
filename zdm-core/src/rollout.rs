//! The one bucket function, shared by flags, read cohorts and sampling.

use std::io::Cursor;

/// MurmurHash3 (x86, 32 bit) of the bytes.
pub fn murmur3_32(bytes: &[u8], seed: u32) -> u32 {
    // Reading from memory cannot fail.
    murmur3::murmur3_32(&mut Cursor::new(bytes), seed).unwrap_or_default()
}

/// The bucket of a subject, in `0..buckets`: the same in every process and every release.
///
/// The salt separates decisions that must be independent of each other. A threshold `t` selects the
/// buckets below `t`, so raising it only adds subjects.
///
/// ```
/// use zdm_core::rollout::bucket;
///
/// let at_10_percent = bucket("orders", b"tenant-7", 10_000) < 1_000;
/// let at_20_percent = bucket("orders", b"tenant-7", 10_000) < 2_000;
/// assert!(!at_10_percent || at_20_percent);
/// ```
pub fn bucket(salt: &str, subject: &[u8], buckets: u32) -> u32 {
    let mut bytes = Vec::with_capacity(salt.len() + 1 + subject.len());
    bytes.extend_from_slice(salt.as_bytes());
    bytes.push(0);
    bytes.extend_from_slice(subject);
    let scaled = (u64::from(murmur3_32(&bytes, 0)) * u64::from(buckets)) >> 32;
    // A product of two 32-bit numbers shifted by 32 fits 32 bits.
    u32::try_from(scaled).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_are_pinned() {
        let seen: Vec<u32> =
            (0..6_u64).map(|subject| bucket("orders", &subject.to_be_bytes(), 10_000)).collect();
        assert_eq!(seen, PINNED, "an upgrade must never move a subject");
    }

    const PINNED: [u32; 6] = [2251, 400, 2255, 5824, 7958, 2932];

    #[test]
    fn buckets_are_even() {
        let mut counts = [0_u32; 10];
        for subject in 0..100_000_u64 {
            counts[bucket("even", &subject.to_be_bytes(), 10) as usize] += 1;
        }
        // Chi-square with 9 degrees of freedom stays below 27.9 in 999 of 1000 fair draws.
        let chi: f64 = counts.iter().map(|n| (f64::from(*n) - 10_000.0).powi(2) / 10_000.0).sum();
        assert!(chi < 27.9, "{counts:?}");
    }
}
