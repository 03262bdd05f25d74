//! All tables of a database as one store.
//!
//! A call that concerns several tables goes to each of them in their order, in a transaction for each: the
//! contract asks for one. What rests on that holds all the same:
//!
//! - A secondary write that stops between two tables leaves all of its entries in the queue. It is repeated as a
//!   whole or key by key, each part may be repeated, and the fence makes late parts harmless. Nobody takes the
//!   sides for equal meanwhile, because the keys are pending.
//! - Unique values move between the rows of one table only, and those go in one transaction.
//! - Rows that refer to each other stand in the order that foreign keys ask for.
//! - A write to the primary of which a part has succeeded has an unknown outcome, and is never reported as
//!   not applied: then its entries would be removed.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use zdm_core::error::{Error, Kind, Result};
use zdm_core::key::{KeyBytes, KeyRange};
use zdm_core::store::{
    Bulk, Capabilities, Change, Digest, DynStore, Fenced, Page, PageLoad, RangeDigest, Scan, Stamp, Store,
    StoreExt,
};
use zdm_sql_adapters::table::{DynKey, DynRow};

/// The number of a table, parents first, and the key in it.
pub type RowKey = (u16, DynKey);
type RowChange = Change<RowKey, DynRow>;

const FEW: usize = 16;

/// One table of the store.
pub struct Part {
    /// Its rows.
    pub store: DynStore<DynKey, DynRow>,
    /// Whether a unique value can move between rows: then all changes of a batch must go in one call.
    pub contended: bool,
}

/// All tables of one side.
#[derive(Clone)]
pub struct Whole {
    parts: Arc<[Part]>,
}

impl Whole {
    /// Tables in their order. A few rows of each are read: they tell how large rows are before a page goes
    /// from a table of small ones into a table of large ones.
    ///
    /// # Errors
    /// A table cannot be read, or has no order.
    pub async fn new(parts: Vec<Part>) -> Result<Self> {
        for part in &parts {
            scan(part)?.page(&KeyRange::all(), FEW).await?;
        }
        Ok(Self { parts: parts.into() })
    }

    /// The rows of one table, in the order of their keys.
    ///
    /// # Errors
    /// There is no such table, or it has no order.
    pub fn table(&self, table: u16) -> Result<&dyn Scan<Key = DynKey, Record = DynRow>> {
        scan(self.part(table)?)
    }

    fn part(&self, table: u16) -> Result<&Part> {
        self.parts
            .get(usize::from(table))
            .ok_or_else(|| Error::new(Kind::Invalid, format!("there is no table of number {table}")))
    }

    /// The tables that a range touches, each with its own range.
    fn within(&self, range: &KeyRange<RowKey>) -> impl Iterator<Item = (u16, &Part, KeyRange<DynKey>)> {
        let first = range.after.as_ref().map_or(0, |(table, _)| *table);
        let last = range.up_to.as_ref().map_or(u16::MAX, |(table, _)| *table);
        let bound = |bound: &Option<RowKey>, of: u16| {
            bound.as_ref().filter(|(table, _)| *table == of).map(|(_, key)| key.clone())
        };
        let ranges = (0..).zip(self.parts.iter()).filter(move |(table, _)| (first..=last).contains(table));
        ranges.map(move |(table, part)| {
            (table, part, KeyRange { after: bound(&range.after, table), up_to: bound(&range.up_to, table) })
        })
    }

    /// Applies changes in an order that foreign keys like: rows go in parents first and out children first.
    async fn in_order(&self, stamp: Option<Stamp>, changes: &[RowChange]) -> Result<u64> {
        let mut by_table: BTreeMap<u16, (Vec<_>, Vec<_>)> = BTreeMap::new();
        for change in changes {
            let (puts, deletes) = by_table.entry(change.key().0).or_default();
            match change {
                Change::Put((_, key), row) => {
                    puts.push(Change::Put(key.clone(), row.clone()));
                }
                Change::Delete((_, key)) => deletes.push(Change::Delete(key.clone())),
            }
        }
        for (table, (puts, deletes)) in &mut by_table {
            if self.part(*table)?.contended {
                puts.append(deletes);
            }
        }
        let puts = by_table.iter().map(|(table, (puts, _))| (*table, puts));
        let deletes = by_table.iter().rev().map(|(table, (_, deletes))| (*table, deletes));
        let calls = puts.chain(deletes).filter(|(_, changes)| !changes.is_empty()).collect::<Vec<_>>();
        let mut left_out = 0;
        for (done, (table, changes)) in calls.into_iter().enumerate() {
            let outcome = self.apply_to(table, stamp, changes).await;
            // With a stamp the call is repeated whatever its outcome; a conflict has to stay one.
            let in_part = done > 0 && stamp.is_none();
            left_out += outcome.map_err(|error| if in_part { error.unknown() } else { error })?;
        }
        Ok(left_out)
    }

