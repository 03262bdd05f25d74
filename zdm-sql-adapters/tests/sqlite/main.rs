//! The SQLite adapter against real files.

#![expect(clippy::unwrap_used, reason = "a test that fails panics")]

mod apply;
mod cancellation;
mod discovered;
mod errors;
mod fence;
mod pages;
mod support;
mod types;
