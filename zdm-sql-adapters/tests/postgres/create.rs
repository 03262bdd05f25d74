//! Tables made like others, and sequences that count on.

use zdm_core::error::Kind;
use zdm_sql_adapters::table::{ColumnShape, ColumnType, TableShape, agree};

use crate::support::{database, rows, write};

const OLD: &str = "CREATE TABLE \"Z parents\" (id bigint PRIMARY KEY); \
    CREATE TABLE things (id int GENERATED ALWAYS AS IDENTITY (START 5), code text, name varchar(20) NOT NULL DEFAULT 'x', \
    price numeric(10, 2), tiny smallint, flag boolean, at timestamptz(3), local timestamp, day date, clock time, \
    span interval, doc jsonb, plain json, own uuid, raw bytea, tags int[], net inet, bits bit(3), real4 real, \
    doubled int GENERATED ALWAYS AS (tiny * 2) STORED, parent bigint REFERENCES \"Z parents\" ON DELETE CASCADE, \
    up int, PRIMARY KEY (id, code), UNIQUE (name), FOREIGN KEY (up, code) REFERENCES things ON UPDATE CASCADE); \
    CREATE INDEX things_by_day ON things (day, clock); CREATE INDEX part ON things (tiny) WHERE flag";

#[tokio::test]
async fn a_table_made_like_another_agrees_with_it() {
    let (Some(old), Some(new)) = (database(OLD).await, database("").await) else { return };
    assert_eq!(old.tables().await.unwrap(), ["Z parents", "things"]);
    let mut later = Vec::new();
    for table in old.tables().await.unwrap() {
        let shape = old.describe(&table).await.unwrap();
        let sql = new.create_sql(&shape).unwrap();
        new.execute(sql.create).await.unwrap();
        later.extend(sql.indexes);
        later.extend(sql.foreign_keys);
    }
    for sql in later {
        new.execute(sql).await.unwrap();
    }
    let (one, other) = (old.describe("things").await.unwrap(), new.describe("things").await.unwrap());
    assert_eq!(one.key, ["id", "code"]);
    assert_eq!(one.indexes, other.indexes);
    assert_eq!(one.foreign_keys, other.foreign_keys);
    assert_eq!(other.foreign_keys.len(), 2);
    let agreed = agree(&one, &other).unwrap();
    assert_eq!(agreed.columns.len(), 21);
    for column in &agreed.columns {
        // `bit(3)` becomes `bit varying`, which says the same in the words of no database.
        assert_eq!(column.fit, zdm_sql_adapters::table::Fit::Exact, "{column:?}");
    }
    assert!(one.columns[0].counted && other.columns[0].counted && one.columns[19].generated);
    assert_eq!(other.columns[2].default, one.columns[2].default);
    write(&new, "INSERT INTO things (code, tiny) VALUES ('a', 4)").await.unwrap();
    assert_eq!(rows(&new, "SELECT name || doubled FROM things").await, ["x8"]);
}

#[tokio::test]
async fn what_the_database_fills_in_comes_along_or_is_named() {
    let schema = "CREATE TYPE mood AS ENUM ('calm', 'wild'); CREATE DOMAIN price AS numeric(9,2) CHECK (VALUE >= 0); \
        CREATE FUNCTION lucky() RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT 7'; \
        CREATE TABLE filled (id bigserial PRIMARY KEY, made timestamptz NOT NULL DEFAULT now(), \
        due timestamp DEFAULT (now() AT TIME ZONE 'utc') + interval '1 day', code uuid DEFAULT gen_random_uuid(), \
        m mood DEFAULT 'calm', n int DEFAULT lucky(), cost price, tags text[] DEFAULT '{}'::text[], \
        note text DEFAULT E'it''s \\\\ \\t', small smallint DEFAULT -3, \
        whole int GENERATED ALWAYS AS (small * 2) STORED, odd int GENERATED ALWAYS AS (small + lucky()) STORED, \
        CONSTRAINT small_is_small CHECK (small < 100 AND note <> '('), CHECK (m <> 'wild')); \
        CREATE INDEX by_whole ON filled (whole); CREATE INDEX by_odd ON filled (odd)";
    let (Some(old), Some(new)) = (database(schema).await, database("").await) else { return };
    let shape = old.describe("filled").await.unwrap();
    let sql = new.create_sql(&shape).unwrap();
    let left_out = sql.left_out.join("\n");
    for words in [
        "column n: its default lucky()",
        "column cost: what the domain price says",
        "column odd: it is generated, and is left out; add it by hand",
        "the check filled_m_check",
        "the index by_odd over a generated column",
    ] {
        assert!(left_out.contains(words), "{words}: {left_out}");
    }
    assert_eq!(sql.left_out.len(), 5, "{left_out}");
    new.execute(sql.create).await.unwrap();
    assert_eq!(sql.indexes.len(), 1);
    for index in sql.indexes {
        new.execute(index).await.unwrap();
    }
    let fill = "INSERT INTO filled DEFAULT VALUES";
    let show = "SELECT concat_ws('|', id, made = now() OR made > now() - interval '1 min', due::date > now()::date, \
        length(code::text), m, tags, note, small, whole) FROM filled";
    for db in [&old, &new] {
        write(db, fill).await.unwrap();
        assert_eq!(rows(db, show).await, ["1|t|t|36|calm|{}|it's \\ \t|-3|-6"]);
        let refused = write(db, "INSERT INTO filled (small) VALUES (100)").await.unwrap_err();
        assert!(
            refused.to_string().contains("small_is_small") || refused.kind() == Kind::Rejected,
            "{refused}"
        );
    }
}

