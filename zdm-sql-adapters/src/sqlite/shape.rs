use sqlx::sqlite::SqliteConnection;
use sqlx::{AssertSqlSafe, Row};
use zdm_core::error::{Error, Kind, Result};

use super::classify::classify;
use crate::table::KeyClass;

/// What a column does to the values that are stored in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Affinity {
    Integer,
    Text,
    Blob,
    Real,
    Numeric,
}

impl Affinity {
    /// SQLite's own rule, by words within the declared type.
    fn of(declared: &str) -> Self {
        let declared = declared.to_ascii_uppercase();
        let has = |word: &str| declared.contains(word);
        if has("INT") {
            Self::Integer
        } else if has("CHAR") || has("CLOB") || has("TEXT") {
            Self::Text
        } else if has("BLOB") || declared.is_empty() {
            Self::Blob
        } else if has("REAL") || has("FLOA") || has("DOUB") {
            Self::Real
        } else {
            Self::Numeric
        }
    }
}

/// A column of a table.
#[derive(Clone, Debug)]
pub(super) struct Column {
    pub(super) name: String,
    pub(super) declared: String,
    pub(super) affinity: Affinity,
    pub(super) not_null: bool,
    pub(super) generated: bool,
    /// The default as SQL.
    pub(super) default: Option<String>,
    /// Whether text is compared byte by byte.
    binary: bool,
}

/// A set of columns of which no two rows have the same values.
#[derive(Clone, Debug)]
pub(super) struct Unique {
    pub(super) name: String,
    /// The columns with their collations; `None` for an expression.
    pub(super) parts: Vec<Option<(String, String)>>,
    pub(super) partial: bool,
    pub(super) primary: bool,
}

/// A reference to rows of another table.
#[derive(Clone, Debug)]
pub(super) struct ForeignKey {
    pub(super) parent: String,
    /// The columns of this table, each with the parent's.
    pub(super) columns: Vec<(String, String)>,
    pub(super) on_update: String,
    pub(super) on_delete: String,
}

/// A table as the database declares it.
#[derive(Clone, Debug)]
pub(super) struct Shape {
    pub(super) table: String,
    pub(super) strict: bool,
    pub(super) columns: Vec<Column>,
    pub(super) uniques: Vec<Unique>,
    pub(super) foreign_keys: Vec<ForeignKey>,
    /// Whether a foreign key, of this table or of another one, ties its rows to others.
    pub(super) linked: bool,
    /// The column that is the rowid, which has no index of its own.
    pub(super) rowid: Option<String>,
    /// Whether SQLite keeps a counter for it.
    pub(super) autoincrement: bool,
    /// The CREATE TABLE statement.
    pub(super) sql: String,
    utf8: bool,
}

impl Shape {
    pub(super) async fn read(connection: &mut SqliteConnection, table: &str) -> Result<Self> {
        Self::query(connection, table)
            .await
            .map_err(|error| classify(error, &format!("reading the shape of table {table}")))?
    }