    async fn apply_to(
        &self,
        table: u16,
        stamp: Option<Stamp>,
        changes: &[Change<DynKey, DynRow>],
    ) -> Result<u64> {
        let part = self.part(table)?;
        let outcome = match stamp {
            Some(stamp) => fence(part)?.apply_if_newer(stamp, changes).await,
            None => part.store.apply_all(changes).await.map(|()| 0),
        };
        outcome.map_err(|error| of_table(error, table))
    }
}

/// The holder of a contested value is named as this store names rows.
fn of_table(error: Error, table: u16) -> Error {
    match error.holder() {
        Some(holder) => {
            let mut whole = KeyBytes::of(&table);
            whole.extend(holder.as_slice());
            error.held_by(whole)
        }
        None => error,
    }
}

fn fence(part: &Part) -> Result<&dyn Fenced<Key = DynKey, Record = DynRow>> {
    part.store.capabilities().fenced.ok_or_else(|| Error::new(Kind::Invalid, "a table has no fence"))
}

fn digest(part: &Part) -> Result<&dyn Digest<Key = DynKey, Record = DynRow>> {
    let missing = || Error::new(Kind::Invalid, "a table does not sum up ranges");
    part.store.capabilities().digest.ok_or_else(missing)
}

fn scan(part: &Part) -> Result<&dyn Scan<Key = DynKey, Record = DynRow>> {
    let missing = || Error::new(Kind::Invalid, "a table cannot be walked in the order of its keys");
    part.store.capabilities().scan.ok_or_else(missing)
}

#[async_trait]
impl Store for Whole {
    type Key = RowKey;
    type Record = DynRow;

    async fn get(&self, (table, key): &RowKey) -> Result<Option<DynRow>> {
        self.part(*table)?.store.get(key).await
    }

    async fn put(&self, (table, key): &RowKey, row: &DynRow) -> Result<()> {
        self.part(*table)?.store.put(key, row).await.map_err(|error| of_table(error, *table))
    }

    async fn delete(&self, (table, key): &RowKey) -> Result<()> {
        self.part(*table)?.store.delete(key).await
    }

    fn settle_time(&self) -> Duration {
        self.parts.iter().map(|part| part.store.settle_time()).max().unwrap_or_default()
    }

    fn capabilities(&self) -> Capabilities<'_, RowKey, DynRow> {
        let sums = self.parts.iter().all(|part| part.store.capabilities().digest.is_some());
        let digest = sums.then_some(self as &dyn Digest<Key = RowKey, Record = DynRow>);
        Capabilities { bulk: Some(self), digest, scan: Some(self), fenced: Some(self) }
    }
}

#[async_trait]
impl Bulk for Whole {
    async fn get_many(&self, keys: &[RowKey]) -> Result<Vec<Option<DynRow>>> {
        let mut by_table: BTreeMap<u16, Vec<usize>> = BTreeMap::new();
        for (place, (table, _)) in keys.iter().enumerate() {
            by_table.entry(*table).or_default().push(place);
        }
        let mut rows = vec![None; keys.len()];
        for (table, places) in by_table {
            let part = self.part(table)?;
            let own: Vec<_> = places.iter().map(|place| keys[*place].1.clone()).collect();
            for (place, row) in places.into_iter().zip(part.store.fetch_many(&own).await?) {
                rows[place] = row;
            }
        }
        Ok(rows)
    }

    async fn apply(&self, changes: &[RowChange]) -> Result<()> {
        self.in_order(None, changes).await.map(|_| ())
    }
}

#[async_trait]
impl Scan for Whole {
    async fn page(&self, range: &KeyRange<RowKey>, limit: usize) -> Result<Page<RowKey, DynRow>> {
        let mut page = Vec::new();
        for (table, part, own) in self.within(range) {
            let rows = scan(part)?.page(&own, limit - page.len()).await?;
            page.extend(rows.into_iter().map(|(key, row)| ((table, key), row)));
            if page.len() == limit {
                break;
            }
        }
        Ok(page)
    }

    async fn split(&self, parts: usize) -> Result<Vec<KeyRange<RowKey>>> {
        // Each table is cut by its share of the rows; ranges go over the ends of small ones.
        let mut lengths = Vec::with_capacity(self.parts.len());
        for part in self.parts.iter() {
            lengths.push(scan(part)?.estimated_len().await?);
        }
        let rows = lengths.iter().sum::<u64>().max(1);
        let mut cuts = Vec::new();
        for ((table, part), length) in (0..).zip(self.parts.iter()).zip(lengths) {
            let share = (length * parts as u64).div_ceil(rows);
            for range in scan(part)?.split(usize::try_from(share).unwrap_or(1).max(1)).await? {
                cuts.extend(range.up_to.map(|key| (table, key)));
            }
        }
        cuts.truncate(parts.saturating_sub(1));
        let lower = std::iter::once(None).chain(cuts.iter().cloned().map(Some));
        let upper = cuts.iter().cloned().map(Some).chain(std::iter::once(None));
        Ok(lower.zip(upper).map(|(after, up_to)| KeyRange { after, up_to }).collect())
    }

