//! Keys: what a record is addressed by, and the bytes that stand for it in queues and checkpoints.
//!
//! The encoding keeps order: comparing the bytes compares the keys. So a queue can tell whether a key
//! lies in a range without knowing its type, and a checkpoint is a position in key order.

use std::fmt;
use std::hash::Hash;

use smallvec::SmallVec;

use crate::error::{Error, Kind, Result};

/// What a record is addressed by.
///
/// `encode` and `decode` are inverses, and byte order equals `Ord`. Every part is self-delimiting, so
/// that tuples are encoded by writing one part after the other.
///
/// ```
/// use zdm_core::key::{Key, KeyBytes};
///
/// let small = KeyBytes::of(&(7_i64, "a".to_owned()));
/// let large = KeyBytes::of(&(7_i64, "b".to_owned()));
/// assert!(small < large);
/// assert_eq!(small.to_key::<(i64, String)>().unwrap(), (7, "a".to_owned()));
/// ```
pub trait Key: Clone + Ord + Hash + fmt::Debug + Send + Sync + 'static {
    /// Appends the bytes of this key.
    fn encode(&self, out: &mut KeyBytes);

    /// Reads one key from the front of `bytes` and moves `bytes` past it.
    ///
    /// # Errors
    /// [`Kind::Damaged`] when the bytes are not a key of this type.
    fn decode(bytes: &mut &[u8]) -> Result<Self>;
}

/// The encoded form of a key. Up to 24 bytes are kept in place.
#[derive(Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyBytes(SmallVec<[u8; 24]>);

impl KeyBytes {
    /// Encodes a key.
    pub fn of<K: Key>(key: &K) -> Self {
        let mut out = Self::default();
        key.encode(&mut out);
        out
    }

    /// Wraps bytes that were encoded before.
    pub fn from_slice(bytes: &[u8]) -> Self {
        Self(SmallVec::from_slice(bytes))
    }

    /// Decodes the key.
    ///
    /// # Errors
    /// [`Kind::Damaged`] when the bytes are not exactly one key of this type.
    pub fn to_key<K: Key>(&self) -> Result<K> {
        let mut rest = self.as_slice();
        let key = K::decode(&mut rest)?;
        if rest.is_empty() { Ok(key) } else { Err(damaged::<K>(&self.0)) }
    }

    /// The bytes.
    pub fn as_slice(&self) -> &[u8] {
        &self.0
    }

    /// Appends bytes.
    pub fn extend(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }

    /// Appends bytes so that they end where they end and still sort as they are: a zero byte becomes
    /// `00 FF`, the end is `00 00`.
    pub fn extend_delimited(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.0.push(byte);
            if byte == 0 {
                self.0.push(0xFF);
            }
        }
        self.0.extend_from_slice(&[0, 0]);
    }
}

/// Reads what [`KeyBytes::extend_delimited`] wrote and moves `bytes` past it. `None` when it is not whole.
pub fn take_delimited(bytes: &mut &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    let mut rest = *bytes;
    loop {
        match rest {
            [0, 0, tail @ ..] => {
                *bytes = tail;
                return Some(out);
            }
            [0, 0xFF, tail @ ..] => {
                out.push(0);
                rest = tail;
            }
            [0, ..] | [] => return None,
            [byte, tail @ ..] => {
                out.push(*byte);
                rest = tail;
            }
        }
    }
}

impl fmt::Debug for KeyBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

fn damaged<K>(bytes: &[u8]) -> Error {
    let shown = KeyBytes::from_slice(&bytes[..bytes.len().min(64)]);
    let wanted = std::any::type_name::<K>();
    Error::new(Kind::Damaged, format!("the stored bytes {shown:?} are not a key of type {wanted}"))
}

/// Encoded keys are keys too: the whole rest is the key.
impl Key for KeyBytes {
    fn encode(&self, out: &mut KeyBytes) {
        out.extend(self.as_slice());
    }

    fn decode(bytes: &mut &[u8]) -> Result<Self> {
        Ok(Self::from_slice(std::mem::take(bytes)))
    }
}

