//! Changes of rows within a write transaction, as fast as they go.

use std::collections::HashSet;
use std::sync::Arc;

use sqlx::AssertSqlSafe;
use sqlx::mysql::MySqlConnection;
use zdm_core::error::{Certainty, Error, Kind, Result};
use zdm_core::key::KeyBytes;

use super::arguments::{arguments, size};
use super::classify::classify;
use super::statements::Table;
use crate::table::{RowValues, Value};

/// Statements longer than this gain nothing.
const LONGEST: usize = 4 << 20;

/// Changes as encoded values: whole rows to put, keys to delete.
#[derive(Clone, Debug)]
pub(super) struct Batch {
    pub(super) stride: usize,
    pub(super) key_len: usize,
    pub(super) puts: RowValues,
    pub(super) deletes: Vec<Value>,
    /// The encoded keys: of the puts, then of the deletes.
    pub(super) keys: Vec<KeyBytes>,
}

impl Batch {
    pub(super) fn new(table: &Table) -> Self {
        let (stride, key_len) = (table.stride(), table.key_len);
        Self { stride, key_len, puts: RowValues::default(), deletes: Vec::new(), keys: Vec::new() }
    }

    /// For each key whether it is deleted.
    pub(super) fn deleted(&self) -> impl Iterator<Item = bool> + use<> {
        let (puts, deletes) = (self.puts.values.len() / self.stride, self.deletes.len() / self.key_len);
        std::iter::repeat_n(false, puts).chain(std::iter::repeat_n(true, deletes))
    }

    /// The batch without some keys.
    pub(super) fn without(self, left_out: &HashSet<KeyBytes>) -> Self {
        if left_out.is_empty() {
            return self;
        }
        let puts = self.puts.values.len() / self.stride;
        let keep = |keys: &[KeyBytes], values: Vec<Value>, stride: usize| -> Vec<Value> {
            let mut values = values.into_iter();
            let mut kept = Vec::with_capacity(values.len());
            for key in keys {
                let row = values.by_ref().take(stride);
                if left_out.contains(key) { row.for_each(drop) } else { kept.extend(row) }
            }
            kept
        };
        let (put_keys, delete_keys) = self.keys.split_at(puts);
        Self {
            puts: keep(put_keys, self.puts.values, self.stride).into(),
            deletes: keep(delete_keys, self.deletes, self.key_len),
            keys: self.keys.iter().filter(|key| !left_out.contains(*key)).cloned().collect(),
            ..self
        }
    }

    /// Applies everything with as few statements as there can be.
    ///
    /// Puts come before deletes: a row that leaves its parent must have left before the parent goes,
    /// or ON DELETE CASCADE would take it along.
    pub(super) async fn apply(
        self,
        connection: &mut MySqlConnection,
        table: &Table,
        packet: usize,
    ) -> Result<()> {
        upsert(connection, table, self.puts.values, packet).await?;
        delete(connection, table, &self.deletes).await
    }

    /// Whether the changes may pass row by row, or the failing row can be named that way.
    pub(super) fn deserves_care(error: &Error) -> bool {
        error.certainty() == Certainty::NotApplied
            && matches!(error.kind(), Kind::Conflict | Kind::Rejected | Kind::MissingReference)
    }

    pub(super) fn key_values(&self) -> impl Iterator<Item = &[Value]> {
        self.puts
            .values
            .chunks(self.stride)
            .map(|row| &row[..self.key_len])
            .chain(self.deletes.chunks(self.key_len))
    }
}

/// Upserts whole rows, in statements that the server takes.
pub(super) async fn upsert(
    connection: &mut MySqlConnection,
    table: &Table,
    rows: Vec<Value>,
    packet: usize,
) -> Result<()> {
    let (stride, most) = (table.stride(), (packet / 2).min(LONGEST));
    let mut rows = rows.into_iter();
    while rows.len() > 0 {
        let (mut count, mut bytes) = (0, 0);
        for row in rows.as_slice().chunks(stride) {
            let own: usize = row.iter().map(size).sum();
            if count > 0 && bytes + own > most {
                break;
            }
            (count, bytes) = (count + 1, bytes + own);
        }
        let chunk = rows.by_ref().take(count * stride).collect::<Vec<_>>();
        run(connection, table.upserts(count), stride, chunk)
            .await
            .map_err(|error| classify(error, &format!("writing to table {}", table.name())))?;
    }
    Ok(())
}

/// Deletes rows by their exact keys.
pub(super) async fn delete(connection: &mut MySqlConnection, table: &Table, keys: &[Value]) -> Result<()> {
    let count = keys.len() / table.key_len;
    let (parameters, stride) = if table.loose {
        let exact: Vec<Value> = keys.chunks(table.key_len).flat_map(|key| table.exact(key)).collect();
        let stride = exact.len() / count.max(1);
        (exact, stride)
    } else {
        (keys.to_vec(), table.key_len)
    };
    run(connection, table.deletes(count), stride, parameters)
        .await
        .map_err(|error| classify(error, &format!("deleting from table {}", table.name())))
}

async fn run(
    connection: &mut MySqlConnection,
    statements: impl Iterator<Item = (&Arc<str>, usize)> + Send,
    stride: usize,
    values: Vec<Value>,
) -> sqlx::Result<()> {
    let mut values = values.into_iter();
    for (sql, rows) in statements {
        execute(connection, sql, values.by_ref().take(rows * stride)).await?;
    }
    Ok(())
}

/// Runs a statement; how many rows it found.
pub(super) async fn execute(
    connection: &mut MySqlConnection,
    sql: &Arc<str>,
    parameters: impl IntoIterator<Item = Value>,
) -> sqlx::Result<u64> {
    let arguments = arguments(parameters).map_err(|error| sqlx::Error::Encode(Box::new(error)))?;
    let done = sqlx::query_with(AssertSqlSafe(Arc::clone(sql)), arguments).execute(connection).await?;
    Ok(done.rows_affected())
}
