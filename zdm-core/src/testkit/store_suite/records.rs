use std::sync::Arc;

use super::{Rule, StoreFactory, expect, put, same_record};
use crate::error::{Certainty, Kind};
use crate::key::KeyBytes;
use crate::store::{Record, Store};
use crate::testkit::drop_at_every_poll;

pub(super) async fn a_record_that_is_not_there_is_none<F: StoreFactory>(rule: Rule, factory: &mut F) {
    let store = factory.create().await;
    expect(rule, factory, &store, 1, None).await;
    put(rule, factory, &store, 1, 1).await;
    expect(rule, factory, &store, 2, None).await;
}

pub(super) async fn what_was_put_comes_back_as_it_was<F: StoreFactory>(rule: Rule, factory: &mut F) {
    let store = factory.create().await;
    for number in 0..50 {
        put(rule, factory, &store, number, number % 7).await;
    }
    for number in 0..50 {
        expect(rule, factory, &store, number, Some(number % 7)).await;
    }
}

pub(super) async fn a_put_replaces_and_may_repeat<F: StoreFactory>(rule: Rule, factory: &mut F) {
    let store = factory.create().await;
    for version in [1, 2, 2, 3, 1] {
        put(rule, factory, &store, 5, version).await;
        expect(rule, factory, &store, 5, Some(version)).await;
    }
}

pub(super) async fn a_delete_removes_and_may_repeat<F: StoreFactory>(rule: Rule, factory: &mut F) {
    let store = factory.create().await;
    let key = factory.key(5);
    rule.ok("delete of a record that was never there", store.delete(&key).await);
    put(rule, factory, &store, 5, 1).await;
    put(rule, factory, &store, 6, 1).await;
    for _ in 0..2 {
        rule.ok("delete", store.delete(&key).await);
        expect(rule, factory, &store, 5, None).await;
    }
    expect(rule, factory, &store, 6, Some(1)).await;
    put(rule, factory, &store, 5, 2).await;
    expect(rule, factory, &store, 5, Some(2)).await;
}

pub(super) async fn calls_for_different_keys_may_run_at_the_same_time<F: StoreFactory>(
    rule: Rule,
    factory: &mut F,
) {
    let store = Arc::new(factory.create().await);
    let writes = (0..32_u64).map(|number| {
        let (store, key) = (Arc::clone(&store), factory.key(number));
        let records = [factory.record(number, 1), factory.record(number, 2)];
        tokio::spawn(async move {
            for record in records {
                store.put(&key, &record).await?;
                store.get(&key).await?;
            }
            if number % 4 == 0 { store.delete(&key).await } else { Ok(()) }
        })
    });
    for write in writes.collect::<Vec<_>>() {
        rule.ok("a call beside others", rule.some("a call panicked", write.await.ok()));
    }
    for number in 0..32 {
        expect(rule, factory, &store, number, (number % 4 != 0).then_some(2)).await;
    }
}

pub(super) async fn a_unique_value_that_is_held_is_a_conflict<F: StoreFactory>(rule: Rule, factory: &mut F) {
    let store = factory.create().await;
    let (Some(holder), Some(second)) = (factory.holding(1, 1), factory.holding(2, 1)) else { return };
    rule.ok("put of the holder", store.put(&factory.key(1), &holder).await);
    put(rule, factory, &store, 2, 1).await;
    let refused = store.put(&factory.key(2), &second).await;
    let error = rule.fails("put of a value that is held", Kind::Conflict, refused);
    rule.same("the certainty of the conflict", error.certainty(), Certainty::NotApplied);
    if let Some(named) = error.holder() {
        rule.same("the holder", named.clone(), KeyBytes::of(&factory.key(1)));
    }
    expect(rule, factory, &store, 2, Some(1)).await;
    rule.ok("put of the holder once more", store.put(&factory.key(1), &holder).await);
    rule.ok("delete", store.delete(&factory.key(1)).await);
    rule.ok("put of a value that is free again", store.put(&factory.key(2), &second).await);
}

pub(super) async fn a_dropped_put_is_done_or_not<F: StoreFactory>(rule: Rule, factory: &mut F) {
    let store = factory.create().await;
    let key = factory.key(1);
    put(rule, factory, &store, 1, 0).await;
    // One version for each round, made before so that the futures can borrow them.
    let versions: Vec<_> = (0..1_000).map(|version| factory.record(1, version)).collect();
    let versions = &versions;
    let make = |polls: usize| {
        let (store, key) = (&store, &key);
        async move { store.put(key, &versions[(polls + 1).min(999)]).await }
    };
    drop_at_every_poll(make, async |polls, output| {
        let ended = output.is_some();
        if let Some(result) = output {
            rule.ok("put", result);
        }
        let found = rule.ok("get after a dropped put", store.get(&key).await);
        let found = rule.some("the record is gone", found);
        let newest = (polls + 1).min(999);
        if ended && store.settle_time().is_zero() {
            same_record(rule, "the record after a put", Some(&found), Some(&versions[newest]));
        }
        let known = versions[..=newest].iter().any(|version| version.same_as(&found));
        rule.holds(known, format!("put, dropped after {polls} polls, left {found:?}"));
    })
    .await;
    tokio::time::sleep(store.settle_time()).await;
    put(rule, factory, &store, 1, 7).await;
    expect(rule, factory, &store, 1, Some(7)).await;
}
