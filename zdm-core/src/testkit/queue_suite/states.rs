use tokio::time::Instant;

use super::{
    EPOCH, FORWARD, QueueFactory, ROOMY, Rule, WAIT, claim, claim_not_before, claim_now, counts, ends, fresh,
    key, listed, mark, open, upsert,
};
use crate::key::KeyRange;
use crate::queue::{Direction, EntryId, EntryState, Epoch, Touch, WriteQueue};

pub(super) async fn an_open_entry_cannot_be_claimed<F: QueueFactory>(rule: Rule, factory: &mut F) {
    let queue = fresh(rule, factory).await;
    let touch = upsert(1).and(Touch::delete(&2_u64).encode());
    let id = rule.ok("open", queue.open(touch.clone(), Epoch(9), Direction::OldToNew).await);
    rule.same("the counts", counts(&queue), [1, 0, 0, 0, 0]);
    rule.holds(claim(rule, &queue, 10).await.is_none(), "an OPEN entry was claimed");
    rule.holds(!queue.is_clean(&key(1)) && !queue.is_clean(&key(2)), "a key with an entry is called clean");
    rule.holds(queue.is_clean(&key(3)), "a key without an entry is called dirty");

    let listed = queue.entries(EntryState::Open, 10);
    rule.same("the number of listed entries", listed.len(), 1);
    for entry in listed {
        rule.same("the id", entry.id, id);
        rule.same("the touch", entry.touch, touch.clone());
        rule.same("the epoch", entry.epoch, Epoch(9));
        rule.same("the direction", entry.direction, Direction::OldToNew);
        rule.same("the number of attempts", entry.attempts, 0);
        rule.same("the error", entry.last_error, None);
    }

    queue.release(id, None);
    rule.same("the counts after the release", counts(&queue), [0, 0, 1, 0, 0]);
    let claim = claim_now(rule, &queue, 10).await;
    rule.same("the claimed entries", claim.ids(), vec![id]);
    rule.same("the counts while it is claimed", counts(&queue), [0, 0, 0, 1, 0]);
    rule.holds(!queue.is_clean(&key(1)), "a claimed key is called clean");
    queue.ack(&claim.ids());
    rule.same("the counts after the ack", counts(&queue), [0; 5]);
    rule.holds(queue.is_clean(&key(1)), "a key whose entry was acknowledged is called dirty");
}

pub(super) async fn a_cancelled_entry_is_gone<F: QueueFactory>(rule: Rule, factory: &mut F) {
    let queue = fresh(rule, factory).await;
    let id = open(rule, &queue, upsert(1)).await;
    queue.cancel(id);
    rule.same("the counts", counts(&queue), [0; 5]);
    rule.holds(claim(rule, &queue, 10).await.is_none(), "a cancelled entry was claimed");
    rule.holds(queue.is_clean(&key(1)), "the key of a cancelled entry is called dirty");
}

pub(super) async fn an_ambiguous_entry_waits_out_its_settle_time<F: QueueFactory>(
    rule: Rule,
    factory: &mut F,
) {
    let queue = fresh(rule, factory).await;
    let id = open(rule, &queue, upsert(1)).await;
    let earliest = Instant::now() + WAIT;
    queue.hold(id, WAIT);
    if Instant::now() < earliest {
        rule.same("the counts", counts(&queue), [0, 1, 0, 0, 0]);
        rule.same("the AMBIGUOUS entries", listed(&queue, EntryState::Ambiguous), vec![id]);
    }
    rule.holds(!queue.is_clean(&key(1)), "the key of an AMBIGUOUS entry is called clean");
    let claim = claim_not_before(rule, &queue, earliest).await;
    rule.same("the claimed entries", claim.ids(), vec![id]);
}

pub(super) async fn a_call_about_an_entry_in_another_state_changes_nothing<F: QueueFactory>(
    rule: Rule,
    factory: &mut F,
) {
    let queue = fresh(rule, factory).await;
    let id = open(rule, &queue, upsert(1)).await;
    let everything_but_release = |ids: &[EntryId]| {
        queue.ack(ids);
        queue.park(ids, "not claimed");
        queue.retry_later(ids, WAIT, Some("not claimed"));
    };
    everything_but_release(&[id, EntryId(u64::MAX)]);
    rule.same("the counts of an open entry", counts(&queue), [1, 0, 0, 0, 0]);

    queue.release(id, None);
    queue.release(id, None);
    queue.cancel(id);
    queue.hold(id, WAIT);
    everything_but_release(&[id]);
    rule.same("the counts of a released entry", counts(&queue), [0, 0, 1, 0, 0]);

    let claimed = claim_now(rule, &queue, 10).await;
    queue.release(id, None);
    queue.cancel(id);
    queue.hold(id, WAIT);
    rule.same("the counts of a claimed entry", counts(&queue), [0, 0, 0, 1, 0]);

    queue.ack(&claimed.ids());
    queue.ack(&claimed.ids());
    queue.release(id, None);
    everything_but_release(&claimed.ids());
    rule.same("the counts after the ack", counts(&queue), [0; 5]);
    // Nothing of that may have left a lock on the key.
    mark(rule, &queue, upsert(1)).await;
    claim_now(rule, &queue, 10).await;
}

