//! The fence: late writes are refused.
//!
//! Rows carry no stamp of their own. A sidecar table holds one for each key that was written live, with
//! tombstones of the deleted ones, and one for each range that a page was loaded into. They are read and
//! written in the transaction of the rows. SQLite has one writer, so no lock beyond it is needed.

use std::collections::HashSet;

use async_trait::async_trait;
use sqlx::AssertSqlSafe;
use sqlx::sqlite::SqliteConnection;
use zdm_core::error::{Error, Kind, Result};
use zdm_core::key::{KeyBytes, KeyRange};
use zdm_core::store::{Change, Fenced, PageLoad, Stamp};

use super::TableStore;
use super::apply::{Batch, upsert};
use super::classify::classify;
use super::shape::invalid;
use super::statements::pieces;
use crate::table::RowMapping;

pub(super) fn capability<M: RowMapping>(
    store: &TableStore<M>,
) -> Option<&dyn Fenced<Key = M::Key, Record = M::Record>> {
    store.fenced.then_some(store)
}

/// The stamps of one table, within a transaction.
struct Sidecar<'a> {
    connection: &'a mut SqliteConnection,
    table: &'a str,
    stamp: i64,
}

impl Sidecar<'_> {
    fn failed(&self, error: sqlx::Error) -> Error {
        classify(error, &format!("reading or writing the stamps of table {}", self.table))
    }

    /// The keys among these that carry a newer stamp of their own. Pages do not count: they do not say
    /// which keys had no record.
    async fn newer(&mut self, keys: &[KeyBytes]) -> Result<HashSet<KeyBytes>> {
        let mut newer = HashSet::new();
        for chunk in pieces(keys) {
            let marks = vec!["?"; chunk.len()].join(",");
            let sql =
                format!("SELECT key FROM zdm_stamp WHERE table_name = ? AND stamp > ? AND key IN ({marks})");
            let mut query =
                sqlx::query_scalar(AssertSqlSafe(sql)).bind(self.table.to_owned()).bind(self.stamp);
            for key in chunk {
                query = query.bind(key.as_slice().to_vec());
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
        let overlapped: bool = sqlx::query_scalar(
            "SELECT EXISTS (SELECT 1 FROM zdm_page WHERE table_name = ? AND stamp > ? AND above < ? AND up_to > ?)",
        )
        .bind(self.table.to_owned())
        .bind(self.stamp)
        .bind(up_to)
        .bind(above)
        .fetch_one(&mut *self.connection)
        .await
        .map_err(|error| self.failed(error))?;
        if overlapped {
            return Ok(None);
        }
        let mut sql = "SELECT key FROM zdm_stamp WHERE table_name = ? AND stamp > ?".to_owned();
        sql.push_str(if range.after.is_some() { " AND key > ?" } else { "" });
        sql.push_str(if range.up_to.is_some() { " AND key <= ?" } else { "" });
        let mut query = sqlx::query_scalar(AssertSqlSafe(sql)).bind(self.table.to_owned()).bind(self.stamp);
        for bound in range.after.iter().chain(&range.up_to) {
            query = query.bind(bound.as_slice().to_vec());
        }
        let keys: Vec<Vec<u8>> =
            query.fetch_all(&mut *self.connection).await.map_err(|error| self.failed(error))?;
        Ok(Some(keys.iter().map(|key| KeyBytes::from_slice(key)).collect()))
    }

    async fn note_keys(&mut self, keys: &[(KeyBytes, bool)]) -> Result<()> {
        for chunk in pieces(keys) {
            let rows = vec!["(?, ?, ?, ?)"; chunk.len()].join(",");
            let sql = format!(
                "INSERT INTO zdm_stamp (table_name, key, stamp, deleted) VALUES {rows} \
                 ON CONFLICT (table_name, key) DO UPDATE SET stamp = excluded.stamp, deleted = excluded.deleted"
            );
            let mut query = sqlx::query(AssertSqlSafe(sql));
            for (key, deleted) in chunk {
                query = query
                    .bind(self.table.to_owned())
                    .bind(key.as_slice().to_vec())
                    .bind(self.stamp)
                    .bind(*deleted);
            }
            query.execute(&mut *self.connection).await.map_err(|error| self.failed(error))?;
        }
        self.note_newest().await
    }

    async fn note_page(&mut self, range: &KeyRange<KeyBytes>) -> Result<()> {
        sqlx::query(
            "INSERT INTO zdm_page (table_name, above, up_to, stamp) VALUES (?, ?, ?, ?) \
             ON CONFLICT (table_name, above, up_to) DO UPDATE SET stamp = excluded.stamp",
        )
        .bind(self.table.to_owned())
        .bind(bound(range.after.as_ref(), OPEN_BELOW))
        .bind(bound(range.up_to.as_ref(), OPEN_ABOVE))
        .bind(self.stamp)
        .execute(&mut *self.connection)
        .await
        .map_err(|error| self.failed(error))?;
        self.note_newest().await
    }

    async fn note_newest(&mut self) -> Result<()> {
        sqlx::query(
            "INSERT INTO zdm_fence (table_name, newest) VALUES (?, ?) \
             ON CONFLICT (table_name) DO UPDATE SET newest = max(newest, excluded.newest)",
        )
        .bind(self.table.to_owned())
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
        connection: &mut SqliteConnection,
        stamp: i64,
        batch: Batch,
        with_care: bool,
    ) -> Result<u64> {
        let table = self.table();
        let mut sidecar = Sidecar { connection, table: table.name(), stamp };
        let newer = sidecar.newer(&batch.keys).await?;
        let batch = batch.without(&newer);
        let noted: Vec<_> = batch.keys.iter().cloned().zip(batch.deleted()).collect();
        if !noted.is_empty() {
            sidecar.note_keys(&noted).await?;
        } else {
            sidecar.note_newest().await?;
        }
        if with_care {
            self.apply_with_care(connection, batch).await?;
        } else {
            batch.apply(connection, table).await?;
        }
        Ok(newer.len() as u64)
    }

    async fn load(
        self,
        connection: &mut SqliteConnection,
        stamp: i64,
        range: KeyRange<KeyBytes>,
        batch: Batch,
        with_care: bool,
    ) -> Result<Loaded> {
        let table = self.table();
        let mut sidecar = Sidecar { connection, table: table.name(), stamp };
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
            self.load_with_care(connection, &range, &batch, &newer).await?
        } else {
            super::apply::defer_foreign_keys(connection, table).await?;
            let batch = if superseded > 0 { batch.without(&newer) } else { batch };
            upsert(connection, table, batch.puts.values).await?;
            Vec::new()
        };
        Ok(Loaded { written: all - superseded - rejected.len() as u64, superseded, rejected })
    }
}

#[async_trait]
impl<M: RowMapping> Fenced for TableStore<M> {
    async fn newest_stamp(&self) -> Result<Stamp> {
        let mut connection = self.inner.db.reader().await?;
        let newest: Option<i64> = sqlx::query_scalar("SELECT newest FROM zdm_fence WHERE table_name = ?")
            .bind(self.table().name().to_owned())
            .fetch_optional(&mut *connection)
            .await
            .map_err(|error| classify(error, "reading the newest stamp"))?;
        Ok(Stamp(u64::try_from(newest.unwrap_or_default()).unwrap_or_default()))
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
                Err(error) if error.kind() == Kind::Rejected => {
                    rejected.push((key.clone(), error));
                }
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
                let again = places.iter().map(|place| &records[*place]);
                let mut batch = Batch::new(self.table());
                for (key, record) in again {
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
                    for sql in [
                        "DELETE FROM zdm_stamp WHERE table_name = ?",
                        "DELETE FROM zdm_page WHERE table_name = ?",
                    ] {
                        sqlx::query(sql)
                            .bind(table.clone())
                            .execute(&mut *connection)
                            .await
                            .map_err(|error| classify(error, "forgetting stamps"))?;
                    }
                    Ok(())
                })
            })
            .await
    }
}
