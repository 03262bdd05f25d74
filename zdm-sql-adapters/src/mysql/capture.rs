//! Triggers that note the keys of rows which anybody writes.
//!
//! Each captured table has a table of notes, whose columns are those of its key: `zdm_capture_` and the name.

use async_trait::async_trait;
use sqlx::mysql::MySqlConnection;
use sqlx::{AssertSqlSafe, Row};
use zdm_core::error::{Error, Kind, Result};
use zdm_core::queue::Touch;
use zdm_core::rollout::murmur3_32;

use super::classify::classify;
use super::shape::{ForeignKey, Shape, invalid, quoted};
use super::store::TableStore;
use super::{MySql, session};
use crate::capture::{CaptureSource, Note};
use crate::table::RowMapping;

/// How many tables a cascade is followed upwards.
const MOST_STEPS: usize = 8;
/// How long a name may be.
const LONGEST_NAME: usize = 64;

/// The notes that triggers make about one table.
///
/// They see every writer and every row. The server's triggers do not see what a foreign key deletes or
/// changes by itself; so the tables above have triggers too, which note the rows of this one before that
/// happens. `TRUNCATE` fires no trigger and is not seen; verification finds what it left.
///
/// Measured in MariaDB 10.11 with 200,000 rows in one statement, microseconds a row: an insert 1.3 without and
/// 5.9 with, an update 3.3 and 12.7.
///
/// Installing needs the privilege TRIGGER, and with binary logging on a server of MySQL also
/// `log_bin_trust_function_creators`.
pub struct MySqlCapture<M> {
    store: TableStore<M>,
}

/// One trigger.
struct Trigger {
    name: String,
    sql: String,
}

impl<M: RowMapping> MySqlCapture<M> {
    /// Makes the table of notes and the triggers. Those that are there stay, so that no write slips through
    /// between an old one and a new one.
    ///
    /// # Errors
    /// `Kind::Invalid` when a cascade comes from more than eight tables above; else whatever the server says.
    ///
    /// # Cancel safety
    /// As [`MySql::execute`].
    pub async fn install(store: &TableStore<M>) -> Result<Self> {
        let db = store.database();
        let triggers = triggers(store).await?;
        let notes = quoted(&notes_table(&store.table().shape));
        let columns: Vec<_> = store.table().key().iter().map(|field| field.quoted.clone()).collect();
        let mut sql = format!(
            "CREATE TABLE IF NOT EXISTS {notes} (zdm_id BIGINT NOT NULL AUTO_INCREMENT PRIMARY KEY, \
             zdm_deleted TINYINT NOT NULL DEFAULT 0) ENGINE = InnoDB AS SELECT {} FROM {} WHERE FALSE;\n",
            columns.join(", "),
            store.table().shape.quoted()
        );
        for trigger in &triggers {
            sql.push_str(&trigger.sql);
            sql.push_str(";\n");
        }
        db.execute(sql).await?;
        Ok(Self { store: store.clone() })
    }

    /// The notes of a table whose triggers are there.
    ///
    /// # Errors
    /// `Kind::Invalid` when one of them is not.
    pub async fn open(store: &TableStore<M>) -> Result<Self> {
        let found = Self::inspect(store).await?;
        match triggers(store).await?.iter().find(|trigger| !found.contains(&trigger.name)) {
            None => Ok(Self { store: store.clone() }),
            Some(missing) => {
                let table = store.table().name();
                Err(invalid(format!(
                    "table {table} lacks the trigger {} of capture; install it",
                    missing.name
                )))
            }
        }
    }

    /// The names of the triggers that stand.
    ///
    /// # Errors
    /// Whatever the server says.
    pub async fn inspect(store: &TableStore<M>) -> Result<Vec<String>> {
        let wanted: Vec<String> = triggers(store).await?.into_iter().map(|trigger| trigger.name).collect();
        let standing = standing(store.database()).await?;
        Ok(standing.into_iter().filter(|name| wanted.contains(name)).collect())
    }

