use super::{KeyOf, MANY, RecordOf, Rule, StoreFactory, expect, fence_of, put, same_record};
use crate::error::Kind;
use crate::key::KeyRange;
use crate::store::{Change, Stamp, Store};

fn change<F: StoreFactory>(factory: &F, number: u64, version: u64) -> Change<KeyOf<F>, RecordOf<F>> {
    Change::Put(factory.key(number), factory.record(number, version))
}

fn rows<F: StoreFactory>(
    factory: &F,
    numbers: impl IntoIterator<Item = u64>,
    version: u64,
) -> Vec<(KeyOf<F>, RecordOf<F>)> {
    let mut rows: Vec<_> =
        numbers.into_iter().map(|number| (factory.key(number), factory.record(number, version))).collect();
    rows.sort_by(|(a, _), (b, _)| a.cmp(b));
    rows
}

pub(super) async fn a_late_change_loses<F: StoreFactory>(rule: Rule, factory: &mut F) {
    let store = factory.create().await;
    let Some(fence) = fence_of(&store) else { return };
    let first = fence.apply_if_newer(Stamp(5), &[change(factory, 1, 5)]).await;
    rule.same("how many are left out", rule.ok("apply_if_newer", first), 0);
    let late = fence.apply_if_newer(Stamp(4), &[change(factory, 1, 4), change(factory, 2, 4)]).await;
    rule.same("how many are left out of a late call", rule.ok("apply_if_newer", late), 1);
    expect(rule, factory, &store, 1, Some(5)).await;
    expect(rule, factory, &store, 2, Some(4)).await;
    let late = fence.apply_if_newer(Stamp(4), &[Change::Delete(factory.key(1))]).await;
    rule.same("how many are left out of a late delete", rule.ok("apply_if_newer", late), 1);
    expect(rule, factory, &store, 1, Some(5)).await;
    let again = fence.apply_if_newer(Stamp(5), &[change(factory, 1, 6)]).await;
    rule.same("how many are left out with the same stamp", rule.ok("apply_if_newer", again), 0);
    expect(rule, factory, &store, 1, Some(6)).await;
    let none = fence.apply_if_newer(Stamp(9), &[]).await;
    rule.same("how many of nothing are left out", rule.ok("apply_if_newer of nothing", none), 0);
    let many: Vec<_> = (0..MANY).map(|number| change(factory, number, 9)).collect();
    let many = fence.apply_if_newer(Stamp(9), &many).await;
    rule.same("how many of many are left out", rule.ok("apply_if_newer of many", many), 0);
    expect(rule, factory, &store, MANY - 1, Some(9)).await;
}

pub(super) async fn a_delete_leaves_a_tombstone<F: StoreFactory>(rule: Rule, factory: &mut F) {
    let store = factory.create().await;
    let Some(fence) = fence_of(&store) else { return };
    rule.ok("apply_if_newer", fence.apply_if_newer(Stamp(1), &[change(factory, 1, 1)]).await);
    // Also for a key that never had a record here.
    let deletes = [Change::Delete(factory.key(1)), Change::Delete(factory.key(2))];
    let left_out = rule.ok("apply_if_newer", fence.apply_if_newer(Stamp(5), &deletes).await);
    rule.same("how many deletes are left out", left_out, 0);
    for number in [1, 2] {
        let late = fence.apply_if_newer(Stamp(4), &[change(factory, number, 4)]).await;
        rule.same("how many are left out after a delete", rule.ok("apply_if_newer", late), 1);
        expect(rule, factory, &store, number, None).await;
    }
    rule.ok("apply_if_newer", fence.apply_if_newer(Stamp(6), &[change(factory, 1, 6)]).await);
    expect(rule, factory, &store, 1, Some(6)).await;
}

