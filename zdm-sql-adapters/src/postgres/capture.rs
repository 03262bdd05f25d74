//! Triggers that note the keys of rows which anybody writes.
//!
//! Each captured table has a table of notes beside it, whose columns are those of its key.

use async_trait::async_trait;
use sqlx::{AssertSqlSafe, Row};
use zdm_core::error::{Error, Kind, Result};
use zdm_core::key::KeyRange;
use zdm_core::queue::Touch;
use zdm_core::rollout::murmur3_32;

use super::classify::classify;
use super::session;
use super::shape::{Shape, invalid, quoted};
use super::store::{TableStore, fields};
use crate::capture::{CaptureSource, Note};
use crate::table::RowMapping;

/// How long a name may be.
const LONGEST_NAME: usize = 63;

/// The notes that triggers make about one table.
///
/// They see every writer and every row: bulk statements, COPY, what foreign keys do by themselves, what logical
/// replication brings, and TRUNCATE, which becomes a note about every key. A statement costs one insert of all its
/// keys, not one a row.
///
/// The triggers of a partitioned table are those of its partitions too, also of later ones, and see rows that are
/// written under a partition's own name. They run once a row, because PostgreSQL does not hand whole statements
/// to them. Not seen is a TRUNCATE of a partition under its own name, and partitions that are attached or detached
/// with their rows.
pub struct PgCapture<M> {
    store: TableStore<M>,
}

/// What a note is about.
const WRITTEN: i16 = 0;
const DELETED: i16 = 1;
const EVERY_KEY: i16 = 2;

impl<M: RowMapping> PgCapture<M> {
    /// Makes the table of notes, the functions and the triggers, in one transaction. Those that are there are
    /// replaced, and no write slips through between.
    ///
    /// # Errors
    /// Whatever the server says; then nothing was made.
    ///
    /// # Cancel safety
    /// As [`Postgres::execute`](super::Postgres::execute).
    pub async fn install(store: &TableStore<M>) -> Result<Self> {
        store.database().execute(install_sql(store)).await?;
        Ok(Self { store: store.clone() })
    }

    /// The notes of a table whose triggers are there.
    ///
    /// # Errors
    /// `Kind::Invalid` when one of them is not.
    pub async fn open(store: &TableStore<M>) -> Result<Self> {
        let found = Self::inspect(store).await?;
        if found.len() == EVENTS.len() {
            return Ok(Self { store: store.clone() });
        }
        let table = store.table().name();
        Err(invalid(format!("table {table} has {} of the triggers of capture; install them", found.len())))
    }

    /// The triggers that stand and are enabled, each as the SQL that makes it.
    ///
    /// # Errors
    /// Whatever the server says.
    pub async fn inspect(store: &TableStore<M>) -> Result<Vec<String>> {
        let mut reader = store.database().reader().await?;
        let found = sqlx::query_scalar(
            "SELECT pg_get_triggerdef(oid) FROM pg_trigger WHERE tgrelid = $1::bigint::oid AND tgenabled <> 'D' \
             AND tgname LIKE 'zdm\\_capture\\_%' ORDER BY tgname",
        )
        .bind(store.table().shape.oid)
        .fetch_all(&mut *reader)
        .await
        .map_err(|error| classify(error, "looking for triggers"))?;
        reader.release();
        Ok(found)
    }

    /// Removes the triggers, their functions and the table of notes.
    ///
    /// # Errors
    /// `Kind::Refused` while notes are left that nobody has taken over; else whatever the server says.
    pub async fn remove(store: &TableStore<M>) -> Result<()> {
        let (notes, functions, shown) = names(&store.table().shape);
        let sql = format!("{} DROP TABLE IF EXISTS {notes};", drop_sql(&functions));
        store
            .database()
            .alone(move |connection| {
                Box::pin(async move {
                    let failed = |error| classify(error, "removing triggers");
                    session::run(connection, "BEGIN").await.map_err(failed)?;
                    let sql_left = format!("SELECT to_regclass('{}') IS NOT NULL", notes.replace('\'', "''"));
                    let there: bool =
                        sqlx::query_scalar(AssertSqlSafe(sql_left)).fetch_one(&mut *connection).await.map_err(failed)?;
                    if there {
                        session::run(connection, format!("LOCK TABLE {notes}")).await.map_err(failed)?;
                        let left: bool = sqlx::query_scalar(AssertSqlSafe(format!("SELECT EXISTS (SELECT 1 FROM {notes})")))
                            .fetch_one(&mut *connection)
                            .await
                            .map_err(failed)?;
                        if left {
                            let message = format!(
                                "writes to table {shown} were captured and not taken over yet; let the queue drain first"
                            );
                            return Err(Error::new(Kind::Refused, message));
                        }
                    }
                    session::run(connection, format!("{sql} COMMIT")).await.map_err(failed)
                })
            })
            .await
    }
}

