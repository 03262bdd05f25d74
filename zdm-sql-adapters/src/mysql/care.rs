//! Changes row by row: unique values that move between rows, parents before children, and the name of the
//! record that does not fit.

use std::sync::Arc;

use sqlx::AssertSqlSafe;
use sqlx::mysql::MySqlConnection;
use zdm_core::error::{Error, Kind, Result};

use super::TableStore;
use super::apply::{Batch, delete, execute};
use super::arguments::arguments;
use super::classify::classify;
use super::native::Native;
use super::shape::{Column, Index, quoted};
use super::statements::{Field, Table};
use crate::table::{RowMapping, Value};

impl<M: RowMapping> TableStore<M> {
    /// Applies changes whose unique values may have to move between the rows, or fails naming the record
    /// that does not fit.
    ///
    /// All rows of the batch are first moved aside: their unique columns get NULL or temporary values, so
    /// that every value they held is free. What conflicts then is held by a record outside the batch.
    pub(super) async fn apply_with_care(&self, connection: &mut MySqlConnection, batch: Batch) -> Result<()> {
        self.move_aside(connection, &batch).await?;
        let rows: Vec<&[Value]> = batch.puts.values.chunks(batch.stride).collect();
        if let Some((_, error)) = self.put_rows(connection, &rows, true).await?.pop() {
            return Err(error);
        }
        let table = self.table();
        let mut keys: Vec<&[Value]> = batch.deletes.chunks(batch.key_len).collect();
        // Children before their parents, in as many rounds as it takes.
        loop {
            let (mut left, mut failed) = (Vec::new(), None);
            for key in &keys {
                match delete(connection, table, key).await {
                    Ok(()) => {}
                    Err(error) if error.kind() == Kind::MissingReference => {
                        left.push(*key);
                        failed = Some(error.context(format_args!("the record {}", shown(key))));
                    }
                    Err(error) => return Err(error.context(format_args!("the record {}", shown(key)))),
                }
            }
            match failed {
                None => return Ok(()),
                Some(error) if left.len() == keys.len() => return Err(error),
                Some(_) => keys = left,
            }
        }
    }

    /// Puts rows, parents before their children. Returns the places of those that do not fit, each with the
    /// reason; with `first`, only the first one, and the rest is not tried.
    pub(super) async fn put_rows(
        &self,
        connection: &mut MySqlConnection,
        rows: &[&[Value]],
        first: bool,
    ) -> Result<Vec<(usize, Error)>> {
        let mut rejected = Vec::new();
        let mut pending: Vec<usize> = (0..rows.len()).collect();
        while !pending.is_empty() {
            let mut orphans = Vec::new();
            for &place in &pending {
                match self.put_row(connection, rows[place]).await {
                    Ok(()) => {}
                    Err(error) if error.kind() == Kind::MissingReference => orphans.push((place, error)),
                    Err(error) if matches!(error.kind(), Kind::Conflict | Kind::Rejected) => {
                        rejected.push((place, error.not_applied()));
                        if first {
                            return Ok(rejected);
                        }
                    }
                    Err(error) => return Err(error),
                }
            }
            if orphans.len() == pending.len() {
                rejected.append(&mut self.put_circle(connection, rows, orphans).await?);
                break;
            }
            pending = orphans.into_iter().map(|(place, _)| place).collect();
        }
        Ok(rejected)
    }

    /// Rows that may refer to each other: written without their references first, then with them. Rows that
    /// refer to none of these either are taken out again, and with them those that refer to them.
    async fn put_circle(
        &self,
        connection: &mut MySqlConnection,
        rows: &[&[Value]],
        orphans: Vec<(usize, Error)>,
    ) -> Result<Vec<(usize, Error)>> {
        let table = self.table();
        let references: Vec<usize> = table
            .shape
            .own_parents()
            .flat_map(|key| &key.columns)
            .filter_map(|(name, _)| table.fields.iter().position(|field| field.column.name == *name))
            .collect();
        let nullable = |at: &usize| *at >= table.key_len && !table.fields[*at].column.not_null;
        if references.is_empty() || !references.iter().all(nullable) {
            return Ok(orphans);
        }
        let (mut left, mut rejected) = (orphans, Vec::new());
        loop {
            savepoint(connection, "SAVEPOINT zdm_circle").await?;
            let mut failed = None;
            for with_references in [false, true] {
                for (at, (place, _)) in left.iter().enumerate() {
                    let mut row = rows[*place].to_vec();
                    if !with_references {
                        references.iter().for_each(|reference| row[*reference] = Value::Null);
                    }
                    match self.put_row(connection, &row).await {
                        Ok(()) => {}
                        Err(error)
                            if matches!(
                                error.kind(),
                                Kind::Conflict | Kind::Rejected | Kind::MissingReference
                            ) =>
                        {
                            failed = Some((at, error.not_applied()));
                            break;
                        }
                        Err(error) => return Err(error),
                    }
                }
                if failed.is_some() {
                    break;
                }
            }
            let Some((at, error)) = failed else {
                savepoint(connection, "RELEASE SAVEPOINT zdm_circle").await?;
                return Ok(rejected);
            };
            savepoint(connection, "ROLLBACK TO SAVEPOINT zdm_circle").await?;
            rejected.push((left.remove(at).0, error));
        }
    }

