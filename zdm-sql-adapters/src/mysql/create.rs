//! Tables as others can make the like of them, and tables made like others.

use sqlx::AssertSqlSafe;
use zdm_core::error::{Error, Kind, Result};

use super::MySql;
use super::classify::classify;
use super::native::Native;
use super::shape::{Shape, invalid, quoted};
use crate::table::{
    ColumnShape, ColumnType, Dialect, ForeignKeyShape, IndexShape, TableShape, check_clauses,
    default_clauses, expression_clause, parents_first,
};

/// An index has room for so many bytes.
const INDEX_BYTES: u32 = 3_072;
/// A row has room for so many bytes beside its long texts; some of them are for everything that is short.
const ROW_BYTES: u32 = 48_000;
/// Texts and bytes longer than this are kept beside the row.
const LONG: u32 = 4_000;

/// The statements that make a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableSql {
    /// Makes the table with its columns and its key.
    pub create: String,
    /// Make the other indexes, once the rows are loaded.
    pub indexes: Vec<String>,
    /// Make the foreign keys, once the rows of all tables are loaded.
    pub foreign_keys: Vec<String>,
    /// What the table has elsewhere and will not have here, as sentences for whoever decides about it.
    pub left_out: Vec<String>,
}

impl MySql {
    /// What it takes to make the like of a table elsewhere.
    ///
    /// Indexes over expressions or over the beginning of a column are listed in [`TableShape::left_out`].
    ///
    /// # Errors
    /// `Kind::Invalid` when there is no such table.
    pub async fn describe(&self, table: &str) -> Result<TableShape> {
        let shape = self.shape(table).await?;
        Ok(described(&shape))
    }

    /// The names of the tables of the database in an order that foreign keys allow: parents first. The
    /// bookkeeping's own are left out.
    ///
    /// # Errors
    /// Whatever the server says.
    pub async fn tables(&self) -> Result<Vec<String>> {
        let doing = |error| classify(error, "listing the tables");
        let mut reader = self.reader().await?;
        let tables: Vec<String> = sqlx::query_scalar(
            "SELECT CAST(table_name AS CHAR) FROM information_schema.tables WHERE table_schema = DATABASE() \
             AND table_type = 'BASE TABLE' AND table_name NOT LIKE 'zdm\\_%' ORDER BY table_name",
        )
        .fetch_all(&mut *reader)
        .await
        .map_err(doing)?;
        let references: Vec<(String, String)> = sqlx::query_as(
            "SELECT CAST(table_name AS CHAR), CAST(referenced_table_name AS CHAR) \
             FROM information_schema.key_column_usage WHERE table_schema = DATABASE() \
             AND referenced_table_schema = DATABASE() AND referenced_table_name <> table_name",
        )
        .fetch_all(&mut *reader)
        .await
        .map_err(doing)?;
        reader.release();
        Ok(parents_first(tables, |child, parent| {
            references.iter().any(|(own, other)| own == child && other == parent)
        }))
    }

    /// The statements that make the like of a table here. Texts get a collation that compares bytes, so that
    /// what is unique elsewhere is unique here; UUIDs become `CHAR(36)`, because the server's own type has
    /// another order; points in time become `DATETIME`, in UTC where they have a zone, because `TIMESTAMP`
    /// ends in 2038.
    ///
    /// From another MySQL or MariaDB come defaults, generated columns and checks; from elsewhere defaults that
    /// are constants or the present time, and counters. The rest is in [`TableSql::left_out`].
    ///
    /// # Errors
    /// `Kind::Invalid` naming a column, an index or a foreign key that has no like here.
    pub fn create_sql(&self, shape: &TableShape) -> Result<TableSql> {
        made(shape, self.is_mariadb())
    }

