use sqlx::postgres::PgConnection;
use zdm_core::error::{Error, Kind, Result};

use super::classify::classify;
use super::native::{Declared, Native};
use crate::table::KeyClass;

/// How the texts of a column or an index are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Collation {
    /// Byte by byte, which is the order of keys; also of everything that is no text.
    Bytes,
    /// In an order of its own.
    Own,
    /// Different texts may be equal.
    Loose,
    /// Byte by byte in an encoding whose order is not that of UTF-8.
    Foreign,
}

/// A column of a table.
#[derive(Clone, Debug)]
pub(super) struct Column {
    pub(super) name: String,
    /// The type as the server writes it.
    pub(super) declared: String,
    /// `None` for a type that cannot be carried.
    pub(super) native: Option<Native>,
    pub(super) not_null: bool,
    pub(super) generated: bool,
    /// Counted by a sequence: an identity, or a default that draws from one.
    pub(super) counted: bool,
    /// The default, or what it is generated from.
    pub(super) words: Option<String>,
    /// Whether the words mean the same in every database: they need nothing that was made in this one.
    pub(super) portable: bool,
    /// Whether it is generated when it is read, and not when it is written.
    pub(super) is_virtual: bool,
    /// Whether its type is a domain.
    pub(super) domain: bool,
    /// GENERATED ALWAYS AS IDENTITY: an update cannot set it.
    pub(super) always: bool,
    pub(super) collation: Collation,
    /// The number and the modifier of the type, by which it is known again.
    pub(super) type_id: (i64, i32),
}

/// A set of columns of which no two rows have the same values, or only an index.
#[derive(Clone, Debug)]
pub(super) struct Index {
    pub(super) name: String,
    pub(super) unique: bool,
    pub(super) primary: bool,
    /// Whether it covers some rows only.
    pub(super) partial: bool,
    /// Whether it is checked at once, and not at the COMMIT.
    pub(super) immediate: bool,
    /// Whether it takes two NULLs for the same: NULLS NOT DISTINCT.
    pub(super) nulls_alike: bool,
    /// The columns, each with its collation and whether it goes upwards; `None` for an expression.
    pub(super) parts: Vec<Option<(String, Collation, bool)>>,
    pub(super) btree: bool,
}

impl Index {
    /// The columns, where the index is over whole columns.
    pub(super) fn whole_columns(&self) -> Option<Vec<&str>> {
        self.parts.iter().map(|part| part.as_ref().map(|(name, ..)| name.as_str())).collect()
    }

    /// Whether it can tell rows apart and an upsert can name it.
    fn addresses(&self) -> bool {
        self.unique && self.immediate && !self.partial
    }
}

/// A reference to rows of another table.
#[derive(Clone, Debug)]
pub(super) struct ForeignKey {
    pub(super) name: String,
    pub(super) schema: String,
    pub(super) parent: String,
    /// The columns of this table, each with the parent's.
    pub(super) columns: Vec<(String, String)>,
    pub(super) on_delete: String,
    pub(super) on_update: String,
}

/// A table as the database declares it.
#[derive(Clone, Debug)]
pub(super) struct Shape {
    pub(super) oid: i64,
    pub(super) schema: String,
    pub(super) table: String,
    /// The name for messages: with the schema, where it is not the usual one.
    pub(super) shown: String,
    pub(super) partitioned: bool,
    pub(super) columns: Vec<Column>,
    /// The primary key first.
    pub(super) indexes: Vec<Index>,
    pub(super) foreign_keys: Vec<ForeignKey>,
    /// Columns of this table that foreign keys refer to.
    pub(super) referenced: Vec<String>,
    /// Whether a constraint may wait for the COMMIT.
    pub(super) deferrable: bool,
}

/// How the collation of a column or an index compares, by the catalog. The database's own is what its provider
/// makes of it; the provider has a column since version 15.
const COLLATION: &str = "CASE WHEN co.oid IS NULL THEN 'bytes' WHEN NOT co.collisdeterministic THEN 'loose' \
    WHEN getdatabaseencoding() NOT IN ('UTF8', 'LATIN1', 'SQL_ASCII') THEN 'foreign' \
    WHEN co.collnamespace <> 'pg_catalog'::regnamespace THEN 'own' WHEN co.collname IN ('C', 'POSIX') \
    OR co.collname = 'default' AND (SELECT datcollate IN ('C', 'POSIX') AND \
    coalesce(to_jsonb(d) ->> 'datlocprovider', 'c') = 'c' FROM pg_database d \
    WHERE datname = current_database()) THEN 'bytes' ELSE 'own' END";

