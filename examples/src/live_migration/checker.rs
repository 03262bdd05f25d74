//! The proof: both databases, row by row, against what was loaded and what was acknowledged.
//!
//! It shares nothing with the migration. It opens the two files itself, reads them with its own SQL, and turns
//! the rows of either schema back into the lines of the data set with expressions of its own. What each line
//! should be comes from the data set and from the ledger of the load generator.

use std::collections::BTreeSet;
use std::iter::Peekable;
use std::path::Path;

use futures_util::TryStreamExt;
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use sqlx::{ConnectOptions, Connection, Row};

use super::history::{Allowed, Position};
use super::ledger::Recorded;
use super::{Doing, Failure, Result, dataset};

/// Every row of the old table as a line of the data set.
const OLD_LINES: &str = "SELECT id,
    year || ',' || month || ',' || day || ',' ||
    ifnull(dep_time, 'NA') || ',' || sched_dep_time || ',' || ifnull(dep_delay, 'NA') || ',' ||
    ifnull(arr_time, 'NA') || ',' || sched_arr_time || ',' || ifnull(arr_delay, 'NA') || ',' ||
    carrier || ',' || flight || ',' ||
    CASE WHEN tailnum IS NULL THEN 'NA' WHEN tailnum = 'NA' THEN 'NA as text' ELSE tailnum END || ',' ||
    origin || ',' || dest || ',' || ifnull(air_time, 'NA') || ',' || distance || ',' ||
    hour || ',' || minute || ',' || time_hour
    FROM flights ORDER BY id";

/// Every row of the new table as a line of the data set, followed by what is wrong with it in itself.
const NEW_LINES: &str = "SELECT flight_id,
    CAST(substr(flight_date, 1, 4) AS INTEGER) || ',' || CAST(substr(flight_date, 6, 2) AS INTEGER) || ',' ||
    CAST(substr(flight_date, 9, 2) AS INTEGER) || ',' ||
    ifnull(departed_at_minute / 60 * 100 + departed_at_minute % 60, 'NA') || ',' ||
    (scheduled_departure_hour * 100 + scheduled_departure_minute) || ',' ||
    ifnull(departure_delay_minutes, 'NA') || ',' ||
    ifnull(arrived_at_minute / 60 * 100 + arrived_at_minute % 60, 'NA') || ',' ||
    (scheduled_arrival_hour * 100 + scheduled_arrival_minute) || ',' ||
    ifnull(arrival_delay_minutes, 'NA') || ',' ||
    carrier_code || ',' || flight_number || ',' ||
    CASE WHEN tail_number IS NULL THEN 'NA' WHEN tail_number = 'NA' THEN 'NA as text' ELSE tail_number END
    || ',' || origin || ',' || destination || ',' || ifnull(minutes_in_air, 'NA') || ',' ||
    CAST(round(distance_km / 1.609344) AS INTEGER) || ',' ||
    scheduled_departure_hour || ',' || scheduled_departure_minute || ',' ||
    strftime('%Y-%m-%dT%H:%M:%SZ', scheduled_hour_utc, 'unixepoch') ||
    CASE WHEN flight_code = carrier_code || flight_number THEN '' ELSE ' with code ' || flight_code END ||
    CASE WHEN flight_date IS date(flight_date) THEN '' ELSE ' on ' || flight_date END ||
    CASE WHEN abs(distance_km - round(distance_km / 1.609344) * 1.609344) < 1e-6 THEN ''
         ELSE ' over ' || distance_km || ' km' END
    FROM departures ORDER BY flight_id";

/// How many findings are kept word for word.
const FINDINGS: usize = 10;

/// What the checker found. Each number counts rows of either database.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// Rows of the old database.
    pub old_rows: u64,
    /// Rows of the new database.
    pub new_rows: u64,
    /// Writes that were ever acknowledged, in all runs.
    pub acknowledged_writes: u64,
    /// Keys that were written or may have been.
    pub written_keys: u64,
    /// Rows that should be there and are not.
    pub lost: u64,
    /// Rows that should not be there and are.
    pub extra: u64,
    /// Rows with another value than any that is allowed, and keys on which the two databases do not agree.
    pub mismatches: u64,
    /// The first few of them, in words.
    pub findings: Vec<String>,
}

impl Verdict {
    /// Whether nothing is wrong.
    pub const fn clean(&self) -> bool {
        self.lost == 0 && self.extra == 0 && self.mismatches == 0
    }

    fn judge(&mut self, key: i64, database: &str, found: Option<&str>, expected: &Expected<'_>) -> bool {
        let there = expected.initial.is_some() || !expected.written.values.is_empty();
        let allowed = |line: &str| expected.initial == Some(line) || expected.written.values.contains(&line);
        let (count, what) = match found {
            None if expected.absent => return true,
            Some(line) if allowed(line) => return true,
            None => (&mut self.lost, "lost"),
            Some(_) if !there => (&mut self.extra, "extra"),
            Some(_) => (&mut self.mismatches, "different"),
        };
        *count += 1;
        self.note(|| {
            let mut allowed = expected.written.values.clone();
            allowed.extend(expected.initial);
            format!(
                "flight {key} is {what} in the {database} database: found {}, allowed {}",
                found.unwrap_or("nothing"),
                if allowed.is_empty() { "nothing".into() } else { allowed.join(" or ") }
            )
        });
        false
    }

