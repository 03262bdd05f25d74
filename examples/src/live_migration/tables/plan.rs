//! Which tables move, which columns they have, what is created, and what is refused before anything moves.

use std::path::Path;

use zdm_core::key::KeyRange;
use zdm_core::store::Scan;
use zdm_sql_adapters::table::{Agreement, ColumnType, ForeignKeyShape, TableShape, agree};

use super::super::{Doing, Failure, Result};
use super::address::Engine;
use super::side::Side;
use super::whole::{Part, Whole};

/// A table that moves.
#[derive(Clone, Debug)]
pub struct Table {
    /// Its name on both sides.
    pub name: String,
    /// As the old side declares it.
    pub old: TableShape,
    /// As the new side declares it.
    pub new: TableShape,
    /// The columns of its rows.
    pub agreement: Agreement,
}

impl Table {
    /// The columns with their types, in the order of records.
    pub fn columns(&self) -> Vec<(String, ColumnType)> {
        self.agreement.types()
    }

    /// The places of the key's columns in a record.
    pub fn key_places(&self) -> Vec<usize> {
        let place = |name: &String| self.agreement.columns.iter().position(|column| column.name == *name);
        self.old.key.iter().filter_map(place).collect()
    }
}

/// The tables to move, parents first, as they are on the old side.
///
/// # Errors
/// A table is not there or has no key; the text names it and what is there.
pub async fn chosen(old: &dyn Side, wanted: &[String]) -> Result<Vec<TableShape>> {
    let all = old.tables().await.doing(|| "the tables of the old database cannot be listed".into())?;
    for name in wanted {
        if !all.contains(name) {
            let known = if all.is_empty() { "none".to_owned() } else { all.join(", ") };
            return Err(Failure::new(format!("the old database has no table {name}; it has {known}")));
        }
    }
    let chosen: Vec<_> = all.into_iter().filter(|name| wanted.is_empty() || wanted.contains(name)).collect();
    if chosen.is_empty() {
        return Err(Failure::new("the old database has no tables"));
    }
    let mut shapes = Vec::with_capacity(chosen.len());
    for name in chosen {
        let shape = old.describe(&name).await.doing(|| format!("table {name} cannot move"))?;
        if shape.key.is_empty() {
            return Err(Failure::new(format!(
                "table {name} has no key: it has neither a primary key nor a unique index over NOT NULL columns; \
                 add one, or name the other tables with --table"
            )));
        }
        shapes.push(shape);
    }
    Ok(shapes)
}

/// What is left of creating tables.
#[derive(Debug, Default)]
pub struct Created {
    /// Statements for after the load.
    pub after_load: Vec<String>,
    /// What the new tables do not have, as sentences.
    pub left_out: Vec<String>,
}

/// Creates the tables on the new side, without what comes after the load. Returns that.
///
/// # Errors
/// A table is there already, a column has no like there, or the database refuses the statement.
pub async fn create(new: &dyn Side, shapes: &[TableShape], begun: &Path) -> Result<Created> {
    let there = new.tables().await.doing(|| "the tables of the new database cannot be listed".into())?;
    // A run that was killed while it created tables has left some.
    let ours = std::fs::read_to_string(begun).unwrap_or_default();
    let mut after = (Vec::new(), Vec::new());
    let mut left_out = Vec::new();
    let mut statements = Vec::new();
    for (at, shape) in shapes.iter().enumerate() {
        let mut shape = shape.clone();
        for key in circling(&shape, shapes[at + 1..].iter().map(|later| later.name.as_str())) {
            left_out.push(format!(
                "table {}: the foreign key ({}) to {} closes a circle of tables, whose rows would wait for each other; \
                 add it when the migration is over",
                shape.name,
                key.columns.join(", "),
                key.parent
            ));
            shape.foreign_keys.retain(|other| *other != key);
            // The table's own words have it.
            shape.statement = None;
        }
        let creation = new.creation(&shape).doing(|| format!("table {} cannot be created", shape.name))?;
        after.0.extend(creation.indexes);
        after.1.extend(creation.foreign_keys);
        left_out.extend(creation.left_out);
        if !there.contains(&shape.name) {
            statements.push((shape.name, creation.create));
        } else if !ours.lines().any(|name| name == shape.name) {
            return Err(Failure::new(format!(
                "the new database has a table {} already; leave out --create, or drop it",
                shape.name
            )));
        }
    }
    let names: Vec<_> = shapes.iter().map(|shape| shape.name.as_str()).collect();
    std::fs::write(begun, names.join("\n")).doing(|| format!("{} cannot be written", begun.display()))?;
    for (name, sql) in statements {
        new.execute(sql).await.doing(|| format!("table {name} cannot be created"))?;
    }
    // All indexes, then what refers to them.
    after.0.append(&mut after.1);
    Ok(Created { after_load: after.0, left_out })
}

