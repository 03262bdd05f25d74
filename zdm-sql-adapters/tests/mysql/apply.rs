//! Changes in one transaction: all or none, unique values, foreign keys, collations.

use zdm_core::error::{Advice, Certainty, Kind};
use zdm_core::key::KeyBytes;
use zdm_core::store::{Bulk, Change, Store, StoreExt};
use zdm_sql_adapters::mysql::MyTable;
use zdm_sql_adapters::table::{DynKey, Value};

use crate::support::{USERS, User, database, put_row, rows, rows_of, text, user, users};

fn id(id: i64) -> DynKey {
    DynKey::new([Value::Integer(id)]).unwrap()
}

#[tokio::test]
async fn put_replaces_and_delete_repeats() {
    let Some((_db, table)) = users(USERS).await else { return };
    table.put(&1, &user(1, "a")).await.unwrap();
    table.put(&1, &user(1, "b")).await.unwrap();
    assert_eq!(table.fetch(&1).await.unwrap(), user(1, "b"));
    table.delete(&1).await.unwrap();
    table.delete(&1).await.unwrap();
    assert_eq!(table.get(&1).await.unwrap(), None);
}

#[tokio::test]
async fn columns_outside_the_mapping_are_left_alone() {
    let Some(db) =
        database(&USERS.replace("score DOUBLE", "extra VARCHAR(9) DEFAULT 'kept', score DOUBLE")).await
    else {
        return;
    };
    let table = MyTable::<User>::open(&db).await.unwrap();
    table.put(&1, &user(1, "a")).await.unwrap();
    db.execute("UPDATE users SET extra = 'mine'").await.unwrap();
    table.put(&1, &user(1, "b")).await.unwrap();
    assert_eq!(rows(&db, "SELECT CONCAT(extra, email) FROM users").await, ["mineb"]);
}

/// An upsert of the server would take the row that holds the unique value for the one that is meant.
#[tokio::test]
async fn a_conflict_names_the_holder_and_touches_no_other_row() {
    let Some((_db, table)) = users(USERS).await else { return };
    table.put(&1, &user(1, "a")).await.unwrap();
    let error = table.put(&2, &user(2, "a")).await.unwrap_err();
    assert_eq!((error.kind(), error.certainty()), (Kind::Conflict, Certainty::NotApplied));
    assert_eq!(error.advice(), Advice::Regroup);
    assert_eq!(error.holder(), Some(&KeyBytes::of(&1_i64)), "{error:?}");
    assert!(error.to_string().contains("record 1") && error.to_string().contains("email"), "{error}");
    assert_eq!(table.fetch(&1).await.unwrap(), user(1, "a"));

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

/// Keys of which the server makes something of its own when they are NULL.
#[tokio::test]
async fn no_row_gets_another_key_by_a_conflict() {
    for (declared, own, new) in [
        ("INT AUTO_INCREMENT", Value::Integer(1), Value::Integer(2)),
        ("INT", Value::Integer(1), Value::Integer(2)),
        ("BIGINT UNSIGNED", Value::Unsigned(u64::MAX), Value::Integer(2)),
        (
            "TIMESTAMP DEFAULT CURRENT_TIMESTAMP ON UPDATE CURRENT_TIMESTAMP",
            Value::Timestamp(1_000_000),
            Value::Timestamp(2_000_000),
        ),
        ("VARCHAR(9)", text("a"), text("b")),
        ("DATETIME DEFAULT CURRENT_TIMESTAMP", Value::Timestamp(0), Value::Timestamp(1_000_000)),
        ("DECIMAL(9,2)", Value::Decimal("1".parse().unwrap()), Value::Decimal("2".parse().unwrap())),
    ] {
        let schema = format!("CREATE TABLE things (id {declared} PRIMARY KEY, v VARCHAR(9) UNIQUE, n INT)");
        let Some((db, things)) = rows_of(&schema, "things").await else { return };
        let change = |id: &Value, n| put_row(&things, vec![id.clone(), text("held"), Value::Integer(n)]);
        things.apply(&[change(&own, 1)]).await.unwrap();
        // As the server itself would do it, and as the adapter's statement does.
        let error = things.apply(&[change(&new, 2)]).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Conflict, "{declared}: {error:?}");
        things.apply(&[change(&own, 3)]).await.unwrap();
        let key = DynKey::new([own.clone()]).unwrap();
        assert_eq!(error.holder(), Some(&KeyBytes::of(&key)), "{declared}");
        let found = things.get(&key).await.unwrap().unwrap();
        assert_eq!(found.values(), [own, text("held"), Value::Integer(3)], "{declared}");
        assert_eq!(rows(&db, "SELECT CAST(COUNT(*) AS CHAR) FROM things").await, ["1"], "{declared}");
    }
}

