//! Rows that carry values of logical types, and tables made like others.

use zdm_core::error::Kind;
use zdm_core::key::KeyRange;
use zdm_core::store::{Bulk, Change, Scan, Store};
use zdm_sql_adapters::sqlite::SqliteRows;
use zdm_sql_adapters::table::{ColumnType, DynKey, DynRow, Value};

use crate::support::{database, rows};

fn types(columns: &[(&str, ColumnType)]) -> Vec<(String, ColumnType)> {
    columns.iter().map(|(name, ty)| ((*name).to_owned(), ty.clone())).collect()
}

fn decimal(text: &str) -> Value {
    Value::Decimal(text.parse().unwrap())
}

const DECIMAL: ColumnType = ColumnType::Decimal { precision: Some(10), scale: Some(2), special: false };
const TIMESTAMP: ColumnType = ColumnType::Timestamp { zone: false, digits: 6 };

#[tokio::test]
async fn values_of_every_type_are_read_and_written_so_that_nothing_is_lost() {
    let db = database(
        "CREATE TABLE things (id INTEGER PRIMARY KEY, price NUMERIC(10,2), sold BOOLEAN, at DATETIME, day DATE, \
         code UUID, doc JSON_TEXT, far DECIMAL_TEXT(30,10), raw BLOB, span INTERVAL_TEXT, clock TIME, name NVARCHAR(5))",
    )
    .await;
    db.execute(
        "INSERT INTO things VALUES (1, 0.99, 1, '2021-01-01 00:00:00', '2021-02-03', \
         '123E4567-e89b-12d3-a456-426614174000', '{\"b\": 1, \"a\": [1.0]}', '12345678901234567890.5', x'00ff', \
         '1 mons 2 days 00:00:03', '10:00:00', 'Zoë')",
    )
    .await
    .unwrap();
    let shape = db.describe("things").await.unwrap();
    let carried: Vec<_> =
        shape.columns.iter().map(|column| (column.name.clone(), column.ty.clone())).collect();
    let table = SqliteRows::discover_as(&db, "things", &carried).await.unwrap();
    let key = DynKey::new([Value::Integer(1)]).unwrap();
    let row = table.get(&key).await.unwrap().unwrap();
    for (column, value) in [
        ("price", decimal("0.99")),
        ("sold", Value::Integer(1)),
        ("at", Value::Timestamp(1_609_459_200_000_000)),
        ("day", Value::Date(18_661)),
        ("doc", Value::Json("{\"a\":[1.0],\"b\":1}".to_owned())),
        ("far", decimal("12345678901234567890.5")),
        ("raw", Value::Blob(vec![0, 255])),
        ("clock", Value::Time(36_000_000_000)),
        ("name", Value::Text("Zoë".to_owned())),
    ] {
        assert_eq!(row.get(column), Some(&value), "{column}");
    }
    assert!(
        matches!(row.get("code"), Some(Value::Uuid(_)))
            && matches!(row.get("span"), Some(Value::Interval(_)))
    );

    // Written to another key, read one by one, in pages and by key: the same.
    let second = DynKey::new([Value::Integer(2)]).unwrap();
    let mut copy = row.clone();
    copy.set("id", 2).unwrap();
    table.put(&second, &copy).await.unwrap();
    assert_eq!(table.get(&second).await.unwrap().as_ref(), Some(&copy));
    let page = table.page(&KeyRange::all(), 10).await.unwrap();
    assert_eq!(page[1].1.as_ref().unwrap(), &copy);
    assert_eq!(table.get_many(&[second, key]).await.unwrap(), [Some(copy), Some(row)]);
    let kept =
        "SELECT typeof(price) || ' ' || typeof(at) || ' ' || code || ' ' || far FROM things WHERE id = 2";
    let expected = "real text 123e4567-e89b-12d3-a456-426614174000 12345678901234567890.5";
    assert_eq!(rows(&db, kept).await, [expected]);
}

#[tokio::test]
async fn a_value_that_cannot_be_carried_sets_its_record_aside() {
    let db = database("CREATE TABLE t (id INTEGER PRIMARY KEY, day DATE, price NUMERIC)").await;
    db.execute("INSERT INTO t VALUES (1, '2021-02-30', 1), (2, '2021-02-28', 2.5), (3, 44, 3)")
        .await
        .unwrap();
    let table = SqliteRows::discover_as(&db, "t", &types(&[("day", ColumnType::Date), ("price", DECIMAL)]))
        .await
        .unwrap();
    let page = table.page(&KeyRange::all(), 10).await.unwrap();
    assert_eq!(page.iter().map(|(_, row)| row.is_ok()).collect::<Vec<_>>(), [false, true, false]);
    let error = page[0].1.as_ref().unwrap_err();
    assert_eq!(error.kind(), Kind::Rejected);
    assert!(
        error.to_string().contains("column day of table t") && error.to_string().contains("2021-02-30"),
        "{error}"
    );

    let row = |price: &str| {
        let mut row = DynRow::new(table.columns().clone(), vec![Value::Null; 3]).unwrap();
        row.set("id", 9).unwrap();
        row.set("price", decimal(price)).unwrap();
        row
    };
    let key = DynKey::new([Value::Integer(9)]).unwrap();
    let error = table.put(&key, &row("12345678901234567.89")).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Rejected);
    assert!(
        error.to_string().contains("column price of table t") && error.to_string().contains("567.89"),
        "{error}"
    );
    assert_eq!(table.get(&key).await.unwrap(), None);
    table.apply(&[Change::Put(key, row("17.5"))]).await.unwrap();
}

