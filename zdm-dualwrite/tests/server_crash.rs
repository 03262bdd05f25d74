//! A whole migration in one PostgreSQL server that is killed ten times: both stores, the queue, the checkpoints and
//! the phase go down and come back at once, and nothing acknowledged is lost.
//!
//! `ZDM_TEST_POSTGRES_SERVER` is the command line of a server that this test starts and kills, without its port.

#![expect(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "a test that fails panics, one that is left out says so"
)]

use std::collections::BTreeMap;
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use zdm_core::error::Certainty;
use zdm_core::key::KeyRange;
use zdm_core::phase::{Gate, Phase};
use zdm_core::store::{Scan, Store};
use zdm_dualwrite::{Backfill, DualWrite, MoveRequest, Settings, Verify};
use zdm_sql_adapters::postgres::{PgCheckpoints, PgCoordinator, PgQueue, PgRows, Postgres, PostgresOptions};
use zdm_sql_adapters::table::{DynKey, DynRow, Value};

const KILLS: u32 = 10;
const WRITERS: i64 = 4;
const LOADED: i64 = 20_000;

struct Server {
    command: Vec<String>,
    port: u16,
    child: Option<Child>,
}

impl Server {
    fn start() -> Option<Self> {
        let Ok(command) = std::env::var("ZDM_TEST_POSTGRES_SERVER") else {
            // A server that was given is not ours to kill.
            let given = std::env::var_os("ZDM_TEST_POSTGRES_URL").is_some();
            assert!(
                given || std::env::var_os("CI").is_none(),
                "ZDM_TEST_POSTGRES_SERVER is not set, and CI must not skip tests"
            );
            eprintln!("skipped: ZDM_TEST_POSTGRES_SERVER is not set");
            return None;
        };
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let command = command.split_whitespace().map(str::to_owned).collect();
        let mut server = Self { command, port, child: None };
        server.up();
        Some(server)
    }

