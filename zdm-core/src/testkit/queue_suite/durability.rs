use std::collections::BTreeSet;

use tokio::time::Instant;

use super::{
    BACK, EPOCH, FORWARD, QueueFactory, Rule, WAIT, claim, claim_not_before, claim_now, counts, fresh, key,
    mark, open, upsert,
};
use crate::error::Kind;
use crate::key::KeyRange;
use crate::queue::{EntryState, Epoch, Touch, WriteQueue};
use crate::store::Stamp;

pub(super) async fn a_closed_queue_says_so<F: QueueFactory>(rule: Rule, factory: &mut F) {
    let queue = fresh(rule, factory).await;
    mark(rule, &queue, upsert(1)).await;
    let taint = rule.ok("taint", queue.taint(KeyRange::all(), "disk full").await);
    rule.ok("close", queue.close().await);
    rule.fails("open after close", Kind::Stopped, queue.open(upsert(2), EPOCH, FORWARD).await);
    let parked = queue.open_parked(upsert(2), EPOCH, FORWARD, "does not fit").await;
    rule.fails("open_parked after close", Kind::Stopped, parked);
    rule.fails("claim after close", Kind::Stopped, queue.claim(FORWARD, 1).await);
    rule.fails("taint after close", Kind::Stopped, queue.taint(KeyRange::all(), "late").await);
    rule.fails("clear_taint after close", Kind::Stopped, queue.clear_taint(taint).await);
    rule.fails("draw_stamp after close", Kind::Stopped, queue.draw_stamp().await);
    let raised = queue.raise_stamps_above(Stamp(1 << 60)).await;
    rule.fails("raise_stamps_above after close", Kind::Stopped, raised);
}

/// Dropped without being closed, as by a process that dies: every entry that `open` has returned for is
/// there again, whatever became of it later.
pub(super) async fn entries_survive_being_opened_again<F: QueueFactory>(rule: Rule, factory: &mut F) {
    let queue = fresh(rule, factory).await;
    mark(rule, &queue, upsert(1)).await;
    let claimed = claim_now(rule, &queue, 10).await;
    rule.same("the number of claimed entries", claimed.entries.len(), 1);
    mark(rule, &queue, upsert(2)).await;
    let parked = claim_now(rule, &queue, 10).await;
    queue.park(&parked.ids(), "does not fit");
    open(rule, &queue, Touch::delete(&3_u64).encode()).await;
    mark(rule, &queue, Touch::after(&10_u64).encode()).await;
    let back = rule.ok("open", queue.open(upsert(4), Epoch(8), BACK).await);
    let before = queue.entries(EntryState::Open, 10);
    drop(queue);

    let Some(queue) = factory.reopen().await else { return };
    let earliest = Instant::now() + WAIT;
    let recovered = super::recover(rule, &queue).await;
    let stats = queue.stats();
    rule.same("the number of entries", stats.pending() + stats.parked, 5);
    // A park may be undone by a crash; that is one attempt more and no loss.
    rule.same("what recover returns", recovered, stats.pending());
    for at in [1, 2, 3, 4, 11] {
        rule.holds(!queue.is_clean(&key(at)), format!("the entry of the key {at} is lost"));
    }
    let held = claim(rule, &queue, 10).await;
    if Instant::now() < earliest {
        rule.holds(held.is_none(), "an entry of an earlier process was claimed before the settle time");
        rule.same("the counts", counts(&queue)[..4].to_vec(), vec![0, recovered, 0, 0]);
        let held = queue.entries(EntryState::Ambiguous, 10);
        let found = rule.some("the entry with the epoch 8 is lost", held.iter().find(|e| e.id == back));
        let wanted = rule.some("the entry was not listed", before.iter().find(|e| e.id == back));
        rule.same("the touch", found.touch.clone(), wanted.touch.clone());
        rule.same("the epoch", found.epoch, Epoch(8));
        rule.same("the direction", found.direction, BACK);
        rule.same("when it was opened", found.opened_at, wanted.opened_at);
    }
    queue.unpark(&KeyRange::all());
    let mut forward = BTreeSet::new();
    while forward.len() < 4 {
        let claimed = claim_not_before(rule, &queue, Instant::now()).await;
        forward.extend(claimed.ids());
        queue.ack(&claimed.ids());
    }
    let claimed = rule.some("nothing to claim", rule.ok("claim", queue.claim(BACK, 10).await));
    rule.same("the claim back", claimed.ids(), vec![back]);
    queue.ack(&claimed.ids());
    rule.same("the counts", counts(&queue), [0; 5]);
}

