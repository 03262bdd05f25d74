//! The SQL of one table. Every name is quoted, every value is a parameter.

use std::sync::Arc;

use zdm_core::error::Result;

use super::codec::Codec;
use super::native::Native;
use super::shape::{Column, Comparison, Index, Shape, invalid, quoted};
use crate::table::{ColumnType, Value};

/// More rows than this in one statement gain nothing.
const MOST_ROWS: usize = 1024;
/// Keys that are looked for with one statement.
const MOST_KEYS: usize = 512;
/// What the protocol takes.
const MOST_PARAMETERS: usize = 65_535;

/// A column that a store reads and writes.
#[derive(Clone, Debug)]
pub(super) struct Field {
    pub(super) column: Column,
    pub(super) codec: Codec,
    pub(super) quoted: String,
}

impl Field {
    /// The place of a parameter that is compared with the column.
    pub(super) fn mark(&self) -> String {
        match self.column.native {
            // As a text it would be compared as a float.
            Native::Decimal { precision, scale, .. } => format!("CAST(? AS DECIMAL({precision},{scale}))"),
            Native::Date => "CAST(? AS DATE)".to_owned(),
            Native::Time { .. } => "CAST(? AS TIME(6))".to_owned(),
            Native::Datetime { .. } | Native::Timestamp { .. } => "CAST(? AS DATETIME(6))".to_owned(),
            Native::Text { .. } => self.column.text_mark(),
            _ => "?".to_owned(),
        }
    }

    /// Whether two keys may be one value to the server.
    fn is_loose(&self) -> bool {
        self.column.comparison() != Comparison::Exact && !matches!(self.column.native, Native::Uuid)
    }
}

/// In which order the server walks the keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Walk {
    /// By the columns themselves.
    Columns,
    /// By the one column itself, whose texts are padded with spaces when they are compared.
    Padded,
    /// By the bytes of the texts, which no index helps with.
    Bytes,
}

/// A table with the columns that a store reads and writes, and the statements for them.
#[derive(Debug)]
pub(super) struct Table {
    pub(super) shape: Shape,
    pub(super) quoted: String,
    /// The key's columns, then the others.
    pub(super) fields: Vec<Field>,
    pub(super) key_len: usize,
    pub(super) walk: Walk,
    /// Whether two different keys may be one to the server.
    pub(super) loose: bool,
    pub(super) one: Arc<str>,
    /// By powers of two.
    upserts: Vec<Arc<str>>,
    deletes: Vec<Arc<str>>,
    pub(super) insert: Arc<str>,
    /// Where there are columns beside the key.
    pub(super) update: Option<Arc<str>>,
}

