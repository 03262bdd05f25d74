//! Pages in the order of keys.
//!
//! Where the server compares as keys do, its index gives the order. A text column with a binary collation
//! that pads with spaces nearly does: only a text that goes on with a control character, where another one
//! ends, stands before that one and not behind it. So the index gives the rows, starting low enough to see
//! such texts, the bytes decide which of them belong to the range, and a page that meets a control character
//! is read once more in the order of the bytes. Everything else is sorted by bytes: [`sorted`](super::sorted).

use std::collections::HashMap;

use async_trait::async_trait;
use futures_util::TryStreamExt;
use sqlx::AssertSqlSafe;
use sqlx::mysql::{MySqlConnection, MySqlRow};
use zdm_core::error::{Error, Kind, Result};
use zdm_core::key::KeyRange;
use zdm_core::store::{Page, Scan};

use super::TableStore;
use super::arguments::{arguments, as_bytes};
use super::classify::classify;
use super::native::Native;
use super::shape::Comparison;
use super::statements::{Field, Table, Walk, pieces};
use crate::table::{RowMapping, Value};

/// A WHERE clause with its parameters.
#[derive(Clone, Default)]
pub(super) struct Within {
    pub(super) clauses: Vec<String>,
    pub(super) parameters: Vec<Value>,
}

impl Within {
    pub(super) fn sql(&self) -> String {
        if self.clauses.is_empty() { String::new() } else { format!("WHERE {}", self.clauses.join(" AND ")) }
    }
}

/// A column as it is compared in the order of keys, and the place of a parameter for it.
struct Compared {
    expression: String,
    mark: String,
    bytes: bool,
}

fn compared(field: &Field, walk: Walk) -> Compared {
    let own = field.column.comparison() == Comparison::Exact || walk == Walk::Columns;
    if own {
        return Compared { expression: field.quoted.clone(), mark: field.mark(), bytes: false };
    }
    Compared { expression: field.column.as_bytes(), mark: "?".to_owned(), bytes: true }
}

impl Table {
    fn compared(&self, walk: Walk) -> Vec<Compared> {
        self.key().iter().map(|field| compared(field, walk)).collect()
    }

    /// The columns in the order of keys.
    pub(super) fn order(&self, walk: Walk) -> String {
        match walk {
            Walk::Padded => self.fields[0].quoted.clone(),
            _ => self.compared(walk).into_iter().map(|part| part.expression).collect::<Vec<_>>().join(", "),
        }
    }
}

/// Adds the clause that holds for keys on one side of a bound: `a >= ? AND (a > ? OR (a = ? AND b > ?))`,
/// whose first part makes an index of use everywhere.
fn beyond(parts: &[Compared], key: &[Value], greater: bool, or_equal: bool, within: &mut Within) {
    fn clause(
        parts: &[Compared],
        key: &[Value],
        strict: &str,
        last: &str,
        parameters: &mut Vec<Value>,
    ) -> String {
        let ([part, rest @ ..], [value, others @ ..]) = (parts, key) else { return "TRUE".to_owned() };
        let Compared { expression, mark, bytes } = part;
        let parameter = if *bytes { as_bytes(value.clone()) } else { value.clone() };
        parameters.push(parameter.clone());
        if rest.is_empty() {
            return format!("{expression} {last} {mark}");
        }
        parameters.push(parameter);
        let inner = clause(rest, others, strict, last, parameters);
        format!("({expression} {strict} {mark} OR ({expression} = {mark} AND {inner}))")
    }
    let (strict, inclusive) = if greater { (">", ">=") } else { ("<", "<=") };
    let last = if or_equal { inclusive } else { strict };
    if let ([part, _, ..], [value, ..]) = (parts, key) {
        within.clauses.push(format!("{} {inclusive} {}", part.expression, part.mark));
        within.parameters.push(if part.bytes { as_bytes(value.clone()) } else { value.clone() });
    }
    let sql = clause(parts, key, strict, last, &mut within.parameters);
    within.clauses.push(sql);
}

/// Whether a text may stand elsewhere when it is padded with spaces than by its bytes.
fn is_odd(value: &Value) -> bool {
    matches!(value, Value::Text(text) if text.bytes().any(|byte| byte < b' '))
}

