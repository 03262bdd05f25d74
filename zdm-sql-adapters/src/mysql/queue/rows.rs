use sqlx::AssertSqlSafe;
use sqlx::mysql::{MySqlConnection, MySqlRow};
use zdm_core::error::{Error, Result};
use zdm_core::queue::{Direction, Entry, EntryId, EntryState, Epoch, Touch};

use super::literal;
use crate::mysql::classify;
use crate::shared_queue::NewEntry;

/// Rows of one INSERT or of one list.
pub(super) const MOST_ROWS: usize = 2_000;

pub(super) fn failed(error: sqlx::Error) -> Error {
    classify(error, "the tables of the shared queue")
}

/// Runs statements without parameters; returns how many rows they changed.
pub(super) async fn run(connection: &mut MySqlConnection, sql: String) -> Result<u64> {
    use sqlx::Executor;
    let done = connection.execute(sqlx::raw_sql(AssertSqlSafe(sql))).await.map_err(failed)?;
    Ok(done.rows_affected())
}

/// All rows of a query without parameters.
pub(super) async fn query(connection: &mut MySqlConnection, sql: String) -> Result<Vec<MySqlRow>> {
    use sqlx::Executor;
    connection.fetch_all(sqlx::raw_sql(AssertSqlSafe(sql))).await.map_err(failed)
}

pub(super) fn get<'r, T>(row: &'r MySqlRow, column: usize) -> Result<T>
where
    T: sqlx::Decode<'r, sqlx::MySql> + sqlx::Type<sqlx::MySql>,
{
    use sqlx::Row;
    row.try_get(column).map_err(failed)
}

/// Draws `count` numbers; returns the first.
pub(super) async fn draw(connection: &mut MySqlConnection, counter: &str, count: i64) -> Result<i64> {
    let sql =
        format!("UPDATE zdm_counter SET value = LAST_INSERT_ID(value + {count}) WHERE name = '{counter}'");
    run(connection, sql).await?;
    let row = query(connection, "SELECT CAST(LAST_INSERT_ID() AS SIGNED)".to_owned()).await?;
    let last: i64 = get(row.first().ok_or_else(|| failed(sqlx::Error::RowNotFound))?, 0)?;
    Ok(last - count + 1)
}

/// The columns that [`entry`] reads.
pub(super) const ENTRY: &str =
    "owner, id, touch, epoch, new_to_old, opened_at, parked, attempts, CAST(last_error AS BINARY)";

/// The owner and the entry of a row of [`ENTRY`].
pub(super) fn entry(row: &MySqlRow) -> Result<(i64, Entry)> {
    let id: i64 = get(row, 1)?;
    let touch: Vec<u8> = get(row, 2)?;
    let touch =
        Touch::read_from(&touch).map_err(|error| error.context(format_args!("the queue's entry {id}")))?;
    let last_error: Option<Vec<u8>> = get(row, 8)?;
    let entry = Entry {
        id: EntryId(id.cast_unsigned()),
        touch,
        state: if get(row, 6)? { EntryState::Parked } else { EntryState::Released },
        epoch: Epoch(get::<i64>(row, 3)?.cast_unsigned()),
        direction: if get(row, 4)? { Direction::NewToOld } else { Direction::OldToNew },
        opened_at: get::<i64>(row, 5)?.cast_unsigned(),
        attempts: u32::try_from(get::<i32>(row, 7)?).unwrap_or_default(),
        last_error: last_error.map(|text| String::from_utf8_lossy(&text).into_owned()),
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

/// Inserts rows. Those that are there stay as they are.
pub(super) async fn insert(connection: &mut MySqlConnection, owner: i64, entries: &[NewEntry]) -> Result<()> {
    for chunk in entries.chunks(MOST_ROWS) {
        let mut sql = String::with_capacity(120 + chunk.len() * 120);
        sql.push_str(
            "INSERT INTO zdm_queue_entry (owner, id, touch, epoch, new_to_old, opened_at, parked, attempts, last_error) VALUES ",
        );
        literal::list(&mut sql, chunk, |sql, entry| {
            sql.push('(');
            literal::number(sql, owner);
            sql.push(',');
            literal::number(sql, entry.id.0);
            sql.push(',');
            literal::bytes(sql, Some(&entry.touch));
            sql.push(',');
            literal::number(sql, entry.epoch.0);
            sql.push_str(if entry.direction == Direction::NewToOld { ",1," } else { ",0," });
            literal::number(sql, entry.opened_at);
            sql.push_str(if entry.parked.is_some() { ",1,1," } else { ",0,0," });
            literal::text(sql, entry.parked.as_deref());
            sql.push(')');
        });
        sql.push_str(" ON DUPLICATE KEY UPDATE owner = owner");
        run(connection, sql).await?;
    }
    Ok(())
}
