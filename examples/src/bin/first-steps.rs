//! The program of the README: a table of users moves to another file while the service keeps using it.

use serde::Serialize;
use std::{sync::Arc, time::Duration};
use zdm_core::checkpoint::FileCheckpoints;
use zdm_core::phase::{FileCoordinator, Phase};
use zdm_core::store::{Store, StoreExt};
use zdm_dualwrite::{Backfill, DiskQueue, DualWrite, Verify};
use zdm_sql_adapters::sqlite::{Sqlite, SqliteTable};
use zdm_sql_adapters::table::{RowReader, RowWriter, TableMapping};

#[derive(Clone, Debug, PartialEq, Serialize)]
struct User {
    name: String,
    email: Option<String>,
}

// How a user stands in a table. For another schema, write a second mapping and give each side its own.
impl TableMapping for User {
    type Key = i64;
    type Record = Self;
    const TABLE: &'static str = "users";
    const KEY: &'static [&'static str] = &["id"];
    const COLUMNS: &'static [&'static str] = &["name", "email"];
    fn write(user: &Self, row: &mut RowWriter<'_>) -> zdm_core::Result<()> {
        row.set("name", &user.name).set("email", &user.email).done()
    }
    fn read(_id: &i64, row: &mut RowReader<'_>) -> zdm_core::Result<Self> {
        Ok(Self { name: row.get("name")?, email: row.get("email")? })
    }
}

#[tokio::main]
async fn main() -> zdm_core::Result<()> {
    let (old, new) = (Sqlite::create("old.db").await?, Sqlite::create("new.db").await?);
    for database in [&old, &new] {
        let table =
            "CREATE TABLE IF NOT EXISTS users (id INTEGER PRIMARY KEY, name TEXT NOT NULL, email TEXT)";
        database.execute(table).await?;
    }
    let old = SqliteTable::<User>::open(&old).await?.with_fence().await?;
    let new = SqliteTable::<User>::open(&new).await?.with_fence().await?;

    // The wrapper is a store as well: handlers call it as they called the old one, in every phase.
    let users = DualWrite::builder(old, new)
        .queue(DiskQueue::open("users.queue", "users")?)
        .coordinator(Arc::new(FileCoordinator::open("users.phase", "users").await?))
        .start()
        .await?;
    users.put(&7, &User { name: "Ada".into(), email: None }).await?;

    users.advance(Phase::DualWrite).await?; // from here on every write reaches both
    Backfill::new(&users).checkpoints(FileCheckpoints::open("users.checkpoints").await?).run().await?;
    users.advance(Phase::Shadow).await?;
    Verify::new(&users).run().await?;
    users.advance(Phase::Live).await?; // the handover: now the new one is primary, and the old one follows
    users.put(&8, &User { name: "Grace".into(), email: Some("grace@example.org".into()) }).await?;
    users.advance(Phase::RampDown).await?; // `Phase::Shadow` would lead back, with Grace
    users.advance(Phase::Complete).await?;

    assert_eq!(users.fetch(&7).await?.name, "Ada");
    users.shutdown(Duration::from_secs(5)).await?;
    Ok(())
}
