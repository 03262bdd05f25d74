//! Tables that are described, made like others, and count on above them.

use zdm_core::error::Kind;
use zdm_core::store::Store;
use zdm_sql_adapters::mysql::MyRows;
use zdm_sql_adapters::table::{
    ColumnShape, ColumnType, DynKey, DynRow, ForeignKeyShape, IndexShape, TableShape, Value,
};

use crate::support::{database, rows, text};

#[tokio::test]
async fn odd_names_generated_columns_and_other_databases() {
    let Some(db) = database(
        "CREATE TABLE `odd ``table``; --` (`the select` TEXT, `b``c` INT NOT NULL, twice INT AS (`b``c` * 2) STORED, \
         `id.key` VARBINARY(9) PRIMARY KEY)",
    )
    .await
    else {
        return;
    };
    let other = db.again(|options| options).await;
    let name = format!("`{}`.`odd ``table``; --`", db.name());
    for (db, name) in [(&db.db, "odd `table`; --"), (&other, name.as_str())] {
        let table = MyRows::discover(db, name).await.unwrap();
        assert_eq!(&table.columns()[..], ["the select", "b`c", "id.key"]);
        let key = DynKey::new([Value::Blob(vec![1, 0])]).unwrap();
        let values = vec![text("x"), Value::Integer(4), Value::Blob(vec![1, 0])];
        let row = DynRow::new(table.columns().clone(), values).unwrap();
        table.put(&key, &row).await.unwrap();
        assert_eq!(table.get(&key).await.unwrap(), Some(row.clone()));
        let mut changed = row;
        changed.set("id.key", Value::Blob(vec![2])).unwrap();
        let error = table.put(&key, &changed).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Rejected, "{error}");
    }
    assert_eq!(rows(&db, "SELECT CAST(twice AS CHAR) FROM `odd ``table``; --`").await, ["8"]);
}

fn shop() -> [TableShape; 2] {
    let column = |name: &str, ty: ColumnType, not_null: bool| ColumnShape {
        name: name.to_owned(),
        declared: ty.to_string(),
        ty,
        not_null,
        generated: false,
        expression: None,
        counted: name == "id",
        default: None,
        on_update_now: false,
    };
    let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
    let customers = TableShape {
        name: "public.customers".to_owned(),
        columns: vec![
            column("id", ColumnType::signed(64), true),
            column("email", ColumnType::Text { max: None }, true),
            column("token", ColumnType::Uuid, true),
            column("notes", ColumnType::Text { max: None }, false),
            column("balance", ColumnType::Decimal { precision: None, scale: None, special: true }, false),
            column("rate", ColumnType::Real { bits: 64, special: true }, false),
            column("seen", ColumnType::Timestamp { zone: true, digits: 6 }, false),
            column("extra", ColumnType::Json, false),
            column("span", ColumnType::Interval, false),
            column("tags", ColumnType::Other("text[]".to_owned()), false),
            column("photo", ColumnType::Bytes { max: None }, false),
            column("active", ColumnType::Boolean, true),
        ],
        key: names(&["id"]),
        indexes: vec![
            IndexShape { name: "by_email".to_owned(), columns: names(&["email"]), unique: true },
            IndexShape { name: "by_notes".to_owned(), columns: names(&["notes", "seen"]), unique: false },
        ],
        ..TableShape::default()
    };
    let orders = TableShape {
        name: "orders".to_owned(),
        columns: vec![
            column("token", ColumnType::Uuid, true),
            column("line", ColumnType::signed(16), true),
            column("customer", ColumnType::signed(64), false),
        ],
        key: names(&["token", "line"]),
        indexes: Vec::new(),
        foreign_keys: vec![ForeignKeyShape {
            name: "of_customer".to_owned(),
            columns: names(&["customer"]),
            parent: "public.customers".to_owned(),
            parent_columns: names(&["id"]),
            on_delete: "CASCADE".to_owned(),
            on_update: "NO ACTION".to_owned(),
        }],
        ..TableShape::default()
    };
    [customers, orders]
}