    /// Lets the server count on above `past` and above every value there is, in the AUTO_INCREMENT column of
    /// a table: after a handover, above the last value that the old side gave out. Returns the next value;
    /// `None` when the table has no such column.
    ///
    /// # Errors
    /// `Kind::Invalid` when there is no such table, or no room above; else whatever the server says.
    pub async fn advance_auto_increment(&self, table: &str, past: u64) -> Result<Option<u64>> {
        let shape = self.shape(table).await?;
        let Some(column) = shape.columns.iter().find(|column| column.counted) else { return Ok(None) };
        let given_out = self.given_out(&shape).await?;
        let last = self.greatest(&shape, &column.name).await?.max(past).max(given_out);
        let next = last.checked_add(1).ok_or_else(|| {
            invalid(format!("the column {} of table {table} has no room above {past}", column.name))
        })?;
        if last == given_out {
            // It does so by itself; an ALTER would wait for every reader of the table.
            return Ok(Some(next));
        }
        self.execute(format!("ALTER TABLE {} AUTO_INCREMENT = {next}", shape.quoted())).await?;
        Ok(Some(next))
    }

    /// The last value that the server has given out in the AUTO_INCREMENT column of a table, or the
    /// greatest that it has seen there. `None` when the table has no such column.
    ///
    /// # Errors
    /// `Kind::Invalid` when there is no such table; else whatever the server says.
    pub async fn last_auto_increment(&self, table: &str) -> Result<Option<u64>> {
        let shape = self.shape(table).await?;
        let Some(column) = shape.columns.iter().find(|column| column.counted) else { return Ok(None) };
        Ok(Some(self.greatest(&shape, &column.name).await?.max(self.given_out(&shape).await?)))
    }

    async fn greatest(&self, shape: &Shape, column: &str) -> Result<u64> {
        let sql = format!(
            "SELECT CAST(COALESCE(MAX({0}), 0) AS UNSIGNED) FROM {1} WHERE {0} > 0",
            quoted(column),
            shape.quoted()
        );
        let mut reader = self.reader().await?;
        let greatest: u64 =
            sqlx::query_scalar(AssertSqlSafe(sql)).fetch_one(&mut *reader).await.map_err(|error| {
                classify(error, &format!("looking for the greatest key of table {}", shape.shown))
            })?;
        reader.release();
        Ok(greatest)
    }

    async fn given_out(&self, shape: &Shape) -> Result<u64> {
        let mut reader = self.reader().await?;
        if !self.is_mariadb() {
            // MySQL 8 shows what it read a day ago.
            sqlx::query("SET SESSION information_schema_stats_expiry = 0")
                .execute(&mut *reader)
                .await
                .map_err(|error| classify(error, "asking for fresh statistics"))?;
        }
        let next: Option<u64> = sqlx::query_scalar(
            "SELECT CAST(auto_increment AS UNSIGNED) FROM information_schema.tables \
             WHERE table_schema = ? AND table_name = ?",
        )
        .bind(&shape.database)
        .bind(&shape.table)
        .fetch_one(&mut *reader)
        .await
        .map_err(|error| classify(error, &format!("reading the counter of table {}", shape.shown)))?;
        reader.release();
        Ok(next.unwrap_or(1).saturating_sub(1))
    }
}

