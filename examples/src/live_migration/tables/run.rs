//! The order of it all: look at both sides, create, serve, migrate, stop, check, report.

use std::collections::BTreeSet;
use std::io::{Write, stdout};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use futures_util::stream::{self, StreamExt, TryStreamExt};
use zdm_core::error::Kind;
use zdm_core::phase::{Phase, Side as Role};
use zdm_core::store::StoreExt;
use zdm_sql_adapters::table::TableShape;

use super::super::display::Display;
use super::super::files::Files;
use super::super::ledger::Ledger;
use super::super::migration::{Databases, Migration, Parts, Plan};
use super::super::options::{Move, Options};
use super::super::outage::Switch;
use super::super::report::Report;
use super::super::traffic::Tally;
use super::super::{Doing, Failure, Result};
use super::address::Engine;
use super::names::Names;
use super::plan;
use super::pool;
use super::proof::{Unloaded, check, unload};
use super::side::{self, Side};
use super::traffic::{Client, Traffic, shapes};

const REDRAW_EVERY: Duration = Duration::from_millis(100);
/// How many counters are advanced side by side.
const COUNTERS: usize = 4;
/// How often a statement is tried that rows under way stand against.
const TRIES: u32 = 40;
const TRY_PAUSE: Duration = Duration::from_millis(250);

