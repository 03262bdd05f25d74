use std::fmt;

use crate::definition::{Finding, ParseError};
use crate::source::SourceError;

/// Why flags were not loaded. What was running goes on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LoadError {
    /// The file cannot be read as a flag file.
    #[error("{name} is refused")]
    Parse {
        /// Which source.
        name: String,
        /// What is wrong with the file.
        source: ParseError,
    },
    /// A flag that the code requires is missing, broken or of another type.
    #[error("flags that the code requires are not usable:{}", List(.0))]
    Required(Vec<Finding>),
    /// Subjects of a phase flag would move in a way that is not allowed.
    #[error("phase flags would move subjects in a way that is not allowed:{}", List(.0))]
    Phase(Vec<Finding>),
    /// A source did not answer, and there is no last good copy.
    #[error("{name} gives no flags")]
    Source {
        /// Which source.
        name: String,
        /// Why.
        source: SourceError,
    },
    /// The signature does not fit, or the revision goes back.
    #[error("{name} is refused: {message}")]
    Untrusted {
        /// Which source.
        name: String,
        /// Why.
        message: String,
    },
    /// A setting of the builder cannot be.
    #[error("{0}")]
    Setting(String),
}

struct List<'a>(&'a [Finding]);

impl fmt::Display for List<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for finding in self.0 {
            write!(f, "\n  {}: {}", finding.path, finding.message)?;
        }
        Ok(())
    }
}
