use std::time::Duration;

use tokio::time::{Instant, timeout};

use super::{
    EPOCH, FORWARD, PATIENCE, QueueFactory, Rule, WAIT, claim_not_before, claim_now, counts, ends,
    eventually, fresh, mark, open, still_waits, upsert,
};
use crate::error::{Certainty, Kind};
use crate::key::KeyRange;
use crate::queue::WriteQueue;
use crate::testkit::drop_at_every_poll;

pub(super) async fn a_full_queue_refuses_and_tells_when_there_is_room<F: QueueFactory>(
    rule: Rule,
    factory: &mut F,
) {
    const LIMIT: u64 = 3;
    let queue = factory.create(3).await;
    super::recover(rule, &queue).await;
    rule.holds(ends(queue.wait_room()).await, "wait_room does not return although there is room");
    let mut ids = Vec::new();
    for at in 0..LIMIT {
        ids.push(mark(rule, &queue, upsert(at)).await);
    }
    let refused = queue.open(upsert(9), EPOCH, FORWARD).await;
    let error = rule.fails("open in a full queue", Kind::Limit, refused);
    rule.same("the certainty of the refusal", error.certainty(), Certainty::NotApplied);
    rule.same("the counts of a full queue", counts(&queue), [0, 0, LIMIT, 0, 0]);
    rule.holds(still_waits(queue.wait_room()).await, "wait_room returns although the queue is full");

    // Room comes from an ack, while somebody waits.
    let claimed = claim_now(rule, &queue, 1).await;
    let room = timeout(PATIENCE, queue.wait_room());
    let acked = async {
        tokio::task::yield_now().await;
        queue.ack(&claimed.ids());
    };
    let (room, ()) = tokio::join!(room, acked);
    rule.holds(room.is_ok(), "wait_room does not return after an ack");
    let id = open(rule, &queue, upsert(9)).await;
    // And from a cancelled entry.
    let room = timeout(PATIENCE, queue.wait_room());
    let cancelled = async {
        tokio::task::yield_now().await;
        queue.cancel(id);
    };
    let (room, ()) = tokio::join!(room, cancelled);
    rule.holds(room.is_ok(), "wait_room does not return after a cancelled entry");
    open(rule, &queue, upsert(10)).await;
}

pub(super) async fn waiting_for_a_claim_ends_with_a_release<F: QueueFactory>(rule: Rule, factory: &mut F) {
    let queue = fresh(rule, factory).await;
    let id = open(rule, &queue, upsert(1)).await;
    let waiting = timeout(PATIENCE, queue.wait_claimable());
    let released = async {
        tokio::task::yield_now().await;
        queue.release(id, None);
    };
    let (waited, ()) = tokio::join!(waiting, released);
    rule.holds(waited.is_ok(), "wait_claimable does not return after a release");
    let claimed = claim_now(rule, &queue, 10).await;

    let waiting = timeout(PATIENCE, queue.wait_claimable());
    let given_back = async {
        tokio::task::yield_now().await;
        queue.retry_later(&claimed.ids(), Duration::ZERO, None);
    };
    let (waited, ()) = tokio::join!(waiting, given_back);
    rule.holds(waited.is_ok(), "wait_claimable does not return after a retry");
    let claimed = claim_not_before(rule, &queue, Instant::now()).await;

    queue.park(&claimed.ids(), "set aside");
    let waiting = timeout(PATIENCE, queue.wait_claimable());
    let unparked = async {
        tokio::task::yield_now().await;
        queue.unpark(&KeyRange::all())
    };
    let (waited, count) = tokio::join!(waiting, unparked);
    rule.same("how many are unparked", count, 1);
    rule.holds(waited.is_ok(), "wait_claimable does not return after unparking");
}

pub(super) async fn draining_waits_for_everything_but_parked_entries<F: QueueFactory>(
    rule: Rule,
    factory: &mut F,
) {
    let queue = fresh(rule, factory).await;
    rule.holds(ends(queue.wait_drained()).await, "wait_drained does not return from an empty queue");
    let id = open(rule, &queue, upsert(1)).await;
    rule.holds(still_waits(queue.wait_drained()).await, "wait_drained returns with an OPEN entry");
    let until = Instant::now() + WAIT;
    queue.hold(id, WAIT);
    let early = timeout(Duration::from_millis(20), queue.wait_drained()).await;
    if Instant::now() < until {
        rule.holds(early.is_err(), "wait_drained returns with an AMBIGUOUS entry");
    }
    let claimed = claim_not_before(rule, &queue, until).await;
    rule.holds(still_waits(queue.wait_drained()).await, "wait_drained returns with a CLAIMED entry");
    queue.retry_later(&claimed.ids(), Duration::ZERO, None);
    rule.holds(still_waits(queue.wait_drained()).await, "wait_drained returns with a RELEASED entry");
    let claimed = claim_not_before(rule, &queue, Instant::now()).await;
    let draining = timeout(PATIENCE, queue.wait_drained());
    let acked = async {
        tokio::task::yield_now().await;
        queue.ack(&claimed.ids());
    };
    let (drained, ()) = tokio::join!(draining, acked);
    rule.holds(drained.is_ok(), "wait_drained does not return after the last ack");
}

pub(super) async fn an_open_that_is_dropped_leaves_nothing<F: QueueFactory>(rule: Rule, factory: &mut F) {
    let queue = fresh(rule, factory).await;
    let make = |_| queue.open(upsert(1), EPOCH, FORWARD);
    drop_at_every_poll(make, async |polls, output| {
        if let Some(opened) = output {
            queue.cancel(rule.ok("open", opened));
        }
        let empty = eventually(|| counts(&queue) == [0; 5]).await;
        rule.holds(empty, format!("open, dropped after {polls} polls, left {:?}", queue.stats()));
    })
    .await;
    mark(rule, &queue, upsert(1)).await;
    claim_now(rule, &queue, 10).await;
}

pub(super) async fn a_claim_that_is_dropped_keeps_nothing<F: QueueFactory>(rule: Rule, factory: &mut F) {
    let queue = fresh(rule, factory).await;
    for at in 0..3 {
        mark(rule, &queue, upsert(at)).await;
    }
    let make = |_| queue.claim(FORWARD, 10);
    drop_at_every_poll(make, async |polls, output| {
        if let Some(claimed) = output {
            let claimed = rule.some("nothing to claim", rule.ok("claim", claimed));
            rule.same("the number of claimed entries", claimed.entries.len(), 3);
            queue.retry_later(&claimed.ids(), Duration::ZERO, None);
        }
        let free = eventually(|| counts(&queue) == [0, 0, 3, 0, 0]).await;
        rule.holds(free, format!("claim, dropped after {polls} polls, left {:?}", queue.stats()));
    })
    .await;
}
