//! What a run has to do and how far it is: ranges, a position in each, and the page that is under way.
//! This is what a checkpoint holds.

use serde::{Deserialize, Serialize};
use zdm_core::error::{Error, Kind, Result};
use zdm_core::key::{Key, KeyBytes, KeyRange};
use zdm_core::queue::Direction;

/// The version of the bytes that [`Plan::encode`] writes.
pub(crate) const FORMAT: u32 = 1;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Plan {
    pub(crate) direction: Direction,
    pub(crate) slices: Vec<Slice>,
    /// Tokens that an abandoned plan left.
    #[serde(with = "ranges_as_hex", default)]
    pub(crate) orphans: Vec<KeyRange>,
}

/// One range of the key space and how far it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Slice {
    #[serde(with = "range_as_hex")]
    pub(crate) range: KeyRange,
    /// The last key that is done; every key of the range up to it is.
    #[serde(with = "key_as_hex")]
    pub(crate) position: Option<KeyBytes>,
    /// A page that may have been written in part: whoever finds this after a crash must reconcile it.
    #[serde(with = "token_as_hex", default)]
    pub(crate) token: Option<KeyRange>,
    pub(crate) rows: u64,
    /// Differences that a verification has confirmed.
    #[serde(default)]
    pub(crate) found: u64,
    pub(crate) done: bool,
}

impl Slice {
    fn new(range: KeyRange) -> Self {
        Self { range, position: None, token: None, rows: 0, found: 0, done: false }
    }

    /// What is left of the range.
    ///
    /// # Errors
    /// `Kind::Damaged` when a bound is not a key of this type.
    pub(crate) fn rest<K: Key>(&self) -> Result<KeyRange<K>> {
        let after = self.position.as_ref().or(self.range.after.as_ref()).cloned();
        KeyRange { after, up_to: self.range.up_to.clone() }.decode()
    }
}

impl Plan {
    pub(crate) fn new<K: Key>(direction: Direction, ranges: &[KeyRange<K>]) -> Self {
        let slices = ranges.iter().map(|range| Slice::new(range.encode())).collect();
        Self { direction, slices, orphans: Vec::new() }
    }

    pub(crate) fn rows(&self) -> u64 {
        self.slices.iter().map(|slice| slice.rows).sum()
    }

    pub(crate) fn found(&self) -> u64 {
        self.slices.iter().map(|slice| slice.found).sum()
    }

    pub(crate) fn is_done(&self) -> bool {
        self.slices.iter().all(|slice| slice.done)
    }

    /// The pages that may have been written in part.
    pub(crate) fn tokens(&self) -> Vec<KeyRange> {
        let of_slices = self.slices.iter().filter_map(|slice| slice.token.clone());
        self.orphans.iter().cloned().chain(of_slices).collect()
    }

    pub(crate) fn forget_tokens(&mut self) {
        self.orphans.clear();
        self.slices.iter_mut().for_each(|slice| slice.token = None);
    }

    pub(crate) fn encode(&self) -> Result<Vec<u8>> {
        serde_json::to_vec(self)
            .map_err(|error| Error::new(Kind::Invalid, "the checkpoint cannot be encoded").with_source(error))
    }

    /// Reads what [`encode`](Self::encode) wrote, and checks that this run can go on from it.
    ///
    /// # Errors
    /// `Kind::Damaged` when it cannot be read; `Kind::Invalid` when it is about another direction or other
    /// keys.
    pub(crate) fn decode<K: Key>(bytes: &[u8], direction: Direction) -> Result<Self> {
        let plan: Self = serde_json::from_slice(bytes)
            .map_err(|error| Error::new(Kind::Damaged, "the plan in it cannot be read").with_source(error))?;
        if plan.direction != direction {
            let message = format!(
                "it was made while the direction was {:?} and it is {direction:?} now, so its positions say \
                 nothing; remove it to begin anew",
                plan.direction
            );
            return Err(Error::new(Kind::Invalid, message));
        }
        for slice in &plan.slices {
            let bounds = [&slice.range.after, &slice.range.up_to, &slice.position].into_iter().flatten();
            for bound in bounds {
                bound.to_key::<K>().map_err(|error| {
                    let message = "it was made for keys of another type; remove it to begin anew";
                    Error::new(Kind::Invalid, message).with_source(error)
                })?;
            }
        }
        Ok(plan)
    }
}

fn to_hex(key: &KeyBytes) -> String {
    key.as_slice().iter().map(|byte| format!("{byte:02x}")).collect()
}

