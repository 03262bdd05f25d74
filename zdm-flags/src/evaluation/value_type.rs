use std::str::FromStr;

use serde_json::{Number, Value};

use crate::definition::Variant;

/// What a caller wants a flag to be, in the words of OpenFeature.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ValueType {
    /// `true` or `false`.
    Boolean,
    /// Text.
    String,
    /// A whole number that fits 64 bits.
    Integer,
    /// A number that a float holds without loss.
    Float,
    /// A JSON object.
    Object,
}

impl ValueType {
    /// The value of a variant, if it is of this type without loss.
    pub(crate) fn read(self, variant: &Variant) -> Option<Value> {
        match self {
            Self::Boolean => variant.as_bool().map(Value::Bool),
            Self::String => variant.as_str().map(Value::from),
            Self::Integer => variant.as_i64().map(Value::from),
            Self::Float => variant.as_f64().and_then(Number::from_f64).map(Value::Number),
            Self::Object => variant.as_object().cloned(),
        }
    }
}

/// A word that is no type.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no type of flag; it must be Boolean, String, Integer, Float or Object")]
pub struct UnknownType(String);

impl FromStr for ValueType {
    type Err = UnknownType;

    /// In capital or small letters.
    fn from_str(word: &str) -> Result<Self, UnknownType> {
        Ok(match word.to_ascii_lowercase().as_str() {
            "boolean" => Self::Boolean,
            "string" => Self::String,
            "integer" => Self::Integer,
            "float" => Self::Float,
            "object" => Self::Object,
            _ => return Err(UnknownType(word.to_owned())),
        })
    }
}
