use super::{MANY, Rule, StoreFactory, bulk_of, expect, put, same_record};
use crate::error::{Certainty, Kind};
use crate::store::{Change, Store};
use crate::testkit::drop_at_every_poll;

pub(super) async fn many_records_come_in_the_order_of_the_keys<F: StoreFactory>(rule: Rule, factory: &mut F) {
    let store = factory.create().await;
    let Some(bulk) = bulk_of(&store) else { return };
    let puts: Vec<_> =
        (0..MANY).map(|number| Change::Put(factory.key(number), factory.record(number, 1))).collect();
    rule.ok("apply of many changes", bulk.apply(&puts).await);
    // Backwards, with keys that are not there in between.
    let numbers: Vec<u64> = (0..MANY + 3).rev().collect();
    let keys: Vec<_> = numbers.iter().map(|number| factory.key(*number)).collect();
    let records = rule.ok("get_many", bulk.get_many(&keys).await);
    rule.same("the number of records", records.len(), keys.len());
    for (number, record) in numbers.iter().zip(&records) {
        let wanted = (*number < MANY).then(|| factory.record(*number, 1));
        same_record(rule, &format!("the record of sample {number}"), record.as_ref(), wanted.as_ref());
    }
    rule.same("the records of no key", rule.ok("get_many", bulk.get_many(&[]).await).len(), 0);
}

pub(super) async fn changes_are_applied_together<F: StoreFactory>(rule: Rule, factory: &mut F) {
    let store = factory.create().await;
    let Some(bulk) = bulk_of(&store) else { return };
    put(rule, factory, &store, 1, 1).await;
    put(rule, factory, &store, 2, 1).await;
    let changes = [
        Change::Put(factory.key(1), factory.record(1, 2)),
        Change::Delete(factory.key(2)),
        Change::Put(factory.key(3), factory.record(3, 1)),
        Change::Delete(factory.key(4)),
    ];
    for _ in 0..2 {
        rule.ok("apply", bulk.apply(&changes).await);
        for (number, version) in [(1, Some(2)), (2, None), (3, Some(1)), (4, None)] {
            expect(rule, factory, &store, number, version).await;
        }
    }
    rule.ok("apply of nothing", bulk.apply(&[]).await);
}

pub(super) async fn a_conflict_applies_nothing<F: StoreFactory>(rule: Rule, factory: &mut F) {
    let store = factory.create().await;
    let Some(bulk) = bulk_of(&store) else { return };
    let (Some(holder), Some(second)) = (factory.holding(1, 1), factory.holding(2, 1)) else { return };
    rule.ok("put of the holder", store.put(&factory.key(1), &holder).await);
    put(rule, factory, &store, 4, 1).await;
    let changes = [
        Change::Put(factory.key(3), factory.record(3, 1)),
        Change::Put(factory.key(2), second),
        Change::Delete(factory.key(4)),
    ];
    let refused = bulk.apply(&changes).await;
    let error = rule.fails("apply of a value that is held", Kind::Conflict, refused);
    rule.same("the certainty of the conflict", error.certainty(), Certainty::NotApplied);
    for (number, version) in [(2, None), (3, None), (4, Some(1))] {
        expect(rule, factory, &store, number, version).await;
    }
}

pub(super) async fn unique_values_move_within_one_call<F: StoreFactory>(rule: Rule, factory: &mut F) {
    let store = factory.create().await;
    let Some(bulk) = bulk_of(&store) else { return };
    let holding = |number, value| factory.holding(number, value);
    let (Some(one), Some(two)) = (holding(1, 1), holding(2, 2)) else { return };
    rule.ok("put", store.put(&factory.key(1), &one).await);
    rule.ok("put", store.put(&factory.key(2), &two).await);
    // A swap, then a value that a deleted record held, in either order of the changes.
    let (Some(one), Some(two), Some(three)) = (holding(1, 2), holding(2, 1), holding(3, 2)) else { return };
    let swap = [Change::Put(factory.key(1), one), Change::Put(factory.key(2), two.clone())];
    rule.ok("apply of a swap", bulk.apply(&swap).await);
    let inherit = [Change::Put(factory.key(3), three.clone()), Change::Delete(factory.key(1))];
    rule.ok("apply of a put before the delete that frees its value", bulk.apply(&inherit).await);
    for (number, wanted) in [(1, None), (2, Some(&two)), (3, Some(&three))] {
        let found = rule.ok("get", store.get(&factory.key(number)).await);
        same_record(rule, &format!("the record of sample {number}"), found.as_ref(), wanted);
    }
}

pub(super) async fn dropped_changes_are_all_or_none<F: StoreFactory>(rule: Rule, factory: &mut F) {
    let store = factory.create().await;
    let Some(bulk) = bulk_of(&store) else { return };
    let numbers = 0..20_u64;
    let keys: Vec<_> = numbers.clone().map(|number| factory.key(number)).collect();
    let changes: Vec<_> =
        numbers.clone().map(|number| Change::Put(factory.key(number), factory.record(number, 1))).collect();
    let undo: Vec<_> = keys.iter().cloned().map(Change::Delete).collect();
    drop_at_every_poll(
        |_| bulk.apply(&changes),
        async |polls, output| {
            let ended = output.is_some();
            if let Some(result) = output {
                rule.ok("apply", result);
            }
            let found = rule.ok("get_many", bulk.get_many(&keys).await);
            let present = found.iter().filter(|record| record.is_some()).count();
            let whole = if ended { present == keys.len() } else { present == 0 || present == keys.len() };
            rule.holds(
                whole,
                format!("apply, dropped after {polls} polls, left {present} of {}", keys.len()),
            );
            rule.ok("apply of the way back", bulk.apply(&undo).await);
        },
    )
    .await;
}
