//! Tables as others can make the like of them, and tables made like others.

use sqlx::AssertSqlSafe;
use sqlx::sqlite::SqliteConnection;
use zdm_core::error::Result;

use super::Sqlite;
use super::classify::classify;
use super::shape::{Affinity, Column, Shape, Unique, invalid, quoted};
use crate::table::{
    ColumnShape, ColumnType, Dialect, ForeignKeyShape, IndexShape, TableShape, check_clauses,
    default_clauses, expression_clause, outside, parents_first,
};

/// As many digits as a float keeps of every decimal.
const DIGITS_OF_A_FLOAT: u32 = 15;
/// Put behind the name of a type whose values are kept as text whatever they look like.
const AS_TEXT: &str = "_TEXT";

/// The statements that make a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableSql {
    /// Makes the table with its columns, its key and its foreign keys, which SQLite cannot add later.
    pub create: String,
    /// Make the indexes, once the rows are loaded.
    pub indexes: Vec<String>,
    /// What the table has elsewhere and will not have here, as sentences for whoever decides about it.
    pub left_out: Vec<String>,
}

impl Sqlite {
    /// What it takes to make the like of a table elsewhere.
    ///
    /// The types are what the declared words say: `NVARCHAR(40)` is text of at most 40 characters,
    /// `NUMERIC(10,2)` a decimal, `DATETIME` a point in time without zone. SQLite enforces none of it, so
    /// whole numbers have 64 bits whatever they are called. Words that say nothing are
    /// [`ColumnType::Any`]. Indexes over expressions or over a part of the rows are listed in
    /// [`TableShape::left_out`].
    ///
    /// # Errors
    /// `Kind::Invalid` when there is no such table, or it has no key.
    pub async fn describe(&self, table: &str) -> Result<TableShape> {
        let mut connection = self.reader().await?;
        let shape = Shape::read(&mut connection, table).await?;
        let key = shape.natural_key()?;
        let doing = |error| classify(error, &format!("reading the indexes of table {table}"));
        let names: Vec<(String, bool, bool, String)> = sqlx::query_as(
            "SELECT name, \"unique\", partial, origin FROM pragma_index_list(?) WHERE origin <> 'pk' ORDER BY name",
        )
        .bind(&shape.table)
        .fetch_all(&mut *connection)
        .await
        .map_err(doing)?;
        let (mut indexes, mut left_out) = (Vec::new(), Vec::new());
        let mut key_in_statement = true;
        for (name, unique, partial, origin) in names {
            let columns: Vec<Option<String>> =
                sqlx::query_scalar("SELECT name FROM pragma_index_xinfo(?) WHERE key ORDER BY seqno")
                    .bind(&name)
                    .fetch_all(&mut *connection)
                    .await
                    .map_err(doing)?;
            match columns.into_iter().collect::<Option<Vec<_>>>() {
                Some(columns) if !partial && columns == key => {
                    let primary = shape.uniques.iter().any(|unique| unique.primary);
                    key_in_statement &= primary || origin == "u";
                }
                Some(columns) if !partial => indexes.push(IndexShape { name, columns, unique }),
                _ => left_out.push(format!(
                    "table {}: the index {name}, over an expression or over some rows, is left out",
                    shape.table
                )),
            }
        }
        Ok(TableShape {
            name: shape.table.clone(),
            columns: shape.columns.iter().map(|column| described(&shape, column)).collect(),
            key,
            indexes,
            foreign_keys: shape
                .foreign_keys
                .iter()
                .map(|key| {
                    let (columns, parent_columns) = key.columns.iter().cloned().unzip();
                    ForeignKeyShape {
                        name: String::new(),
                        columns,
                        parent: key.parent.clone(),
                        parent_columns,
                        on_delete: key.on_delete.clone(),
                        on_update: key.on_update.clone(),
                    }
                })
                .collect(),
            dialect: Some(Dialect::Sqlite),
            checks: checks(&shape.sql).into_iter().map(|condition| (String::new(), condition)).collect(),
            statement: key_in_statement.then(|| shape.sql.clone()),
            left_out,
        })
    }

