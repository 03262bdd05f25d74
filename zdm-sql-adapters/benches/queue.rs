//! What the shared queue on PostgreSQL makes of a raw batched insert, at 256 writers in one run; and what
//! `write_in` adds to a transaction of one row.
//!
//! `ZDM_TEST_POSTGRES_URL=.. cargo bench -p zdm-sql-adapters --features postgres --bench queue`. Needs a server of
//! its own: the tables are made in a schema that is dropped at the end.

#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a benchmark that fails panics, and prints")]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{AssertSqlSafe, ConnectOptions, Connection, Executor};
use tokio::sync::{mpsc, oneshot};
use zdm_core::queue::{Direction, Epoch, Touch, WriteQueue};
use zdm_sql_adapters::postgres::{PgQueue, PostgresOptions};
use zdm_sql_adapters::shared_queue::SharedQueueOptions;

const WRITERS: u64 = 256;
const EACH: u64 = 600;
const FORWARD: Direction = Direction::OldToNew;

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() {
    // `cargo test --benches` builds it and wants no measuring.
    let measure = std::env::args().any(|argument| argument == "--bench");
    let Some(url) = std::env::var("ZDM_TEST_POSTGRES_URL").ok().filter(|url| measure && !url.is_empty())
    else {
        println!("left out: needs --bench and ZDM_TEST_POSTGRES_URL");
        return;
    };
    let schema = format!("zdm_bench_{}", std::process::id());
    let options: PgConnectOptions = url.parse().unwrap();
    let mut control = options.clone().connect().await.unwrap();
    run(&mut control, format!("CREATE SCHEMA {schema}")).await;
    let options = options.options([("search_path", schema.as_str())]);
    for round in 1..=3 {
        let raw = raw(&options).await;
        let (opened, drained) = shared(&options).await;
        println!(
            "round {round}: raw {raw:.0}/s; queue: open and release {opened:.0}/s ({:.2}), until reconciled by two \
             workers {drained:.0}/s ({:.2})",
            opened / raw,
            drained / raw
        );
    }
    for writers in [1, 16] {
        let mut rates = [Vec::new(), Vec::new(), Vec::new()];
        for _ in 0..5 {
            for (rates, way) in rates.iter_mut().zip([Way::Bare, Way::Recorded, Way::Drained]) {
                rates.push(transactions(&options, writers, way).await);
            }
        }
        let [bare, recorded, drained] = rates.map(|mut rates| {
            rates.sort_by(f64::total_cmp);
            rates[2]
        });
        let more = |rate: f64| 100.0 * (bare / rate - 1.0);
        println!(
            "{writers} writers of one-row transactions: bare {bare:.0}/s, with write_in {recorded:.0}/s ({:+.1} % of \
             the time), and while a worker takes the entries over and acknowledges them {drained:.0}/s ({:+.1} %)",
            more(recorded),
            more(drained)
        );
    }
    run(&mut control, format!("DROP SCHEMA {schema} CASCADE")).await;
}

async fn run(connection: &mut PgConnection, sql: String) {
    connection.execute(sqlx::raw_sql(AssertSqlSafe(sql))).await.unwrap();
}

fn key(writer: u64, number: u64) -> u64 {
    writer * 1_000_000 + number
}

/// One connection that inserts whatever has come since the last statement.
async fn raw(options: &PgConnectOptions) -> f64 {
    let mut connection = options.connect().await.unwrap();
    run(
        &mut connection,
        "DROP TABLE IF EXISTS raw; CREATE TABLE raw (id bigserial PRIMARY KEY, payload bytea NOT NULL)"
            .to_owned(),
    )
    .await;
    let (orders, mut received) = mpsc::unbounded_channel::<(Vec<u8>, oneshot::Sender<()>)>();
    let inserter = tokio::spawn(async move {
        let mut batch = Vec::new();
        while received.recv_many(&mut batch, 1_000).await > 0 {
            let payloads: Vec<&[u8]> = batch.iter().map(|(payload, _)| payload.as_slice()).collect();
            sqlx::query("INSERT INTO raw (payload) SELECT unnest($1::bytea[])")
                .bind(payloads)
                .execute(&mut connection)
                .await
                .unwrap();
            for (_, done) in batch.drain(..) {
                done.send(()).unwrap();
            }
        }
    });
    let began = Instant::now();
    let writers = (0..WRITERS).map(|writer| {
        let orders = orders.clone();
        tokio::spawn(async move {
            for number in 0..EACH {
                let (done, told) = oneshot::channel();
                let mut payload = Vec::new();
                Touch::upsert(&key(writer, number)).encode().write_to(&mut payload);
                orders.send((payload, done)).unwrap();
                told.await.unwrap();
            }
        })
    });
    for writer in writers.collect::<Vec<_>>() {
        writer.await.unwrap();
    }
    let rate = (WRITERS * EACH) as f64 / began.elapsed().as_secs_f64();
    drop(orders);
    inserter.await.unwrap();
    rate
}

