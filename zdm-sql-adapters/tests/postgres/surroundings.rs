//! What a server's settings, a database's order of texts, the limits of a column's type and a later ALTER could do
//! to values.

use zdm_core::error::Kind;
use zdm_core::key::KeyRange;
use zdm_core::store::{Bulk, Change, Fenced, Scan, Stamp, Store};
use zdm_sql_adapters::postgres::{PgRows, PostgresOptions};
use zdm_sql_adapters::table::{DynKey, DynRow, Value, agree};

use crate::support::database;

fn text(text: &str) -> Value {
    Value::Text(text.to_owned())
}

fn other(text: &str) -> Value {
    Value::Other(text.to_owned())
}

/// Types of one width: the bytes of the one would be taken for a value of the other.
#[tokio::test]
async fn a_column_of_another_type_is_not_read_or_loaded_as_what_it_was() {
    let Some(db) = database(
        "CREATE TABLE t (id int PRIMARY KEY, v bigint, w numeric(9, 4)); INSERT INTO t VALUES (1, 5, 1.2345)",
    )
    .await
    else {
        return;
    };
    let table = PgRows::discover(&db, "t").await.unwrap().with_fence().await.unwrap();
    let key = |id| DynKey::new([Value::Integer(id)]).unwrap();
    let mut row = table.get(&key(1)).await.unwrap().unwrap();
    row.set("id", 2).unwrap();
    let above = KeyRange::after(key(1));
    for (alter, read) in [
        ("ALTER TABLE t ALTER v TYPE float8", false),
        ("ALTER TABLE t ALTER v TYPE timestamp USING now()", false),
        // What is read is right; what is loaded would be rounded.
        ("ALTER TABLE t ALTER v TYPE bigint USING 5, ALTER w TYPE numeric(9, 2)", true),
    ] {
        db.execute(alter).await.unwrap();
        for error in [
            table.page(&KeyRange::all(), 5).await.map(drop).unwrap_err(),
            table.load_page(Stamp(3), &above, &[(key(2), row.clone())]).await.map(drop).unwrap_err(),
        ] {
            assert_eq!(error.kind(), Kind::Invalid, "{alter}: {error:?}");
            assert!(error.to_string().contains("altered since the store was opened"), "{alter}: {error}");
        }
        let found = loop {
            match table.get(&key(1)).await {
                Err(error) if error.kind() == Kind::Busy => {}
                found => break found.map(drop).map_err(|error| error.kind()),
            }
        };
        assert_eq!(found, if read { Ok(()) } else { Err(Kind::Invalid) }, "{alter}");
    }
    db.execute("ALTER TABLE t ALTER w TYPE numeric(9, 4), ADD more int").await.unwrap();
    assert_eq!(table.page(&KeyRange::all(), 5).await.unwrap().len(), 1);
}

/// The server would round and cut by the limits of an array's elements, and say nothing.
#[tokio::test]
async fn arrays_with_limits_take_only_what_has_the_same() {
    let Some(db) = database(
        "CREATE TABLE wide (id int PRIMARY KEY, v numeric[], w varchar[], x timestamp[], y timetz); \
         CREATE TABLE narrow (id int PRIMARY KEY, v numeric(5, 2)[], w varchar(2)[], x timestamp(0)[], y timetz(2))",
    )
    .await
    else {
        return;
    };
    let (wide, narrow) = (db.describe("wide").await.unwrap(), db.describe("narrow").await.unwrap());
    let error = agree(&wide, &narrow).unwrap_err();
    for column in ["column v", "column w", "column x", "column y"] {
        assert!(error.contains(column), "{column}: {error}");
    }
    let agreement = agree(&narrow, &wide).unwrap();
    db.execute("INSERT INTO narrow VALUES (1, '{1.25}', '{ab}', '{2024-01-01 00:00:01}', '12:00:00.25+01')")
        .await
        .unwrap();
    let old = PgRows::discover_as(&db, "narrow", &agreement.types()).await.unwrap();
    let new = PgRows::discover_as(&db, "wide", &agreement.types()).await.unwrap();
    let key = DynKey::new([Value::Integer(1)]).unwrap();
    let row = old.get(&key).await.unwrap().unwrap();
    new.put(&key, &row).await.unwrap();
    assert_eq!(new.get(&key).await.unwrap(), Some(row));
    let made = db.create_sql(&narrow).unwrap().create;
    db.execute(made.replacen("narrow", "again", 1)).await.unwrap();
    let again = db.describe("again").await.unwrap();
    agree(&narrow, &again).unwrap();
    assert!(agree(&wide, &again).is_err());
}