    /// The names of the tables of the file in an order that foreign keys allow: parents first, see
    /// [`parents_first`]. The bookkeeping's own and those of SQLite are left out.
    ///
    /// # Errors
    /// Whatever SQLite says.
    pub async fn tables(&self) -> Result<Vec<String>> {
        let doing = |error| classify(error, "listing the tables");
        let mut connection = self.reader().await?;
        let tables: Vec<String> = sqlx::query_scalar(
            "SELECT name FROM pragma_table_list WHERE schema = 'main' AND type = 'table' \
             AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\' AND name NOT LIKE 'zdm\\_%' ESCAPE '\\'",
        )
        .fetch_all(&mut *connection)
        .await
        .map_err(doing)?;
        let references: Vec<(String, String)> = sqlx::query_as(
            "SELECT own.name, tie.\"table\" FROM sqlite_schema AS own, pragma_foreign_key_list(own.name) AS tie \
             WHERE own.type = 'table'",
        )
        .fetch_all(&mut *connection)
        .await
        .map_err(doing)?;
        Ok(parents_first(tables, |child, parent| {
            let mut references = references.iter();
            references.any(|(own, tie)| own == child && tie.eq_ignore_ascii_case(parent))
        }))
    }

    /// The statements that make the like of a table here.
    ///
    /// Decimals of more than 15 digits, JSON, intervals and bits become text, in columns whose type says so
    /// (`DECIMAL_TEXT(30,10)`): as numbers SQLite would round them.
    ///
    /// A table of another file is made by its own statement, with all that this says. From elsewhere come
    /// defaults that are constants or the present time, and counters as AUTOINCREMENT. The rest is in
    /// [`TableSql::left_out`].
    ///
    /// # Errors
    /// `Kind::Invalid` when the table has no key.
    pub fn create_sql(&self, shape: &TableShape) -> Result<TableSql> {
        made(shape)
    }

    /// The last value that SQLite has given out in the key column that it counts up, as far as it knows: the
    /// greatest there is, and with AUTOINCREMENT the greatest there ever was. `None` when the table has no
    /// such column.
    ///
    /// # Errors
    /// `Kind::Invalid` when there is no such table.
    pub async fn last_counted(&self, table: &str) -> Result<Option<u64>> {
        let mut connection = self.reader().await?;
        let shape = Shape::read(&mut connection, table).await?;
        last_counted(&mut connection, &shape).await
    }

    /// Lets SQLite count on above `past` and above every value there is: after a handover, above the last
    /// value that the old side gave out. Returns the next value. `None` when the table has no AUTOINCREMENT
    /// column: without that word SQLite counts on above the greatest key that there is, and may give out
    /// again the number of a row that is gone.
    ///
    /// # Errors
    /// `Kind::Invalid` when there is no such table, or no room above.
    ///
    /// # Cancel safety
    /// As [`write`](Self::write): the counter may have moved, which does no harm.
    pub async fn advance_autoincrement(&self, table: &str, past: u64) -> Result<Option<u64>> {
        let table = table.to_owned();
        self.write(move |connection| {
            Box::pin(async move {
                let shape = Shape::read(connection, &table).await?;
                if !shape.autoincrement {
                    return Ok(None);
                }
                let last = last_counted(connection, &shape).await?.unwrap_or_default().max(past);
                let signed = i64::try_from(last).ok().filter(|last| *last < i64::MAX).ok_or_else(|| {
                    invalid(format!("the key column of table {table} has no room above {last}"))
                })?;
                let doing = |error| classify(error, &format!("advancing the counter of table {table}"));
                let moved = sqlx::query("UPDATE sqlite_sequence SET seq = ?2 WHERE name = ?1")
                    .bind(&shape.table)
                    .bind(signed)
                    .execute(&mut *connection)
                    .await
                    .map_err(doing)?;
                // A table that never had a row has no counter yet.
                if moved.rows_affected() == 0 {
                    sqlx::query("INSERT INTO sqlite_sequence (name, seq) VALUES (?1, ?2)")
                        .bind(&shape.table)
                        .bind(signed)
                        .execute(&mut *connection)
                        .await
                        .map_err(doing)?;
                }
                Ok(Some(last + 1))
            })
        })
        .await
    }
}