    /// Puts one row; a conflict names its holder.
    async fn put_row(&self, connection: &mut MySqlConnection, row: &[Value]) -> Result<()> {
        let table = self.table();
        let Err(error) = write_row(connection, table, row).await else { return Ok(()) };
        let key = shown(&row[..table.key_len]);
        let error = classify(error, &format!("writing the record {key} to table {}", table.name()));
        if error.kind() != Kind::Conflict {
            return Err(error);
        }
        match self.holder(connection, row).await? {
            Some((unique, shown, holder)) => {
                let message = format!("the value in the unique index {unique} is held by the record {shown}");
                let error = error.context(message);
                Err(match holder {
                    Some(holder) => error.held_by(holder),
                    None => error,
                })
            }
            None => Err(error),
        }
    }

    pub(super) async fn move_aside(&self, connection: &mut MySqlConnection, batch: &Batch) -> Result<()> {
        let table = self.table();
        let mut columns: Vec<(&str, String)> =
            table.contended().filter_map(|unique| movable(table, unique)).collect();
        columns.sort_unstable();
        columns.dedup_by(|one, other| one.0 == other.0);
        if columns.is_empty() {
            return Ok(());
        }
        let set: Vec<_> =
            columns.iter().map(|(column, temporary)| format!("{} = {temporary}", quoted(column))).collect();
        // A temporary value need not pass the checks; the final one does. Only MariaDB can put them off.
        let unchecked =
            if table.shape.mariadb { "SET STATEMENT check_constraint_checks = 0 FOR " } else { "" };
        let sql: Arc<str> =
            format!("{unchecked}UPDATE {} SET {} WHERE {}", table.quoted, set.join(", "), table.key_is())
                .into();
        savepoint(connection, "SAVEPOINT zdm_aside").await?;
        for key in batch.key_values() {
            let Err(error) = execute(connection, &sql, table.exact(key)).await else { continue };
            let error = classify(error, &format!("moving unique values of table {} aside", table.name()));
            if !matches!(error.kind(), Kind::Conflict | Kind::Rejected | Kind::MissingReference) {
                return Err(error);
            }
            // A check or a foreign key holds them where they are. Many changes pass all the same.
            return savepoint(connection, "ROLLBACK TO SAVEPOINT zdm_aside").await;
        }
        savepoint(connection, "RELEASE SAVEPOINT zdm_aside").await
    }

    /// The unique index that a row runs into, and the key of the row that holds the value.
    async fn holder(
        &self,
        connection: &mut MySqlConnection,
        row: &[Value],
    ) -> Result<Option<(String, String, Option<zdm_core::key::KeyBytes>)>> {
        let table = self.table();
        for unique in table.contended() {
            let mut parameters = Vec::new();
            let clauses: Option<Vec<_>> = unique
                .parts
                .iter()
                .map(|part| {
                    let (name, prefix) = part.as_ref()?;
                    let at = table.fields.iter().position(|field| field.column.name == *name)?;
                    parameters.push(row[at].clone());
                    Some(equal(&table.fields[at], *prefix))
                })
                .collect();
            let Some(clauses) = clauses else { continue };
            let sql = format!(
                "SELECT {} FROM {} WHERE {} AND NOT ({}) LIMIT 1",
                table.key_names(),
                table.quoted,
                clauses.join(" AND "),
                table.key_is()
            );
            parameters.append(&mut table.exact(&row[..table.key_len]));
            let found = sqlx::query_with(AssertSqlSafe(sql), arguments(parameters)?)
                .fetch_all(&mut *connection)
                .await
                .map_err(|error| classify(error, &format!("looking for the holder in {}", unique.name)))?;
            if let Some(found) = found.first() {
                let key = self.key_of(found);
                let shown = key.as_ref().map_or_else(ToString::to_string, |key| format!("{key:?}"));
                let bytes = key.ok().map(|key| zdm_core::key::KeyBytes::of(&key));
                return Ok(Some((unique.name.clone(), shown, bytes)));
            }
        }
        Ok(None)
    }
}

