use sqlx::mysql::MySqlConnection;
use zdm_core::error::{Error, Kind, Result};

use super::classify::classify;
use super::native::{Declared, Native};
use super::session::LONGEST_KEY;
use crate::table::KeyClass;

/// A column of a table.
#[derive(Clone, Debug)]
pub(super) struct Column {
    pub(super) name: String,
    /// The type as the server writes it.
    pub(super) declared: String,
    pub(super) native: Native,
    pub(super) not_null: bool,
    pub(super) generated: bool,
    /// AUTO_INCREMENT.
    pub(super) counted: bool,
    pub(super) charset: Option<String>,
    pub(super) collation: Option<String>,
    /// The default as SQL.
    pub(super) default: Option<String>,
    /// What it is generated from, and when.
    pub(super) expression: Option<String>,
    /// ON UPDATE CURRENT_TIMESTAMP.
    pub(super) on_update_now: bool,
}

/// How the server compares the values of a key column, against the order of keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Comparison {
    /// The same, and what is equal to the one is to the other.
    Exact,
    /// By code points, but texts are taken as long as each other by spaces at the end.
    Padded,
    /// By a collation of its own, by the order of declaration, or by other bytes.
    Own,
}

/// A set of columns of which no two rows have the same values, or only an index.
#[derive(Clone, Debug)]
pub(super) struct Index {
    pub(super) name: String,
    pub(super) unique: bool,
    /// The columns, each with how many characters of it count; `None` for an expression.
    pub(super) parts: Vec<Option<(String, Option<u64>)>>,
    /// Whether every part goes upwards.
    pub(super) ascending: bool,
}

impl Index {
    /// The columns, where the index is over whole columns.
    pub(super) fn whole_columns(&self) -> Option<Vec<&str>> {
        let whole = |part: &Option<(String, Option<u64>)>| match part {
            Some((_, None)) => true,
            Some((_, Some(_))) | None => false,
        };
        self.parts
            .iter()
            .all(whole)
            .then(|| self.parts.iter().flatten().map(|(name, _)| name.as_str()).collect())
    }
}

/// A reference to rows of another table.
#[derive(Clone, Debug, Default)]
pub(super) struct ForeignKey {
    pub(super) name: String,
    pub(super) database: String,
    pub(super) parent: String,
    /// The columns of this table, each with the parent's.
    pub(super) columns: Vec<(String, String)>,
    pub(super) on_delete: String,
    pub(super) on_update: String,
}

/// A table as the database declares it.
#[derive(Clone, Debug)]
pub(super) struct Shape {
    pub(super) database: String,
    pub(super) table: String,
    /// The name for messages and for the stamps: with the database, where it is not the connection's own.
    pub(super) shown: String,
    pub(super) mariadb: bool,
    pub(super) columns: Vec<Column>,
    /// The primary key first.
    pub(super) indexes: Vec<Index>,
    pub(super) foreign_keys: Vec<ForeignKey>,
    /// Columns of this table that foreign keys refer to.
    pub(super) referenced: Vec<String>,
    /// Names and conditions.
    pub(super) checks: Vec<(String, String)>,
}

type ColumnRow = (
    String,
    String,
    String,
    i64,
    String,
    Option<i64>,
    Option<i64>,
    Option<i64>,
    Option<i64>,
    Option<i64>,
    Option<String>,
    Option<String>,
    Option<String>,
    Option<String>,
);

/// An index, whether it is no unique one, a column, how much of it counts, whether it goes upwards.
type PartRow = (String, i64, Option<String>, Option<i64>, i64);

impl Shape {
    /// Reads a table; `name` may have its database before it, `shop.users` or `` `my.shop`.`users` ``.
    pub(super) async fn read(
        connection: &mut MySqlConnection,
        own: &str,
        mariadb: bool,
        name: &str,
    ) -> Result<Self> {
        let doing = |error| classify(error, &format!("reading the shape of table {name}"));
        let (database, table) = Self::find(connection, own, name).await.map_err(doing)??;
        let shown = if database == own { table.clone() } else { format!("{database}.{table}") };
        let mut shape = Self {
            database,
            table,
            shown,
            mariadb,
            columns: Vec::new(),
            indexes: Vec::new(),
            foreign_keys: Vec::new(),
            referenced: Vec::new(),
            checks: Vec::new(),
        };
        shape.read_columns(connection).await.map_err(doing)?;
        shape.read_indexes(connection).await.map_err(doing)?;
        shape.read_foreign_keys(connection).await.map_err(doing)?;
        Ok(shape)
    }