impl Table {
    pub(super) fn new(
        shape: Shape,
        key: &[String],
        others: &[String],
        carried: &[(String, ColumnType)],
    ) -> Result<Self> {
        let names: Vec<&String> = key.iter().chain(others).collect();
        if let Some(at) = (1..names.len()).find(|at| names[..*at].contains(&names[*at])) {
            let message =
                format!("the mapping of table {} names the column {} twice", shape.shown, names[at]);
            return Err(invalid(message));
        }
        let mut fields = Vec::with_capacity(names.len());
        for name in names {
            let column = shape.column(name)?.clone();
            if column.generated {
                let message = format!(
                    "column {name} of table {} is generated and cannot be written; leave it out of the mapping",
                    shape.shown
                );
                return Err(invalid(message));
            }
            if let Native::Other(kind) = &column.native {
                let message = format!(
                    "column {name} of table {} is of the type {kind}, which cannot be carried; leave it out or \
                     change its type",
                    shape.shown
                );
                return Err(invalid(message));
            }
            let ty = carried.iter().find(|(own, _)| own == name).map(|(_, ty)| ty);
            let codec = Codec::new(column.native.clone(), ty);
            fields.push(Field { quoted: quoted(name), column, codec });
        }
        let key_len = key.len();
        if let Some(field) = fields[..key_len].iter().find(|field| !field.codec.keeps_order()) {
            let message = format!(
                "the key column {} of table {} is declared {}, whose order is not that of {}; carry the key as the \
                 column has it",
                field.column.name,
                shape.shown,
                field.column.declared,
                field.codec.carried()
            );
            return Err(invalid(message));
        }
        let comparisons: Vec<_> = fields[..key_len].iter().map(|field| field.column.comparison()).collect();
        let walk = match comparisons[..] {
            [Comparison::Padded] => Walk::Padded,
            _ if comparisons.iter().all(|comparison| *comparison == Comparison::Exact) => Walk::Columns,
            _ => Walk::Bytes,
        };
        let loose = fields[..key_len].iter().any(Field::is_loose);
        let stride = fields.len();
        let sizes = |parameters: usize| {
            let most = (MOST_PARAMETERS / parameters.max(1)).clamp(1, MOST_ROWS);
            (0..).map(|power| 1_usize << power).take_while(move |size| *size <= most)
        };
        let mut table = Self {
            quoted: shape.quoted(),
            shape,
            fields,
            key_len,
            walk,
            loose,
            one: "".into(),
            upserts: Vec::new(),
            deletes: Vec::new(),
            insert: "".into(),
            update: None,
        };
        let columns = table.column_names();
        table.one = format!("SELECT {columns} FROM {} WHERE {}", table.quoted, table.key_in(1)).into();
        let insert = format!("INSERT INTO {} ({columns}) VALUES ", table.quoted);
        let row = format!("({})", marks(stride));
        table.insert = format!("{insert}{row}").into();
        let on_duplicate = table.on_duplicate();
        table.upserts = sizes(stride)
            .map(|rows| {
                format!("{insert}{} ON DUPLICATE KEY UPDATE {on_duplicate}", vec![&*row; rows].join(","))
                    .into()
            })
            .collect();
        let exact = table.key_is();
        table.deletes = if loose {
            vec![format!("DELETE FROM {} WHERE {exact}", table.quoted).into()]
        } else {
            sizes(key_len)
                .map(|rows| format!("DELETE FROM {} WHERE {}", table.quoted, table.key_in(rows)).into())
                .collect()
        };
        table.update = (stride > key_len).then(|| {
            let set: Vec<_> =
                table.fields[key_len..].iter().map(|field| format!("{} = ?", field.quoted)).collect();
            format!("UPDATE {} SET {} WHERE {exact}", table.quoted, set.join(", ")).into()
        });
        Ok(table)
    }

    /// The name for messages and for the stamps.
    pub(super) fn name(&self) -> &str {
        &self.shape.shown
    }

    pub(super) fn key(&self) -> &[Field] {
        &self.fields[..self.key_len]
    }

    pub(super) const fn stride(&self) -> usize {
        self.fields.len()
    }

    pub(super) fn key_columns(&self) -> String {
        self.key().iter().map(|field| field.column.name.as_str()).collect::<Vec<_>>().join(", ")
    }

    fn column_names(&self) -> String {
        list(self.fields.iter().map(|field| field.quoted.as_str()))
    }

    pub(super) fn key_names(&self) -> String {
        list(self.key().iter().map(|field| field.quoted.as_str()))
    }

    /// Statements that together upsert `rows` rows, each with its number of rows.
    pub(super) fn upserts(&self, rows: usize) -> impl Iterator<Item = (&Arc<str>, usize)> + Send {
        cut(&self.upserts, rows)
    }

    /// Statements that together delete `keys` keys, each with its number of keys.
    pub(super) fn deletes(&self, keys: usize) -> impl Iterator<Item = (&Arc<str>, usize)> + Send {
        cut(&self.deletes, keys)
    }

    /// Reads rows by key. Parameters: the keys. It may find rows whose keys are only equal to the server.
    pub(super) fn many(&self, keys: usize) -> String {
        format!("SELECT {} FROM {} WHERE {}", self.column_names(), self.quoted, self.key_in(keys))
    }

    /// Reads the rows of a WHERE clause in an order, up to a limit.
    pub(super) fn page(&self, within: &str, order: &str) -> String {
        let columns = self.column_names();
        format!("SELECT {columns} FROM {} {within} ORDER BY {order} LIMIT ?", self.quoted)
    }

