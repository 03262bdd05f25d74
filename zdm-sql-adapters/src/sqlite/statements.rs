//! The SQL of one table. Every name is quoted, every value is a parameter.

use std::sync::Arc;

use zdm_core::error::Result;
use zdm_core::key::KeyRange;

use super::packed;
use super::shape::{Affinity, Column, Shape, Unique, quoted};

/// More rows than this in one statement gain nothing.
const MOST_ROWS: usize = 1024;
/// Keys that are looked for with one statement.
const MOST_KEYS: usize = 512;
/// What SQLite takes.
const MOST_PARAMETERS: usize = 32_766;

/// A table with the columns that a store reads and writes, and the statements for them.
#[derive(Debug)]
pub(super) struct Table {
    pub(super) shape: Shape,
    /// The key's columns, then the others.
    pub(super) columns: Vec<String>,
    pub(super) key_len: usize,
    /// Key columns that may be NULL.
    nullable: Vec<String>,
    pub(super) one: Arc<str>,
    /// By powers of two.
    upserts: Vec<Arc<str>>,
    deletes: Vec<Arc<str>>,
    /// Packed bare and exact.
    packed: [String; 2],
}

/// How rows are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// As one text, most columns as they are.
    Bare,
    /// As one text, every column guarded.
    Exact,
    /// One by one.
    Rows,
}

impl Table {
    pub(super) fn new(shape: Shape, key: &[String], others: &[String]) -> Result<Self> {
        let columns: Vec<String> = key.iter().chain(others).cloned().collect();
        let declared = columns.iter().map(|name| shape.column(name).cloned()).collect::<Result<Vec<_>>>()?;
        if let Some(generated) = declared.iter().find(|column| column.generated) {
            let message = format!(
                "column {} of table {} is generated and cannot be written; leave it out of the mapping",
                generated.name, shape.table
            );
            return Err(super::shape::invalid(message));
        }
        if let Some(twice) = columns.iter().enumerate().find(|(at, name)| columns[..*at].contains(name)) {
            let message = format!("the mapping of table {} names the column {} twice", shape.table, twice.1);
            return Err(super::shape::invalid(message));
        }
        let (key_len, stride) = (key.len(), columns.len());
        let nullable = declared[..key_len].iter().filter(|column| !column.not_null);
        let nullable = nullable.map(|column| column.name.clone()).collect();
        let sizes = |parameters: usize| {
            let most = (MOST_PARAMETERS / parameters.max(1)).clamp(1, MOST_ROWS);
            (0..).map(|power| 1_usize << power).take_while(move |size| *size <= most)
        };
        let columns_sql = names(&columns);
        let key_list = names(key);
        let upserts = sizes(stride)
            .map(|rows| {
                let row = format!("({})", marks(stride));
                let rows = vec![row; rows].join(",");
                let table = quoted(&shape.table);
                // OR ABORT overrules a conflict clause in the table's own declaration, which could
                // replace or ignore rows.
                let insert = format!("INSERT OR ABORT INTO {table} ({columns_sql}) VALUES {rows}");
                format!("{insert} ON CONFLICT ({key_list}) {}", on_conflict(&declared[key_len..], &table))
                    .into()
            })
            .collect();
        let deletes = sizes(key_len)
            .map(|rows| format!("DELETE FROM {} WHERE {}", quoted(&shape.table), key_in(key, rows)).into())
            .collect();
        let one = format!("SELECT {columns_sql} FROM {} WHERE {}", quoted(&shape.table), key_in(key, 1));
        let packed = [false, true].map(|exact| {
            let values: Vec<_> = declared.iter().map(|column| packed::expression(column, exact)).collect();
            format!("SELECT json_group_array(json_array({}))", values.join(", "))
        });
        Ok(Self { columns, key_len, nullable, one: one.into(), upserts, deletes, packed, shape })
    }

    pub(super) fn name(&self) -> &str {
        &self.shape.table
    }