    async fn find(
        connection: &mut MySqlConnection,
        own: &str,
        name: &str,
    ) -> sqlx::Result<Result<(String, String)>> {
        let (database, table) = match split(name) {
            (Some(database), table) => (database, table),
            (None, table) => (own.to_owned(), table),
        };
        let found: Vec<(String, String, String, Option<String>)> = sqlx::query_as(
            "SELECT CAST(table_schema AS CHAR), CAST(table_name AS CHAR), CAST(table_type AS CHAR), \
             CAST(engine AS CHAR) FROM information_schema.tables WHERE table_schema = ? AND table_name = ?",
        )
        .bind(&database)
        .bind(&table)
        .fetch_all(&mut *connection)
        .await?;
        // The catalog compares without regard to case, whatever the server itself does.
        let folded: i64 = sqlx::query_scalar("SELECT CAST(@@lower_case_table_names AS SIGNED)")
            .fetch_one(&mut *connection)
            .await?;
        let exact = found.iter().position(|row| row.0 == database && row.1 == table);
        let place = exact.or(if folded != 0 && !found.is_empty() { Some(0) } else { None });
        let Some((database, table, kind, engine)) = place.map(|place| found[place].clone()) else {
            let tables: Vec<String> = sqlx::query_scalar(
                "SELECT CAST(table_name AS CHAR) FROM information_schema.tables WHERE table_schema = ? \
                 AND table_type = 'BASE TABLE' AND table_name NOT LIKE 'zdm\\_%' ORDER BY table_name",
            )
            .bind(&database)
            .fetch_all(&mut *connection)
            .await?;
            let message = format!(
                "there is no table {table} in the database {database}, which has {}",
                listed(&tables)
            );
            return Ok(Err(invalid(message)));
        };
        if !matches!(kind.as_str(), "BASE TABLE" | "SYSTEM VERSIONED") {
            return Ok(Err(invalid(format!("{table} is a {}, not a table", kind.to_lowercase()))));
        }
        match engine {
            Some(engine) if engine.eq_ignore_ascii_case("InnoDB") => Ok(Ok((database, table))),
            engine => Ok(Err(invalid(format!(
                "table {table} is kept by the engine {}, which has no transactions; ALTER TABLE {table} \
                 ENGINE = InnoDB first",
                engine.unwrap_or_default()
            )))),
        }
    }

    async fn read_columns(&mut self, connection: &mut MySqlConnection) -> sqlx::Result<()> {
        let checks = if self.mariadb {
            "SELECT CAST(constraint_name AS CHAR), CAST(check_clause AS CHAR) \
             FROM information_schema.check_constraints WHERE constraint_schema = ? AND table_name = ? ORDER BY 1"
        } else {
            "SELECT CAST(own.constraint_name AS CHAR), CAST(own.check_clause AS CHAR) \
             FROM information_schema.check_constraints AS own JOIN information_schema.table_constraints AS tie \
             ON tie.constraint_schema = own.constraint_schema AND tie.constraint_name = own.constraint_name \
             WHERE tie.table_schema = ? AND tie.table_name = ? AND tie.constraint_type = 'CHECK' \
             AND tie.enforced = 'YES' ORDER BY 1"
        };
        let checks: Vec<(String, String)> =
            sqlx::query_as(checks).bind(&self.database).bind(&self.table).fetch_all(&mut *connection).await?;
        let rows: Vec<ColumnRow> = sqlx::query_as(
            "SELECT CAST(column_name AS CHAR), CAST(column_type AS CHAR), CAST(data_type AS CHAR), \
             CAST(is_nullable = 'YES' AS SIGNED), CAST(extra AS CHAR), \
             CAST(character_maximum_length AS SIGNED), CAST(character_octet_length AS SIGNED), \
             CAST(numeric_precision AS SIGNED), CAST(numeric_scale AS SIGNED), CAST(datetime_precision AS SIGNED), \
             CAST(character_set_name AS CHAR), CAST(collation_name AS CHAR), CAST(column_default AS CHAR), \
             CAST(generation_expression AS CHAR) \
             FROM information_schema.columns WHERE table_schema = ? AND table_name = ? ORDER BY ordinal_position",
        )
        .bind(&self.database)
        .bind(&self.table)
        .fetch_all(&mut *connection)
        .await?;
        for (
            name,
            column_type,
            data_type,
            nullable,
            extra,
            characters,
            octets,
            precision,
            scale,
            digits,
            charset,
            collation,
            default,
            expression,
        ) in rows
        {
            let long = |number: Option<i64>| number.and_then(|number| u64::try_from(number).ok());
            let short = |number: Option<i64>| number.and_then(|number| u32::try_from(number).ok());
            let declared = Declared {
                column_type,
                data_type,
                characters: long(characters),
                octets: long(octets),
                precision: short(precision),
                scale: short(scale),
                time_digits: short(digits),
                charset: charset.clone(),
                checked_json: checks.iter().any(|(_, check)| *check == json_check(&name)),
            };
            let extra = extra.to_ascii_uppercase();
            let stored = if extra.contains("VIRTUAL") { "VIRTUAL" } else { "STORED" };
            let default = default.map(|default| match self.mariadb {
                true => default,
                false if extra.contains("DEFAULT_GENERATED") => unescaped(&default),
                false if default.starts_with("b'") || default.starts_with("0x") => default,
                false => format!("'{}'", default.replace('\\', "\\\\").replace('\'', "''")),
            });
            let generated = ["VIRTUAL GENERATED", "STORED GENERATED", "PERSISTENT"];
            self.columns.push(Column {
                native: Native::of(&declared),
                declared: declared.column_type,
                name,
                not_null: nullable == 0,
                generated: generated.iter().any(|word| extra.contains(word)),
                counted: extra.contains("AUTO_INCREMENT"),
                charset,
                collation,
                default,
                expression: expression.filter(|words| !words.is_empty()).map(|words| {
                    format!("({}) {stored}", if self.mariadb { words } else { unescaped(&words) })
                }),
                on_update_now: extra.contains("ON UPDATE"),
            });
        }
        let made_by_type = |check: &str| {
            self.columns
                .iter()
                .any(|column| column.native == Native::Json && check == json_check(&column.name))
        };
        let checks = checks.into_iter().filter(|(_, check)| !made_by_type(check));
        let mariadb = self.mariadb;
        let checks = checks.map(|(name, check)| (name, if mariadb { check } else { unescaped(&check) }));
        self.checks = checks.collect();
        Ok(())
    }

