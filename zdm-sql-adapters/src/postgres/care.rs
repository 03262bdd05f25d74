//! Changes that do not pass as they are: unique values that move between rows, and the name of the record
//! that does not fit.

use std::collections::HashSet;

use sqlx::AssertSqlSafe;
use sqlx::postgres::PgConnection;
use zdm_core::error::{Error, Kind, Result};
use zdm_core::key::KeyBytes;

use super::TableStore;
use super::apply::{Batch, Chosen, delete, is_about_a_row, run, upsert};
use super::classify::{classify, database_error};
use super::session;
use super::shape::{Collation, Index, quoted};
use super::statements::{Field, Table};
use super::store::fields;
use super::wire::{Rows, arguments};
use crate::table::RowMapping;

impl<M: RowMapping> TableStore<M> {
    /// Applies changes whose unique values may have to move between the rows, or fails naming the record
    /// that does not fit.
    ///
    /// All rows of the batch are first moved aside: their unique columns get NULL or temporary values, so
    /// that every value they held is free. What conflicts then is held by a record outside the batch.
    pub(super) async fn apply_with_care(
        &self,
        connection: &mut PgConnection,
        batch: &Batch,
        chosen: &Chosen,
    ) -> Result<()> {
        self.check_at_once(connection).await?;
        self.move_aside(connection, &batch.puts, &chosen.puts).await?;
        self.move_aside(connection, &batch.deletes, &chosen.deletes).await?;
        if let Some((_, error)) = self.put_rows(connection, &batch.puts, &chosen.puts, true).await?.pop() {
            return Err(error);
        }
        delete(connection, self.table(), &batch.deletes, &chosen.deletes).await
    }

    /// Loads what fits. Returns the places of the rows that do not, each with the reason.
    ///
    /// A row that is left out keeps what it held before, which may push out another one. So each round
    /// starts from the same point without the rows that failed before, until a round has no new one.
    pub(super) async fn load_with_care(
        &self,
        connection: &mut PgConnection,
        batch: &Batch,
        superseded: &HashSet<KeyBytes>,
    ) -> Result<Vec<(usize, Error)>> {
        self.check_at_once(connection).await?;
        let mut rejected: Vec<(usize, Error)> = Vec::new();
        let mut places = batch.without(superseded).puts;
        loop {
            savepoint(connection, "SAVEPOINT zdm_round").await?;
            let moved = self.move_aside(connection, &batch.puts, &places).await?;
            let failed = self.put_rows(connection, &batch.puts, &places, false).await?;
            places.retain(|place| failed.iter().all(|(failed, _)| failed != place));
            let done = failed.is_empty() || !moved;
            rejected.extend(failed);
            if done {
                savepoint(connection, "RELEASE SAVEPOINT zdm_round").await?;
                rejected.sort_by_key(|(place, _)| *place);
                return Ok(rejected);
            }
            savepoint(connection, "ROLLBACK TO SAVEPOINT zdm_round; RELEASE SAVEPOINT zdm_round").await?;
        }
    }

    /// What waits for the COMMIT would name no row.
    async fn check_at_once(&self, connection: &mut PgConnection) -> Result<()> {
        if self.table().shape.deferrable {
            savepoint(connection, "SET CONSTRAINTS ALL IMMEDIATE").await?;
        }
        Ok(())
    }

