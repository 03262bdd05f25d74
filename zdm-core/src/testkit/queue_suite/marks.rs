use std::collections::HashMap;

use super::{QueueFactory, Rule, claim_now, fresh, key, mark, open, upsert};
use crate::key::KeyRange;
use crate::queue::{Intent, Span, Touch, TouchItem, WriteQueue};
use crate::store::Stamp;

fn by_span(rule: Rule, items: Vec<TouchItem>) -> HashMap<Span, Intent> {
    let count = items.len();
    let map: HashMap<_, _> = items.into_iter().map(|item| (item.span, item.intent)).collect();
    rule.same("the number of distinct keys and ranges", map.len(), count);
    map
}

pub(super) async fn a_watch_sees_live_and_new_entries_of_its_range<F: QueueFactory>(
    rule: Rule,
    factory: &mut F,
) {
    let queue = fresh(rule, factory).await;
    // Live at the low mark, in every state.
    open(rule, &queue, upsert(11)).await;
    mark(rule, &queue, upsert(12)).await;
    let claimed = claim_now(rule, &queue, 10).await;
    let wide = Touch::after(&15_u64).encode();
    let wide_id = open(rule, &queue, wide.clone()).await;
    let gone = open(rule, &queue, upsert(13)).await;
    queue.cancel(gone);
    open(rule, &queue, upsert(10)).await;

    let watch = queue.watch(KeyRange::between(key(10), key(20)));
    // Opened afterwards: twice the same key, one that comes and goes, one outside.
    open(rule, &queue, upsert(14)).await;
    open(rule, &queue, Touch::delete(&14_u64).encode()).await;
    mark(rule, &queue, upsert(20)).await;
    let comes_and_goes = claim_now(rule, &queue, 10).await;
    queue.ack(&comes_and_goes.ids());
    open(rule, &queue, upsert(21)).await;
    queue.ack(&claimed.ids());
    queue.cancel(wide_id);

    let seen = by_span(rule, queue.unwatch(watch));
    let mut wanted: HashMap<_, _> =
        [11, 12, 14, 20].map(|at| (Span::Key(key(at)), Intent::Upsert)).into_iter().collect();
    wanted.insert(Span::Key(key(14)), Intent::Unknown);
    wanted.insert(wide.items()[0].span.clone(), Intent::Upsert);
    rule.same("what was touched, with its intent", seen, wanted);
    rule.holds(queue.unwatch(watch).is_empty(), "a watch that has ended goes on");
}

pub(super) async fn a_taint_makes_its_range_dirty_until_it_is_cleared<F: QueueFactory>(
    rule: Rule,
    factory: &mut F,
) {
    let queue = factory.create(1).await;
    super::recover(rule, &queue).await;
    open(rule, &queue, upsert(100)).await;
    let range = KeyRange::between(key(10), key(20));
    let id = rule.ok("taint in a full queue", queue.taint(range.clone(), "disk full").await);
    let other = rule.ok("taint", queue.taint(KeyRange::after(key(50)), "disk full").await);
    rule.same("the number of taints", queue.stats().taints, 2);
    rule.holds(!queue.is_clean(&key(11)) && !queue.is_clean(&key(20)), "a tainted key is called clean");
    rule.holds(queue.is_clean(&key(10)) && queue.is_clean(&key(21)), "a key without taint is called dirty");
    let taints = queue.taints();
    let first = rule.some("a taint is not listed", taints.iter().find(|taint| taint.id == id));
    rule.same("the range", first.range.clone(), range);
    rule.same("the reason", first.reason.as_str(), "disk full");

    rule.ok("clear_taint", queue.clear_taint(id).await);
    rule.same("the taints that are left", queue.taints().iter().map(|t| t.id).collect(), vec![other]);
    rule.holds(queue.is_clean(&key(11)), "a key whose taint was cleared is called dirty");
}

pub(super) async fn stamps_strictly_grow<F: QueueFactory>(rule: Rule, factory: &mut F) {
    let queue = fresh(rule, factory).await;
    let mut newest = Stamp(0);
    let mut grows = |what: &str, stamp: Stamp| {
        rule.holds(stamp > newest, format!("{what} drew {stamp:?} after {newest:?}"));
        newest = stamp;
    };
    grows("draw_stamp", rule.ok("draw_stamp", queue.draw_stamp().await));
    for at in 0..3 {
        mark(rule, &queue, upsert(at)).await;
        grows("a claim", claim_now(rule, &queue, 10).await.stamp);
        grows("draw_stamp", rule.ok("draw_stamp", queue.draw_stamp().await));
    }
    let seen = Stamp(1_000_000);
    rule.ok("raise_stamps_above", queue.raise_stamps_above(seen).await);
    rule.ok("raise_stamps_above an older stamp", queue.raise_stamps_above(Stamp(5)).await);
    let next = rule.ok("draw_stamp", queue.draw_stamp().await);
    rule.holds(next > seen, format!("draw_stamp drew {next:?} after being raised above {seen:?}"));
}
