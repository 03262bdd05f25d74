//! The fence: late writes are refused.
//!
//! Rows carry no stamp of their own. A sidecar table holds one for each key that was written live, with
//! tombstones of the deleted ones, and another one the ranges that pages were loaded into. They are read and
//! written in the transaction of the rows.
//!
//! What excludes what: a table has eight slots, which are advisory locks. A page takes one of them alone, a
//! live write takes all of them together with other live writes. So pages run beside pages and live writes
//! beside live writes, but no page runs beside a live write: the page has seen its stamp, or it sees the
//! page's rows. Live writes of the same key wait for each other at the row of its stamp, and take those rows
//! in the order of their bytes.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use async_trait::async_trait;
use sqlx::AssertSqlSafe;
use sqlx::postgres::PgConnection;
use zdm_core::error::{Error, Kind, Result};
use zdm_core::key::{KeyBytes, KeyRange};
use zdm_core::store::{Change, Fenced, PageLoad, Stamp};

use super::TableStore;
use super::apply::Batch;
use super::classify::classify;
use super::load::Target;
use super::shape::invalid;
use crate::table::{RowMapping, RowValues};

pub(super) fn capability<M: RowMapping>(
    store: &TableStore<M>,
) -> Option<&dyn Fenced<Key = M::Key, Record = M::Record>> {
    store.fenced.then_some(store)
}

const SLOTS: i32 = 8;

/// The number of the first slot of a table: the rest follow it. By FNV-1a, which stays the same.
fn first_slot(table: &str) -> i64 {
    let hash = format!("zdm slot {table}").bytes().fold(0xCBF2_9CE4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01B3)
    });
    (hash & !7).cast_signed()
}

/// The stamps of one table, within a transaction.
struct Sidecar<'a> {
    connection: &'a mut PgConnection,
    table: &'a str,
    stamp: i64,
}

impl Sidecar<'_> {
    fn failed(&self, error: sqlx::Error) -> Error {
        classify(error, &format!("reading or writing the stamps of table {}", self.table))
    }

    /// Takes all slots beside other live writes, and leaves the stamp at every key that carries no newer
    /// one. Returns the others. Pages do not count: they do not say which keys had no record.
    async fn take_keys(&mut self, keys: &[KeyBytes], deleted: &[bool]) -> Result<HashSet<KeyBytes>> {
        let mut order: Vec<usize> = (0..keys.len()).collect();
        order.sort_unstable_by(|one, other| keys[*one].cmp(&keys[*other]));
        let sorted: Vec<&[u8]> = order.iter().map(|at| keys[*at].as_slice()).collect();
        let deleted: Vec<bool> = order.iter().map(|at| deleted[*at]).collect();
        let taken: Vec<Vec<u8>> = sqlx::query_scalar(
            "WITH slots AS MATERIALIZED ( \
             SELECT count(pg_advisory_xact_lock_shared($1 + slot)) FROM generate_series(0, $2 - 1) AS slot) \
             INSERT INTO zdm_stamp AS own (table_name, key, stamp, deleted) \
             SELECT $3, new.key, $4, new.deleted FROM slots, unnest($5, $6) AS new (key, deleted) \
             ON CONFLICT (table_name, key) DO UPDATE SET stamp = excluded.stamp, deleted = excluded.deleted \
             WHERE own.stamp <= excluded.stamp RETURNING key",
        )
        .bind(first_slot(self.table))
        .bind(SLOTS)
        .bind(self.table)
        .bind(self.stamp)
        .bind(&sorted)
        .bind(&deleted)
        .fetch_all(&mut *self.connection)
        .await
        .map_err(|error| self.failed(error))?;
        if taken.len() == keys.len() {
            return Ok(HashSet::new());
        }
        let taken: HashSet<&[u8]> = taken.iter().map(Vec::as_slice).collect();
        Ok(keys.iter().filter(|key| !taken.contains(key.as_slice())).cloned().collect())
    }

    /// Takes one slot alone: the first that is free, else it waits for one.
    async fn take_slot(&mut self) -> Result<()> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        // Processes begin at different ones.
        let turn = NEXT.fetch_add(1, Ordering::Relaxed).wrapping_add(std::process::id());
        let start = i32::try_from(turn % SLOTS.unsigned_abs()).unwrap_or_default();
        let first = first_slot(self.table);
        let free: Option<i32> = sqlx::query_scalar(
            "SELECT slot FROM generate_series(0, $2 - 1) AS slot \
             WHERE pg_try_advisory_xact_lock($1 + (slot + $3) % $2) LIMIT 1",
        )
        .bind(first)
        .bind(SLOTS)
        .bind(start)
        .fetch_optional(&mut *self.connection)
        .await
        .map_err(|error| self.failed(error))?;
        if free.is_none() {
            sqlx::query("SELECT pg_advisory_xact_lock($1)")
                .bind(first + i64::from(start))
                .execute(&mut *self.connection)
                .await
                .map_err(|error| self.failed(error))?;
        }
        Ok(())
    }

    /// The keys of a range that carry a newer stamp, and whether the range holds rows; `None` when a newer
    /// page lies over it. In a statement after that which took the slot: it sees what was committed before.
    async fn look(
        &mut self,
        range: &KeyRange<KeyBytes>,
        probe: &str,
    ) -> Result<Option<(HashSet<KeyBytes>, bool)>> {
        // OFFSET 0: newer pages are few and found by their stamps, all others are not looked at.
        let sql = format!(
            "SELECT EXISTS (SELECT 1 FROM (SELECT above, up_to FROM zdm_page WHERE table_name = $1 AND stamp > $2 OFFSET 0) \
             AS newer WHERE above < $4 AND up_to > $3), \
             ARRAY(SELECT key FROM zdm_stamp WHERE table_name = $1 AND stamp > $2 \
             AND ($5::bytea IS NULL OR key > $5) AND ($6::bytea IS NULL OR key <= $6)), {probe}"
        );
        let (overlapped, newer, filled): (bool, Vec<Vec<u8>>, bool) = sqlx::query_as(AssertSqlSafe(sql))
            .bind(self.table)
            .bind(self.stamp)
            .bind(bound(range.after.as_ref(), OPEN_BELOW))
            .bind(bound(range.up_to.as_ref(), OPEN_ABOVE))
            .bind(range.after.as_ref().map(KeyBytes::as_slice))
            .bind(range.up_to.as_ref().map(KeyBytes::as_slice))
            .persistent(false)
            .fetch_one(&mut *self.connection)
            .await
            .map_err(|error| self.failed(error))?;
        let newer = newer.iter().map(|key| KeyBytes::from_slice(key)).collect();
        Ok((!overlapped).then_some((newer, filled)))
    }

    async fn note_page(&mut self, range: &KeyRange<KeyBytes>) -> Result<()> {
        sqlx::query(
            "INSERT INTO zdm_page (table_name, above, up_to, stamp) VALUES ($1, $2, $3, $4) \
             ON CONFLICT (table_name, above, up_to) DO UPDATE SET stamp = excluded.stamp",
        )
        .bind(self.table)
        .bind(bound(range.after.as_ref(), OPEN_BELOW))
        .bind(bound(range.up_to.as_ref(), OPEN_ABOVE))
        .bind(self.stamp)
        .execute(&mut *self.connection)
        .await
        .map_err(|error| self.failed(error))?;
        Ok(())
    }

    /// Remembers the stamp where neither a key nor a page does. Only then: all writes meet at this row.
    async fn note_newest(&mut self) -> Result<()> {
        sqlx::query(
            "INSERT INTO zdm_fence AS own (table_name, newest) VALUES ($1, $2) \
             ON CONFLICT (table_name) DO UPDATE SET newest = excluded.newest WHERE own.newest < excluded.newest",
        )
        .bind(self.table)
        .bind(self.stamp)
        .execute(&mut *self.connection)
        .await
        .map_err(|error| self.failed(error))?;
        Ok(())
    }
}

