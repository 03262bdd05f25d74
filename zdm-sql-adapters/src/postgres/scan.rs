use std::collections::HashMap;

use async_trait::async_trait;
use futures_util::TryStreamExt;
use sqlx::AssertSqlSafe;
use sqlx::postgres::PgConnection;
use zdm_core::error::{Error, Kind, Result};
use zdm_core::key::KeyRange;
use zdm_core::store::{Page, Scan};

use super::TableStore;
use super::classify::classify;
use super::store::fields;
use super::wire::{COPY_HEADER, Rows, arguments, parse_row};
use crate::table::RowMapping;

/// Tables with fewer rows are cut exactly, larger ones by a sample of about so many rows.
const SAMPLE: u64 = 50_000;

impl<M: RowMapping> TableStore<M> {
    pub(super) async fn read_many(&self, keys: &[M::Key]) -> Result<Vec<Option<M::Record>>> {
        let table = self.table();
        let mut encoded = Rows::default();
        for key in keys {
            self.write_key(key, &mut encoded)?;
        }
        let places: Vec<_> = (0..keys.len()).collect();
        let arrays = encoded.arrays(&places, table.types(table.key_len));
        let query = sqlx::query_with(AssertSqlSafe(table.many.clone()), arguments(arrays)?);
        let mut reader = self.inner.db.reader().await?;
        let rows = query
            .fetch_all(&mut *reader)
            .await
            .map_err(|error| classify(error, &format!("reading rows of table {}", table.name())))?;
        reader.release();
        let mut records: HashMap<M::Key, M::Record> = HashMap::with_capacity(keys.len());
        let mut scratch = Vec::new();
        if let Some(row) = rows.first() {
            self.check_types(row)?;
        }
        for row in &rows {
            let (key, record) = self.record(fields(row), &mut scratch)?;
            records.insert(key, record?);
        }
        Ok(keys.iter().map(|key| records.get(key).cloned()).collect())
    }

    /// The bounds of a range as SQL text, where there are some.
    pub(super) fn bounds(&self, range: &KeyRange<M::Key>) -> Result<[Option<String>; 2]> {
        let bound = |key: &Option<M::Key>| {
            let Some(key) = key else { return Ok(None) };
            let values = self.key_values(key)?;
            let literals = self.table().key().iter().zip(&values).map(|(field, value)| {
                field.codec.literal(value, values.len() == 1).map_err(|reason| {
                    let column = &field.column.name;
                    let message = format!(
                        "the key {key:?} of table {}: column {column}: {reason}",
                        self.table().name()
                    );
                    Error::new(Kind::Rejected, message)
                })
            });
            Ok(Some(literals.collect::<Result<Vec<_>>>()?.join(", ")))
        };
        Ok([bound(&range.after)?, bound(&range.up_to)?])
    }

    /// Runs a COPY to here and hands out its rows.
    pub(super) async fn copied(
        &self,
        connection: &mut PgConnection,
        sql: &str,
        mut row: impl FnMut(&[u8]) -> Result<()> + Send,
    ) -> Result<()> {
        let doing = || format!("reading rows of table {}", self.table().name());
        let failed = |error| classify(error, &doing());
        let damaged = || Error::new(Kind::Damaged, format!("{}: the rows are cut off", doing()));
        let mut stream = connection.copy_out_raw(sql).await.map_err(failed)?;
        let mut head = COPY_HEADER.len();
        while let Some(piece) = stream.try_next().await.map_err(failed)? {
            // The header comes with the first row, or alone; each row comes in one piece.
            let mut piece = &piece[..];
            if head > 0 {
                let (_, rest) = piece.split_at_checked(head).ok_or_else(damaged)?;
                (piece, head) = (rest, 0);
            }
            if !piece.is_empty() {
                row(piece)?;
            }
        }
        Ok(())
    }
}

pub(super) fn texts(bounds: &[Option<String>; 2]) -> [Option<&str>; 2] {
    [bounds[0].as_deref(), bounds[1].as_deref()]
}

