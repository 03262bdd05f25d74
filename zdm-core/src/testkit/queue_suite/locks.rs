use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::{
    BACK, EPOCH, FORWARD, QueueFactory, Rule, WAIT, claim, claim_not_before, claim_now, counts, ends, fresh,
    key, mark, open, upsert,
};
use crate::key::{KeyBytes, KeyRange};
use crate::queue::{Intent, Span, Touch, WriteQueue, WriteQueueExt};
use crate::testkit::Random;

pub(super) async fn one_claim_takes_all_released_entries_of_a_key<F: QueueFactory>(
    rule: Rule,
    factory: &mut F,
) {
    let queue = fresh(rule, factory).await;
    let first = mark(rule, &queue, upsert(1)).await;
    let still_open = open(rule, &queue, upsert(1)).await;
    let last = mark(rule, &queue, Touch::delete(&1_u64).encode()).await;
    let claimed = claim_now(rule, &queue, 1).await;
    rule.same("the claimed entries, oldest first", claimed.ids(), vec![first, last]);
    rule.same("the intent", claimed.entries[1].touch.items()[0].intent, Intent::Delete);
    queue.ack(&claimed.ids());
    rule.holds(!queue.is_clean(&key(1)), "the entry that stayed open is lost");
    queue.release(still_open, None);
    rule.same("what is left", claim_now(rule, &queue, 1).await.ids(), vec![still_open]);
}

pub(super) async fn no_other_claim_covers_a_claimed_key<F: QueueFactory>(rule: Rule, factory: &mut F) {
    let queue = fresh(rule, factory).await;
    mark(rule, &queue, upsert(1)).await;
    let claimed = claim_now(rule, &queue, 10).await;
    let newer = mark(rule, &queue, upsert(1)).await;
    let other = mark(rule, &queue, upsert(2)).await;
    let second = claim_now(rule, &queue, 10).await;
    rule.same("what a second claim takes", second.ids(), vec![other]);
    rule.holds(claim(rule, &queue, 10).await.is_none(), "a claimed key was claimed again");
    queue.ack(&claimed.ids());
    rule.holds(ends(queue.wait_claimable()).await, "wait_claimable does not see that a key was unlocked");
    rule.same("the newer entry", claim_now(rule, &queue, 10).await.ids(), vec![newer]);
}

pub(super) async fn a_claim_names_at_most_so_many_keys<F: QueueFactory>(rule: Rule, factory: &mut F) {
    let queue = fresh(rule, factory).await;
    for at in 0..10 {
        mark(rule, &queue, upsert(at / 2)).await;
    }
    let mut seen = HashSet::new();
    for _ in 0..5 {
        let Some(claimed) = claim(rule, &queue, 2).await else { break };
        let keys: HashSet<_> = claimed.entries.iter().map(|entry| entry.touch.clone()).collect();
        rule.holds((1..=2).contains(&keys.len()), format!("a claim of 2 keys has {}", keys.len()));
        rule.same("entries for each key", claimed.entries.len(), 2 * keys.len());
        seen.extend(keys);
        queue.ack(&claimed.ids());
    }
    rule.same("the keys of all claims", seen.len(), 5);
    rule.same("the counts", counts(&queue), [0; 5]);
}

pub(super) async fn a_claim_keeps_to_its_direction<F: QueueFactory>(rule: Rule, factory: &mut F) {
    let queue = fresh(rule, factory).await;
    let back = rule.ok("open", queue.mark(upsert(1), EPOCH, BACK).await);
    rule.holds(claim(rule, &queue, 10).await.is_none(), "an entry of the other direction was claimed");
    let forward = mark(rule, &queue, upsert(2)).await;
    rule.same("the forward claim", claim_now(rule, &queue, 10).await.ids(), vec![forward]);
    let claimed = rule.some("nothing to claim", rule.ok("claim", queue.claim(BACK, 10).await));
    rule.same("the claim back", claimed.ids(), vec![back]);
}

