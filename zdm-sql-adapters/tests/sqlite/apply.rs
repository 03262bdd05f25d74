//! Changes in one transaction: all or none, unique values, foreign keys, conflict clauses.

use zdm_core::error::{Advice, Certainty, Kind};
use zdm_core::key::KeyBytes;
use zdm_core::store::{Bulk, Change, Store, StoreExt};
use zdm_sql_adapters::sqlite::{SqliteRows, SqliteTable};
use zdm_sql_adapters::table::{DynKey, DynRow, Value};

use crate::support::{USERS, User, database, rows, user, users};

#[tokio::test]
async fn put_replaces_and_delete_repeats() {
    let (_db, table) = users(USERS).await;
    table.put(&1, &user(1, "a")).await.unwrap();
    table.put(&1, &user(1, "b")).await.unwrap();
    assert_eq!(table.fetch(&1).await.unwrap(), user(1, "b"));
    table.delete(&1).await.unwrap();
    table.delete(&1).await.unwrap();
    assert_eq!(table.get(&1).await.unwrap(), None);
}

#[tokio::test]
async fn columns_outside_the_mapping_are_left_alone() {
    let db = database(&USERS.replace("score REAL", "extra TEXT DEFAULT 'kept', score REAL")).await;
    let table = SqliteTable::<User>::open(&db).await.unwrap();
    table.put(&1, &user(1, "a")).await.unwrap();
    db.execute("UPDATE users SET extra = 'mine'").await.unwrap();
    table.put(&1, &user(1, "b")).await.unwrap();
    assert_eq!(rows(&db, "SELECT extra || email FROM users").await, ["mineb"]);
}

#[tokio::test]
async fn a_conflict_names_the_holder() {
    let (_db, table) = users(USERS).await;
    table.put(&1, &user(1, "a")).await.unwrap();
    let error = table.put(&2, &user(2, "a")).await.unwrap_err();
    assert_eq!((error.kind(), error.certainty()), (Kind::Conflict, Certainty::NotApplied));
    assert_eq!(error.advice(), Advice::Regroup);
    assert_eq!(error.holder(), Some(&KeyBytes::of(&1_i64)));
    assert!(error.to_string().contains("record 1"), "{error}");

    // All or none: the first change is not applied either.
    let changes = [Change::Put(3, user(3, "c")), Change::Put(4, user(4, "a"))];
    let error = table.apply(&changes).await.unwrap_err();
    assert_eq!(error.holder(), Some(&KeyBytes::of(&1_i64)));
    assert_eq!(table.get(&3).await.unwrap(), None);

    // Two records of one call that claim the same value.
    let changes = [Change::Put(3, user(3, "c")), Change::Put(4, user(4, "c"))];
    let error = table.apply(&changes).await.unwrap_err();
    assert_eq!((error.kind(), error.holder()), (Kind::Conflict, Some(&KeyBytes::of(&3_i64))));
}

#[tokio::test]
async fn unique_values_swap_rotate_and_come_from_deleted_records() {
    let strict = "CREATE TABLE users (id INTEGER PRIMARY KEY, name TEXT NOT NULL, \
                  email TEXT NOT NULL UNIQUE CHECK (length(email) < 3), score REAL NOT NULL) STRICT";
    for schema in [USERS, strict] {
        let (_db, table) = users(schema).await;
        for (id, email) in [(1, "a"), (2, "b"), (3, "c")] {
            table.put(&id, &user(id, email)).await.unwrap();
        }
        let swap = [Change::Put(1, user(1, "b")), Change::Put(2, user(2, "a"))];
        table.apply(&swap).await.unwrap();
        let rotate =
            [Change::Put(1, user(1, "a")), Change::Put(2, user(2, "c")), Change::Put(3, user(3, "b"))];
        table.apply(&rotate).await.unwrap();
        let freed = [Change::Put(4, user(4, "a")), Change::Delete(1)];
        table.apply(&freed).await.unwrap();
        let found = table.fetch_many(&[1, 2, 3, 4]).await.unwrap();
        assert_eq!(found, [None, Some(user(2, "c")), Some(user(3, "b")), Some(user(4, "a"))]);
    }
}