    pub(super) fn key(&self) -> &[String] {
        &self.columns[..self.key_len]
    }

    pub(super) fn stride(&self) -> usize {
        self.columns.len()
    }

    /// Statements that together upsert `rows` rows, each with its number of rows.
    pub(super) fn upserts(&self, rows: usize) -> impl Iterator<Item = (&Arc<str>, usize)> + Send {
        cut(&self.upserts, rows)
    }

    /// Statements that together delete `keys` keys, each with its number of keys.
    pub(super) fn deletes(&self, keys: usize) -> impl Iterator<Item = (&Arc<str>, usize)> + Send {
        cut(&self.deletes, keys)
    }

    /// Reads the first rows of a range. Parameters: the bounds that there are, the limit.
    pub(super) fn page<K>(&self, form: Form, range: &KeyRange<K>) -> String {
        let rows = format!(
            "SELECT {} FROM {} {} ORDER BY {} LIMIT ?",
            names(&self.columns),
            quoted(self.name()),
            self.within(range),
            names(self.key())
        );
        self.formed(form, rows)
    }

    /// Reads rows by key. Parameters: the keys.
    pub(super) fn many(&self, form: Form, keys: usize) -> String {
        let (columns, table) = (names(&self.columns), quoted(self.name()));
        self.formed(form, format!("SELECT {columns} FROM {table} WHERE {}", key_in(self.key(), keys)))
    }

    fn formed(&self, form: Form, rows: String) -> String {
        match form {
            Form::Bare => format!("{} FROM ({rows})", self.packed[0]),
            Form::Exact => format!("{} FROM ({rows})", self.packed[1]),
            Form::Rows => rows,
        }
    }

    /// The WHERE clause of a range. Parameters: the bounds that there are.
    pub(super) fn within<K>(&self, range: &KeyRange<K>) -> String {
        let key = self.key_tuple();
        let mark = tuple(self.key_len, marks(self.key_len));
        match (&range.after, &range.up_to) {
            (None, None) => String::new(),
            (Some(_), None) => format!("WHERE {key} > {mark}"),
            (None, Some(_)) => format!("WHERE {key} <= {mark}"),
            (Some(_), Some(_)) => format!("WHERE {key} > {mark} AND {key} <= {mark}"),
        }
    }

    fn key_tuple(&self) -> String {
        tuple(self.key_len, names(self.key()))
    }

    /// Finds a row whose key is NULL where a page from `after` on would pass over it. Parameters: for
    /// each clause the key's values before the column that may be NULL. `None` where no key can be NULL.
    ///
    /// A comparison with NULL is never true, so a walk does not see such rows at its bounds.
    pub(super) fn null_key<K>(&self, after: Option<&K>) -> Option<(String, Vec<usize>)> {
        let clauses: Vec<_> = self
            .key()
            .iter()
            .enumerate()
            .filter(|(at, name)| self.nullable.contains(name) && (after.is_some() == (*at > 0)))
            .map(|(at, name)| {
                let equal: String =
                    self.key()[..at].iter().map(|name| format!("{} = ? AND ", quoted(name))).collect();
                (format!("({equal}{} IS NULL)", quoted(name)), at)
            })
            .collect();
        self.null_query(clauses)
    }

    /// Finds any row whose key is NULL. No parameters.
    pub(super) fn any_null_key(&self) -> Option<String> {
        let clauses = self.nullable.iter().map(|name| (format!("{} IS NULL", quoted(name)), 0)).collect();
        self.null_query(clauses).map(|(sql, _)| sql)
    }

    fn null_query(&self, clauses: Vec<(String, usize)>) -> Option<(String, Vec<usize>)> {
        let (clauses, lengths): (Vec<_>, Vec<_>) = clauses.into_iter().unzip();
        let table = quoted(self.name());
        (!clauses.is_empty()).then(|| {
            (format!("SELECT EXISTS (SELECT 1 FROM {table} WHERE {})", clauses.join(" OR ")), lengths)
        })
    }

