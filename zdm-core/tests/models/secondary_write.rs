//! How a write reaches the secondary: two or three writes of one key, and two workers.
//!
//! A request to either store can outlive its client, which gave up or crashed, and then lands late or never. The
//! property: once nothing is in flight, nobody works and no entry is left, the secondary equals the primary.
//!
//! There are three safe ways: [`fenced`], [`exclusive`] and [`reread`]. The broken variants and the rule each leaves out:
//!
//! | variant | rule left out |
//! | --- | --- |
//! | no fence, no settle | an abandoned put can still land after its successor: fence it off or wait until it cannot |
//! | ack clears the key | ack removes exactly the claimed entries |
//! | ack clears the key, with re-read | the same: a re-read does not make up for it |
//! | open entries can be claimed | an entry is claimable only when its write can no longer take effect |
//! | unknown outcomes are released at once | an unknown outcome is held for the primary's settle time |
//! | a queue per instance, no re-read | without exclusive claims the primary is read again after the put |
//! | a queue per instance, no settle | a re-read cannot see a put that lands later |
//! | the entry is appended beside the call | the entry is durable before the primary is called |
//! | own put forgotten, own put forgotten in a crash | in a queue per instance, a worker that put a record must be able to take it back |
//!
//! The last rule: instance A puts the record of an upsert while instance B deletes it on both sides. A's put lands last,
//! and its re-read finds no record. A holds no delete entry, so "absence is not deletion" would keep what A itself just
//! wrote. A therefore takes its own put back, and after a crash, when it cannot know whether it had put, it treats the
//! entries it finds in its queue as `Unknown`.

mod steps;

use crate::{Intent, assert_broken, assert_safe};