/// Updates the row with this exact key, or inserts one.
async fn write_row(connection: &mut MySqlConnection, table: &Table, row: &[Value]) -> sqlx::Result<()> {
    let (key, others) = row.split_at(table.key_len);
    let found = match &table.update {
        Some(update) => {
            let parameters = others.iter().cloned().chain(table.exact(key));
            execute(connection, update, parameters).await? > 0
        }
        None => {
            let sql = format!("SELECT 1 FROM {} WHERE {} FOR UPDATE", table.quoted, table.key_is());
            let arguments =
                arguments(table.exact(key)).map_err(|error| sqlx::Error::Encode(Box::new(error)))?;
            !sqlx::query_with(AssertSqlSafe(sql), arguments).fetch_all(&mut *connection).await?.is_empty()
        }
    };
    if !found {
        execute(connection, &table.insert, row.iter().cloned()).await?;
    }
    Ok(())
}

fn equal(field: &Field, prefix: Option<u64>) -> String {
    match prefix {
        Some(length) => format!("LEFT({}, {length}) = LEFT({}, {length})", field.quoted, field.mark()),
        None => format!("{} = {}", field.quoted, field.mark()),
    }
}

/// The column of a unique index that can be moved aside, one that the final put writes again, and the value
/// that it gets meanwhile: NULL, which no other row is in the way of, or a random one.
fn movable<'a>(table: &'a Table, unique: &Index) -> Option<(&'a str, String)> {
    let parts = unique.parts.iter().flatten();
    let written: Vec<&Column> = parts
        .filter_map(|(name, _)| {
            table.fields[table.key_len..].iter().map(|field| &field.column).find(|own| own.name == *name)
        })
        .collect();
    // A foreign key that follows the column would let go of it when it became NULL.
    let free = |column: &&&Column| !column.not_null && !table.shape.referenced.contains(&column.name);
    if let Some(column) = written.iter().find(free) {
        return Some((&column.name, "NULL".to_owned()));
    }
    written.into_iter().find_map(|column| Some((column.name.as_str(), temporary(column)?)))
}

/// An expression whose value hardly any other row has, of a type that the column takes.
fn temporary(column: &Column) -> Option<String> {
    Some(match &column.native {
        // The server would count on from it.
        _ if column.counted => return None,
        Native::Integer { bits, unsigned: true, .. } => {
            format!("FLOOR(RAND() * {})", (1_u64 << (bits - 1)) - 1)
        }
        Native::Integer { bits, .. } => format!("-1 - FLOOR(RAND() * {})", (1_u64 << (bits - 1)) - 1),
        Native::Decimal { precision, scale, .. } => {
            let digits = precision.saturating_sub(*scale).min(15);
            format!("ROUND(RAND() * 1e{digits} - 0.5, 0)")
        }
        Native::Real { digits: None, .. } => "RAND()".to_owned(),
        Native::Text { max, .. } => format!("LEFT(MD5(UUID()), {})", (*max).min(32)),
        Native::Bytes { max, .. } => format!("LEFT(UNHEX(MD5(UUID())), {})", (*max).min(16)),
        Native::Date => "DATE_ADD('1000-01-01', INTERVAL FLOOR(RAND() * 3000000) DAY)".to_owned(),
        Native::Datetime { .. } => {
            "DATE_ADD('1000-01-01 00:00:00', INTERVAL FLOOR(RAND() * 200000000000) SECOND)".to_owned()
        }
        Native::Timestamp { .. } => "FROM_UNIXTIME(1 + FLOOR(RAND() * 2000000000))".to_owned(),
        Native::Time { .. } => "SEC_TO_TIME(FLOOR(RAND() * 3000000))".to_owned(),
        Native::Uuid => "UUID()".to_owned(),
        _ => return None,
    })
}

pub(super) async fn savepoint(connection: &mut MySqlConnection, sql: &'static str) -> Result<()> {
    use sqlx::Executor;

    connection.execute(sqlx::raw_sql(sql)).await.map_err(|error| classify(error, sql))?;
    Ok(())
}

pub(super) fn shown(values: &[Value]) -> String {
    values.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}
