//! Copying a table from one SQLite file to another, page by page through the fence, against the limit of
//! the machine: `INSERT INTO .. SELECT` over an attached database, in the same run.
//!
//! The data are 336,776 flights with 20 columns. `cargo bench -p zdm-sql-adapters --features sqlite`.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a benchmark prints and ends at the first failure"
)]

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::time::Instant;

use lzma_rust2::XzReader;
use serde::Serialize;
use zdm_core::Result;
use zdm_core::key::KeyRange;
use zdm_core::store::{Bulk, Change, Fenced, Scan, Stamp};
use zdm_sql_adapters::sqlite::{Sqlite, SqliteOptions, SqliteTable, Synchronous};
use zdm_sql_adapters::table::{RowReader, RowWriter, TableMapping};

const ROUNDS: usize = 5;
const PAGE: usize = 2_000;

macro_rules! flight {
    ($($column:ident: $type:ty = $sql:literal),*) => {
        #[derive(Clone, Debug, PartialEq, Serialize)]
        struct Flight { $($column: $type),* }

        impl TableMapping for Flight {
            type Key = i64;
            type Record = Self;
            const TABLE: &'static str = "flights";
            const KEY: &'static [&'static str] = &["id"];
            const COLUMNS: &'static [&'static str] = &[$(stringify!($column)),*];

            fn write(flight: &Self, row: &mut RowWriter<'_>) -> Result<()> {
                row$(.set(stringify!($column), &flight.$column))*.done()
            }

            fn read(_: &i64, row: &mut RowReader<'_>) -> Result<Self> {
                Ok(Self { $($column: row.get(stringify!($column))?),* })
            }
        }

        const SCHEMA: &str =
            concat!("CREATE TABLE flights (id INTEGER PRIMARY KEY" $(, ", ", stringify!($column), " ", $sql)*, ")");

        fn parse(line: &str) -> Flight {
            let mut fields = line.split(',');
            Flight { $($column: Field::parse(fields.next().unwrap())),* }
        }
    };
}

flight! {
    year: i64 = "INTEGER NOT NULL", month: i64 = "INTEGER NOT NULL", day: i64 = "INTEGER NOT NULL",
    dep_time: Option<i64> = "INTEGER", sched_dep_time: i64 = "INTEGER NOT NULL",
    dep_delay: Option<i64> = "INTEGER", arr_time: Option<i64> = "INTEGER",
    sched_arr_time: i64 = "INTEGER NOT NULL", arr_delay: Option<i64> = "INTEGER",
    carrier: String = "TEXT NOT NULL", flight: i64 = "INTEGER NOT NULL", tailnum: Option<String> = "TEXT",
    origin: String = "TEXT NOT NULL", dest: String = "TEXT NOT NULL", air_time: Option<i64> = "INTEGER",
    distance: f64 = "REAL NOT NULL", hour: i64 = "INTEGER NOT NULL", minute: i64 = "INTEGER NOT NULL",
    time_hour: String = "TEXT NOT NULL"
}

trait Field {
    fn parse(text: &str) -> Self;
}

impl Field for i64 {
    fn parse(text: &str) -> Self {
        text.parse().unwrap()
    }
}

impl Field for f64 {
    fn parse(text: &str) -> Self {
        text.parse::<Self>().unwrap() * 1.609_344
    }
}

impl Field for String {
    fn parse(text: &str) -> Self {
        text.to_owned()
    }
}

impl<T: Field> Field for Option<T> {
    fn parse(text: &str) -> Self {
        (!text.is_empty() && text != "NA").then(|| T::parse(text))
    }
}

fn fresh(path: &Path) {
    for end in ["", "-wal", "-shm"] {
        let _ = std::fs::remove_file(format!("{}{end}", path.display()));
    }
}

async fn open(path: &Path) -> Sqlite {
    let options = SqliteOptions::new(path).create(true).synchronous(Synchronous::Normal);
    options.write_timeout(std::time::Duration::from_secs(60)).open().await.unwrap()
}

async fn target(path: &Path) -> (Sqlite, SqliteTable<Flight>) {
    fresh(path);
    let db = open(path).await;
    db.execute(SCHEMA).await.unwrap();
    let table = SqliteTable::open(&db).await.unwrap().with_fence().await.unwrap();
    (db, table)
}

/// The limit: one statement, in one connection, without this library.
async fn limit(old: &Path, new: &Path, sql: &'static str) -> f64 {
    use sqlx::{AssertSqlSafe, ConnectOptions, Executor};
    let (db, _) = target(new).await;
    db.close().await;
    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(new).pragma("cache_size", "-8192");
    let options = options.synchronous(sqlx::sqlite::SqliteSynchronous::Normal);
    let mut connection = options.connect().await.unwrap();
    connection.execute(AssertSqlSafe(format!("ATTACH '{}' AS old", old.display()))).await.unwrap();
    let begun = Instant::now();
    let rows = connection.execute(sql).await.unwrap().rows_affected();
    rows as f64 / begun.elapsed().as_secs_f64()
}