#[async_trait]
impl<M: RowMapping> Scan for TableStore<M> {
    async fn page(&self, range: &KeyRange<M::Key>, limit: usize) -> Result<Page<M::Key, M::Record>> {
        if range.is_empty() || limit == 0 {
            return Ok(Vec::new());
        }
        let table = self.table();
        let sql = table.page(texts(&self.bounds(range)?), limit.min(i64::MAX as usize));
        let (mut page, mut scratch) = (Vec::with_capacity(limit.min(4_096)), Vec::new());
        let mut contents = 0;
        let mut reader = self.inner.db.reader().await?;
        self.copied(&mut reader, &sql, |row| {
            let damaged =
                |reason| Error::new(Kind::Damaged, format!("a row of table {}: {reason}", table.name()));
            if let Some(fields) = parse_row(row).map_err(damaged)? {
                page.push(self.record(fields, &mut scratch)?);
                contents += row.len();
            }
            Ok(())
        })
        .await?;
        reader.release();
        self.inner.record_bytes.learn(page.len(), contents, &self.inner.mapping);
        if page.is_sorted_by(|left, right| left.0 < right.0) {
            return Ok(page);
        }
        let message = format!("the rows of table {} do not come in the order of their keys", table.name());
        Err(Error::new(Kind::Damaged, message))
    }

    async fn split(&self, parts: usize) -> Result<Vec<KeyRange<M::Key>>> {
        let table = self.table();
        let rows = self.estimated_len().await?;
        // A sample holds whole blocks, so the parts are about equal.
        let sample = (rows > SAMPLE * 4).then(|| SAMPLE as f64 * 100.0 / rows as f64);
        let counted = if sample.is_some() { SAMPLE } else { rows };
        let step = counted.div_ceil(parts.max(1) as u64).max(1);
        let sql = table.cuts(step, sample);
        let (mut cuts, mut scratch): (Vec<M::Key>, _) = (Vec::with_capacity(parts), Vec::new());
        let mut reader = self.inner.db.reader().await?;
        self.copied(&mut reader, &sql, |row| {
            let damaged =
                |reason| Error::new(Kind::Damaged, format!("a row of table {}: {reason}", table.name()));
            if let Some(mut fields) = parse_row(row).map_err(damaged)? {
                cuts.push(self.key_of(&mut fields, &mut scratch)?);
            }
            Ok(())
        })
        .await?;
        reader.release();
        cuts.truncate(parts.saturating_sub(1));
        let lower = std::iter::once(None).chain(cuts.iter().cloned().map(Some));
        let upper = cuts.iter().cloned().map(Some).chain(std::iter::once(None));
        Ok(lower.zip(upper).map(|(after, up_to)| KeyRange { after, up_to }).collect())
    }

    /// From the statistics and the size of the table where there are some, else counted.
    async fn estimated_len(&self) -> Result<u64> {
        let table = self.table();
        let doing = |error| classify(error, &format!("counting the rows of table {}", self.table().name()));
        let mut reader = self.inner.db.reader().await?;
        let estimated: Option<f64> = sqlx::query_scalar(
            "SELECT CASE WHEN relkind = 'r' AND reltuples > 0 AND relpages > 0 THEN \
             reltuples::float8 / relpages * (pg_relation_size(oid) / current_setting('block_size')::int) END \
             FROM pg_class WHERE oid = $1::bigint::oid",
        )
        .bind(table.shape.oid)
        .fetch_one(&mut *reader)
        .await
        .map_err(doing)?;
        let count = match estimated {
            Some(estimated) if estimated > (SAMPLE * 4) as f64 => estimated as u64,
            _ => {
                let count: i64 = sqlx::query_scalar(AssertSqlSafe(table.count()))
                    .fetch_one(&mut *reader)
                    .await
                    .map_err(doing)?;
                u64::try_from(count).unwrap_or_default()
            }
        };
        reader.release();
        Ok(count)
    }

    fn record_bytes(&self, _range: &KeyRange<M::Key>) -> Option<usize> {
        self.inner.record_bytes.get()
    }
}