#[tokio::test]
async fn keys_that_are_one_only_to_the_collation_are_a_conflict() {
    for collation in ["utf8mb4_general_ci", "utf8mb4_bin"] {
        let schema = format!("CREATE TABLE words (word VARCHAR(20) COLLATE {collation} PRIMARY KEY, n INT)");
        let Some((db, words)) = rows_of(&schema, "words").await else { return };
        // Equal without case, and equal when they are padded with spaces.
        let (own, other) = if collation.ends_with("_ci") { ("Ada", "ada") } else { ("Ada", "Ada ") };
        words.apply(&[put_row(&words, vec![text(own), Value::Integer(1)])]).await.unwrap();
        let key = |word: &str| DynKey::new([text(word)]).unwrap();
        assert_eq!(words.get(&key(other)).await.unwrap(), None);
        assert!(words.get_many(&[key(other), key(own)]).await.unwrap()[1].is_some());
        words.delete(&key(other)).await.unwrap();
        let error = words.apply(&[put_row(&words, vec![text(other), Value::Integer(2)])]).await.unwrap_err();
        assert_eq!((error.kind(), error.certainty()), (Kind::Conflict, Certainty::NotApplied), "{error:?}");
        assert_eq!(error.holder(), Some(&KeyBytes::of(&key(own))));
        assert_eq!(rows(&db, "SELECT CONCAT(word, n) FROM words").await, ["Ada1"]);
        // Renamed: the one goes, the other comes.
        let renamed = [put_row(&words, vec![text(other), Value::Integer(3)]), Change::Delete(key(own))];
        let renamed = words.apply(&renamed).await;
        assert!(renamed.is_err() || words.get(&key(other)).await.unwrap().is_some());
    }
}