#[tokio::test]
async fn swaps_over_other_kinds_of_unique_columns() {
    let db = database(
        "CREATE TABLE things (id TEXT PRIMARY KEY NOT NULL, slot INTEGER NOT NULL, side TEXT NOT NULL, \
         code BLOB UNIQUE, rate REAL UNIQUE, UNIQUE (slot, side)) STRICT",
    )
    .await;
    let things = SqliteRows::discover(&db, "things").await.unwrap();
    let change = |id: &str, slot: i64, code: u8, rate: f64| {
        let text = |text: &str| Value::Text(text.to_owned());
        let values =
            vec![text(id), Value::Integer(slot), text("l"), Value::Blob(vec![code]), Value::Real(rate)];
        let row = DynRow::new(things.columns().clone(), values).unwrap();
        Change::Put(DynKey::new([text(id)]).unwrap(), row)
    };
    things.apply(&[change("x", 1, 1, 1.5), change("y", 2, 2, 2.5)]).await.unwrap();
    things.apply(&[change("x", 2, 2, 2.5), change("y", 1, 1, 1.5)]).await.unwrap();
    let found = rows(&db, "SELECT id || slot || hex(code) || rate FROM things ORDER BY id").await;
    assert_eq!(found, ["x2022.5", "y1011.5"]);
}

#[tokio::test]
async fn the_tables_own_replace_and_ignore_are_overruled() {
    for clause in ["REPLACE", "IGNORE"] {
        let schema = format!(
            "CREATE TABLE users (id INTEGER PRIMARY KEY ON CONFLICT {clause}, name TEXT NOT NULL, \
             email TEXT UNIQUE ON CONFLICT {clause}, score REAL)"
        );
        let (db, table) = users(&schema).await;
        table.put(&1, &user(1, "a")).await.unwrap();
        let error = table.put(&2, &user(2, "a")).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Conflict);
        table.put(&1, &user(1, "b")).await.unwrap();
        assert_eq!(rows(&db, "SELECT id || email FROM users").await, ["1b"]);
    }
}

const FAMILY: &str = "CREATE TABLE parents (id INTEGER PRIMARY KEY, code TEXT UNIQUE); \
                      CREATE TABLE children (id INTEGER PRIMARY KEY, parent INTEGER REFERENCES parents ON DELETE CASCADE, \
                      code TEXT REFERENCES parents (code) ON UPDATE CASCADE, note TEXT DEFAULT 'kept')";

fn row(table: &SqliteRows, values: Vec<Value>) -> Change<DynKey, DynRow> {
    let key = DynKey::new([values[0].clone()]).unwrap();
    Change::Put(key, DynRow::new(table.columns().clone(), values).unwrap())
}

#[tokio::test]
async fn foreign_keys_hold_at_the_end_of_a_call() {
    let schema = "CREATE TABLE people (id INTEGER PRIMARY KEY, boss INTEGER REFERENCES people)";
    let db = database(schema).await;
    let people = SqliteRows::discover(&db, "people").await.unwrap();
    let person = |id: i64, boss: i64| row(&people, vec![Value::Integer(id), Value::Integer(boss)]);
    // The child first, and two that refer to each other.
    people.apply(&[person(2, 1), person(1, 1), person(3, 4), person(4, 3)]).await.unwrap();
    let error = people.apply(&[person(9, 8)]).await.unwrap_err();
    assert_eq!((error.kind(), error.certainty()), (Kind::MissingReference, Certainty::NotApplied));
    assert_eq!(error.advice(), Advice::RetryLater);
    let error = people.delete(&DynKey::new([Value::Integer(1)]).unwrap()).await.unwrap_err();
    assert_eq!(error.kind(), Kind::MissingReference);
    assert_eq!(rows(&db, "SELECT CAST(id AS TEXT) FROM people").await, ["1", "2", "3", "4"]);
}