fn described(shape: &Shape) -> TableShape {
    let key = shape.natural_key().unwrap_or_default();
    let (mut indexes, mut left_out) = (Vec::new(), Vec::new());
    for index in &shape.indexes {
        match index.whole_columns() {
            Some(columns) if columns == key => {}
            Some(columns) => indexes.push(IndexShape {
                name: index.name.clone(),
                columns: columns.into_iter().map(str::to_owned).collect(),
                unique: index.unique,
            }),
            None => left_out.push(format!(
                "table {}: the index {}, over an expression or a part of a column, is left out",
                shape.shown, index.name
            )),
        }
    }
    let parent = |database: &str, parent: &str| {
        if database == shape.database { parent.to_owned() } else { format!("{database}.{parent}") }
    };
    TableShape {
        name: shape.shown.clone(),
        columns: shape
            .columns
            .iter()
            .map(|column| ColumnShape {
                name: column.name.clone(),
                ty: column.native.natural(),
                declared: match (&column.native, &column.charset, &column.collation) {
                    (Native::Json, ..) => "json".to_owned(),
                    (_, Some(charset), Some(collation)) => {
                        format!("{} CHARACTER SET {charset} COLLATE {collation}", column.declared)
                    }
                    _ => column.declared.clone(),
                },
                not_null: column.not_null,
                generated: column.generated,
                expression: column.expression.clone(),
                counted: column.counted,
                default: column.default.clone().filter(|_| !column.counted && !column.generated),
                on_update_now: column.on_update_now,
            })
            .collect(),
        key,
        indexes,
        foreign_keys: shape
            .foreign_keys
            .iter()
            .map(|own| ForeignKeyShape {
                name: own.name.clone(),
                columns: own.columns.iter().map(|(column, _)| column.clone()).collect(),
                parent: parent(&own.database, &own.parent),
                parent_columns: own.columns.iter().map(|(_, column)| column.clone()).collect(),
                on_delete: own.on_delete.clone(),
                on_update: own.on_update.clone(),
            })
            .collect(),
        dialect: Some(Dialect::MySql),
        checks: shape.checks.clone(),
        statement: None,
        left_out,
    }
}

fn made(shape: &TableShape, mariadb: bool) -> Result<TableSql> {
    let table = name_of(&shape.name);
    // Columns of an index that must hold the whole value share its room.
    let share = |name: &str| {
        let whole = std::iter::once(&shape.key)
            .chain(shape.indexes.iter().filter(|index| index.unique).map(|index| &index.columns))
            .chain(shape.foreign_keys.iter().map(|key| &key.columns));
        let lengths = whole.filter(|columns| columns.iter().any(|own| own == name)).map(Vec::len);
        lengths.max().map(|length| INDEX_BYTES / u32::try_from(length).unwrap_or(1).max(1))
    };
    let mut room = ROW_BYTES;
    let (mut lines, mut left_out, mut written) =
        (Vec::new(), shape.left_out.clone(), Vec::<&ColumnShape>::new());
    for column in &shape.columns {
        let generated = if column.generated {
            let Some(clause) = expression_clause(shape, column, Dialect::MySql, &mut left_out) else {
                continue;
            };
            clause
        } else {
            String::new()
        };
        written.push(column);
        let ty = sql_type(&column.ty, share(&column.name), &mut room, mariadb).map_err(|reason| {
            let message = format!("column {} of table {}: {reason}", column.name, shape.name);
            Error::new(Kind::Invalid, message)
        })?;
        let null = match column.not_null || shape.key.contains(&column.name) {
            // MariaDB takes neither word behind an expression.
            _ if column.generated => "",
            true => " NOT NULL",
            false => " NULL",
        };
        let counted = column.counted && shape.key.first() == Some(&column.name);
        if column.counted && !counted {
            left_out.push(format!(
                "table {}, column {}: nothing counts it up here, because it is not the first of the key",
                shape.name, column.name
            ));
        }
        let counted = if counted { " AUTO_INCREMENT" } else { "" };
        let default = default_clauses(shape, column, Dialect::MySql, &mut left_out);
        lines.push(format!("    {} {ty}{generated}{null}{default}{counted}", quoted(&column.name)));
    }
    if !shape.key.is_empty() {
        lines.push(format!("    PRIMARY KEY ({})", names(&shape.key)));
    }
    let checks = check_clauses(shape, Dialect::MySql, quoted, &mut left_out);
    lines.extend(checks.into_iter().map(|check| format!("    {check}")));
    let known = |name: &String| written.iter().any(|column| column.name == *name);
    let create = format!(
        "CREATE TABLE {table} (\n{}\n) ENGINE = InnoDB ROW_FORMAT = DYNAMIC DEFAULT CHARACTER SET utf8mb4 COLLATE {}",
        lines.join(",\n"),
        collation(mariadb)
    );
    let mut indexes = Vec::new();
    for index in &shape.indexes {
        if !index.columns.iter().all(known) {
            left_out.push(format!(
                "table {}: the index {} over a generated column is left out",
                shape.name, index.name
            ));
            continue;
        }
        let parts: Vec<_> = index
            .columns
            .iter()
            .map(|name| {
                let column = written.iter().find(|column| column.name == *name);
                // Only the beginning of a long text; a unique index has made it short.
                let long = column.is_some_and(|column| is_long(&column.ty)) && share(name).is_none();
                if long { format!("{}(191)", quoted(name)) } else { quoted(name) }
            })
            .collect();
        let unique = if index.unique { "UNIQUE " } else { "" };
        indexes.push(format!(
            "CREATE {unique}INDEX {} ON {table} ({})",
            quoted(&shortened(&index.name)),
            parts.join(", ")
        ));
    }
    let mut foreign_keys = Vec::new();
    for key in &shape.foreign_keys {
        let mut actions = String::new();
        for (event, action) in [("DELETE", &key.on_delete), ("UPDATE", &key.on_update)] {
            match action.to_ascii_uppercase().as_str() {
                "" | "NO ACTION" => {}
                known @ ("RESTRICT" | "CASCADE" | "SET NULL") => {
                    actions.push_str(&format!(" ON {event} {known}"));
                }
                other => {
                    let message = format!(
                        "the foreign key over {} of table {} says ON {event} {other}, which InnoDB does not know",
                        key.columns.join(", "),
                        shape.name
                    );
                    return Err(Error::new(Kind::Invalid, message));
                }
            }
        }
        let constraint = if key.name.is_empty() {
            String::new()
        } else {
            format!("CONSTRAINT {} ", quoted(&shortened(&key.name)))
        };
        foreign_keys.push(format!(
            "ALTER TABLE {table} ADD {constraint}FOREIGN KEY ({}) REFERENCES {} ({}){actions}",
            names(&key.columns),
            name_of(&key.parent),
            names(&key.parent_columns)
        ));
    }
    Ok(TableSql { create, indexes, foreign_keys, left_out })
}