#[tokio::test]
async fn keys_are_looked_up_by_the_values_they_carry() {
    let db = database(
        "CREATE TABLE t (day DATE NOT NULL, price NUMERIC NOT NULL, at DATETIME NOT NULL, v, PRIMARY KEY (day, price, at))",
    )
    .await;
    db.execute(
        "INSERT INTO t VALUES ('2021-01-10', 2, '2021-01-01 00:00:00', 'a'), ('2021-01-10', 10.25, '2021-01-01 00:00:00', 'b'), \
         ('0999-12-31', 10.25, '2021-01-01 00:00:00.5', 'c')",
    )
    .await
    .unwrap();
    let carried = types(&[("day", ColumnType::Date), ("price", DECIMAL), ("at", TIMESTAMP)]);
    let table = SqliteRows::discover_as(&db, "t", &carried).await.unwrap();
    let page = table.page(&KeyRange::all(), 10).await.unwrap();
    let names: Vec<_> =
        page.iter().map(|(_, row)| row.as_ref().unwrap().get("v").cloned().unwrap()).collect();
    assert_eq!(names, ["c", "a", "b"].map(|name| Value::Text(name.to_owned())));
    for (key, row) in &page {
        assert_eq!(table.get(key).await.unwrap().as_ref(), row.as_ref().ok());
        let rest = table.page(&KeyRange { after: Some(key.clone()), up_to: None }, 10).await.unwrap();
        assert!(rest.iter().all(|(other, _)| other > key));
    }
    table.delete(&page[2].0).await.unwrap();
    assert_eq!(rows(&db, "SELECT v FROM t ORDER BY v").await, ["a", "c"]);

    db.execute("INSERT INTO t VALUES ('2022-01-10', 2, '2021-01-01T00:00:00Z', 'd')").await.unwrap();
    let error = table.page(&KeyRange::all(), 10).await.unwrap_err();
    assert!(error.to_string().contains("column at") && error.to_string().contains("another form"), "{error}");
    db.execute("CREATE TABLE digits (number TEXT PRIMARY KEY NOT NULL)").await.unwrap();
    let error = SqliteRows::discover_as(&db, "digits", &types(&[("number", DECIMAL)])).await.unwrap_err();
    assert!(error.to_string().contains("number") && error.to_string().contains("order"), "{error}");
    let error = SqliteRows::discover_as(&db, "digits", &types(&[("x", DECIMAL)])).await.unwrap_err();
    assert!(error.to_string().contains("no column x"), "{error}");
}

#[tokio::test]
async fn a_table_made_like_another_is_described_like_it() {
    let db = database(
        "CREATE TABLE parent (id INTEGER PRIMARY KEY, name NVARCHAR(40) NOT NULL); \
         CREATE TABLE \"the child\" (a INTEGER NOT NULL, b TEXT NOT NULL, p INTEGER REFERENCES parent ON DELETE CASCADE, \
         up TEXT, price DECIMAL(10,2), far DECIMAL_TEXT(30,10), doc JSON_TEXT, at TIMESTAMPTZ(3), bits BIT_TEXT, any, \
         yes BOOLEAN, double INTEGER AS (a * 2), PRIMARY KEY (a, b), FOREIGN KEY (a, up) REFERENCES \"the child\" (a, b)); \
         CREATE UNIQUE INDEX one_price ON \"the child\" (price, at); CREATE INDEX by_p ON \"the child\" (p); \
         CREATE INDEX some ON \"the child\" (p) WHERE p > 3",
    )
    .await;
    assert_eq!(db.tables().await.unwrap(), ["parent", "the child"]);
    // By its own statement, and by one that is made as for a table of another database.
    for own in [true, false] {
        let other = database("").await;
        for table in db.tables().await.unwrap() {
            let mut shape = db.describe(&table).await.unwrap();
            if !own {
                shape.statement = None;
            }
            let sql = other.create_sql(&shape).unwrap();
            if table == "the child" {
                assert!(sql.left_out[0].contains("the index some, over"), "{:?}", sql.left_out);
                let generated = "column double: it is generated, and is left out";
                assert_eq!(sql.left_out.iter().any(|what| what.contains(generated)), !own);
            }
            other.execute(sql.create).await.unwrap();
            for index in sql.indexes {
                other.execute(index).await.unwrap();
            }
            let mut again = other.describe(&table).await.unwrap();
            shape.columns.retain(|column| own || !column.generated);
            for shape in [&mut shape, &mut again] {
                // The words differ, what they mean does not; and the names of indexes belong to the file.
                shape.columns.iter_mut().for_each(|column| column.declared.clear());
                shape.indexes.iter_mut().for_each(|index| index.name.clear());
                shape.indexes.sort_by(|left, right| left.columns.cmp(&right.columns));
                shape.left_out.clear();
                shape.statement = None;
            }
            assert_eq!(again, shape);
        }
    }
    assert_eq!(db.last_counted("parent").await.unwrap(), Some(0));
    db.execute("INSERT INTO parent VALUES (41, 'x')").await.unwrap();
    assert_eq!(db.last_counted("parent").await.unwrap(), Some(41));
    assert_eq!(db.last_counted("the child").await.unwrap(), None);
}

