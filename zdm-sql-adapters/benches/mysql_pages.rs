//! Loading pages into a MySQL or MariaDB table through the fence, against `LOAD DATA` and against a bare loop
//! of prepared upserts, in the same run.
//!
//! `ZDM_TEST_MYSQL_URL` names the server; `LOAD DATA` needs the `mysql` program and `local_infile`.
//! `cargo bench -p zdm-sql-adapters --features mysql --bench mysql_pages`.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a benchmark prints and ends at the first failure"
)]

use std::io::Write;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::Serialize;
use sqlx::mysql::{MySqlArguments, MySqlConnectOptions};
use sqlx::{Arguments, AssertSqlSafe, ConnectOptions, Connection, Executor};
use zdm_core::Result;
use zdm_core::key::KeyRange;
use zdm_core::store::{Fenced, Scan, Stamp};
use zdm_sql_adapters::mysql::{MyRows, MySqlOptions, MyTable};
use zdm_sql_adapters::table::{RowReader, RowWriter, TableMapping, Timestamp};

const ROWS: i64 = 200_000;

const SCHEMA: &str = "CREATE TABLE items (id BIGINT PRIMARY KEY, amount BIGINT NOT NULL, name VARCHAR(60) NOT NULL, \
                      note VARCHAR(200) NOT NULL, at DATETIME(6) NOT NULL)";

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
    const TABLE: &'static str = "items";
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

fn item(id: i64) -> (i64, Item) {
    let item = Item {
        amount: id.wrapping_mul(2_654_435_761),
        name: format!("item number {id}"),
        note: format!("a note of some length, as they are in tables of this kind, about the item {id}"),
        at: Timestamp(1_577_836_800_000_000 + id * 1_000_000),
    };
    (id, item)
}

/// Runs one task for each worker, each over its part of the records.
async fn spread<F>(
    workers: usize,
    items: &Arc<Vec<(i64, Item)>>,
    work: impl Fn(std::ops::Range<usize>) -> F,
) -> f64
where
    F: Future<Output = ()> + Send + 'static,
{
    let part = items.len().div_ceil(workers);
    let start = Instant::now();
    let tasks: Vec<_> = (0..workers)
        .map(|worker| tokio::spawn(work(worker * part..((worker + 1) * part).min(items.len()))))
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    items.len() as f64 / start.elapsed().as_secs_f64()
}

async fn bare(options: MySqlConnectOptions, items: Arc<Vec<(i64, Item)>>, range: std::ops::Range<usize>) {
    let mut connection = options.connect().await.unwrap();
    let sql: Arc<str> = format!(
        "INSERT INTO items (id, amount, name, note, at) VALUES {} ON DUPLICATE KEY UPDATE amount = VALUES(amount), \
         name = VALUES(name), note = VALUES(note), at = VALUES(at)",
        vec!["(?,?,?,?,?)"; 1_000].join(",")
    )
    .into();
    for page in items[range].chunks(1_000) {
        let mut arguments = MySqlArguments::default();
        for (id, item) in page {
            arguments.add(*id).unwrap();
            arguments.add(item.amount).unwrap();
            arguments.add(&item.name).unwrap();
            arguments.add(&item.note).unwrap();
            arguments.add(zdm_sql_adapters::table::Value::Timestamp(item.at.0).to_text().unwrap()).unwrap();
        }
        connection.execute("BEGIN").await.unwrap();
        sqlx::query_with(AssertSqlSafe(Arc::clone(&sql)), arguments).execute(&mut connection).await.unwrap();
        connection.execute("COMMIT").await.unwrap();
    }
    connection.close().await.unwrap();
}

/// `LOAD DATA` of the same rows as text, by the server's own program. `None` where it cannot be used.
async fn load_data(
    options: &MySqlConnectOptions,
    url: &str,
    database: &str,
    items: &[(i64, Item)],
) -> Option<f64> {
    let mut text = Vec::new();
    for (id, item) in items {
        let at = zdm_sql_adapters::table::Value::Timestamp(item.at.0).to_text()?;
        writeln!(text, "{id}\t{}\t{}\t{}\t{at}", item.amount, item.name, item.note).ok()?;
    }
    let password = url.split_once("//")?.1.split_once('@')?.0.split_once(':')?.1.to_owned();
    let start = Instant::now();
    let mut program = Command::new("mysql")
        .args([
            "--no-defaults",
            "--local-infile=1",
            "-h",
            options.get_host(),
            "-P",
            &options.get_port().to_string(),
        ])
        .args(["-u", options.get_username(), database, "-e"])
        .arg("LOAD DATA LOCAL INFILE '/dev/stdin' INTO TABLE items CHARACTER SET utf8mb4")
        .env("MYSQL_PWD", password)
        .stdin(Stdio::piped())
        .spawn()
        .ok()?;
    program.stdin.take()?.write_all(&text).ok()?;
    let done = program.wait().ok()?.success();
    done.then(|| items.len() as f64 / start.elapsed().as_secs_f64())
}