    /// Puts rows: all at once, and halves of what does not pass, down to the rows that do not. Returns
    /// their places, each with the reason; with `first`, only the first one, and the rest is not tried.
    async fn put_rows(
        &self,
        connection: &mut PgConnection,
        rows: &Rows,
        places: &[usize],
        first: bool,
    ) -> Result<Vec<(usize, Error)>> {
        let mut rejected: Vec<(usize, Error)> = Vec::new();
        let mut pending = places.to_vec();
        let mut narrowed = false;
        loop {
            let before = pending.len();
            let mut orphans: Vec<(usize, Error)> = Vec::new();
            let mut stack = vec![std::mem::take(&mut pending)];
            while let Some(chunk) = stack.pop() {
                if chunk.is_empty() {
                    continue;
                }
                savepoint(connection, "SAVEPOINT zdm_try").await?;
                let Err(error) = upsert(connection, self.table(), rows, &chunk).await else {
                    savepoint(connection, "RELEASE SAVEPOINT zdm_try").await?;
                    continue;
                };
                if !is_about_a_row(&error) {
                    return Err(error);
                }
                savepoint(connection, "ROLLBACK TO SAVEPOINT zdm_try; RELEASE SAVEPOINT zdm_try").await?;
                if let [place] = chunk[..] {
                    let error = self.explained(connection, rows, place, error).await?.not_applied();
                    if error.kind() == Kind::MissingReference {
                        orphans.push((place, error));
                        continue;
                    }
                    rejected.push((place, error));
                    if first {
                        return Ok(rejected);
                    }
                } else {
                    let (left, right) = chunk.split_at(chunk.len() / 2);
                    stack.push(right.to_vec());
                    stack.push(left.to_vec());
                }
            }
            if orphans.is_empty() {
                return Ok(rejected);
            }
            // Parents may have come meanwhile, and rows that refer to each other in a circle must go together.
            if orphans.len() < before {
                pending = orphans.iter().map(|(place, _)| *place).collect();
                continue;
            }
            let left = if narrowed { Vec::new() } else { self.with_parents(rows, &orphans) };
            narrowed = true;
            let given_up: Vec<_> = orphans.into_iter().filter(|(place, _)| !left.contains(place)).collect();
            rejected.extend(given_up);
            if left.is_empty() || first && !rejected.is_empty() {
                return Ok(rejected);
            }
            pending = left;
        }
    }

    /// The rows whose parents in this very table are among them.
    fn with_parents(&self, rows: &Rows, orphans: &[(usize, Error)]) -> Vec<usize> {
        let table = self.table();
        let shape = &table.shape;
        let at = |name: &String| table.fields.iter().position(|field| field.column.name == *name);
        let own: Vec<(Vec<usize>, Vec<usize>)> = shape
            .foreign_keys
            .iter()
            .filter(|key| key.schema == shape.schema && key.parent == shape.table)
            .filter_map(|key| {
                key.columns.iter().map(|(own, parent)| Some((at(own)?, at(parent)?))).collect::<Option<_>>()
            })
            .collect();
        if own.is_empty() {
            return Vec::new();
        }
        let values = |place: usize, columns: &[usize]| -> Vec<Vec<u8>> {
            let all: Vec<_> = rows.fields(place).collect();
            columns.iter().map(|column| all[*column].to_vec()).collect()
        };
        let null = |field: &Vec<u8>| field.first() == Some(&0xFF);
        let mut left: Vec<usize> = orphans.iter().map(|(place, _)| *place).collect();
        loop {
            let before = left.len();
            for (children, parents) in &own {
                let there: HashSet<_> = left.iter().map(|place| values(*place, parents)).collect();
                left.retain(|place| {
                    let wanted = values(*place, children);
                    wanted.iter().any(null) || there.contains(&wanted)
                });
            }
            if left.len() == before {
                return left;
            }
        }
    }

