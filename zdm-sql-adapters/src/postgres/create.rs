//! Tables as others can make the like of them, and tables made like others.

use zdm_core::error::{Error, Kind, Result};

use super::Postgres;
use super::classify::classify;
use super::shape::{Column, Shape, quoted};
use crate::table::{
    ColumnShape, ColumnType, Default as DefaultValue, Dialect, ForeignKeyShape, IndexShape, TableShape,
    check_clauses, default_clauses, expression_clause, parents_first,
};

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

impl Postgres {
    /// What it takes to make the like of a table elsewhere.
    ///
    /// Indexes over expressions or over some rows only, and what needs functions or types that were made in
    /// this database, are listed in [`TableShape::left_out`].
    ///
    /// # Errors
    /// `Kind::Invalid` when there is no such table.
    pub async fn describe(&self, table: &str) -> Result<TableShape> {
        let shape = self.shape(table).await?;
        let mut described = described(&shape);
        let mut reader = self.reader().await?;
        let checks: Vec<(String, String, bool)> = sqlx::query_as(
            "SELECT con.conname::text, pg_get_expr(con.conbin, con.conrelid), con.convalidated AND NOT EXISTS \
             (SELECT 1 FROM pg_depend own WHERE own.classid = 'pg_constraint'::regclass AND own.objid = con.oid \
             AND NOT (own.refclassid = 'pg_class'::regclass AND own.refobjid = con.conrelid)) \
             FROM pg_constraint con WHERE con.conrelid = $1::bigint::oid AND con.contype = 'c' ORDER BY con.conname",
        )
        .bind(shape.oid)
        .fetch_all(&mut *reader)
        .await
        .map_err(|error| classify(error, &format!("reading the checks of table {table}")))?;
        reader.release();
        for (name, condition, portable) in checks {
            if portable {
                described.checks.push((name, condition));
            } else {
                // Not every row may fulfil it, or it calls what other databases do not have.
                described.left_out.push(format!(
                    "table {}: the check {name} ({condition}) is left out: it is not valid for all rows, or needs \
                     what only this database has",
                    shape.shown
                ));
            }
        }
        Ok(described)
    }

    /// The names of the tables of the first schema in the search path, in an order that foreign keys allow:
    /// parents first. Partitions are left out, and the bookkeeping's own tables.
    ///
    /// # Errors
    /// Whatever the server says.
    pub async fn tables(&self) -> Result<Vec<String>> {
        let doing = |error| classify(error, "listing the tables");
        let mut reader = self.reader().await?;
        let tables: Vec<String> = sqlx::query_scalar(
            "SELECT c.relname::text FROM pg_class c WHERE c.relnamespace = current_schema()::regnamespace \
             AND c.relkind IN ('r', 'p') AND NOT c.relispartition AND c.relname NOT LIKE 'zdm\\_%'",
        )
        .fetch_all(&mut *reader)
        .await
        .map_err(doing)?;
        let references: Vec<(String, String)> = sqlx::query_as(
            "SELECT child.relname::text, parent.relname::text FROM pg_constraint con \
             JOIN pg_class child ON child.oid = con.conrelid JOIN pg_class parent ON parent.oid = con.confrelid \
             WHERE con.contype = 'f' AND child.relnamespace = current_schema()::regnamespace \
             AND parent.relnamespace = child.relnamespace",
        )
        .fetch_all(&mut *reader)
        .await
        .map_err(doing)?;
        reader.release();
        Ok(parents_first(tables, |child, parent| {
            references.iter().any(|(own, other)| own == child && other == parent)
        }))
    }

    /// The statements that make the like of a table here, in the first schema of the search path. Texts of
    /// the key compare byte by byte, which is the order in which pages are walked.
    ///
    /// From another PostgreSQL come defaults, generated columns and checks as they are; from elsewhere
    /// defaults that are constants or the present time, and counters. The rest is in [`TableSql::left_out`].
    ///
    /// # Errors
    /// `Kind::Invalid` naming a column that has no like here.
    pub fn create_sql(&self, shape: &TableShape) -> Result<TableSql> {
        made(shape)
    }
}