    /// Removes the triggers and the table of notes.
    ///
    /// # Errors
    /// `Kind::Refused` while notes are left that nobody has taken over; else whatever the server says.
    pub async fn remove(store: &TableStore<M>) -> Result<()> {
        let source = Self { store: store.clone() };
        let left = source.notes(1).await?;
        if !left.is_empty() {
            let message = format!(
                "writes to table {} were captured and not taken over yet; let the queue drain first",
                store.table().name()
            );
            return Err(Error::new(Kind::Refused, message));
        }
        let mut sql = String::new();
        for trigger in triggers(store).await? {
            sql.push_str(&format!("DROP TRIGGER IF EXISTS {};\n", quoted(&trigger.name)));
        }
        sql.push_str(&format!("DROP TABLE IF EXISTS {};\n", quoted(&notes_table(&store.table().shape))));
        store.database().execute(sql).await
    }
}

#[async_trait]
impl<M: RowMapping> CaptureSource for MySqlCapture<M> {
    async fn notes(&self, limit: usize) -> Result<Vec<Note>> {
        let table = self.store.table();
        let failed = |error| classify(error, &format!("reading what was captured of table {}", table.name()));
        let sql = format!(
            "SELECT {}, CAST(zdm_deleted AS SIGNED), zdm_id FROM {} ORDER BY zdm_id LIMIT {limit}",
            table.key_names(),
            quoted(&notes_table(&table.shape)),
        );
        let mut reader = self.store.database().reader().await?;
        let rows = sqlx::query(AssertSqlSafe(sql)).fetch_all(&mut *reader).await.map_err(failed)?;
        reader.release();
        let mut notes = Vec::with_capacity(rows.len());
        for row in &rows {
            let deleted: i64 = row.try_get(table.key_len).map_err(failed)?;
            let id: i64 = row.try_get(table.key_len + 1).map_err(failed)?;
            let key = self.store.key_of(row)?;
            let touch = if deleted == 1 { Touch::delete(&key) } else { Touch::upsert(&key) };
            notes.push(Note { id, touch: touch.encode() });
        }
        Ok(notes)
    }

    async fn forget(&self, ids: &[i64]) -> Result<()> {
        let (ids, notes) = (ids.to_vec(), quoted(&notes_table(&self.store.table().shape)));
        self.store
            .database()
            .write(move |connection| {
                Box::pin(async move {
                    for chunk in ids.chunks(1_000) {
                        let list = chunk.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
                        let sql = AssertSqlSafe(format!("DELETE FROM {notes} WHERE zdm_id IN ({list})"));
                        sqlx::raw_sql(sql)
                            .execute(&mut *connection)
                            .await
                            .map_err(|error| classify(error, "removing notes that were taken over"))?;
                    }
                    Ok(())
                })
            })
            .await
    }
}

/// A name that the server takes, the same each time.
fn name(parts: &[&str]) -> String {
    let whole = parts.join("_");
    if whole.len() <= LONGEST_NAME {
        return whole;
    }
    let hash = murmur3_32(whole.as_bytes(), 0);
    let kept: String = whole.chars().take(50).collect();
    let kept = if kept.len() > 54 { parts[0].to_owned() } else { kept };
    format!("{kept}_{hash:08x}")
}

fn notes_table(shape: &Shape) -> String {
    name(&["zdm_capture", &shape.table])
}

/// Every trigger of capture in the database.
pub(super) async fn standing(db: &MySql) -> Result<Vec<String>> {
    listed(
        db,
        "SELECT CONVERT(trigger_name USING utf8mb4) FROM information_schema.triggers \
                WHERE trigger_schema = ? AND trigger_name LIKE 'zdm\\_capture\\_%'",
    )
    .await
}

/// Every table of notes in the database.
pub(super) async fn notes_tables(db: &MySql) -> Result<Vec<String>> {
    listed(
        db,
        "SELECT CONVERT(table_name USING utf8mb4) FROM information_schema.tables \
                WHERE table_schema = ? AND table_name LIKE 'zdm\\_capture\\_%'",
    )
    .await
}

async fn listed(db: &MySql, sql: &'static str) -> Result<Vec<String>> {
    let mut reader = db.reader().await?;
    let names = sqlx::query_scalar(sql)
        .bind(db.name().to_owned())
        .fetch_all(&mut *reader)
        .await
        .map_err(|error| classify(error, "looking for triggers"))?;
    reader.release();
    Ok(names)
}