const NO_SILENT_DIVERGENCE: &str = "never diverges silently";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Exclusion {
    /// Any worker claims at any time, even beside a paused one that may still act.
    None,
    /// A worker waits until its own abandoned puts can no longer land.
    SettleOwn,
    /// One worker at a time, once no earlier put of the key can land.
    SettleAll,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Queues {
    Shared,
    /// The entries of writer `i` belong to worker `i % 2`.
    PerInstance,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ack {
    ClaimedEntries,
    WholeKey,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Claimable {
    Released,
    ReleasedAndOpen,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum UnknownOutcome {
    Held,
    ReleasedAtOnce,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum EntryIsDurable {
    BeforeCall,
    BesideCall,
}

/// What a worker may delete when the primary has no record and no claimed entry says `Delete` or `Unknown`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum OwnPut {
    Forgotten,
    /// What it put itself in this reconcile.
    Remembered,
    /// That, and what an earlier life of it may have put.
    RememberedAcrossCrash,
}

#[derive(Clone, Debug)]
struct Protocol {
    fenced: bool,
    exclusion: Exclusion,
    queues: Queues,
    reread: bool,
    own_put: OwnPut,
    claimable: Claimable,
    unknown_outcome: UnknownOutcome,
    ack: Ack,
    entry_is_durable: EntryIsDurable,
    /// What each writer does with the key.
    writes: &'static [Intent],
    crashes: u8,
    timeouts: u8,
    focus: Option<&'static str>,
}

const UPSERTS: &[Intent] = &[Intent::Upsert, Intent::Upsert];
const UPSERT_AND_DELETE: &[Intent] = &[Intent::Upsert, Intent::Delete];
/// With a queue per instance, the first and the last write share one.
const DELETE_LAST: &[Intent] = &[Intent::Upsert, Intent::Upsert, Intent::Delete];
const DELETE_BETWEEN: &[Intent] = &[Intent::Upsert, Intent::Delete, Intent::Upsert];

/// The secondary refuses a put whose stamp is older than the last one it took.
fn fenced() -> Protocol {
    Protocol {
        fenced: true,
        exclusion: Exclusion::None,
        queues: Queues::Shared,
        reread: false,
        own_put: OwnPut::Forgotten,
        claimable: Claimable::Released,
        unknown_outcome: UnknownOutcome::Held,
        ack: Ack::ClaimedEntries,
        entry_is_durable: EntryIsDurable::BeforeCall,
        writes: UPSERTS,
        crashes: 1,
        timeouts: 1,
        focus: None,
    }
}

/// One process, or a shared queue with exclusive claims.
fn exclusive() -> Protocol {
    Protocol { fenced: false, exclusion: Exclusion::SettleAll, ..fenced() }
}

/// A queue per instance: claims of one key overlap, so the primary is read again after the put.
fn reread() -> Protocol {
    Protocol {
        exclusion: Exclusion::SettleOwn,
        queues: Queues::PerInstance,
        reread: true,
        own_put: OwnPut::RememberedAcrossCrash,
        ..exclusive()
    }
}

#[test]
fn the_fenced_way_is_safe() {
    assert_safe(&fenced(), 380_000);
    assert_safe(&Protocol { writes: UPSERT_AND_DELETE, ..fenced() }, 320_000);
    assert_safe(&Protocol { writes: UPSERT_AND_DELETE, queues: Queues::PerInstance, ..fenced() }, 13_000);
}

#[test]
fn the_exclusive_way_is_safe() {
    for (writes, at_least) in [(UPSERTS, 31_000), (UPSERT_AND_DELETE, 29_000)] {
        assert_safe(&Protocol { writes, crashes: 2, timeouts: 2, ..exclusive() }, at_least);
    }
    for (writes, at_least) in [(DELETE_LAST, 110_000), (DELETE_BETWEEN, 110_000)] {
        assert_safe(&Protocol { writes, ..exclusive() }, at_least);
    }
}

#[test]
fn the_reread_way_is_safe() {
    for (writes, at_least) in [(UPSERTS, 140_000), (UPSERT_AND_DELETE, 136_000)] {
        assert_safe(&Protocol { writes, crashes: 2, timeouts: 2, ..reread() }, at_least);
    }
    for (writes, at_least) in [(DELETE_LAST, 570_000), (DELETE_BETWEEN, 570_000)] {
        assert_safe(&Protocol { writes, ..reread() }, at_least);
    }
}

#[test]
fn without_fence_or_settle_a_late_put_wins() {
    let variant = Protocol { exclusion: Exclusion::None, reread: true, ..exclusive() };
    assert_broken(&variant, NO_SILENT_DIVERGENCE, 21);
}

#[test]
fn an_ack_by_key_loses_the_write_after_the_read() {
    let variant = Protocol { ack: Ack::WholeKey, ..fenced() };
    assert_broken(&variant, NO_SILENT_DIVERGENCE, 13);
    assert_broken(&Protocol { reread: true, ..variant }, NO_SILENT_DIVERGENCE, 14);
}

#[test]
fn a_claim_of_an_open_entry_misses_its_write() {
    let variant = Protocol { claimable: Claimable::ReleasedAndOpen, ..fenced() };
    assert_broken(&variant, NO_SILENT_DIVERGENCE, 10);
}

#[test]
fn an_unknown_outcome_released_at_once_lands_after_the_ack() {
    let variant = Protocol { unknown_outcome: UnknownOutcome::ReleasedAtOnce, ..fenced() };
    assert_broken(&variant, NO_SILENT_DIVERGENCE, 11);
}

#[test]
fn a_queue_per_instance_needs_the_reread() {
    assert_broken(&Protocol { reread: false, ..reread() }, NO_SILENT_DIVERGENCE, 19);
}

#[test]
fn a_queue_per_instance_needs_the_settle_time() {
    assert_broken(&Protocol { exclusion: Exclusion::None, ..reread() }, NO_SILENT_DIVERGENCE, 25);
}

#[test]
fn a_queue_per_instance_takes_its_own_put_back() {
    let variant = Protocol { writes: UPSERT_AND_DELETE, own_put: OwnPut::Forgotten, ..reread() };
    assert_broken(&variant, NO_SILENT_DIVERGENCE, 23);
    let variant = Protocol { own_put: OwnPut::Remembered, ..variant };
    assert_broken(&variant, NO_SILENT_DIVERGENCE, 25);
    assert_safe(&Protocol { crashes: 0, ..variant }, 2_700);
}

#[test]
fn an_entry_beside_the_call_is_lost_in_a_crash() {
    let variant = Protocol { entry_is_durable: EntryIsDurable::BesideCall, ..exclusive() };
    assert_broken(&variant, NO_SILENT_DIVERGENCE, 4);
    // The crash is what does it: without one, the entry is always there by the time the write returns.
    assert_safe(&Protocol { crashes: 0, ..variant }, 1_700);
}