fn described(shape: &Shape) -> TableShape {
    let key = shape.natural_key().unwrap_or_default();
    let (mut indexes, mut left_out) = (Vec::new(), Vec::new());
    for index in &shape.indexes {
        match index.whole_columns().filter(|_| !index.partial) {
            Some(columns) if index.unique && columns == key => {}
            Some(columns) => indexes.push(IndexShape {
                name: index.name.clone(),
                columns: columns.into_iter().map(str::to_owned).collect(),
                unique: index.unique,
            }),
            None => left_out.push(format!(
                "table {}: the index {}, over an expression or over some rows, is left out",
                shape.shown, index.name
            )),
        }
    }
    let parent = |schema: &str, parent: &str| {
        if schema == shape.schema { parent.to_owned() } else { format!("{schema}.{parent}") }
    };
    let columns = shape.columns.iter().map(|column| column_shape(shape, column, &mut left_out)).collect();
    TableShape {
        name: shape.shown.clone(),
        columns,
        key,
        indexes,
        foreign_keys: shape
            .foreign_keys
            .iter()
            .map(|own| ForeignKeyShape {
                name: own.name.clone(),
                columns: own.columns.iter().map(|(column, _)| column.clone()).collect(),
                parent: parent(&own.schema, &own.parent),
                parent_columns: own.columns.iter().map(|(_, column)| column.clone()).collect(),
                on_delete: own.on_delete.clone(),
                on_update: own.on_update.clone(),
            })
            .collect(),
        dialect: Some(Dialect::Postgres),
        checks: Vec::new(),
        statement: None,
        left_out,
    }
}

fn column_shape(shape: &Shape, column: &Column, left_out: &mut Vec<String>) -> ColumnShape {
    let ty = match &column.native {
        Some(native) => native.natural(),
        None => ColumnType::Other(column.declared.clone()),
    };
    let mut note = |what: String| {
        left_out.push(format!("table {}, column {}: {what}", shape.shown, column.name));
    };
    if column.domain {
        note(format!("what the domain {} says beside its type is left out", column.declared));
    }
    let words = column.words.as_ref();
    let expression = words.filter(|_| column.generated && column.portable);
    let default = words.filter(|_| !column.generated && !column.counted).and_then(|words| {
        if column.portable {
            return Some(words.clone());
        }
        // A constant may be cast to a type that only this database has.
        let constant = DefaultValue::read(words, Dialect::Postgres, &ty);
        let constant = constant.and_then(|default| default.sql(Dialect::Postgres, &ty));
        if constant.is_none() {
            note(format!("its default {words}, which needs what only this database has, is left out"));
        }
        constant
    });
    ColumnShape {
        name: column.name.clone(),
        ty,
        declared: column.declared.clone(),
        not_null: column.not_null,
        generated: column.generated,
        expression: expression
            .map(|words| format!("({words}) {}", if column.is_virtual { "VIRTUAL" } else { "STORED" })),
        counted: column.counted,
        default,
        on_update_now: false,
    }
}

fn made(shape: &TableShape) -> Result<TableSql> {
    let bare = bare(&shape.name);
    let table = quoted(bare);
    let (mut lines, mut left_out, mut written) = (Vec::new(), shape.left_out.clone(), Vec::new());
    for column in &shape.columns {
        let generated = if column.generated {
            let Some(clause) = expression_clause(shape, column, Dialect::Postgres, &mut left_out) else {
                continue;
            };
            clause
        } else {
            String::new()
        };
        written.push(column);
        let ty = sql_type(column).map_err(|reason| {
            let message = format!("column {} of table {}: {reason}", column.name, shape.name);
            Error::new(Kind::Invalid, message)
        })?;
        let in_key = shape.key.contains(&column.name);
        let text = matches!(column.ty, ColumnType::Text { .. });
        let collation = if in_key && text { " COLLATE \"C\"" } else { "" };
        let whole = matches!(ty.as_str(), "smallint" | "integer" | "bigint");
        let null = match (column.counted && whole, column.not_null || in_key) {
            (true, _) => " GENERATED BY DEFAULT AS IDENTITY",
            (_, true) => " NOT NULL",
            (_, false) => "",
        };
        if column.counted && !whole {
            left_out.push(format!(
                "table {}, column {}: nothing counts it up here, because it is no whole number of 64 bits",
                shape.name, column.name
            ));
        }
        let default = default_clauses(shape, column, Dialect::Postgres, &mut left_out);
        lines.push(format!("    {} {ty}{collation}{generated}{default}{null}", quoted(&column.name)));
    }
    if !shape.key.is_empty() {
        lines.push(format!("    PRIMARY KEY ({})", names(&shape.key)));
    }
    let checks = check_clauses(shape, Dialect::Postgres, quoted, &mut left_out);
    lines.extend(checks.into_iter().map(|check| format!("    {check}")));
    let create = format!("CREATE TABLE {table} (\n{}\n)", lines.join(",\n"));
    let mut indexes = Vec::new();
    for index in &shape.indexes {
        if !index.columns.iter().all(|name| written.iter().any(|column| column.name == *name)) {
            left_out.push(format!(
                "table {}: the index {} over a generated column is left out",
                shape.name, index.name
            ));
            continue;
        }
        let unique = if index.unique { "UNIQUE " } else { "" };
        // Names of indexes are those of their schema here.
        let name =
            if index.name.starts_with(bare) { index.name.clone() } else { format!("{bare}_{}", index.name) };
        indexes.push(format!(
            "CREATE {unique}INDEX {} ON {table} ({})",
            quoted(&shortened(&name)),
            names(&index.columns)
        ));
    }
    let foreign_keys = shape.foreign_keys.iter().map(|key| {
        let mut actions = String::new();
        for (event, action) in [("DELETE", &key.on_delete), ("UPDATE", &key.on_update)] {
            if !action.is_empty() && !action.eq_ignore_ascii_case("NO ACTION") {
                actions.push_str(&format!(" ON {event} {action}"));
            }
        }
        let constraint = match key.name.as_str() {
            "" => String::new(),
            name => format!("CONSTRAINT {} ", quoted(&shortened(name))),
        };
        format!(
            "ALTER TABLE {table} ADD {constraint}FOREIGN KEY ({}) REFERENCES {} ({}){actions}",
            names(&key.columns),
            quoted(self::bare(&key.parent)),
            names(&key.parent_columns)
        )
    });
    Ok(TableSql { foreign_keys: foreign_keys.collect(), create, indexes, left_out })
}

