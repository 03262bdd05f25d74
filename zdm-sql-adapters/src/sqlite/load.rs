//! A page with rows that do not fit: the rest is loaded, those are reported.

use std::collections::{BTreeMap, HashSet};

use sqlx::AssertSqlSafe;
use sqlx::sqlite::SqliteConnection;
use zdm_core::error::{Error, Kind, Result};
use zdm_core::key::{KeyBytes, KeyRange};

use super::TableStore;
use super::apply::{Batch, defer_foreign_keys};
use super::arguments::{arguments, value};
use super::classify::classify;
use super::shape::{ForeignKey, quoted};
use crate::table::RowMapping;

impl<M: RowMapping> TableStore<M> {
    /// Loads row by row. Returns the places of the rows that do not fit, each with the reason.
    ///
    /// A row that is left out keeps what it held before, which may push out another one. So each round
    /// starts from the same point without the rows that failed before, until a round has no new one.
    pub(super) async fn load_with_care(
        &self,
        connection: &mut SqliteConnection,
        range: &KeyRange<KeyBytes>,
        batch: &Batch,
        superseded: &HashSet<KeyBytes>,
    ) -> Result<Vec<(usize, Error)>> {
        let mut rejected: BTreeMap<usize, Error> = BTreeMap::new();
        defer_foreign_keys(connection, self.table()).await?;
        loop {
            savepoint(connection, "SAVEPOINT zdm_round").await?;
            let mut left_out = superseded.clone();
            left_out.extend(rejected.keys().map(|place| batch.keys[*place].clone()));
            let known = rejected.len();
            self.move_aside(connection, &batch.clone().without(&left_out)).await?;
            for (place, row) in batch.puts.values.chunks(self.table().stride()).enumerate() {
                if left_out.contains(&batch.keys[place]) {
                    continue;
                }
                match self.put_row(connection, row.to_vec()).await {
                    Ok(()) => {}
                    Err(error)
                        if matches!(
                            error.kind(),
                            Kind::Conflict | Kind::Rejected | Kind::MissingReference
                        ) =>
                    {
                        rejected.insert(place, error.not_applied());
                    }
                    Err(error) => return Err(error),
                }
            }
            if rejected.len() == known && self.inner.db.has_foreign_keys() {
                for key in &self.table().shape.foreign_keys {
                    for (orphan, error) in self.orphans(connection, key, range).await? {
                        if let Some(place) = batch.keys.iter().position(|key| *key == orphan) {
                            rejected.insert(place, error);
                        }
                    }
                }
            }
            if rejected.len() == known {
                savepoint(connection, "RELEASE zdm_round").await?;
                return Ok(rejected.into_iter().collect());
            }
            savepoint(connection, "ROLLBACK TO zdm_round").await?;
            savepoint(connection, "RELEASE zdm_round").await?;
        }
    }

    /// The rows of a range whose parent is not there. They would fail the COMMIT, which names none.
    async fn orphans(
        &self,
        connection: &mut SqliteConnection,
        foreign_key: &ForeignKey,
        range: &KeyRange<KeyBytes>,
    ) -> Result<Vec<(KeyBytes, Error)>> {
        let table = self.table();
        let range: KeyRange<M::Key> = range.decode()?;
        let within = table.within(&range);
        let joined = if within.is_empty() { "WHERE" } else { "AND" };
        let own = |name: &str| format!("{}.{}", quoted(table.name()), quoted(name));
        let set: Vec<_> =
            foreign_key.columns.iter().map(|(name, _)| format!("{} IS NOT NULL", own(name))).collect();
        let same: Vec<_> = foreign_key
            .columns
            .iter()
            .map(|(name, parent)| format!("zdm_parent.{} = {}", quoted(parent), own(name)))
            .collect();
        let sql = format!(
            "SELECT {} FROM {} {within} {joined} {} AND NOT EXISTS (SELECT 1 FROM {} AS zdm_parent WHERE {})",
            table.key_names(),
            quoted(table.name()),
            set.join(" AND "),
            quoted(&foreign_key.parent),
            same.join(" AND ")
        );
        let rows = sqlx::query_with(AssertSqlSafe(sql), arguments(self.bounds(&range)?)?)
            .fetch_all(connection)
            .await
            .map_err(|error| classify(error, "looking for rows without a parent"))?;
        let mut orphans = Vec::with_capacity(rows.len());
        for row in &rows {
            let mut values = (0..table.key_len).map(|at| value(row, at)).collect::<Result<Vec<_>>>()?;
            let columns: Vec<_> = foreign_key.columns.iter().map(|(name, _)| name.as_str()).collect();
            let message = format!(
                "{} of table {} refers to a row of table {} that is not there",
                columns.join(", "),
                table.name(),
                foreign_key.parent
            );
            orphans.push((self.key_bytes(&mut values)?, Error::new(Kind::MissingReference, message)));
        }
        Ok(orphans)
    }
}

async fn savepoint(connection: &mut SqliteConnection, sql: &'static str) -> Result<()> {
    sqlx::query(sql).execute(connection).await.map_err(|error| classify(error, sql))?;
    Ok(())
}