fn collation(name: &str) -> Collation {
    match name {
        "bytes" => Collation::Bytes,
        "loose" => Collation::Loose,
        "foreign" => Collation::Foreign,
        _ => Collation::Own,
    }
}

impl Shape {
    /// Reads a table; `name` may have its schema before it, `sales.users` or `"my schema"."users"`.
    pub(super) async fn read(connection: &mut PgConnection, name: &str) -> Result<Self> {
        let doing = |error| classify(error, &format!("reading the shape of table {name}"));
        let mut shape = Self::find(connection, name).await.map_err(doing)??;
        shape.read_columns(connection).await.map_err(doing)?;
        shape.read_indexes(connection).await.map_err(doing)?;
        shape.read_foreign_keys(connection).await.map_err(doing)?;
        Ok(shape)
    }

    async fn find(connection: &mut PgConnection, name: &str) -> sqlx::Result<Result<Self>> {
        const FIND: &str = "SELECT c.oid::bigint, n.nspname::text, c.relname::text, c.relkind::text, \
            pg_table_is_visible(c.oid) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
            WHERE c.relname = $1 AND (n.nspname = $2 OR $2 IS NULL AND pg_table_is_visible(c.oid)) \
            AND c.relkind NOT IN ('i', 'I', 'S', 't', 'c')";
        let (schema, table) = split(name);
        let found: Option<(i64, String, String, String, bool)> =
            sqlx::query_as(FIND).bind(&table).bind(&schema).fetch_optional(&mut *connection).await?;
        let Some((oid, schema, table, kind, visible)) = found else {
            let tables: Vec<String> = sqlx::query_scalar(
                "SELECT c.relname::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
                 WHERE n.nspname = coalesce($1, current_schema()) AND c.relkind IN ('r', 'p') \
                 AND NOT c.relispartition AND c.relname NOT LIKE 'zdm\\_%' ORDER BY 1",
            )
            .bind(&schema)
            .fetch_all(&mut *connection)
            .await?;
            let place = schema.map_or_else(|| "the database".to_owned(), |name| format!("the schema {name}"));
            let message = format!("there is no table {table}; {place} has {}", listed(&tables));
            return Ok(Err(invalid(message)));
        };
        let partitioned = match kind.as_str() {
            "r" => false,
            "p" => true,
            "v" => return Ok(Err(invalid(format!("{table} is a view, not a table")))),
            "m" => return Ok(Err(invalid(format!("{table} is a materialized view, not a table")))),
            "f" => return Ok(Err(invalid(format!("{table} is a foreign table, not one of this database")))),
            _ => return Ok(Err(invalid(format!("{table} is not a table")))),
        };
        let shown = if visible { table.clone() } else { format!("{schema}.{table}") };
        Ok(Ok(Self {
            oid,
            schema,
            table,
            shown,
            partitioned,
            columns: Vec::new(),
            indexes: Vec::new(),
            foreign_keys: Vec::new(),
            referenced: Vec::new(),
            deferrable: false,
        }))
    }

