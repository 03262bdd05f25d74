//! The PostgreSQL adapter against a real server.
//!
//! `ZDM_TEST_POSTGRES_URL` names it. Without one each test says that it is left out; in CI it fails.

#![expect(clippy::unwrap_used, reason = "a test that fails panics")]

mod cancellation;
mod cut;
mod errors;
mod support;
mod timeouts;