/// Entries that are opened and released; and the time until two workers have acknowledged them all.
async fn shared(options: &PgConnectOptions) -> (f64, f64) {
    let db = PostgresOptions::with(options.clone()).unwrap().connect().await.unwrap();
    db.ensure_schema().await.unwrap();
    let queue = Arc::new(PgQueue::open(&db, "a benchmark", "one").await.unwrap());
    queue.recover(Duration::ZERO).await.unwrap();
    let began = Instant::now();
    write(&queue).await;
    let opened = (WRITERS * EACH) as f64 / began.elapsed().as_secs_f64();
    work(&queue, || true).await;

    let began = Instant::now();
    let written = Arc::new(AtomicBool::new(false));
    let workers: Vec<_> = (0..2)
        .map(|_| {
            let (queue, written) = (Arc::clone(&queue), Arc::clone(&written));
            tokio::spawn(async move { work(&queue, || written.load(Ordering::Relaxed)).await })
        })
        .collect();
    write(&queue).await;
    written.store(true, Ordering::Relaxed);
    for worker in workers {
        worker.await.unwrap();
    }
    let drained = (WRITERS * EACH) as f64 / began.elapsed().as_secs_f64();
    queue.close().await.unwrap();
    db.remove_schema().await.unwrap();
    (opened, drained)
}

/// What becomes of a transaction that updates one row.
#[derive(Clone, Copy, PartialEq)]
enum Way {
    Bare,
    /// It records its touch.
    Recorded,
    /// And a worker takes the entries over and acknowledges them at the same time.
    Drained,
}

async fn transactions(options: &PgConnectOptions, writers: u64, way: Way) -> f64 {
    let total = 3_000 * (1 + writers / 4);
    let mut control = options.connect().await.unwrap();
    run(
        &mut control,
        "DROP TABLE IF EXISTS users; CREATE TABLE users (id bigint PRIMARY KEY, name text NOT NULL); \
         INSERT INTO users SELECT i, 'user ' || i FROM generate_series(0, 9999) i"
            .to_owned(),
    )
    .await;
    let db = PostgresOptions::with(options.clone()).unwrap().connect().await.unwrap();
    let slow = SharedQueueOptions::default()
        .poll(Duration::from_secs(60))
        .lease(Duration::from_secs(300))
        .stale_after(Duration::from_secs(60));
    let settings = if way == Way::Drained { SharedQueueOptions::default() } else { slow };
    let queue = Arc::new(PgQueue::open_with(&db, "a benchmark", "one", settings).await.unwrap());
    queue.recover(Duration::ZERO).await.unwrap();
    let written = Arc::new(AtomicBool::new(way != Way::Drained));
    let worker = tokio::spawn({
        let (queue, written) = (Arc::clone(&queue), Arc::clone(&written));
        async move { work(&queue, || written.load(Ordering::Relaxed)).await }
    });
    let began = Instant::now();
    let tasks = (0..writers).map(|writer| {
        let (queue, options) = (Arc::clone(&queue), options.clone());
        tokio::spawn(async move {
            let mut connection = options.connect().await.unwrap();
            for number in 0..total / writers {
                let id = i64::try_from((writer * 7_919 + number * 104_729) % 10_000).unwrap();
                let mut transaction = connection.begin().await.unwrap();
                sqlx::query("UPDATE users SET name = $2 WHERE id = $1")
                    .bind(id)
                    .bind("another name")
                    .execute(&mut *transaction)
                    .await
                    .unwrap();
                if way != Way::Bare {
                    queue.write_in(&mut transaction, &Touch::upsert(&id), FORWARD).await.unwrap();
                }
                transaction.commit().await.unwrap();
            }
        })
    });
    for task in tasks.collect::<Vec<_>>() {
        task.await.unwrap();
    }
    let rate = (total / writers * writers) as f64 / began.elapsed().as_secs_f64();
    written.store(true, Ordering::Relaxed);
    worker.await.unwrap();
    queue.close().await.unwrap();
    run(&mut control, "TRUNCATE zdm_queue_entry".to_owned()).await;
    rate
}

async fn write(queue: &Arc<PgQueue>) {
    let opened = Arc::new(AtomicU64::new(0));
    let writers = (0..WRITERS).map(|writer| {
        let (queue, opened) = (Arc::clone(queue), Arc::clone(&opened));
        tokio::spawn(async move {
            for number in 0..EACH {
                let touch = Touch::upsert(&key(writer, number)).encode();
                let id = queue.open(touch, Epoch(1), FORWARD).await.unwrap();
                opened.fetch_add(1, Ordering::Relaxed);
                queue.release(id, None);
            }
        })
    });
    for writer in writers.collect::<Vec<_>>() {
        writer.await.unwrap();
    }
    assert_eq!(opened.load(Ordering::Relaxed), WRITERS * EACH);
}

async fn work(queue: &PgQueue, written: impl Fn() -> bool) {
    loop {
        match queue.claim(FORWARD, 500).await.unwrap() {
            Some(claim) => queue.ack(&claim.ids()),
            None if written() && queue.stats().pending() == 0 => return,
            None => drop(tokio::time::timeout(Duration::from_millis(20), queue.wait_claimable()).await),
        }
    }
}
