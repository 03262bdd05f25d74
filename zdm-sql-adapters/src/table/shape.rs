use super::ColumnType;

/// Whose SQL the words of a table are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// PostgreSQL.
    Postgres,
    /// MySQL and MariaDB.
    MySql,
    /// SQLite.
    Sqlite,
}

/// A table as its database declares it, in the words of no particular database: what it takes to make the
/// like of it elsewhere.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TableShape {
    /// The name, as it is written in the database, without quotes; with the schema where it is not the usual one.
    pub name: String,
    /// The columns in order.
    pub columns: Vec<ColumnShape>,
    /// The columns that address a row, in order.
    pub key: Vec<String>,
    /// Indexes beside the key's own.
    pub indexes: Vec<IndexShape>,
    /// References to other tables.
    pub foreign_keys: Vec<ForeignKeyShape>,
    /// Whose words the defaults, expressions and constraints are in; none where there are none.
    pub dialect: Option<Dialect>,
    /// Check constraints, each with its name, or an empty one, and its condition.
    pub checks: Vec<(String, String)>,
    /// The whole statement that makes the table, where its database can be asked for it (SQLite).
    pub statement: Option<String>,
    /// What the table has and this does not say, as sentences: an index over an expression, a default that
    /// calls a function of this very database.
    pub left_out: Vec<String>,
}

/// A column of a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ColumnShape {
    /// Its name.
    pub name: String,
    /// What its values are.
    pub ty: ColumnType,
    /// The type's own words, for messages and for making the like of it in a database of the same kind.
    pub declared: String,
    /// Whether NULL is refused.
    pub not_null: bool,
    /// Whether the database computes it: it is neither read nor written.
    pub generated: bool,
    /// What it is generated from, with the words behind it: `(a + b) STORED`.
    pub expression: Option<String>,
    /// Whether the database counts it up when it is left out.
    pub counted: bool,
    /// The default as the database writes it. None for a counted column.
    pub default: Option<String>,
    /// Whether an UPDATE that leaves it out sets it to the present time (MySQL).
    pub on_update_now: bool,
}

/// An index over whole columns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IndexShape {
    /// Its name.
    pub name: String,
    /// The columns in order.
    pub columns: Vec<String>,
    /// Whether no two rows may have the same values.
    pub unique: bool,
}

/// A reference to rows of another table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ForeignKeyShape {
    /// Its name; empty where the database keeps none.
    pub name: String,
    /// The columns of this table.
    pub columns: Vec<String>,
    /// The other table.
    pub parent: String,
    /// The columns there, in the same order.
    pub parent_columns: Vec<String>,
    /// What happens to rows whose parent goes, in the words of SQL; `NO ACTION` by default.
    pub on_delete: String,
    /// What happens to rows whose parent gets other values.
    pub on_update: String,
}

/// Puts tables into an order in which the parents of foreign keys come before their children.
///
/// A table that refers to itself needs no order. In a circle of tables no order helps: one of the circle goes
/// first, the same every time; its rows that refer to tables further on have to wait for them, or the
/// foreign keys are made when the rows are there.
///
/// ```
/// use zdm_sql_adapters::table::parents_first;
///
/// let references = [("line", "invoice"), ("invoice", "customer"), ("line", "line")];
/// let order = parents_first(["line", "invoice", "customer"].map(str::to_owned).to_vec(), |child, parent| {
///     references.contains(&(child, parent))
/// });
/// assert_eq!(order, ["customer", "invoice", "line"]);
/// ```
pub fn parents_first(mut tables: Vec<String>, refers: impl Fn(&str, &str) -> bool) -> Vec<String> {
    tables.sort();
    let mut ordered = Vec::with_capacity(tables.len());
    while !tables.is_empty() {
        let mut at = 0;
        // From a table to one that it waits for, and so on: ends at one that waits for none, or in a circle.
        let waits_for = |at: usize| {
            let child: &str = &tables[at];
            tables.iter().position(|parent| parent != child && refers(child, parent))
        };
        let mut passed = Vec::new();
        while let Some(parent) = waits_for(at).filter(|_| !passed.contains(&at)) {
            passed.push(at);
            at = parent;
        }
        ordered.push(tables.remove(at));
    }
    ordered
}

#[cfg(test)]
mod tests {
    use super::parents_first;

    #[test]
    fn a_circle_has_the_same_order_every_time() {
        let refers = |child: &str, parent: &str| {
            [("b", "c"), ("c", "b"), ("a", "c"), ("d", "d")].contains(&(child, parent))
        };
        let order = |tables: [&str; 4]| parents_first(tables.map(str::to_owned).to_vec(), refers);
        assert_eq!(order(["a", "b", "c", "d"]), ["c", "a", "b", "d"]);
        assert_eq!(order(["d", "c", "b", "a"]), ["c", "a", "b", "d"]);
    }
}
