//! What two tables agree on: which columns the rows of a migration have, and which types they carry.

use std::fmt;

use super::{ColumnType, Fit, TableShape, pair};

/// The columns that the rows of a migration have on both sides, each with the type that they carry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Agreement {
    /// The old table.
    pub old: String,
    /// The new table.
    pub new: String,
    /// The columns in the order of the old table.
    pub columns: Vec<AgreedColumn>,
}

/// A column of both sides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AgreedColumn {
    /// The name of both sides.
    pub name: String,
    /// What records carry.
    pub ty: ColumnType,
    /// How the values of the old column fit the new one.
    pub fit: Fit,
    /// The old column's own words.
    pub old: String,
    /// The new column's own words.
    pub new: String,
}

impl Agreement {
    /// The columns as the stores' `discover_as` takes them.
    pub fn types(&self) -> Vec<(String, ColumnType)> {
        self.columns.iter().map(|column| (column.name.clone(), column.ty.clone())).collect()
    }
}

/// Lists the columns of two tables with the types that rows carry between them, by [`pair`].
///
/// Generated columns are computed on either side and left out. Keys must be the same columns in the same
/// order, because rows are addressed by them on both sides.
///
/// ```
/// use zdm_sql_adapters::table::{ColumnShape, ColumnType, Fit, TableShape, agree};
///
/// let column = |name: &str, ty: ColumnType| ColumnShape {
///     name: name.to_owned(), declared: ty.to_string(), ty, not_null: true, generated: false, expression: None,
///     counted: false, default: None, on_update_now: false,
/// };
/// let table = |bits| TableShape {
///     name: "users".to_owned(),
///     columns: vec![column("id", ColumnType::signed(bits))],
///     key: vec!["id".to_owned()],
///     ..TableShape::default()
/// };
/// let agreement = agree(&table(32), &table(64)).unwrap();
/// assert_eq!((agreement.columns[0].fit, agreement.columns[0].ty.clone()), (Fit::Widened, ColumnType::signed(32)));
/// assert!(agree(&table(32), &TableShape { name: "users".to_owned(), ..TableShape::default() }).is_err());
/// ```
///
/// # Errors
/// A text that names the table and every column that has no counterpart, no common type, or is NOT NULL on
/// the new side alone, and keys that differ.
pub fn agree(old: &TableShape, new: &TableShape) -> Result<Agreement, String> {
    let mut wrong = Vec::new();
    let mut columns = Vec::new();
    for own in old.columns.iter().filter(|column| !column.generated) {
        let Some(other) = new.columns.iter().find(|other| other.name == own.name) else {
            wrong.push(format!("the new table has no column {}", own.name));
            continue;
        };
        if other.generated {
            wrong.push(format!("the column {} is generated on the new side and cannot be written", own.name));
            continue;
        }
        match pair(&own.ty, &other.ty) {
            Ok(pair) => columns.push(AgreedColumn {
                name: own.name.clone(),
                ty: pair.ty,
                fit: pair.fit,
                old: own.declared.clone(),
                new: other.declared.clone(),
            }),
            Err(reason) => wrong.push(format!("column {}: {reason}", own.name)),
        }
    }
    for other in new.columns.iter().filter(|column| !column.generated) {
        let own = old.columns.iter().find(|own| own.name == other.name);
        match own {
            None if other.not_null => {
                wrong.push(format!("the new column {} is NOT NULL and the old table has none", other.name));
            }
            None => wrong.push(format!("the old table has no column {}", other.name)),
            Some(own) if own.generated => {
                wrong.push(format!("the column {} is generated on the old side alone", own.name));
            }
            Some(_) => {}
        }
    }
    for (side, table) in [("old", old), ("new", new)] {
        if table.key.is_empty() {
            wrong.push(format!(
                "the {side} table has no key: neither a primary key nor a unique index over NOT NULL columns"
            ));
        }
    }
    if old.key != new.key {
        wrong.push(format!("the keys differ: ({}) and ({})", old.key.join(", "), new.key.join(", ")));
    }
    if wrong.is_empty() {
        Ok(Agreement { old: old.name.clone(), new: new.name.clone(), columns })
    } else {
        Err(format!("table {} cannot move to {}: {}", old.name, new.name, wrong.join("; ")))
    }
}

/// A line for each column: its name, both types, and how they fit.
impl fmt::Display for Agreement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = |text: fn(&AgreedColumn) -> &str| {
            self.columns.iter().map(|column| text(column).chars().count()).max().unwrap_or_default()
        };
        let (names, olds, news) = (width(|c| &c.name), width(|c| &c.old), width(|c| &c.new));
        write!(f, "{} -> {}", self.old, self.new)?;
        for AgreedColumn { name, old, new, fit, .. } in &self.columns {
            let fit = match fit {
                Fit::Exact => "exact",
                Fit::Widened => "widened",
                Fit::Checked => "checked",
            };
            write!(f, "\n  {name:names$}  {old:olds$} -> {new:news$}  {fit}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::ColumnShape;

    fn column(name: &str, ty: ColumnType, not_null: bool) -> ColumnShape {
        let declared = ty.to_string();
        ColumnShape {
            name: name.to_owned(),
            ty,
            declared,
            not_null,
            generated: false,
            expression: None,
            counted: false,
            default: None,
            on_update_now: false,
        }
    }

    fn table(columns: Vec<ColumnShape>) -> TableShape {
        let key = vec!["id".to_owned()];
        TableShape { name: "things".to_owned(), columns, key, ..TableShape::default() }
    }

    #[test]
    fn every_column_says_how_it_fits() {
        let id = || column("id", ColumnType::signed(64), true);
        let text = |max| ColumnType::Text { max };
        let mut computed = column("sum", ColumnType::signed(64), false);
        computed.generated = true;
        let old = table(vec![
            id(),
            column("name", text(Some(10)), false),
            column("code", text(None), false),
            computed,
        ]);
        let new =
            table(vec![column("code", ColumnType::Uuid, false), id(), column("name", text(None), false)]);
        let agreement = agree(&old, &new).unwrap();
        let fits: Vec<_> =
            agreement.columns.iter().map(|column| (column.name.as_str(), column.fit)).collect();
        assert_eq!(fits, [("id", Fit::Exact), ("name", Fit::Widened), ("code", Fit::Checked)]);
        assert_eq!(agreement.types()[2], ("code".to_owned(), ColumnType::Uuid));
        let printed = agreement.to_string();
        assert!(printed.starts_with("things -> things\n  id    "), "{printed}");
        assert!(printed.contains("name  text of at most 10 characters"), "{printed}");
    }

    #[test]
    fn everything_that_is_wrong_is_named_at_once() {
        let old =
            table(vec![column("id", ColumnType::signed(64), true), column("at", ColumnType::Date, false)]);
        let mut new = table(vec![
            column("id", ColumnType::signed(64), true),
            column("at", ColumnType::Time, false),
            column("must", ColumnType::Date, true),
            column("may", ColumnType::Date, false),
        ]);
        new.key = Vec::new();
        let error = agree(&old, &new).unwrap_err();
        for words in [
            "table things",
            "column at: no date",
            "must is NOT NULL",
            "no column may",
            "no key",
            "keys differ",
        ] {
            assert!(error.contains(words), "{words}: {error}");
        }
        let error = agree(&new, &old).unwrap_err();
        assert!(error.contains("no column must"), "{error}");
    }
}
