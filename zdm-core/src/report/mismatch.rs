use serde::Serialize;

use crate::store::Difference;

/// A key whose records differ.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Mismatch {
    /// The key, printed.
    pub key: String,
    /// Why, as far as it can be told.
    pub cause: MismatchCause,
    /// The fields that differ, when both sides have a record.
    pub differences: Vec<Difference>,
}

/// Why two records differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum MismatchCause {
    /// The key is pending: its secondary write is still to come.
    InFlight,
    /// The key is parked: its record does not fit.
    Parked,
    /// A side has a row that cannot be mapped.
    Mapping,
    /// Nothing is pending, and the secondary has no record.
    Missing,
    /// Nothing is pending, and only the secondary has a record.
    Extra,
    /// Nothing is pending, and the records differ.
    Unexplained,
}
