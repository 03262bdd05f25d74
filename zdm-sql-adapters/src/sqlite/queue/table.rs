use std::collections::BTreeMap;

use sqlx::AssertSqlSafe;
use sqlx::sqlite::SqliteConnection;
use zdm_core::error::{Error, Kind, Result};
use zdm_core::key::{KeyBytes, KeyRange};
use zdm_core::queue::{Direction, Entry, EntryId, EntryState, Epoch, Taint, TaintId, Touch};

use crate::sqlite::classify::classify;
use crate::sqlite::statements::pieces;

/// A change of the tables.
#[derive(Debug)]
pub(super) enum Record {
    Put(Entry),
    Remove(EntryId),
    PutTaint(Taint),
    RemoveTaint(TaintId),
    /// Stamps below this are set aside.
    Stamps(u64),
}

/// What a queue finds when it opens.
pub(super) struct Kept {
    pub(super) entries: Vec<Entry>,
    pub(super) taints: Vec<Taint>,
    pub(super) stamps_below: u64,
    pub(super) newest_id: EntryId,
}

fn failed(error: sqlx::Error) -> Error {
    classify(error, "the tables of the secondary-write queue")
}

/// Binds the tables to a migration, or makes sure that they are.
pub(super) async fn claim(connection: &mut SqliteConnection, migration: &str) -> Result<()> {
    sqlx::query(
        "INSERT INTO zdm_queue (id, migration, stamps_below, newest_id) VALUES (1, ?, 1, 0) ON CONFLICT (id) DO NOTHING",
    )
    .bind(migration.to_owned())
    .execute(&mut *connection)
    .await
    .map_err(failed)?;
    let owner: String =
        sqlx::query_scalar("SELECT migration FROM zdm_queue").fetch_one(connection).await.map_err(failed)?;
    if owner == migration {
        return Ok(());
    }
    let message = format!(
        "the queue belongs to the migration {owner:?}, not to {migration:?}: open another database file for it, or \
         finish that migration and remove its bookkeeping"
    );
    Err(Error::new(Kind::Damaged, message))
}

type EntryRow = (i64, Vec<u8>, i64, bool, i64, bool, i64, Option<String>);
type TaintRow = (i64, Option<Vec<u8>>, Option<Vec<u8>>, i64, String);

pub(super) async fn read(connection: &mut SqliteConnection) -> Result<Kept> {
    let rows: Vec<EntryRow> = sqlx::query_as(
        "SELECT id, touch, epoch, new_to_old, opened_at, parked, attempts, last_error FROM zdm_queue_entry ORDER BY id",
    )
    .fetch_all(&mut *connection)
    .await
    .map_err(failed)?;
    let mut entries = Vec::with_capacity(rows.len());
    for (id, touch, epoch, new_to_old, opened_at, parked, attempts, last_error) in rows {
        let touch = Touch::read_from(&touch)
            .map_err(|error| error.context(format_args!("the queue's entry {id}")))?;
        entries.push(Entry {
            id: EntryId(id.cast_unsigned()),
            touch,
            state: if parked { EntryState::Parked } else { EntryState::Released },
            epoch: Epoch(epoch.cast_unsigned()),
            direction: if new_to_old { Direction::NewToOld } else { Direction::OldToNew },
            opened_at: opened_at.cast_unsigned(),
            attempts: u32::try_from(attempts).unwrap_or(u32::MAX),
            last_error,
        });
    }
    let rows: Vec<TaintRow> =
        sqlx::query_as("SELECT id, above, up_to, since, reason FROM zdm_queue_taint ORDER BY id")
            .fetch_all(&mut *connection)
            .await
            .map_err(failed)?;
    let bound = |bytes: Option<Vec<u8>>| bytes.as_deref().map(KeyBytes::from_slice);
    let taint = |(id, above, up_to, since, reason): TaintRow| Taint {
        id: TaintId(id.cast_unsigned()),
        range: KeyRange { after: bound(above), up_to: bound(up_to) },
        since: since.cast_unsigned(),
        reason,
    };
    let (stamps_below, newest_id): (i64, i64) =
        sqlx::query_as("SELECT stamps_below, newest_id FROM zdm_queue")
            .fetch_one(connection)
            .await
            .map_err(failed)?;
    Ok(Kept {
        entries,
        taints: rows.into_iter().map(taint).collect(),
        stamps_below: stamps_below.cast_unsigned(),
        newest_id: EntryId(newest_id.cast_unsigned()),
    })
}