/// Runs the program on the tables of two databases. Returns whether nothing was lost, extra, different, parked
/// or failed.
///
/// # Errors
/// The program cannot go on. With `--dir`, the next run continues where this one ended.
pub async fn run(options: &Options, wanted: &Move) -> Result<bool> {
    let started = Instant::now();
    let files = Files::open(options)?;
    let old = side::open(&wanted.old, false).await?;
    // Nothing is created before the old side has been looked at.
    let shapes_of_old = plan::chosen(&*old, &wanted.tables).await?;
    let new = side::open(&wanted.new, wanted.create).await?;
    if old.identity().await? == new.identity().await? {
        return Err(Failure::new(format!("{} and {} are the same database", wanted.old, wanted.new)));
    }

    let resumed = files.ledger().exists();
    let after_load = files.dir().join("after-load");
    let mut left_out = Vec::new();
    if wanted.create && !resumed {
        let created = plan::create(&*new, &shapes_of_old, &files.dir().join("created")).await?;
        let statements =
            serde_json::to_string(&created.after_load).doing(|| "the statements cannot be kept".into())?;
        write_whole(&after_load, &statements)?;
        left_out = created.left_out;
    }
    let tables = plan::agreed(&*new, shapes_of_old).await?;
    // What was installed before belongs to somebody else, and stays.
    let ours = files.dir().join("bookkeeping");
    if !resumed {
        let mut bare = Vec::new();
        for side in [&old, &new] {
            bare.push(!side.installed().await?);
        }
        // A run that was killed before its ledger has installed some of it itself.
        if !ours.exists() {
            write_whole(&ours, &serde_json::json!(bare).to_string())?;
        }
    }
    let old_store = plan::whole(&*old, &tables, new.engine()).await?;
    let new_store = plan::whole(&*new, &tables, old.engine()).await?;
    let initial = files.dir().join("initial");
    let greatest_keys = files.dir().join("greatest-keys");
    let (ledger, rows) = if resumed {
        Ledger::resume(&files.ledger())?
    } else {
        plan::refuse_rows(&new_store, &tables).await?;
        let (rows, greatest) = unload(&*old, &tables, &initial).await?;
        write_whole(&greatest_keys, &serde_json::json!(greatest).to_string())?;
        // Made last: without it nothing counts.
        (Ledger::create(&files.ledger(), rows)?, rows)
    };
    let ledger = Arc::new(ledger);
    let names = Arc::new(Names::open(&files.dir().join("keys"))?);
    let pools = pool::pools(&tables, &old_store).await?;

    let has_references = tables.iter().any(|table| !table.new.foreign_keys.is_empty());
    let databases = Arc::new(Both {
        old: Arc::clone(&old),
        new: Arc::clone(&new),
        tables: tables
            .iter()
            .map(|table| {
                let counts = |shape: &TableShape| shape.columns.iter().any(|column| column.counted);
                (table.name.clone(), counts(&table.old), counts(&table.new))
            })
            .collect(),
        after_load,
    });
    let parts = Parts {
        name: "tables",
        old: old_store.into_dyn(),
        new: new_store.into_dyn(),
        databases,
        // SQLite has one writer; and where references are checked, parents have to come before children.
        workers: if new.engine() == Engine::Sqlite || has_references { 1 } else { 2 },
        switch: Switch::default(),
    };
    let migration = Arc::new(Migration::open(&files, parts).await?);
    let tally = Arc::new(Tally::new()?);
    let serve = !migration.is_over(options.rollback);
    // New rows get numbers above all that are taken.
    let text = std::fs::read_to_string(&greatest_keys);
    let text = text.doing(|| format!("{} cannot be read", greatest_keys.display()))?;
    let greatest: Vec<i64> =
        serde_json::from_str(&text).doing(|| format!("{} is damaged", greatest_keys.display()))?;
    pools.iter().zip(greatest).for_each(|(pool, number)| pool.count_above(number));
    for (number, pool) in (0_u16..).zip(&pools) {
        for ((table, key), _) in names.all() {
            if table == number {
                numbers_in(&key).for_each(|number| pool.count_above(number));
            }
        }
    }
    for (pool, table) in pools.iter().zip(&tables) {
        for side in [&old, &new] {
            let counted = side.counted(&table.name).await.doing(|| format!("table {}", table.name))?;
            pool.count_above(i64::try_from(counted.unwrap_or_default()).unwrap_or(i64::MAX));
        }
    }
    let client = Arc::new(Client {
        calls: migration.calls(),
        ledger,
        names: Arc::clone(&names),
        tally: Arc::clone(&tally),
        pools,
        shapes: shapes(&tables),
    });
    let (writes, readers) = if serve { (options.writes_per_second, options.readers) } else { (0, 0) };
    let traffic = Traffic::start(client, writes, readers);

    let mut display = Display::new(Arc::clone(&tally));
    for table in &tables {
        display.say(&table.agreement.to_string());
    }
    for what in left_out {
        display.say(&format!("NOT CREATED: {what}"));
    }
    let found = if resumed { "resumes with" } else { "starts with" };
    display.say(&format!(
        "{found} {rows} rows of {} tables, {} to {}, phase {}",
        tables.len(),
        wanted.old,
        wanted.new,
        migration.phase()
    ));
    display.say(&format!("guarantee: {}", migration.guarantee()));
    let plan = Plan { rollback: options.rollback, outage: options.outage, rows };
    let driven = {
        let drive = async {
            migration.drive(&plan, &tally.latencies).await?;
            traffic.stop().await?;
            migration.finish(&plan, &tally.latencies).await
        };
        let mut drive = std::pin::pin!(drive);
        let mut redraw = tokio::time::interval(REDRAW_EVERY);
        loop {
            tokio::select! {
                driven = &mut drive => break driven,
                _ = redraw.tick() => display.show(&migration.standing()),
            }
        }
    };
    display.finish();
    driven?;

    let [old_rows, new_rows] = ["check-old", "check-new"].map(|name| files.dir().join(name));
    unload(&*old, &tables, &old_rows).await?;
    unload(&*new, &tables, &new_rows).await?;
    let unloaded = Unloaded { initial: &initial, old: &old_rows, new: &new_rows };
    let verdict = check(&tables, unloaded, &files.ledger(), &names)?;
    let outcome = migration.outcome();
    let report =
        Report { rows, outcome: &outcome, tally: &tally, verdict: &verdict, took: started.elapsed() };
    let over = migration.phase() == Phase::Complete && report.clean();
    let (text, clean) = (report.to_string(), report.clean());
    let line = options.json.then(|| report.json());
    if over {
        let names: Vec<_> = tables.iter().map(|table| table.name.as_str()).collect();
        remove_bookkeeping(&ours, [&old, &new], &names, &display).await?;
    }
    old.close().await;
    new.close().await;
    let mut out = stdout().lock();
    let printed = writeln!(out, "{text}").and_then(|()| line.map_or(Ok(()), |line| writeln!(out, "{line}")));
    printed.doing(|| "the report cannot be printed".into())?;
    Ok(clean)
}