async fn last_counted(connection: &mut SqliteConnection, shape: &Shape) -> Result<Option<u64>> {
    let Some(column) = &shape.rowid else { return Ok(None) };
    let ever = if shape.autoincrement {
        "coalesce((SELECT max(seq) FROM sqlite_sequence WHERE name = ?1), 0)"
    } else {
        "0"
    };
    let sql = format!(
        "SELECT max(coalesce((SELECT max({}) FROM {}), 0), {ever})",
        quoted(column),
        quoted(&shape.table)
    );
    let greatest: i64 =
        sqlx::query_scalar(AssertSqlSafe(sql)).bind(&shape.table).fetch_one(connection).await.map_err(
            |error| classify(error, &format!("looking for the greatest key of table {}", shape.table)),
        )?;
    Ok(Some(u64::try_from(greatest).unwrap_or_default()))
}

fn described(shape: &Shape, column: &Column) -> ColumnShape {
    ColumnShape {
        name: column.name.clone(),
        ty: meant(column),
        declared: column.declared.clone(),
        // A key column may lack NOT NULL; rows without a value there are refused all the same.
        not_null: column.not_null || shape.uniques.iter().any(|unique| is_in_key(unique, &column.name)),
        generated: column.generated,
        // No pragma tells it.
        expression: None,
        counted: shape.rowid.as_ref() == Some(&column.name),
        default: column.default.clone(),
        on_update_now: false,
    }
}

/// The conditions of the checks in a statement: no pragma tells them either.
fn checks(statement: &str) -> Vec<String> {
    const WORD: &str = "check";
    let places = outside(statement);
    let in_name = |character: char| character.is_alphanumeric() || character == '_';
    let mut conditions = Vec::new();
    for (at, depth) in &places {
        let rest = &statement[*at..];
        let found = rest.get(..WORD.len()).is_some_and(|word| word.eq_ignore_ascii_case(WORD));
        let Some(behind) = rest.get(WORD.len()..).filter(|_| found && !statement[..*at].ends_with(in_name))
        else {
            continue;
        };
        if !behind.trim_start().starts_with('(') {
            continue;
        }
        let begin = statement.len() - behind.trim_start().len() + 1;
        let end = places
            .iter()
            .find(|(end, inner)| *end >= begin && *inner == depth + 1 && statement[*end..].starts_with(')'));
        conditions.extend(end.map(|(end, _)| statement[begin..*end].trim().to_owned()));
    }
    conditions
}

fn is_in_key(unique: &Unique, column: &str) -> bool {
    unique.primary && unique.parts.iter().flatten().any(|(name, _)| name == column)
}

