//! The fence: late writes are refused.
//!
//! Rows carry no stamp of their own. A sidecar table holds one for each key that was written live, with
//! tombstones of the deleted ones, and one for each range that a page was loaded into. They are read and
//! written in the transaction of the rows.
//!
//! A page and a live write of one table exclude each other, or the page could read the stamps just before
//! the write and write the rows just after it. Each table has eight slots for that: a page locks one of them,
//! a live write shares all of them. So pages run beside each other, and so do live writes; two live writes of
//! one key meet at its stamp, which is checked and locked with one statement, in the order of the keys.

use std::collections::HashSet;

use async_trait::async_trait;
use sqlx::AssertSqlSafe;
use sqlx::mysql::MySqlConnection;
use zdm_core::error::{Error, Kind, Result};
use zdm_core::key::{KeyBytes, KeyRange};
use zdm_core::store::{Change, Fenced, PageLoad, Stamp};

use super::apply::{Batch, upsert};
use super::classify::classify;
use super::shape::invalid;
use super::statements::pieces;
use super::{MySql, TableStore};
use crate::table::RowMapping;

const SLOTS: i64 = 8;
/// What the bookkeeping's own key has room for.
const LONGEST_KEY: usize = 2_800;

pub(super) fn capability<M: RowMapping>(
    store: &TableStore<M>,
) -> Option<&dyn Fenced<Key = M::Key, Record = M::Record>> {
    store.fenced.then_some(store)
}

/// Makes the slots of a table.
pub(super) async fn prepare(db: &MySql, table: &str) -> Result<()> {
    let table = table.to_owned();
    db.write(move |connection| {
        Box::pin(async move {
            let rows: Vec<_> = (0..SLOTS).map(|slot| format!("(?, {slot})")).collect();
            let sql = format!(
                "INSERT INTO zdm_slot (table_name, slot) VALUES {} ON DUPLICATE KEY UPDATE slot = VALUES(slot)",
                rows.join(", ")
            );
            let mut query = sqlx::query(AssertSqlSafe(sql));
            for _ in 0..SLOTS {
                query = query.bind(table.as_bytes());
            }
            query
                .execute(connection)
                .await
                .map_err(|error| classify(error, &format!("preparing the fence of table {table}")))?;
            Ok(())
        })
    })
    .await
}

/// The stamps of one table, within a transaction.
struct Sidecar<'a> {
    connection: &'a mut MySqlConnection,
    table: &'a str,
    stamp: i64,
}

