use std::collections::HashMap;
use std::sync::atomic::Ordering;

use async_trait::async_trait;
use sqlx::sqlite::{SqliteArguments, SqliteConnection};
use sqlx::{AssertSqlSafe, Row};
use zdm_core::error::{Error, Kind, Result};
use zdm_core::key::KeyRange;
use zdm_core::store::{Page, Scan};

use super::TableStore;
use super::arguments::{arguments, value};
use super::classify::{classify, code_of};
use super::packed::{self, Unpacked};
use super::statements::{Form, pieces};
use super::store::null_key;
use crate::table::{RowMapping, Value};

impl<M: RowMapping> TableStore<M> {
    /// Reads rows in the cheapest form that is exact. `sql` makes the statement.
    async fn read_rows(
        &self,
        connection: &mut SqliteConnection,
        sql: impl Fn(Form) -> String + Send + Sync,
        parameters: Vec<Value>,
    ) -> Result<Page<M::Key, M::Record>> {
        let table = self.table();
        let doing = || format!("reading rows of table {}", table.name());
        for form in [Form::Bare, Form::Exact] {
            if form == Form::Bare && self.inner.exact.load(Ordering::Relaxed) {
                continue;
            }
            let arguments: SqliteArguments = arguments(parameters.iter().cloned())?;
            let packed =
                sqlx::query_with(AssertSqlSafe(sql(form)), arguments).fetch_one(&mut *connection).await;
            let packed = match packed {
                Ok(packed) => packed,
                // "JSON cannot hold BLOB values" has no code of its own; a text may get too large.
                Err(error) if matches!(code_of(&error), Some(1 | 18)) => {
                    self.inner.exact.fetch_or(code_of(&error) == Some(1), Ordering::Relaxed);
                    continue;
                }
                Err(error) => return Err(classify(error, &doing())),
            };
            let text: &[u8] = packed.try_get_unchecked(0).map_err(|error| classify(error, &doing()))?;
            let mut page = Vec::new();
            let scanned = packed::scan(text, table.stride(), |values, not_utf8| {
                page.push(self.unpacked(values, not_utf8)?);
                Ok(())
            })?;
            match scanned {
                Ok(()) => {
                    self.inner.record_bytes.learn(page.len(), text.len(), &self.inner.mapping);
                    return Ok(page);
                }
                // A column holds what it was not declared for. It will again.
                Err(Unpacked::Inexact) => self.inner.exact.store(true, Ordering::Relaxed),
                Err(Unpacked::Damaged(at)) => {
                    let message = format!("{}: the packed rows cannot be read at byte {at}", doing());
                    return Err(Error::new(Kind::Damaged, message));
                }
            }
        }
        let rows = sqlx::query_with(AssertSqlSafe(sql(Form::Rows)), arguments(parameters)?);
        let rows = rows.fetch_all(connection).await.map_err(|error| classify(error, &doing()))?;
        let (mut page, mut contents) = (Vec::with_capacity(rows.len()), 0);
        for row in &rows {
            let mut not_utf8 = None;
            let read = |index| {
                value(row, index).unwrap_or_else(|_| {
                    not_utf8 = Some(index);
                    Value::Null
                })
            };
            let mut values: Vec<_> = (0..table.stride()).map(read).collect();
            contents += values.iter().map(Value::content_len).sum::<usize>();
            page.push(self.unpacked(&mut values, not_utf8)?);
        }
        self.inner.record_bytes.learn(page.len(), contents, &self.inner.mapping);
        Ok(page)
    }

    fn unpacked(&self, values: &mut [Value], not_utf8: Option<usize>) -> Result<(M::Key, Result<M::Record>)> {
        let Some(index) = not_utf8 else { return self.record(values) };
        let table = self.table();
        let message =
            format!("column {} of table {}: the text is not UTF-8", table.columns[index], table.name());
        let error = Error::new(Kind::Rejected, message);
        if index < table.key_len {
            return Err(error);
        }
        let key = self.key(&mut values[..table.key_len])?;
        let error = self.at_key(error, &key);
        Ok((key, Err(error)))
    }