#[tokio::test]
async fn types_of_other_databases_find_a_place() {
    let Some(db) = database("").await else { return };
    let column = |name: &str, ty: ColumnType, key: bool| ColumnShape {
        name: name.to_owned(),
        declared: String::new(),
        ty,
        not_null: key,
        generated: false,
        expression: None,
        counted: key,
        default: None,
        on_update_now: false,
    };
    let decimal = |precision, scale| ColumnType::Decimal { precision, scale, special: false };
    let mut shape = TableShape {
        name: "shop.odd \"name".to_owned(),
        columns: vec![
            column("id", ColumnType::unsigned(32), true),
            column("big", ColumnType::unsigned(64), false),
            column("d", decimal(Some(65), Some(30)), false),
            column("e", decimal(None, None), false),
            column("t", ColumnType::Text { max: Some(65_535) }, false),
            column("x", ColumnType::Other("geometry".to_owned()), false),
            column("j", ColumnType::Json, false),
        ],
        key: vec!["id".to_owned()],
        ..TableShape::default()
    };
    db.execute(db.create_sql(&shape).unwrap().create).await.unwrap();
    let made = db.describe("odd \"name").await.unwrap();
    let types: Vec<_> = made.columns.iter().map(|column| column.declared.as_str()).collect();
    let wanted =
        ["bigint", "numeric(20,0)", "numeric(65,30)", "numeric", "character varying(65535)", "text", "jsonb"];
    assert_eq!(types, wanted);
    shape.columns.push(column("any", ColumnType::Any, false));
    let error = db.create_sql(&shape).unwrap_err();
    assert!(error.kind() == Kind::Invalid && error.to_string().contains("column any"), "{error}");
}

#[tokio::test]
async fn sequences_count_on_above_what_the_old_side_gave_out() {
    let schema = "CREATE TABLE a (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, n bigserial, v int); \
        CREATE SEQUENCE \"own Seq\"; CREATE TABLE b (id bigint PRIMARY KEY DEFAULT nextval('\"own Seq\"')); \
        CREATE TABLE c (id int PRIMARY KEY); CREATE TABLE d (id smallserial PRIMARY KEY); \
        INSERT INTO a (id, n, v) OVERRIDING SYSTEM VALUE VALUES (41, 7, 0)";
    let Some(db) = database(schema).await else { return };
    let column = |name: &str, next| (name.to_owned(), next);
    assert_eq!(db.last_sequence_value("a").await.unwrap(), Some(41));
    assert_eq!(db.advance_sequences("a", 0).await.unwrap(), [column("id", 42), column("n", 8)]);
    write(&db, "INSERT INTO a (v) VALUES (1)").await.unwrap();
    assert_eq!(rows(&db, "SELECT id || ' ' || n FROM a WHERE v = 1").await, ["42 8"]);
    // Given out and rolled back: still not given out again.
    write(&db, "SELECT nextval('\"own Seq\"'), nextval('\"own Seq\"')").await.unwrap();
    assert_eq!(db.last_sequence_value("b").await.unwrap(), Some(2));
    assert_eq!(db.advance_sequences("b", 0).await.unwrap(), [column("id", 3)]);
    assert_eq!(db.advance_sequences("b", 100).await.unwrap(), [column("id", 101)]);
    assert_eq!(db.advance_sequences("b", 50).await.unwrap(), [column("id", 101)]);
    write(&db, "INSERT INTO b DEFAULT VALUES").await.unwrap();
    assert_eq!(rows(&db, "SELECT id::text FROM b").await, ["101"]);
    assert_eq!(db.advance_sequences("c", 9).await.unwrap(), []);
    assert_eq!(db.last_sequence_value("c").await.unwrap(), None);
    let error = db.advance_sequences("d", 32_767).await.unwrap_err();
    assert!(error.kind() == Kind::Invalid && error.to_string().contains("no room above"), "{error}");
    assert_eq!(db.advance_sequences("nowhere", 1).await.unwrap_err().kind(), Kind::Invalid);
}