impl Sidecar<'_> {
    fn failed(&self, error: sqlx::Error) -> Error {
        classify(error, &format!("reading or writing the stamps of table {}", self.table))
    }

    fn unprepared(&self) -> Error {
        let message = format!(
            "the fence of table {} has been removed while it was in use; open the table with it again",
            self.table
        );
        Error::new(Kind::Damaged, message).not_applied()
    }

    /// Shares all slots: no page is being loaded until the end of the transaction.
    async fn share_slots(&mut self) -> Result<()> {
        let slots: Vec<i64> = sqlx::query_scalar(
            "SELECT CAST(slot AS SIGNED) FROM zdm_slot WHERE table_name = ? ORDER BY slot LOCK IN SHARE MODE",
        )
        .bind(self.table.as_bytes())
        .fetch_all(&mut *self.connection)
        .await
        .map_err(|error| self.failed(error))?;
        if slots.len() as i64 == SLOTS { Ok(()) } else { Err(self.unprepared()) }
    }

    /// Locks a slot: no live write of the table comes in until the end of the transaction. A free one if
    /// there is one, else it waits for one, behind the live writes that came before.
    async fn lock_slot(&mut self, first: i64, skips: bool) -> Result<()> {
        let tries = [
            ("slot >= ? ORDER BY slot LIMIT 1 FOR UPDATE SKIP LOCKED", skips),
            ("slot < ? ORDER BY slot LIMIT 1 FOR UPDATE SKIP LOCKED", skips),
            ("slot = ? FOR UPDATE", true),
        ];
        for (which, known) in tries {
            if !known {
                continue;
            }
            let sql = format!("SELECT CAST(slot AS SIGNED) FROM zdm_slot WHERE table_name = ? AND {which}");
            let slot: Vec<i64> = sqlx::query_scalar(AssertSqlSafe(sql))
                .bind(self.table.as_bytes())
                .bind(first)
                .fetch_all(&mut *self.connection)
                .await
                .map_err(|error| self.failed(error))?;
            if !slot.is_empty() {
                return Ok(());
            }
        }
        Err(self.unprepared())
    }

    /// Writes the stamp of each key that has no newer one, and locks the stamps of all. Returns the keys that
    /// have a newer one. The stamps of pages do not count: they do not say which keys had no record.
    async fn note_keys(&mut self, keys: &[(KeyBytes, bool)]) -> Result<HashSet<KeyBytes>> {
        let mut sorted: Vec<&(KeyBytes, bool)> = keys.iter().collect();
        // Two calls that lock in the same order wait for each other, and not both.
        sorted.sort_unstable_by(|left, right| left.0.cmp(&right.0));
        if let Some((key, _)) = sorted.iter().find(|(key, _)| key.as_slice().len() > LONGEST_KEY) {
            let message = format!(
                "a key of {} bytes is too long for the fence of table {}, which has room for {LONGEST_KEY}",
                key.as_slice().len(),
                self.table
            );
            return Err(Error::new(Kind::Rejected, message));
        }
        let mut newer = HashSet::new();
        for chunk in pieces(&sorted) {
            let rows = vec!["(?, ?, ?, ?)"; chunk.len()].join(",");
            let sql = format!(
                "INSERT INTO zdm_stamp (table_name, `key`, stamp, deleted) VALUES {rows} ON DUPLICATE KEY UPDATE \
                 deleted = IF(stamp <= VALUES(stamp), VALUES(deleted), deleted), stamp = GREATEST(stamp, VALUES(stamp))"
            );
            let mut query = sqlx::query(AssertSqlSafe(sql));
            for (key, deleted) in chunk {
                query =
                    query.bind(self.table.as_bytes()).bind(key.as_slice()).bind(self.stamp).bind(*deleted);
            }
            query.execute(&mut *self.connection).await.map_err(|error| self.failed(error))?;
            let marks = vec!["?"; chunk.len()].join(",");
            let sql = format!(
                "SELECT `key` FROM zdm_stamp WHERE table_name = ? AND stamp > ? AND `key` IN ({marks})"
            );
            let mut query =
                sqlx::query_scalar(AssertSqlSafe(sql)).bind(self.table.as_bytes()).bind(self.stamp);
            for (key, _) in chunk {
                query = query.bind(key.as_slice());
            }
            let found: Vec<Vec<u8>> =
                query.fetch_all(&mut *self.connection).await.map_err(|error| self.failed(error))?;
            newer.extend(found.iter().map(|key| KeyBytes::from_slice(key)));
        }
        Ok(newer)
    }

    /// The keys of a range that carry a newer stamp; `None` when a newer page lies over it.
    async fn newer_in(&mut self, range: &KeyRange<KeyBytes>) -> Result<Option<HashSet<KeyBytes>>> {
        let (above, up_to) =
            (bound(range.after.as_ref(), OPEN_BELOW), bound(range.up_to.as_ref(), OPEN_ABOVE));
        let overlapped: i64 = sqlx::query_scalar(
            "SELECT CAST(EXISTS (SELECT 1 FROM zdm_page WHERE table_name = ? AND stamp > ? AND above < ? \
             AND up_to > ?) AS SIGNED)",
        )
        .bind(self.table.as_bytes())
        .bind(self.stamp)
        .bind(up_to)
        .bind(above)
        .fetch_one(&mut *self.connection)
        .await
        .map_err(|error| self.failed(error))?;
        if overlapped != 0 {
            return Ok(None);
        }
        let mut sql = "SELECT `key` FROM zdm_stamp WHERE table_name = ? AND stamp > ?".to_owned();
        sql.push_str(if range.after.is_some() { " AND `key` > ?" } else { "" });
        sql.push_str(if range.up_to.is_some() { " AND `key` <= ?" } else { "" });
        let mut query = sqlx::query_scalar(AssertSqlSafe(sql)).bind(self.table.as_bytes()).bind(self.stamp);
        for bound in range.after.iter().chain(&range.up_to) {
            query = query.bind(bound.as_slice());
        }
        let keys: Vec<Vec<u8>> =
            query.fetch_all(&mut *self.connection).await.map_err(|error| self.failed(error))?;
        Ok(Some(keys.iter().map(|key| KeyBytes::from_slice(key)).collect()))
    }

    async fn note_page(&mut self, range: &KeyRange<KeyBytes>) -> Result<()> {
        let (above, up_to) =
            (bound(range.after.as_ref(), OPEN_BELOW), bound(range.up_to.as_ref(), OPEN_ABOVE));
        sqlx::query(
            "INSERT INTO zdm_page (table_name, digest, above, up_to, stamp) \
             VALUES (?, UNHEX(SHA2(CONCAT(CAST(? AS CHAR), ':', HEX(?), HEX(?)), 256)), ?, ?, ?) \
             ON DUPLICATE KEY UPDATE stamp = GREATEST(stamp, VALUES(stamp))",
        )
        .bind(self.table.as_bytes())
        .bind(above.len() as i64)
        .bind(above.clone())
        .bind(up_to.clone())
        .bind(above)
        .bind(up_to)
        .bind(self.stamp)
        .execute(&mut *self.connection)
        .await
        .map_err(|error| self.failed(error))?;
        Ok(())
    }

    /// For calls that leave no stamp elsewhere: one row for the table, which every writer would wait for.
    async fn note_newest(&mut self) -> Result<()> {
        sqlx::query(
            "INSERT INTO zdm_fence (table_name, newest) VALUES (?, ?) \
             ON DUPLICATE KEY UPDATE newest = GREATEST(newest, VALUES(newest))",
        )
        .bind(self.table.as_bytes())
        .bind(self.stamp)
        .execute(&mut *self.connection)
        .await
        .map_err(|error| self.failed(error))?;
        Ok(())
    }
}

