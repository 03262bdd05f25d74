//! Flag files: flagd's JSON format as it is now, read with every fault named by its path.
//!
//! One bad flag makes only itself impossible to evaluate. A file that is no JSON, or no flag file, is
//! refused whole. Our own settings live in flat metadata keys that begin with `zdm.`; others ignore them.

pub(crate) mod document;
pub(crate) mod finding;
pub(crate) mod flag;
pub(crate) mod parse;

pub use finding::{Finding, Severity};
pub use flag::{Metadata, Variant, VariantType};
pub use parse::{MAX_BYTES, ParseError};