/// The foreign keys of a table to tables that come after it: no order allows them.
fn circling<'a>(shape: &TableShape, later: impl Iterator<Item = &'a str> + Clone) -> Vec<ForeignKeyShape> {
    let keys = shape.foreign_keys.iter();
    keys.filter(|key| later.clone().any(|name| name == key.parent)).cloned().collect()
}

/// What both sides agree on, for every table.
///
/// # Errors
/// Every table and column that has no counterpart or no common type.
pub async fn agreed(new: &dyn Side, shapes: Vec<TableShape>) -> Result<Vec<Table>> {
    let there = new.tables().await.doing(|| "the tables of the new database cannot be listed".into())?;
    let (mut tables, mut refused) = (Vec::new(), Vec::new());
    for old in shapes {
        let name = old.name.clone();
        if !there.contains(&name) {
            refused.push(format!("the new database has no table {name}; create it, or add --create"));
            continue;
        }
        let new =
            new.describe(&name).await.doing(|| format!("table {name} of the new database cannot be used"))?;
        match agree(&old, &new) {
            Ok(agreement) => tables.push(Table { name, old, new, agreement }),
            Err(reason) => refused.push(reason),
        }
    }
    let names: Vec<_> = tables.iter().map(|table| table.name.clone()).collect();
    for (at, table) in tables.iter().enumerate() {
        for key in circling(&table.new, names[at + 1..].iter().map(String::as_str)) {
            refused.push(format!(
                "the foreign key ({}) of table {} to {} on the new side closes a circle of tables, whose rows would wait for \
                 each other; drop it until the migration is over",
                key.columns.join(", "),
                table.name,
                key.parent
            ));
        }
    }
    if refused.is_empty() { Ok(tables) } else { Err(Failure::new(refused.join("\n"))) }
}

/// All tables of one side as one store.
///
/// # Errors
/// A table cannot be used as a store; the text names it and why.
pub async fn whole(side: &dyn Side, tables: &[Table], other: Engine) -> Result<Whole> {
    let mut parts = Vec::with_capacity(tables.len());
    for table in tables {
        // Between two files every value is carried as it is, whatever its column was declared for.
        let as_it_is = side.engine() == Engine::Sqlite && other == Engine::Sqlite;
        let mut types = table.columns();
        if as_it_is {
            types.iter_mut().for_each(|(_, ty)| *ty = ColumnType::Any);
        }
        let store =
            side.store(&table.name, &types).await.doing(|| format!("table {} cannot be used", table.name))?;
        parts.push(Part {
            store,
            contended: [&table.old, &table.new]
                .iter()
                .any(|shape| shape.indexes.iter().any(|index| index.unique)),
        });
    }
    Whole::new(parts).await.doing(|| "a table cannot be read".into())
}

/// Refuses a new side that holds rows already: whatever they are, they are none of the old side's.
///
/// # Errors
/// A table that is not empty.
pub async fn refuse_rows(new: &Whole, tables: &[Table]) -> Result<()> {
    let found = new.page(&KeyRange::all(), 1).await.doing(|| "the new database cannot be read".into())?;
    match found.first().and_then(|((table, _), _)| tables.get(usize::from(*table))) {
        Some(table) => Err(Failure::new(format!(
            "table {} of the new database holds rows already; empty it first",
            table.name
        ))),
        None => Ok(()),
    }
}
