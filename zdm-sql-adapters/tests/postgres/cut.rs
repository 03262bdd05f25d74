//! Connections that break at every byte of a write. Whatever was on its way, the outcome is known in the
//! end and is the truth.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use zdm_core::error::Certainty;
use zdm_sql_adapters::postgres::{Postgres, PostgresOptions};

use crate::support::{Database, database, rows, write};

/// Forwards bytes to the server, and breaks when it is told to.
#[derive(Clone)]
struct Proxy {
    port: u16,
    /// How many more bytes each direction may pass; negative for any number. To the server, to the client.
    left: [Arc<AtomicI64>; 2],
    passed: [Arc<AtomicU64>; 2],
}

impl Proxy {
    async fn new(host: String, port: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let new = || Arc::new(AtomicI64::new(-1));
        let passed = [Arc::default(), Arc::default()];
        let proxy = Self { port: listener.local_addr().unwrap().port(), left: [new(), new()], passed };
        let own = proxy.clone();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let server = TcpStream::connect((host.as_str(), port)).await.unwrap();
                let (from_client, to_client) = client.into_split();
                let (from_server, to_server) = server.into_split();
                let (up, down) = (own.clone(), own.clone());
                tokio::spawn(async move {
                    // The end of one direction ends both.
                    tokio::select! {
                        () = up.forward(0, from_client, to_server) => {}
                        () = down.forward(1, from_server, to_client) => {}
                    }
                });
            }
        });
        proxy
    }

    async fn forward(
        &self,
        direction: usize,
        mut from: tokio::net::tcp::OwnedReadHalf,
        mut to: tokio::net::tcp::OwnedWriteHalf,
    ) {
        let mut buffer = [0; 4096];
        while let Ok(read @ 1..) = from.read(&mut buffer).await {
            let left = self.left[direction].load(Ordering::SeqCst);
            let pass = if left < 0 { read } else { read.min(left as usize) };
            if to.write_all(&buffer[..pass]).await.is_err() {
                return;
            }
            self.passed[direction].fetch_add(pass as u64, Ordering::SeqCst);
            if left >= 0 {
                self.left[direction].fetch_sub(pass as i64, Ordering::SeqCst);
            }
            if pass < read {
                // This connection breaks here; the next one is whole.
                self.left[direction].store(-1, Ordering::SeqCst);
                // What the server has been sent it may still do.
                tokio::time::sleep(std::time::Duration::from_millis(5)).await;
                return;
            }
        }
    }

    /// Bytes that a write sends and is answered with.
    async fn transcript(&self, db: &Postgres, id: i64) -> [u64; 2] {
        let before = self.counts();
        insert(db, id).await.unwrap();
        let after = self.counts();
        [after[0] - before[0], after[1] - before[1]]
    }

    fn counts(&self) -> [u64; 2] {
        [self.passed[0].load(Ordering::SeqCst), self.passed[1].load(Ordering::SeqCst)]
    }
}

async fn insert(db: &Postgres, id: i64) -> zdm_core::Result<()> {
    write(db, format!("INSERT INTO t VALUES ({id:04}); UPDATE counter SET n = n + 1")).await
}

async fn through(db: &Database) -> (Proxy, Postgres) {
    let options = db.options();
    let proxy = Proxy::new(options.get_host().to_owned(), options.get_port()).await;
    let through = db.options().host("127.0.0.1").port(proxy.port);
    let through = PostgresOptions::with(through).unwrap().writers(1).connect().await.unwrap();
    (proxy, through)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_cut_at_every_byte_is_known_in_the_end() {
    let schema =
        "CREATE TABLE t (id INT PRIMARY KEY); CREATE TABLE counter (n INT); INSERT INTO counter VALUES (0)";
    let Some(db) = database(schema).await else { return };
    let (proxy, through) = through(&db).await;
    insert(&through, 1).await.unwrap();
    let bytes = proxy.transcript(&through, 2).await;
    assert!(bytes[0] > 100 && bytes[1] > 50, "{bytes:?}");
    let (mut id, mut looked_up, mut applied) = (2, 0, 2);
    for direction in [0, 1] {
        for cut in 0..bytes[direction] {
            id += 1;
            proxy.left[direction].store(cut as i64, Ordering::SeqCst);
            let outcome = insert(&through, id).await;
            if proxy.left[direction].swap(-1, Ordering::SeqCst) >= 0 {
                // What was counted beyond is the pool's own look at a connection that came back.
                assert!(
                    outcome.is_ok() && cut + 20 > bytes[direction],
                    "byte {cut} of {bytes:?}: {outcome:?}"
                );
                applied += 1;
                break;
            }
            let there = rows(&db, format!("SELECT id::text FROM t WHERE id = {id}")).await.len() == 1;
            match outcome {
                Ok(()) => assert!(there, "byte {cut}: acknowledged and not there"),
                Err(error) => {
                    assert_eq!(error.certainty(), Certainty::NotApplied, "byte {cut}: {error:?}");
                    assert!(!there, "byte {cut}: there, but {error:?}");
                }
            }
            applied += i32::from(there);
            looked_up += i32::from(there && cut > 0);
        }
    }
    // Answers cut behind the COMMIT.
    assert!(looked_up > 0, "no COMMIT had to be looked up");
    assert_eq!(rows(&db, "SELECT n::text FROM counter").await, [applied.to_string()]);
}
