//! Checkpoints, phases, and the schema of the bookkeeping.

use async_trait::async_trait;
use zdm_core::error::Kind;
use zdm_core::phase::{Coordinator, Phase};
use zdm_core::testkit::{CheckpointFactory, CoordinatorFactory, checkpoint_suite, coordinator_suite};
use zdm_sql_adapters::postgres::{PgCheckpoints, PgCoordinator, PgQueue, Postgres};

use crate::support::{Database, database, rows};

struct Checkpoints(Database);

#[async_trait]
impl CheckpointFactory for Checkpoints {
    type Store = PgCheckpoints;

    async fn create(&mut self) -> PgCheckpoints {
        self.0.remove_schema().await.unwrap();
        PgCheckpoints::open(&self.0).await.unwrap()
    }

    async fn reopen(&mut self) -> Option<PgCheckpoints> {
        let db = self.0.again(|options| options).await;
        Some(PgCheckpoints::open(&db).await.unwrap())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn checkpoints_pass_the_suite() {
    let Some(db) = database("").await else { return };
    checkpoint_suite(Checkpoints(db)).await;
}

struct Coordinators(Database, usize);

#[async_trait]
impl CoordinatorFactory for Coordinators {
    type Coordinator = PgCoordinator;

    async fn create(&mut self, phase: Phase) -> PgCoordinator {
        self.1 += 1;
        PgCoordinator::open(&self.0, &format!("migration {}", self.1), phase).await.unwrap()
    }

    async fn reopen(&mut self) -> Option<PgCoordinator> {
        let db = self.0.again(|options| options).await;
        // The phase that it began in counts only the first time.
        Some(PgCoordinator::open(&db, &format!("migration {}", self.1), Phase::Complete).await.unwrap())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn coordinators_pass_the_suite() {
    let Some(db) = database("").await else { return };
    coordinator_suite(Coordinators(db, 0)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_move_is_seen_by_another_instance_and_an_unknown_phase_is_an_error() {
    let Some(db) = database("").await else { return };
    let one = PgCoordinator::open(&db, "old to new", Phase::Off).await.unwrap();
    let other =
        PgCoordinator::open(&db.again(|options| options).await, "old to new", Phase::Off).await.unwrap();
    let now = one.current().await.unwrap();
    let moved = one.advance(now.epoch, Phase::DualWrite, zdm_core::phase::Audit::default());
    let (seen, moved) = tokio::join!(other.changed(now.epoch), moved);
    assert_eq!(seen.unwrap(), moved.unwrap());
    let stale = other.advance(now.epoch, Phase::DualWrite, zdm_core::phase::Audit::default()).await;
    assert_eq!(stale.unwrap_err().kind(), Kind::Refused);
    db.execute("UPDATE zdm_phase SET record = replace(record, 'dual', 'Sideways ')").await.unwrap();
    let error = other.current().await.unwrap_err();
    assert_eq!(error.kind(), Kind::Damaged);
    assert!(error.to_string().contains("old to new") && error.to_string().contains("Sideways"), "{error}");
}

const OURS: &str = "SELECT relname::text FROM pg_class WHERE relnamespace = current_schema()::regnamespace AND relkind IN ('r', 'S')";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_schema_is_installed_once_and_removed_whole() {
    let Some(db) = database("CREATE TABLE users (id bigint PRIMARY KEY)").await else { return };
    let others: Vec<_> = futures_util::future::join_all((0..4).map(|_| db.again(|options| options))).await;
    let installed = futures_util::future::join_all(others.iter().map(Postgres::ensure_schema)).await;
    assert!(installed.iter().all(Result::is_ok), "{installed:?}");
    let tables = rows(&db, OURS).await;
    assert!(
        tables.len() > 10 && tables.iter().all(|name| name == "users" || name.starts_with("zdm_")),
        "{tables:?}"
    );
    db.remove_schema().await.unwrap();
    assert_eq!(rows(&db, OURS).await, ["users"]);
    // The same by hand.
    db.execute(Postgres::schema_sql()).await.unwrap();
    let mut by_hand = rows(&db, OURS).await;
    by_hand.sort();
    let mut tables = tables;
    tables.sort();
    assert_eq!(by_hand, tables);
    PgQueue::open(&db, "old to new", "one").await.unwrap();

    db.execute("INSERT INTO zdm_schema (version) VALUES (900)").await.unwrap();
    let error = db.ensure_schema().await.unwrap_err();
    assert_eq!(error.kind(), Kind::Damaged);
    assert!(error.to_string().contains("900"), "{error}");
}
