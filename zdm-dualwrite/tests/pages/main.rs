//! The page engine from outside: backfill, verification and repair under live writes, faults and crashes.

mod crashes;
mod lateness;
mod world;
