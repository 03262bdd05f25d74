//! Pages of tables whose index has another order than the keys.
//!
//! Sorting the whole rest of the table for every page would take a time that grows with its square. So the
//! rows that are looked at are narrowed down first, by something that the index knows and that cuts out a
//! stretch of the order of the keys without gaps:
//!
//! - texts that begin as the last key of the page before, down to fewer characters until there are enough;
//!   the collation finds the beginning, and the bytes then decide. Not every collation finds all of them: some
//!   of MariaDB 10.11 pass over texts with control characters, so only those are used that were tried out;
//! - values of a first column that is in order, up to the one that so many rows further holds.
//!
//! As long as fewer rows come than were asked for, it is tried again with a wider stretch.

use std::sync::atomic::Ordering;

use sqlx::mysql::{MySqlConnection, MySqlRow};
use zdm_core::error::{Error, Kind, Result};
use zdm_core::key::KeyRange;

use super::TableStore;
use super::arguments::value;
use super::native::Native;
use super::scan::Within;
use super::shape::{Column, Comparison};
use super::statements::Walk;
use crate::table::{RowMapping, Value};

/// Collations, or what they begin with, whose indexes find all texts with a beginning. Tried out with every
/// text of up to three characters of a small alphabet with control characters.
const FINDING: [&str; 7] = [
    "utf8mb4_general_",
    "utf8mb3_general_",
    "utf8mb4_unicode_520_",
    "utf8mb3_unicode_520_",
    "utf8mb4_uca1400_ai_ci",
    "uca1400_ai_ci",
    "latin1_swedish_",
];
/// A stretch wider than this many pages is no better than all.
const WIDEST: usize = 256;

impl<M: RowMapping> TableStore<M> {
    /// The first rows of a range in the order of their bytes.
    pub(super) async fn sorted_rows(
        &self,
        connection: &mut MySqlConnection,
        range: &KeyRange<M::Key>,
        within: &Within,
        limit: usize,
    ) -> Result<Vec<MySqlRow>> {
        let table = self.table();
        let first = &table.fields[0];
        let indexed = table.shape.in_order(std::slice::from_ref(&first.column.name));
        if indexed && first.column.comparison() == Comparison::Exact {
            return self.sorted_by_first(connection, range, within, limit).await;
        }
        let begins = finds_beginnings(&first.column, table.shape.mariadb);
        if let (Some(after), true) = (&range.after, indexed && begins) {
            let after = self.first_text(after)?;
            let shared = match &range.up_to {
                Some(up_to) => shared(&after, &self.first_text(up_to)?),
                None => 0,
            };
            return self.sorted_by_beginning(connection, within, limit, &after, shared).await;
        }
        self.sorted(connection, within, limit).await
    }

    async fn sorted(
        &self,
        connection: &mut MySqlConnection,
        within: &Within,
        limit: usize,
    ) -> Result<Vec<MySqlRow>> {
        let table = self.table();
        let mut parameters = within.parameters.clone();
        parameters.push(Value::Integer(i64::try_from(limit).unwrap_or(i64::MAX)));
        self.rows(connection, table.page(&within.sql(), &table.order(Walk::Bytes)), parameters).await
    }

    /// The text of the first column of a key.
    fn first_text(&self, key: &M::Key) -> Result<String> {
        match self.key_values(key)?.into_iter().next() {
            Some(Value::Text(text)) => Ok(text),
            _ => Err(Error::new(Kind::Invalid, "the first column of the key is no text")),
        }
    }

