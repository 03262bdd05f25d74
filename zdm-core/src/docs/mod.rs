//! Chapters: how the parts fit, what is promised, what a dropped future leaves, and the words.

#[doc = include_str!("architecture.md")]
pub mod architecture {}

#[doc = include_str!("guarantees.md")]
pub mod guarantees {}

#[doc = include_str!("cancellation.md")]
pub mod cancellation {}

#[doc = include_str!("glossary.md")]
pub mod glossary {}
