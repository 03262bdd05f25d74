//! Tables of any database, moved by the program as a user runs it.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod files;
mod servers;
mod sums;
mod support;