pub(super) async fn an_ack_removes_exactly_the_entries_it_names<F: QueueFactory>(
    rule: Rule,
    factory: &mut F,
) {
    let queue = fresh(rule, factory).await;
    let (one, two) = (mark(rule, &queue, upsert(1)).await, mark(rule, &queue, upsert(1)).await);
    let claimed = claim_now(rule, &queue, 10).await;
    rule.same("the claimed entries", claimed.ids(), vec![one, two]);
    let landed_meanwhile = mark(rule, &queue, upsert(1)).await;
    queue.ack(&[one]);
    rule.same("the counts", counts(&queue), [0, 0, 1, 1, 0]);
    rule.holds(claim(rule, &queue, 10).await.is_none(), "a key was unlocked with an entry still claimed");
    queue.ack(&[two]);
    rule.holds(!queue.is_clean(&key(1)), "the entry that was opened during the claim is gone");
    rule.same("what is left", claim_now(rule, &queue, 10).await.ids(), vec![landed_meanwhile]);
}

pub(super) async fn a_retry_holds_back_newer_entries_of_the_key<F: QueueFactory>(
    rule: Rule,
    factory: &mut F,
) {
    let queue = fresh(rule, factory).await;
    let failed = mark(rule, &queue, upsert(1)).await;
    let claimed = claim_now(rule, &queue, 10).await;
    let newer = mark(rule, &queue, upsert(1)).await;
    let earliest = Instant::now() + WAIT;
    queue.retry_later(&claimed.ids(), WAIT, Some("no answer"));
    rule.same("the counts", counts(&queue), [0, 0, 2, 0, 0]);
    // Another key is not affected.
    let other = mark(rule, &queue, upsert(2)).await;
    let free = claim_now(rule, &queue, 10).await;
    if Instant::now() < earliest {
        rule.same("what can be claimed before the delay has passed", free.ids(), vec![other]);
        queue.ack(&free.ids());
        let claimed = claim_not_before(rule, &queue, earliest).await;
        rule.same("the claim after the delay", claimed.ids(), vec![failed, newer]);
        let counted: Vec<_> = claimed.entries.iter().map(|entry| entry.attempts).collect();
        rule.same("the attempts", counted, vec![1, 0]);
        rule.same("the error", claimed.entries[0].last_error.as_deref(), Some("no answer"));
        queue.retry_later(&claimed.ids(), Duration::ZERO, None);
        let again = claim_not_before(rule, &queue, Instant::now()).await;
        rule.same("the attempts after a retry without an error", again.entries[0].attempts, 1);
    }
}

pub(super) async fn a_claimed_key_blocks_a_range_and_the_other_way<F: QueueFactory>(
    rule: Rule,
    factory: &mut F,
) {
    let queue = fresh(rule, factory).await;
    let range = |after: u64, up_to: u64| Touch::range(KeyRange::between(after, up_to)).encode();
    mark(rule, &queue, upsert(5)).await;
    let of_key = claim_now(rule, &queue, 10).await;
    let wide = mark(rule, &queue, range(0, 10)).await;
    rule.holds(claim(rule, &queue, 10).await.is_none(), "a range with a claimed key in it was claimed");
    queue.ack(&of_key.ids());
    let of_range = claim_not_before(rule, &queue, Instant::now()).await;
    rule.same("the claim of the range", of_range.ids(), vec![wide]);

    let inside = mark(rule, &queue, upsert(10)).await;
    let overlapping = mark(rule, &queue, range(9, 20)).await;
    rule.holds(claim(rule, &queue, 10).await.is_none(), "a key or range inside a claimed range was claimed");
    let outside = mark(rule, &queue, upsert(30)).await;
    let free = claim_now(rule, &queue, 10).await;
    rule.same("what lies outside the range", free.ids(), vec![outside]);

    let earliest = Instant::now() + WAIT;
    queue.retry_later(&of_range.ids(), WAIT, None);
    let mut found = HashSet::new();
    while found.len() < 3 {
        let claimed = claim_not_before(rule, &queue, earliest).await;
        found.extend(claimed.ids());
        queue.ack(&claimed.ids());
    }
    rule.same("what is claimed after the delay", found, HashSet::from([wide, inside, overlapping]));
}

