//! Changes of rows within a write transaction.

use std::collections::HashSet;
use std::sync::Arc;

use sqlx::AssertSqlSafe;
use sqlx::sqlite::SqliteConnection;
use zdm_core::error::{Certainty, Error, Kind, Result};
use zdm_core::key::KeyBytes;

use super::TableStore;
use super::arguments::{arguments, value};
use super::classify::classify;
use super::shape::{Affinity, Shape, Unique, quoted};
use super::statements::Table;
use crate::table::{RowMapping, RowValues, Value};

/// Changes as values: whole rows to put, keys to delete.
#[derive(Clone, Debug)]
pub(super) struct Batch {
    stride: usize,
    key_len: usize,
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
    pub(super) async fn apply(self, connection: &mut SqliteConnection, table: &Table) -> Result<()> {
        defer_foreign_keys(connection, table).await?;
        upsert(connection, table, self.puts.values).await?;
        let keys = self.deletes.len() / self.key_len;
        run(connection, table.deletes(keys), self.key_len, self.deletes)
            .await
            .map_err(|error| classify(error, &format!("deleting from table {}", table.name())))
    }

    /// Whether the changes may pass row by row, or the failing row can be named that way.
    pub(super) fn deserves_care(error: &Error) -> bool {
        error.certainty() == Certainty::NotApplied
            && matches!(error.kind(), Kind::Conflict | Kind::Rejected | Kind::MissingReference)
    }

    fn key_values(&self) -> impl Iterator<Item = &[Value]> {
        self.puts
            .values
            .chunks(self.stride)
            .map(|row| &row[..self.key_len])
            .chain(self.deletes.chunks(self.key_len))
    }
}

/// Violations count at the COMMIT only, when all rows stand. Only where there are foreign keys: the pragma
/// makes SQLite compile every statement of the connection again, which for large ones takes longer than
/// running them.
pub(super) async fn defer_foreign_keys(connection: &mut SqliteConnection, table: &Table) -> Result<()> {
    if !table.shape.linked {
        return Ok(());
    }
    execute(connection, "PRAGMA defer_foreign_keys = ON").await
}

async fn execute(connection: &mut SqliteConnection, sql: &'static str) -> Result<()> {
    sqlx::query(sql).execute(connection).await.map_err(|error| classify(error, sql))?;
    Ok(())
}

/// Upserts whole rows.
pub(super) async fn upsert(connection: &mut SqliteConnection, table: &Table, rows: Vec<Value>) -> Result<()> {
    let count = rows.len() / table.stride();
    run(connection, table.upserts(count), table.stride(), rows)
        .await
        .map_err(|error| classify(error, &format!("writing to table {}", table.name())))
}

async fn run(
    connection: &mut SqliteConnection,
    statements: impl Iterator<Item = (&Arc<str>, usize)> + Send,
    stride: usize,
    values: Vec<Value>,
) -> sqlx::Result<()> {
    let mut values = values.into_iter();
    for (sql, rows) in statements {
        let arguments = arguments(values.by_ref().take(rows * stride))
            .map_err(|error| sqlx::Error::Encode(Box::new(error)))?;
        sqlx::query_with(AssertSqlSafe(Arc::clone(sql)), arguments).execute(&mut *connection).await?;
    }
    Ok(())
}

impl<M: RowMapping> TableStore<M> {
    /// Applies changes whose unique values may have to move between the rows, or fails naming the record
    /// that does not fit.
    ///
    /// All rows of the batch are first moved aside: their unique columns get temporary values, so that
    /// every value they held is free. What conflicts then is held by a record outside the batch.
    pub(super) async fn apply_with_care(
        &self,
        connection: &mut SqliteConnection,
        batch: Batch,
    ) -> Result<()> {
        defer_foreign_keys(connection, self.table()).await?;
        self.move_aside(connection, &batch).await?;
        for row in batch.puts.values.chunks(batch.stride) {
            self.put_row(connection, row.to_vec()).await?;
        }
        for key in batch.deletes.chunks(batch.key_len) {
            run(connection, self.table().deletes(1), batch.key_len, key.to_vec()).await.map_err(|error| {
                let key = shown(key);
                classify(error, &format!("deleting the record {key} of table {}", self.table().name()))
            })?;
        }
        Ok(())
    }

