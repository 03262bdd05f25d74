//! Every value of every type comes back as it went in, by every way a record can be read and written; what
//! the server would change is refused with its column.

use zdm_core::error::Kind;
use zdm_core::key::KeyRange;
use zdm_core::store::{Bulk, Change, Fenced, Scan, Stamp, Store};
use zdm_sql_adapters::mysql::{MyRows, MyTable};
use zdm_sql_adapters::table::{ColumnType, DynKey, DynRow, Value};

use crate::support::{Database, USERS, User, database, rows, rows_of, text, user, users};

fn decimal(text: &str) -> Value {
    Value::Decimal(text.parse().unwrap())
}

fn other(text: &str) -> Value {
    Value::Other(text.to_owned())
}

/// Types, each with values at its edges and with values that it would change.
fn types() -> Vec<(&'static str, Vec<Value>, Vec<Value>)> {
    let integers = |numbers: &[i64]| numbers.iter().map(|number| Value::Integer(*number)).collect::<Vec<_>>();
    let texts = |words: &[&str]| words.iter().map(|word| text(word)).collect::<Vec<_>>();
    let odd = "\0 \u{1}\t\n\r\u{7f} 'q' \"d\" \\ é ß 中文 🦀 \u{10ffff} \u{feff}";
    vec![
        ("TINYINT", integers(&[i64::from(i8::MIN), -1, 0, 127]), integers(&[128, -129])),
        ("TINYINT(1)", integers(&[0, 1]), vec![text("x")]),
        ("TINYINT UNSIGNED", integers(&[0, 255]), integers(&[-1, 256])),
        ("SMALLINT", integers(&[-32768, 32767]), integers(&[32768])),
        ("MEDIUMINT", integers(&[-8_388_608, 8_388_607]), integers(&[8_388_608])),
        ("MEDIUMINT UNSIGNED", integers(&[0, 16_777_215]), integers(&[-1, 16_777_216])),
        ("INT", integers(&[i64::from(i32::MIN), i64::from(i32::MAX)]), integers(&[1 << 31])),
        ("INT(10) UNSIGNED ZEROFILL", integers(&[0, 7, i64::from(u32::MAX)]), integers(&[-1])),
        ("BIGINT", integers(&[i64::MIN, i64::MAX]), vec![Value::Unsigned(1 << 63)]),
        (
            "BIGINT UNSIGNED",
            vec![
                Value::Integer(0),
                Value::Integer(i64::MAX),
                Value::Unsigned(1 << 63),
                Value::Unsigned(u64::MAX),
            ],
            integers(&[-1]),
        ),
        (
            "DECIMAL(65,30)",
            vec![
                decimal("0"),
                decimal("-0.000000000000000000000000000001"),
                decimal("99999999999999999999999999999999999.999999999999999999999999999999"),
            ],
            vec![decimal("0.0000000000000000000000000000001"), decimal("1e35"), decimal("NaN")],
        ),
        (
            "DECIMAL(5,0) UNSIGNED",
            vec![decimal("99999"), decimal("5.000")],
            vec![decimal("-1"), decimal("0.5")],
        ),
        (
            "FLOAT",
            vec![
                Value::Real(0.0),
                Value::Real(f64::from(0.1_f32)),
                Value::Real(f64::from(f32::MAX)),
                Value::Real(-1.5),
            ],
            vec![Value::Real(0.1), Value::Real(1e300), Value::Real(f64::NAN)],
        ),
        ("FLOAT(7,2)", vec![Value::Real(1.25), Value::Real(-0.5)], vec![Value::Real(0.125)]),
        (
            "DOUBLE",
            [0.1, -2.5, 1.0 / 3.0, f64::MAX, f64::MIN, f64::MIN_POSITIVE, 5e-324, 9_007_199_254_740_993.0]
                .map(Value::Real)
                .to_vec(),
            vec![Value::Real(f64::INFINITY), Value::Real(f64::NAN)],
        ),
        ("CHAR(5)", texts(&["", "a", " b", "äöü中🦀"]), texts(&["abcdef", "a "])),
        ("VARCHAR(60)", texts(&["", " ", "a  ", odd]), texts(&[&"x".repeat(61), &" ".repeat(61)])),
        ("VARCHAR(9) CHARACTER SET latin1", texts(&["é ß", "plain"]), texts(&["中", "🦀", "ten letters"])),
        ("VARCHAR(9) CHARACTER SET utf8mb3", texts(&["中文"]), texts(&["🦀"])),
        (
            "TINYTEXT",
            texts(&["", &"x".repeat(255), &"ä".repeat(127)]),
            texts(&[&"x".repeat(256), &"ä".repeat(128)]),
        ),
        ("TEXT", texts(&[odd, &"x".repeat(65_535)]), texts(&[&" ".repeat(65_536)])),
        ("MEDIUMTEXT", texts(&[&"long ".repeat(60_000)]), vec![Value::Blob(vec![1])]),
        ("LONGTEXT", texts(&["1", "NULL", "0x00"]), vec![Value::Blob(vec![255])]),
        (
            "BINARY(3)",
            vec![Value::Blob(vec![0, 0, 0]), Value::Blob(vec![1, 0, 255])],
            vec![Value::Blob(vec![1]), Value::Blob(vec![0; 4])],
        ),
        (
            "VARBINARY(300)",
            vec![Value::Blob(vec![]), Value::Blob(vec![0]), Value::Blob((0..=255).collect())],
            vec![Value::Blob(vec![0; 301])],
        ),
        ("BLOB", vec![Value::Blob(vec![0xAB; 65_535]), Value::Blob(b"text".to_vec())], vec![text("text")]),
        ("LONGBLOB", vec![Value::Blob(vec![0xAB; 300_000])], vec![text("text")]),
        (
            "DATE",
            vec![Value::Date(0), Value::Date(-719_162), Value::Date(2_932_896), Value::Date(11_016)],
            vec![Value::Date(i32::MAX), Value::Date(i32::MIN), Value::Date(-719_163), Value::Date(2_932_897)],
        ),
        (
            "TIME",
            vec![Value::Time(0), Value::Time(-1_000_000), Value::Time(3_020_399_000_000)],
            vec![Value::Time(1)],
        ),
        (
            "TIME(6)",
            vec![Value::Time(86_399_999_999), Value::Time(-3_020_398_999_999), Value::Time(-1)],
            vec![Value::Time(3_020_400_000_000)],
        ),
        (
            "DATETIME",
            vec![Value::Timestamp(0), Value::Timestamp(-1_000_000)],
            vec![Value::Timestamp(1_500_000)],
        ),
        (
            "DATETIME(6)",
            vec![
                Value::Timestamp(-62_135_596_800_000_000),
                Value::Timestamp(253_402_300_799_999_999),
                Value::Timestamp(-1),
                Value::Timestamp(951_782_400_000_001),
            ],
            vec![
                Value::Timestamp(i64::MAX),
                Value::Timestamp(i64::MIN),
                Value::Timestamp(253_402_300_800_000_000),
            ],
        ),
        ("DATETIME(3)", vec![Value::Timestamp(1_001_000)], vec![Value::Timestamp(1_000_100)]),
        (
            "TIMESTAMP(6) NULL",
            vec![
                Value::Timestamp(1_000_000),
                Value::Timestamp(1_700_000_000_123_456),
                Value::Timestamp(2_147_483_647_999_999),
            ],
            vec![Value::Timestamp(0), Value::Timestamp(-1), Value::Timestamp(9_000_000_000_000_000)],
        ),
        ("YEAR", integers(&[0, 1901, 2155]), integers(&[1, 99, 1900, 2156])),
        ("BIT(1)", texts(&["0", "1"]), texts(&["", "2", "01"])),
        ("BIT(64)", texts(&[&"1".repeat(64), &format!("{:064b}", 5)]), texts(&["1"])),
        (
            "JSON",
            vec![
                Value::Json("null".into()),
                Value::Json(r#"{"b": [1, 2.5, "ü\u0000"], "a": {"c": null}}"#.into()),
                Value::Json("\"text\"".into()),
            ],
            vec![Value::Json("{".into()), Value::Json(String::new())],
        ),
        ("ENUM('red','it''s','')", texts(&["red", "it's", ""]), texts(&["green", "1", "RED"])),
        // As the server lists them, with backslashes.
        ("ENUM('a\\\\b','x\\ny','\\0')", texts(&["a\\b", "x\ny", "\0"]), texts(&["ab", "a\\\\b", "xny"])),
        ("SET('a\\\\b','it''s')", texts(&["a\\b,it's"]), texts(&["a\\\\b"])),
        ("SET('a','b','c')", texts(&["", "a", "a,c", "a,b,c"]), texts(&["c,a", "d", "a,a", "1"])),
    ]
}

fn of_mariadb() -> Vec<(&'static str, Vec<Value>, Vec<Value>)> {
    let mut uuid = [0xFF; 16];
    (uuid[6], uuid[8]) = (0x41, 0x91);
    vec![
        ("UUID", vec![Value::Uuid([0; 16]), Value::Uuid(uuid)], vec![text("none")]),
        ("INET6", vec![other("::1"), other("2001:db8::ff00:42:8329")], vec![other("nowhere")]),
        (
            "TIME(6)",
            vec![Value::Time(3_020_399_999_999), Value::Time(-3_020_399_999_999)],
            vec![Value::Time(-3_020_400_000_000)],
        ),
        ("INET4", vec![other("127.0.0.1")], vec![other("256.0.0.1")]),
    ]
}

/// Equal to the bit, but for JSON and decimals, which the server writes in its own way.
fn identical(left: &Value, right: &Value) -> bool {
    match (left, right) {
        (Value::Real(left), Value::Real(right)) => left.to_bits() == right.to_bits(),
        _ => left == right,
    }
}

fn row(things: &MyRows, id: i64, value: &Value) -> (DynKey, DynRow) {
    let values = vec![Value::Integer(id), value.clone()];
    (DynKey::new([Value::Integer(id)]).unwrap(), DynRow::new(things.columns().clone(), values).unwrap())
}

async fn every_way(db: &Database, table: &str, declared: &str, good: &[Value], bad: &[Value]) {
    let things = MyRows::discover(db, table).await.unwrap().with_fence().await.unwrap();
    let values = good.iter().chain([&Value::Null]);
    let records: Vec<_> = values.zip(1..).map(|(value, id)| row(&things, id, value)).collect();
    let keys: Vec<_> = records.iter().map(|(key, _)| key.clone()).collect();
    // One by one, in bulk, as a page, as a page over what is there.
    for way in 0..4_u64 {
        if way < 3 {
            db.execute(format!("DELETE FROM {table}")).await.unwrap();
        }
        match way {
            0 => {
                for (key, row) in &records {
                    things.put(key, row).await.unwrap();
                }
            }
            1 => {
                let puts: Vec<_> =
                    records.iter().map(|(key, row)| Change::Put(key.clone(), row.clone())).collect();
                things.apply(&puts).await.unwrap();
            }
            _ => {
                let load = things.load_page(Stamp(way), &KeyRange::all(), &records).await.unwrap();
                assert_eq!((load.written, load.rejected.len()), (records.len() as u64, 0), "{declared}");
            }
        }
        let page = things.page(&KeyRange::all(), 1000).await.unwrap();
        let many = things.get_many(&keys).await.unwrap();
        assert_eq!(page.len(), records.len());
        for (((key, row), paged), many) in records.iter().zip(page).zip(many) {
            let wanted = &row.values()[1];
            let got = things.get(key).await.unwrap().unwrap();
            for (how, found) in [("get", &got), ("page", &paged.1.unwrap()), ("get_many", &many.unwrap())] {
                let found = &found.values()[1];
                assert!(identical(found, wanted), "{declared}, {how}, way {way}: {found} is not {wanted}");
            }
        }
    }
    for value in bad {
        let (key, row) = row(&things, 1_000, value);
        let error = things.put(&key, &row).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Rejected, "{declared} takes {value}: {error:?}");
        let load = things.load_page(Stamp(9), &KeyRange::all(), &[(key, row)]).await.unwrap();
        assert_eq!((load.written, load.rejected.len()), (0, 1), "{declared} takes {value} in a page");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_value_of_every_type_comes_back() {
    let Some(db) = database("").await else { return };
    let mut types = types();
    if db.server_version().contains("MariaDB") {
        types.extend(of_mariadb());
    }
    for (at, (declared, good, bad)) in types.iter().enumerate() {
        let table = format!("things{at}");
        db.execute(format!("CREATE TABLE {table} (id INT PRIMARY KEY, v {declared})")).await.unwrap();
        every_way(&db, &table, declared, good, bad).await;
    }
}

#[tokio::test]
async fn types_that_cannot_be_carried_are_refused_with_the_column() {
    let Some(db) = database("CREATE TABLE places (id INT PRIMARY KEY, spot POINT NOT NULL)").await else {
        return;
    };
    let error = MyRows::discover(&db, "places").await.unwrap_err();
    assert_eq!(error.kind(), Kind::Invalid);
    assert!(error.to_string().contains("spot") && error.to_string().contains("point"), "{error}");
}

#[tokio::test]
async fn zero_dates_and_other_leftovers_keep_their_place_with_an_error() {
    let Some((db, things)) =
        rows_of("CREATE TABLE things (id INT PRIMARY KEY, d DATE, t DATETIME)", "things").await
    else {
        return;
    };
    db.execute(
        "SET sql_mode = ''; INSERT INTO things VALUES (1, '2024-01-01', NULL), (2, '0000-00-00', NULL), \
         (3, NULL, '2024-00-10 01:02:03'), (4, NULL, NULL)",
    )
    .await
    .unwrap();
    let page = things.page(&KeyRange::all(), 10).await.unwrap();
    let errors: Vec<_> = page.iter().map(|(_, row)| row.as_ref().err().map(ToString::to_string)).collect();
    assert!(errors[0].is_none() && errors[3].is_none(), "{errors:?}");
    assert!(errors[1].as_ref().unwrap().contains("column d of table things"), "{errors:?}");
    assert!(errors[2].as_ref().unwrap().contains("column t of table things"), "{errors:?}");
    assert_eq!(page[3].1.as_ref().unwrap().values()[1], Value::Null);
    let key = DynKey::new([Value::Integer(2)]).unwrap();
    assert_eq!(things.get(&key).await.unwrap_err().kind(), Kind::Rejected);
}

/// A key that the column's character set has no characters for is the key of no row.
#[tokio::test]
async fn keys_in_characters_that_the_column_lacks_are_not_there() {
    let schema = "CREATE TABLE words (word VARCHAR(20) CHARACTER SET latin1 PRIMARY KEY, n INT)";
    let Some((_db, words)) = rows_of(schema, "words").await else { return };
    let key = |word: &str| DynKey::new([text(word)]).unwrap();
    let row = |word: &str| DynRow::new(words.columns().clone(), vec![text(word), Value::Integer(1)]).unwrap();
    words.put(&key("?"), &row("?")).await.unwrap();
    assert_eq!(words.get(&key("中")).await.unwrap(), None);
    assert_eq!(words.get_many(&[key("中"), key("?")]).await.unwrap(), [None, Some(row("?"))]);
    words.delete(&key("中")).await.unwrap();
    let error = words.put(&key("中"), &row("中")).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Rejected, "{error:?}");
    assert_eq!(words.page(&KeyRange::after(key("中")), 10).await.unwrap().len(), 0);
    let up_to = KeyRange { after: None, up_to: Some(key("中")) };
    assert_eq!(words.page(&up_to, 10).await.unwrap().len(), 1);
}

/// NULL would be counted up, or become the present time.
#[tokio::test]
async fn null_is_refused_where_the_server_would_put_a_value_of_its_own() {
    let schema = "CREATE TABLE things (id INT PRIMARY KEY, n INT AUTO_INCREMENT UNIQUE, \
                  at TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP, t VARCHAR(9) NOT NULL DEFAULT 'x')";
    let Some((_db, things)) = rows_of(schema, "things").await else { return };
    let full = vec![Value::Integer(1), Value::Integer(7), Value::Timestamp(1_000_000), text("t")];
    let key = DynKey::new([Value::Integer(1)]).unwrap();
    let row = |values: Vec<Value>| DynRow::new(things.columns().clone(), values).unwrap();
    things.put(&key, &row(full.clone())).await.unwrap();
    for (at, column) in [(1, "column n"), (2, "column at"), (3, "column t")] {
        let mut values = full.clone();
        values[at] = Value::Null;
        let error = things.put(&key, &row(values)).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Rejected, "{error:?}");
        assert!(error.to_string().contains(column), "{error}");
    }
    assert_eq!(things.get(&key).await.unwrap(), Some(row(full)));
}

