//! Verification by sums that the servers make, over all tables at once.

use zdm_core::phase::Phase;
use zdm_dualwrite::{DualWrite, Verify};
use zdm_examples::live_migration::tables::address::Address;
use zdm_examples::live_migration::tables::{plan, side};

use crate::support::Database;
use crate::support::Server::Postgres;

/// The second is empty; the third has another kind of key.
const TABLES: &str = "CREATE TABLE a (id INT PRIMARY KEY, v TEXT); CREATE TABLE b (id INT PRIMARY KEY, v TEXT); \
    CREATE TABLE c (k TEXT COLLATE \"C\", n INT, v NUMERIC, PRIMARY KEY (k, n)); \
    INSERT INTO a SELECT i, 'text ' || i FROM generate_series(1, 5000) i; \
    INSERT INTO c SELECT 'k' || i % 7, i, i / 8.0 FROM generate_series(1, 4000) i";

/// In every table one: another value, a row too many where there are none, a row too few.
const SPOILED: &str = "UPDATE a SET v = v || ' ' WHERE id = 3210; INSERT INTO b VALUES (3210, 'text 3210'); \
    DELETE FROM c WHERE n = 4000";

#[test]
fn differences_in_several_tables_are_found_by_sums() {
    let (Some(old), Some(new)) = (Database::create(Postgres), Database::create(Postgres)) else { return };
    old.execute(TABLES);
    new.execute(TABLES);
    let clean = verified(&old, &new);
    assert_eq!((clean.compared, clean.mismatches), (9_000, 0));
    assert!(clean.method.contains("summed up on both sides (PostgreSQL "), "{}", clean.method);
    assert!(clean.method.contains("not seen: records that differ and have equal sums"), "{}", clean.method);
    assert!(clean.method.len() < 500, "no column is named: {}", clean.method);

    new.execute(SPOILED);
    let spoiled = verified(&old, &new);
    assert_eq!(spoiled.mismatches, 3, "{:?}", spoiled.differing);
    let mut tables: Vec<_> = spoiled.differing.iter().map(|differing| differing.key.0).collect();
    tables.sort_unstable();
    assert_eq!(tables, [0, 1, 2]);

    // What only one side sums up, or sums up of other columns, is read.
    new.execute("ALTER TABLE c ALTER COLUMN v TYPE TEXT");
    let read = verified(&old, &new);
    assert_eq!(read.mismatches, 3, "{:?}", read.differing);
    assert!(read.method.contains("both sides read in key order"), "{}", read.method);
}

type Report = zdm_dualwrite::VerifyReport<zdm_examples::live_migration::tables::whole::RowKey>;

fn verified(old: &Database, new: &Database) -> Report {
    let [old, new] = [old, new].map(|database| Address::parse("--old", &database.url).unwrap());
    let work = async move {
        let (old, new) = (side::open(&old, false).await.unwrap(), side::open(&new, false).await.unwrap());
        let tables = plan::agreed(&*new, plan::chosen(&*old, &[]).await.unwrap()).await.unwrap();
        let [from, to] = [&old, &new].map(|side| plan::whole(&**side, &tables, side.engine()));
        let (from, to) = (from.await.unwrap(), to.await.unwrap());
        let rows = DualWrite::builder(from, to).phase(Phase::Shadow).start().await.unwrap();
        let report = Verify::new(&rows).run().await.unwrap();
        rows.shutdown(std::time::Duration::from_secs(5)).await.unwrap();
        old.close().await;
        new.close().await;
        report
    };
    crate::support::wait(work).unwrap()
}
