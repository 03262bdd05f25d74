//! A page with rows that do not fit: the rest is loaded, those are reported.

use std::collections::{BTreeMap, HashSet};

use sqlx::mysql::MySqlConnection;
use zdm_core::error::{Error, Result};
use zdm_core::key::KeyBytes;

use super::TableStore;
use super::apply::Batch;
use super::care::savepoint;
use crate::table::{RowMapping, Value};

impl<M: RowMapping> TableStore<M> {
    /// Loads row by row. Returns the places of the rows that do not fit, each with the reason.
    ///
    /// A row that is left out keeps what it held before, which may push out another one. So each round
    /// starts from the same point without the rows that failed before, until a round has no new one.
    pub(super) async fn load_with_care(
        &self,
        connection: &mut MySqlConnection,
        batch: &Batch,
        superseded: &HashSet<KeyBytes>,
    ) -> Result<Vec<(usize, Error)>> {
        let mut rejected: BTreeMap<usize, Error> = BTreeMap::new();
        loop {
            savepoint(connection, "SAVEPOINT zdm_round").await?;
            let mut left_out = superseded.clone();
            left_out.extend(rejected.keys().map(|place| batch.keys[*place].clone()));
            let known = rejected.len();
            self.move_aside(connection, &batch.clone().without(&left_out)).await?;
            let (places, rows): (Vec<usize>, Vec<&[Value]>) = batch
                .puts
                .values
                .chunks(batch.stride)
                .enumerate()
                .filter(|(place, _)| !left_out.contains(&batch.keys[*place]))
                .unzip();
            for (at, error) in self.put_rows(connection, &rows, false).await? {
                rejected.insert(places[at], error.not_applied());
            }
            if rejected.len() == known {
                savepoint(connection, "RELEASE SAVEPOINT zdm_round").await?;
                return Ok(rejected.into_iter().collect());
            }
            savepoint(connection, "ROLLBACK TO SAVEPOINT zdm_round").await?;
        }
    }
}