#[async_trait]
impl<M: RowMapping> CaptureSource for PgCapture<M> {
    async fn notes(&self, limit: usize) -> Result<Vec<Note>> {
        let table = self.store.table();
        let failed = |error| classify(error, &format!("reading what was captured of table {}", table.name()));
        let (notes, ..) = names(&table.shape);
        let sql = format!(
            "SELECT {}, zdm_what, zdm_id FROM {notes} AS zdm_old ORDER BY zdm_id LIMIT {limit}",
            table.key_reads()
        );
        let mut reader = self.store.database().reader().await?;
        let rows = sqlx::query(AssertSqlSafe(sql)).fetch_all(&mut *reader).await.map_err(failed)?;
        reader.release();
        let (mut found, mut scratch) = (Vec::with_capacity(rows.len()), Vec::new());
        for row in &rows {
            let what: i16 = row.try_get(table.key_len).map_err(failed)?;
            let id: i64 = row.try_get(table.key_len + 1).map_err(failed)?;
            let touch = match what {
                EVERY_KEY => Touch::range(KeyRange::<M::Key>::all()).encode(),
                _ => {
                    let key = self.store.key_of(&mut fields(row), &mut scratch)?;
                    if what == DELETED { Touch::delete(&key) } else { Touch::upsert(&key) }.encode()
                }
            };
            found.push(Note { id, touch });
        }
        Ok(found)
    }

    async fn forget(&self, ids: &[i64]) -> Result<()> {
        let (notes, ..) = names(&self.store.table().shape);
        let ids = ids.to_vec();
        self.store
            .database()
            .write(move |connection| {
                Box::pin(async move {
                    let sql = AssertSqlSafe(format!("DELETE FROM {notes} WHERE zdm_id = ANY($1)"));
                    let gone = sqlx::query(sql).bind(ids).execute(connection).await;
                    gone.map_err(|error| classify(error, "removing notes that were taken over"))?;
                    Ok(())
                })
            })
            .await
    }
}

const EVENTS: [&str; 4] = ["delete", "insert", "truncate", "update"];

/// The table of notes, the functions of the events, and the name for messages. Quoted, in the table's schema.
fn names(shape: &Shape) -> (String, [String; 4], String) {
    let name = |parts: &[&str]| {
        let whole = parts.join("_");
        let whole = if whole.len() <= LONGEST_NAME {
            whole
        } else {
            format!("{}_{:08x}", parts[0], murmur3_32(whole.as_bytes(), 0))
        };
        format!("{}.{}", quoted(&shape.schema), quoted(&whole))
    };
    let notes = name(&["zdm_capture", &shape.table]);
    let functions = EVENTS.map(|event| name(&[&format!("zdm_capture_{event}"), &shape.table]));
    (notes, functions, shape.shown.clone())
}

/// A body between dollar quotes that it does not hold itself: names of tables and columns may.
fn dollar_quoted(body: &str) -> String {
    let mut mark = "$zdm$".to_owned();
    while body.contains(&mark) {
        mark = mark.replace("zdm", "zdm_");
    }
    format!("{mark}{body}{mark}")
}

fn drop_sql(functions: &[String; 4]) -> String {
    // A trigger goes with its function.
    functions.iter().map(|function| format!("DROP FUNCTION IF EXISTS {function}() CASCADE; ")).collect()
}