/// What the declared words mean.
fn meant(column: &Column) -> ColumnType {
    let declared = column.declared.to_ascii_uppercase();
    let (word, sizes) = declared.split_once('(').unwrap_or((&declared, ""));
    let mut sizes = sizes.trim_end_matches(')').split(',').map(|size| size.trim().parse::<u32>().ok());
    let (first, second) = (sizes.next().flatten(), sizes.next().flatten());
    let word = word.trim();
    let word = word.strip_suffix(AS_TEXT).unwrap_or(word);
    let digits = u8::try_from(first.unwrap_or(6).min(6)).unwrap_or(6);
    let has = |part: &str| word.contains(part);
    match word {
        "" | "ANY" => ColumnType::Any,
        "INTERVAL" => ColumnType::Interval,
        "JSON" | "JSONB" => ColumnType::Json,
        "UUID" | "GUID" | "UNIQUEIDENTIFIER" => ColumnType::Uuid,
        "BIT" if declared.contains(AS_TEXT) => ColumnType::Bits,
        "DATE" => ColumnType::Date,
        "TIME" => ColumnType::Time,
        "DATETIME" | "TIMESTAMP" => ColumnType::Timestamp { zone: false, digits },
        "TIMESTAMPTZ" | "TIMESTAMP WITH TIME ZONE" => ColumnType::Timestamp { zone: true, digits },
        "DECIMAL" | "NUMERIC" | "DEC" => {
            let special = column.affinity == Affinity::Text;
            ColumnType::Decimal {
                precision: first,
                scale: first.map(|_| second.unwrap_or_default()),
                special,
            }
        }
        _ if has("BOOL") => ColumnType::Boolean,
        _ => match column.affinity {
            Affinity::Integer => ColumnType::signed(64),
            Affinity::Text => ColumnType::Text { max: first },
            Affinity::Blob => ColumnType::Bytes { max: first },
            Affinity::Real => ColumnType::Real { bits: 64, special: false },
            Affinity::Numeric => ColumnType::Any,
        },
    }
}

/// The words that mean a type. `key` asks for a column whose rows stand in the order of the values.
fn words(ty: &ColumnType, key: bool) -> String {
    let sized = |word: &str, size: &Option<u32>| match size {
        Some(size) => format!("{word}({size})"),
        None => word.to_owned(),
    };
    match ty {
        ColumnType::Any => String::new(),
        ColumnType::Boolean => "BOOLEAN".to_owned(),
        ColumnType::Integer { max, .. } if *max > i64::MAX.unsigned_abs() && !key => {
            format!("DECIMAL{AS_TEXT}(20,0)")
        }
        ColumnType::Integer { .. } => "INTEGER".to_owned(),
        ColumnType::Decimal { precision, scale, .. } => {
            let sizes = precision.map(|precision| format!("({precision},{})", scale.unwrap_or_default()));
            let fits = precision.is_some_and(|precision| precision <= DIGITS_OF_A_FLOAT);
            format!("DECIMAL{}{}", if fits || key { "" } else { AS_TEXT }, sizes.unwrap_or_default())
        }
        ColumnType::Real { .. } => "REAL".to_owned(),
        ColumnType::Text { max: None } | ColumnType::Other(_) => "TEXT".to_owned(),
        ColumnType::Text { max } => sized("VARCHAR", max),
        ColumnType::Bytes { max } => sized("BLOB", max),
        ColumnType::Date => "DATE".to_owned(),
        ColumnType::Time => "TIME".to_owned(),
        ColumnType::Timestamp { zone: false, digits } => format!("DATETIME({digits})"),
        ColumnType::Timestamp { zone: true, digits } => format!("TIMESTAMPTZ({digits})"),
        ColumnType::Interval => format!("INTERVAL{AS_TEXT}"),
        ColumnType::Json => format!("JSON{AS_TEXT}"),
        ColumnType::Uuid => "UUID".to_owned(),
        ColumnType::Bits => format!("BIT{AS_TEXT}"),
    }
}