const OPEN_BELOW: u8 = 0;
const OPEN_ABOVE: u8 = 2;

/// A bound as bytes that compare as bounds do.
fn bound(key: Option<&KeyBytes>, open: u8) -> Vec<u8> {
    match key {
        Some(key) => [&[1], key.as_slice()].concat(),
        None => vec![open],
    }
}

fn stored(stamp: Stamp) -> Result<i64> {
    i64::try_from(stamp.0).map_err(|_| invalid(format!("the stamp {} is above 2^63", stamp.0)))
}

const NEWEST: &str = "SELECT greatest( \
    coalesce((SELECT newest FROM zdm_fence WHERE table_name = $1), 0), \
    coalesce((SELECT max(stamp) FROM zdm_stamp WHERE table_name = $1), 0), \
    coalesce((SELECT max(stamp) FROM zdm_page WHERE table_name = $1), 0))";

/// What became of the rows of a batch that was loaded.
struct Loaded {
    written: u64,
    superseded: u64,
    /// Places in the batch, each with the reason.
    rejected: Vec<(usize, Error)>,
}

impl<M: RowMapping> TableStore<M> {
    async fn apply_fenced(
        self,
        connection: &mut PgConnection,
        stamp: i64,
        batch: Arc<Batch>,
        with_care: bool,
    ) -> Result<u64> {
        let table = self.table();
        let mut sidecar = Sidecar { connection, table: &table.full_name, stamp };
        if batch.keys.is_empty() {
            sidecar.note_newest().await?;
            return Ok(0);
        }
        let newer = sidecar.take_keys(&batch.keys, &batch.deleted().collect::<Vec<_>>()).await?;
        let chosen = batch.without(&newer);
        if with_care {
            self.apply_with_care(connection, &batch, &chosen).await?;
        } else {
            batch.apply(connection, table, &chosen).await?;
        }
        Ok(newer.len() as u64)
    }

