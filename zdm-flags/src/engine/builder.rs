use std::path::PathBuf;
use std::sync::Arc;

use zdm_core::clock::{Clock, SystemClock};

use super::{Flags, LoadError};
use crate::bucketing::Bucketing;
use crate::exposure::{Exposure, Exposures};
use crate::handle::Declared;
use crate::in_code::InCode;
use crate::source::Source;

/// Settings of [`Flags`].
#[derive(Debug)]
pub struct FlagsBuilder {
    pub(crate) in_code: Vec<InCode>,
    pub(crate) sources: Vec<Box<dyn Source>>,
    pub(crate) required: Vec<&'static dyn Declared>,
    pub(crate) declared: Vec<&'static dyn Declared>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) bucketing: Bucketing,
    pub(crate) exposures: Option<Arc<Exposures>>,
    pub(crate) last_good: Option<PathBuf>,
    pub(crate) start_without_sources: bool,
    #[cfg(feature = "signature")]
    pub(crate) trusted: Option<crate::source::signature::Trusted>,
}

impl Default for FlagsBuilder {
    fn default() -> Self {
        Self {
            in_code: Vec::new(),
            sources: Vec::new(),
            required: Vec::new(),
            declared: Vec::new(),
            clock: Arc::new(SystemClock),
            bucketing: Bucketing::default(),
            exposures: None,
            last_good: None,
            start_without_sources: false,
            #[cfg(feature = "signature")]
            trusted: None,
        }
    }
}

impl FlagsBuilder {
    /// Adds a source of flags. Where two sources have the same flag, the later source counts.
    #[must_use]
    pub fn source(mut self, source: impl Source) -> Self {
        self.sources.push(Box::new(source));
        self
    }

    /// Adds a flag that is made in code. Sources count more.
    #[must_use]
    pub fn flag(mut self, flag: InCode) -> Self {
        self.in_code.push(flag);
        self
    }

    /// Flags that must be there, whole, and of the right type: a file without them is refused.
    #[must_use]
    pub fn require<const N: usize>(mut self, flags: [&'static dyn Declared; N]) -> Self {
        self.required.extend(flags);
        self.declared.extend(flags);
        self
    }

    /// Flags that the code knows but can do without. [`Flags::report`] compares them with the files.
    #[must_use]
    pub fn declare<const N: usize>(mut self, flags: [&'static dyn Declared; N]) -> Self {
        self.declared.extend(flags);
        self
    }

    /// Where the time comes from. Default: the machine's clock.
    #[must_use]
    pub fn clock(mut self, clock: impl Clock) -> Self {
        self.clock = Arc::new(clock);
        self
    }

    /// How subjects are bucketed where a file names no `zdm.bucketing`. Default: `flagd-v2`. The linter
    /// wants files to name it.
    #[must_use]
    pub fn bucketing(mut self, bucketing: Bucketing) -> Self {
        self.bucketing = bucketing;
        self
    }

    /// Tells `observer` who saw which variant, once each, as far as `slots` fingerprints of 8 bytes
    /// remember. It runs inside of evaluations, so it must be quick; hand the work to a channel.
    #[must_use]
    pub fn exposures(
        mut self,
        slots: usize,
        observer: impl Fn(&Exposure<'_>) + Send + Sync + 'static,
    ) -> Self {
        self.exposures = Some(Arc::new(Exposures::new(slots, Box::new(observer))));
        self
    }

    /// Keeps a copy of the last good files there, and starts from it when a source does not answer.
    #[must_use]
    pub fn last_good(mut self, path: impl Into<PathBuf>) -> Self {
        self.last_good = Some(path.into());
        self
    }

    /// Starts with code defaults when a source does not answer and there is no last good copy, instead of
    /// failing. Default: off.
    #[must_use]
    pub fn start_without_sources(mut self) -> Self {
        self.start_without_sources = true;
        self
    }

    /// Takes only files that are signed with this Ed25519 key and whose `zdm.revision` does not go back.
    ///
    /// # Errors
    /// [`LoadError::Setting`] when the bytes are no public key.
    #[cfg(feature = "signature")]
    pub fn trust(mut self, public_key: [u8; 32]) -> Result<Self, LoadError> {
        self.trusted = Some(crate::source::signature::Trusted::new(public_key)?);
        Ok(self)
    }

    /// Reads every source once and starts to follow them.
    ///
    /// # Errors
    /// [`LoadError`] says which source is refused and why.
    pub fn build(self) -> Result<Flags, LoadError> {
        Flags::start(self)
    }
}