#[tokio::test]
async fn unique_values_swap_rotate_and_come_from_deleted_records() {
    let strict = "CREATE TABLE users (id BIGINT PRIMARY KEY, name VARCHAR(60) NOT NULL, \
                  email VARCHAR(40) NOT NULL UNIQUE CHECK (CHAR_LENGTH(email) < 3), score DOUBLE NOT NULL)";
    for schema in [USERS, strict] {
        let Some((db, table)) = users(schema).await else { return };
        if schema == strict && !db.server_version().contains("MariaDB") {
            continue;
        }
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
async fn swaps_over_every_kind_of_unique_column() {
    for (ty, one, two) in [
        ("INT NOT NULL", Value::Integer(1), Value::Integer(2)),
        ("BIGINT UNSIGNED NOT NULL", Value::Integer(1), Value::Unsigned(u64::MAX)),
        (
            "DECIMAL(10,3) NOT NULL",
            Value::Decimal("1.5".parse().unwrap()),
            Value::Decimal("2".parse().unwrap()),
        ),
        ("DOUBLE NOT NULL", Value::Real(1.5), Value::Real(2.5)),
        ("VARCHAR(3) NOT NULL", text("a"), text("b")),
        ("CHAR(36) COLLATE utf8mb4_bin NOT NULL", text("a"), text("b")),
        ("VARBINARY(9) NOT NULL", Value::Blob(vec![0]), Value::Blob(vec![1])),
        ("DATE NOT NULL", Value::Date(1), Value::Date(2)),
        ("DATETIME(6) NOT NULL", Value::Timestamp(1), Value::Timestamp(2)),
        (
            "TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP",
            Value::Timestamp(1_000_000),
            Value::Timestamp(2_000_000),
        ),
        ("TIME NOT NULL", Value::Time(0), Value::Time(1_000_000)),
        // Nothing to move it to but NULL.
        ("ENUM('x', 'y') NULL", text("x"), text("y")),
        ("BIT(2) NULL", text("01"), text("10")),
    ] {
        let schema = format!("CREATE TABLE things (id INT PRIMARY KEY, v {ty}, UNIQUE (v))");
        let Some((_db, things)) = rows_of(&schema, "things").await else { return };
        let change = |id: i64, value: &Value| put_row(&things, vec![Value::Integer(id), value.clone()]);
        things.apply(&[change(1, &one), change(2, &two)]).await.unwrap();
        things.apply(&[change(1, &two), change(2, &one)]).await.unwrap();
        let found = things.get(&id(1)).await.unwrap().unwrap();
        assert_eq!(found.get("v"), Some(&two), "{ty}");
    }
}

#[tokio::test]
async fn a_unique_index_over_the_beginning_of_a_text_names_its_holder() {
    let Some((_db, things)) =
        rows_of("CREATE TABLE things (id INT PRIMARY KEY, v TEXT, UNIQUE (v(3)))", "things").await
    else {
        return;
    };
    things.apply(&[put_row(&things, vec![Value::Integer(1), text("abc one")])]).await.unwrap();
    let error =
        things.apply(&[put_row(&things, vec![Value::Integer(2), text("abc two")])]).await.unwrap_err();
    assert_eq!((error.kind(), error.holder()), (Kind::Conflict, Some(&KeyBytes::of(&id(1)))), "{error:?}");
}

const PEOPLE: &str =
    "CREATE TABLE people (id INT PRIMARY KEY, boss INT, FOREIGN KEY (boss) REFERENCES people (id))";

#[tokio::test]
async fn foreign_keys_hold_at_the_end_of_a_call() {
    let Some((db, people)) = rows_of(PEOPLE, "people").await else { return };
    let person = |id: i64, boss: i64| put_row(&people, vec![Value::Integer(id), Value::Integer(boss)]);
    // The child first, one that is its own boss, and two that refer to each other.
    people.apply(&[person(2, 1), person(1, 1), person(3, 4), person(4, 3)]).await.unwrap();
    let error = people.apply(&[person(9, 8)]).await.unwrap_err();
    assert_eq!((error.kind(), error.certainty()), (Kind::MissingReference, Certainty::NotApplied));
    assert_eq!(error.advice(), Advice::RetryLater);
    let error = people.delete(&id(1)).await.unwrap_err();
    assert_eq!(error.kind(), Kind::MissingReference);
    assert_eq!(
        rows(&db, "SELECT CONCAT(id, '-', boss) FROM people ORDER BY id").await,
        ["1-1", "2-1", "3-4", "4-3"]
    );
    // Parents and children go in one call, whatever their order.
    people.apply(&[person(5, 2)]).await.unwrap();
    people.apply(&[Change::Delete(id(2)), Change::Delete(id(5))]).await.unwrap();
    assert_eq!(rows(&db, "SELECT CAST(id AS CHAR) FROM people ORDER BY id").await, ["1", "3", "4"]);
}

const FAMILY: &str = "CREATE TABLE parents (id INT PRIMARY KEY, code VARCHAR(9) UNIQUE); \
    CREATE TABLE children (id INT PRIMARY KEY, parent INT, code VARCHAR(9), note VARCHAR(9) DEFAULT 'kept', \
    FOREIGN KEY (parent) REFERENCES parents (id) ON DELETE CASCADE, \
    FOREIGN KEY (code) REFERENCES parents (code) ON UPDATE CASCADE)";

#[tokio::test]
async fn a_swap_of_values_that_children_refer_to_takes_no_child_along() {
    let Some((db, parents)) = rows_of(FAMILY, "parents").await else { return };
    let parent = |id: i64, code: &str| put_row(&parents, vec![Value::Integer(id), text(code)]);
    parents.apply(&[parent(1, "a"), parent(2, "b")]).await.unwrap();
    db.execute("INSERT INTO children (id, parent, code) VALUES (1, 1, 'a'), (2, 2, 'b')").await.unwrap();
    parents.apply(&[parent(1, "b"), parent(2, "a")]).await.unwrap();
    let found = rows(&db, "SELECT CONCAT(id, '-', parent, code, note) FROM children ORDER BY id").await;
    assert_eq!(found, ["1-1bkept", "2-2akept"]);
}

#[tokio::test]
async fn a_child_that_leaves_its_parent_is_not_deleted_with_it() {
    let tree = "CREATE TABLE tree (id INT PRIMARY KEY, parent INT, \
                FOREIGN KEY (parent) REFERENCES tree (id) ON DELETE CASCADE)";
    let Some((db, nodes)) = rows_of(tree, "tree").await else { return };
    db.execute("INSERT INTO tree VALUES (1, NULL), (2, NULL), (3, 1)").await.unwrap();
    let moved = put_row(&nodes, vec![Value::Integer(3), Value::Integer(2)]);
    nodes.apply(&[Change::Delete(id(1)), moved]).await.unwrap();
    assert_eq!(rows(&db, "SELECT CONCAT(id, COALESCE(parent, '')) FROM tree ORDER BY id").await, ["2", "32"]);
}

#[tokio::test]
async fn many_changes_in_one_call() {
    let Some((db, table)) = users(USERS).await else { return };
    let puts: Vec<_> = (0..2500).map(|id| Change::Put(id, user(id, &format!("{id}")))).collect();
    table.apply(&puts).await.unwrap();
    let mixed: Vec<_> = (0..2500)
        .map(|id| if id % 2 == 0 { Change::Delete(id) } else { Change::Put(id, user(id, &format!("n{id}"))) })
        .collect();
    table.apply(&mixed).await.unwrap();
    assert_eq!(
        rows(&db, "SELECT CONCAT(count(*), '-', sum(id % 2)) FROM users WHERE email LIKE 'n%'").await,
        ["1250-1250"]
    );
    let keys: Vec<_> = (0..2500).collect();
    let found = table.get_many(&keys).await.unwrap();
    assert!(found.iter().zip(&keys).all(|(found, id)| found.is_some() == (id % 2 == 1)));
    table.apply(&[]).await.unwrap();
}

/// Rows so large that a page of them has to be cut into statements that the server takes.
#[tokio::test]
async fn large_rows_are_cut_into_statements_and_too_large_ones_are_refused() {
    let Some((db, things)) = rows_of("CREATE TABLE things (id INT PRIMARY KEY, v LONGBLOB)", "things").await
    else {
        return;
    };
    let packet: usize = rows(&db, "SELECT CAST(@@max_allowed_packet AS CHAR)").await[0].parse().unwrap();
    let large = |id: i64, bytes: usize| {
        put_row(&things, vec![Value::Integer(id), Value::Blob(vec![id as u8; bytes])])
    };
    let changes: Vec<_> = (0..10).map(|id| large(id, packet / 4)).collect();
    things.apply(&changes).await.unwrap();
    assert_eq!(
        rows(&db, "SELECT CAST(MIN(LENGTH(v)) AS CHAR) FROM things").await,
        [(packet / 4).to_string()]
    );
    let error = things.apply(&[large(11, packet)]).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Rejected);
    assert!(error.to_string().contains("max_allowed_packet"), "{error}");
}
