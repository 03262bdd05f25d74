//! The shared queue: the suite that every queue passes, and what only several instances show.

use std::time::Duration;

use async_trait::async_trait;
use sqlx::{AssertSqlSafe, Connection, Executor};
use zdm_core::error::Kind;
use zdm_core::key::KeyBytes;
use zdm_core::queue::{Direction, Guarantee, Touch, WriteQueue};
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_entry_commits_with_the_users_own_transaction_or_not_at_all() {
    let Some(db) = database("CREATE TABLE users (id bigint PRIMARY KEY)").await else { return };
    let options = SharedQueueOptions::default().transactional(true);
    let queue = PgQueue::open_with(&db, "old to new", "one", options).await.unwrap();
    queue.recover(Duration::from_secs(100)).await.unwrap();
    assert_eq!(queue.guarantee(), Guarantee::Transactional);
    let mut other = db.other().await;
    for (id, commits) in [(1_u64, false), (2, true), (3, true)] {
        let mut transaction = other.begin().await.unwrap();
        let insert = format!("INSERT INTO users VALUES ({id}), ({id} + 10)");
        transaction.execute(sqlx::raw_sql(AssertSqlSafe(insert))).await.unwrap();
        let both = Touch::upsert(&id).and(Touch::upsert(&(id + 10)));
        queue.write_in(&mut transaction, &both, Direction::OldToNew).await.unwrap();
        // Nobody sees it before the transaction has ended.
        queue.catch_up().await.unwrap();
        assert_eq!(queue.stats().dirty(), 0);
        if !commits {
            transaction.rollback().await.unwrap();
            queue.catch_up().await.unwrap();
            assert_eq!(queue.stats().dirty(), 0, "a transaction that was rolled back left an entry");
            continue;
        }
        transaction.commit().await.unwrap();
        // A handover waits for it, although no instance has looked since.
        let drained = tokio::time::timeout(Duration::from_millis(300), queue.wait_drained()).await;
        assert!(drained.is_err(), "the queue is not drained");
        assert!(!queue.is_clean(&KeyBytes::of(&id)));
        let claimed = queue.claim(Direction::OldToNew, 10).await.unwrap().unwrap();
        assert_eq!(claimed.entries.len(), 1, "one transaction is one entry");
        assert_eq!(claimed.entries[0].touch, both.encode());
        queue.ack(&claimed.ids());
        queue.wait_drained().await;
    }
    queue.close().await.unwrap();
    let mut transaction = other.begin().await.unwrap();
    let closed = queue.write_in(&mut transaction, &Touch::upsert(&4_u64), Direction::OldToNew).await;
    assert_eq!(closed.unwrap_err().kind(), Kind::Stopped);
}