pub(super) async fn changes_of_a_call_are_all_or_none<F: StoreFactory>(rule: Rule, factory: &mut F) {
    let store = factory.create().await;
    let Some(fence) = fence_of(&store) else { return };
    let (Some(holder), Some(second)) = (factory.holding(1, 1), factory.holding(2, 1)) else { return };
    let held = [Change::Put(factory.key(1), holder)];
    rule.ok("apply_if_newer", fence.apply_if_newer(Stamp(1), &held).await);
    let changes = [change(factory, 3, 3), Change::Put(factory.key(2), second.clone())];
    let refused = fence.apply_if_newer(Stamp(3), &changes).await;
    rule.fails("apply_if_newer of a value that is held", Kind::Conflict, refused);
    expect(rule, factory, &store, 3, None).await;
    // Nothing of it may have left a stamp either.
    let earlier = fence.apply_if_newer(Stamp(2), &[change(factory, 3, 2)]).await;
    rule.same("how many are left out after a call that failed", rule.ok("apply_if_newer", earlier), 0);
    // The end state counts: the holder goes in the same call.
    let moved = [Change::Put(factory.key(2), second.clone()), Change::Delete(factory.key(1))];
    rule.ok("apply_if_newer of a value that moves", fence.apply_if_newer(Stamp(4), &moved).await);
    let found = rule.ok("get", store.get(&factory.key(2)).await);
    same_record(rule, "the record with the moved value", found.as_ref(), Some(&second));
}

pub(super) async fn a_page_leaves_out_newer_keys<F: StoreFactory>(rule: Rule, factory: &mut F) {
    let store = factory.create().await;
    let Some(fence) = fence_of(&store) else { return };
    let live = [change(factory, 1, 9), Change::Delete(factory.key(2))];
    rule.ok("apply_if_newer", fence.apply_if_newer(Stamp(9), &live).await);
    rule.ok("apply_if_newer", fence.apply_if_newer(Stamp(3), &[change(factory, 3, 3)]).await);
    let page = rows(factory, 0..MANY, 5);
    let load = rule.ok("load_page", fence.load_page(Stamp(5), &KeyRange::all(), &page).await);
    rule.same("how many are written", load.written, MANY - 2);
    rule.same("how many are superseded", load.superseded, 2);
    rule.same("how many are rejected", load.rejected.len(), 0);
    for (number, version) in [(0, Some(5)), (1, Some(9)), (2, None), (3, Some(5)), (MANY - 1, Some(5))] {
        expect(rule, factory, &store, number, version).await;
    }
}

pub(super) async fn a_late_page_loses<F: StoreFactory>(rule: Rule, factory: &mut F) {
    let store = factory.create().await;
    let Some(fence) = fence_of(&store) else { return };
    let sample = rows(factory, 0..20, 7);
    let (low, high) = (sample[4].0.clone(), sample[14].0.clone());
    let range = KeyRange::between(low, high.clone());
    let load = rule.ok("load_page", fence.load_page(Stamp(7), &range, &sample[5..15]).await);
    rule.same("how many are written", load.written, 10);
    // The same range, read earlier but arriving later.
    let mut stale = rows(factory, 0..20, 6);
    let late = rule.ok("load_page", fence.load_page(Stamp(6), &range, &stale[5..15]).await);
    rule.same("what a late page writes and what is superseded", (late.written, late.superseded), (0, 10));
    // Ranges that share only some keys with it: from below, inside, beyond its end.
    for (from, to) in [(2, 8), (7, 9), (12, 17)] {
        let partly = KeyRange::between(stale[from - 1].0.clone(), stale[to - 1].0.clone());
        let late = rule.ok("load_page", fence.load_page(Stamp(6), &partly, &stale[from..to]).await);
        let found = (late.written, late.superseded);
        rule.same(
            "what a late page over a part writes, and what is superseded",
            found,
            (0, (to - from) as u64),
        );
    }
    // A neighbour is not affected.
    let beside = KeyRange::after(high);
    let load = rule.ok("load_page", fence.load_page(Stamp(6), &beside, &stale.split_off(15)).await);
    rule.same("how many a neighbour writes", load.written, 5);
    for (key, record) in &sample[5..15] {
        let found = rule.ok("get", store.get(key).await);
        same_record(rule, "a record of the later page", found.as_ref(), Some(record));
    }
    // A later page of the range replaces it.
    let newer = rows(factory, 0..20, 8);
    let load = rule.ok("load_page", fence.load_page(Stamp(8), &range, &newer[5..15]).await);
    rule.same("how many a later page writes", load.written, 10);
    let found = rule.ok("get", store.get(&newer[5].0).await);
    same_record(rule, "a record of the newest page", found.as_ref(), Some(&newer[5].1));
}

pub(super) async fn a_page_removes_nothing<F: StoreFactory>(rule: Rule, factory: &mut F) {
    let store = factory.create().await;
    let Some(fence) = fence_of(&store) else { return };
    put(rule, factory, &store, 1, 1).await;
    let page = rows(factory, [2], 2);
    rule.ok("load_page", fence.load_page(Stamp(5), &KeyRange::all(), &page).await);
    rule.ok("load_page of nothing", fence.load_page(Stamp(6), &KeyRange::all(), &[]).await);
    expect(rule, factory, &store, 1, Some(1)).await;
    expect(rule, factory, &store, 2, Some(2)).await;
}