    async fn sorted_by_beginning(
        &self,
        connection: &mut MySqlConnection,
        within: &Within,
        limit: usize,
        after: &str,
        shared: usize,
    ) -> Result<Vec<MySqlRow>> {
        let column = &self.table().fields[0];
        let all: Vec<char> = after.chars().collect();
        // One character more than sufficed the last time.
        let hint = self.inner.beginning.load(Ordering::Relaxed).saturating_add(1);
        let mut length = hint.clamp(shared.min(all.len()), all.len());
        loop {
            if length == 0 {
                self.inner.beginning.store(0, Ordering::Relaxed);
                return self.sorted(connection, within, limit).await;
            }
            let beginning: String = all[..length].iter().collect();
            let mut narrow = within.clone();
            if column.column.comparison() == Comparison::Padded {
                let (least, greatest) = around(&beginning, &column.column);
                narrow.clauses.push(format!("{0} >= ? AND {0} <= ?", column.quoted));
                narrow.parameters.extend([Value::Text(least), Value::Text(greatest)]);
            } else {
                narrow.clauses.push(format!("{} LIKE {}", column.quoted, column.column.text_mark()));
                narrow.parameters.push(Value::Text(pattern(&beginning)));
            }
            narrow.clauses.push(format!("LEFT({}, {}) = ?", column.column.as_bytes(), beginning.len()));
            narrow.parameters.push(Value::Blob(beginning.into_bytes()));
            let rows = self.sorted(connection, &narrow, limit).await?;
            // Both bounds begin like this, and so does everything between them.
            if rows.len() == limit || length <= shared {
                self.inner.beginning.store(length, Ordering::Relaxed);
                return Ok(rows);
            }
            length -= 1;
        }
    }

    async fn sorted_by_first(
        &self,
        connection: &mut MySqlConnection,
        range: &KeyRange<M::Key>,
        within: &Within,
        limit: usize,
    ) -> Result<Vec<MySqlRow>> {
        let table = self.table();
        let field = &table.fields[0];
        let (name, mark) = (&field.quoted, field.mark());
        let mut pages = 2;
        while pages <= WIDEST {
            let mut ahead = Within::default();
            if let Some(after) = &range.after {
                ahead.clauses.push(format!("{name} >= {mark}"));
                ahead.parameters.extend(self.key_values(after)?.into_iter().take(1));
            }
            let sql = format!(
                "SELECT {name} FROM {} {} ORDER BY {name} LIMIT 1 OFFSET ?",
                table.quoted,
                ahead.sql()
            );
            let offset = i64::try_from(limit.saturating_mul(pages)).unwrap_or(i64::MAX);
            ahead.parameters.push(Value::Integer(offset));
            let Some(row) = self.rows(connection, sql, ahead.parameters).await?.pop() else { break };
            let last = value(&row, 0, &field.codec)
                .and_then(|value| field.codec.encode(value))
                .map_err(|reason| Error::new(Kind::Rejected, reason))?;
            let mut narrow = within.clone();
            narrow.clauses.push(format!("{name} <= {mark}"));
            narrow.parameters.push(last);
            let rows = self.sorted(connection, &narrow, limit).await?;
            if rows.len() == limit {
                return Ok(rows);
            }
            pages *= 4;
        }
        self.sorted(connection, within, limit).await
    }
}

/// Whether the index of a column finds all texts that begin alike.
fn finds_beginnings(column: &Column, mariadb: bool) -> bool {
    if !matches!(column.native, Native::Text { .. }) {
        return false;
    }
    let collation = column.collation.as_deref().unwrap_or_default();
    column.comparison() == Comparison::Padded
        || mariadb && FINDING.iter().any(|known| collation.starts_with(known) && !collation.ends_with("_bin"))
}

/// The least and the greatest text with a beginning, by code points and padded with spaces.
fn around(beginning: &str, column: &Column) -> (String, String) {
    let max = match column.native {
        Native::Text { max, .. } => usize::try_from(max).unwrap_or_default(),
        _ => 0,
    };
    let rest = max.saturating_sub(beginning.chars().count());
    let last = match column.charset.as_deref() {
        Some("utf8mb4") => "\u{10FFFF}",
        Some("ascii") => "\u{7F}",
        _ => "\u{FFFF}",
    };
    (format!("{beginning}{}", "\0".repeat(rest)), format!("{beginning}{}", last.repeat(rest)))
}

/// How many characters two texts begin with alike.
fn shared(left: &str, right: &str) -> usize {
    left.chars().zip(right.chars()).take_while(|(left, right)| left == right).count()
}

/// Every text that begins like this.
fn pattern(beginning: &str) -> String {
    let mut pattern = String::with_capacity(beginning.len() + 1);
    for character in beginning.chars() {
        if matches!(character, '\\' | '%' | '_') {
            pattern.push('\\');
        }
        pattern.push(character);
    }
    pattern.push('%');
    pattern
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_mean_what_they_say() {
        assert_eq!(pattern(r"50%_\a"), r"50\%\_\\a%");
        assert_eq!(shared("abc", "abd"), 2);
        assert_eq!(shared("éa", "éb"), 1);
    }
}