/// The triggers of a table, and those on the tables above that delete or change its rows by themselves.
async fn triggers<M: RowMapping>(store: &TableStore<M>) -> Result<Vec<Trigger>> {
    let table = store.table();
    let shape = &table.shape;
    let notes = quoted(&notes_table(shape));
    let key: Vec<&str> = table.key().iter().map(|field| field.quoted.as_str()).collect();
    let note = |row: &str, deleted: bool, only: &str| {
        let values: Vec<_> = key.iter().map(|column| format!("{row}.{column}")).collect();
        format!(
            "INSERT INTO {notes} (zdm_deleted, {}) SELECT {}, {} FROM DUAL {only};",
            key.join(", "),
            u8::from(deleted),
            values.join(", ")
        )
    };
    // A key that an update changes is two: the one that is gone and the one that has come. Letters that are
    // equal to the collation need not be the same bytes.
    let same: Vec<_> = key
        .iter()
        .map(|column| format!("CAST(OLD.{column} AS BINARY) <=> CAST(NEW.{column} AS BINARY)"))
        .collect();
    let moved = format!("WHERE NOT ({})", same.join(" AND "));
    let bodies = [
        ("insert", note("NEW", false, "")),
        ("update", note("OLD", true, &moved) + " " + &note("NEW", false, "")),
        ("delete", note("OLD", true, "")),
    ];
    let make = |event: &str, timing: &str, on: &str, label: &str, body: &str| {
        let name = name(&["zdm_capture", event, &shape.table, label]);
        let sql = format!(
            "CREATE TRIGGER IF NOT EXISTS {} {timing} {} ON {on} FOR EACH ROW BEGIN IF @{} IS NULL THEN {body} END IF; END",
            quoted(&name),
            event.to_uppercase(),
            session::MIRRORING
        );
        Trigger { name, sql }
    };
    let mut triggers: Vec<Trigger> =
        bodies.iter().map(|(event, body)| make(event, "AFTER", &shape.quoted(), "", body)).collect();

    // Upwards from the table: for each way, the joins that lead from a row above to rows of this one.
    let own: Vec<_> = key.iter().map(|column| format!("zdm_0.{column}")).collect();
    let mut ways = vec![(shape.clone(), format!("{} AS zdm_0", shape.quoted()), 0_usize)];
    let mut reader = store.database().reader().await?;
    while let Some((below, joins, step)) = ways.pop() {
        for (number, tie) in below.foreign_keys.iter().enumerate() {
            let acts = |action: &str| !matches!(action, "RESTRICT" | "NO ACTION");
            let (deletes, updates) = (acts(&tie.on_delete), acts(&tie.on_update));
            if !deletes && !updates {
                continue;
            }
            if step == MOST_STEPS {
                let message =
                    format!("rows of table {} depend on more than {MOST_STEPS} tables above", table.name());
                return Err(invalid(message));
            }
            let above = parent(&mut reader, store.database(), tie).await?;
            let condition = |row: &str| {
                let parts = tie.columns.iter().map(|(column, parents)| {
                    format!("zdm_{step}.{} = {row}.{}", quoted(column), quoted(parents))
                });
                parts.collect::<Vec<_>>().join(" AND ")
            };
            let body = format!(
                "INSERT INTO {notes} (zdm_deleted, {}) SELECT 1, {} FROM {joins} WHERE {};",
                key.join(", "),
                own.join(", "),
                condition("OLD")
            );
            let label = format!("{}_{step}_{number}", above.table);
            for (event, wanted) in [("delete", deletes), ("update", updates)] {
                if wanted {
                    triggers.push(make(event, "BEFORE", &above.quoted(), &label, &body));
                }
            }
            // A table that refers to itself is its own way up; its rows below are noted by one step.
            if above.table != below.table {
                let next = step + 1;
                let joins = format!(
                    "{joins} JOIN {} AS zdm_{next} ON {}",
                    above.quoted(),
                    condition(&format!("zdm_{next}"))
                );
                ways.push((above, joins, next));
            }
        }
    }
    reader.release();
    Ok(triggers)
}

async fn parent(connection: &mut MySqlConnection, db: &MySql, tie: &ForeignKey) -> Result<Shape> {
    let name = format!("{}.{}", quoted(&tie.database), quoted(&tie.parent));
    Shape::read(connection, db.name(), db.is_mariadb(), &name).await
}