/// The greatest stamp that is to be found anywhere.
async fn newest(connection: &mut MySqlConnection, table: &str) -> Result<i64> {
    sqlx::query_scalar(
        "SELECT CAST(GREATEST( \
         COALESCE((SELECT MAX(newest) FROM zdm_fence WHERE table_name = ?), 0), \
         COALESCE((SELECT MAX(stamp) FROM zdm_stamp WHERE table_name = ?), 0), \
         COALESCE((SELECT MAX(stamp) FROM zdm_page WHERE table_name = ?), 0)) AS SIGNED)",
    )
    .bind(table.as_bytes())
    .bind(table.as_bytes())
    .bind(table.as_bytes())
    .fetch_one(connection)
    .await
    .map_err(|error| classify(error, &format!("reading the newest stamp of table {table}")))
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
        connection: &mut MySqlConnection,
        stamp: i64,
        batch: Batch,
        with_care: bool,
    ) -> Result<u64> {
        let table = self.table();
        let mut sidecar = Sidecar { connection, table: table.name(), stamp };
        if batch.keys.is_empty() {
            sidecar.note_newest().await?;
            return Ok(0);
        }
        sidecar.share_slots().await?;
        let noted: Vec<_> = batch.keys.iter().cloned().zip(batch.deleted()).collect();
        let newer = sidecar.note_keys(&noted).await?;
        let batch = batch.without(&newer);
        if with_care {
            self.apply_with_care(connection, batch).await?;
        } else {
            batch.apply(connection, table, self.inner.db.max_packet()).await?;
        }
        Ok(newer.len() as u64)
    }

    async fn load(
        self,
        connection: &mut MySqlConnection,
        stamp: i64,
        range: KeyRange<KeyBytes>,
        batch: Batch,
        with_care: bool,
    ) -> Result<Loaded> {
        let (table, db) = (self.table(), &self.inner.db);
        let mut sidecar = Sidecar { connection, table: table.name(), stamp };
        // Which slot comes first does not matter, as long as pages do not all take the same.
        sidecar.lock_slot(stamp.wrapping_mul(5).rem_euclid(SLOTS), db.skips_locked()).await?;
        let all = batch.keys.len() as u64;
        let Some(newer) = sidecar.newer_in(&range).await? else {
            return Ok(Loaded { written: 0, superseded: all, rejected: Vec::new() });
        };
        // An empty range has no key to guard, and its bounds are the wrong way round.
        if range.is_empty() {
            sidecar.note_newest().await?
        } else {
            sidecar.note_page(&range).await?
        }
        let superseded = batch.keys.iter().filter(|key| newer.contains(*key)).count() as u64;
        let rejected = if with_care {
            self.load_with_care(connection, &batch, &newer).await?
        } else {
            let batch = if superseded > 0 { batch.without(&newer) } else { batch };
            upsert(connection, table, batch.puts.values, db.max_packet()).await?;
            Vec::new()
        };
        Ok(Loaded { written: all - superseded - rejected.len() as u64, superseded, rejected })
    }
}