    async fn read_indexes(&mut self, connection: &mut MySqlConnection) -> sqlx::Result<()> {
        let rows: Vec<PartRow> = sqlx::query_as(
            "SELECT CAST(index_name AS CHAR), CAST(non_unique AS SIGNED), CAST(column_name AS CHAR), \
             CAST(sub_part AS SIGNED), CAST(COALESCE(collation, '') = 'A' AS SIGNED) \
             FROM information_schema.statistics WHERE table_schema = ? AND table_name = ? \
             AND index_type IN ('BTREE', 'HASH') \
             ORDER BY index_name = 'PRIMARY' DESC, non_unique, index_name, seq_in_index",
        )
        .bind(&self.database)
        .bind(&self.table)
        .fetch_all(connection)
        .await?;
        for (name, non_unique, column, part, ascending) in rows {
            let part = column.map(|column| (column, part.and_then(|part| u64::try_from(part).ok())));
            match self.indexes.last_mut() {
                Some(last) if last.name == name => {
                    last.parts.push(part);
                    last.ascending &= ascending == 1;
                }
                _ => self.indexes.push(Index {
                    name,
                    unique: non_unique == 0,
                    parts: vec![part],
                    ascending: ascending == 1,
                }),
            }
        }
        Ok(())
    }

    async fn read_foreign_keys(&mut self, connection: &mut MySqlConnection) -> sqlx::Result<()> {
        let rows: Vec<(String, String, String, String, String, String, String)> = sqlx::query_as(
            "SELECT CAST(own.constraint_name AS CHAR), CAST(own.referenced_table_schema AS CHAR), \
             CAST(own.referenced_table_name AS CHAR), CAST(own.column_name AS CHAR), \
             CAST(own.referenced_column_name AS CHAR), CAST(rule.delete_rule AS CHAR), \
             CAST(rule.update_rule AS CHAR) FROM information_schema.key_column_usage AS own \
             JOIN information_schema.referential_constraints AS rule \
             ON rule.constraint_schema = own.constraint_schema AND rule.constraint_name = own.constraint_name \
             AND rule.table_name = own.table_name \
             WHERE own.table_schema = ? AND own.table_name = ? AND own.referenced_table_name IS NOT NULL \
             ORDER BY own.constraint_name, own.ordinal_position",
        )
        .bind(&self.database)
        .bind(&self.table)
        .fetch_all(&mut *connection)
        .await?;
        for (name, database, parent, column, parent_column, on_delete, on_update) in rows {
            match self.foreign_keys.last_mut() {
                Some(last) if last.name == name => last.columns.push((column, parent_column)),
                _ => self.foreign_keys.push(ForeignKey {
                    name,
                    database,
                    parent,
                    columns: vec![(column, parent_column)],
                    on_delete,
                    on_update,
                }),
            }
        }
        self.referenced = sqlx::query_scalar(
            "SELECT DISTINCT CAST(referenced_column_name AS CHAR) FROM information_schema.key_column_usage \
             WHERE referenced_table_schema = ? AND referenced_table_name = ?",
        )
        .bind(&self.database)
        .bind(&self.table)
        .fetch_all(connection)
        .await?;
        Ok(())
    }

