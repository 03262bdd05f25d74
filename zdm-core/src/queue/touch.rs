use serde::{Deserialize, Serialize};
use smallvec::{SmallVec, smallvec};

use crate::error::{Error, Kind, Result};
use crate::key::{Key, KeyBytes, KeyRange, take_delimited};

/// What a write means to do with a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Intent {
    /// Insert or replace.
    Upsert,
    /// Remove.
    Delete,
    /// Not known before the call; both are possible.
    Unknown,
}

impl Intent {
    /// Whether a missing record at the primary may be the work of this write. Absence alone is not
    /// deletion.
    pub const fn may_delete(self) -> bool {
        matches!(self, Self::Delete | Self::Unknown)
    }
}

/// The keys of one item of a touch.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Span<K = KeyBytes> {
    /// One key.
    Key(K),
    /// Every key of a range.
    Range(KeyRange<K>),
}

impl<K: Ord> Span<K> {
    /// Whether the key lies in the span.
    pub fn contains(&self, key: &K) -> bool {
        match self {
            Self::Key(own) => own == key,
            Self::Range(range) => range.contains(key),
        }
    }

    /// Whether the span and the range share a key.
    pub fn meets(&self, range: &KeyRange<K>) -> bool {
        match self {
            Self::Key(key) => range.contains(key),
            Self::Range(own) => own.overlaps(range),
        }
    }
}

/// One key or range that a write may change, with its intent.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TouchItem<K = KeyBytes> {
    /// The keys.
    pub span: Span<K>,
    /// What the write means to do with them.
    pub intent: Intent,
}

/// What a write may change: one key, several, a range, or every key above one.
///
/// ```
/// use zdm_core::queue::Touch;
///
/// let rename = Touch::upsert(&7_u64);
/// let transfer = Touch::upsert(&7_u64).and(Touch::upsert(&8));
/// // The id is not known before the insert; it will be above the highest known one.
/// let insert = Touch::after(&41_u64);
/// assert_eq!(transfer.items().len(), 2);
/// # let _ = (rename, insert);
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Touch<K = KeyBytes> {
    items: SmallVec<[TouchItem<K>; 1]>,
}

impl<K: Key> Touch<K> {
    fn one(span: Span<K>, intent: Intent) -> Self {
        Self { items: smallvec![TouchItem { span, intent }] }
    }

    /// The write inserts or replaces one record.
    pub fn upsert(key: &K) -> Self {
        Self::one(Span::Key(key.clone()), Intent::Upsert)
    }

    /// The write removes one record.
    pub fn delete(key: &K) -> Self {
        Self::one(Span::Key(key.clone()), Intent::Delete)
    }

    /// The write may do anything to one record.
    pub fn unknown(key: &K) -> Self {
        Self::one(Span::Key(key.clone()), Intent::Unknown)
    }

    /// The write may do anything to any record of a range, as a bulk statement does.
    pub fn range(range: KeyRange<K>) -> Self {
        Self::one(Span::Range(range), Intent::Unknown)
    }

    /// The write inserts records whose keys the store makes up, all above the highest known one.
    pub fn after(highest_known: &K) -> Self {
        Self::one(Span::Range(KeyRange::after(highest_known.clone())), Intent::Upsert)
    }

    /// The write does the same to several records. `None` when there is no key.
    pub fn keys<'a>(keys: impl IntoIterator<Item = &'a K>, intent: Intent) -> Option<Self> {
        let items: SmallVec<_> =
            keys.into_iter().map(|key| TouchItem { span: Span::Key(key.clone()), intent }).collect();
        (!items.is_empty()).then_some(Self { items })
    }

    /// A touch of given items. `None` when there is none.
    pub fn from_items(items: impl IntoIterator<Item = TouchItem<K>>) -> Option<Self> {
        let items: SmallVec<_> = items.into_iter().collect();
        (!items.is_empty()).then_some(Self { items })
    }

    /// This touch and another one, by the same write.
    #[must_use]
    pub fn and(mut self, other: Self) -> Self {
        self.items.extend(other.items);
        self
    }

    /// The keys and ranges. Never empty.
    pub fn items(&self) -> &[TouchItem<K>] {
        &self.items
    }

    /// Whether any item covers the key.
    pub fn covers(&self, key: &K) -> bool {
        self.items.iter().any(|item| item.span.contains(key))
    }

    /// Whether everything that `other` covers is covered by one item of this touch.
    pub fn covers_touch(&self, other: &Self) -> bool {
        other.items.iter().all(|item| {
            self.items.iter().any(|own| match (&own.span, &item.span) {
                (span, Span::Key(key)) => span.contains(key),
                (Span::Key(_), Span::Range(_)) => false,
                (Span::Range(own), Span::Range(inner)) => {
                    let from = own.after.is_none() || (inner.after.is_some() && own.after <= inner.after);
                    let to = match (&own.up_to, &inner.up_to) {
                        (None, _) => true,
                        (Some(_), None) => false,
                        (Some(own), Some(inner)) => inner <= own,
                    };
                    from && to
                }
            })
        })
    }

    /// The touch over encoded keys, as queues keep it.
    pub fn encode(&self) -> Touch {
        let encode = |item: &TouchItem<K>| TouchItem {
            span: match &item.span {
                Span::Key(key) => Span::Key(KeyBytes::of(key)),
                Span::Range(range) => Span::Range(range.encode()),
            },
            intent: item.intent,
        };
        Touch { items: self.items.iter().map(encode).collect() }
    }
}

