//! The MySQL and MariaDB adapter against a real server.
//!
//! `ZDM_TEST_MYSQL_URL` names it. Without one each test says that it is left out; in CI it fails.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test that fails panics")]

mod bookkeeping;
mod cancellation;
mod cut;
#[path = "../cutting/mod.rs"]
mod cutting;
mod errors;
mod queue;
#[path = "../shared_queue/mod.rs"]
mod shared_queue;
mod support;
mod timeouts;
