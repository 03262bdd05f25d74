//! Chapters.

#[doc = include_str!("phase_flags.md")]
pub mod phase_flags {}

#[doc = include_str!("settings.md")]
pub mod settings {}