#[async_trait]
impl<M: RowMapping> Fenced for TableStore<M> {
    async fn newest_stamp(&self) -> Result<Stamp> {
        let mut reader = self.inner.db.reader().await?;
        let newest = newest(&mut reader, self.table().name()).await?;
        reader.release();
        Ok(Stamp(u64::try_from(newest).unwrap_or_default()))
    }

    async fn apply_if_newer(&self, stamp: Stamp, changes: &[Change<M::Key, M::Record>]) -> Result<u64> {
        let stamp = stored(stamp)?;
        let write = |with_care| {
            let (store, batch) = (self.clone(), self.batch(changes));
            async move {
                let (batch, db) = (batch?, store.inner.db.clone());
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
        let mut batch = Batch::new(self.table());
        // The places of the batch's rows among the records.
        let mut places = Vec::with_capacity(records.len());
        for (place, (key, record)) in records.iter().enumerate() {
            if !range.contains(key) {
                return Err(invalid(format!("the record {key:?} lies outside the page's range {range:?}")));
            }
            match self.write_row(key, record, &mut batch.puts) {
                Ok(()) => {
                    batch.keys.push(KeyBytes::of(key));
                    places.push(place);
                }
                Err(error) if error.kind() == Kind::Rejected => rejected.push((key.clone(), error)),
                Err(error) => return Err(error),
            }
        }
        let encoded = range.encode();
        let write = |batch: Batch, with_care| {
            let (store, range, db) = (self.clone(), encoded.clone(), self.inner.db.clone());
            async move {
                db.mirror(move |connection| Box::pin(store.load(connection, stamp, range, batch, with_care)))
                    .await
            }
        };
        let loaded = match write(batch, false).await {
            Err(error) if Batch::deserves_care(&error) => {
                let mut batch = Batch::new(self.table());
                for (key, record) in places.iter().map(|place| &records[*place]) {
                    self.write_row(key, record, &mut batch.puts)?;
                    batch.keys.push(KeyBytes::of(key));
                }
                write(batch, true).await?
            }
            outcome => outcome?,
        };
        for (at, error) in loaded.rejected {
            rejected.push((records[places[at]].0.clone(), error));
        }
        Ok(PageLoad { written: loaded.written, superseded: loaded.superseded, rejected })
    }

    async fn forget_stamps(&self) -> Result<()> {
        let table = self.table().name().to_owned();
        self.inner
            .db
            .write(move |connection| {
                Box::pin(async move {
                    let stamp = newest(connection, &table).await?;
                    let mut sidecar = Sidecar { connection, table: &table, stamp };
                    sidecar.note_newest().await?;
                    for sql in [
                        "DELETE FROM zdm_stamp WHERE table_name = ?",
                        "DELETE FROM zdm_page WHERE table_name = ?",
                    ] {
                        sqlx::query(sql)
                            .bind(table.as_bytes())
                            .execute(&mut *sidecar.connection)
                            .await
                            .map_err(|error| classify(error, "forgetting stamps"))?;
                    }
                    Ok(())
                })
            })
            .await
    }
}
