//! What the load generator knows of a table: rows that are there, values that children may refer to, and how to
//! make valid rows.
//!
//! Rules that keep every write valid and every loss visible: keys of rows that others may refer to are never
//! deleted, new rows refer to rows that stay, unique values are new ones, and what cannot be invented is
//! copied from a row that is there.

use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use zdm_sql_adapters::table::{DynKey, DynRow, Value};

use super::super::{Doing, Result};
use super::invent::Bounds;
use super::plan::Table;
use super::whole::Whole;

/// Rows that are kept of each table.
const SAMPLE: usize = 1_024;
/// Rows that are read at each of several places.
const AT_ONE_PLACE: usize = 16;
/// Keys that are kept of each table.
const MOST_KEYS: usize = 8_192;

/// A table under load.
pub struct Pool {
    columns: Vec<Column>,
    key: Vec<usize>,
    /// The columns of a reference, the number of the other table, and its columns.
    references: Vec<(Vec<usize>, u16, Vec<usize>)>,
    /// Sets of columns beside the key that have to be unique.
    uniques: Vec<Vec<usize>>,
    names: Arc<[String]>,
    referred_to: bool,
    next: AtomicI64,
    inner: Mutex<Inner>,
}

struct Column {
    bounds: Bounds,
    not_null: bool,
    /// It is neither part of the key, nor of a reference, nor of a unique value.
    plain: bool,
    /// Invented values were refused once, so from then on they are copied from other rows.
    copied: AtomicBool,
}

#[derive(Default)]
struct Inner {
    /// Rows as they were at the beginning.
    sample: Vec<Vec<Value>>,
    /// Rows that may be referred to, because they stay.
    staying: Vec<Vec<Value>>,
    keys: Vec<KnownKey>,
}

/// A key that is or was there.
#[derive(Clone, Debug)]
pub struct KnownKey {
    /// The key.
    pub key: DynKey,
    /// Whether its row was there at the beginning.
    pub initial: bool,
    /// Whether its row may be deleted.
    pub deletable: bool,
}

/// A write that the pool proposes.
pub struct Proposal {
    /// The key.
    pub key: DynKey,
    /// The row.
    pub row: DynRow,
    /// Columns whose values were invented.
    pub invented: Vec<usize>,
}

/// The pools of all tables, with a sample of their rows and numbers above those that are taken.
///
/// # Errors
/// A table cannot be read.
pub async fn pools(tables: &[Table], whole: &Whole) -> Result<Vec<Pool>> {
    let mut pools: Vec<Pool> = tables.iter().map(|table| Pool::new(table, tables)).collect();
    let failed = || "a sample of the rows cannot be read".to_owned();
    for (number, pool) in (0_u16..).zip(&mut pools) {
        let table = whole.table(number).doing(failed)?;
        for place in table.split(SAMPLE / AT_ONE_PLACE).await.doing(failed)? {
            for (key, row) in table.page(&place, AT_ONE_PLACE).await.doing(failed)? {
                // A row that cannot be carried is parked by the migration, and left alone here.
                if let Ok(row) = row {
                    pool.take_initial(key, &row);
                }
            }
        }
    }
    Ok(pools)
}

impl Pool {
    fn new(table: &Table, tables: &[Table]) -> Self {
        let agreed = &table.agreement.columns;
        let place = |name: &String| agreed.iter().position(|column| column.name == *name);
        let places = |names: &[String]| names.iter().map(place).collect::<Option<Vec<_>>>();
        let mut references = Vec::new();
        for key in table.old.foreign_keys.iter().chain(&table.new.foreign_keys) {
            let parent = tables.iter().position(|other| other.name.eq_ignore_ascii_case(&key.parent));
            let Some((parent, own)) = parent.zip(places(&key.columns)) else { continue };
            let theirs = &tables[parent].agreement.columns;
            let there = |name: &String| theirs.iter().position(|column| column.name == *name);
            let their_places = key.parent_columns.iter().map(there).collect::<Option<Vec<_>>>();
            if let (Some(their_places), Ok(parent)) = (their_places, u16::try_from(parent)) {
                references.push((own, parent, their_places));
            }
        }
        references.sort();
        references.dedup();
        let indexes = table.old.indexes.iter().chain(&table.new.indexes).filter(|index| index.unique);
        let mut uniques: Vec<_> = indexes.filter_map(|index| places(&index.columns)).collect();
        uniques.sort();
        uniques.dedup();
        let key = table.key_places();
        let shape = |shape: &zdm_sql_adapters::table::TableShape, name: &str| {
            shape.columns.iter().find(|column| column.name == name).cloned()
        };
        let columns = agreed.iter().enumerate().filter_map(|(at, column)| {
            let (old, new) = (shape(&table.old, &column.name)?, shape(&table.new, &column.name)?);
            let special = key.contains(&at)
                || references.iter().any(|(own, ..)| own.contains(&at))
                || uniques.iter().any(|unique| unique.contains(&at));
            Some(Column {
                bounds: Bounds::of(&column.ty, &old, &new),
                not_null: old.not_null || new.not_null,
                plain: !special,
                copied: AtomicBool::new(false),
            })
        });
        let name = |other: &Table| {
            let keys = other.old.foreign_keys.iter().chain(&other.new.foreign_keys);
            keys.into_iter().any(|key| key.parent.eq_ignore_ascii_case(&table.name))
        };
        Self {
            columns: columns.collect(),
            referred_to: tables.iter().any(name),
            key,
            references,
            uniques,
            names: agreed.iter().map(|column| column.name.clone()).collect(),
            next: AtomicI64::new(1),
            inner: Mutex::default(),
        }
    }