/// A type that the new side lacks is kept there as its text, and read again as what it is.
#[tokio::test]
async fn values_of_types_that_the_other_side_lacks_come_back_from_their_text() {
    let Some(db) = database(
        "CREATE TYPE mood AS ENUM ('ok', 'not'); CREATE TABLE old (id int PRIMARY KEY, v mood[]); \
         CREATE TABLE new (id int PRIMARY KEY, v text); INSERT INTO old VALUES (1, '{ok,not}'), (2, NULL)",
    )
    .await
    else {
        return;
    };
    let (old, new) = (db.describe("old").await.unwrap(), db.describe("new").await.unwrap());
    let types = agree(&old, &new).unwrap().types();
    let old = PgRows::discover_as(&db, "old", &types).await.unwrap();
    let new = PgRows::discover_as(&db, "new", &types).await.unwrap().with_fence().await.unwrap();
    let page = old.page(&KeyRange::all(), 10).await.unwrap();
    let records: Vec<_> = page.into_iter().map(|(key, row)| (key, row.unwrap())).collect();
    new.load_page(Stamp(1), &KeyRange::all(), &records).await.unwrap();
    let page = new.page(&KeyRange::all(), 10).await.unwrap();
    assert_eq!(page.into_iter().map(|(key, row)| (key, row.unwrap())).collect::<Vec<_>>(), records);
    assert_eq!(new.get(&records[0].0).await.unwrap().as_ref(), Some(&records[0].1));
}

/// Settings of a server, a database or a role that change what a text means.
#[tokio::test]
async fn the_settings_of_the_server_change_no_value() {
    let Some(db) = database("").await else { return };
    let odd = [
        ("default_transaction_read_only", "on"),
        ("bytea_output", "escape"),
        ("xmloption", "document"),
        ("array_nulls", "off"),
        ("IntervalStyle", "sql_standard"),
        ("standard_conforming_strings", "off"),
        ("default_transaction_isolation", "serializable"),
    ];
    let odd = db.again(|_| PostgresOptions::with(db.options().options(odd)).unwrap()).await;
    odd.execute(
        "CREATE TABLE t (id int PRIMARY KEY, a bytea[], b text[], c xml, d interval[], e text); \
         INSERT INTO t VALUES (1, NULL, NULL, NULL, NULL, NULL)",
    )
    .await
    .unwrap();
    let table = PgRows::discover(&odd, "t").await.unwrap().with_fence().await.unwrap();
    let values = vec![
        Value::Integer(1),
        other("{\"\\\\x00ff\",NULL}"),
        other("{NULL,\"NULL\"}"),
        other("some <b/> words"),
        other("{\"1 mon -2 days +03:00:00\"}"),
        text("it's \\ ' here"),
    ];
    let key = DynKey::new([Value::Integer(1)]).unwrap();
    let row = DynRow::new(table.columns().clone(), values).unwrap();
    table.put(&key, &row).await.unwrap();
    assert_eq!(table.get(&key).await.unwrap(), Some(row.clone()));
    table.load_page(Stamp(1), &KeyRange::all(), &[(key.clone(), row.clone())]).await.unwrap();
    let usual = PgRows::discover(&db, "t").await.unwrap();
    assert_eq!(usual.get(&key).await.unwrap(), Some(row));
}

/// What compares byte by byte is not told by a name alone.
#[tokio::test]
async fn texts_are_walked_by_their_bytes_whatever_the_database_compares_by() {
    let Some(db) = database("").await else { return };
    let name = db.schema.clone();
    let mut made = vec![("LATIN1", "ENCODING 'LATIN1' LOCALE 'C'"), ("KOI8R", "ENCODING 'KOI8R' LOCALE 'C'")];
    if db.server_version() >= 150_000 {
        made.push(("icu", "ENCODING 'UTF8' LOCALE 'C' LOCALE_PROVIDER icu ICU_LOCALE 'en-US'"));
    }
    for (what, how) in made {
        db.execute(format!("CREATE DATABASE {name} TEMPLATE template0 {how}")).await.unwrap();
        let options =
            PostgresOptions::with(db.options().database(&name).options([("search_path", "public")]));
        let inside = options.unwrap().connect().await.unwrap();
        inside
            .execute(
                "CREATE COLLATION public.\"C\" (provider = icu, locale = 'en-US'); \
                 CREATE TABLE t (w text PRIMARY KEY); CREATE TABLE u (w text COLLATE public.\"C\" PRIMARY KEY)",
            )
            .await
            .unwrap();
        for table in ["t", "u"] {
            let table = PgRows::discover(&inside, table).await;
            if what == "KOI8R" {
                assert!(table.unwrap_err().to_string().contains("encoding"));
                continue;
            }
            let table = table.unwrap();
            let keys = ["A", "B", "Z", "a", "b", "é"].map(|word| DynKey::new([text(word)]).unwrap());
            let row = |key: &DynKey| DynRow::new(table.columns().clone(), key.values().to_vec()).unwrap();
            let puts: Vec<_> = keys.iter().map(|key| Change::Put(key.clone(), row(key))).collect();
            table.apply(&puts).await.unwrap();
            for (at, key) in keys.iter().enumerate() {
                let page = table.page(&KeyRange::after(key.clone()), 10).await.unwrap();
                assert!(page.iter().map(|(key, _)| key).eq(&keys[at + 1..]), "{what}: after {key:?}");
            }
        }
        inside.close().await;
        db.execute(format!("DROP DATABASE {name} WITH (FORCE)")).await.unwrap();
    }
}
