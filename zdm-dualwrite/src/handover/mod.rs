//! Changing the phase: gates, and the short fenced switch of the primary role.
//!
//! Most moves only change where reads are answered or whether writes are mirrored: the coordinator
//! records the move, and operations that begin afterwards follow it. The handover changes the primary.
//! There are never two: writes wait; those under way end; the queue drains, so the two stores are equal;
//! keys touched since the last verification are compared once more; then the new phase is recorded, which
//! is the point of no return; and writes go on at the other side, with the queue pointing back. If any of
//! this takes longer than `Settings::handover_pause`, writes go on where they were and nothing has
//! changed.
//!
//! Where several instances follow one record, the handover is announced first, and every one of them holds
//! its writes and drains before it is completed.

mod facts;
mod gates;
mod membership;
mod moves;
mod step;

pub(crate) use facts::{Backfilled, Facts, TouchedSince, Verified};
pub(crate) use membership::{join, spawn_membership};
pub use moves::{Advanced, MoveRequest};
pub(crate) use step::BeforeHandover;
