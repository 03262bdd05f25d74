use std::str::FromStr as _;
use std::sync::Arc;

use serde_json::{Map, Value};
use zdm_core::phase::Phase;

use super::document::Document;

/// What is known about a flag or a set besides its rules: strings, numbers and booleans by name.
pub type Metadata = Map<String, Value>;

/// The type that all variants of a flag have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum VariantType {
    /// `true` and `false`.
    Boolean,
    /// Text.
    String,
    /// Whole numbers and fractions.
    Number,
    /// JSON objects.
    Object,
}

impl VariantType {
    pub(crate) fn of(value: &Value) -> Option<Self> {
        match value {
            Value::Bool(_) => Some(Self::Boolean),
            Value::String(_) => Some(Self::String),
            Value::Number(_) => Some(Self::Number),
            Value::Object(_) => Some(Self::Object),
            Value::Null | Value::Array(_) => None,
        }
    }

    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Boolean => "boolean",
            Self::String => "string",
            Self::Number => "number",
            Self::Object => "object",
        }
    }
}

/// A named value of a flag, decoded once at load.
#[derive(Clone, Debug)]
pub struct Variant {
    name: Arc<str>,
    value: Value,
    whole: Option<i64>,
    float: Option<f64>,
    phase: Option<Phase>,
}

impl Variant {
    pub(crate) fn new(name: &str, value: Value) -> Self {
        let (whole, float) = match &value {
            Value::Number(number) => {
                let float = number.as_f64();
                // Read as either type only where nothing is lost: 3.0 is the integer 3, 3.5 is none.
                let whole = number.as_i64().or_else(|| float.and_then(whole_of));
                let exact = match (number.as_i64(), number.as_u64()) {
                    (Some(whole), _) => whole.unsigned_abs() <= EXACT,
                    (None, Some(whole)) => whole <= EXACT,
                    (None, None) => true,
                };
                (whole, float.filter(|_| exact))
            }
            _ => (None, None),
        };
        let phase = value.as_str().and_then(|text| Phase::from_str(text).ok());
        Self { name: name.into(), value, whole, float, phase }
    }

    /// The name that targeting rules use.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The value as JSON.
    pub fn value(&self) -> &Value {
        &self.value
    }

    /// The value of a boolean flag.
    #[inline]
    pub fn as_bool(&self) -> Option<bool> {
        self.value.as_bool()
    }

    /// The value of a string flag.
    #[inline]
    pub fn as_str(&self) -> Option<&str> {
        self.value.as_str()
    }

    /// The value of a number flag, if it is a whole number that fits.
    #[inline]
    pub fn as_i64(&self) -> Option<i64> {
        self.whole
    }

    /// The value of a number flag, if a float can hold it without loss.
    #[inline]
    pub fn as_f64(&self) -> Option<f64> {
        self.float
    }

    /// The value of an object flag.
    #[inline]
    pub fn as_object(&self) -> Option<&Value> {
        self.value.is_object().then_some(&self.value)
    }

    /// The value of a string flag, if it is the name of a phase.
    #[inline]
    pub fn as_phase(&self) -> Option<Phase> {
        self.phase
    }
}

/// Up to here every whole number has a float of its own.
const EXACT: u64 = 1 << 53;

/// The whole number that a float is, if it is one.
pub(crate) fn whole_of(float: f64) -> Option<i64> {
    let fits = float.fract() == 0.0 && float.abs() <= EXACT as f64;
    #[expect(clippy::cast_possible_truncation, reason = "whole and small")]
    fits.then_some(float as i64)
}

/// A flag as the file says it, before it is compiled.
#[derive(Debug)]
pub(crate) struct FlagDefinition {
    pub(crate) key: Arc<str>,
    pub(crate) enabled: bool,
    pub(crate) variants: Vec<Variant>,
    pub(crate) default_variant: Option<u32>,
    /// Absent, `null` and `{}` all mean that there is none.
    pub(crate) targeting: Option<Document>,
    /// Its own metadata laid over that of the set.
    pub(crate) metadata: Arc<Metadata>,
    /// Tells whether the text of the flag has changed.
    pub(crate) fingerprint: u64,
}
