use sqlx::AssertSqlSafe;
use sqlx::sqlite::SqliteConnection;
use zdm_core::error::{Error, Kind, Result};

use super::classify::classify;
use super::shape::quoted;
use super::{Sqlite, queue};

/// The numbered steps of the bookkeeping schema. A released step is never edited.
const STEPS: [&str; 4] = [
    include_str!("../../schema/sqlite/0001_fence.sql"),
    include_str!("../../schema/sqlite/0002_checkpoint.sql"),
    include_str!("../../schema/sqlite/0003_queue.sql"),
    include_str!("../../schema/sqlite/0004_capture.sql"),
];

const VERSIONS: &str = "CREATE TABLE IF NOT EXISTS zdm_schema (version INTEGER NOT NULL PRIMARY KEY) STRICT";

/// Every table of the bookkeeping, for its removal.
const TABLES: [&str; 10] = [
    "zdm_stamp",
    "zdm_page",
    "zdm_fence",
    "zdm_checkpoint",
    "zdm_queue",
    "zdm_queue_entry",
    "zdm_queue_taint",
    "zdm_capture",
    "zdm_mirroring",
    "zdm_schema",
];

impl Sqlite {
    /// Creates the bookkeeping tables, or brings them to this version. Your own tables are not touched.
    /// Repeating it changes nothing.
    ///
    /// # Errors
    /// `Kind::Damaged` when a newer version of this library made them, else whatever SQLite says.
    ///
    /// # Cancel safety
    /// As [`write`](Self::write).
    pub async fn ensure_schema(&self) -> Result<()> {
        let path = self.path().display().to_string();
        self.write(move |connection| Box::pin(async move { install(connection, &path).await })).await
    }

    /// The statements that [`ensure_schema`](Self::ensure_schema) runs on an empty database, for those who
    /// install schemas themselves.
    pub fn schema_sql() -> String {
        let mut sql = format!("{VERSIONS};\n");
        for (step, version) in STEPS.iter().zip(1..) {
            sql.push_str(&format!("\n{step}\nINSERT INTO zdm_schema (version) VALUES ({version});\n"));
        }
        sql
    }

    /// Removes the bookkeeping, and leaves nothing behind. For the end of a migration: stamps, checkpoints
    /// and pending entries are gone.
    ///
    /// # Errors
    /// `Kind::Owned` when a queue in the file is open; else whatever SQLite says. Then all of it stands.
    ///
    /// # Cancel safety
    /// As [`write`](Self::write).
    pub async fn remove_schema(&self) -> Result<()> {
        let lock = queue::lock(self.path().to_owned()).await?;
        // Triggers of capture would fail every write to their tables.
        let triggers: Vec<String> = sqlx::query_scalar(
            "SELECT name FROM sqlite_schema WHERE type = 'trigger' AND name LIKE 'zdm\\_capture\\_%' ESCAPE '\\'",
        )
        .fetch_all(&mut *self.reader().await?)
        .await
        .map_err(|error| classify(error, "looking for triggers"))?;
        let triggers = triggers.iter().map(|name| format!("DROP TRIGGER IF EXISTS {};\n", quoted(name)));
        let tables = TABLES.iter().map(|table| format!("DROP TABLE IF EXISTS {table};\n"));
        self.execute(triggers.chain(tables).collect::<String>()).await?;
        lock.remove()
    }
}

async fn install(connection: &mut SqliteConnection, path: &str) -> Result<()> {
    let doing = |error| classify(error, &format!("installing the bookkeeping tables in {path}"));
    sqlx::query(VERSIONS).execute(&mut *connection).await.map_err(doing)?;
    let version: i64 = sqlx::query_scalar("SELECT coalesce(max(version), 0) FROM zdm_schema")
        .fetch_one(&mut *connection)
        .await
        .map_err(doing)?;
    let done = usize::try_from(version).unwrap_or_default();
    if done > STEPS.len() {
        let message = format!(
            "the bookkeeping tables in {path} have version {version}, which is newer than version {} of this \
             program; use the newer program, or remove the tables with it",
            STEPS.len()
        );
        return Err(Error::new(Kind::Damaged, message));
    }
    for (step, version) in STEPS.iter().zip(1_i64..).skip(done) {
        sqlx::raw_sql(AssertSqlSafe(*step)).execute(&mut *connection).await.map_err(doing)?;
        sqlx::query("INSERT INTO zdm_schema (version) VALUES (?)")
            .bind(version)
            .execute(&mut *connection)
            .await
            .map_err(doing)?;
    }
    Ok(())
}
