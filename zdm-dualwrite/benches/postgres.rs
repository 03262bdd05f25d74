//! A backfill between two PostgreSQL databases, with fence and checkpoints, against `COPY | COPY` by psql in the
//! same run: the ratio of their rows per second, into an empty table and onto one that has the rows.
//!
//! `ZDM_TEST_POSTGRES_URL` names the server, whose user must be allowed to create databases; the psql program
//! must be there. `ZDM_BENCH_ROWS` (2,000,000) and `ZDM_BENCH_ROUNDS` (3) say how much.
//!
//! `cargo bench -p zdm-dualwrite --bench postgres`

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a benchmark prints and ends at the first failure"
)]

use std::process::Command;
use std::time::{Duration, Instant};

use serde::Serialize;
use zdm_core::Result;
use zdm_core::phase::Phase;
use zdm_core::store::{Bulk, Capabilities, Fenced, Scan, Store};
use zdm_dualwrite::{Backfill, DualWrite, PageSettings};
use zdm_sql_adapters::postgres::{PgCheckpoints, PgRows, PgTable, Postgres, PostgresOptions};
use zdm_sql_adapters::table::{RowReader, RowWriter, TableMapping, Timestamp};

const TABLE: &str = "CREATE TABLE rows (id bigint PRIMARY KEY, amount bigint NOT NULL, name text NOT NULL, \
                     note text NOT NULL, at timestamp NOT NULL)";

#[derive(Clone, Debug, PartialEq, Serialize)]
struct Item {
    amount: i64,
    name: String,
    note: String,
    at: Timestamp,
}

impl TableMapping for Item {
    type Key = i64;
    type Record = Self;
    const TABLE: &'static str = "rows";
    const KEY: &'static [&'static str] = &["id"];
    const COLUMNS: &'static [&'static str] = &["amount", "name", "note", "at"];

    fn write(item: &Self, row: &mut RowWriter<'_>) -> Result<()> {
        row.set("amount", item.amount)
            .set("name", &item.name)
            .set("note", &item.note)
            .set("at", &item.at)
            .done()
    }

    fn read(_: &i64, row: &mut RowReader<'_>) -> Result<Self> {
        Ok(Self {
            amount: row.get("amount")?,
            name: row.get("name")?,
            note: row.get("note")?,
            at: row.get("at")?,
        })
    }
}

fn number(name: &str, or: u64) -> u64 {
    std::env::var(name).ok().map_or(or, |text| text.parse().unwrap())
}

fn shell(command: &str) -> String {
    let output = Command::new("sh").args(["-c", command]).output().unwrap();
    assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn psql(url: &str, sql: &str) -> String {
    shell(&format!("psql -qXAt -v ON_ERROR_STOP=1 '{url}' -c \"{sql}\""))
}

async fn open(url: &str) -> Postgres {
    PostgresOptions::new(url).unwrap().write_timeout(Duration::from_secs(1)).connect().await.unwrap()
}

async fn backfill<S>(old: S, new: S, db: &Postgres, workers: usize) -> f64
where
    S: Store + Scan + Bulk + Fenced + Clone,
{
    let settle_time = old.settle_time().max(new.settle_time());
    let users = DualWrite::builder(old, new).phase(Phase::DualWrite).start().await.unwrap();
    // A run waits for the writes from before the phase, which is no matter of speed.
    tokio::time::sleep(settle_time + Duration::from_millis(100)).await;
    let checkpoints = PgCheckpoints::open(db).await.unwrap();
    let settings = PageSettings { workers, ..PageSettings::default() };
    let began = Instant::now();
    let report = Backfill::new(&users).checkpoints(checkpoints).settings(settings).run().await.unwrap();
    assert!(report.complete);
    began.elapsed().as_secs_f64()
}

fn best(seconds: &[f64]) -> f64 {
    seconds.iter().copied().fold(f64::INFINITY, f64::min)
}

fn peak_mib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or_default() / 1024
}