/// Applies records in their order: of several about one entry the last one counts.
pub(super) async fn apply(connection: &mut SqliteConnection, records: &[Record]) -> Result<()> {
    let mut entries: BTreeMap<EntryId, Option<&Entry>> = BTreeMap::new();
    let mut stamps_below = None;
    for record in records {
        match record {
            Record::Put(entry) => drop(entries.insert(entry.id, Some(entry))),
            Record::Remove(id) => drop(entries.insert(*id, None)),
            Record::PutTaint(taint) => put_taint(connection, taint).await?,
            Record::RemoveTaint(id) => {
                sqlx::query("DELETE FROM zdm_queue_taint WHERE id = ?")
                    .bind(id.0.cast_signed())
                    .execute(&mut *connection)
                    .await
                    .map_err(failed)?;
            }
            Record::Stamps(below) => stamps_below = stamps_below.max(Some(*below)),
        }
    }
    let puts: Vec<_> = entries.values().copied().flatten().collect();
    for chunk in pieces(&puts) {
        put_entries(connection, chunk).await?;
    }
    let removed: Vec<_> = entries.iter().filter(|(_, entry)| entry.is_none()).map(|(id, _)| *id).collect();
    for chunk in pieces(&removed) {
        let marks = vec!["?"; chunk.len()].join(",");
        let mut query =
            sqlx::query(AssertSqlSafe(format!("DELETE FROM zdm_queue_entry WHERE id IN ({marks})")));
        for id in chunk {
            query = query.bind(id.0.cast_signed());
        }
        query.execute(&mut *connection).await.map_err(failed)?;
    }
    if stamps_below.is_some() || !puts.is_empty() {
        let newest = puts.iter().map(|entry| entry.id.0).max().unwrap_or_default();
        sqlx::query(
            "UPDATE zdm_queue SET stamps_below = max(stamps_below, ?), newest_id = max(newest_id, ?)",
        )
        .bind(stamps_below.unwrap_or_default().cast_signed())
        .bind(newest.cast_signed())
        .execute(connection)
        .await
        .map_err(failed)?;
    }
    Ok(())
}

async fn put_entries(connection: &mut SqliteConnection, entries: &[&Entry]) -> Result<()> {
    let rows = vec!["(?, ?, ?, ?, ?, ?, ?, ?)"; entries.len()].join(",");
    let sql = format!(
        "INSERT INTO zdm_queue_entry (id, touch, epoch, new_to_old, opened_at, parked, attempts, last_error) \
         VALUES {rows} ON CONFLICT (id) DO UPDATE SET touch = excluded.touch, parked = excluded.parked, \
         attempts = excluded.attempts, last_error = excluded.last_error"
    );
    let mut query = sqlx::query(AssertSqlSafe(sql));
    for entry in entries {
        let mut touch = Vec::new();
        entry.touch.write_to(&mut touch);
        query = query
            .bind(entry.id.0.cast_signed())
            .bind(touch)
            .bind(entry.epoch.0.cast_signed())
            .bind(entry.direction == Direction::NewToOld)
            .bind(entry.opened_at.cast_signed())
            .bind(entry.state == EntryState::Parked)
            .bind(entry.attempts)
            .bind(entry.last_error.clone());
    }
    query.execute(connection).await.map_err(failed)?;
    Ok(())
}

async fn put_taint(connection: &mut SqliteConnection, taint: &Taint) -> Result<()> {
    let bound = |key: &Option<KeyBytes>| key.as_ref().map(|key| key.as_slice().to_vec());
    sqlx::query("INSERT INTO zdm_queue_taint (id, above, up_to, since, reason) VALUES (?, ?, ?, ?, ?)")
        .bind(taint.id.0.cast_signed())
        .bind(bound(&taint.range.after))
        .bind(bound(&taint.range.up_to))
        .bind(taint.since.cast_signed())
        .bind(taint.reason.clone())
        .execute(connection)
        .await
        .map_err(failed)?;
    Ok(())
}