    async fn estimated_len(&self) -> Result<u64> {
        let mut rows = 0;
        for part in self.parts.iter() {
            rows += scan(part)?.estimated_len().await?;
        }
        Ok(rows)
    }

    /// A page may go over the end of a table, so the one after it counts as well.
    fn record_bytes(&self, range: &KeyRange<RowKey>) -> Option<usize> {
        let tables = self.within(range).take(2);
        tables.filter_map(|(_, part, own)| scan(part).ok()?.record_bytes(&own)).max()
    }
}

#[async_trait]
impl Digest for Whole {
    fn digest_of(&self) -> String {
        let mut own: Vec<_> = self
            .parts
            .iter()
            .filter_map(|part| part.store.capabilities().digest)
            .map(Digest::digest_of)
            .collect();
        // The columns of all tables would fill pages: two sides that sum up others have another number.
        let mut hasher = DefaultHasher::new();
        own.hash(&mut hasher);
        let what = |text: &String| text.split(" of ").next().unwrap_or_default().to_owned();
        own.iter_mut().for_each(|text| *text = what(text));
        own.dedup();
        format!("{} of {} tables, columns {:016x}", own.join(", "), self.parts.len(), hasher.finish())
    }

    async fn nth_key(&self, range: &KeyRange<RowKey>, records: usize) -> Result<Option<RowKey>> {
        let mut left = records;
        for (table, part, own) in self.within(range) {
            let sums = digest(part)?;
            if let Some(key) = sums.nth_key(&own, left).await? {
                return Ok(Some((table, key)));
            }
            // At least one is left: rows may have come between the two questions.
            left -= usize::try_from(sums.digest(&own).await?.records).unwrap_or(usize::MAX).min(left - 1);
        }
        Ok(None)
    }

    async fn digest(&self, range: &KeyRange<RowKey>) -> Result<RangeDigest> {
        let mut whole = RangeDigest::default();
        for (table, part, own) in self.within(range) {
            let sum = digest(part)?.digest(&own).await?;
            // With the number of the table: a row that stands in another table is another row.
            let hashed = |place: u8| {
                let mut hasher = DefaultHasher::new();
                (table, place, sum.records, sum.xor, sum.sum).hash(&mut hasher);
                hasher.finish()
            };
            whole.records += sum.records;
            whole.xor ^= hashed(0);
            whole.sum = whole.sum.wrapping_add(hashed(1));
        }
        Ok(whole)
    }
}

#[async_trait]
impl Fenced for Whole {
    async fn newest_stamp(&self) -> Result<Stamp> {
        let mut newest = Stamp::default();
        for part in self.parts.iter() {
            newest = newest.max(fence(part)?.newest_stamp().await?);
        }
        Ok(newest)
    }

    async fn apply_if_newer(&self, stamp: Stamp, changes: &[RowChange]) -> Result<u64> {
        self.in_order(Some(stamp), changes).await
    }

    async fn load_page(
        &self,
        stamp: Stamp,
        range: &KeyRange<RowKey>,
        records: &[(RowKey, DynRow)],
    ) -> Result<PageLoad<RowKey>> {
        let mut whole = PageLoad { written: 0, superseded: 0, rejected: Vec::new() };
        let mut rest = records;
        for (table, part, own) in self.within(range) {
            let (rows, others) = rest.split_at(rest.partition_point(|((of, _), _)| *of <= table));
            rest = others;
            let rows: Vec<_> = rows.iter().map(|((_, key), row)| (key.clone(), row.clone())).collect();
            let load = fence(part)?.load_page(stamp, &own, &rows).await?;
            whole.written += load.written;
            whole.superseded += load.superseded;
            let rejected =
                load.rejected.into_iter().map(|(key, error)| ((table, key), of_table(error, table)));
            whole.rejected.extend(rejected);
        }
        Ok(whole)
    }