    async fn load(
        self,
        connection: &mut PgConnection,
        stamp: i64,
        range: KeyRange<KeyBytes>,
        target: Arc<Target>,
        batch: Arc<Batch>,
        with_care: bool,
    ) -> Result<Loaded> {
        let table = self.table();
        let mut sidecar = Sidecar { connection, table: &table.full_name, stamp };
        let all = batch.keys.len() as u64;
        sidecar.take_slot().await?;
        let Some((newer, filled)) = sidecar.look(&range, &target.probe).await? else {
            return Ok(Loaded { written: 0, superseded: all, rejected: Vec::new() });
        };
        // An empty range has no key to guard, and its bounds are the wrong way round.
        if range.is_empty() {
            sidecar.note_newest().await?;
        } else {
            sidecar.note_page(&range).await?;
        }
        let superseded = batch.keys.iter().filter(|key| newer.contains(*key)).count() as u64;
        let rejected = if with_care {
            self.load_with_care(connection, &batch, &newer).await?
        } else {
            target.load(connection, table, &batch, &newer, filled).await?;
            Vec::new()
        };
        Ok(Loaded { written: all - superseded - rejected.len() as u64, superseded, rejected })
    }
}

#[async_trait]
impl<M: RowMapping> Fenced for TableStore<M> {
    async fn newest_stamp(&self) -> Result<Stamp> {
        let mut reader = self.inner.db.reader().await?;
        let newest: i64 = sqlx::query_scalar(NEWEST)
            .bind(&self.table().full_name)
            .fetch_one(&mut *reader)
            .await
            .map_err(|error| classify(error, "reading the newest stamp"))?;
        reader.release();
        Ok(Stamp(u64::try_from(newest).unwrap_or_default()))
    }

    async fn apply_if_newer(&self, stamp: Stamp, changes: &[Change<M::Key, M::Record>]) -> Result<u64> {
        let stamp = stored(stamp)?;
        let batch = Arc::new(self.batch(changes)?);
        let write = |with_care| {
            let (store, batch, db) = (self.clone(), Arc::clone(&batch), self.inner.db.clone());
            async move {
                db.mirror(move |connection| Box::pin(store.apply_fenced(connection, stamp, batch, with_care)))
                    .await
            }
        };
        match write(false).await {
            Err(error) if Batch::deserves_care(&error) => write(true).await,
            outcome => outcome,
        }
    }

    async fn load_page(
        &self,
        stamp: Stamp,
        range: &KeyRange<M::Key>,
        records: &[(M::Key, M::Record)],
    ) -> Result<PageLoad<M::Key>> {
        let stamp = stored(stamp)?;
        let mut rejected = Vec::new();
        let (mut batch, mut scratch) = (Batch::default(), RowValues::default());
        // The places of the batch's rows among the records.
        let mut places = Vec::with_capacity(records.len());
        for (place, (key, record)) in records.iter().enumerate() {
            if !range.contains(key) {
                return Err(invalid(format!("the record {key:?} lies outside the page's range {range:?}")));
            }
            match self.write_row(key, record, &mut scratch, &mut batch.puts) {
                Ok(()) => {
                    batch.keys.push(KeyBytes::of(key));
                    places.push(place);
                }
                Err(error) if error.kind() == Kind::Rejected => {
                    rejected.push((key.clone(), error));
                }
                Err(error) => return Err(error),
            }
        }
        let target = Arc::new(self.target(range)?);
        let (batch, encoded) = (Arc::new(batch), range.encode());
        let write = |with_care| {
            let (store, range, db) = (self.clone(), encoded.clone(), self.inner.db.clone());
            let (target, batch) = (Arc::clone(&target), Arc::clone(&batch));
            async move {
                db.mirror(move |connection| {
                    Box::pin(store.load(connection, stamp, range, target, batch, with_care))
                })
                .await
            }
        };
        let loaded = match write(false).await {
            Err(error) if Batch::deserves_care(&error) => write(true).await?,
            outcome => outcome?,
        };
        for (at, error) in loaded.rejected {
            rejected.push((records[places[at]].0.clone(), error));
        }
        Ok(PageLoad { written: loaded.written, superseded: loaded.superseded, rejected })
    }

    async fn forget_stamps(&self) -> Result<()> {
        let table = self.table().full_name.clone();
        self.inner
            .db
            .write(move |connection| {
                Box::pin(async move {
                    let failed = |error| classify(error, "forgetting stamps");
                    let newest: i64 = sqlx::query_scalar(NEWEST)
                        .bind(&table)
                        .fetch_one(&mut *connection)
                        .await
                        .map_err(failed)?;
                    let mut sidecar = Sidecar { connection, table: &table, stamp: newest };
                    sidecar.note_newest().await?;
                    for sql in [
                        "DELETE FROM zdm_stamp WHERE table_name = $1",
                        "DELETE FROM zdm_page WHERE table_name = $1",
                    ] {
                        sqlx::query(sql)
                            .bind(&table)
                            .execute(&mut *sidecar.connection)
                            .await
                            .map_err(failed)?;
                    }
                    Ok(())
                })
            })
            .await
    }
}