    /// Puts one row; a conflict names its holder.
    pub(super) async fn put_row(&self, connection: &mut SqliteConnection, row: Vec<Value>) -> Result<()> {
        let table = self.table();
        let result = run(connection, table.upserts(1), table.stride(), row.clone()).await;
        let Err(error) = result else { return Ok(()) };
        let key = shown(&row[..table.key_len]);
        let error = classify(error, &format!("writing the record {key} to table {}", table.name()));
        if error.kind() != Kind::Conflict {
            return Err(error);
        }
        match self.holder(connection, &row).await? {
            Some((unique, mut holder)) => {
                let message = format!("the value in {unique} is held by the record {}", shown(&holder));
                Err(error.context(message).held_by(self.key_bytes(&mut holder)?))
            }
            None => Err(error),
        }
    }

    pub(super) async fn move_aside(&self, connection: &mut SqliteConnection, batch: &Batch) -> Result<()> {
        let table = self.table();
        let mut columns: Vec<&str> = table.contended().filter_map(|unique| movable(table, unique)).collect();
        columns.sort_unstable();
        columns.dedup();
        if columns.is_empty() {
            return Ok(());
        }
        let set: Vec<_> = columns
            .iter()
            .map(|column| format!("{} = {}", quoted(column), temporary(&table.shape, column)))
            .collect();
        let sql: Arc<str> = format!(
            "UPDATE OR ABORT {} SET {} WHERE {}",
            quoted(table.name()),
            set.join(", "),
            table.key_is()
        )
        .into();
        // A temporary value need not pass the checks; the final one does.
        execute(connection, "PRAGMA ignore_check_constraints = ON").await?;
        let mut failed = None;
        for key in batch.key_values() {
            let query = sqlx::query_with(AssertSqlSafe(Arc::clone(&sql)), arguments(key.iter().cloned())?);
            if let Err(error) = query.execute(&mut *connection).await {
                failed =
                    Some(classify(error, &format!("moving unique values of table {} aside", table.name())));
                break;
            }
        }
        execute(connection, "PRAGMA ignore_check_constraints = OFF").await?;
        failed.map_or(Ok(()), Err)
    }

    /// The unique constraint that a row runs into, and the key of the row that holds the value.
    async fn holder(
        &self,
        connection: &mut SqliteConnection,
        row: &[Value],
    ) -> Result<Option<(String, Vec<Value>)>> {
        let table = self.table();
        for unique in table.contended() {
            let mut parameters = Vec::new();
            let clauses: Option<Vec<_>> = unique
                .parts
                .iter()
                .map(|part| {
                    let (name, collation) = part.as_ref()?;
                    let at = table.columns.iter().position(|column| column == name)?;
                    parameters.push(row[at].clone());
                    Some(format!("{} = ? COLLATE {}", quoted(name), quoted(collation)))
                })
                .collect();
            let Some(clauses) = clauses else { continue };
            let sql = format!(
                "SELECT {} FROM {} WHERE {} AND NOT ({}) LIMIT 1",
                table.key_names(),
                quoted(table.name()),
                clauses.join(" AND "),
                table.key_is()
            );
            parameters.extend_from_slice(&row[..table.key_len]);
            let found = sqlx::query_with(AssertSqlSafe(sql), arguments(parameters)?)
                .fetch_optional(&mut *connection)
                .await
                .map_err(|error| classify(error, &format!("looking for the holder in {}", unique.name)))?;
            if let Some(found) = found {
                let key = (0..table.key_len).map(|index| value(&found, index)).collect::<Result<_>>()?;
                return Ok(Some((unique.name.clone(), key)));
            }
        }
        Ok(None)
    }
}

/// The column of a unique constraint that can be moved aside: one that the final put writes again.
fn movable<'a>(table: &'a Table, unique: &Unique) -> Option<&'a str> {
    let parts = unique.parts.iter().flatten();
    let mut written =
        parts.filter_map(|(name, _)| table.columns[table.key_len..].iter().find(|own| *own == name));
    written.next().map(String::as_str)
}

/// An expression whose value no other row has, of a type that the column takes. Never NULL: a foreign
/// key that follows the column would let go of it.
fn temporary(shape: &Shape, column: &str) -> &'static str {
    const TEXT: &str = "'zdm-aside-' || lower(hex(randomblob(16)))";
    let column = shape.columns.iter().find(|own| own.name == column);
    let integer = shape.rowid.as_deref() == column.map(|column| column.name.as_str());
    match column {
        Some(_) if integer => "random()",
        Some(column) if shape.strict && column.declared.eq_ignore_ascii_case("ANY") => TEXT,
        Some(column) if shape.strict => match column.affinity {
            Affinity::Integer => "random()",
            Affinity::Real => "random() / 1024.0",
            Affinity::Blob => "randomblob(16)",
            Affinity::Text | Affinity::Numeric => TEXT,
        },
        _ => TEXT,
    }
}

fn shown(values: &[Value]) -> String {
    values.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}