    async fn forget_stamps(&self) -> Result<()> {
        for part in self.parts.iter() {
            fence(part)?.forget_stamps().await?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use zdm_core::error::Certainty;
    use zdm_core::store::MemoryStore;
    use zdm_sql_adapters::table::Value;

    use super::*;

    fn key(table: u16, number: i64) -> RowKey {
        (table, DynKey::new([Value::Integer(number)]).unwrap())
    }

    fn row(number: i64, text: &str) -> DynRow {
        let columns = ["id", "text"].map(str::to_owned).into();
        DynRow::new(columns, vec![Value::Integer(number), Value::Text(text.to_owned())]).unwrap()
    }

    async fn whole(rows: &[(u16, i64, &str)]) -> Whole {
        let parts = (0..3).map(|_| Part {
            store: MemoryStore::<DynKey, DynRow>::new().with_digest().into_dyn(),
            contended: false,
        });
        let whole = Whole::new(parts.collect()).await.unwrap();
        for (table, number, text) in rows {
            whole.put(&key(*table, *number), &row(*number, text)).await.unwrap();
        }
        whole
    }

    #[tokio::test]
    async fn a_call_that_was_applied_in_part_has_an_unknown_outcome() {
        let unique = MemoryStore::new()
            .with_unique("text", |row: &DynRow| row.get("text").map(|text| format!("{text:?}")));
        let parts = [MemoryStore::new(), unique];
        let parts = parts.map(|store| Part { store: store.into_dyn(), contended: true });
        let store = Whole::new(parts.into()).await.unwrap();
        store.put(&key(1, 1), &row(1, "taken")).await.unwrap();
        let taken = |table| Change::Put(key(table, 2), row(2, "taken"));
        let alone = store.apply(&[taken(1)]).await.unwrap_err();
        assert_eq!((alone.kind(), alone.certainty()), (Kind::Conflict, Certainty::NotApplied));
        let second = store.apply(&[taken(1), taken(0)]).await.unwrap_err();
        assert_eq!((second.kind(), second.certainty()), (Kind::Conflict, Certainty::Unknown));
        assert!(store.get(&key(0, 2)).await.unwrap().is_some(), "the other part stands");
        // With a stamp it is repeated all the same.
        let fenced = store.apply_if_newer(Stamp(1), &[taken(1), taken(0)]).await.unwrap_err();
        assert_eq!((fenced.kind(), fenced.certainty()), (Kind::Conflict, Certainty::NotApplied));
    }

    #[tokio::test]
    async fn sums_and_places_go_over_the_ends_of_tables() {
        let rows = [(0, 1, "a"), (0, 5, "b"), (2, 1, "a"), (2, 2, "c"), (2, 9, "d")];
        let store = whole(&rows).await;
        let sums = store.capabilities().digest.unwrap();
        for (place, (table, number, _)) in (1..).zip(rows) {
            assert_eq!(sums.nth_key(&KeyRange::all(), place).await.unwrap(), Some(key(table, number)));
        }
        assert_eq!(sums.nth_key(&KeyRange::all(), 6).await.unwrap(), None);
        let behind = KeyRange { after: Some(key(0, 1)), up_to: Some(key(2, 2)) };
        assert_eq!(sums.nth_key(&behind, 3).await.unwrap(), Some(key(2, 2)));
        assert_eq!(sums.nth_key(&behind, 4).await.unwrap(), None);
        assert_eq!(sums.digest(&behind).await.unwrap().records, 3);

        let same = whole(&rows).await;
        let other = same.capabilities().digest.unwrap();
        assert_eq!(sums.digest_of(), other.digest_of());
        assert_eq!(
            sums.digest(&KeyRange::all()).await.unwrap(),
            other.digest(&KeyRange::all()).await.unwrap()
        );
        // Another value, one row less, and the same row in another table.
        let mut seen = BTreeSet::from([format!("{:?}", sums.digest(&KeyRange::all()).await.unwrap())]);
        for rows in [
            [(0, 1, "a"), (0, 5, "B"), (2, 1, "a"), (2, 2, "c"), (2, 9, "d")],
            [(0, 1, "a"), (0, 5, "b"), (1, 1, "a"), (2, 2, "c"), (2, 9, "d")],
            [(0, 1, "a"), (2, 5, "b"), (2, 1, "a"), (2, 2, "c"), (2, 9, "d")],
            [(0, 1, "a"), (0, 1, "a"), (2, 1, "a"), (2, 2, "c"), (2, 9, "d")],
        ] {
            let changed = whole(&rows).await;
            let sum = changed.capabilities().digest.unwrap().digest(&KeyRange::all()).await.unwrap();
            assert!(seen.insert(format!("{sum:?}")), "{rows:?}");
        }
    }

    #[test]
    fn the_holder_of_a_value_is_named_with_its_table() {
        let key = DynKey::new([Value::Integer(7)]).unwrap();
        let error = Error::new(Kind::Conflict, "held").held_by(KeyBytes::of(&key));
        let holder: RowKey = of_table(error, 3).holder().unwrap().to_key().unwrap();
        assert_eq!(holder, (3, key));
    }
}
