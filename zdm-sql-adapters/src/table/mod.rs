//! How records stand in tables, whatever the database: values, keys, mappings, rows of any table.

mod dynamic;
mod key;
mod mapping;
mod value;

pub use dynamic::{DynKey, DynRow};
pub use key::{KeyClass, KeyPart, TableKey};
pub use mapping::{RowReader, RowWriter, TableMapping};
pub use value::{FromValue, ToValue, Value};