    fn note(&mut self, finding: impl FnOnce() -> String) {
        if self.findings.len() < FINDINGS {
            self.findings.push(finding());
        }
    }
}

/// What a key may be in the end.
struct Expected<'a> {
    /// The line that was loaded, if it may still be there.
    initial: Option<&'a str>,
    absent: bool,
    written: Allowed<'a>,
}

/// Compares the old database, the new one, the data set and the ledger.
///
/// # Errors
/// A file cannot be read, is damaged, or has not the table it should have.
pub async fn check(old: &Path, new: &Path, ledger: &Path) -> Result<Verdict> {
    let recorded = Recorded::read(ledger)?;
    let mut old = Lines::open(old, OLD_LINES).await?;
    let mut new = Lines::open(new, NEW_LINES).await?;
    let mut loaded = (1..).zip(dataset::lines(recorded.rows)?).peekable();
    let mut written = recorded.history.keys().collect::<BTreeSet<_>>().into_iter().peekable();
    let mut verdict = Verdict {
        acknowledged_writes: recorded.history.acknowledged(),
        written_keys: written.len() as u64,
        ..Verdict::default()
    };
    loop {
        let heads = [old.key(), new.key(), loaded.peek().map(|(key, _)| *key), written.peek().copied()];
        let Some(key) = heads.into_iter().flatten().min() else { break };
        let initial = take(&mut loaded, |(own, _)| *own == key).map(|(_, line)| line).transpose()?;
        let (in_old, in_new) = (old.take(key).await?, new.take(key).await?);
        verdict.old_rows += u64::from(in_old.is_some());
        verdict.new_rows += u64::from(in_new.is_some());
        let history = match take(&mut written, |own| *own == key) {
            Some(_) => recorded.history.allowed(key, Position::MAX, Position::MAX),
            None => Allowed { initial: true, ..Allowed::default() },
        };
        let expected = Expected {
            initial: initial.as_deref().filter(|_| history.initial),
            absent: history.absent || (history.initial && initial.is_none()),
            written: history,
        };
        let old_is_right = verdict.judge(key, "old", in_old.as_deref(), &expected);
        let new_is_right = verdict.judge(key, "new", in_new.as_deref(), &expected);
        if old_is_right && new_is_right && in_old != in_new {
            verdict.mismatches += 1;
            verdict.note(|| {
                format!("flight {key} is {in_old:?} in the old database and {in_new:?} in the new one")
            });
        }
    }
    Ok(verdict)
}

fn take<I: Iterator>(from: &mut Peekable<I>, wanted: impl FnOnce(&I::Item) -> bool) -> Option<I::Item> {
    from.next_if(wanted)
}

/// The rows of a database in key order, fetched ahead by a task of their own.
struct Lines {
    rows: tokio::sync::mpsc::Receiver<Result<Vec<(i64, String)>>>,
    page: std::vec::IntoIter<(i64, String)>,
    head: Option<(i64, String)>,
}

impl Lines {
    async fn open(file: &Path, sql: &'static str) -> Result<Self> {
        let name = file.display().to_string();
        let failed = || format!("the checker cannot read {name}");
        let options = SqliteConnectOptions::new().filename(file).create_if_missing(false);
        let mut database = options.connect().await.doing(failed)?;
        let health: String =
            sqlx::query_scalar("PRAGMA quick_check").fetch_one(&mut database).await.doing(failed)?;
        if health != "ok" {
            return Err(Failure::new(format!("{name} is damaged: {health}")));
        }
        let (send, rows) = tokio::sync::mpsc::channel(4);
        tokio::spawn(async move {
            let sent = send_pages(&mut database, sql, &send).await;
            if let Err(error) = sent.doing(|| format!("the checker cannot read {name}")) {
                // Nobody listens any more only when the check has failed elsewhere.
                let _heard = send.send(Err(error)).await;
            }
            let _closed = database.close().await;
        });
        let mut lines = Self { rows, page: Vec::new().into_iter(), head: None };
        lines.advance().await?;
        Ok(lines)
    }

    fn key(&self) -> Option<i64> {
        self.head.as_ref().map(|(key, _)| *key)
    }

    async fn take(&mut self, key: i64) -> Result<Option<String>> {
        if self.key() != Some(key) {
            return Ok(None);
        }
        let line = self.head.take().map(|(_, line)| line);
        self.advance().await?;
        Ok(line)
    }

    async fn advance(&mut self) -> Result<()> {
        self.head = self.page.next();
        if self.head.is_none()
            && let Some(page) = self.rows.recv().await
        {
            self.page = page?.into_iter();
            self.head = self.page.next();
        }
        Ok(())
    }
}

async fn send_pages(
    database: &mut SqliteConnection,
    sql: &'static str,
    send: &tokio::sync::mpsc::Sender<Result<Vec<(i64, String)>>>,
) -> Result<(), sqlx::Error> {
    let mut rows = sqlx::query(sql).fetch(database).try_chunks(1_000);
    while let Some(page) = rows.try_next().await.map_err(|error| error.1)? {
        let lines: Result<Vec<_>, sqlx::Error> = page
            .iter()
            .map(|row| {
                // A row that cannot be turned into a line is NULL as a whole.
                let line: Option<String> = row.try_get(1)?;
                Ok((row.try_get(0)?, line.unwrap_or_else(|| "a row that is no flight".into())))
            })
            .collect();
        if send.send(Ok(lines?)).await.is_err() {
            break;
        }
    }
    Ok(())
}