#[tokio::main]
async fn main() {
    let Ok(url) = std::env::var("ZDM_TEST_MYSQL_URL") else {
        println!("ZDM_TEST_MYSQL_URL is not set; nothing to measure");
        return;
    };
    let database = format!("zdm_bench_{}", std::process::id());
    let server: MySqlConnectOptions = url.parse().unwrap();
    let mut admin = server.connect().await.unwrap();
    admin.execute(AssertSqlSafe(format!("CREATE DATABASE {database} CHARACTER SET utf8mb4"))).await.unwrap();
    let options = server.clone().database(&database);
    let db = MySqlOptions::with(options.clone())
        .unwrap()
        .write_timeout(Duration::from_secs(30))
        .connect()
        .await
        .unwrap();
    db.execute(SCHEMA).await.unwrap();
    let items: Arc<Vec<_>> = Arc::new((0..ROWS).map(item).collect());
    let truncate = || db.execute("TRUNCATE items");

    let mut base = 0.0_f64;
    for _ in 0..3 {
        truncate().await.unwrap();
        base = base.max(load_data(&options, &url, &database, &items).await.unwrap_or_default());
    }
    println!("LOAD DATA: {base:.0} rows/s");
    let ratio = |rate: f64| if base > 0.0 { rate / base } else { f64::NAN };
    let table = MyTable::<Item>::open(&db).await.unwrap().with_fence().await.unwrap();
    let mut stamp = 0;
    for workers in [1, 2, 5] {
        truncate().await.unwrap();
        let rate = spread(workers, &items, |range| bare(options.clone(), Arc::clone(&items), range)).await;
        println!("bare loop, {workers} workers, empty: {rate:.0} rows/s, {:.2}", ratio(rate));
        let rate = spread(workers, &items, |range| bare(options.clone(), Arc::clone(&items), range)).await;
        println!("bare loop, {workers} workers, again: {rate:.0} rows/s, {:.2}", ratio(rate));
        for page in [1_000, 2_000, 4_000] {
            truncate().await.unwrap();
            for state in ["empty", "again"] {
                stamp += 1;
                let load = |range: std::ops::Range<usize>| {
                    let (table, items) = (table.clone(), Arc::clone(&items));
                    async move {
                        for page in items[range].chunks(page) {
                            let keys = KeyRange::between(page[0].0 - 1, page[page.len() - 1].0);
                            let loaded = table.load_page(Stamp(stamp), &keys, page).await.unwrap();
                            assert_eq!(loaded.written, page.len() as u64);
                        }
                    }
                };
                let rate = spread(workers, &items, load).await;
                println!(
                    "fenced pages of {page}, {workers} workers, {state}: {rate:.0} rows/s, {:.2}",
                    ratio(rate)
                );
            }
        }
    }

    for (name, dynamic) in [("typed", false), ("dynamic", true)] {
        let rows = MyRows::discover(&db, "items").await.unwrap();
        let start = Instant::now();
        let (mut after, mut count) = (None, 0);
        loop {
            let range = KeyRange { after: after.clone(), up_to: None };
            let (found, last) = if dynamic {
                let page = rows.page(&range, 2_000).await.unwrap();
                (page.len(), page.last().map(|(key, _)| key.clone()))
            } else {
                let range = KeyRange { after: range.after.map(|key| key_of(&key)), up_to: None };
                let page = table.page(&range, 2_000).await.unwrap();
                let last = page.last().map(|(key, _)| *key);
                (
                    page.len(),
                    last.map(|key| {
                        zdm_sql_adapters::table::DynKey::new([zdm_sql_adapters::table::Value::Integer(key)])
                            .unwrap()
                    }),
                )
            };
            count += found;
            if last.is_none() {
                break;
            }
            after = last;
        }
        let rate = count as f64 / start.elapsed().as_secs_f64();
        println!("reading pages of 2,000, {name}: {rate:.0} rows/s");
    }

    db.close().await;
    admin.execute(AssertSqlSafe(format!("DROP DATABASE {database}"))).await.unwrap();
}

fn key_of(key: &zdm_sql_adapters::table::DynKey) -> i64 {
    match key.values() {
        [zdm_sql_adapters::table::Value::Integer(key)] => *key,
        other => panic!("{other:?}"),
    }
}