fn collation(mariadb: bool) -> &'static str {
    if mariadb { "utf8mb4_nopad_bin" } else { "utf8mb4_0900_bin" }
}

/// The name alone: a schema of another database has no place here.
fn name_of(name: &str) -> String {
    quoted(name.rsplit_once('.').map_or(name, |(_, table)| table))
}

fn names(columns: &[String]) -> String {
    columns.iter().map(|name| quoted(name)).collect::<Vec<_>>().join(", ")
}

/// Names have at most 64 characters here.
fn shortened(name: &str) -> String {
    name.chars().take(64).collect()
}

fn is_long(ty: &ColumnType) -> bool {
    match ty {
        ColumnType::Text { max } | ColumnType::Bytes { max } => max.is_none_or(|max| max > 700),
        ColumnType::Json | ColumnType::Bits | ColumnType::Other(_) => true,
        _ => false,
    }
}

fn sql_type(ty: &ColumnType, indexed: Option<u32>, room: &mut u32, mariadb: bool) -> Result<String, String> {
    let mut text = |max: Option<u32>| {
        let fits = max.filter(|max| *max <= LONG && max * 4 <= *room);
        match (fits, indexed) {
            (_, Some(bytes)) => format!("VARCHAR({})", max.unwrap_or(u32::MAX).min(bytes / 4)),
            (Some(max), None) => {
                *room -= max * 4;
                format!("VARCHAR({max})")
            }
            (None, None) => "LONGTEXT".to_owned(),
        }
    };
    Ok(match ty {
        ColumnType::Any => {
            return Err("it has no type; make the table by hand, or declare the column's type".to_owned());
        }
        ColumnType::Boolean => "TINYINT(1)".to_owned(),
        ColumnType::Integer { min, max } => integer(*min, *max).to_owned(),
        ColumnType::Decimal { precision: Some(precision), scale, .. } => {
            let scale = scale.unwrap_or_default().min(30);
            format!("DECIMAL({},{scale})", (*precision).clamp(scale.max(1), 65))
        }
        // The most digits that there can be; others are set aside when they come.
        ColumnType::Decimal { .. } => "DECIMAL(65,30)".to_owned(),
        ColumnType::Real { bits: 32, .. } => "FLOAT".to_owned(),
        ColumnType::Real { .. } => "DOUBLE".to_owned(),
        ColumnType::Text { max } => text(*max),
        ColumnType::Bytes { max } => match (max.filter(|max| *max <= LONG && *max <= *room), indexed) {
            (_, Some(bytes)) => format!("VARBINARY({})", max.unwrap_or(u32::MAX).min(bytes)),
            (Some(max), None) => {
                *room -= max;
                format!("VARBINARY({max})")
            }
            (None, None) => "LONGBLOB".to_owned(),
        },
        ColumnType::Date => "DATE".to_owned(),
        ColumnType::Time => "TIME(6)".to_owned(),
        ColumnType::Timestamp { digits, .. } => format!("DATETIME({})", digits.min(&6)),
        ColumnType::Interval => text(Some(64)),
        ColumnType::Json => "JSON".to_owned(),
        ColumnType::Uuid => {
            let collation = if mariadb { "ascii_nopad_bin" } else { "ascii_bin" };
            format!("CHAR(36) CHARACTER SET ascii COLLATE {collation}")
        }
        ColumnType::Bits | ColumnType::Other(_) => text(None),
    })
}

