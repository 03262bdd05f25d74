//! The page engine from outside: backfill, verification and repair under live writes, faults and crashes.
#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod crashes;
mod handling;
mod lateness;
mod verify;
mod world;
