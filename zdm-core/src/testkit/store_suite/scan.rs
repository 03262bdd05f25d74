use super::{KeyOf, RecordOf, Rule, StoreFactory, put, same_record, scan_of};
use crate::key::{Key, KeyRange};
use crate::store::{Page, Scan};

const ROWS: u64 = 40;

async fn filled<F: StoreFactory>(rule: Rule, factory: &mut F) -> (F::Store, Vec<KeyOf<F>>) {
    let store = factory.create().await;
    // In no order of keys.
    for number in 0..ROWS {
        put(rule, factory, &store, number * 17 % ROWS, 1).await;
    }
    let mut keys: Vec<_> = (0..ROWS).map(|number| factory.key(number)).collect();
    keys.sort_unstable();
    (store, keys)
}

/// Walks a range in pages and returns what was found.
async fn walk<F: StoreFactory>(
    rule: Rule,
    scan: &dyn Scan<Key = KeyOf<F>, Record = RecordOf<F>>,
    range: &KeyRange<KeyOf<F>>,
    limit: usize,
) -> Page<KeyOf<F>, RecordOf<F>> {
    let (mut rest, mut rows) = (range.clone(), Vec::new());
    loop {
        let page = rule.ok("page", scan.page(&rest, limit).await);
        rule.holds(page.len() <= limit, format!("a page of {limit} has {} records", page.len()));
        let full = page.len() == limit;
        rest.after = page.last().map(|(key, _)| key.clone()).or(rest.after);
        rows.extend(page);
        if !full {
            return rows;
        }
        rule.holds(rows.len() <= 2 * ROWS as usize, "the pages do not come to an end");
    }
}

fn keys_of<K: Key, R>(page: &Page<K, R>) -> Vec<K> {
    page.iter().map(|(key, _)| key.clone()).collect()
}

pub(super) async fn pages_walk_every_record_in_key_order<F: StoreFactory>(rule: Rule, factory: &mut F) {
    let (store, keys) = filled(rule, factory).await;
    let Some(scan) = scan_of(&store) else { return };
    for limit in [1, 7, ROWS as usize, 1_000] {
        let rows = walk::<F>(rule, scan, &KeyRange::all(), limit).await;
        rule.same(&format!("the walk in pages of {limit}"), keys_of(&rows), keys.clone());
        for (key, record) in rows {
            let record = rule.ok("a row of a page", record);
            let number = (0..ROWS).find(|number| factory.key(*number) == key).unwrap_or(ROWS);
            same_record(rule, "a row of a page", Some(&record), Some(&factory.record(number, 1)));
        }
    }
    rule.ok("estimated_len", scan.estimated_len().await);
}

pub(super) async fn a_page_keeps_to_its_range<F: StoreFactory>(rule: Rule, factory: &mut F) {
    let (store, keys) = filled(rule, factory).await;
    let Some(scan) = scan_of(&store) else { return };
    let key = |at: usize| keys[at].clone();
    let upper_half = KeyRange { after: None, up_to: Some(key(19)) };
    let cases = [
        ("between two keys", KeyRange::between(key(9), key(19)), &keys[10..20]),
        ("after a key", KeyRange::after(key(29)), &keys[30..]),
        ("up to a key", upper_half, &keys[..20]),
        ("after the last key", KeyRange::after(key(39)), &[]),
        ("that is empty", KeyRange::between(key(9), key(9)), &[]),
        ("that is turned round", KeyRange::between(key(19), key(9)), &[]),
    ];
    for (name, range, wanted) in cases {
        let rows = walk::<F>(rule, scan, &range, 3).await;
        rule.same(&format!("the walk through a range {name}"), keys_of(&rows), wanted.to_vec());
    }
}

pub(super) async fn parts_cover_every_key_once<F: StoreFactory>(rule: Rule, factory: &mut F) {
    let empty = factory.create().await;
    let (store, keys) = filled(rule, factory).await;
    for (store, keys) in [(&empty, &[][..]), (&store, &keys[..])] {
        let Some(scan) = scan_of(store) else { return };
        for parts in [1, 2, 3, 7, 100] {
            let ranges = rule.ok("split", scan.split(parts).await);
            rule.holds((1..=parts).contains(&ranges.len()), format!("{} parts, not {parts}", ranges.len()));
            let ends = (ranges[0].after.clone(), ranges[ranges.len() - 1].up_to.clone());
            rule.same("the outer bounds", ends, (None, None));
            for pair in ranges.windows(2) {
                rule.holds(pair[0].up_to.is_some(), "a part in the middle is open");
                rule.same("where a part begins", &pair[1].after, &pair[0].up_to);
                rule.holds(!pair[0].is_empty() && !pair[1].is_empty(), "a part is empty");
            }
            let mut found = Vec::new();
            for range in &ranges {
                found.extend(keys_of(&walk::<F>(rule, scan, range, 10).await));
            }
            rule.same(&format!("the walk through {parts} parts"), found, keys.to_vec());
        }
    }
}