/// The capabilities are those of a fenced store, which the engine asks for.
fn fenced<S: Store>(store: &S) {
    let Capabilities { fenced, .. } = store.capabilities();
    assert!(fenced.is_some());
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() {
    let Ok(server) = std::env::var("ZDM_TEST_POSTGRES_URL") else {
        println!("left out: ZDM_TEST_POSTGRES_URL is not set");
        return;
    };
    let (rows, rounds) = (number("ZDM_BENCH_ROWS", 2_000_000), number("ZDM_BENCH_ROUNDS", 3));
    let base = server.rsplit_once('/').unwrap().0;
    let [old_url, new_url] = ["old", "new"].map(|side| {
        let name = format!("zdm_bench_{side}");
        psql(&server, &format!("DROP DATABASE IF EXISTS {name}"));
        psql(&server, &format!("CREATE DATABASE {name}"));
        let url = format!("{base}/{name}");
        psql(&url, TABLE);
        url
    });
    let fill = format!(
        "INSERT INTO rows SELECT i, i * 7919 % 1000003, 'user ' || i, md5(i::text) || md5((i * 3)::text), \
         timestamp '2020-01-01' + i * interval '1.000001 second' FROM generate_series(1, {rows}::bigint) AS i; ANALYZE rows"
    );
    psql(&old_url, &fill);
    psql(&old_url, "VACUUM rows");
    let (old, new) = (open(&old_url).await, open(&new_url).await);
    new.ensure_schema().await.unwrap();
    let sum = "SELECT count(*) || ' ' || sum(hashtextextended(r::text, 0)) FROM rows r";
    let wanted = psql(&old_url, sum);
    let names = [
        "COPY | COPY",
        "typed, 1 worker",
        "typed, 2 workers",
        "typed, 2, again",
        "rows, 2 workers",
        "rows, 2, again",
    ];
    let mut seconds: [Vec<f64>; 6] = Default::default();
    for _ in 0..rounds {
        for (way, seconds) in seconds.iter_mut().enumerate() {
            if !names[way].ends_with("again") {
                psql(&new_url, "TRUNCATE rows");
            }
            psql(&new_url, "TRUNCATE zdm_stamp, zdm_page, zdm_fence, zdm_checkpoint");
            psql(&new_url, "CHECKPOINT");
            let workers = if way == 1 { 1 } else { 2 };
            seconds.push(match way {
                0 => {
                    let began = Instant::now();
                    shell(&format!(
                        "psql -qX '{old_url}' -c 'COPY rows TO STDOUT' | psql -qX '{new_url}' -c 'COPY rows FROM STDIN'"
                    ));
                    began.elapsed().as_secs_f64()
                }
                1..=3 => {
                    let one = PgTable::<Item>::open(&old).await.unwrap();
                    let other = PgTable::<Item>::open(&new).await.unwrap().with_fence().await.unwrap();
                    fenced(&other);
                    backfill(one, other, &new, workers).await
                }
                _ => {
                    let one = PgRows::discover(&old, "rows").await.unwrap();
                    let other = PgRows::discover(&new, "rows").await.unwrap().with_fence().await.unwrap();
                    backfill(one, other, &new, workers).await
                }
            });
            assert_eq!(psql(&new_url, sum), wanted, "{}", names[way]);
        }
    }
    println!("{rows} rows, best of {rounds}, peak memory {} MiB", peak_mib());
    let copy = best(&seconds[0]);
    for (name, seconds) in names.iter().zip(&seconds) {
        let own = best(seconds);
        println!("{name:>18} {own:>7.2} s {:>9.0} rows/s = {:.2}", rows as f64 / own, copy / own);
    }
    old.close().await;
    new.close().await;
    for side in ["old", "new"] {
        psql(&server, &format!("DROP DATABASE zdm_bench_{side}"));
    }
}