    async fn read_columns(&mut self, connection: &mut PgConnection) -> sqlx::Result<()> {
        type Row = (
            String,
            String,
            String,
            String,
            String,
            String,
            i32,
            String,
            bool,
            String,
            Option<String>,
            bool,
            bool,
            String,
            i64,
            i32,
        );
        let sql = format!(
            "WITH RECURSIVE base (attnum, type, modifier, required) AS ( \
             SELECT attnum, atttypid, atttypmod, attnotnull FROM pg_attribute \
             WHERE attrelid = $1::bigint::oid AND attnum > 0 AND NOT attisdropped \
             UNION ALL SELECT base.attnum, t.typbasetype, \
             CASE WHEN base.modifier >= 0 THEN base.modifier ELSE t.typtypmod END, required OR t.typnotnull \
             FROM base JOIN pg_type t ON t.oid = base.type WHERE t.typtype = 'd') \
             SELECT a.attname::text, format_type(a.atttypid, a.atttypmod), n.nspname::text, t.typname::text, \
             t.typtype::text, quote_ident(n.nspname) || '.' || quote_ident(t.typname), base.modifier, \
             CASE WHEN base.modifier < 0 THEN '' WHEN t.typname = '_interval' THEN '(' || base.modifier || ')' \
             ELSE coalesce(substring(format_type(t.oid, base.modifier) FROM '\\(.*\\)'), '') END, base.required, \
             a.attgenerated::text || a.attidentity::text, pg_get_expr(d.adbin, d.adrelid), \
             NOT EXISTS (SELECT 1 FROM pg_depend own WHERE own.classid = 'pg_attrdef'::regclass \
             AND own.objid = d.oid AND NOT (own.refclassid = 'pg_class'::regclass AND own.refobjid = a.attrelid)), \
             a.atttypid <> t.oid, {COLLATION}, a.atttypid::bigint, a.atttypmod \
             FROM base JOIN pg_attribute a ON a.attrelid = $1::bigint::oid AND a.attnum = base.attnum \
             JOIN pg_type t ON t.oid = base.type JOIN pg_namespace n ON n.oid = t.typnamespace \
             LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum \
             LEFT JOIN pg_collation co ON co.oid = a.attcollation \
             WHERE t.typtype <> 'd' ORDER BY a.attnum"
        );
        let rows: Vec<Row> =
            sqlx::query_as(sqlx::AssertSqlSafe(sql)).bind(self.oid).fetch_all(connection).await?;
        for row in rows {
            let (
                name,
                declared,
                schema,
                base,
                kind,
                quoted,
                modifier,
                written,
                not_null,
                filled,
                words,
                portable,
                domain,
                own,
                type_id,
                type_modifier,
            ) = row;
            let of = Declared {
                schema: &schema,
                name: &base,
                kind: &kind,
                quoted: &quoted,
                modifier,
                written: &written,
            };
            // A letter each: stored, virtual; always an identity, or by default.
            let is = |letter: &str| filled == letter;
            let drawn = words.as_ref().is_some_and(|words| words.starts_with("nextval("));
            self.columns.push(Column {
                native: Native::of(&of),
                name,
                declared,
                not_null,
                generated: is("s") || is("v"),
                counted: is("a") || is("d") || drawn,
                words,
                portable,
                is_virtual: is("v"),
                domain,
                always: is("a"),
                collation: collation(&own),
                type_id: (type_id, type_modifier),
            });
        }
        Ok(())
    }

    async fn read_indexes(&mut self, connection: &mut PgConnection) -> sqlx::Result<()> {
        type Row = (String, bool, bool, bool, bool, bool, bool, Option<String>, String, bool);
        let sql = format!(
            "SELECT i.relname::text, x.indisunique OR x.indisexclusion, x.indisprimary, \
             x.indpred IS NOT NULL OR x.indisexclusion, x.indimmediate, \
             coalesce((to_jsonb(x) ->> 'indnullsnotdistinct')::bool, false), am.amname = 'btree', a.attname::text, \
             {COLLATION}, x.indoption[k - 1] = 0 AND oc.opcdefault \
             FROM pg_index x JOIN pg_class i ON i.oid = x.indexrelid JOIN pg_am am ON am.oid = i.relam \
             CROSS JOIN LATERAL generate_series(1, x.indnkeyatts) AS k \
             JOIN pg_opclass oc ON oc.oid = x.indclass[k - 1] \
             LEFT JOIN pg_attribute a ON a.attrelid = x.indrelid AND a.attnum = x.indkey[k - 1] AND a.attnum > 0 \
             LEFT JOIN pg_collation co ON co.oid = x.indcollation[k - 1] \
             WHERE x.indrelid = $1::bigint::oid AND x.indisvalid AND x.indislive \
             ORDER BY x.indisprimary DESC, x.indisunique DESC, i.relname, k"
        );
        let rows: Vec<Row> =
            sqlx::query_as(sqlx::AssertSqlSafe(sql)).bind(self.oid).fetch_all(connection).await?;
        for (name, unique, primary, partial, immediate, nulls_alike, btree, column, own, upwards) in rows {
            let part = column.map(|column| (column, collation(&own), upwards));
            match self.indexes.last_mut() {
                Some(last) if last.name == name => last.parts.push(part),
                _ => {
                    self.indexes.push(Index {
                        name,
                        unique,
                        primary,
                        partial,
                        immediate,
                        nulls_alike,
                        parts: vec![part],
                        btree,
                    });
                }
            }
        }
        Ok(())
    }

