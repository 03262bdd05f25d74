//! The SQLite adapter against real files.

mod apply;
mod cancellation;
mod discovered;
mod errors;
mod fence;
mod pages;
mod support;
mod types;
