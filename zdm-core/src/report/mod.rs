//! What happens, told to whoever watches.

mod event;
mod mismatch;
mod observer;
mod progress;

pub use event::Event;
pub use mismatch::{Mismatch, MismatchCause};
pub use observer::{Observer, Observers};
pub use progress::{Progress, RunState};