pub(super) async fn an_earlier_look_than_a_page_is_still_applied<F: StoreFactory>(
    rule: Rule,
    factory: &mut F,
) {
    let store = factory.create().await;
    let Some(fence) = fence_of(&store) else { return };
    put(rule, factory, &store, 1, 1).await;
    let page = rows(factory, [2], 2);
    rule.ok("load_page", fence.load_page(Stamp(7), &KeyRange::all(), &page).await);
    let left_out = fence.apply_if_newer(Stamp(6), &[Change::Delete(factory.key(1))]).await;
    rule.same("how many deletes are left out", rule.ok("apply_if_newer", left_out), 0);
    expect(rule, factory, &store, 1, None).await;
}

pub(super) async fn a_record_that_does_not_fit_holds_up_no_page<F: StoreFactory>(
    rule: Rule,
    factory: &mut F,
) {
    let store = factory.create().await;
    let Some(fence) = fence_of(&store) else { return };
    let (Some(holder), Some(second)) = (factory.holding(1, 1), factory.holding(20, 1)) else { return };
    rule.ok("put of the holder", store.put(&factory.key(1), &holder).await);
    let mut page = rows(factory, 10..20, 5);
    page.push((factory.key(20), second));
    page.sort_by(|(a, _), (b, _)| a.cmp(b));
    let load = rule.ok("load_page", fence.load_page(Stamp(5), &KeyRange::all(), &page).await);
    rule.same("how many are written", load.written, 10);
    let rejected: Vec<_> = load.rejected.into_iter().map(|(key, error)| (key, error.kind())).collect();
    rule.same("what is rejected", rejected, vec![(factory.key(20), Kind::Conflict)]);
    for number in 10..20 {
        expect(rule, factory, &store, number, Some(5)).await;
    }
    expect(rule, factory, &store, 20, None).await;
}

pub(super) async fn the_newest_stamp_is_remembered<F: StoreFactory>(rule: Rule, factory: &mut F) {
    let store = factory.create().await;
    let Some(fence) = fence_of(&store) else { return };
    rule.same(
        "the newest stamp of an empty store",
        rule.ok("newest_stamp", fence.newest_stamp().await),
        Stamp(0),
    );
    rule.ok("apply_if_newer", fence.apply_if_newer(Stamp(5), &[change(factory, 1, 5)]).await);
    rule.ok("apply_if_newer", fence.apply_if_newer(Stamp(3), &[change(factory, 2, 3)]).await);
    let newest = rule.ok("newest_stamp", fence.newest_stamp().await);
    rule.holds(newest >= Stamp(5), format!("the newest stamp is {newest:?} after {:?}", Stamp(5)));
    let page = rows(factory, [3], 8);
    rule.ok("load_page", fence.load_page(Stamp(8), &KeyRange::all(), &page).await);
    let newest = rule.ok("newest_stamp", fence.newest_stamp().await);
    rule.holds(newest >= Stamp(8), format!("the newest stamp is {newest:?} after a page of {:?}", Stamp(8)));
}

pub(super) async fn forgotten_stamps_stop_nobody<F: StoreFactory>(rule: Rule, factory: &mut F) {
    let store = factory.create().await;
    let Some(fence) = fence_of(&store) else { return };
    let live = [change(factory, 1, 9), Change::Delete(factory.key(2))];
    rule.ok("apply_if_newer", fence.apply_if_newer(Stamp(9), &live).await);
    let page = rows(factory, [3], 9);
    rule.ok("load_page", fence.load_page(Stamp(9), &KeyRange::all(), &page).await);
    rule.ok("forget_stamps", fence.forget_stamps().await);
    for (number, version) in [(1, Some(9)), (2, None), (3, Some(9))] {
        expect(rule, factory, &store, number, version).await;
    }
    let again = [change(factory, 1, 1), change(factory, 2, 1)];
    let left_out = fence.apply_if_newer(Stamp(1), &again).await;
    rule.same("how many are left out", rule.ok("apply_if_newer", left_out), 0);
    let load =
        rule.ok("load_page", fence.load_page(Stamp(2), &KeyRange::all(), &rows(factory, [3], 2)).await);
    rule.same("how many a page writes", load.written, 1);
    rule.ok("forget_stamps once more", fence.forget_stamps().await);
}
