//! The MySQL and MariaDB adapter against a real server.
//!
//! `ZDM_TEST_MYSQL_URL` names it. Without one each test says that it is left out; in CI it fails.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test that fails panics")]

mod apply;
mod bookkeeping;
mod cancellation;
mod capture;
mod conformance;
mod create;
mod cut;
#[path = "../cutting/mod.rs"]
mod cutting;
mod errors;
mod fence;
mod pages;
mod queue;
#[path = "../shared_queue/mod.rs"]
mod shared_queue;
mod support;
mod timeouts;
mod types;