#[tokio::test]
async fn tables_are_made_like_those_of_another_database() {
    let Some(db) = database("").await else { return };
    let made: Vec<_> = shop().iter().map(|shape| db.create_sql(shape).unwrap()).collect();
    for sql in &made {
        db.execute(sql.create.clone()).await.unwrap();
    }
    for sql in made.iter().flat_map(|sql| sql.indexes.iter().chain(&sql.foreign_keys)) {
        db.execute(sql.clone()).await.unwrap();
    }
    assert_eq!(db.tables().await.unwrap(), ["customers", "orders"]);
    let customers = db.describe("customers").await.unwrap();
    assert_eq!(customers.key, ["id"]);
    assert!(customers.columns[0].counted && customers.columns[0].not_null);
    let unique: Vec<_> = customers.indexes.iter().map(|index| (index.name.as_str(), index.unique)).collect();
    // The other one is over the beginning of a long text.
    assert_eq!(unique, [("by_email", true)]);
    let orders = db.describe("orders").await.unwrap();
    assert_eq!(orders.foreign_keys[0].parent, "customers");
    assert_eq!(orders.foreign_keys[0].on_delete, "CASCADE");

    // What is unique elsewhere is unique here: texts that differ only by case or by spaces at the end.
    let columns: Vec<_> =
        shop()[0].columns.iter().map(|column| (column.name.clone(), column.ty.clone())).collect();
    let table = MyRows::discover_as(&db, "customers", &columns).await.unwrap();
    for (id, email) in [(1, "a@x"), (2, "A@x"), (3, "a@x ")] {
        let values = vec![
            Value::Integer(id),
            text(email),
            Value::Uuid([id as u8; 16]),
            text("n"),
            Value::Decimal("12345678901234567890.5".parse().unwrap()),
            Value::Real(0.1),
            Value::Timestamp(4_000_000_000_000_001),
            Value::Json("{}".to_owned()),
            Value::Interval(zdm_sql_adapters::table::Interval { months: 1, days: 2, micros: 3 }),
            Value::Other("{a,b}".to_owned()),
            Value::Blob(vec![0, 255]),
            Value::Integer(1),
        ];
        let key = DynKey::new([Value::Integer(id)]).unwrap();
        let row = DynRow::new(table.columns().clone(), values).unwrap();
        table.put(&key, &row).await.unwrap();
        assert_eq!(table.get(&key).await.unwrap(), Some(row));
    }
}

/// Every table that the server describes can be made again from what it said.
#[tokio::test]
async fn a_description_makes_the_like_of_a_table() {
    let Some(db) = database(
        "CREATE TABLE parents (id INT UNSIGNED AUTO_INCREMENT PRIMARY KEY, code VARCHAR(20) UNIQUE); \
         CREATE TABLE a_children (id BIGINT PRIMARY KEY, parent INT UNSIGNED, d DECIMAL(10,2), e ENUM('x','y'), b BIT(3), \
         j JSON, f FLOAT, t TIME(3), y YEAR, v VARBINARY(20), ts TIMESTAMP(6) NULL, long_text MEDIUMTEXT, \
         g INT AS (id + 1) VIRTUAL, KEY (d, t), FOREIGN KEY (parent) REFERENCES parents (id) ON DELETE SET NULL)",
    )
    .await
    else {
        return;
    };
    assert_eq!(db.tables().await.unwrap(), ["parents", "a_children"]);
    let Some(copy) = database("").await else { return };
    let mut later = Vec::new();
    for table in db.tables().await.unwrap() {
        let shape = db.describe(&table).await.unwrap();
        let sql = copy.create_sql(&shape).unwrap();
        copy.execute(sql.create).await.unwrap();
        later.extend(sql.indexes.into_iter().chain(sql.foreign_keys));
    }
    for sql in later {
        copy.execute(sql).await.unwrap();
    }
    let (ours, theirs) =
        (db.describe("a_children").await.unwrap(), copy.describe("a_children").await.unwrap());
    assert_eq!(theirs.foreign_keys, ours.foreign_keys);
    assert_eq!(theirs.key, ours.key);
    let names =
        |columns: &[ColumnShape]| columns.iter().map(|column| column.name.clone()).collect::<Vec<_>>();
    assert_eq!(names(&theirs.columns), names(&ours.columns));
    for column in ours.columns.iter().filter(|column| !column.generated) {
        let like = theirs.columns.iter().find(|like| like.name == column.name).unwrap();
        zdm_sql_adapters::table::pair(&column.ty, &like.ty).unwrap();
        assert_eq!(like.not_null, column.not_null, "{}", column.name);
    }
}

