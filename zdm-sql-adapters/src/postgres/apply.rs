//! Changes of rows within a write transaction, as fast as they go.

use std::collections::HashSet;

use sqlx::AssertSqlSafe;
use sqlx::postgres::PgConnection;
use zdm_core::error::{Certainty, Error, Kind, Result};
use zdm_core::key::KeyBytes;

use super::classify::classify;
use super::statements::Table;
use super::wire::{Rows, arguments};

/// Rows that one statement writes.
const MOST_ROWS: usize = 8_192;

/// Changes as encoded rows: whole rows to put, keys to delete.
#[derive(Debug, Default)]
pub(super) struct Batch {
    pub(super) puts: Rows,
    pub(super) deletes: Rows,
    /// The encoded keys: of the puts, then of the deletes.
    pub(super) keys: Vec<KeyBytes>,
}

/// Which changes of a batch are meant.
#[derive(Clone, Debug)]
pub(super) struct Chosen {
    pub(super) puts: Vec<usize>,
    pub(super) deletes: Vec<usize>,
}

impl Batch {
    /// Every change.
    pub(super) fn all(&self) -> Chosen {
        Chosen { puts: (0..self.puts.len()).collect(), deletes: (0..self.deletes.len()).collect() }
    }

    /// Every change but those of some keys.
    pub(super) fn without(&self, left_out: &HashSet<KeyBytes>) -> Chosen {
        let mut chosen = self.all();
        if !left_out.is_empty() {
            chosen.puts.retain(|at| !left_out.contains(&self.keys[*at]));
            chosen.deletes.retain(|at| !left_out.contains(&self.keys[self.puts.len() + at]));
        }
        chosen
    }

    /// For each key whether it is deleted.
    pub(super) fn deleted(&self) -> impl Iterator<Item = bool> + use<> {
        std::iter::repeat_n(false, self.puts.len()).chain(std::iter::repeat_n(true, self.deletes.len()))
    }

    /// Applies the chosen changes with as few statements as there can be.
    ///
    /// Puts come before deletes: a row that leaves its parent must have left before the parent goes, or ON
    /// DELETE CASCADE would take it along.
    pub(super) async fn apply(
        &self,
        connection: &mut PgConnection,
        table: &Table,
        chosen: &Chosen,
    ) -> Result<()> {
        upsert(connection, table, &self.puts, &chosen.puts).await?;
        delete(connection, table, &self.deletes, &chosen.deletes).await
    }

    /// Whether the changes may pass row by row, or the failing row can be named that way.
    pub(super) fn deserves_care(error: &Error) -> bool {
        error.certainty() == Certainty::NotApplied && is_about_a_row(error)
    }
}

/// Whether an error may be that of one row among many.
pub(super) fn is_about_a_row(error: &Error) -> bool {
    matches!(error.kind(), Kind::Conflict | Kind::Rejected | Kind::MissingReference)
}

/// Upserts whole rows.
pub(super) async fn upsert(
    connection: &mut PgConnection,
    table: &Table,
    rows: &Rows,
    places: &[usize],
) -> Result<()> {
    run(connection, table, &table.upsert, rows, places, table.stride())
        .await
        .map_err(|error| writing(error, table))
}

/// Deletes rows by their keys.
pub(super) async fn delete(
    connection: &mut PgConnection,
    table: &Table,
    keys: &Rows,
    places: &[usize],
) -> Result<()> {
    run(connection, table, &table.delete, keys, places, table.key_len)
        .await
        .map_err(|error| classify(error, &format!("deleting from table {}", table.name())))
}

pub(super) fn writing(error: sqlx::Error, table: &Table) -> Error {
    classify(error, &format!("writing to table {}", table.name()))
}

/// Runs a statement that takes the first columns of rows as arrays, and keeps it prepared.
pub(super) async fn run(
    connection: &mut PgConnection,
    table: &Table,
    sql: &str,
    rows: &Rows,
    places: &[usize],
    columns: usize,
) -> sqlx::Result<()> {
    run_as(connection, table, sql, rows, places, columns, true).await
}

/// As [`run`], for a statement that will not come again.
pub(super) async fn run_once(
    connection: &mut PgConnection,
    table: &Table,
    sql: &str,
    rows: &Rows,
    places: &[usize],
) -> sqlx::Result<()> {
    run_as(connection, table, sql, rows, places, table.stride(), false).await
}

async fn run_as(
    connection: &mut PgConnection,
    table: &Table,
    sql: &str,
    rows: &Rows,
    places: &[usize],
    columns: usize,
    again: bool,
) -> sqlx::Result<()> {
    for chunk in places.chunks(MOST_ROWS) {
        let arguments = arguments(rows.arrays(chunk, table.types(columns)))
            .map_err(|error| sqlx::Error::Encode(Box::new(error)))?;
        let query = sqlx::query_with(AssertSqlSafe(sql.to_owned()), arguments).persistent(again);
        query.execute(&mut *connection).await?;
    }
    Ok(())
}