/// Removes what zdm has installed for this migration, which is over. What others keep there stays, and with it
/// the tables that it stands in.
async fn remove_bookkeeping(
    ours: &Path,
    sides: [&Arc<dyn Side>; 2],
    tables: &[&str],
    display: &Display,
) -> Result<()> {
    let text = std::fs::read_to_string(ours).doing(|| format!("{} cannot be read", ours.display()))?;
    let bare: [bool; 2] = serde_json::from_str(&text).doing(|| format!("{} is damaged", ours.display()))?;
    for ((side, was_bare), which) in sides.into_iter().zip(bare).zip(["old", "new"]) {
        let ours =
            |name: &String| tables.iter().any(|table| name == table || name.ends_with(&format!(".{table}")));
        if !side.installed().await? {
            continue;
        }
        // What was there before may be of another version: it is not looked into.
        let kept = if was_bare { side.bookkeeping().await? } else { BTreeSet::new() };
        let others = kept.iter().find(|name| !ours(name)).cloned();
        let reason = match (was_bare, others) {
            (true, None) => {
                let failed = || format!("the zdm_ tables of the {which} database cannot be removed");
                side.remove_bookkeeping().await.doing(failed)?;
                continue;
            }
            (true, Some(other)) => format!("they hold {other}, which is none of this migration's"),
            (false, _) => "they were there before".to_owned(),
        };
        display.say(&format!("the zdm_ tables of the {which} database stay: {reason}"));
    }
    Ok(())
}

/// The whole numbers in the line of a key.
fn numbers_in(key: &str) -> impl Iterator<Item = i64> {
    let parts: Vec<Option<String>> = serde_json::from_str(key).unwrap_or_default();
    let digits = |text: String| text.trim_start_matches("zdm").parse().ok();
    parts.into_iter().flatten().filter_map(digits).collect::<Vec<_>>().into_iter()
}

fn write_whole(file: &Path, text: &str) -> Result<()> {
    let failed = || format!("{} cannot be written", file.display());
    let unfinished = file.with_extension("unfinished");
    std::fs::write(&unfinished, text).doing(failed)?;
    std::fs::rename(&unfinished, file).doing(failed)
}

/// Both sides, and what is done to them beside moving rows.
struct Both {
    old: Arc<dyn Side>,
    new: Arc<dyn Side>,
    /// The tables, and whether the old and the new one count a column up.
    tables: Vec<(String, bool, bool)>,
    /// The statements that are left for after the load, as JSON.
    after_load: PathBuf,
}

impl Both {
    async fn run_statement(&self, sql: &str, may_be_done: bool) -> Result<()> {
        let mut tries = 1;
        loop {
            match self.new.execute(sql.to_owned()).await {
                Ok(()) => return Ok(()),
                // A child whose parent is still on its way, a table that is in use.
                Err(error)
                    if tries < TRIES
                        && matches!(error.kind(), Kind::MissingReference | Kind::Busy | Kind::Timeout) =>
                {
                    tries += 1;
                    tokio::time::sleep(TRY_PAUSE).await;
                }
                // A run that was killed here may have made it.
                Err(error) if may_be_done && error.kind() == Kind::Invalid => return Ok(()),
                Err(error) => return Err(error).doing(|| format!("after the load: {sql}")),
            }
        }
    }
}

async fn count_on(from: Arc<dyn Side>, to: Arc<dyn Side>, table: String) -> zdm_core::Result<()> {
    let doing = |error: zdm_core::Error| error.context(format!("the counter of table {table}"));
    let past = from.counted(&table).await.map_err(doing)?.unwrap_or_default();
    to.count_on_above(&table, past).await.map_err(doing)
}

#[async_trait]
impl Databases for Both {
    async fn loaded(&self) -> Result<()> {
        let Ok(text) = std::fs::read_to_string(&self.after_load) else { return Ok(()) };
        let mut left: Vec<String> =
            serde_json::from_str(&text).doing(|| format!("{} is damaged", self.after_load.display()))?;
        let mut first = true;
        while let Some(sql) = left.first().cloned() {
            self.run_statement(&sql, first).await?;
            first = false;
            left.remove(0);
            let text = serde_json::to_string(&left).doing(|| "the statements cannot be kept".into())?;
            write_whole(&self.after_load, &text)?;
        }
        Ok(())
    }

    async fn handing_over(&self, next: Role) -> zdm_core::Result<()> {
        let new_is_next = next == Role::New;
        let (from, to) = if new_is_next { (&self.old, &self.new) } else { (&self.new, &self.old) };
        let counting = self.tables.iter().filter(|(_, old, new)| if new_is_next { *new } else { *old });
        let counting: Vec<_> = counting.map(|(table, ..)| table.clone()).collect();
        let advanced = counting.into_iter().map(|table| count_on(Arc::clone(from), Arc::clone(to), table));
        stream::iter(advanced).buffer_unordered(COUNTERS).try_collect().await
    }

    async fn close(&self) {
        // The proof still reads both.
    }
}