#[tokio::test]
async fn a_swap_of_values_that_children_refer_to_takes_no_child_along() {
    let db = database(FAMILY).await;
    let parents = SqliteRows::discover(&db, "parents").await.unwrap();
    let parent = |id: i64, code: &str| row(&parents, vec![Value::Integer(id), Value::Text(code.to_owned())]);
    parents.apply(&[parent(1, "a"), parent(2, "b")]).await.unwrap();
    db.execute("INSERT INTO children (id, parent, code) VALUES (1, 1, 'a'), (2, 2, 'b')").await.unwrap();
    parents.apply(&[parent(1, "b"), parent(2, "a")]).await.unwrap();
    let found = rows(&db, "SELECT id || '-' || parent || code || note FROM children ORDER BY id").await;
    assert_eq!(found, ["1-1bkept", "2-2akept"]);
}

#[tokio::test]
async fn a_child_that_leaves_its_parent_is_not_deleted_with_it() {
    let db = database(FAMILY).await;
    db.execute("INSERT INTO parents VALUES (1, NULL), (2, NULL); INSERT INTO children (id, parent, note) VALUES (1, 1, 'own')")
        .await
        .unwrap();
    // One table with both: the record moves to another parent while the old parent is deleted.
    let tree = "CREATE TABLE tree (id INTEGER PRIMARY KEY, parent INTEGER REFERENCES tree ON DELETE CASCADE, unmapped TEXT)";
    let db = database(tree).await;
    db.execute("INSERT INTO tree VALUES (1, NULL, 'a'), (2, NULL, 'b'), (3, 1, 'c')").await.unwrap();
    let nodes = SqliteTable::<Node>::open(&db).await.unwrap();
    nodes.apply(&[Change::Delete(1), Change::Put(3, Node { parent: Some(2) })]).await.unwrap();
    assert_eq!(rows(&db, "SELECT id || unmapped FROM tree ORDER BY id").await, ["2b", "3c"]);
}

#[derive(Clone, Debug, PartialEq, serde::Serialize)]
struct Node {
    parent: Option<i64>,
}

impl zdm_sql_adapters::table::TableMapping for Node {
    type Key = i64;
    type Record = Self;
    const TABLE: &'static str = "tree";
    const KEY: &'static [&'static str] = &["id"];
    const COLUMNS: &'static [&'static str] = &["parent"];

    fn write(node: &Self, row: &mut zdm_sql_adapters::table::RowWriter<'_>) -> zdm_core::Result<()> {
        row.set("parent", node.parent).done()
    }

    fn read(_: &i64, row: &mut zdm_sql_adapters::table::RowReader<'_>) -> zdm_core::Result<Self> {
        Ok(Self { parent: row.get("parent")? })
    }
}

#[tokio::test]
async fn many_changes_in_one_call() {
    let (db, table) = users(USERS).await;
    let puts: Vec<_> = (0..2500).map(|id| Change::Put(id, user(id, &format!("{id}")))).collect();
    table.apply(&puts).await.unwrap();
    let mixed: Vec<_> = (0..2500)
        .map(|id| if id % 2 == 0 { Change::Delete(id) } else { Change::Put(id, user(id, &format!("n{id}"))) })
        .collect();
    table.apply(&mixed).await.unwrap();
    assert_eq!(
        rows(&db, "SELECT count(*) || '-' || sum(id % 2) FROM users WHERE email LIKE 'n%'").await,
        ["1250-1250"]
    );
    let keys: Vec<_> = (0..2500).collect();
    let found = table.get_many(&keys).await.unwrap();
    assert!(found.iter().zip(&keys).all(|(found, id)| found.is_some() == (id % 2 == 1)));
    table.apply(&[]).await.unwrap();
}
