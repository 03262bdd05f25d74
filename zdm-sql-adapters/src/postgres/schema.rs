use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Connection, Executor};
use zdm_core::error::{Error, Kind, Result};

use super::Postgres;
use super::classify::classify;

/// The numbered steps of the bookkeeping schema. A released step is never edited.
const STEPS: [&str; 4] = [
    include_str!("../../schema/postgres/0001_queue.sql"),
    include_str!("../../schema/postgres/0002_checkpoint.sql"),
    include_str!("../../schema/postgres/0003_phase.sql"),
    include_str!("../../schema/postgres/0004_fence.sql"),
];

const VERSIONS: &str = "CREATE TABLE IF NOT EXISTS zdm_schema (version bigint PRIMARY KEY)";

/// Everything of the bookkeeping, for its removal.
const TABLES: [&str; 15] = [
    "zdm_stamp",
    "zdm_page",
    "zdm_fence",
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
    "zdm_schema",
];
const SEQUENCES: [&str; 3] = ["zdm_queue_seat", "zdm_queue_entry_id", "zdm_queue_stamp"];

/// The advisory lock under which the schema changes.
const LOCK: i64 = 7_201_953_001;

/// Removes what capture has made in the schemas of the search path.
const CAPTURES: &str = "DO $zdm$ DECLARE zdm_name text; BEGIN \
    FOR zdm_name IN SELECT oid::regprocedure::text FROM pg_proc WHERE proname LIKE 'zdm\\_capture\\_%' \
        AND pronamespace = ANY (SELECT oid FROM pg_namespace WHERE nspname = ANY (current_schemas(false))) \
    LOOP EXECUTE 'DROP FUNCTION ' || zdm_name || ' CASCADE'; END LOOP; \
    FOR zdm_name IN SELECT oid::regclass::text FROM pg_class WHERE relkind = 'r' AND relname LIKE 'zdm\\_capture\\_%' \
        AND relnamespace = ANY (SELECT oid FROM pg_namespace WHERE nspname = ANY (current_schemas(false))) \
    LOOP EXECUTE 'DROP TABLE ' || zdm_name; END LOOP; END $zdm$;\n";

impl Postgres {
    /// Creates the bookkeeping tables, or brings them to this version. Your own tables are not touched.
    /// Repeating it changes nothing, and of several processes one does it.
    ///
    /// # Errors
    /// `Kind::Damaged` when a newer version of this library made them, else whatever the server says. Then
    /// nothing has changed.
    ///
    /// # Cancel safety
    /// When the future is dropped, the installing goes on to its end.
    pub async fn ensure_schema(&self) -> Result<()> {
        let name = self.name().to_owned();
        self.change_schema(move |connection| Box::pin(async move { install(connection, &name).await })).await
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
    /// Whatever the server says. Then all of it stands.
    ///
    /// # Cancel safety
    /// When the future is dropped, the removal goes on to its end.
    pub async fn remove_schema(&self) -> Result<()> {
        self.change_schema(|connection| {
            Box::pin(async move {
                let tables = TABLES.iter().map(|table| format!("DROP TABLE IF EXISTS {table};\n"));
                let sequences =
                    SEQUENCES.iter().map(|sequence| format!("DROP SEQUENCE IF EXISTS {sequence};\n"));
                // Triggers of capture would fail every write to their tables.
                let captures = std::iter::once(CAPTURES.to_owned());
                run(connection, captures.chain(tables).chain(sequences).collect()).await
            })
        })
        .await
    }

    /// Runs `work` in a transaction, while no other process changes the schema.
    async fn change_schema<W>(&self, work: W) -> Result<()>
    where
        W: for<'c> FnOnce(&'c mut PgConnection) -> futures_util::future::BoxFuture<'c, Result<()>>
            + Send
            + 'static,
    {
        self.alone(|connection| {
            Box::pin(async move {
                let mut transaction = connection.begin().await.map_err(failed)?;
                run(&mut transaction, format!("SELECT pg_advisory_xact_lock({LOCK})")).await?;
                work(&mut transaction).await?;
                transaction.commit().await.map_err(failed)
            })
        })
        .await
    }
}

fn failed(error: sqlx::Error) -> Error {
    classify(error, "installing the bookkeeping tables")
}

async fn run(connection: &mut PgConnection, sql: String) -> Result<()> {
    connection.execute(sqlx::raw_sql(AssertSqlSafe(sql))).await.map_err(failed)?;
    Ok(())
}

async fn install(connection: &mut PgConnection, name: &str) -> Result<()> {
    // Asked first, because CREATE TABLE IF NOT EXISTS asks for the right to create even when it is there.
    let there: bool = sqlx::query_scalar("SELECT to_regclass('zdm_schema') IS NOT NULL")
        .fetch_one(&mut *connection)
        .await
        .map_err(failed)?;
    if !there {
        run(connection, VERSIONS.to_owned()).await?;
    }
    let version: i64 = sqlx::query_scalar("SELECT coalesce(max(version), 0) FROM zdm_schema")
        .fetch_one(&mut *connection)
        .await
        .map_err(failed)?;
    let done = usize::try_from(version).unwrap_or_default();
    if done > STEPS.len() {
        let message = format!(
            "the bookkeeping tables in {name} have version {version}, which is newer than version {} of this \
             program; use the newer program, or remove the tables with it",
            STEPS.len()
        );
        return Err(Error::new(Kind::Damaged, message));
    }
    for (step, version) in STEPS.iter().zip(1_i64..).skip(done) {
        run(connection, format!("{step}\nINSERT INTO zdm_schema (version) VALUES ({version});")).await?;
    }
    Ok(())
}
