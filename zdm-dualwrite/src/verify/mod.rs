//! Comparing the two stores.

mod compare;
mod digest;
mod findings;
mod run;
mod second_look;
mod walk;

pub use findings::Differing;
pub use run::{Sampled, Verify, VerifyReport};
pub(crate) use walk::{Then, Walk};