impl<M: RowMapping> TableStore<M> {
    fn within(&self, range: &KeyRange<M::Key>) -> Result<Within> {
        let table = self.table();
        let walk = if table.walk == Walk::Padded { Walk::Bytes } else { table.walk };
        let parts = table.compared(walk);
        let mut within = Within::default();
        let column = &table.fields[0].quoted;
        if let Some(after) = &range.after {
            let key = self.key_values(after)?;
            if let (Walk::Padded, [Value::Text(text)]) = (table.walk, &key[..]) {
                // The least text that goes on where this one ends.
                let max = match table.fields[0].column.native {
                    Native::Text { max, .. } => usize::try_from(max).unwrap_or_default(),
                    _ => 0,
                };
                let rest = max.saturating_sub(text.chars().count());
                within.clauses.push(format!("{column} >= ?"));
                within.parameters.push(Value::Text(format!("{text}{}", "\0".repeat(rest))));
            }
            beyond(&parts, &key, true, false, &mut within);
        }
        if let Some(up_to) = &range.up_to {
            let key = self.key_values(up_to)?;
            if table.walk == Walk::Padded && !is_odd(&key[0]) {
                within.clauses.push(format!("{column} <= ?"));
                within.parameters.push(key[0].clone());
            }
            beyond(&parts, &key, false, true, &mut within);
        }
        Ok(within)
    }

    pub(super) async fn rows(
        &self,
        connection: &mut MySqlConnection,
        sql: String,
        parameters: Vec<Value>,
    ) -> Result<Vec<MySqlRow>> {
        sqlx::query_with(AssertSqlSafe(sql), arguments(parameters)?)
            .fetch_all(connection)
            .await
            .map_err(|error| classify(error, &format!("reading rows of table {}", self.table().name())))
    }

    /// The records of a query, each made as its row comes in.
    async fn read_page(
        &self,
        connection: &mut MySqlConnection,
        sql: String,
        parameters: Vec<Value>,
    ) -> Result<Page<M::Key, M::Record>> {
        let failed = |error| classify(error, &format!("reading rows of table {}", self.table().name()));
        let mut rows = sqlx::query_with(AssertSqlSafe(sql), arguments(parameters)?).fetch(connection);
        let (mut page, mut contents) = (Vec::new(), 0);
        while let Some(row) = rows.try_next().await.map_err(failed)? {
            page.push(self.record(&row, &mut contents)?);
        }
        self.inner.record_bytes.learn(page.len(), contents, &self.inner.mapping);
        Ok(page)
    }

    fn page_of(&self, rows: &[MySqlRow]) -> Result<Page<M::Key, M::Record>> {
        let mut contents = 0;
        let page = rows.iter().map(|row| self.record(row, &mut contents)).collect::<Result<Vec<_>>>()?;
        self.inner.record_bytes.learn(page.len(), contents, &self.inner.mapping);
        Ok(page)
    }

    /// The records of the keys, in the order of the keys.
    pub(super) async fn read_many(&self, keys: &[M::Key]) -> Result<Vec<Option<M::Record>>> {
        let mut found = HashMap::with_capacity(keys.len());
        if keys.is_empty() {
            return Ok(Vec::new());
        }
        let mut reader = self.inner.db.reader().await?;
        for piece in pieces(keys) {
            let mut parameters = Vec::with_capacity(piece.len() * self.table().key_len);
            for key in piece {
                parameters.append(&mut self.key_values(key)?);
            }
            let rows = self.rows(&mut reader, self.table().many(piece.len()), parameters).await?;
            for row in &rows {
                let (key, record) = self.record(row, &mut 0)?;
                found.insert(key, record);
            }
        }
        reader.release();
        keys.iter().map(|key| found.get(key).cloned().transpose()).collect()
    }
}

#[async_trait]
impl<M: RowMapping> Scan for TableStore<M> {
    async fn page(&self, range: &KeyRange<M::Key>, limit: usize) -> Result<Page<M::Key, M::Record>> {
        if range.is_empty() || limit == 0 {
            return Ok(Vec::new());
        }
        let table = self.table();
        let mut within = self.within(range)?;
        let mut reader = self.inner.db.reader().await?;
        let mut page = if table.walk == Walk::Bytes {
            self.page_of(&self.sorted_rows(&mut reader, range, &within, limit).await?)?
        } else {
            within.parameters.push(Value::Integer(i64::try_from(limit).unwrap_or(i64::MAX)));
            let sql = table.page(&within.sql(), &table.order(table.walk));
            self.read_page(&mut reader, sql, within.parameters.clone()).await?
        };
        if table.walk == Walk::Padded {
            let mut odd = false;
            for (key, _) in &page {
                odd |= is_odd(&self.key_values(key)?[0]);
            }
            if odd {
                let sql = table.page(&within.sql(), &table.order(Walk::Bytes));
                page = self.read_page(&mut reader, sql, within.parameters).await?;
            }
        }
        reader.release();
        if page.is_sorted_by(|left, right| left.0 < right.0) {
            return Ok(page);
        }
        let message = format!("the rows of table {} do not come in the order of their keys", table.name());
        Err(Error::new(Kind::Damaged, message))
    }