#[tokio::test]
async fn zero_is_zero_in_a_counted_column() {
    let Some((db, things)) =
        rows_of("CREATE TABLE things (id INT AUTO_INCREMENT PRIMARY KEY, v INT)", "things").await
    else {
        return;
    };
    let (key, row) = row(&things, 0, &Value::Integer(7));
    things.put(&key, &row).await.unwrap();
    assert_eq!(rows(&db, "SELECT CONCAT(id, '-', v) FROM things").await, ["0-7"]);
}

#[tokio::test]
async fn a_value_that_does_not_fit_names_its_column() {
    let Some((_db, table)) = users(USERS).await else { return };
    let wrong = User { score: f64::NAN, ..user(1, "a") };
    let error = table.put(&1, &wrong).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Rejected);
    for words in ["record 1", "score", "users"] {
        assert!(error.to_string().contains(words), "{error}");
    }
}

#[tokio::test]
async fn records_carry_the_types_that_both_sides_agree_on() {
    let schema = "CREATE TABLE things (id CHAR(36) CHARACTER SET ascii COLLATE ascii_bin PRIMARY KEY, day VARCHAR(30), \
                  price VARCHAR(30), flag VARCHAR(5), doc TEXT, n DECIMAL(20,4))";
    let Some(db) = database(schema).await else { return };
    let names = |name: &str, ty: ColumnType| (name.to_owned(), ty);
    let columns = [
        names("id", ColumnType::Uuid),
        names("day", ColumnType::Date),
        names("price", ColumnType::Decimal { precision: None, scale: None, special: true }),
        names("flag", ColumnType::Boolean),
        names("doc", ColumnType::Json),
        names("n", ColumnType::signed(32)),
    ];
    let things = MyRows::discover_as(&db, "things", &columns).await.unwrap();
    let id = Value::Uuid([0xAB; 16]);
    assert_eq!(&things.columns()[..], ["id", "day", "price", "flag", "doc", "n"]);
    // Rows have their columns in the order of the list, whatever the table's own.
    let turned: Vec<_> = columns.iter().rev().cloned().collect();
    let other = MyRows::discover_as(&db, "things", &turned).await.unwrap();
    assert_eq!(&other.columns()[..], ["n", "doc", "flag", "price", "day", "id"]);
    let values = vec![
        id.clone(),
        Value::Date(0),
        decimal("12.50"),
        Value::Integer(1),
        Value::Json(r#"{"a":1}"#.into()),
        Value::Integer(-7),
    ];
    let key = DynKey::new([id]).unwrap();
    let row = DynRow::new(things.columns().clone(), values).unwrap();
    things.put(&key, &row).await.unwrap();
    assert_eq!(things.get(&key).await.unwrap(), Some(row));
    assert_eq!(
        rows(&db, "SELECT CONCAT_WS('|', id, day, price, flag, doc, n) FROM things").await,
        [r#"abababab-abab-abab-abab-abababababab|1970-01-01|12.50|1|{"a":1}|-7.0000"#]
    );
    db.execute("UPDATE things SET day = 'soon'").await.unwrap();
    let page = things.page(&KeyRange::all(), 1).await.unwrap();
    assert!(page[0].1.as_ref().unwrap_err().to_string().contains("day"), "{page:?}");
    let error = MyRows::discover_as(&db, "things", &[names("nope", ColumnType::Date)]).await.unwrap_err();
    assert!(error.to_string().contains("nope"), "{error}");
    let error = MyRows::discover_as(&db, "things", &[names("id", ColumnType::signed(64))]).await.unwrap_err();
    assert!(error.to_string().contains("key column id"), "{error}");
}

#[tokio::test]
async fn a_typed_row_that_cannot_be_mapped_keeps_its_place_in_the_page() {
    let Some(db) = database(&USERS.replace("score DOUBLE", "score VARCHAR(9)")).await else { return };
    let table = MyTable::<User>::open(&db).await.unwrap();
    db.execute("INSERT INTO users VALUES (1, 'a', NULL, '1.5'), (2, 'b', NULL, 'x')").await.unwrap();
    let page = table.page(&KeyRange::all(), 10).await.unwrap();
    assert_eq!(page.iter().map(|(key, _)| *key).collect::<Vec<_>>(), [1, 2]);
    for (_, record) in &page {
        let error = record.as_ref().unwrap_err();
        assert_eq!(error.kind(), Kind::Rejected);
        assert!(error.to_string().contains("score"), "{error}");
    }
}