/// The name alone: a schema or a database of the other side has no place here.
fn bare(name: &str) -> &str {
    name.rsplit_once('.').map_or(name, |(_, table)| table)
}

fn names(columns: &[String]) -> String {
    columns.iter().map(|name| quoted(name)).collect::<Vec<_>>().join(", ")
}

/// Names have at most 63 bytes here.
fn shortened(name: &str) -> String {
    let mut end = name.len().min(63);
    while !name.is_char_boundary(end) {
        end -= 1;
    }
    name[..end].to_owned()
}

fn sql_type(column: &ColumnShape) -> Result<String, String> {
    Ok(match &column.ty {
        ColumnType::Any => {
            return Err("it has no type; make the table by hand, or declare the column's type".to_owned());
        }
        ColumnType::Boolean => "boolean".to_owned(),
        ColumnType::Integer { min, max } => integer(*min, *max).to_owned(),
        ColumnType::Decimal { precision: Some(precision @ 1..=1_000), scale, .. } => {
            // Where the scale is above the precision there are digits behind the point only.
            let scale = scale.unwrap_or_default().min(1_000);
            format!("numeric({},{scale})", (*precision).max(scale))
        }
        ColumnType::Decimal { .. } => "numeric".to_owned(),
        ColumnType::Real { bits: 32, .. } => "real".to_owned(),
        ColumnType::Real { .. } => "double precision".to_owned(),
        ColumnType::Text { max: Some(max @ 1..=10_485_760) } => format!("varchar({max})"),
        ColumnType::Text { .. } => "text".to_owned(),
        ColumnType::Bytes { .. } => "bytea".to_owned(),
        ColumnType::Date => "date".to_owned(),
        ColumnType::Time => "time".to_owned(),
        ColumnType::Timestamp { zone, digits } => {
            format!("{}({})", if *zone { "timestamptz" } else { "timestamp" }, digits.min(&6))
        }
        ColumnType::Interval => "interval".to_owned(),
        // Text that is JSON stays as it is written.
        ColumnType::Json if column.declared == "json" => "json".to_owned(),
        ColumnType::Json => "jsonb".to_owned(),
        ColumnType::Uuid => "uuid".to_owned(),
        ColumnType::Bits => "bit varying".to_owned(),
        // A type of this very database; one of another is kept as its text.
        ColumnType::Other(name) if name.starts_with("pg_catalog.") => name.clone(),
        ColumnType::Other(_) => "text".to_owned(),
    })
}

/// The smallest type that holds a range.
fn integer(min: i64, max: u64) -> &'static str {
    for (bits, name) in [(16, "smallint"), (32, "integer"), (64, "bigint")] {
        if let ColumnType::Integer { min: least, max: greatest } = ColumnType::signed(bits)
            && least <= min
            && max <= greatest
        {
            return name;
        }
    }
    "numeric(20,0)"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_get_the_smallest_type() {
        assert_eq!(integer(-128, 127), "smallint");
        assert_eq!(integer(0, 65_535), "integer");
        assert_eq!(integer(0, 4_294_967_295), "bigint");
        assert_eq!(integer(0, u64::MAX), "numeric(20,0)");
    }

    #[test]
    fn names_are_cut_between_characters() {
        assert_eq!(shortened(&"ä".repeat(40)), "ä".repeat(31));
        assert_eq!(bare("sales.users"), "users");
    }
}