    pub(super) fn column(&self, name: &str) -> Result<&Column> {
        self.columns.iter().find(|column| column.name == name).ok_or_else(|| {
            let names: Vec<_> = self.columns.iter().map(|column| column.name.clone()).collect();
            invalid(format!("table {} has no column {name}; it has {}", self.shown, listed(&names)))
        })
    }

    /// The table as SQL text.
    pub(super) fn quoted(&self) -> String {
        format!("{}.{}", quoted(&self.database), quoted(&self.table))
    }

    /// Whether a foreign key of the table refers to the table itself.
    pub(super) fn own_parents(&self) -> impl Iterator<Item = &ForeignKey> {
        self.foreign_keys.iter().filter(|key| key.database == self.database && key.parent == self.table)
    }

    /// The columns that address a row: the primary key, else a unique index over NOT NULL columns.
    pub(super) fn natural_key(&self) -> Result<Vec<String>> {
        let usable = |names: &Vec<&str>| {
            names
                .iter()
                .all(|name| self.column(name).is_ok_and(|column| column.not_null && !column.generated))
        };
        let uniques = self.indexes.iter().filter(|index| index.unique);
        let key = uniques.filter_map(Index::whole_columns).find(usable);
        key.map(|names| names.into_iter().map(str::to_owned).collect()).ok_or_else(|| {
            invalid(format!(
                "table {} has no key: it has neither a primary key nor a unique index over whole NOT NULL columns \
                 that can be written; add one",
                self.shown
            ))
        })
    }

    /// Checks that the columns can be the key: unique, never NULL, of the right class.
    pub(super) fn check_key(&self, columns: &[String], classes: &[KeyClass]) -> Result<()> {
        let table = &self.shown;
        let covers = |index: &Index| {
            index.unique
                && index.whole_columns().is_some_and(|names| {
                    names.len() == columns.len()
                        && columns.iter().all(|column| names.contains(&column.as_str()))
                })
        };
        if !self.indexes.iter().any(covers) {
            let message = format!(
                "the columns {} of table {table} are no key: neither its primary key nor a unique index covers \
                 exactly them; add a unique index or name other columns",
                columns.join(", ")
            );
            return Err(invalid(message));
        }
        for (index, name) in columns.iter().enumerate() {
            let column = self.column(name)?;
            if column.generated {
                let message =
                    format!("the key column {name} of table {table} is generated and cannot be written");
                return Err(invalid(message));
            }
            if !column.not_null {
                let message = format!(
                    "the key column {name} of table {table} may be NULL, and such a row has no key; declare it \
                     NOT NULL"
                );
                return Err(invalid(message));
            }
            if column.longest() > LONGEST_KEY {
                let message = format!(
                    "the key column {name} of table {table} is declared {}, and rows can be sorted by {LONGEST_KEY} \
                     bytes at most; use another key",
                    column.declared
                );
                return Err(invalid(message));
            }
            let class = *classes.get(index).or(classes.last()).unwrap_or(&KeyClass::Any);
            let fits = match (class, &column.native) {
                (_, Native::Json | Native::Address(_) | Native::Other(_)) => false,
                (KeyClass::Any, _) => true,
                (KeyClass::Integer, native) => {
                    matches!(native, Native::Integer { .. } | Native::Decimal { scale: 0, .. } | Native::Year)
                }
                (KeyClass::Text, native) => {
                    matches!(native, Native::Text { .. } | Native::Enum(_) | Native::Bit { .. })
                }
                (KeyClass::Blob, native) => matches!(native, Native::Bytes { .. }),
            };
            if !fits {
                let message = format!(
                    "the key column {name} of table {table} is declared {}, which takes no {} keys; use another key",
                    column.declared,
                    match class {
                        KeyClass::Integer => "integer",
                        KeyClass::Text => "text",
                        KeyClass::Blob => "bytes",
                        KeyClass::Any => "such",
                    }
                );
                return Err(invalid(message));
            }
        }
        Ok(())
    }

    /// Whether an index has the rows in the order of these columns.
    pub(super) fn in_order(&self, columns: &[String]) -> bool {
        self.indexes.iter().any(|index| {
            index.ascending
                && index.parts.len() >= columns.len()
                && columns.iter().zip(&index.parts).all(|(column, part)| {
                    part.as_ref().is_some_and(|(name, prefix)| name == column && prefix.is_none())
                })
        })
    }
}

