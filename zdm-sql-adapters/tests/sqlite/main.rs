//! The SQLite adapter against real files.

#![expect(clippy::unwrap_used, reason = "a test that fails panics")]

mod apply;
mod bookkeeping;
mod cancellation;
mod capture;
mod conformance;
mod discovered;
mod errors;
mod fence;
mod logical;
mod pages;
mod support;
mod types;
