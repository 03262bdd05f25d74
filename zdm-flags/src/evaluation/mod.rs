//! What a flag comes to for one subject, and why.

pub(crate) mod compiled;
mod context;
pub(crate) mod decide;
pub(crate) mod details;
mod explain;
mod value_type;

pub use context::{Attribute, Context};
pub use details::{Bucket, Details, ErrorCode, Reason};
pub use explain::{Explanation, Step};
pub use value_type::{UnknownType, ValueType};