pub(super) async fn what_was_settled_before_closing_stays_settled<F: QueueFactory>(
    rule: Rule,
    factory: &mut F,
) {
    let queue = fresh(rule, factory).await;
    mark(rule, &queue, upsert(1)).await;
    let claimed = claim_now(rule, &queue, 10).await;
    queue.ack(&claimed.ids());
    let cancelled = open(rule, &queue, upsert(2)).await;
    queue.cancel(cancelled);
    mark(rule, &queue, upsert(3)).await;
    let claimed = claim_now(rule, &queue, 10).await;
    queue.park(&claimed.ids(), "does not fit");
    let left = mark(rule, &queue, Touch::after(&10_u64).encode()).await;
    rule.ok("close", queue.close().await);
    drop(queue);

    let Some(queue) = factory.reopen().await else { return };
    rule.same("the entries that are recovered", super::recover(rule, &queue).await, 1);
    rule.same("the entries that are held", super::listed(&queue, EntryState::Ambiguous), vec![left]);
    for entry in queue.entries(EntryState::Parked, 10) {
        rule.same("the error of the parked entry", entry.last_error.as_deref(), Some("does not fit"));
    }
    rule.same("the counts", counts(&queue), [0, 1, 0, 0, 1]);
}

pub(super) async fn stamps_and_ids_grow_across_reopening<F: QueueFactory>(rule: Rule, factory: &mut F) {
    let queue = fresh(rule, factory).await;
    let mut stamp = rule.ok("draw_stamp", queue.draw_stamp().await);
    let mut id = open(rule, &queue, upsert(1)).await;
    queue.cancel(id);
    drop(queue);
    for round in 0..3_u64 {
        let Some(queue) = factory.reopen().await else { return };
        super::recover(rule, &queue).await;
        let next = rule.ok("draw_stamp", queue.draw_stamp().await);
        rule.holds(next > stamp, format!("drew {next:?} after {stamp:?} of an earlier process"));
        let opened = mark(rule, &queue, upsert(100 + round)).await;
        rule.holds(opened > id, format!("{opened:?} was given after {id:?} by an earlier process"));
        let claimed = rule.ok("claim", queue.claim(FORWARD, 10).await);
        let claimed = rule.some("the new entry cannot be claimed", claimed);
        rule.holds(claimed.stamp > next, "a claim has an older stamp than one drawn before");
        queue.ack(&claimed.ids());
        (stamp, id) = (claimed.stamp, opened);
        if round == 1 {
            rule.ok("close", queue.close().await);
        }
        drop(queue);
    }
}

pub(super) async fn taints_survive_being_opened_again<F: QueueFactory>(rule: Rule, factory: &mut F) {
    let queue = fresh(rule, factory).await;
    let range = KeyRange::between(key(10), key(20));
    let stays = rule.ok("taint", queue.taint(range.clone(), "disk full").await);
    let cleared = rule.ok("taint", queue.taint(KeyRange::all(), "disk full").await);
    rule.ok("clear_taint", queue.clear_taint(cleared).await);
    drop(queue);

    let Some(queue) = factory.reopen().await else { return };
    super::recover(rule, &queue).await;
    let taints = queue.taints();
    let taint = rule.some("a taint is lost", taints.iter().find(|taint| taint.id == stays));
    rule.same("the range", taint.range.clone(), range);
    rule.same("the reason", taint.reason.as_str(), "disk full");
    rule.holds(taints.iter().all(|taint| taint.id != cleared), "a taint that was cleared is back");
}
