//! The shared queue: the suite that every queue passes, and what only several instances show.

use async_trait::async_trait;
use zdm_core::testkit::{QueueFactory, queue_suite};
use zdm_sql_adapters::postgres::{PgQueue, Postgres};
use zdm_sql_adapters::shared_queue::SharedQueueOptions;

use crate::shared_queue::{Place, shared_queue_tests};
use crate::support::{Database, database};

#[async_trait]
impl Place for Database {
    type Tables = Postgres;

    async fn new() -> Option<Self> {
        database("").await
    }

    async fn join(&self, instance: &str, options: SharedQueueOptions) -> PgQueue {
        let db = self.again(|options| options).await;
        PgQueue::open_with(&db, "old to new", instance, options).await.unwrap()
    }

    async fn sql(&self, statements: &str) {
        self.execute(statements).await.unwrap();
    }

    fn bytes(hex: &str) -> String {
        format!("decode('{hex}', 'hex')")
    }
}

shared_queue_tests!(Database);

struct Queues {
    db: Database,
    number: usize,
    limit: usize,
}

impl Queues {
    async fn open(&self) -> PgQueue {
        let options = SharedQueueOptions::default().limit(self.limit);
        let migration = format!("migration {}", self.number);
        PgQueue::open_with(&self.db, &migration, "one", options).await.unwrap()
    }
}

#[async_trait]
impl QueueFactory for Queues {
    type Queue = PgQueue;

    async fn create(&mut self, limit: usize) -> PgQueue {
        (self.number, self.limit) = (self.number + 1, limit);
        self.open().await
    }

    async fn reopen(&mut self) -> Option<PgQueue> {
        Some(self.open().await)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_queue_passes_the_suite() {
    let Some(db) = database("").await else { return };
    queue_suite(Queues { db, number: 0, limit: 0 }).await;
}