#[tokio::test]
async fn what_the_database_fills_in_comes_along_or_is_named() {
    let Some(db) = database(
        "CREATE TABLE filled (id INT AUTO_INCREMENT PRIMARY KEY, n INT NOT NULL DEFAULT 5, \
         note VARCHAR(20) DEFAULT 'it''s \\\\ x', long_note TEXT DEFAULT 'long', flag BIT(1) DEFAULT b'1', \
         e ENUM('x','y') DEFAULT 'y', price DECIMAL(9,2) DEFAULT 1.50, code CHAR(36) DEFAULT UUID(), nothing INT, \
         made DATETIME(3) DEFAULT CURRENT_TIMESTAMP(3) ON UPDATE CURRENT_TIMESTAMP(3), \
         stamp TIMESTAMP DEFAULT CURRENT_TIMESTAMP ON UPDATE CURRENT_TIMESTAMP, j JSON DEFAULT '{}', \
         twice INT AS (n * 2) STORED, loud VARCHAR(30) AS (CONCAT(note, '!')) VIRTUAL, \
         CONSTRAINT n_is_small CHECK (n < 100), KEY (twice))",
    )
    .await
    else {
        return;
    };
    let Some(copy) = database("").await else { return };
    let shape = db.describe("filled").await.unwrap();
    let sql = copy.create_sql(&shape).unwrap();
    // Columns with a zone become points in time in UTC, which ON UPDATE does not know.
    assert_eq!(sql.left_out.len(), 1, "{:?}", sql.left_out);
    assert!(sql.left_out[0].contains("column stamp: that an UPDATE sets it"), "{:?}", sql.left_out);
    for statement in std::iter::once(sql.create).chain(sql.indexes) {
        copy.execute(statement).await.unwrap();
    }
    for db in [&db, &copy] {
        db.execute("INSERT INTO filled () VALUES ()").await.unwrap();
        let text = |column: &str| format!("CONVERT({column} USING utf8mb4) COLLATE utf8mb4_bin");
        let [note, long, e, j, loud] = ["note", "long_note", "e", "j", "loud"].map(text);
        let shown = format!(
            "SELECT CONCAT_WS('|', n, {note}, {long}, flag + 0, {e}, price, LENGTH(code), nothing IS NULL, {j}, twice, \
             {loud}, made > NOW() - INTERVAL 1 MINUTE) FROM filled"
        );
        let shown = rows(db, &shown).await;
        assert_eq!(shown, ["5|it's \\ x|long|1|y|1.50|36|1|{}|10|it's \\ x!|1"]);
        let refused = db.execute("INSERT INTO filled (n) VALUES (100)").await.unwrap_err();
        assert!(refused.to_string().contains("n_is_small") || refused.kind() == Kind::Rejected, "{refused}");
        db.execute("UPDATE filled SET made = '2000-01-01'").await.unwrap();
        db.execute("UPDATE filled SET n = 6").await.unwrap();
        assert_eq!(rows(db, "SELECT CAST(made > '2001-01-01' AS CHAR) FROM filled").await, ["1"]);
    }
    // In UTC, whatever the zone of the session.
    copy.execute("SET time_zone = '+05:00'; INSERT INTO filled (n) VALUES (7); SET time_zone = '+00:00'")
        .await
        .unwrap();
    let late = "SELECT CAST(ABS(TIMESTAMPDIFF(SECOND, stamp, UTC_TIMESTAMP())) < 60 AS CHAR) FROM filled WHERE n = 7";
    assert_eq!(rows(&copy, late).await, ["1"]);
}

#[tokio::test]
async fn what_has_no_like_is_named() {
    let Some(db) = database("").await else { return };
    let [mut customers, mut orders] = shop();
    customers.columns[3].ty = ColumnType::Any;
    let error = db.create_sql(&customers).unwrap_err();
    assert!(error.to_string().contains("notes"), "{error}");
    orders.foreign_keys[0].on_update = "SET DEFAULT".to_owned();
    let error = db.create_sql(&orders).unwrap_err();
    assert!(error.to_string().contains("SET DEFAULT") && error.to_string().contains("customer"), "{error}");
}

#[tokio::test]
async fn counters_go_on_above_the_old_ones() {
    let Some(db) = database(
        "CREATE TABLE counted (id INT AUTO_INCREMENT PRIMARY KEY, v INT); CREATE TABLE plain (id INT PRIMARY KEY); \
         INSERT INTO counted (v) VALUES (1), (2), (3); DELETE FROM counted WHERE id = 3",
    )
    .await
    else {
        return;
    };
    assert_eq!(db.last_auto_increment("counted").await.unwrap(), Some(3));
    assert_eq!(db.advance_auto_increment("counted", 2).await.unwrap(), Some(4));
    assert_eq!(db.advance_auto_increment("counted", 1_000).await.unwrap(), Some(1_001));
    db.execute("INSERT INTO counted (v) VALUES (4)").await.unwrap();
    assert_eq!(rows(&db, "SELECT CAST(MAX(id) AS CHAR) FROM counted").await, ["1001"]);
    // Never back.
    assert_eq!(db.advance_auto_increment("counted", 5).await.unwrap(), Some(1_002));
    assert_eq!(db.advance_auto_increment("plain", 5).await.unwrap(), None);
    assert_eq!(db.last_auto_increment("plain").await.unwrap(), None);
}