    async fn split(&self, parts: usize) -> Result<Vec<KeyRange<M::Key>>> {
        let table = self.table();
        let mut reader = self.inner.db.reader().await?;
        let step = self.count(&mut reader).await?.div_ceil(parts.max(1) as u64).max(1);
        let step = Value::Integer(i64::try_from(step).unwrap_or(i64::MAX));
        let (names, order) = (table.key_names(), table.order(table.walk));
        let rows = if table.walk == Walk::Bytes {
            let sql = format!(
                "SELECT {names} FROM (SELECT {names}, row_number() OVER (ORDER BY {order}) AS zdm_place FROM {}) \
                 AS zdm_placed WHERE zdm_place % ? = 0 ORDER BY zdm_place",
                table.quoted
            );
            self.rows(&mut reader, sql, vec![step]).await?
        } else {
            // Along the index, from cut to cut.
            let mut rows: Vec<MySqlRow> = Vec::new();
            while rows.len() + 1 < parts {
                let mut within = Within::default();
                if let Some(last) = rows.last() {
                    let key = self.key_values(&self.key_of(last)?)?;
                    let own: Vec<_> =
                        table.key().iter().map(|field| compared(field, Walk::Columns)).collect();
                    beyond(&own, &key, true, false, &mut within);
                }
                let sql = format!(
                    "SELECT {names} FROM {} {} ORDER BY {order} LIMIT 1 OFFSET ?",
                    table.quoted,
                    within.sql()
                );
                let Value::Integer(step) = step else { break };
                within.parameters.push(Value::Integer(step - 1));
                let Some(row) = self.rows(&mut reader, sql, within.parameters).await?.pop() else { break };
                rows.push(row);
            }
            rows
        };
        reader.release();
        let mut cuts: Vec<M::Key> = Vec::with_capacity(parts);
        for row in rows.iter().take(parts.saturating_sub(1)) {
            let key = self.key_of(row)?;
            // Odd texts stand elsewhere in the index; any increasing cuts will do.
            if cuts.last().is_none_or(|last| *last < key) {
                cuts.push(key);
            }
        }
        let lower = std::iter::once(None).chain(cuts.iter().cloned().map(Some));
        let upper = cuts.iter().cloned().map(Some).chain(std::iter::once(None));
        Ok(lower.zip(upper).map(|(after, up_to)| KeyRange { after, up_to }).collect())
    }

    /// Up to a million rows by the server's estimate they are counted; beyond that it is the estimate.
    async fn estimated_len(&self) -> Result<u64> {
        let table = self.table();
        let mut reader = self.inner.db.reader().await?;
        let guess: Option<i64> = sqlx::query_scalar(
            "SELECT CAST(table_rows AS SIGNED) FROM information_schema.tables \
             WHERE table_schema = ? AND table_name = ?",
        )
        .bind(&table.shape.database)
        .bind(&table.shape.table)
        .fetch_optional(&mut *reader)
        .await
        .map_err(|error| classify(error, &format!("estimating the rows of table {}", table.name())))?
        .flatten();
        let len = match guess.and_then(|guess| u64::try_from(guess).ok()) {
            Some(guess) if guess > 1_000_000 => guess,
            _ => self.count(&mut reader).await?,
        };
        reader.release();
        Ok(len)
    }

    fn record_bytes(&self, _range: &KeyRange<M::Key>) -> Option<usize> {
        self.inner.record_bytes.get()
    }
}

impl<M: RowMapping> TableStore<M> {
    async fn count(&self, connection: &mut MySqlConnection) -> Result<u64> {
        let sql = format!("SELECT CAST(COUNT(*) AS SIGNED) FROM {}", self.table().quoted);
        let count: i64 =
            sqlx::query_scalar(AssertSqlSafe(sql)).fetch_one(connection).await.map_err(|error| {
                classify(error, &format!("counting the rows of table {}", self.table().name()))
            })?;
        Ok(u64::try_from(count).unwrap_or_default())
    }
}
