//! One error type for every contract of this crate.
//!
//! A [`Kind`] answers "what kind of trouble is this?", its [`Advice`] "what should I do now?", and the
//! [`Certainty`] "did it happen?". An unknown outcome is an answer of its own: nobody guesses past it.

mod advice;
mod certainty;
mod kind;

pub use advice::Advice;
pub use certainty::{Certainty, Outcome};
pub use kind::Kind;

use std::borrow::Cow;
use std::error::Error as StdError;
use std::fmt;
use std::sync::Arc;

use crate::key::KeyBytes;

/// The result of every fallible call in this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong, whether it took effect, and what to do about it.
///
/// The text does not repeat its source; print the chain to see both.
///
/// ```
/// use zdm_core::error::{Advice, Certainty, Error, Kind};
///
/// let error = Error::new(Kind::Unavailable, "the new store does not answer").unknown();
/// assert_eq!(error.advice(), Advice::RetryWhenStoreIsBack);
/// assert_eq!(error.certainty(), Certainty::Unknown);
/// ```
#[derive(Clone)]
pub struct Error {
    inner: Arc<Inner>,
}

#[derive(Clone)]
struct Inner {
    kind: Kind,
    certainty: Certainty,
    advice: Option<Advice>,
    holder: Option<KeyBytes>,
    message: Cow<'static, str>,
    source: Option<Arc<dyn StdError + Send + Sync>>,
}

impl Error {
    /// An error of a kind, with a message that says what and where. Its certainty is the kind's own
    /// (see [`Kind::usual_certainty`]) until [`unknown`](Self::unknown) or
    /// [`not_applied`](Self::not_applied) says otherwise.
    pub fn new(kind: Kind, message: impl Into<Cow<'static, str>>) -> Self {
        Self {
            inner: Arc::new(Inner {
                kind,
                certainty: kind.usual_certainty(),
                advice: None,
                holder: None,
                message: message.into(),
                source: None,
            }),
        }
    }

    /// Keeps the error that caused this one.
    #[must_use]
    pub fn with_source(self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.map(|inner| inner.source = Some(Arc::from(source.into())))
    }

    /// Replaces the advice, as a retrier does that has given up.
    #[must_use]
    pub fn with_advice(self, advice: Advice) -> Self {
        self.map(|inner| inner.advice = Some(advice))
    }

    /// Names the key whose record holds the unique value that a [`Kind::Conflict`] ran into.
    #[must_use]
    pub fn held_by(self, key: KeyBytes) -> Self {
        self.map(|inner| inner.holder = Some(key))
    }

    /// Says that nobody knows whether the call took effect.
    #[must_use]
    pub fn unknown(self) -> Self {
        self.map(|inner| inner.certainty = Certainty::Unknown)
    }

    /// Says that the call certainly took no effect.
    #[must_use]
    pub fn not_applied(self) -> Self {
        self.map(|inner| inner.certainty = Certainty::NotApplied)
    }

    /// Puts words before the message: what was being done, and to what.
    #[must_use]
    pub fn context(self, what: impl fmt::Display) -> Self {
        self.map(|inner| inner.message = format!("{what}: {}", inner.message).into())
    }

    /// What kind of trouble it is.
    pub fn kind(&self) -> Kind {
        self.inner.kind
    }

    /// Whether the call took effect.
    pub fn certainty(&self) -> Certainty {
        self.inner.certainty
    }

    /// What to do now.
    pub fn advice(&self) -> Advice {
        self.inner.advice.unwrap_or_else(|| self.inner.kind.usual_advice())
    }

    /// The key whose record holds the contested unique value, where the store could tell.
    pub fn holder(&self) -> Option<&KeyBytes> {
        self.inner.holder.as_ref()
    }

    /// The message alone, without its source.
    pub fn message(&self) -> &str {
        &self.inner.message
    }

    fn map(self, change: impl FnOnce(&mut Inner)) -> Self {
        let mut inner = Arc::unwrap_or_clone(self.inner);
        change(&mut inner);
        Self { inner: Arc::new(inner) }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.inner.message)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Inner { kind, certainty, message, source, .. } = &*self.inner;
        write!(f, "{kind:?} ({certainty:?}): {message}")?;
        let mut cause = source.as_deref().map(|source| source as &dyn StdError);
        while let Some(error) = cause {
            write!(f, ": {error}")?;
            cause = error.source();
        }
        Ok(())
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.inner.source.as_deref().map(|source| source as &(dyn StdError + 'static))
    }
}

impl Outcome for Error {
    fn certainty(&self) -> Certainty {
        self.inner.certainty
    }
}
