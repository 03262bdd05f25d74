//! Which subject lands where: pinned in the data, never changed by an upgrade.
//!
//! flagd has had three incompatible bucketings, and at each change about half of a cohort, or nearly all
//! of it, moved. A migration cannot afford that. So a file names its algorithm (`zdm.bucketing`), per flag
//! or per set. With `K` the flag key and `T` the targeting key:
//!
//! | name | hash input | pick |
//! | --- | --- | --- |
//! | `flagd-v1` | first argument, if a string; else `K` and `T` | hash as a signed number, scaled to a float in percent; may miss |
//! | `flagd-v2` | the same | `hash * sum >> 32`, whole numbers only. What files get that name none |
//! | `flagd-v3` | CBOR of the first argument; else CBOR of `[K, T]` | as `flagd-v2` |
//! | `unleash` | group, `:`, subject | `hash % sum + 1`, the gradual rollout of Unleash |
//! | `unleash-variants` | the same, seed 86028157 | the same, the variants of Unleash |
//!
//! The group of the last two is the flag key, or `zdm.group`.

pub(crate) mod cbor;
pub(crate) mod murmur;
mod pick;

use std::fmt;
use std::str::FromStr;

pub(crate) use murmur::Murmur;
pub(crate) use pick::{Shares, pick, thresholds};

/// A way to put subjects into buckets.
///
/// ```
/// use zdm_flags::bucketing::Bucketing;
///
/// assert_eq!("flagd-v2".parse(), Ok(Bucketing::FlagdV2));
/// assert!("flagd".parse::<Bucketing>().is_err(), "nothing is inferred");
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Bucketing {
    /// `flagd-v1`: a float in percent; a subject at the very end may be in no bucket.
    FlagdV1,
    /// `flagd-v2`: whole numbers only.
    #[default]
    FlagdV2,
    /// `flagd-v3`: as `flagd-v2`, over CBOR.
    FlagdV3,
    /// `unleash`: its gradual rollout.
    Unleash,
    /// `unleash-variants`: its variants.
    UnleashVariants,
}

/// The seed that Unleash uses for variants, so that they are independent of the rollout.
const VARIANT_SEED: u32 = 86_028_157;

impl Bucketing {
    pub(crate) const NAMES: &str = "flagd-v1, flagd-v2, flagd-v3, unleash, unleash-variants";

    /// The name in files.
    pub const fn name(self) -> &'static str {
        match self {
            Self::FlagdV1 => "flagd-v1",
            Self::FlagdV2 => "flagd-v2",
            Self::FlagdV3 => "flagd-v3",
            Self::Unleash => "unleash",
            Self::UnleashVariants => "unleash-variants",
        }
    }

    /// The state of the hash before the part that depends on the subject. For a key that is given in the
    /// rule, `explicit`, flagd hashes nothing before it.
    pub(crate) fn prefix(self, flag_key: &str, group: &str, explicit: bool) -> Murmur {
        match self {
            Self::FlagdV1 | Self::FlagdV2 => {
                let mut hash = Murmur::new(0);
                if !explicit {
                    hash.update(flag_key.as_bytes());
                }
                hash
            }
            Self::FlagdV3 => {
                let mut hash = Murmur::new(0);
                if !explicit {
                    hash.update(&[0x82]);
                    cbor::text(flag_key, &mut hash);
                }
                hash
            }
            Self::Unleash | Self::UnleashVariants => {
                let mut hash = Murmur::new(if self == Self::Unleash { 0 } else { VARIANT_SEED });
                hash.update(group.as_bytes());
                hash.update(b":");
                hash
            }
        }
    }
}

impl fmt::Display for Bucketing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A name that is no bucketing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a bucketing; it must be one of {names}", names = Bucketing::NAMES)]
pub struct UnknownBucketing(String);

impl FromStr for Bucketing {
    type Err = UnknownBucketing;

    fn from_str(name: &str) -> Result<Self, UnknownBucketing> {
        [Self::FlagdV1, Self::FlagdV2, Self::FlagdV3, Self::Unleash, Self::UnleashVariants]
            .into_iter()
            .find(|known| known.name() == name)
            .ok_or_else(|| UnknownBucketing(name.to_owned()))
    }
}