fn from_hex(text: &str) -> Result<KeyBytes, String> {
    let digits: Option<Vec<u8>> =
        text.chars().map(|digit| digit.to_digit(16).and_then(|digit| u8::try_from(digit).ok())).collect();
    match digits {
        Some(digits) if digits.len() % 2 == 0 => {
            let bytes: Vec<u8> = digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect();
            Ok(KeyBytes::from_slice(&bytes))
        }
        _ => Err(format!("{text:?} is not a key in hexadecimal digits")),
    }
}

mod key_as_hex {
    use super::{KeyBytes, from_hex, to_hex};
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub(super) fn serialize<S: Serializer>(key: &Option<KeyBytes>, serializer: S) -> Result<S::Ok, S::Error> {
        key.as_ref().map(to_hex).serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(input: D) -> Result<Option<KeyBytes>, D::Error> {
        let text = Option::<String>::deserialize(input)?;
        text.map(|text| from_hex(&text)).transpose().map_err(serde::de::Error::custom)
    }
}

/// A range as its two bounds.
#[derive(Serialize, Deserialize)]
struct Bounds {
    #[serde(with = "key_as_hex")]
    after: Option<KeyBytes>,
    #[serde(with = "key_as_hex")]
    up_to: Option<KeyBytes>,
}

impl From<&KeyRange> for Bounds {
    fn from(range: &KeyRange) -> Self {
        Self { after: range.after.clone(), up_to: range.up_to.clone() }
    }
}

impl From<Bounds> for KeyRange {
    fn from(bounds: Bounds) -> Self {
        Self { after: bounds.after, up_to: bounds.up_to }
    }
}

mod range_as_hex {
    use super::{Bounds, KeyRange};
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub(super) fn serialize<S: Serializer>(range: &KeyRange, serializer: S) -> Result<S::Ok, S::Error> {
        Bounds::from(range).serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(input: D) -> Result<KeyRange, D::Error> {
        Bounds::deserialize(input).map(KeyRange::from)
    }
}

mod token_as_hex {
    use super::{Bounds, KeyRange};
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub(super) fn serialize<S: Serializer>(
        token: &Option<KeyRange>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        token.as_ref().map(Bounds::from).serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(input: D) -> Result<Option<KeyRange>, D::Error> {
        Ok(Option::<Bounds>::deserialize(input)?.map(KeyRange::from))
    }
}

mod ranges_as_hex {
    use super::{Bounds, KeyRange};
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub(super) fn serialize<S: Serializer>(ranges: &[KeyRange], serializer: S) -> Result<S::Ok, S::Error> {
        ranges.iter().map(Bounds::from).collect::<Vec<_>>().serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(input: D) -> Result<Vec<KeyRange>, D::Error> {
        Ok(Vec::<Bounds>::deserialize(input)?.into_iter().map(KeyRange::from).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan() -> Plan {
        let ranges = [KeyRange { after: None, up_to: Some(10_u64) }, KeyRange::after(10)];
        let mut plan = Plan::new(Direction::OldToNew, &ranges);
        plan.slices[0].position = Some(KeyBytes::of(&7_u64));
        plan.slices[0].token = Some(KeyRange::between(7_u64, 9).encode());
        plan.slices[0].rows = 7;
        plan.orphans = vec![KeyRange::after(99_u64).encode()];
        plan
    }

    #[test]
    fn the_bytes_bring_the_plan_back() {
        let plan = plan();
        let bytes = plan.encode().unwrap();
        let read = Plan::decode::<u64>(&bytes, Direction::OldToNew).unwrap();
        assert_eq!(read, plan);
        assert_eq!(read.tokens().len(), 2);
        assert_eq!(read.slices[0].rest::<u64>().unwrap(), KeyRange::between(7, 10));
        assert_eq!(read.slices[1].rest::<u64>().unwrap(), KeyRange::after(10));
    }

    #[test]
    fn a_plan_for_something_else_is_refused_with_the_reason() {
        let bytes = plan().encode().unwrap();
        let cases = [
            (Plan::decode::<u64>(&bytes, Direction::NewToOld), Kind::Invalid, "OldToNew"),
            (Plan::decode::<u32>(&bytes, Direction::OldToNew), Kind::Invalid, "another type"),
            (Plan::decode::<u64>(&bytes[1..], Direction::OldToNew), Kind::Damaged, "cannot be read"),
        ];
        for (result, kind, said) in cases {
            let error = result.unwrap_err();
            assert_eq!(error.kind(), kind);
            assert!(error.to_string().contains(said), "{error}");
        }
    }
}
