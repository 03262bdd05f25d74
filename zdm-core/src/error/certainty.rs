/// Whether a call that failed took effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Certainty {
    /// It took effect in spite of the error.
    Applied,
    /// It certainly did not take effect and never will.
    NotApplied,
    /// Nobody knows; it may even take effect later.
    Unknown,
}

/// Tells whether a failed write took effect. The error type of every call that is made through
/// `DualWrite::write` implements it.
///
/// Answer [`Certainty::NotApplied`] only where the store itself said so: an entry of the
/// secondary-write queue is removed on that word. When in doubt the answer is
/// [`Certainty::Unknown`]; it costs one more comparison of the two stores and nothing else.
///
/// ```
/// use zdm_core::error::{Certainty, Outcome};
///
/// enum RenameError { NoSuchUser, ConnectionLost }
///
/// impl Outcome for RenameError {
///     fn certainty(&self) -> Certainty {
///         match self {
///             Self::NoSuchUser => Certainty::NotApplied,
///             Self::ConnectionLost => Certainty::Unknown,
///         }
///     }
/// }
/// assert_eq!(RenameError::ConnectionLost.certainty(), Certainty::Unknown);
/// assert_eq!(RenameError::NoSuchUser.certainty(), Certainty::NotApplied);
/// ```
pub trait Outcome {
    /// Whether the call took effect.
    fn certainty(&self) -> Certainty;
}

impl<E: Outcome + ?Sized> Outcome for Box<E> {
    fn certainty(&self) -> Certainty {
        (**self).certainty()
    }
}

impl Outcome for std::convert::Infallible {
    fn certainty(&self) -> Certainty {
        match *self {}
    }
}