pub(super) async fn a_release_narrows_to_what_the_touch_covers<F: QueueFactory>(rule: Rule, factory: &mut F) {
    let queue = fresh(rule, factory).await;
    let insert = Touch::after(&10_u64).encode();
    let id = open(rule, &queue, insert.clone()).await;
    rule.holds(!queue.is_clean(&key(99)), "a key in the range of an entry is called clean");
    queue.release(id, Some(upsert(42)));
    rule.holds(!queue.is_clean(&key(42)), "the narrowed key is called clean");
    rule.holds(queue.is_clean(&key(99)), "a key outside the narrowed touch is called dirty");
    let claim = claim_now(rule, &queue, 10).await;
    rule.same("the narrowed touch", claim.entries[0].touch.clone(), upsert(42));
    queue.ack(&claim.ids());

    let id = open(rule, &queue, insert.clone()).await;
    queue.release(id, Some(upsert(10)));
    let claim = claim_now(rule, &queue, 10).await;
    rule.same("the touch after one that it does not cover", claim.entries[0].touch.clone(), insert);
}

pub(super) async fn entries_are_listed_oldest_first<F: QueueFactory>(rule: Rule, factory: &mut F) {
    let queue = fresh(rule, factory).await;
    let mut ids = Vec::new();
    for at in [5, 3, 9, 1, 7] {
        ids.push(open(rule, &queue, upsert(at)).await);
    }
    rule.holds(ids.is_sorted() && ids.windows(2).all(|pair| pair[0] != pair[1]), "ids do not grow");
    rule.same("the list", listed(&queue, EntryState::Open), ids.clone());
    let first: Vec<_> = queue.entries(EntryState::Open, 2).iter().map(|entry| entry.id).collect();
    rule.same("the list with a limit of 2", first, ids[..2].to_vec());
    rule.same("the list of another state", listed(&queue, EntryState::Parked), Vec::new());
}

pub(super) async fn a_parked_entry_is_dirty_and_not_pending<F: QueueFactory>(rule: Rule, factory: &mut F) {
    let queue = fresh(rule, factory).await;
    let id = mark(rule, &queue, upsert(1)).await;
    let claimed = claim_now(rule, &queue, 10).await;
    queue.park(&claimed.ids(), "does not fit");
    rule.same("the counts", counts(&queue), [0, 0, 0, 0, 1]);
    rule.holds(!queue.is_clean(&key(1)), "a parked key is called clean");
    rule.holds(claim(rule, &queue, 10).await.is_none(), "a parked entry was claimed");
    rule.holds(ends(queue.wait_drained()).await, "a parked entry keeps the queue from being drained");
    for entry in queue.entries(EntryState::Parked, 10) {
        rule.same("the id", entry.id, id);
        rule.same("the error", entry.last_error.as_deref(), Some("does not fit"));
    }
}

pub(super) async fn unparking_puts_back_what_touches_the_range<F: QueueFactory>(rule: Rule, factory: &mut F) {
    let queue = fresh(rule, factory).await;
    for at in 1..=3 {
        mark(rule, &queue, upsert(at)).await;
    }
    let claimed = claim_now(rule, &queue, 10).await;
    queue.park(&claimed.ids(), "does not fit");
    rule.same("the parked entries", counts(&queue)[4], 3);
    rule.same("how many are unparked outside", queue.unpark(&KeyRange::after(key(3))), 0);
    rule.same("how many are unparked inside", queue.unpark(&KeyRange::between(key(1), key(2))), 1);
    let claim = claim_now(rule, &queue, 10).await;
    rule.same("the number of claimed entries", claim.entries.len(), 1);
    rule.same("the touch", claim.entries[0].touch.clone(), upsert(2));
    rule.same("the attempts of an unparked entry", claim.entries[0].attempts, 0);
    rule.same("how many are unparked in all", queue.unpark(&KeyRange::all()), 2);
    rule.same("the counts", counts(&queue), [0, 0, 2, 1, 0]);
}

pub(super) async fn a_row_can_be_parked_from_the_start<F: QueueFactory>(rule: Rule, factory: &mut F) {
    let queue = factory.create(1).await;
    super::recover(rule, &queue).await;
    open(rule, &queue, upsert(1)).await;
    let parked = queue.open_parked(upsert(2), EPOCH, FORWARD, "no such column").await;
    let id = rule.ok("open_parked in a full queue", parked);
    rule.same("the counts", counts(&queue), [1, 0, 0, 0, 1]);
    rule.holds(!queue.is_clean(&key(2)), "a key parked from the start is called clean");
    let entries = queue.entries(EntryState::Parked, ROOMY);
    rule.same("the id", entries[0].id, id);
    rule.same("the error", entries[0].last_error.as_deref(), Some("no such column"));
    rule.same("how many are unparked", queue.unpark(&KeyRange::all()), 1);
    let claim = claim_now(rule, &queue, 10).await;
    rule.same("the claimed entries", claim.ids(), vec![id]);
}
