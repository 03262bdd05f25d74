use crate::bucketing::Bucketing;
use crate::definition::{Finding, ParseError};
use crate::engine::{Laid, Layer, assemble};

/// What is wrong or risky in a flag file, most general first. Nothing is loaded.
///
/// ```
/// use zdm_flags::{definition::Severity, lint};
///
/// let findings = lint(br#"{"flags": {"a": {"state": "ENABLED", "variants": {"on": true}, "defaultVariant": "of"}}}"#)?;
/// assert_eq!(findings[0].path, "/flags/a/defaultVariant");
/// assert_eq!(findings[0].severity, Severity::Error);
/// # Ok::<_, zdm_flags::definition::ParseError>(())
/// ```
///
/// # Errors
/// [`ParseError`] when it is no flag file.
pub fn lint(bytes: &[u8]) -> Result<Vec<Finding>, ParseError> {
    let clock = std::sync::Arc::new(zdm_core::clock::SystemClock);
    let layer = Layer::read(bytes, None, Bucketing::default(), &*clock)?;
    Ok(assemble(&[layer], &Laid::default(), 1, clock, None).findings().to_vec())
}