    async fn query(connection: &mut SqliteConnection, table: &str) -> sqlx::Result<Result<Self>> {
        let kind: Option<(String, String, bool, bool)> =
            sqlx::query_as("SELECT name, type, wr, strict FROM pragma_table_list(?) WHERE schema = 'main'")
                .bind(table)
                .fetch_optional(&mut *connection)
                .await?;
        // The name as it was declared: `Users` and `users` are one table with one set of stamps.
        let (table, without_rowid, strict) = match kind {
            Some((name, kind, without_rowid, strict)) if kind == "table" => (name, without_rowid, strict),
            Some((_, kind, ..)) => return Ok(Err(invalid(format!("{table} is a {kind}, not a table")))),
            None => {
                let tables: Vec<String> = sqlx::query_scalar(
                    "SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\' \
                     AND name NOT LIKE 'zdm\\_%' ESCAPE '\\' ORDER BY name",
                )
                .fetch_all(&mut *connection)
                .await?;
                let message = format!("there is no table {table}; the database has {}", listed(&tables));
                return Ok(Err(invalid(message)));
            }
        };
        let encoding: String = sqlx::query_scalar("PRAGMA encoding").fetch_one(&mut *connection).await?;
        let rows: Vec<(String, String, bool, i64, i64, Option<String>)> = sqlx::query_as(
            "SELECT name, type, \"notnull\", pk, hidden, dflt_value FROM pragma_table_xinfo(?) ORDER BY cid",
        )
        .bind(&table)
        .fetch_all(&mut *connection)
        .await?;
        let mut primary: Vec<_> = rows.iter().filter(|row| row.3 > 0).collect();
        primary.sort_by_key(|row| row.3);
        let rowid = match primary[..] {
            [one] if !without_rowid && one.1.eq_ignore_ascii_case("INTEGER") => Some(one.0.clone()),
            _ => None,
        };
        let mut columns = Vec::with_capacity(rows.len());
        for (name, declared, not_null, pk, hidden, default) in rows.iter().filter(|row| row.4 != 1) {
            columns.push(Column {
                name: name.clone(),
                declared: declared.clone(),
                affinity: Affinity::of(declared),
                not_null: *not_null || rowid.as_ref() == Some(name) || (without_rowid && *pk > 0),
                generated: *hidden > 1,
                default: default.clone(),
                binary: compares_bytes(connection, &table, name).await?,
            });
        }

        // An INTEGER PRIMARY KEY DESC is no rowid; then there is an index with origin pk.
        let mut uniques = Vec::new();
        let indexes: Vec<(String, String, bool)> = sqlx::query_as(
            "SELECT name, origin, partial FROM pragma_index_list(?) WHERE \"unique\" ORDER BY origin = 'pk' DESC, seq DESC",
        )
        .bind(&table)
        .fetch_all(&mut *connection)
        .await?;
        let rowid = rowid.filter(|_| !indexes.iter().any(|(_, origin, _)| origin == "pk"));
        if let Some(column) = &rowid {
            uniques.push(Unique {
                name: "the primary key".to_owned(),
                parts: vec![Some((column.clone(), "BINARY".to_owned()))],
                partial: false,
                primary: true,
            });
        }
        for (name, origin, partial) in indexes {
            let parts: Vec<(Option<String>, Option<String>)> =
                sqlx::query_as("SELECT name, coll FROM pragma_index_xinfo(?) WHERE key ORDER BY seqno")
                    .bind(&name)
                    .fetch_all(&mut *connection)
                    .await?;
            let primary = origin == "pk";
            let name =
                if primary { "the primary key".to_owned() } else { format!("the unique index {name}") };
            let parts =
                parts.into_iter().map(|(column, coll)| Some((column?, coll.unwrap_or_default()))).collect();
            uniques.push(Unique { name, parts, partial, primary });
        }

        let mut foreign_keys: Vec<ForeignKey> = Vec::new();
        let references: Vec<(i64, String, String, Option<String>, String, String)> = sqlx::query_as(
            // Without its own list of columns a foreign key refers to the parent's primary key.
            "SELECT seq, \"table\", \"from\", coalesce(\"to\", \
             (SELECT name FROM pragma_table_info(\"table\") WHERE pk = seq + 1)), on_update, on_delete \
             FROM pragma_foreign_key_list(?) ORDER BY id DESC, seq",
        )
        .bind(&table)
        .fetch_all(&mut *connection)
        .await?;
        for (seq, parent, from, to, on_update, on_delete) in references {
            // A parent that is not there refuses every row; the column's name does not matter then.
            let to = to.unwrap_or_else(|| "rowid".to_owned());
            match foreign_keys.last_mut() {
                Some(last) if seq > 0 => last.columns.push((from, to)),
                _ => {
                    let columns = vec![(from, to)];
                    foreign_keys.push(ForeignKey { parent, columns, on_update, on_delete });
                }
            }
        }
        let linked: bool = sqlx::query_scalar(
            "SELECT EXISTS (SELECT 1 FROM sqlite_schema AS own, pragma_foreign_key_list(own.name) AS tie \
             WHERE own.type = 'table' AND (own.name = ?1 COLLATE NOCASE OR tie.\"table\" = ?1 COLLATE NOCASE))",
        )
        .bind(&table)
        .fetch_one(&mut *connection)
        .await?;
        let sql: String =
            sqlx::query_scalar("SELECT sql FROM sqlite_schema WHERE type = 'table' AND name = ?1")
                .bind(&table)
                .fetch_one(&mut *connection)
                .await?;
        // The table of counters comes with the first such column. The word in a comment, in the end,
        // makes a counter that nobody reads.
        let counters: bool =
            sqlx::query_scalar("SELECT EXISTS (SELECT 1 FROM sqlite_schema WHERE name = 'sqlite_sequence')")
                .fetch_one(&mut *connection)
                .await?;
        let autoincrement = counters && rowid.is_some() && sql.to_ascii_uppercase().contains("AUTOINCREMENT");
        let utf8 = encoding == "UTF-8";
        Ok(Ok(Self {
            table,
            strict,
            columns,
            uniques,
            foreign_keys,
            linked,
            rowid,
            autoincrement,
            sql,
            utf8,
        }))
    }

    pub(super) fn column(&self, name: &str) -> Result<&Column> {
        self.columns.iter().find(|column| column.name == name).ok_or_else(|| {
            let names: Vec<_> = self.columns.iter().map(|column| column.name.clone()).collect();
            invalid(format!("table {} has no column {name}; it has {}", self.table, listed(&names)))
        })
    }

