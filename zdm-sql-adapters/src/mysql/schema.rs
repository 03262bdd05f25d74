use sqlx::mysql::MySqlConnection;
use zdm_core::error::{Error, Kind, Result};

use super::classify::classify;
use super::shape::quoted;
use super::{MySql, capture};

/// The numbered steps of the bookkeeping schema. A released step is never edited. MySQL commits every
/// statement that changes the schema, so a step may have been done in part: each can be repeated.
const STEPS: [&str; 4] = [
    include_str!("../../schema/mysql/0001_queue.sql"),
    include_str!("../../schema/mysql/0002_checkpoint.sql"),
    include_str!("../../schema/mysql/0003_phase.sql"),
    include_str!("../../schema/mysql/0004_fence.sql"),
];

const VERSIONS: &str =
    "CREATE TABLE IF NOT EXISTS zdm_schema (version BIGINT NOT NULL PRIMARY KEY) ENGINE = InnoDB";

/// Every table of the bookkeeping, for its removal.
const TABLES: [&str; 17] = [
    "zdm_counter",
    "zdm_queue",
    "zdm_queue_instance",
    "zdm_queue_entry",
    "zdm_queue_key",
    "zdm_queue_range",
    "zdm_queue_taint",
    "zdm_queue_trace",
    "zdm_checkpoint",
    "zdm_phase",
    "zdm_phase_move",
    "zdm_phase_member",
    "zdm_stamp",
    "zdm_page",
    "zdm_fence",
    "zdm_slot",
    "zdm_schema",
];

/// How long one process waits for another one that is installing.
const PATIENCE_SECONDS: u32 = 30;

impl MySql {
    /// Creates the bookkeeping tables, or brings them to this version. Your own tables are not touched.
    /// Repeating it changes nothing, and of several processes one does it.
    ///
    /// # Errors
    /// `Kind::Damaged` when a newer version of this library made them, else whatever the server says.
    ///
    /// # Cancel safety
    /// When the future is dropped, the installing goes on to its end.
    pub async fn ensure_schema(&self) -> Result<()> {
        self.alone(|db, version| {
            let done = usize::try_from(version).unwrap_or_default();
            if done > STEPS.len() {
                let message = format!(
                    "the bookkeeping tables in {} have version {version}, which is newer than version {} of this \
                     program; use the newer program, or remove the tables with it",
                    db.name(),
                    STEPS.len()
                );
                return Err(Error::new(Kind::Damaged, message));
            }
            let step = |(step, version): (&&str, i64)| {
                format!("{step}\nINSERT INTO zdm_schema (version) VALUES ({version});\n")
            };
            Ok(STEPS.iter().zip(1_i64..).skip(done).map(step).collect())
        })
        .await
    }

    /// The statements that [`ensure_schema`](Self::ensure_schema) runs on an empty database, for those who
    /// install schemas themselves.
    pub fn schema_sql() -> String {
        let mut sql = format!("{VERSIONS};\n");
        for (step, version) in STEPS.iter().zip(1_i64..) {
            sql.push_str(&format!("\n{step}\nINSERT INTO zdm_schema (version) VALUES ({version});\n"));
        }
        sql
    }

    /// Removes the bookkeeping, and leaves nothing behind. For the end of a migration, when no instance
    /// works on it any more: stamps, checkpoints and pending entries are gone.
    ///
    /// # Errors
    /// Whatever the server says.
    ///
    /// # Cancel safety
    /// When the future is dropped, the removal goes on to its end.
    pub async fn remove_schema(&self) -> Result<()> {
        // Triggers of capture would fail every write to their tables.
        let triggers = capture::standing(self).await?;
        let triggers = triggers.iter().map(|name| format!("DROP TRIGGER IF EXISTS {};\n", quoted(name)));
        let notes = capture::notes_tables(self).await?;
        let notes = notes.iter().map(|name| format!("DROP TABLE IF EXISTS {};\n", quoted(name)));
        let tables = TABLES.iter().map(|table| format!("DROP TABLE IF EXISTS {table};\n"));
        let drops: String = triggers.chain(notes).chain(tables).collect();
        self.alone(move |_, _| Ok(drops)).await
    }

    /// Runs the statements that `choose` makes of the installed version, while no other process changes the
    /// schema.
    async fn alone(&self, choose: impl FnOnce(&Self, i64) -> Result<String> + Send + 'static) -> Result<()> {
        let db = self.clone();
        let task = tokio::spawn(async move {
            let name = format!("zdm schema {}", db.name());
            let within = db.clone();
            // A session that ends, however it ends, gives the lock back.
            db.read(move |connection| {
                Box::pin(async move {
                    lock(connection, &name).await?;
                    let done = async {
                        let version = version(connection, &within).await?;
                        let statements = choose(&within, version)?;
                        if statements.is_empty() {
                            return Ok(());
                        }
                        within.execute(statements).await
                    }
                    .await;
                    let unlocked = sqlx::query("DO RELEASE_LOCK(?)")
                        .bind(name.chars().take(64).collect::<String>())
                        .execute(connection)
                        .await;
                    done.and(unlocked.map(drop).map_err(failed))
                })
            })
            .await
        });
        task.await.unwrap_or_else(|error| {
            let message = "the installation of the bookkeeping tables was cut off";
            Err(Error::new(Kind::Stopped, message).with_source(error).unknown())
        })
    }
}

fn failed(error: sqlx::Error) -> Error {
    classify(error, "installing the bookkeeping tables")
}

async fn lock(connection: &mut MySqlConnection, name: &str) -> Result<()> {
    // The server takes 64 letters.
    let got: Option<i64> = sqlx::query_scalar("SELECT CAST(GET_LOCK(LEFT(?, 64), ?) AS SIGNED)")
        .bind(name.to_owned())
        .bind(PATIENCE_SECONDS)
        .fetch_one(connection)
        .await
        .map_err(failed)?;
    if got == Some(1) {
        return Ok(());
    }
    let message =
        format!("another process has been installing the bookkeeping tables for {PATIENCE_SECONDS} s");
    Err(Error::new(Kind::Busy, message).not_applied())
}

/// The version that is installed; 0 when nothing is.
async fn version(connection: &mut MySqlConnection, db: &MySql) -> Result<i64> {
    let there: i64 = sqlx::query_scalar(
        "SELECT count(*) FROM information_schema.tables WHERE table_schema = ? AND table_name = 'zdm_schema'",
    )
    .bind(db.name().to_owned())
    .fetch_one(&mut *connection)
    .await
    .map_err(failed)?;
    if there == 0 {
        db.execute(VERSIONS).await?;
        return Ok(0);
    }
    sqlx::query_scalar("SELECT CAST(coalesce(max(version), 0) AS SIGNED) FROM zdm_schema")
        .fetch_one(connection)
        .await
        .map_err(failed)
}
