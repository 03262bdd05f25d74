//! How it works, chapter by chapter.

#[doc = include_str!("secondary_writes.md")]
pub mod secondary_writes {}

#[doc = include_str!("backfill.md")]
pub mod backfill {}

#[doc = include_str!("handover.md")]
pub mod handover {}