fn made(shape: &TableShape) -> Result<TableSql> {
    // A schema before the name is another database's; the file has one.
    let local = |name: &str| name.rsplit_once('.').map_or(name, |(_, name)| name).to_owned();
    let (name, table) = (local(&shape.name), quoted(&local(&shape.name)));
    if shape.key.is_empty() {
        return Err(invalid(format!("the table {name} has no key and cannot be made")));
    }
    let list = |columns: &[String]| columns.iter().map(|name| quoted(name)).collect::<Vec<_>>().join(", ");
    let statement = shape.statement.as_ref().filter(|_| shape.dialect == Some(Dialect::Sqlite));
    let (mut parts, mut left_out) = (Vec::new(), shape.left_out.clone());
    let mut missing = Vec::new();
    // Only a key of one whole number is counted.
    let counts = |column: &ColumnShape| {
        column.counted
            && shape.dialect != Some(Dialect::Sqlite)
            && shape.key == [column.name.clone()]
            && words(&column.ty, true) == "INTEGER"
    };
    for column in shape.columns.iter().filter(|_| statement.is_none()) {
        let generated = if column.generated {
            let Some(clause) = expression_clause(shape, column, Dialect::Sqlite, &mut left_out) else {
                missing.push(&column.name);
                continue;
            };
            clause
        } else {
            String::new()
        };
        let key = shape.key.contains(&column.name);
        let not_null = if column.not_null || key { " NOT NULL" } else { "" };
        let default = default_clauses(shape, column, Dialect::Sqlite, &mut left_out);
        let counted = if counts(column) { " PRIMARY KEY AUTOINCREMENT" } else { "" };
        if column.counted && !counts(column) && shape.dialect != Some(Dialect::Sqlite) {
            left_out.push(format!(
                "table {}, column {}: nothing counts it up here, because it is not the whole key, or no whole \
                 number of 64 bits",
                shape.name, column.name
            ));
        }
        let ty = words(&column.ty, key);
        parts.push(format!("{} {ty}{generated}{not_null}{default}{counted}", quoted(&column.name)));
    }
    if !shape.columns.iter().any(counts) {
        parts.push(format!("PRIMARY KEY ({})", list(&shape.key)));
    }
    if statement.is_none() {
        parts.extend(check_clauses(shape, Dialect::Sqlite, quoted, &mut left_out));
    }
    for key in &shape.foreign_keys {
        parts.push(format!(
            "FOREIGN KEY ({}) REFERENCES {} ({}) ON DELETE {} ON UPDATE {}",
            list(&key.columns),
            quoted(&local(&key.parent)),
            list(&key.parent_columns),
            action(&key.on_delete)?,
            action(&key.on_update)?
        ));
    }
    let mut indexes = Vec::new();
    for index in &shape.indexes {
        // The statement makes those of its own constraints.
        if statement.is_some() && index.name.starts_with("sqlite_") {
            continue;
        }
        if index.columns.iter().any(|name| missing.contains(&name)) {
            left_out.push(format!(
                "table {}: the index {} over a generated column is left out",
                shape.name, index.name
            ));
            continue;
        }
        indexes.push(index);
    }
    let indexes = indexes.into_iter();
    let indexes = indexes
        .map(|index| {
            let unique = if index.unique { "UNIQUE " } else { "" };
            // SQLite's own names of indexes cannot be given again.
            let own = format!("{name}_{}", index.columns.join("_"));
            let index_name = if index.name.starts_with("sqlite_") { &own } else { &index.name };
            // Names of indexes are those of the file, elsewhere those of the table.
            let unlike =
                if index_name.contains(&name) { index_name.clone() } else { format!("{name}_{index_name}") };
            format!("CREATE {unique}INDEX {} ON {table} ({})", quoted(&unlike), list(&index.columns))
        })
        .collect();
    let create = match statement {
        Some(statement) => statement.clone(),
        None => format!("CREATE TABLE {table} ({})", parts.join(", ")),
    };
    Ok(TableSql { create, indexes, left_out })
}

/// One of the words of SQL for what happens to a row whose parent changes.
fn action(words: &str) -> Result<&'static str> {
    match words.to_ascii_uppercase().as_str() {
        "" | "NO ACTION" => Ok("NO ACTION"),
        "RESTRICT" => Ok("RESTRICT"),
        "CASCADE" => Ok("CASCADE"),
        "SET NULL" => Ok("SET NULL"),
        "SET DEFAULT" => Ok("SET DEFAULT"),
        other => Err(invalid(format!("{other:?} is nothing that a foreign key does"))),
    }
}