pub(super) async fn an_entry_of_several_keys_locks_them_all<F: QueueFactory>(rule: Rule, factory: &mut F) {
    let queue = fresh(rule, factory).await;
    let transfer = mark(rule, &queue, upsert(1).and(upsert(2))).await;
    rule.same("the claimed entries", claim_now(rule, &queue, 10).await.ids(), vec![transfer]);
    let second = mark(rule, &queue, upsert(2).and(upsert(3))).await;
    rule.holds(claim(rule, &queue, 10).await.is_none(), "an entry that shares a claimed key was claimed");
    queue.ack(&[transfer]);
    rule.same("the next claim", claim_now(rule, &queue, 10).await.ids(), vec![second]);
    queue.ack(&[second]);
    for at in 1..=3 {
        rule.holds(queue.is_clean(&key(at)), "a key is dirty after all its entries were acknowledged");
    }
}

pub(super) async fn a_parked_entry_goes_with_a_newer_one_of_its_key<F: QueueFactory>(
    rule: Rule,
    factory: &mut F,
) {
    let queue = fresh(rule, factory).await;
    let parked = mark(rule, &queue, upsert(1)).await;
    let claimed = claim_now(rule, &queue, 10).await;
    queue.park(&claimed.ids(), "does not fit");
    let newer = mark(rule, &queue, upsert(1)).await;
    let claimed = claim_now(rule, &queue, 10).await;
    rule.same("the claim of a key with a parked entry", claimed.ids(), vec![parked, newer]);
    queue.ack(&claimed.ids());
    rule.holds(queue.is_clean(&key(1)), "a key is dirty after all its entries were acknowledged");
}

/// Three workers and four writers on ten keys; each worker tells the others which keys it has.
pub(super) async fn concurrent_claims_share_no_key_and_lose_nothing<F: QueueFactory>(
    rule: Rule,
    factory: &mut F,
) {
    const WRITES: u64 = 100;
    let queue = Arc::new(fresh(rule, factory).await);
    let busy = Arc::new(Mutex::new(HashSet::<KeyBytes>::new()));
    let writers = (0..4).map(|seed| {
        let queue = Arc::clone(&queue);
        tokio::spawn(async move {
            let mut random = Random::new(seed);
            for _ in 0..WRITES {
                let id = open(rule, &*queue, upsert(random.below(10))).await;
                tokio::task::yield_now().await;
                match random.below(4) {
                    0 => queue.cancel(id),
                    1 => queue.hold(id, Duration::from_millis(random.below(10))),
                    _ => queue.release(id, None),
                }
            }
        })
    });
    let workers = (10..13).map(|seed| {
        let (queue, busy) = (Arc::clone(&queue), Arc::clone(&busy));
        tokio::spawn(async move {
            let mut random = Random::new(seed);
            loop {
                let Some(claimed) = rule.ok("claim", queue.claim(FORWARD, 3).await) else {
                    queue.wait_claimable().await;
                    continue;
                };
                let mut keys = HashSet::new();
                for item in claimed.entries.iter().flat_map(|entry| entry.touch.items()) {
                    if let Span::Key(key) = &item.span {
                        keys.insert(key.clone());
                    }
                }
                let shared = {
                    let mut busy = busy.lock().unwrap_or_else(PoisonError::into_inner);
                    let shared = keys.iter().any(|key| busy.contains(key));
                    busy.extend(keys.iter().cloned());
                    shared
                };
                rule.holds(!shared, "two claims share a key");
                tokio::time::sleep(Duration::from_millis(random.below(3))).await;
                {
                    let mut busy = busy.lock().unwrap_or_else(PoisonError::into_inner);
                    busy.retain(|key| !keys.contains(key));
                }
                if random.below(5) == 0 {
                    queue.retry_later(&claimed.ids(), Duration::from_millis(2), Some("again"));
                } else {
                    queue.ack(&claimed.ids());
                }
            }
        })
    });
    let (writers, workers): (Vec<_>, Vec<_>) = (writers.collect(), workers.collect());
    for writer in writers {
        rule.holds(writer.await.is_ok(), "a writer panicked");
    }
    let drained = ends(queue.wait_drained()).await;
    for worker in workers {
        worker.abort();
        rule.holds(worker.await.is_err_and(|error| error.is_cancelled()), "a worker panicked");
    }
    rule.holds(drained, format!("the queue does not drain: {:?}", queue.stats()));
    rule.same("the counts", counts(&*queue), [0; 5]);
}
