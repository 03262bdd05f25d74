use zdm_core::key::Key;

use super::{FromValue, ToValue, Value};

/// The storage class that every value of a key column has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyClass {
    /// Integers.
    Integer,
    /// Texts.
    Text,
    /// Blobs.
    Blob,
    /// Whatever the rows hold.
    Any,
}

/// A key that stands in one or more columns of a table.
///
/// The order of the key is the order of the columns: integers by value, texts and blobs by bytes.
pub trait TableKey: Key {
    /// The class of each column.
    const CLASSES: &'static [KeyClass];

    /// Appends the values of the columns.
    ///
    /// # Errors
    /// A short reason, when there is no such value.
    fn to_values(&self, out: &mut Vec<Value>) -> Result<(), String>;

    /// Takes the key from the values of its columns.
    ///
    /// # Errors
    /// A short reason, when the values are no key.
    fn from_values(values: &mut [Value]) -> Result<Self, String>;
}

macro_rules! single_keys {
    ($($class:ident: $($type:ty),*;)*) => {$($(
        impl TableKey for $type {
            const CLASSES: &'static [KeyClass] = &[KeyClass::$class];

            fn to_values(&self, out: &mut Vec<Value>) -> Result<(), String> {
                out.push(self.to_value()?);
                Ok(())
            }

            fn from_values(values: &mut [Value]) -> Result<Self, String> {
                Self::from_value(values.first_mut().map(std::mem::take).unwrap_or_default())
            }
        }
    )*)*};
}

single_keys! {
    Integer: i8, i16, i32, i64, u8, u16, u32, u64, bool;
    Text: String;
    Blob: Vec<u8>;
}

impl<const N: usize> TableKey for [u8; N] {
    const CLASSES: &'static [KeyClass] = &[KeyClass::Blob];

    fn to_values(&self, out: &mut Vec<Value>) -> Result<(), String> {
        out.push(self.to_value()?);
        Ok(())
    }

    fn from_values(values: &mut [Value]) -> Result<Self, String> {
        Self::from_value(values.first_mut().map(std::mem::take).unwrap_or_default())
    }
}

/// A key that is one column. What tuples are made of.
pub trait KeyPart: TableKey {}

macro_rules! key_parts {
    ($($type:ty),*) => {$(impl KeyPart for $type {})*};
}

key_parts!(i8, i16, i32, i64, u8, u16, u32, u64, bool, String, Vec<u8>);

impl<const N: usize> KeyPart for [u8; N] {}

macro_rules! composite_keys {
    ($(($($part:ident $index:tt),+))*) => {$(
        impl<$($part: KeyPart),+> TableKey for ($($part,)+) {
            const CLASSES: &'static [KeyClass] = &[$($part::CLASSES[0]),+];

            fn to_values(&self, out: &mut Vec<Value>) -> Result<(), String> {
                $(self.$index.to_values(out)?;)+
                Ok(())
            }

            fn from_values(values: &mut [Value]) -> Result<Self, String> {
                Ok(($($part::from_values(values.get_mut($index..).unwrap_or_default())?,)+))
            }
        }
    )*};
}

composite_keys! {
    (A 0, B 1)
    (A 0, B 1, C 2)
    (A 0, B 1, C 2, D 3)
    (A 0, B 1, C 2, D 3, E 4)
    (A 0, B 1, C 2, D 3, E 4, F 5)
}