    fn take_initial(&self, key: DynKey, row: &DynRow) {
        for value in key.values() {
            if let Value::Integer(number) = value {
                self.count_above(*number);
            }
        }
        let mut inner = self.lock();
        inner.keys.push(KnownKey { key, initial: true, deletable: !self.referred_to });
        if self.referred_to {
            inner.staying.push(row.values().to_vec());
        }
        inner.sample.push(row.values().to_vec());
    }

    /// New numbers are above this one.
    pub fn count_above(&self, number: i64) {
        self.next.fetch_max(number.saturating_add(1), Ordering::Relaxed);
    }

    /// A key that is or was there.
    pub fn some_key(&self, random: &mut fastrand::Rng) -> Option<KnownKey> {
        let inner = self.lock();
        (!inner.keys.is_empty()).then(|| inner.keys[random.usize(0..inner.keys.len())].clone())
    }

    /// A key whose row may be deleted. It is not proposed again.
    pub fn some_deletable(&self, random: &mut fastrand::Rng) -> Option<KnownKey> {
        let mut inner = self.lock();
        let count = inner.keys.len();
        let start = random.usize(0..count.max(1));
        let at = (0..count).map(|step| (start + step) % count).find(|at| inner.keys[*at].deletable)?;
        Some(inner.keys.swap_remove(at))
    }

    /// Whether rows have anything to update.
    pub fn can_update(&self) -> bool {
        self.columns.iter().any(|column| column.plain)
    }

    /// A row that is there, changed in one to three places.
    pub fn updated(&self, key: DynKey, row: &DynRow, random: &mut fastrand::Rng) -> Option<Proposal> {
        let plain: Vec<_> = (0..self.columns.len()).filter(|at| self.columns[*at].plain).collect();
        if plain.is_empty() {
            return None;
        }
        let (mut values, mut invented) = (row.values().to_vec(), Vec::new());
        for _ in 0..random.usize(1..=3) {
            let at = plain[random.usize(0..plain.len())];
            self.fill(at, &mut values, &mut invented, random);
        }
        self.proposal(Some(key), values, invented)
    }

    /// A new row. `None` where none can be made.
    pub fn inserted(&self, pools: &[Self], random: &mut fastrand::Rng) -> Option<Proposal> {
        let template = {
            let inner = self.lock();
            (!inner.sample.is_empty()).then(|| inner.sample[random.usize(0..inner.sample.len())].clone())
        };
        let (has_template, mut invented) = (template.is_some(), Vec::new());
        let mut values = template.unwrap_or_else(|| vec![Value::Null; self.columns.len()]);
        for at in (0..self.columns.len()).filter(|at| self.columns[*at].plain) {
            if !has_template || random.bool() {
                self.fill(at, &mut values, &mut invented, random);
            }
        }
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let mut referring = Vec::new();
        for (own, parent, theirs) in &self.references {
            let optional = own.iter().all(|at| !self.columns[*at].not_null && !self.key.contains(at));
            let parents = pools.get(usize::from(*parent))?.lock();
            if parents.staying.is_empty() || optional && random.u8(0..10) == 0 {
                if !optional {
                    return None;
                }
                own.iter().for_each(|at| values[*at] = Value::Null);
                continue;
            }
            let parent = &parents.staying[random.usize(0..parents.staying.len())];
            for (at, there) in own.iter().zip(theirs) {
                values[*at] = parent[*there].clone();
            }
            referring.extend_from_slice(own);
        }
        for unique in std::iter::once(&self.key).chain(&self.uniques) {
            // A key made of references alone is new by their combination, or an update.
            let Some(at) = unique.iter().rev().find(|at| !referring.contains(at)) else { continue };
            values[*at] = self.columns[*at].bounds.fresh(number)?;
        }
        self.proposal(None, values, invented)
    }

    fn fill(&self, at: usize, values: &mut [Value], invented: &mut Vec<usize>, random: &mut fastrand::Rng) {
        let column = &self.columns[at];
        if !column.not_null && random.u8(0..8) == 0 {
            values[at] = Value::Null;
            return;
        }
        if column.bounds.known() && !column.copied.load(Ordering::Relaxed) {
            if let Some(value) = column.bounds.random(random) {
                values[at] = value;
                invented.push(at);
            }
            return;
        }
        let inner = self.lock();
        if !inner.sample.is_empty() {
            values[at] = inner.sample[random.usize(0..inner.sample.len())][at].clone();
        }
    }

    fn proposal(&self, key: Option<DynKey>, values: Vec<Value>, invented: Vec<usize>) -> Option<Proposal> {
        let missing = |(value, column): (&Value, &Column)| matches!(value, Value::Null) && column.not_null;
        if values.iter().zip(&self.columns).any(missing) {
            return None;
        }
        let own = || DynKey::new(self.key.iter().map(|at| values[*at].clone())).ok();
        let key = key.or_else(own)?;
        let row = DynRow::new(Arc::clone(&self.names), values).ok()?;
        Some(Proposal { key, row, invented })
    }

    /// A new row was acknowledged.
    pub fn took(&self, proposal: &Proposal, random: &mut fastrand::Rng) {
        let stays = self.referred_to && random.bool();
        let mut inner = self.lock();
        if stays && inner.staying.len() < MOST_KEYS {
            inner.staying.push(proposal.row.values().to_vec());
        }
        if inner.keys.len() < MOST_KEYS {
            let key = proposal.key.clone();
            inner.keys.push(KnownKey { key, initial: false, deletable: !stays });
        }
    }

    /// A write with these invented values was refused by a constraint.
    pub fn refused(&self, invented: &[usize]) {
        for at in invented {
            self.columns[*at].copied.store(true, Ordering::Relaxed);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
