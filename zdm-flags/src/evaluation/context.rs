use serde_json::Value;

use crate::targeting::Val;

/// Who a flag is evaluated for: the key that buckets are computed from, and attributes that rules ask for.
///
/// It borrows what the caller has at hand. Up to six attributes cost no memory; more go to the heap.
///
/// ```
/// use zdm_flags::Context;
///
/// let (tenant, plan) = ("tenant-7".to_owned(), "gold".to_owned());
/// let cx = Context::key(&tenant).with("plan", &plan).with("items", 3);
/// assert_eq!(cx.targeting_key(), Some("tenant-7"));
/// ```
#[derive(Clone, Debug, Default)]
pub struct Context<'a> {
    key: Option<&'a str>,
    unix_seconds: Option<i64>,
    /// The first `count`, up to [`INLINE`].
    first: [Option<(&'a str, Attribute<'a>)>; INLINE],
    count: usize,
    rest: Vec<(&'a str, Attribute<'a>)>,
}

const INLINE: usize = 6;

impl<'a> Context<'a> {
    /// A context with a targeting key: the user, tenant or request that must always land on the same side.
    #[inline]
    pub fn key(targeting_key: &'a str) -> Self {
        Self {
            key: Some(targeting_key),
            unix_seconds: None,
            first: [None; INLINE],
            count: 0,
            rest: Vec::new(),
        }
    }

    /// A context without a targeting key: rules that bucket by it do not match.
    #[inline]
    pub fn anonymous() -> Self {
        Self::default()
    }

    /// Adds an attribute. Of two with the same name, the later one counts.
    #[inline]
    #[must_use]
    pub fn with(mut self, name: &'a str, value: impl Into<Attribute<'a>>) -> Self {
        self.set(name, value);
        self
    }

    /// Adds an attribute in place.
    #[inline]
    pub fn set(&mut self, name: &'a str, value: impl Into<Attribute<'a>>) {
        let attribute = (name, value.into());
        match self.first.get_mut(self.count) {
            Some(place) => {
                *place = Some(attribute);
                self.count += 1;
            }
            None => self.rest.push(attribute),
        }
    }

    /// Evaluates as of this time, in seconds since 1970-01-01 UTC, instead of the clock's.
    #[inline]
    #[must_use]
    pub fn at(mut self, unix_seconds: i64) -> Self {
        self.unix_seconds = Some(unix_seconds);
        self
    }

    /// The key that buckets are computed from.
    #[inline]
    pub fn targeting_key(&self) -> Option<&'a str> {
        self.key
    }

    pub(crate) fn unix_seconds(&self) -> Option<i64> {
        self.unix_seconds
    }

    /// The value of an attribute, if it is text.
    #[inline]
    pub(crate) fn attribute_text(&self, name: &str) -> Option<&'a str> {
        match self.find(name)?.0 {
            Kind::Str(text) if name != "targetingKey" && name != "$flagd" => Some(text),
            _ => None,
        }
    }

    #[inline]
    pub(crate) fn attribute(&self, name: &str) -> Option<Val<'a>> {
        self.find(name).map(Attribute::as_val)
    }

    #[inline]
    fn find(&self, name: &str) -> Option<&Attribute<'a>> {
        if let Some((_, value)) = self.rest.iter().rev().find(|(known, _)| *known == name) {
            return Some(value);
        }
        let first = self.first.get(..self.count)?.iter().rev().flatten();
        first.into_iter().find(|(known, _)| *known == name).map(|(_, value)| value)
    }

    pub(crate) fn attributes(&self) -> impl Iterator<Item = (&'a str, Val<'a>)> + '_ {
        self.first.iter().flatten().chain(&self.rest).map(|(name, value)| (*name, value.as_val()))
    }
}

/// The value of an attribute. Made by `From` from strings, numbers, booleans and borrowed JSON.
#[derive(Clone, Copy, Debug)]
pub struct Attribute<'a>(Kind<'a>);

#[derive(Clone, Copy, Debug)]
enum Kind<'a> {
    Bool(bool),
    Int(i64),
    Big(u64),
    Float(f64),
    Str(&'a str),
    Json(&'a Value),
    Null,
}

impl<'a> Attribute<'a> {
    #[inline]
    fn as_val(&self) -> Val<'a> {
        match self.0 {
            Kind::Bool(value) => Val::Bool(value),
            Kind::Int(value) => Val::Int(value),
            Kind::Big(value) => Val::Big(value),
            Kind::Float(value) => Val::Float(value),
            Kind::Str(text) => Val::Str(text),
            Kind::Json(value) => Val::from_json(value),
            Kind::Null => Val::Null,
        }
    }
}

impl<'a> From<&'a str> for Attribute<'a> {
    #[inline]
    fn from(text: &'a str) -> Self {
        Self(Kind::Str(text))
    }
}

impl<'a> From<&'a String> for Attribute<'a> {
    #[inline]
    fn from(text: &'a String) -> Self {
        Self(Kind::Str(text))
    }
}

impl<'a> From<&'a Value> for Attribute<'a> {
    fn from(value: &'a Value) -> Self {
        Self(Kind::Json(value))
    }
}

impl From<bool> for Attribute<'_> {
    #[inline]
    fn from(value: bool) -> Self {
        Self(Kind::Bool(value))
    }
}

/// What is no number in JSON (NaN, infinity) is null.
impl From<f64> for Attribute<'_> {
    #[inline]
    fn from(value: f64) -> Self {
        Self(if value.is_finite() { Kind::Float(value) } else { Kind::Null })
    }
}

impl From<f32> for Attribute<'_> {
    #[inline]
    fn from(value: f32) -> Self {
        Self::from(f64::from(value))
    }
}

impl From<u64> for Attribute<'_> {
    #[inline]
    fn from(value: u64) -> Self {
        Self(i64::try_from(value).map_or(Kind::Big(value), Kind::Int))
    }
}

impl From<usize> for Attribute<'_> {
    #[inline]
    fn from(value: usize) -> Self {
        Self::from(value as u64)
    }
}

impl<'a, T: Into<Attribute<'a>>> From<Option<T>> for Attribute<'a> {
    fn from(value: Option<T>) -> Self {
        value.map_or(Self(Kind::Null), Into::into)
    }
}

macro_rules! whole_numbers {
    ($($number:ty),*) => {$(
        impl From<$number> for Attribute<'_> {
            #[inline]
            fn from(value: $number) -> Self {
                Self(Kind::Int(i64::from(value)))
            }
        }
    )*};
}

whole_numbers!(i8, i16, i32, i64, u8, u16, u32);