    async fn read_foreign_keys(&mut self, connection: &mut PgConnection) -> sqlx::Result<()> {
        type Row = (String, String, String, String, String, String, String);
        let rows: Vec<Row> = sqlx::query_as(
            "SELECT con.conname::text, n.nspname::text, c.relname::text, own.attname::text, theirs.attname::text, \
             con.confdeltype::text, con.confupdtype::text FROM pg_constraint con \
             JOIN pg_class c ON c.oid = con.confrelid JOIN pg_namespace n ON n.oid = c.relnamespace \
             CROSS JOIN LATERAL unnest(con.conkey, con.confkey) WITH ORDINALITY AS k (own, theirs, place) \
             JOIN pg_attribute own ON own.attrelid = con.conrelid AND own.attnum = k.own \
             JOIN pg_attribute theirs ON theirs.attrelid = con.confrelid AND theirs.attnum = k.theirs \
             WHERE con.conrelid = $1::bigint::oid AND con.contype = 'f' ORDER BY con.conname, k.place",
        )
        .bind(self.oid)
        .fetch_all(&mut *connection)
        .await?;
        for (name, schema, parent, own, theirs, on_delete, on_update) in rows {
            match self.foreign_keys.last_mut() {
                Some(last) if last.name == name => last.columns.push((own, theirs)),
                _ => self.foreign_keys.push(ForeignKey {
                    name,
                    schema,
                    parent,
                    columns: vec![(own, theirs)],
                    on_delete: action(&on_delete).to_owned(),
                    on_update: action(&on_update).to_owned(),
                }),
            }
        }
        self.referenced = sqlx::query_scalar(
            "SELECT DISTINCT a.attname::text FROM pg_constraint con \
             JOIN pg_attribute a ON a.attrelid = con.confrelid AND a.attnum = ANY (con.confkey) \
             WHERE con.confrelid = $1::bigint::oid AND con.contype = 'f'",
        )
        .bind(self.oid)
        .fetch_all(&mut *connection)
        .await?;
        self.deferrable = sqlx::query_scalar(
            "SELECT EXISTS (SELECT 1 FROM pg_constraint WHERE conrelid = $1::bigint::oid AND condeferrable)",
        )
        .bind(self.oid)
        .fetch_one(connection)
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
        format!("{}.{}", quoted(&self.schema), quoted(&self.table))
    }

    /// The name under which stamps are kept: the same, whatever the search path.
    pub(super) fn full_name(&self) -> String {
        format!("{}.{}", self.schema, self.table)
    }

    /// The columns that address a row: the primary key, else a unique index over NOT NULL columns.
    pub(super) fn natural_key(&self) -> Result<Vec<String>> {
        let usable = |names: &Vec<&str>| {
            names.iter().all(|name| {
                self.column(name).is_ok_and(|column| {
                    column.not_null
                        && !column.generated
                        && !matches!(column.collation, Collation::Loose | Collation::Foreign)
                        && column.native.as_ref().is_some_and(Native::makes_key)
                })
            })
        };
        let uniques = self.indexes.iter().filter(|index| index.addresses());
        let key = uniques.filter_map(Index::whole_columns).find(usable);
        key.map(|names| names.into_iter().map(str::to_owned).collect()).ok_or_else(|| {
            let reason = match self.indexes.iter().find(|index| index.primary) {
                Some(primary) if !primary.immediate => {
                    "its primary key is DEFERRABLE, which no upsert can name; declare it NOT DEFERRABLE"
                }
                Some(_) => {
                    "its primary key is of a type, or has a collation or an encoding, under which different keys may be \
                     the same row or have no order that every database shares; add a unique index over other NOT NULL columns"
                }
                None => {
                    "it has neither a primary key nor a unique index over whole NOT NULL columns that can be \
                     written; add one"
                }
            };
            invalid(format!("table {} has no key: {reason}", self.shown))
        })
    }