#[tokio::test]
async fn a_counter_goes_on_above_what_the_other_side_gave_out() {
    let db = database(
        "CREATE TABLE plain (id INTEGER PRIMARY KEY, v TEXT); \
         CREATE TABLE \"Never Again\" (id INTEGER PRIMARY KEY AUTOINCREMENT, v TEXT)",
    )
    .await;
    // The table of counters is there, but holds none of this table yet.
    assert_eq!(db.last_counted("never again").await.unwrap(), Some(0));
    assert_eq!(db.advance_autoincrement("Never Again", 7).await.unwrap(), Some(8));
    db.execute("INSERT INTO \"Never Again\" (v) VALUES ('a'); DELETE FROM \"Never Again\"").await.unwrap();
    assert_eq!(db.last_counted("Never Again").await.unwrap(), Some(8), "given out, though it is gone");
    // Never back.
    assert_eq!(db.advance_autoincrement("never again", 3).await.unwrap(), Some(9));
    assert_eq!(db.advance_autoincrement("never again", 100).await.unwrap(), Some(101));
    db.execute("INSERT INTO \"Never Again\" (v) VALUES ('b')").await.unwrap();
    assert_eq!(db.last_counted("Never Again").await.unwrap(), Some(101));
    assert_eq!(db.advance_autoincrement("plain", 100).await.unwrap(), None);
    let full = db.advance_autoincrement("Never Again", u64::MAX).await.unwrap_err();
    assert!(full.to_string().contains("no room above"), "{full}");
    assert!(db.advance_autoincrement("nowhere", 1).await.is_err());
}

#[tokio::test]
async fn what_the_database_fills_in_comes_along_or_is_named() {
    let statement = "CREATE TABLE filled (id INTEGER PRIMARY KEY AUTOINCREMENT, n INT NOT NULL DEFAULT (5), \
         note TEXT DEFAULT 'it''s -- (', made DATETIME DEFAULT CURRENT_TIMESTAMP, dice INT DEFAULT (abs(random()) % 6), \
         twice INT AS (n * 2) STORED, checked INT CHECK (checked < 9), raw BLOB DEFAULT x'00ff', \
         CONSTRAINT \"check (me)\" CHECK (n < 100 AND (note <> ')')))";
    let (db, copy) = (database(statement).await, database("").await);
    let mut shape = db.describe("filled").await.unwrap();
    let sql = copy.create_sql(&shape).unwrap();
    assert_eq!(sql.left_out, Vec::<String>::new());
    copy.execute(sql.create).await.unwrap();
    assert_eq!(copy.describe("filled").await.unwrap(), shape);

    // As another database would see it: without the statement, and in words that are not its own.
    shape.statement = None;
    shape.name = "foreign.others".to_owned();
    for column in &mut shape.columns {
        column.default = match column.name.as_str() {
            "note" => Some("'it''s -- ('::text".to_owned()),
            "made" => Some("now()".to_owned()),
            "raw" => Some("'\\x00ff'::bytea".to_owned()),
            _ => column.default.take(),
        };
    }
    shape.dialect = Some(zdm_sql_adapters::table::Dialect::Postgres);
    let sql = copy.create_sql(&shape).unwrap();
    let left_out = sql.left_out.join("\n");
    for words in [
        "column dice: its default abs(random()) % 6 is left out",
        "column twice: it is generated, and is left out",
        "the check  (checked < 9) is left out",
        "the check  (n < 100 AND (note <> ')')) is left out",
    ] {
        assert!(left_out.contains(words), "{words}: {left_out}");
    }
    assert_eq!(sql.left_out.len(), 4, "{left_out}");
    copy.execute(sql.create).await.unwrap();
    copy.execute(
        "INSERT INTO others DEFAULT VALUES; DELETE FROM others; INSERT INTO others DEFAULT VALUES; \
         INSERT INTO filled DEFAULT VALUES",
    )
    .await
    .unwrap();
    // What is gone is not given out again, as in the database that the table comes from.
    assert_eq!(copy.last_counted("others").await.unwrap(), Some(2));
    let same: Vec<i64> = sqlx::query_scalar(
        "SELECT n || note || hex(raw) = '5it''s -- (00FF' AND abs(julianday('now', 'localtime') - julianday(made)) < 0.01 \
         FROM others UNION ALL SELECT n || note || hex(raw) = '5it''s -- (00FF' AND made NOT NULL FROM filled",
    )
    .fetch_all(copy.readers())
    .await
    .unwrap();
    assert_eq!(same, [1, 1]);
    assert!(copy.execute("INSERT INTO filled (n) VALUES (100)").await.is_err());
}