    fn up(&mut self) {
        let child = Command::new(&self.command[0])
            .args(&self.command[1..])
            .args(["-p", &self.port.to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        self.child = Some(child);
        let limit = Instant::now() + Duration::from_secs(60);
        while TcpStream::connect(("127.0.0.1", self.port)).is_err() {
            assert!(Instant::now() < limit, "the server does not start");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// What `pg_ctl stop -m immediate` does: no connection is told, nothing is written.
    fn kill(&mut self) {
        let Some(mut child) = self.child.take() else { return };
        let killed = Command::new("kill").args(["-QUIT", &child.id().to_string()]).status().unwrap();
        assert!(killed.success());
        child.wait().unwrap();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

async fn patiently<T, E: std::fmt::Display>(what: &str, mut call: impl AsyncFnMut() -> Result<T, E>) -> T {
    let limit = Instant::now() + Duration::from_secs(120);
    loop {
        match call().await {
            Ok(done) => return done,
            Err(error) => assert!(Instant::now() < limit, "{what}: {error}"),
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// What a key may hold in the end: the last answer that was certain, and what was unknown after it.
type Allowed = Arc<Mutex<BTreeMap<i64, Vec<Option<i64>>>>>;

async fn write_on(users: DualWrite<PgRows>, writer: i64, allowed: Allowed, stop: Arc<AtomicBool>) -> u64 {
    let columns = users.old_store().columns().clone();
    let (mut acknowledged, mut round) = (0, 0_i64);
    while !stop.load(Ordering::Relaxed) {
        round += 1;
        // Keys of its own, some of them loaded before, some new.
        let id = writer + WRITERS * (round * 7919 % (LOADED / WRITERS + 500));
        let key = DynKey::new([Value::Integer(id)]).unwrap();
        let value = (round % 5 != 0).then_some(round);
        let outcome = match value {
            Some(value) => {
                let row =
                    DynRow::new(columns.clone(), vec![Value::Integer(id), Value::Integer(value)]).unwrap();
                users.put(&key, &row).await
            }
            None => users.delete(&key).await,
        };
        note(&allowed, id, value, outcome, &mut acknowledged);
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    acknowledged
}

/// Writes down what a key may hold after a write.
fn note(
    allowed: &Allowed,
    id: i64,
    value: Option<i64>,
    outcome: zdm_core::Result<()>,
    acknowledged: &mut u64,
) {
    let mut allowed = allowed.lock().unwrap();
    let known = allowed.entry(id).or_insert_with(|| vec![(id < LOADED).then_some(0)]);
    match outcome {
        Ok(()) => {
            *acknowledged += 1;
            *known = vec![value];
        }
        Err(error) if error.certainty() == Certainty::NotApplied => {}
        Err(_) => known.push(value),
    }
}

async fn contents(store: &PgRows) -> BTreeMap<i64, i64> {
    let mut found = BTreeMap::new();
    let mut range = KeyRange::all();
    loop {
        let page = store.page(&range, 5_000).await.unwrap();
        let whole = page.len() < 5_000;
        range.after = page.last().map(|(key, _)| key.clone());
        for (key, row) in page {
            let (Value::Integer(id), Some(Value::Integer(value))) =
                (&key.values()[0], row.unwrap().get("value").cloned())
            else {
                panic!("{key:?}");
            };
            found.insert(*id, value);
        }
        if whole {
            return found;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_killed_ten_times_loses_nothing_that_was_acknowledged() {
    let Some(server) = Server::start() else { return };
    let url = format!("postgres://zdm@127.0.0.1:{}/postgres", server.port);
    let db = patiently("connecting", async || {
        PostgresOptions::new(&url)?.write_timeout(Duration::from_secs(2)).connect().await
    })
    .await;
    db.execute(format!(
        "CREATE TABLE old_users (id BIGINT PRIMARY KEY, value BIGINT NOT NULL); \
         CREATE TABLE new_users (id BIGINT PRIMARY KEY, value BIGINT NOT NULL); \
         INSERT INTO old_users SELECT id, 0 FROM generate_series(0, {LOADED} - 1) AS id"
    ))
    .await
    .unwrap();
    let users = begin(&db).await;
    let (allowed, stop): (Allowed, _) = (Arc::default(), Arc::new(AtomicBool::new(false)));
    let writers: Vec<_> = (0..WRITERS)
        .map(|writer| tokio::spawn(write_on(users.clone(), writer, Arc::clone(&allowed), Arc::clone(&stop))))
        .collect();
    patiently("DualWrite", async || users.advance(Phase::DualWrite).await).await;
    let kills = kill_in_the_background(server, KILLS, Duration::from_millis(200));
    let report = patiently("the backfill", async || {
        Backfill::new(&users).checkpoints(PgCheckpoints::open(&db).await?).run().await
    })
    .await;
    assert!(report.complete);
    let server = kills.await.unwrap();
    patiently("Shadow", async || users.advance(Phase::Shadow).await).await;
    let report = patiently("verifying", async || Verify::new(&users).run().await).await;
    assert_eq!((report.complete, report.mismatches), (true, 0), "{report:?}");
    // The next kill hits around the handover.
    let kills = kill_in_the_background(server, 1, Duration::from_millis(30));
    patiently("the handover", async || {
        let request =
            MoveRequest::to(Phase::Live).by("test", "kills").overriding(Gate::ShadowClean, "killed");
        match users.advance_with(request).await {
            Err(_) if users.phase().phase == Phase::Live => Ok(()),
            outcome => outcome.map(drop),
        }
    })
    .await;
    let _server = kills.await.unwrap();
    tokio::time::sleep(Duration::from_millis(300)).await;
    stop.store(true, Ordering::Relaxed);
    let mut acknowledged = 0;
    for writer in writers {
        acknowledged += writer.await.unwrap();
    }
    tokio::time::timeout(Duration::from_secs(60), users.drained()).await.unwrap();
    assert_eq!(users.queue_stats().parked, 0);
    let (old, new) = (contents(users.old_store()).await, contents(users.new_store()).await);
    assert_eq!(old, new);
    for (id, values) in allowed.lock().unwrap().iter() {
        assert!(values.contains(&new.get(id).copied()), "{id} is {:?}, allowed is {values:?}", new.get(id));
    }
    let untouched = |id: &i64| !allowed.lock().unwrap().contains_key(id);
    assert!((0..LOADED).filter(untouched).all(|id| new.get(&id) == Some(&0)));
    assert!(acknowledged > 100, "{acknowledged} writes were acknowledged");
    users.shutdown(Duration::from_secs(5)).await.unwrap();
    db.close().await;
}

/// Kills the server and starts it again, a few times.
fn kill_in_the_background(
    mut server: Server,
    times: u32,
    pause: Duration,
) -> tokio::task::JoinHandle<Server> {
    tokio::task::spawn_blocking(move || {
        for kill in 0..times {
            std::thread::sleep(pause + kill * Duration::from_millis(40));
            server.kill();
            std::thread::sleep(Duration::from_millis(100));
            server.up();
        }
        server
    })
}

async fn begin(db: &Postgres) -> DualWrite<PgRows> {
    let old = PgRows::discover(db, "old_users").await.unwrap().with_fence().await.unwrap();
    let new = PgRows::discover(db, "new_users").await.unwrap().with_fence().await.unwrap();
    let mut settings = Settings::default();
    settings.name = "users".to_owned();
    settings.retry.attempts = 1_000;
    DualWrite::builder(old, new)
        .queue(PgQueue::open(db, "users", "a").await.unwrap())
        .coordinator(Arc::new(PgCoordinator::open(db, "users", Phase::Off).await.unwrap()))
        .settings(settings)
        .start()
        .await
        .unwrap()
}
