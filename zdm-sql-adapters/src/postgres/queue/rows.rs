use std::time::Duration;

use sqlx::AssertSqlSafe;
use sqlx::postgres::{PgConnection, PgRow};
use zdm_core::error::{Error, Result};
use zdm_core::queue::{Direction, Entry, EntryId, EntryState, Epoch, Touch};

use crate::postgres::classify;
use crate::shared_queue::NewEntry;

pub(super) fn failed(error: sqlx::Error) -> Error {
    classify(error, "the tables of the shared queue")
}

pub(super) fn get<'r, T>(row: &'r PgRow, column: usize) -> Result<T>
where
    T: sqlx::Decode<'r, sqlx::Postgres> + sqlx::Type<sqlx::Postgres>,
{
    use sqlx::Row;
    row.try_get(column).map_err(failed)
}

/// What `$n * interval '1 microsecond'` takes.
pub(super) fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX / 4)
}

/// PostgreSQL takes every character in a text but one.
pub(super) fn storable(text: &str) -> String {
    text.replace('\0', "\u{2400}")
}

pub(super) fn signed(ids: impl IntoIterator<Item = EntryId>) -> Vec<i64> {
    ids.into_iter().map(|id| id.0.cast_signed()).collect()
}

/// The columns that [`entry`] reads.
pub(super) const ENTRY: &str = "owner, id, touch, epoch, new_to_old, opened_at, parked, attempts, last_error";

/// The owner and the entry of a row of [`ENTRY`].
pub(super) fn entry(row: &PgRow) -> Result<(i64, Entry)> {
    let id: i64 = get(row, 1)?;
    let touch = Touch::read_from(get(row, 2)?)
        .map_err(|error| error.context(format_args!("the queue's entry {id}")))?;
    let entry = Entry {
        id: EntryId(id.cast_unsigned()),
        touch,
        state: if get(row, 6)? { EntryState::Parked } else { EntryState::Released },
        epoch: Epoch(get::<i64>(row, 3)?.cast_unsigned()),
        direction: if get(row, 4)? { Direction::NewToOld } else { Direction::OldToNew },
        opened_at: get::<i64>(row, 5)?.cast_unsigned(),
        attempts: u32::try_from(get::<i32>(row, 7)?).unwrap_or_default(),
        last_error: get(row, 8)?,
    };
    Ok((get(row, 0)?, entry))
}

/// An entry that this instance has, as a row.
pub(super) fn as_new(entry: &Entry) -> NewEntry {
    let mut touch = Vec::new();
    entry.touch.write_to(&mut touch);
    let parked = (entry.state == EntryState::Parked).then(|| entry.last_error.clone().unwrap_or_default());
    NewEntry {
        id: entry.id,
        touch,
        epoch: entry.epoch,
        direction: entry.direction,
        opened_at: entry.opened_at,
        parked,
    }
}

/// Rows by column, as arrays.
pub(super) struct Columns {
    ids: Vec<i64>,
    touches: Vec<Vec<u8>>,
    epochs: Vec<i64>,
    new_to_old: Vec<bool>,
    opened_at: Vec<i64>,
    parked: Vec<Option<String>>,
}

impl Columns {
    pub(super) fn of(entries: &[NewEntry]) -> Self {
        Self {
            ids: signed(entries.iter().map(|entry| entry.id)),
            touches: entries.iter().map(|entry| entry.touch.clone()).collect(),
            epochs: entries.iter().map(|entry| entry.epoch.0.cast_signed()).collect(),
            new_to_old: entries.iter().map(|entry| entry.direction == Direction::NewToOld).collect(),
            opened_at: entries.iter().map(|entry| entry.opened_at.cast_signed()).collect(),
            parked: entries.iter().map(|entry| entry.parked.as_deref().map(storable)).collect(),
        }
    }

    /// Inserts the rows in one statement. `again`: they may be there already, and stay as they are then. Looking
    /// for that doubles what a row costs the server.
    pub(super) async fn insert(
        &self,
        connection: &mut PgConnection,
        owner: i64,
        again: bool,
    ) -> sqlx::Result<()> {
        let tolerant = if again { " ON CONFLICT (owner, id) DO NOTHING" } else { "" };
        sqlx::query(AssertSqlSafe(format!("{INSERT}{tolerant}")))
            .bind(owner)
            .bind(&self.ids)
            .bind(&self.touches)
            .bind(&self.epochs)
            .bind(&self.new_to_old)
            .bind(&self.opened_at)
            .bind(&self.parked)
            .execute(connection)
            .await?;
        Ok(())
    }
}

const INSERT: &str = "INSERT INTO zdm_queue_entry \
    (owner, id, touch, epoch, new_to_old, opened_at, parked, attempts, last_error) \
    SELECT $1, id, touch, epoch, new_to_old, opened_at, error IS NOT NULL, \
    CASE WHEN error IS NULL THEN 0 ELSE 1 END, error \
    FROM unnest($2::bigint[], $3::bytea[], $4::bigint[], $5::boolean[], $6::bigint[], $7::text[]) \
    AS new (id, touch, epoch, new_to_old, opened_at, error)";

/// Inserts rows within a transaction. Those that are there stay as they are.
pub(super) async fn insert(connection: &mut PgConnection, owner: i64, entries: &[NewEntry]) -> Result<()> {
    Columns::of(entries).insert(connection, owner, true).await.map_err(failed)
}