    /// Checks that the columns can be the key: unique, never NULL, of the right class.
    pub(super) fn check_key(&self, columns: &[String], classes: &[KeyClass]) -> Result<()> {
        let table = &self.shown;
        let covers = |index: &Index| {
            index.addresses()
                && index.whole_columns().is_some_and(|names| {
                    names.len() == columns.len()
                        && columns.iter().all(|column| names.contains(&column.as_str()))
                })
        };
        if !self.indexes.iter().any(covers) {
            let message = format!(
                "the columns {} of table {table} are no key: neither its primary key nor a unique index that is \
                 checked at once covers exactly them; add a unique index or name other columns",
                columns.join(", ")
            );
            return Err(invalid(message));
        }
        for (index, name) in columns.iter().enumerate() {
            let column = self.column(name)?;
            let refused = |reason: &str| {
                let message =
                    format!("the key column {name} of table {table} ({}) {reason}", column.declared);
                Err(invalid(message))
            };
            if column.generated {
                return refused("is generated and cannot be written");
            }
            if !column.not_null {
                return refused("may be NULL, and such a row has no key; declare it NOT NULL");
            }
            if column.collation == Collation::Loose {
                return refused(
                    "has a nondeterministic collation, under which different keys may be the same row; use another key",
                );
            }
            if column.collation == Collation::Foreign {
                return refused(
                    "is a text in an encoding of the database whose order is not that of UTF-8; use another key, or a \
                     database in UTF8",
                );
            }
            let class = *classes.get(index).or(classes.last()).unwrap_or(&KeyClass::Any);
            let fits = column.native.as_ref().is_some_and(|native| {
                native.makes_key()
                    && match class {
                        KeyClass::Any => true,
                        KeyClass::Integer => {
                            matches!(native, Native::Integer { .. } | Native::Oid | Native::Boolean)
                        }
                        KeyClass::Text => matches!(
                            native,
                            Native::Text { .. }
                                | Native::Name
                                | Native::Padded { .. }
                                | Native::Enum { .. }
                                | Native::Bits { .. }
                        ),
                        KeyClass::Blob => matches!(native, Native::Bytes),
                    }
            });
            if !fits {
                let kind = match class {
                    KeyClass::Integer => "takes no integer keys",
                    KeyClass::Text => "takes no text keys",
                    KeyClass::Blob => "takes no keys of bytes",
                    KeyClass::Any => "is of a type without an order that every database shares",
                };
                return refused(&format!("{kind}; use another key"));
            }
        }
        Ok(())
    }
}

fn action(letter: &str) -> &'static str {
    match letter {
        "r" => "RESTRICT",
        "c" => "CASCADE",
        "n" => "SET NULL",
        "d" => "SET DEFAULT",
        _ => "NO ACTION",
    }
}

/// The schema and the name of a table. A dot separates them, except within double quotes.
pub(super) fn split(name: &str) -> (Option<String>, String) {
    fn part(text: &str) -> (String, &str) {
        if let Some(inner) = text.strip_prefix('"') {
            let (mut part, mut rest) = (String::new(), inner);
            while let Some((before, after)) = rest.split_once('"') {
                part.push_str(before);
                match after.strip_prefix('"') {
                    Some(more) => {
                        part.push('"');
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

pub(super) fn invalid(message: String) -> Error {
    Error::new(Kind::Invalid, message)
}

/// A name as SQL text.
pub(super) fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

pub(super) fn listed(names: &[String]) -> String {
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_may_have_their_schema_before_them() {
        for (name, schema, table) in [
            ("users", None, "users"),
            ("sales.users", Some("sales"), "users"),
            ("\"my.schema\".\"the \"\"users\"", Some("my.schema"), "the \"users"),
            ("\"a.b\"", None, "a.b"),
            ("odd\"name", None, "odd\"name"),
        ] {
            assert_eq!(split(name), (schema.map(str::to_owned), table.to_owned()), "{name}");
        }
        assert_eq!(quoted("a\"b"), "\"a\"\"b\"");
    }
}
