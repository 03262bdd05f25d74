//! Where flags come from: files, or whatever a [`Source`] fetches. What the caller fetches itself goes to
//! [`Flags::apply`](crate::Flags::apply).

mod file;
#[cfg(feature = "http")]
mod http;
pub(crate) mod last_good;
#[cfg(feature = "signature")]
pub(crate) mod signature;
#[cfg(feature = "notify")]
mod watch;

pub use file::FileSource;
#[cfg(feature = "http")]
pub use http::HttpSource;

use std::fmt;
use std::sync::mpsc;
use std::time::Duration;

/// Something that flags can be fetched from. Each source is asked in a thread of its own, so it may wait.
pub trait Source: fmt::Debug + Send + 'static {
    /// A name for messages, the same in every run: the last good copy is found by it.
    fn name(&self) -> String;

    /// Fetches the flags, or says that they are what was fetched last.
    ///
    /// # Errors
    /// [`SourceError`] says why there is nothing. It is asked again after [`pause`](Self::pause).
    fn fetch(&mut self) -> Result<Fetched, SourceError>;

    /// How long to wait before it is asked again, after that many failures in a row.
    fn pause(&self, failures: u32) -> Duration;

    /// Keeps the sender, and sends whenever something may have changed, so that it is asked at once. A
    /// source that cannot know does nothing here.
    fn on_change(&mut self, changed: mpsc::Sender<()>);
}

/// What a source gave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fetched {
    /// The same as last time.
    Unchanged,
    /// A file.
    Content {
        /// The file.
        bytes: Vec<u8>,
        /// Its detached signature, if the source has one.
        signature: Option<Vec<u8>>,
    },
}

/// Why a source gave nothing.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct SourceError {
    message: String,
    #[source]
    cause: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl SourceError {
    /// An error that says what and where.
    pub fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), cause: None }
    }

    /// Keeps the error that caused this one.
    #[must_use]
    pub fn with_source(mut self, cause: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        self.cause = Some(cause.into());
        self
    }
}
