//! What went wrong, told by the server's error number.

use zdm_core::error::{Advice, Certainty, Kind};
use zdm_sql_adapters::mysql::{MySql, MySqlOptions};

use crate::support::{database, rows, url, write};

const SCHEMA: &str = "CREATE TABLE parents (id INT PRIMARY KEY); \
    CREATE TABLE things (id INT PRIMARY KEY, name VARCHAR(5) NOT NULL, code INT, small TINYINT, day DATE, \
    parent INT, color ENUM('red', 'blue'), \
    UNIQUE KEY by_code (code), CONSTRAINT positive CHECK (code > 0), FOREIGN KEY (parent) REFERENCES parents (id)); \
    INSERT INTO parents VALUES (1); INSERT INTO things (id, name, code, parent) VALUES (1, 'a', 1, 1)";

#[tokio::test]
async fn every_failure_has_its_kind_and_says_what_refused() {
    let Some(db) = database(SCHEMA).await else { return };
    for (sql, kind, words) in [
        ("INSERT INTO things (id, name, code) VALUES (2, 'b', 1)", Kind::Conflict, "by_code"),
        ("INSERT INTO things (id, name, code) VALUES (1, 'b', 2)", Kind::Conflict, "PRIMARY"),
        ("INSERT INTO things (id, name, parent) VALUES (2, 'b', 7)", Kind::MissingReference, "foreign key"),
        ("DELETE FROM parents", Kind::MissingReference, "still referred to"),
        ("INSERT INTO things (id, name) VALUES (2, NULL)", Kind::Rejected, "NOT NULL"),
        ("INSERT INTO things (id) VALUES (2)", Kind::Rejected, "NOT NULL"),
        ("INSERT INTO things (id, name) VALUES (2, 'longer')", Kind::Rejected, "too long"),
        ("INSERT INTO things (id, name, small) VALUES (2, 'b', 128)", Kind::Rejected, "range"),
        ("INSERT INTO things (id, name, small) VALUES (2, 'b', 'x')", Kind::Rejected, "type"),
        ("INSERT INTO things (id, name, day) VALUES (2, 'b', '2026-02-30')", Kind::Rejected, "type"),
        ("INSERT INTO things (id, name, day) VALUES (2, 'b', '0000-00-00')", Kind::Rejected, "type"),
        ("INSERT INTO things (id, name, color) VALUES (2, 'b', 'green')", Kind::Rejected, "type"),
        ("INSERT INTO things (id, name, code) VALUES (2, 'b', -1)", Kind::Rejected, "CHECK"),
        ("SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'no'", Kind::Rejected, "trigger"),
        ("SELECT * FROM nowhere", Kind::Invalid, "schema"),
        ("SELEC 1", Kind::Invalid, "schema"),
    ] {
        let error = write(&db, sql).await.unwrap_err();
        assert_eq!(error.kind(), kind, "{sql}: {error:?}");
        assert_eq!(error.certainty(), Certainty::NotApplied, "{sql}");
        assert!(error.to_string().contains(words), "{sql}: {error}");
    }
    assert_eq!(rows(&db, "SELECT name FROM things").await, ["a"]);
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
                        sqlx::query("UPDATE t SET n = n + 1 WHERE id = ?")
                            .bind(id)
                            .execute(&mut *connection)
                            .await
                            .map_err(|error| zdm_sql_adapters::mysql::classify(error, "counting"))?;
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
    assert_eq!(rows(&db, "SELECT CAST(n AS CHAR) FROM t").await, ["1", "1"]);
}

#[tokio::test]
async fn servers_and_databases_that_are_not_there() {
    let Some(url) = url() else { return };
    let error = MySql::connect("mysql://nobody:x@127.0.0.1:1/shop").await.unwrap_err();
    assert_eq!((error.kind(), error.certainty()), (Kind::Unavailable, Certainty::NotApplied), "{error:?}");
    let mut options: sqlx::mysql::MySqlConnectOptions = url.parse().unwrap();
    options = options.database("zdm_no_such_database");
    let error = MySqlOptions::with(options.clone()).unwrap().connect().await.unwrap_err();
    assert_eq!(error.kind(), Kind::Invalid, "{error:?}");
    assert!(error.to_string().contains("zdm_no_such_database"), "{error}");
    let error = MySqlOptions::with(options.password("wrong")).unwrap().connect().await.unwrap_err();
    assert_eq!(error.kind(), Kind::Refused, "{error:?}");
}

#[tokio::test]
async fn settings_out_of_range_name_the_field_and_the_bound() {
    use std::time::Duration;

    let options = || MySqlOptions::new("mysql://u:secret@localhost/shop").unwrap();
    for (options, words) in [
        (options().readers(0), "readers is 0; it must lie between 1 and 256"),
        (options().writers(257), "writers is 257"),
        (options().write_timeout(Duration::from_millis(99)), "write_timeout is 99 ms"),
        (options().read_timeout(Duration::from_millis(1)), "read_timeout is 1 ms"),
        (
            options().lock_timeout(Duration::from_secs(6)),
            "lock_timeout is 6000 ms; it must lie between 1000 ms and 5000 ms",
        ),
    ] {
        let error = options.connect().await.unwrap_err();
        assert_eq!(error.kind(), Kind::Invalid);
        assert!(error.to_string().contains(words), "{error}");
    }
    for (url, words) in [
        ("mysql://u:secret@localhost", "names no database"),
        ("mysql://u:secret@localhost/", "names no database"),
        ("no url: secret", "mysql://user:password@host"),
    ] {
        let error = MySqlOptions::new(url).unwrap_err();
        assert_eq!(error.kind(), Kind::Invalid);
        assert!(error.to_string().contains(words), "{error}");
        assert!(!format!("{error:?}").contains("secret"), "{error:?}");
    }
}