    /// The error of one row, with its key; a conflict names its holder.
    async fn explained(
        &self,
        connection: &mut PgConnection,
        rows: &Rows,
        place: usize,
        error: Error,
    ) -> Result<Error> {
        let table = self.table();
        let decoded: Vec<_> = table
            .key()
            .iter()
            .zip(rows.fields(place))
            .map(|(field, raw)| {
                field.codec.decode(raw.get(4..)).map_or_else(|e| e, |value| value.to_string())
            })
            .collect();
        let error = error.context(format_args!("the record {}", decoded.join(", ")));
        if error.kind() != Kind::Conflict {
            return Ok(error);
        }
        let named = std::error::Error::source(&error)
            .and_then(|source| source.downcast_ref::<sqlx::Error>())
            .and_then(|error| database_error(error)?.constraint().map(str::to_owned));
        for unique in table.contended() {
            if named.as_ref().is_some_and(|named| *named != unique.name) {
                continue;
            }
            let columns: Option<Vec<&Field>> = unique
                .parts
                .iter()
                .map(|part| {
                    let (name, ..) = part.as_ref()?;
                    table.fields.iter().find(|field| field.column.name == *name)
                })
                .collect();
            let Some(columns) = columns else { continue };
            let arrays = rows.arrays(&[place], table.types(table.stride()));
            let found = sqlx::query_with(AssertSqlSafe(table.holder(&columns)), arguments(arrays)?)
                .fetch_optional(&mut *connection)
                .await
                .map_err(|error| classify(error, &format!("looking for the holder in {}", unique.name)))?;
            if let Some(found) = found {
                let holder = self.key_of(&mut fields(&found), &mut Vec::new())?;
                let message =
                    format!("the value in the unique index {} is held by the record {holder:?}", unique.name);
                return Ok(error.context(message).held_by(KeyBytes::of(&holder)));
            }
        }
        Ok(error)
    }

    /// Gives the unique columns of rows other values. Whether it did.
    async fn move_aside(&self, connection: &mut PgConnection, rows: &Rows, places: &[usize]) -> Result<bool> {
        let table = self.table();
        let mut columns: Vec<(&str, String)> =
            table.contended().filter_map(|unique| movable(table, unique)).collect();
        columns.sort_unstable();
        columns.dedup_by(|one, other| one.0 == other.0);
        if columns.is_empty() || places.is_empty() {
            return Ok(false);
        }
        let set: Vec<_> =
            columns.iter().map(|(column, temporary)| format!("{} = {temporary}", quoted(column))).collect();
        savepoint(connection, "SAVEPOINT zdm_aside").await?;
        let Err(error) = run(connection, table, &table.aside(&set), rows, places, table.key_len).await else {
            savepoint(connection, "RELEASE SAVEPOINT zdm_aside").await?;
            return Ok(true);
        };
        let error = classify(error, &format!("moving unique values of table {} aside", table.name()));
        if !is_about_a_row(&error) {
            return Err(error);
        }
        // A check or a foreign key holds them where they are. Many changes pass all the same.
        savepoint(connection, "ROLLBACK TO SAVEPOINT zdm_aside; RELEASE SAVEPOINT zdm_aside").await?;
        Ok(false)
    }
}

/// The column of a unique index that can be moved aside, one that the final put writes again, and the value
/// that it gets meanwhile: NULL, which no other row is in the way of, or a random one.
fn movable<'a>(table: &'a Table, unique: &Index) -> Option<(&'a str, String)> {
    let parts = unique.parts.iter().flatten();
    let written: Vec<&Field> = parts
        .filter_map(|(name, ..)| {
            table.fields[table.key_len..].iter().find(|field| field.column.name == *name)
        })
        .collect();
    // A foreign key that follows the column would let go of it when it became NULL.
    let alike = |name: &String| {
        let mut indexes = table.shape.indexes.iter().filter(|index| index.unique && index.nulls_alike);
        indexes.any(|index| index.parts.iter().flatten().any(|(own, ..)| own == name))
    };
    let free = |field: &&&Field| {
        let name = &field.column.name;
        !field.column.not_null && !table.shape.referenced.contains(name) && !alike(name)
    };
    if let Some(field) = written.iter().find(free) {
        return Some((&field.column.name, "NULL".to_owned()));
    }
    let temporary = |field: &Field| match field.column.collation {
        Collation::Loose => None,
        _ => field.codec.native.temporary(),
    };
    written.into_iter().find_map(|field| Some((field.column.name.as_str(), temporary(field)?)))
}

pub(super) async fn savepoint(connection: &mut PgConnection, sql: &'static str) -> Result<()> {
    session::run(connection, sql).await.map_err(|error| classify(error, sql))
}
