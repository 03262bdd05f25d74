use super::ColumnType;

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
    /// Whether the database counts it up when it is left out.
    pub counted: bool,
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
