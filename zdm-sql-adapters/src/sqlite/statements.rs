//! The SQL of one table. Every name is quoted, every value is a parameter.

use std::sync::Arc;

use zdm_core::error::Result;
use zdm_core::key::KeyRange;

use super::packed;
use super::shape::{Affinity, Column, Shape, Unique, quoted};

/// SQLite takes 32,766 parameters; more rows than this in one statement gain nothing.
const MOST_ROWS: usize = 512;
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
    packed: [Packed; 2],
}

/// How a page is read, bare or exact.
#[derive(Debug)]
pub(super) struct Packed {
    select: String,
    pub(super) guarded: Vec<bool>,
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
        let key_list = names_collated(&shape, key);
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
            .map(|rows| {
                format!("DELETE FROM {} WHERE {}", quoted(&shape.table), key_in(&shape, key, rows)).into()
            })
            .collect();
        let one =
            format!("SELECT {columns_sql} FROM {} WHERE {}", quoted(&shape.table), key_in(&shape, key, 1));
        let packed = [false, true].map(|exact| {
            let bare = |column: &Column| matches!(column.affinity, Affinity::Integer | Affinity::Text);
            let values: Vec<_> = declared.iter().map(|column| packed::expression(column, exact)).collect();
            Packed {
                select: format!("SELECT json_group_array(json_array({}))", values.join(", ")),
                guarded: declared.iter().map(|column| exact || !bare(column)).collect(),
            }
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

    pub(super) fn guarded(&self, exact: bool) -> &[bool] {
        &self.packed[usize::from(exact)].guarded
    }

    /// Reads the first rows of a range, as one packed value. Parameters: the bounds that there are, the
    /// limit.
    pub(super) fn page<K>(&self, exact: bool, range: &KeyRange<K>) -> String {
        format!(
            "{} FROM (SELECT {} FROM {} {} ORDER BY {} LIMIT ?)",
            self.packed[usize::from(exact)].select,
            names(&self.columns),
            quoted(self.name()),
            self.within(range),
            names_collated(&self.shape, self.key())
        )
    }

    /// Reads rows by key, as one packed value. Parameters: the keys.
    pub(super) fn many(&self, exact: bool, keys: usize) -> String {
        format!(
            "{} FROM {} WHERE {}",
            self.packed[usize::from(exact)].select,
            quoted(self.name()),
            key_in(&self.shape, self.key(), keys)
        )
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
        tuple(self.key_len, names_collated(&self.shape, self.key()))
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
                    self.key()[..at].iter().map(|name| format!("{} = ? AND ", self.collated(name))).collect();
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

    fn collated(&self, name: &str) -> String {
        names_collated(&self.shape, std::slice::from_ref(&name.to_owned()))
    }

    /// Counts the rows.
    pub(super) fn count(&self) -> String {
        format!("SELECT count(*) FROM {}", quoted(self.name()))
    }

    /// The keys at every `step`-th place. Parameter: the step.
    pub(super) fn cuts(&self) -> String {
        let (key, order) = (names(self.key()), names_collated(&self.shape, self.key()));
        let table = quoted(self.name());
        format!(
            "SELECT {key} FROM (SELECT {key}, row_number() OVER (ORDER BY {order}) AS zdm_place FROM {table}) \
             WHERE zdm_place % ?1 = 0 ORDER BY {order}"
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
        key_in(&self.shape, self.key(), 1)
    }

    pub(super) fn key_names(&self) -> String {
        names(self.key())
    }
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

/// Key columns as they are compared and ordered: by bytes, whatever collation the column declares.
fn names_collated(shape: &Shape, columns: &[String]) -> String {
    let one = |name: &String| match shape.column(name).map(|column| column.affinity) {
        Ok(Affinity::Text | Affinity::Blob) => format!("{} COLLATE BINARY", quoted(name)),
        _ => quoted(name),
    };
    columns.iter().map(one).collect::<Vec<_>>().join(", ")
}

fn tuple(parts: usize, inner: String) -> String {
    if parts == 1 { inner } else { format!("({inner})") }
}

fn key_in(shape: &Shape, key: &[String], keys: usize) -> String {
    let columns = tuple(key.len(), names_collated(shape, key));
    match (key.len(), keys) {
        (_, 1) => format!("{columns} = {}", tuple(key.len(), marks(key.len()))),
        (1, _) => format!("{columns} IN ({})", marks(keys)),
        (parts, _) => {
            format!("{columns} IN (VALUES {})", vec![format!("({})", marks(parts)); keys].join(","))
        }
    }
}
