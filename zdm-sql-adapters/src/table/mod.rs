//! How records stand in tables, whatever the database: values and their types, keys, mappings, rows of any
//! table, and which types of columns records can move between.

mod agree;
mod column_type;
#[cfg(feature = "postgres")]
mod convert;
mod decimal;
mod default;
mod dynamic;
mod json;
mod key;
mod mapping;
mod rows;
mod shape;
mod text_form;
mod value;

pub use agree::{AgreedColumn, Agreement, agree};
pub use column_type::{ColumnType, Fit, Pair, pair};
#[cfg(feature = "postgres")]
pub(crate) use convert::{converted, keeps_order, same_values};
pub use decimal::{Decimal, NotDecimal};
#[cfg(feature = "postgres")]
pub(crate) use default::Default;
#[cfg(feature = "sqlite")]
pub(crate) use default::outside;
pub(crate) use default::{check_clauses, default_clauses, expression_clause};
pub use dynamic::{DynKey, DynRow};
pub use key::{KeyClass, KeyPart, TableKey};
pub use mapping::{RowReader, RowWriter, TableMapping};
pub use rows::{Discovered, RowMapping, RowValues, Typed};
pub(crate) use rows::{RecordBytes, key_values};
pub use shape::{ColumnShape, Dialect, ForeignKeyShape, IndexShape, TableShape, parents_first};
#[cfg(feature = "mysql")]
pub(crate) use text_form::{civil, days_of};
pub use value::{Date, FromValue, Interval, Json, Time, Timestamp, ToValue, Uuid, Value};