    pub(super) async fn read_many(&self, keys: &[M::Key]) -> Result<Vec<Option<M::Record>>> {
        let mut records: HashMap<M::Key, M::Record> = HashMap::with_capacity(keys.len());
        let mut connection = self.inner.db.reader().await?;
        for chunk in pieces(keys) {
            let mut parameters = Vec::new();
            for key in chunk {
                parameters.append(&mut self.key_values(key)?);
            }
            let sql = |form| self.table().many(form, chunk.len());
            for (key, record) in self.read_rows(&mut connection, sql, parameters).await? {
                records.insert(key, record?);
            }
        }
        Ok(keys.iter().map(|key| records.get(key).cloned()).collect())
    }

    /// The values of the bounds that there are.
    pub(super) fn bounds(&self, range: &KeyRange<M::Key>) -> Result<Vec<Value>> {
        let mut values = Vec::new();
        for bound in range.after.iter().chain(&range.up_to) {
            values.append(&mut self.key_values(bound)?);
        }
        Ok(values)
    }

    async fn refuse_null_keys(
        &self,
        connection: &mut SqliteConnection,
        after: Option<&M::Key>,
    ) -> Result<()> {
        let Some((sql, prefixes)) = self.table().null_key(after) else { return Ok(()) };
        let mut parameters = Vec::new();
        if let Some(after) = after {
            let values = self.key_values(after)?;
            for prefix in prefixes {
                parameters.extend_from_slice(&values[..prefix]);
            }
        }
        let found: bool = sqlx::query_scalar_with(AssertSqlSafe(sql), arguments(parameters)?)
            .fetch_one(connection)
            .await
            .map_err(|error| classify(error, "looking for keys that are NULL"))?;
        if found { Err(null_key(self.table())) } else { Ok(()) }
    }
}

#[async_trait]
impl<M: RowMapping> Scan for TableStore<M> {
    async fn page(&self, range: &KeyRange<M::Key>, limit: usize) -> Result<Page<M::Key, M::Record>> {
        if range.is_empty() || limit == 0 {
            return Ok(Vec::new());
        }
        let mut parameters = self.bounds(range)?;
        parameters.push(Value::Integer(i64::try_from(limit).unwrap_or(i64::MAX)));
        let mut connection = self.inner.db.reader().await?;
        self.refuse_null_keys(&mut connection, range.after.as_ref()).await?;
        let page = self.read_rows(&mut connection, |form| self.table().page(form, range), parameters).await?;
        if page.is_sorted_by(|left, right| left.0 < right.0) {
            return Ok(page);
        }
        let message =
            format!("the rows of table {} do not come in the order of their keys", self.table().name());
        Err(Error::new(Kind::Damaged, message))
    }

    async fn split(&self, parts: usize) -> Result<Vec<KeyRange<M::Key>>> {
        let step = self.estimated_len().await?.div_ceil(parts.max(1) as u64).max(1);
        let doing = |error| classify(error, &format!("cutting table {} into ranges", self.table().name()));
        let mut connection = self.inner.db.reader().await?;
        let rows = sqlx::query_with(
            AssertSqlSafe(self.table().cuts()),
            arguments([Value::Integer(i64::try_from(step).unwrap_or(i64::MAX))])?,
        )
        .fetch_all(&mut *connection)
        .await
        .map_err(doing)?;
        let mut cuts = Vec::with_capacity(parts);
        for row in rows.iter().take(parts.saturating_sub(1)) {
            let mut values =
                (0..self.table().key_len).map(|at| value(row, at)).collect::<Result<Vec<_>>>()?;
            cuts.push(self.key(&mut values)?);
        }
        let lower = std::iter::once(None).chain(cuts.iter().cloned().map(Some));
        let upper = cuts.iter().cloned().map(Some).chain(std::iter::once(None));
        Ok(lower.zip(upper).map(|(after, up_to)| KeyRange { after, up_to }).collect())
    }

    /// Counts the rows: exact, and as slow as a look at every leaf of the smallest index.
    async fn estimated_len(&self) -> Result<u64> {
        let mut connection = self.inner.db.reader().await?;
        let count: i64 = sqlx::query_scalar(AssertSqlSafe(self.table().count()))
            .fetch_one(&mut *connection)
            .await
            .map_err(|error| {
                classify(error, &format!("counting the rows of table {}", self.table().name()))
            })?;
        Ok(u64::try_from(count).unwrap_or_default())
    }

    fn record_bytes(&self, _range: &KeyRange<M::Key>) -> Option<usize> {
        self.inner.record_bytes.get()
    }
}
