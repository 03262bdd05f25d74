//! The PostgreSQL adapter against a real server.
//!
//! `ZDM_TEST_POSTGRES_URL` names it. Without one each test says that it is left out; in CI it fails.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test that fails panics")]

mod bookkeeping;
mod cancellation;
mod capture;
mod conformance;
mod create;
mod cut;
mod digest;
mod discovered;
mod errors;
mod fence;
mod plans;
mod queue;
#[path = "../shared_queue/mod.rs"]
mod shared_queue;
mod support;
mod surroundings;
mod timeouts;
mod types;
