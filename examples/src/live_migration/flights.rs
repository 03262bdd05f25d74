//! The migration of the flights: two SQLite files, two schemas, one record.

use std::sync::Arc;

use async_trait::async_trait;
use zdm_core::store::StoreExt;
use zdm_sql_adapters::sqlite::{Sqlite, SqliteOptions, SqliteTable, Synchronous};
use zdm_sql_adapters::table::TableMapping;

use super::files::Files;
use super::flight::Flight;
use super::migration::{Calls, Databases, Migration, Parts};
use super::new_schema::{self, Departures};
use super::old_schema::OldFlights;
use super::outage::Switch;
use super::service::{FlightService, RequestError};
use super::{Doing, Result};

/// Opens both databases and takes up the migration where the last run left it.
///
/// # Errors
/// A file cannot be opened, or belongs to something else.
pub async fn open(files: &Files, switch: Switch) -> Result<Migration<i64, Flight>> {
    let failed = || format!("the databases in {} cannot be opened", files.dir().display());
    let old = SqliteOptions::new(files.old()).synchronous(Synchronous::Normal).open().await.doing(failed)?;
    let new = SqliteOptions::new(files.new_database()).create(true).synchronous(Synchronous::Normal);
    let new = new.open().await.doing(failed)?;
    new.execute(new_schema::CREATE).await.doing(failed)?;
    let parts = Parts {
        name: "flights",
        old: fenced_table::<OldFlights>(&old).await.doing(failed)?.into_dyn(),
        new: fenced_table::<Departures>(&new).await.doing(failed)?.into_dyn(),
        databases: Arc::new(Both { old, new }),
        // SQLite lets one writer in at a time, so one worker writes all the time.
        workers: 1,
        switch,
    };
    Migration::open(files, parts).await
}

/// A table with the fence beside it.
async fn fenced_table<M: TableMapping>(database: &Sqlite) -> zdm_core::Result<SqliteTable<M>> {
    SqliteTable::<M>::open(database).await?.with_fence().await
}

struct Both {
    old: Sqlite,
    new: Sqlite,
}

#[async_trait]
impl Databases for Both {
    async fn close(&self) {
        self.old.close().await;
        self.new.close().await;
    }
}

#[async_trait]
impl FlightService for Calls<i64, Flight> {
    async fn find(&self, id: i64) -> Result<Option<Flight>, RequestError> {
        Ok(self.get(&id).await?)
    }

    async fn save(&self, flight: &Flight) -> Result<(), RequestError> {
        Ok(self.put(&flight.id, flight).await?)
    }

    async fn remove(&self, id: i64) -> Result<(), RequestError> {
        Ok(self.delete(&id).await?)
    }
}