macro_rules! integer_keys {
    ($($unsigned:ty, $signed:ty);*) => {$(
        impl Key for $unsigned {
            fn encode(&self, out: &mut KeyBytes) {
                out.extend(&self.to_be_bytes());
            }

            fn decode(bytes: &mut &[u8]) -> Result<Self> {
                let (head, tail) = bytes.split_first_chunk().ok_or_else(|| damaged::<Self>(bytes))?;
                *bytes = tail;
                Ok(Self::from_be_bytes(*head))
            }
        }

        impl Key for $signed {
            fn encode(&self, out: &mut KeyBytes) {
                // Flipping the sign bit makes negative numbers sort before the others.
                out.extend(&(self.cast_unsigned() ^ (1 << (<$unsigned>::BITS - 1))).to_be_bytes());
            }

            fn decode(bytes: &mut &[u8]) -> Result<Self> {
                let (head, tail) = bytes.split_first_chunk().ok_or_else(|| damaged::<Self>(bytes))?;
                *bytes = tail;
                Ok((<$unsigned>::from_be_bytes(*head) ^ (1 << (<$unsigned>::BITS - 1))).cast_signed())
            }
        }
    )*};
}

integer_keys!(u8, i8; u16, i16; u32, i32; u64, i64; u128, i128);

impl Key for bool {
    fn encode(&self, out: &mut KeyBytes) {
        out.extend(&[u8::from(*self)]);
    }

    fn decode(bytes: &mut &[u8]) -> Result<Self> {
        match **bytes {
            [byte @ (0 | 1), ref tail @ ..] => {
                *bytes = tail;
                Ok(byte == 1)
            }
            _ => Err(damaged::<Self>(bytes)),
        }
    }
}

impl Key for String {
    fn encode(&self, out: &mut KeyBytes) {
        out.extend_delimited(self.as_bytes());
    }

    fn decode(bytes: &mut &[u8]) -> Result<Self> {
        let whole = *bytes;
        take_delimited(bytes)
            .and_then(|text| Self::from_utf8(text).ok())
            .ok_or_else(|| damaged::<Self>(whole))
    }
}

impl Key for Vec<u8> {
    fn encode(&self, out: &mut KeyBytes) {
        out.extend_delimited(self);
    }

    fn decode(bytes: &mut &[u8]) -> Result<Self> {
        let whole = *bytes;
        take_delimited(bytes).ok_or_else(|| damaged::<Self>(whole))
    }
}

impl<const N: usize> Key for [u8; N] {
    fn encode(&self, out: &mut KeyBytes) {
        out.extend(self);
    }

    fn decode(bytes: &mut &[u8]) -> Result<Self> {
        let (head, tail) = bytes.split_first_chunk().ok_or_else(|| damaged::<Self>(bytes))?;
        *bytes = tail;
        Ok(*head)
    }
}

macro_rules! tuple_keys {
    ($(($($part:ident $index:tt),+))*) => {$(
        impl<$($part: Key),+> Key for ($($part,)+) {
            fn encode(&self, out: &mut KeyBytes) {
                $(self.$index.encode(out);)+
            }

            fn decode(bytes: &mut &[u8]) -> Result<Self> {
                Ok(($($part::decode(bytes)?,)+))
            }
        }
    )*};
}

tuple_keys! {
    (A 0, B 1)
    (A 0, B 1, C 2)
    (A 0, B 1, C 2, D 3)
    (A 0, B 1, C 2, D 3, E 4)
    (A 0, B 1, C 2, D 3, E 4, F 5)
}

/// The keys after one key up to and including another: `after < key <= up_to`. `None` is unbounded.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct KeyRange<K = KeyBytes> {
    /// The greatest key below the range, which is not in it.
    pub after: Option<K>,
    /// The last key of the range, which is in it.
    pub up_to: Option<K>,
}

impl<K> KeyRange<K> {
    /// Every key.
    pub const fn all() -> Self {
        Self { after: None, up_to: None }
    }

    /// The keys above `key`.
    pub const fn after(key: K) -> Self {
        Self { after: Some(key), up_to: None }
    }