    /// Whether the columns, in any order, are what a unique constraint over whole columns covers.
    fn unique_over(&self, columns: &[String]) -> Option<&Unique> {
        self.uniques.iter().find(|unique| {
            let names: Vec<_> = unique.parts.iter().flatten().map(|(name, _)| name).collect();
            !unique.partial
                && names.len() == unique.parts.len()
                && names.len() == columns.len()
                && columns.iter().all(|column| names.contains(&column))
        })
    }

    /// The columns that address a row: the primary key, else a unique constraint over NOT NULL columns.
    pub(super) fn natural_key(&self) -> Result<Vec<String>> {
        let candidates = self.uniques.iter().filter(|unique| !unique.partial);
        let named = candidates.filter_map(|unique| {
            let names: Option<Vec<_>> =
                unique.parts.iter().map(|part| part.as_ref().map(|(name, _)| name.clone())).collect();
            Some((unique, names?))
        });
        let usable = |unique: &Unique, names: &[String]| {
            unique.primary || names.iter().all(|name| self.column(name).is_ok_and(|column| column.not_null))
        };
        named.into_iter().find(|(unique, names)| usable(unique, names)).map(|(_, names)| names).ok_or_else(|| {
            invalid(format!(
                "table {} has no key: it has neither a primary key nor a unique index over NOT NULL columns; \
                 add one, because rowids may change and cannot address a row for long",
                self.table
            ))
        })
    }

    /// Checks that the columns can be the key: unique, in the byte order of `Key`, of the right class.
    pub(super) fn check_key(&self, columns: &[String], classes: &[KeyClass]) -> Result<()> {
        let table = &self.table;
        let Some(unique) = self.unique_over(columns) else {
            let message = format!(
                "the columns {} of table {table} are no key: neither its primary key nor a unique index covers \
                 exactly them; add a unique index or name other columns",
                columns.join(", ")
            );
            return Err(invalid(message));
        };
        for (index, name) in columns.iter().enumerate() {
            let column = self.column(name)?;
            if column.generated {
                return Err(invalid(format!(
                    "the key column {name} of table {table} is generated and cannot be written"
                )));
            }
            let class = *classes.get(index).or(classes.last()).unwrap_or(&KeyClass::Any);
            let keeps = match class {
                KeyClass::Any | KeyClass::Blob => true,
                KeyClass::Integer => {
                    matches!(column.affinity, Affinity::Integer | Affinity::Numeric | Affinity::Blob)
                }
                KeyClass::Text => matches!(column.affinity, Affinity::Text | Affinity::Blob),
            };
            if !keeps {
                let message = format!(
                    "the key column {name} of table {table} is declared {}, which turns {class:?} keys into \
                     something else; use another key type",
                    column.declared
                );
                return Err(invalid(message));
            }
            let may_hold_text = match class {
                KeyClass::Text => true,
                KeyClass::Any => self.rowid.as_ref() != Some(name),
                KeyClass::Integer | KeyClass::Blob => false,
            };
            if !may_hold_text {
                continue;
            }
            let parts = unique.parts.iter().flatten();
            let in_index = parts.filter(|(part, _)| part == name).all(|(_, collation)| collation == "BINARY");
            if !column.binary || !in_index {
                let message = format!(
                    "the key column {name} of table {table} has a collation of its own, under which different keys \
                     may be the same row and rows stand in another order than keys; declare it COLLATE BINARY"
                );
                return Err(invalid(message));
            }
            if !self.utf8 {
                let message = format!(
                    "the key column {name} of table {table} holds text in UTF-16, whose order is not that of keys; \
                     the database must be in UTF-8"
                );
                return Err(invalid(message));
            }
        }
        Ok(())
    }
}

/// Whether a column compares text byte by byte. No pragma tells the collation of a column, but the
/// program of a comparison does.
async fn compares_bytes(connection: &mut SqliteConnection, table: &str, column: &str) -> sqlx::Result<bool> {
    let sql = format!("EXPLAIN SELECT 1 FROM {} NOT INDEXED WHERE +{} = 'x'", quoted(table), quoted(column));
    let program = sqlx::query(AssertSqlSafe(sql)).fetch_all(connection).await?;
    for step in &program {
        let operation: String = step.try_get("opcode")?;
        if operation == "Ne" || operation == "Eq" {
            let collation: Option<String> = step.try_get("p4")?;
            return Ok(collation.is_some_and(|collation| collation.starts_with("BINARY")));
        }
    }
    Ok(false)
}

pub(super) fn invalid(message: String) -> Error {
    Error::new(Kind::Invalid, message)
}

/// A name as SQL text.
pub(super) fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

fn listed(names: &[String]) -> String {
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}
