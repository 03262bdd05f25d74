//! The process that is killed.

use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use zdm_core::Result;
use zdm_core::phase::Phase;
use zdm_core::store::{DynStore, Store, StoreExt};
use zdm_dualwrite::{DiskQueue, DualWrite};
use zdm_sql_adapters::sqlite::{Sqlite, SqliteTable};
use zdm_sql_adapters::table::{RowReader, RowWriter, TableMapping};

pub(super) const FOLDER: &str = "ZDM_CRASH_FOLDER";
pub(super) const MODE: &str = "ZDM_CRASH_MODE";
pub(super) const BASE: &str = "ZDM_CRASH_BASE";

const WRITERS: i64 = 8;
const KEYS_PER_WRITER: i64 = 5;

/// Whether the operation of this number removes its key.
pub(super) const fn deletes(number: u64) -> bool {
    number.is_multiple_of(7)
}

#[derive(Clone, Debug, PartialEq, Serialize)]
struct Item {
    id: i64,
    number: i64,
}

impl TableMapping for Item {
    type Key = i64;
    type Record = Self;
    const TABLE: &'static str = "items";
    const KEY: &'static [&'static str] = &["id"];
    const COLUMNS: &'static [&'static str] = &["number"];

    fn write(item: &Item, row: &mut RowWriter<'_>) -> Result<()> {
        row.set("number", item.number).done()
    }

    fn read(id: &i64, row: &mut RowReader<'_>) -> Result<Item> {
        Ok(Item { id: *id, number: row.get("number")? })
    }
}

/// The new schema: another name and another type.
struct Thing;

impl TableMapping for Thing {
    type Key = i64;
    type Record = Item;
    const TABLE: &'static str = "things";
    const KEY: &'static [&'static str] = &["item_id"];
    const COLUMNS: &'static [&'static str] = &["n"];

    fn write(item: &Item, row: &mut RowWriter<'_>) -> Result<()> {
        row.set("n", item.number.to_string()).done()
    }

    fn read(id: &i64, row: &mut RowReader<'_>) -> Result<Item> {
        let text: String = row.get("n")?;
        let number = text.parse().map_err(|_| row.reject("n", "it is not a number"))?;
        Ok(Item { id: *id, number })
    }
}

/// Does nothing unless the parent asks for it.
#[test]
fn child() {
    let Ok(folder) = std::env::var(FOLDER) else { return };
    let drain = std::env::var(MODE).unwrap() == "drain";
    let base: u64 = std::env::var(BASE).unwrap().parse().unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(run(PathBuf::from(folder), drain, base)).unwrap();
}

async fn run(folder: PathBuf, drain: bool, base: u64) -> Result<()> {
    let old = Sqlite::create(folder.join("old.db")).await?;
    old.execute("CREATE TABLE IF NOT EXISTS items (id INTEGER PRIMARY KEY, number INTEGER NOT NULL)").await?;
    let new = Sqlite::create(folder.join("new.db")).await?;
    new.execute("CREATE TABLE IF NOT EXISTS things (item_id INTEGER PRIMARY KEY, n TEXT NOT NULL)").await?;
    let old: DynStore<i64, Item> = SqliteTable::<Item>::open(&old).await?.into_dyn();
    let new: DynStore<i64, Item> = SqliteTable::<Thing>::open(&new).await?.into_dyn();
    let queue = DiskQueue::open(folder.join("queue"), "crash")?;
    let items = DualWrite::builder(old, new).queue(queue).phase(Phase::DualWrite).start().await?;
    if drain {
        let report = items.shutdown(Duration::from_secs(120)).await?;
        assert!(report.drained && report.left.dirty() == 0, "{report:?}");
        return Ok(());
    }
    say("ready");
    let items = Arc::new(items);
    let mut writers = tokio::task::JoinSet::new();
    for writer in 0..WRITERS {
        let items = Arc::clone(&items);
        writers.spawn(async move {
            for turn in 0.. {
                let key = writer * KEYS_PER_WRITER + turn % KEYS_PER_WRITER;
                let number = base + turn.cast_unsigned() + 1;
                say(&format!("try {key} {number} ."));
                let done = if deletes(number) {
                    items.delete(&key).await
                } else {
                    items.put(&key, &Item { id: key, number: number.cast_signed() }).await
                };
                if done.is_ok() {
                    say(&format!("ack {key} {number} ."));
                }
            }
        });
    }
    while writers.join_next().await.is_some() {}
    Ok(())
}

/// One line, in one call, so that a kill cuts at most the last one.
fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    // Nobody listens any more when the parent is gone.
    drop(out.write_all(format!("{line}\n").as_bytes()).and_then(|()| out.flush()));
}