    /// The keys above `after`, up to and including `up_to`.
    pub const fn between(after: K, up_to: K) -> Self {
        Self { after: Some(after), up_to: Some(up_to) }
    }
}

impl<K: Ord> KeyRange<K> {
    /// Whether the key lies in the range.
    pub fn contains(&self, key: &K) -> bool {
        self.after.as_ref().is_none_or(|after| after < key)
            && self.up_to.as_ref().is_none_or(|up_to| key <= up_to)
    }

    /// Whether no key can lie in the range.
    pub fn is_empty(&self) -> bool {
        matches!((&self.after, &self.up_to), (Some(after), Some(up_to)) if after >= up_to)
    }

    /// Whether some key may lie in both ranges.
    pub fn overlaps(&self, other: &Self) -> bool {
        let below = |up_to: &Option<K>, after: &Option<K>| match (up_to, after) {
            (Some(up_to), Some(after)) => up_to <= after,
            _ => false,
        };
        !self.is_empty()
            && !other.is_empty()
            && !below(&self.up_to, &other.after)
            && !below(&other.up_to, &self.after)
    }
}

impl<K: Key> KeyRange<K> {
    /// The range over encoded keys.
    pub fn encode(&self) -> KeyRange<KeyBytes> {
        KeyRange {
            after: self.after.as_ref().map(KeyBytes::of),
            up_to: self.up_to.as_ref().map(KeyBytes::of),
        }
    }
}

impl KeyRange<KeyBytes> {
    /// The range over decoded keys.
    ///
    /// # Errors
    /// [`Kind::Damaged`] when a bound is not a key of this type.
    pub fn decode<K: Key>(&self) -> Result<KeyRange<K>> {
        Ok(KeyRange {
            after: self.after.as_ref().map(KeyBytes::to_key).transpose()?,
            up_to: self.up_to.as_ref().map(KeyBytes::to_key).transpose()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn encoding_keeps_order_and_value(
            a in any::<(i64, String, Vec<u8>, bool)>(),
            b in any::<(i64, String, Vec<u8>, bool)>(),
        ) {
            let (x, y) = (KeyBytes::of(&a), KeyBytes::of(&b));
            prop_assert_eq!(x.cmp(&y), a.cmp(&b));
            prop_assert_eq!(x.to_key::<(i64, String, Vec<u8>, bool)>().unwrap(), a);
        }

        #[test]
        fn strings_with_zero_bytes_keep_order(a in "[\\x00-\\x02]{0,4}", b in "[\\x00-\\x02]{0,4}") {
            let (x, y) = ((a, 1_u8), (b, 1_u8));
            prop_assert_eq!(KeyBytes::of(&x).cmp(&KeyBytes::of(&y)), x.cmp(&y));
        }

        #[test]
        fn decoding_any_bytes_never_panics(bytes in any::<Vec<u8>>()) {
            let key = KeyBytes::from_slice(&bytes);
            let _ = key.to_key::<(String, i32)>();
            let _ = key.to_key::<(Vec<u8>, bool)>();
            let _ = key.to_key::<[u8; 16]>();
        }

        #[test]
        fn ranges_overlap_when_a_key_lies_in_both(
            a in any::<(Option<u8>, Option<u8>)>(),
            b in any::<(Option<u8>, Option<u8>)>(),
        ) {
            let (a, b) = (KeyRange { after: a.0, up_to: a.1 }, KeyRange { after: b.0, up_to: b.1 });
            let shared = (0..=u8::MAX).any(|key| a.contains(&key) && b.contains(&key));
            // An open end may hold keys that a byte cannot show, so only one direction is exact.
            prop_assert!(!shared || a.overlaps(&b));
            if a.up_to.is_some() && b.up_to.is_some() {
                prop_assert!(shared == a.overlaps(&b) || a.up_to == Some(0) || b.up_to == Some(0));
            }
        }
    }

    #[test]
    fn a_key_of_another_type_is_named() {
        let error = KeyBytes::from_slice(&[1, 2, 3]).to_key::<i64>().unwrap_err();
        assert_eq!(error.kind(), Kind::Damaged);
        assert!(error.to_string().contains("010203") && error.to_string().contains("i64"), "{error}");
    }
}