/// The smallest type that holds a range.
fn integer(min: i64, max: u64) -> &'static str {
    let types = [
        (8, "TINYINT", "TINYINT UNSIGNED"),
        (16, "SMALLINT", "SMALLINT UNSIGNED"),
        (24, "MEDIUMINT", "MEDIUMINT UNSIGNED"),
        (32, "INT", "INT UNSIGNED"),
        (64, "BIGINT", "BIGINT UNSIGNED"),
    ];
    for (bits, signed, unsigned) in types {
        for (ty, name) in [(ColumnType::signed(bits), signed), (ColumnType::unsigned(bits), unsigned)] {
            let ColumnType::Integer { min: least, max: greatest } = ty else { continue };
            if least <= min && max <= greatest {
                return name;
            }
        }
    }
    "BIGINT"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_get_the_smallest_type() {
        assert_eq!(integer(-128, 127), "TINYINT");
        assert_eq!(integer(0, 255), "TINYINT UNSIGNED");
        assert_eq!(integer(0, 2155), "SMALLINT");
        assert_eq!(integer(0, u64::MAX), "BIGINT UNSIGNED");
        assert_eq!(integer(i64::MIN, i64::MAX.unsigned_abs()), "BIGINT");
    }

    #[test]
    fn texts_in_an_index_are_short_and_long_ones_leave_the_row() {
        let text = |max| ColumnType::Text { max };
        let sql = |max, indexed| sql_type(&text(max), indexed, &mut ROW_BYTES.clone(), true).unwrap();
        assert_eq!(sql(None, Some(3_072)), "VARCHAR(768)");
        assert_eq!(sql(Some(20), Some(1_536)), "VARCHAR(20)");
        assert_eq!(sql(Some(20), None), "VARCHAR(20)");
        assert_eq!(sql(None, None), "LONGTEXT");
        let mut room = 100;
        assert_eq!(sql_type(&text(Some(20)), None, &mut room, true).unwrap(), "VARCHAR(20)");
        assert_eq!(sql_type(&text(Some(20)), None, &mut room, true).unwrap(), "LONGTEXT");
    }
}