impl Column {
    /// How the server compares the column's values.
    pub(super) fn comparison(&self) -> Comparison {
        match self.native {
            Native::Text { .. } => {
                let unicode =
                    matches!(self.charset.as_deref(), Some("utf8mb4" | "utf8mb3" | "utf8" | "ascii"));
                match self.collation.as_deref() {
                    Some(name)
                        if unicode && (name.ends_with("_nopad_bin") || name.ends_with("_0900_bin")) =>
                    {
                        Comparison::Exact
                    }
                    Some(name) if unicode && name.ends_with("_bin") => Comparison::Padded,
                    _ => Comparison::Own,
                }
            }
            // MariaDB turns the bytes of some UUIDs round before it compares them.
            Native::Enum(_) | Native::Set(_) | Native::Uuid => Comparison::Own,
            _ => Comparison::Exact,
        }
    }

    /// The place of a text that is compared with the column. A character set that has not all characters
    /// refuses the comparison with one that it lacks, so the text is converted, and gets a question mark.
    pub(super) fn text_mark(&self) -> String {
        match (self.charset.as_deref(), &self.collation) {
            (Some("utf8mb4" | "utf8mb3" | "utf8" | "ascii") | None, _) | (_, None) => "?".to_owned(),
            (Some(charset), Some(collation)) => format!("CONVERT(? USING {charset}) COLLATE {collation}"),
        }
    }

    /// Whether its texts are in another character set than those that are compared with them.
    pub(super) fn is_converted(&self) -> bool {
        self.charset.as_deref().is_some_and(|charset| charset != "utf8mb4")
    }

    /// How many bytes a value may have, texts in UTF-8.
    const fn longest(&self) -> u64 {
        match self.native {
            Native::Text { max, in_bytes: true, utf8: true, .. } | Native::Bytes { max, .. } => max,
            Native::Text { max, utf8: true, .. } => max * 4,
            Native::Text { max, .. } => max * 3,
            _ => 0,
        }
    }

    /// The column as the bytes of its text, in UTF-8.
    pub(super) fn as_bytes(&self) -> String {
        let name = quoted(&self.name);
        match (&self.native, self.charset.as_deref()) {
            (Native::Text { .. }, Some("utf8mb4" | "utf8mb3" | "utf8" | "ascii")) => {
                format!("CAST({name} AS BINARY)")
            }
            (Native::Uuid, _) => format!("CAST(CAST({name} AS CHAR) AS BINARY)"),
            _ => format!("CAST(CONVERT({name} USING utf8mb4) AS BINARY)"),
        }
    }
}

/// The database and the name of a table. A dot separates them, except within backticks.
fn split(name: &str) -> (Option<String>, String) {
    fn part(text: &str) -> (String, &str) {
        if let Some(inner) = text.strip_prefix('`') {
            let (mut part, mut rest) = (String::new(), inner);
            while let Some((before, after)) = rest.split_once('`') {
                part.push_str(before);
                match after.strip_prefix('`') {
                    Some(more) => {
                        part.push('`');
                        rest = more;
                    }
                    None => return (part, after),
                }
            }
        }
        match text.split_once('.') {
            Some((part, _)) => (part.to_owned(), &text[part.len()..]),
            None => (text.to_owned(), ""),
        }
    }
    let (first, rest) = part(name);
    match rest.strip_prefix('.') {
        Some(rest) => (Some(first), part(rest).0),
        None => (None, first),
    }
}

/// What MariaDB checks of a column that was declared JSON.
fn json_check(column: &str) -> String {
    format!("json_valid({})", quoted(column))
}

/// An expression as MySQL keeps it in its catalog has escapes before quotes.
fn unescaped(words: &str) -> String {
    words.replace("\\'", "'")
}

pub(super) fn invalid(message: String) -> Error {
    Error::new(Kind::Invalid, message)
}

/// A name as SQL text.
pub(super) fn quoted(name: &str) -> String {
    format!("`{}`", name.replace('`', "``"))
}

pub(super) fn listed(names: &[String]) -> String {
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_may_have_their_database_before_them() {
        for (name, database, table) in [
            ("users", None, "users"),
            ("shop.users", Some("shop"), "users"),
            ("`my.shop`.`the ``users`", Some("my.shop"), "the `users"),
            ("`a.b`", None, "a.b"),
            ("odd`name", None, "odd`name"),
        ] {
            assert_eq!(split(name), (database.map(str::to_owned), table.to_owned()), "{name}");
        }
        assert_eq!(quoted("a`b"), "`a``b`");
    }
}