    pub(super) fn nullable_key(&self) -> String {
        self.nullable.join(", ")
    }

    /// Counts the rows.
    pub(super) fn count(&self) -> String {
        format!("SELECT count(*) FROM {}", quoted(self.name()))
    }

    /// The keys at every `step`-th place. Parameter: the step.
    pub(super) fn cuts(&self) -> String {
        let (key, table) = (names(self.key()), quoted(self.name()));
        format!(
            "SELECT {key} FROM (SELECT {key}, row_number() OVER (ORDER BY {key}) AS zdm_place FROM {table}) \
             WHERE zdm_place % ?1 = 0 ORDER BY {key}"
        )
    }

    /// The unique constraints that a put can run into: all but the key's own.
    pub(super) fn contended(&self) -> impl Iterator<Item = &Unique> {
        self.shape.uniques.iter().filter(|unique| {
            let names: Vec<_> = unique.parts.iter().flatten().map(|(name, _)| name).collect();
            let is_key = names.len() == self.key_len
                && unique.parts.len() == self.key_len
                && self.key().iter().all(|name| names.contains(&name));
            !is_key
        })
    }

    /// `key = ?` for one key.
    pub(super) fn key_is(&self) -> String {
        key_in(self.key(), 1)
    }

    pub(super) fn key_names(&self) -> String {
        names(self.key())
    }
}

/// Cuts items into pieces whose lengths are powers of two, so that statements for them come in few
/// lengths and stay compiled.
pub(super) fn pieces<T>(mut items: &[T]) -> impl Iterator<Item = &[T]> {
    std::iter::from_fn(move || {
        let power = items.len().checked_ilog2()?;
        let (piece, rest) = items.split_at((1 << power).min(MOST_KEYS));
        items = rest;
        Some(piece)
    })
}

fn cut(statements: &[Arc<str>], rows: usize) -> impl Iterator<Item = (&Arc<str>, usize)> + Send {
    let mut left = rows;
    std::iter::from_fn(move || {
        let power = (left.checked_ilog2()? as usize).min(statements.len() - 1);
        left -= 1 << power;
        Some((&statements[power], 1 << power))
    })
}

/// What an upsert does with a row that is there: nothing where every value is the same already, which
/// saves the write when a page is loaded again.
fn on_conflict(columns: &[Column], table: &str) -> String {
    if columns.is_empty() {
        return "DO NOTHING".to_owned();
    }
    let quoted_names: Vec<_> = columns.iter().map(|column| quoted(&column.name)).collect();
    let set: Vec<_> = quoted_names.iter().map(|name| format!("{name} = excluded.{name}")).collect();
    let differs: Vec<_> = columns
        .iter()
        .zip(&quoted_names)
        .map(|(column, name)| {
            let differs = format!("{table}.{name} COLLATE BINARY IS NOT excluded.{name}");
            match column.affinity {
                // Only here can 1 and 1.0, which compare equal, stand in the same column.
                Affinity::Blob => format!("{differs} OR typeof({table}.{name}) <> typeof(excluded.{name})"),
                _ => differs,
            }
        })
        .collect();
    format!("DO UPDATE SET {} WHERE {}", set.join(", "), differs.join(" OR "))
}

fn marks(count: usize) -> String {
    vec!["?"; count].join(",")
}

fn names(columns: &[String]) -> String {
    columns.iter().map(|name| quoted(name)).collect::<Vec<_>>().join(", ")
}

fn tuple(parts: usize, inner: String) -> String {
    if parts == 1 { inner } else { format!("({inner})") }
}

fn key_in(key: &[String], keys: usize) -> String {
    let columns = tuple(key.len(), names(key));
    match (key.len(), keys) {
        (_, 1) => format!("{columns} = {}", tuple(key.len(), marks(key.len()))),
        (1, _) => format!("{columns} IN ({})", marks(keys)),
        (parts, _) => {
            format!("{columns} IN (VALUES {})", vec![format!("({})", marks(parts)); keys].join(","))
        }
    }
}