fn install_sql<M: RowMapping>(store: &TableStore<M>) -> String {
    let table = store.table();
    let (notes, functions, _) = names(&table.shape);
    let target = table.shape.quoted();
    let key: Vec<_> = table.key().iter().map(|field| field.quoted.clone()).collect();
    let columns = key.join(", ");
    let of = |alias: &str| key.iter().map(|name| format!("{alias}.{name}")).collect::<Vec<_>>().join(", ");
    // Keys that an update leaves alone are noted once; one that it changes is gone, and another has come. By
    // bytes where a collation is looser than that.
    let same: Vec<_> = key
        .iter()
        .map(|name| format!("zdm_now.{name}::text COLLATE \"C\" = zdm_was.{name}::text COLLATE \"C\""))
        .collect();
    let note = |what: i16, from: &str, alias: &str, only: &str| {
        format!(
            "INSERT INTO {notes} (zdm_what, {columns}) SELECT {what}, {} FROM {from} AS {alias}{only};",
            of(alias)
        )
    };
    let every_key = format!("INSERT INTO {notes} (zdm_what) VALUES ({EVERY_KEY});");
    let statements = if table.shape.partitioned {
        let note = |what: i16, alias: &str| {
            format!("INSERT INTO {notes} (zdm_what, {columns}) VALUES ({what}, {});", of(alias))
        };
        let same = same.join(" AND ").replace("zdm_now.", "NEW.").replace("zdm_was.", "OLD.");
        let (gone, come) = (note(DELETED, "OLD"), note(WRITTEN, "NEW"));
        [
            (gone.clone(), "FOR EACH ROW"),
            (come.clone(), "FOR EACH ROW"),
            (every_key, "FOR EACH STATEMENT"),
            (format!("IF NOT ({same}) THEN {gone} END IF; {come}"), "FOR EACH ROW"),
        ]
    } else {
        let gone =
            format!(" WHERE NOT EXISTS (SELECT 1 FROM zdm_new AS zdm_now WHERE {})", same.join(" AND "));
        [
            (
                note(DELETED, "zdm_gone", "zdm_was", ""),
                "REFERENCING OLD TABLE AS zdm_gone FOR EACH STATEMENT",
            ),
            (note(WRITTEN, "zdm_new", "zdm_now", ""), "REFERENCING NEW TABLE AS zdm_new FOR EACH STATEMENT"),
            (every_key, "FOR EACH STATEMENT"),
            (
                note(DELETED, "zdm_gone", "zdm_was", &gone) + " " + &note(WRITTEN, "zdm_new", "zdm_now", ""),
                "REFERENCING OLD TABLE AS zdm_gone NEW TABLE AS zdm_new FOR EACH STATEMENT",
            ),
        ]
    };
    let mut sql = format!(
        "CREATE TABLE IF NOT EXISTS {notes} AS SELECT 0::bigint AS zdm_id, 0::smallint AS zdm_what, {columns} \
         FROM {target} WITH NO DATA; "
    );
    // A table that was just made, or is there from before: both end up the same.
    let made = "BEGIN IF NOT EXISTS (SELECT 1 FROM pg_attribute WHERE attrelid = '{notes}'::regclass \
                AND attname = 'zdm_id' AND attidentity <> '') THEN ALTER TABLE {notes} ALTER zdm_id SET NOT NULL, \
                ALTER zdm_id ADD GENERATED ALWAYS AS IDENTITY, ADD PRIMARY KEY (zdm_id); END IF; END";
    let made =
        made.replace("'{notes}'", &format!("'{}'", notes.replace('\'', "''"))).replace("{notes}", &notes);
    sql.push_str(&format!("DO {}; ", dollar_quoted(&made)));
    for (at, event) in EVENTS.iter().enumerate() {
        let (function, (body, each)) = (&functions[at], &statements[at]);
        let body = dollar_quoted(&format!(
            "BEGIN IF current_setting('zdm.mirroring', true) IS DISTINCT FROM 'on' THEN {body} END IF; RETURN NULL; END"
        ));
        // With the rights of whoever installs: the application need not be allowed to write notes.
        sql.push_str(&format!(
            "CREATE OR REPLACE FUNCTION {function}() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER \
             SET search_path FROM CURRENT AS {body}; \
             DROP TRIGGER IF EXISTS {name} ON {target}; \
             CREATE TRIGGER {name} AFTER {} ON {target} {each} EXECUTE FUNCTION {function}(); \
             ALTER TABLE {target} ENABLE ALWAYS TRIGGER {name}; ",
            event.to_uppercase(),
            name = quoted(&format!("zdm_capture_{event}")),
        ));
    }
    sql
}
