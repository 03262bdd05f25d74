//! A page on its fastest way in: copied where its range holds no row, else only what differs is written.

use std::collections::HashSet;

use sqlx::postgres::PgConnection;
use zdm_core::error::Result;
use zdm_core::key::{KeyBytes, KeyRange};

use super::TableStore;
use super::apply::{Batch, run_once, writing};
use super::statements::Table;
use super::wire::{COPY_END, COPY_HEADER};
use crate::table::RowMapping;

/// What is sent to COPY at a time.
const PIECE: usize = 1 << 20;

/// Where a page goes.
pub(super) struct Target {
    /// An expression that says whether the range holds a row.
    pub(super) probe: String,
    /// Writes the rows that differ from what the range holds.
    refresh: String,
}

impl<M: RowMapping> TableStore<M> {
    pub(super) fn target(&self, range: &KeyRange<M::Key>) -> Result<Target> {
        let bounds = self.bounds(range)?;
        let bounds = [bounds[0].as_deref(), bounds[1].as_deref()];
        Ok(Target { probe: self.table().probe(bounds), refresh: self.table().refresh(bounds) })
    }
}

impl Target {
    pub(super) async fn load(
        &self,
        connection: &mut PgConnection,
        table: &Table,
        batch: &Batch,
        superseded: &HashSet<KeyBytes>,
        filled: bool,
    ) -> Result<()> {
        let places = batch.without(superseded).puts;
        if places.is_empty() {
            return Ok(());
        }
        if filled || !table.binary {
            return run_once(connection, table, &self.refresh, &batch.puts, &places)
                .await
                .map_err(|error| writing(error, table));
        }
        copy(connection, table, batch, &places).await.map_err(|error| writing(error, table))
    }
}

/// Copies rows straight in. A row that came meanwhile fails the page, which is then loaded with care.
async fn copy(
    connection: &mut PgConnection,
    table: &Table,
    batch: &Batch,
    places: &[usize],
) -> sqlx::Result<()> {
    let mut sink = connection.copy_in_raw(&table.copy).await?;
    sink.send(COPY_HEADER).await?;
    if places.len() == batch.puts.len() {
        for piece in batch.puts.bytes.chunks(PIECE) {
            sink.send(piece).await?;
        }
    } else {
        let mut piece = Vec::with_capacity(PIECE);
        for place in places {
            piece.extend_from_slice(batch.puts.row(*place));
            if piece.len() >= PIECE {
                sink.send(&piece[..]).await?;
                piece.clear();
            }
        }
        sink.send(&piece[..]).await?;
    }
    sink.send(COPY_END).await?;
    sink.finish().await?;
    Ok(())
}
