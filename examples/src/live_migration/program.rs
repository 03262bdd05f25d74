//! The order of it all: load, serve, migrate, stop, check, report.

use std::io::{Write, stdout};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::checker::check;
use super::display::Display;
use super::files::{Files, Prepared};
use super::flights;
use super::migration::Plan;
use super::options::Options;
use super::outage::Switch;
use super::report::Report;
use super::traffic::{Load, Traffic};
use super::{Doing, Result};

const REDRAW_EVERY: Duration = Duration::from_millis(100);

/// Runs the program. Returns whether nothing was lost, extra, different, parked or failed.
///
/// # Errors
/// The program cannot go on. With `--dir`, the next run continues where this one ended.
pub async fn run(options: &Options) -> Result<bool> {
    if let Some(tables) = &options.tables {
        return super::tables::run::run(options, tables).await;
    }
    let started = Instant::now();
    let files = Files::open(options)?;
    let Prepared { ledger, rows, resumed } = files.prepare(options.rows).await?;
    let ledger = Arc::new(ledger);
    let migration = Arc::new(flights::open(&files, Switch::default()).await?);

    // Once the migration is complete the old database is no longer kept in step, so there is no traffic then.
    let serve = !migration.is_over(options.rollback);
    let (writes_per_second, readers) =
        if serve { (options.writes_per_second, options.readers) } else { (0, 0) };
    let load = Load { rows, writes_per_second, readers, seed: ledger.position() };
    let traffic = Traffic::start(Arc::new(migration.calls()), Arc::clone(&ledger), load)?;

    let mut display = Display::new(Arc::clone(traffic.tally()));
    let found = if resumed { "resumes with" } else { "starts with" };
    display.say(&format!("{found} {rows} rows in {}, phase {}", files.dir().display(), migration.phase()));
    display.say(&format!("guarantee: {}", migration.guarantee()));
    let plan = Plan { rollback: options.rollback, outage: options.outage, rows };
    let tally = {
        let tally = Arc::clone(traffic.tally());
        let drive = async {
            migration.drive(&plan, &tally.latencies).await?;
            let tally = traffic.stop().await?;
            migration.finish(&plan, &tally.latencies).await?;
            Ok(tally)
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
    let tally = tally?;

    let verdict = check(&files.old(), &files.new_database(), &files.ledger()).await?;
    let outcome = migration.outcome();
    let report =
        Report { rows, outcome: &outcome, tally: &tally, verdict: &verdict, took: started.elapsed() };
    let mut out = stdout().lock();
    let printed = writeln!(out, "{report}")
        .and_then(|()| if options.json { writeln!(out, "{}", report.json()) } else { Ok(()) });
    printed.doing(|| "the report cannot be printed".into())?;
    Ok(report.clean())
}