async fn read_only(table: &SqliteTable<Flight>) -> f64 {
    let (begun, mut range, mut rows) = (Instant::now(), KeyRange::all(), 0);
    loop {
        let page = table.page(&range, PAGE).await.unwrap();
        rows += page.len();
        let Some((last, _)) = page.last() else { break };
        range.after = Some(*last);
    }
    rows as f64 / begun.elapsed().as_secs_f64()
}

async fn load(table: &SqliteTable<Flight>, stamp: u64, after: Option<i64>, page: &[(i64, Flight)]) {
    let range = KeyRange { after, up_to: page.last().map(|(id, _)| *id) };
    let load = table.load_page(Stamp(stamp), &range, page).await.unwrap();
    assert_eq!(load.written, page.len() as u64);
}

/// Pages are read by one task and loaded by another, as the page engine does it.
async fn copy(old: &SqliteTable<Flight>, new: &SqliteTable<Flight>, stamp: u64) -> f64 {
    let begun = Instant::now();
    let (sender, mut pages) = tokio::sync::mpsc::channel(2);
    let old = old.clone();
    let reader = tokio::spawn(async move {
        let mut range = KeyRange::all();
        loop {
            let page = old.page(&range, PAGE).await.unwrap();
            let page: Vec<_> = page.into_iter().map(|(id, flight)| (id, flight.unwrap())).collect();
            let Some((last, _)) = page.last() else { return };
            let after = range.after.replace(*last);
            sender.send((after, page)).await.unwrap();
        }
    });
    let mut rows = 0;
    while let Some((after, page)) = pages.recv().await {
        load(new, stamp, after, &page).await;
        rows += page.len();
    }
    reader.await.unwrap();
    rows as f64 / begun.elapsed().as_secs_f64()
}

fn best(mut speeds: Vec<f64>) -> (f64, f64) {
    speeds.sort_by(f64::total_cmp);
    (speeds[speeds.len() - 1], speeds[speeds.len() / 2])
}

async fn run(directory: PathBuf) {
    let (old_path, new_path) = (directory.join("old.db"), directory.join("new.db"));
    let (_, old) = target(&old_path).await;
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/data/flights.csv.xz");
    let lines = BufReader::new(XzReader::new(std::fs::File::open(data).unwrap(), false)).lines();
    let flights: Vec<_> = lines.skip(1).map(|line| parse(&line.unwrap())).collect();
    for (chunk, first) in flights.chunks(PAGE).zip((0..).step_by(PAGE)) {
        let puts: Vec<_> =
            (first..).zip(chunk.iter().cloned()).map(|(id, flight)| Change::Put(id, flight)).collect();
        old.apply(&puts).await.unwrap();
    }
    let mut table: Vec<(&str, Vec<f64>)> = vec![
        ("INSERT .. SELECT *, same columns (blocks are copied)", Vec::new()),
        ("INSERT .. SELECT *, rows are taken apart", Vec::new()),
        ("pages read", Vec::new()),
        ("pages read and loaded through the fence", Vec::new()),
        ("the same again: every row is there already", Vec::new()),
    ];
    for _ in 0..ROUNDS {
        table[0]
            .1
            .push(limit(&old_path, &new_path, "INSERT INTO main.flights SELECT * FROM old.flights").await);
        let apart = "INSERT INTO main.flights SELECT * FROM old.flights WHERE id >= 0";
        table[1].1.push(limit(&old_path, &new_path, apart).await);
        table[2].1.push(read_only(&old).await);
        let (db, new) = target(&new_path).await;
        table[3].1.push(copy(&old, &new, 1).await);
        table[4].1.push(copy(&old, &new, 2).await);
        db.close().await;
    }
    let limits = [best(table[0].1.clone()).1, best(table[1].1.clone()).1];
    println!("{} flights, pages of {PAGE}, {ROUNDS} rounds; rows/s", flights.len());
    println!("{:52} {:>9} {:>9} {:>7} {:>7}", "", "best", "median", "of 1st", "of 2nd");
    for (name, speeds) in table {
        let (best, median) = best(speeds);
        let [first, second] = limits.map(|limit| median / limit);
        println!("{name:52} {best:9.0} {median:9.0} {first:7.2} {second:7.2}");
    }
}

fn main() {
    let directory = std::env::temp_dir().join(format!("zdm-bench-pages-{}", std::process::id()));
    std::fs::create_dir_all(&directory).unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(run(directory.clone()));
    std::fs::remove_dir_all(directory).unwrap();
}