    /// What an upsert does with a row that is there. The server may mean the row that holds another unique
    /// value, or a key that is only equal to it: then the greatest of all integers and one are added up,
    /// which is an error. A key that becomes NULL would be none: the server makes 0 of it where it counts,
    /// and the present time of it in a TIMESTAMP.
    fn on_duplicate(&self) -> String {
        let mut set = Vec::new();
        if self.loose || self.contended().next().is_some() {
            let same: Vec<_> = self
                .key()
                .iter()
                .map(|field| {
                    let name = &field.quoted;
                    if field.is_loose() {
                        format!("CAST({name} AS BINARY) <=> CAST(VALUES({name}) AS BINARY)")
                    } else {
                        format!("{name} <=> VALUES({name})")
                    }
                })
                .collect();
            let first = &self.fields[0].quoted;
            let same = same.join(" AND ");
            set.push(format!("{first} = IF(18446744073709551615 + (NOT ({same})) > 0, {first}, {first})"));
        }
        let others = self.fields[self.key_len..].iter();
        set.extend(others.map(|field| format!("{0} = VALUES({0})", field.quoted)));
        if set.is_empty() {
            set.push(format!("{0} = {0}", self.fields[0].quoted));
        }
        set.join(", ")
    }

    /// The unique indexes that a put can run into, beside its own row.
    pub(super) fn contended(&self) -> impl Iterator<Item = &Index> {
        self.shape.indexes.iter().filter(|index| index.unique && (self.loose || !self.is_key(index)))
    }

    fn is_key(&self, index: &Index) -> bool {
        index.whole_columns().is_some_and(|names| {
            names.len() == self.key_len
                && self.key().iter().all(|field| names.contains(&field.column.name.as_str()))
        })
    }

    /// The exact key of one row. Parameters: [`exact`](Self::exact).
    pub(super) fn key_is(&self) -> String {
        let parts: Vec<_> = self
            .key()
            .iter()
            .map(|field| {
                let equal = format!("{} = {}", field.quoted, field.mark());
                if field.is_loose() { format!("{equal} AND {} = ?", field.column.as_bytes()) } else { equal }
            })
            .collect();
        parts.join(" AND ")
    }

    /// The parameters of [`key_is`](Self::key_is) for encoded key values.
    pub(super) fn exact(&self, key: &[Value]) -> Vec<Value> {
        let mut parameters = Vec::with_capacity(key.len() + 1);
        for (field, value) in self.key().iter().zip(key) {
            parameters.push(value.clone());
            if field.is_loose() {
                parameters.push(super::arguments::as_bytes(value.clone()));
            }
        }
        parameters
    }

    fn key_in(&self, keys: usize) -> String {
        let marks: Vec<_> = self.key().iter().map(Field::mark).collect();
        match (&marks[..], keys) {
            ([mark], 1) => format!("{} = {mark}", self.fields[0].quoted),
            ([mark], _) => format!("{} IN ({})", self.fields[0].quoted, vec![mark.as_str(); keys].join(",")),
            // MariaDB 10.11 misses rows when it has to convert texts in a list of several columns.
            _ if self.key().iter().any(|field| field.column.is_converted()) => {
                let columns = self.key().iter().zip(&marks);
                let one: Vec<_> = columns.map(|(field, mark)| format!("{} = {mark}", field.quoted)).collect();
                let one = format!("({})", one.join(" AND "));
                vec![one.as_str(); keys].join(" OR ")
            }
            _ => {
                let one = format!("({})", marks.join(","));
                format!("({}) IN ({})", self.key_names(), vec![one.as_str(); keys].join(","))
            }
        }
    }
}

/// Cuts items into pieces whose lengths are powers of two, so that statements for them come in few
/// lengths and stay prepared.
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

pub(super) fn marks(count: usize) -> String {
    vec!["?"; count].join(",")
}

fn list<'a>(names: impl Iterator<Item = &'a str>) -> String {
    names.collect::<Vec<_>>().join(", ")
}
