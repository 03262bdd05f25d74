//! What went wrong, told by the server's SQLSTATE.

use zdm_core::error::{Advice, Certainty, Kind};
use zdm_sql_adapters::postgres::{Postgres, PostgresOptions};

use crate::support::{database, rows, url, write};

const SCHEMA: &str = "CREATE TYPE color AS ENUM ('red', 'blue'); CREATE TABLE parents (id INT PRIMARY KEY); \
    CREATE TABLE things (id INT PRIMARY KEY, name VARCHAR(5) NOT NULL, code INT, small SMALLINT, day DATE, \
    parent INT REFERENCES parents (id), color color, number NUMERIC(4, 2), doubled INT GENERATED ALWAYS AS (id * 2) STORED, \
    late INT REFERENCES parents (id) DEFERRABLE INITIALLY DEFERRED, \
    CONSTRAINT by_code UNIQUE (code), CONSTRAINT positive CHECK (code > 0)); \
    CREATE FUNCTION no() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RAISE EXCEPTION ''no''; END'; \
    CREATE TRIGGER no BEFORE DELETE ON things FOR EACH ROW EXECUTE FUNCTION no(); \
    INSERT INTO parents VALUES (1); INSERT INTO things (id, name, code, parent) VALUES (1, 'a', 1, 1)";

#[tokio::test]
async fn every_failure_has_its_kind_and_says_what_refused() {
    let Some(db) = database(SCHEMA).await else { return };
    for (sql, kind, words) in [
        ("INSERT INTO things (id, name, code) VALUES (2, 'b', 1)", Kind::Conflict, "by_code"),
        ("INSERT INTO things (id, name, code) VALUES (1, 'b', 2)", Kind::Conflict, "things_pkey"),
        (
            "INSERT INTO things (id, name, parent) VALUES (2, 'b', 7)",
            Kind::MissingReference,
            "things_parent_fkey",
        ),
        (
            "INSERT INTO things (id, name, late) VALUES (2, 'b', 7)",
            Kind::MissingReference,
            "things_late_fkey",
        ),
        ("DELETE FROM parents", Kind::MissingReference, "still referred to"),
        ("INSERT INTO things (id, name) VALUES (2, NULL)", Kind::Rejected, "column name"),
        ("INSERT INTO things (id) VALUES (2)", Kind::Rejected, "NOT NULL"),
        ("INSERT INTO things (id, name) VALUES (2, 'longer')", Kind::Rejected, "too long"),
        ("INSERT INTO things (id, name, small) VALUES (2, 'b', 32768)", Kind::Rejected, "range"),
        ("INSERT INTO things (id, name, number) VALUES (2, 'b', 100)", Kind::Rejected, "range"),
        ("INSERT INTO things (id, name, small) VALUES (2, 'b', 'x')", Kind::Rejected, "type"),
        ("INSERT INTO things (id, name, day) VALUES (2, 'b', '2026-02-30')", Kind::Rejected, "range"),
        ("INSERT INTO things (id, name, color) VALUES (2, 'b', 'green')", Kind::Rejected, "type"),
        ("INSERT INTO things (id, name, code) VALUES (2, 'b', -1)", Kind::Rejected, "positive"),
        ("DELETE FROM things", Kind::Rejected, "trigger"),
        ("INSERT INTO things (id, name, doubled) VALUES (2, 'b', 4)", Kind::Invalid, "generated"),
        ("SELECT * FROM nowhere", Kind::Invalid, "schema"),
        ("SELEC 1", Kind::Invalid, "schema"),
    ] {
        let error = write(&db, sql).await.unwrap_err();
        // Version 13 has no number of its own for a generated column.
        let words = if words == "generated" && db.server_version() < 140_000 { "schema" } else { words };
        assert_eq!(error.kind(), kind, "{sql}: {error:?}");
        assert_eq!(error.certainty(), Certainty::NotApplied, "{sql}");
        assert!(error.to_string().contains(words), "{sql}: {error}");
    }
    assert_eq!(rows(&db, "SELECT name::text FROM things").await, ["a"]);
}

#[tokio::test]
async fn a_deadlock_is_ended_and_may_be_tried_again_at_once() {
    let Some(db) =
        database("CREATE TABLE t (id INT PRIMARY KEY, n INT); INSERT INTO t VALUES (1, 0), (2, 0)").await
    else {
        return;
    };
    let barrier = std::sync::Arc::new(tokio::sync::Barrier::new(2));
    let cross = |first: i32, second: i32| {
        let (db, barrier) = (db.db.clone(), barrier.clone());
        tokio::spawn(async move {
            db.write(move |connection| {
                Box::pin(async move {
                    for (at, id) in [first, second].into_iter().enumerate() {
                        if at == 1 {
                            barrier.wait().await;
                        }
                        sqlx::query("UPDATE t SET n = n + 1 WHERE id = $1")
                            .bind(id)
                            .execute(&mut *connection)
                            .await
                            .map_err(|error| zdm_sql_adapters::postgres::classify(error, "counting"))?;
                    }
                    Ok(())
                })
            })
            .await
        })
    };
    let (one, two) = (cross(1, 2), cross(2, 1));
    let outcomes = [one.await.unwrap(), two.await.unwrap()];
    let failed: Vec<_> = outcomes.iter().filter_map(|outcome| outcome.as_ref().err()).collect();
    let [error] = failed[..] else { panic!("{outcomes:?}") };
    assert_eq!((error.kind(), error.advice()), (Kind::Busy, Advice::RetryNow), "{error:?}");
    assert_eq!(error.certainty(), Certainty::NotApplied);
    assert_eq!(rows(&db, "SELECT n::text FROM t").await, ["1", "1"]);
}

#[tokio::test]
async fn urls_and_settings_that_cannot_be_are_refused_with_their_name() {
    for (url, words) in [
        ("mysql://localhost/x", "another scheme"),
        ("postgres://localhost", "names no database"),
        ("postgres://localhost:port/x", "cannot be read"),
    ] {
        let error = PostgresOptions::new(url).unwrap_err();
        assert_eq!(error.kind(), Kind::Invalid);
        assert!(error.to_string().contains(words), "{url}: {error}");
    }
    let new = || PostgresOptions::new("postgres://nobody:secret@127.0.0.1:1/x").unwrap();
    let millis = std::time::Duration::from_millis;
    for (options, name) in [
        (new().writers(0), "writers"),
        (new().readers(257), "readers"),
        (new().write_timeout(millis(99)), "write_timeout"),
        (new().read_timeout(millis(86_400_001)), "read_timeout"),
        (new().lock_timeout(millis(5_001)), "lock_timeout"),
    ] {
        let error = options.connect().await.unwrap_err();
        assert_eq!(error.kind(), Kind::Invalid);
        assert!(error.to_string().starts_with(name), "{error}");
    }
    let error = new().connect().await.unwrap_err();
    assert_eq!((error.kind(), error.certainty()), (Kind::Unavailable, Certainty::NotApplied), "{error:?}");
    assert!(!format!("{error:?} {:?}", new()).contains("secret"), "the password is shown");
}

#[tokio::test]
async fn databases_that_are_not_there_are_told() {
    let Some(url) = url() else { return };
    let (server, _) = url.rsplit_once('/').unwrap();
    let error = Postgres::connect(&format!("{server}/zdm_no_such_database")).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Invalid, "{error:?}");
    assert!(error.to_string().contains("zdm_no_such_database"), "{error}");
}