impl Touch<KeyBytes> {
    /// The touch over decoded keys.
    ///
    /// # Errors
    /// [`Kind::Damaged`] when a key is not of this type.
    pub fn decode<K: Key>(&self) -> Result<Touch<K>> {
        let decode = |item: &TouchItem| -> Result<TouchItem<K>> {
            let span = match &item.span {
                Span::Key(key) => Span::Key(key.to_key()?),
                Span::Range(range) => Span::Range(range.decode()?),
            };
            Ok(TouchItem { span, intent: item.intent })
        };
        Ok(Touch { items: self.items.iter().map(decode).collect::<Result<_>>()? })
    }

    /// Writes the touch as bytes, for durable queues.
    pub fn write_to(&self, out: &mut Vec<u8>) {
        for TouchItem { span, intent } in &self.items {
            let intent = match intent {
                Intent::Upsert => 0_u8,
                Intent::Delete => 1,
                Intent::Unknown => 2,
            };
            let mut part = |tag: u8, key: Option<&KeyBytes>| {
                out.push(tag << 4 | intent);
                if let Some(key) = key {
                    // As `KeyBytes::extend_delimited`, without the detour.
                    for part in key.as_slice().split_inclusive(|byte| *byte == 0) {
                        out.extend_from_slice(part);
                        if part.last() == Some(&0) {
                            out.push(0xFF);
                        }
                    }
                    out.extend_from_slice(&[0, 0]);
                }
            };
            match span {
                Span::Key(key) => part(1, Some(key)),
                Span::Range(KeyRange { after, up_to }) => {
                    part(if after.is_some() { 2 } else { 3 }, after.as_ref());
                    part(if up_to.is_some() { 4 } else { 5 }, up_to.as_ref());
                }
            }
        }
    }

    /// Reads what [`write_to`](Self::write_to) wrote; the whole slice is one touch.
    ///
    /// # Errors
    /// [`Kind::Damaged`] when the bytes are not one touch.
    pub fn read_from(mut bytes: &[u8]) -> Result<Self> {
        let damaged = || Error::new(Kind::Damaged, "the stored bytes are not a touch");
        let mut items = SmallVec::new();
        let part = |bytes: &mut &[u8], tags: [u8; 2]| -> Result<(Intent, Option<KeyBytes>)> {
            let (&head, rest) = bytes.split_first().ok_or_else(damaged)?;
            *bytes = rest;
            let intent = match head & 0x0F {
                0 => Intent::Upsert,
                1 => Intent::Delete,
                2 => Intent::Unknown,
                _ => return Err(damaged()),
            };
            match head >> 4 {
                tag if tag == tags[0] => {
                    let key = take_delimited(bytes).ok_or_else(damaged)?;
                    Ok((intent, Some(KeyBytes::from_slice(&key))))
                }
                tag if tag == tags[1] => Ok((intent, None)),
                _ => Err(damaged()),
            }
        };
        while let Some(head) = bytes.first() {
            if head >> 4 == 1 {
                let (intent, key) = part(&mut bytes, [1, 1])?;
                items.push(TouchItem { span: Span::Key(key.ok_or_else(damaged)?), intent });
            } else {
                let (intent, after) = part(&mut bytes, [2, 3])?;
                let (_, up_to) = part(&mut bytes, [4, 5])?;
                items.push(TouchItem { span: Span::Range(KeyRange { after, up_to }), intent });
            }
        }
        if items.is_empty() { Err(damaged()) } else { Ok(Self { items }) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn any_touch() -> impl Strategy<Value = Touch<Vec<u8>>> {
        let key = proptest::collection::vec(any::<u8>(), 0..6);
        let bound = proptest::option::of(key.clone());
        let span = prop_oneof![
            key.prop_map(Span::Key),
            (bound.clone(), bound).prop_map(|(after, up_to)| Span::Range(KeyRange { after, up_to })),
        ];
        let intent = prop_oneof![Just(Intent::Upsert), Just(Intent::Delete), Just(Intent::Unknown)];
        let item = (span, intent).prop_map(|(span, intent)| TouchItem { span, intent });
        proptest::collection::vec(item, 1..4).prop_map(|items| Touch { items: items.into() })
    }

    proptest! {
        #[test]
        fn bytes_bring_the_touch_back(touch in any_touch()) {
            let mut bytes = Vec::new();
            touch.encode().write_to(&mut bytes);
            let read = Touch::read_from(&bytes).unwrap();
            prop_assert_eq!(read.decode::<Vec<u8>>().unwrap(), touch);
        }

        #[test]
        fn any_bytes_are_a_touch_or_an_error(bytes in any::<Vec<u8>>()) {
            let _ = Touch::read_from(&bytes);
        }
    }

    #[test]
    fn covering_follows_ranges() {
        let wide = Touch::range(KeyRange::after(10_u64));
        assert!(wide.covers_touch(&Touch::upsert(&11)));
        assert!(!wide.covers_touch(&Touch::upsert(&10)));
        assert!(wide.covers_touch(&Touch::range(KeyRange::between(10, 20))));
        assert!(!wide.covers_touch(&Touch::range(KeyRange::all())));
    }
}
