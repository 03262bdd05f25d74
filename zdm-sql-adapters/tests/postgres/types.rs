//! Every value of every type comes back as it went in, by every way a record can be read and written.

use sqlx::AssertSqlSafe;
use zdm_core::error::Kind;
use zdm_core::key::{KeyBytes, KeyRange};
use zdm_core::store::{Bulk, Change, Fenced, Scan, Stamp, Store};
use zdm_sql_adapters::postgres::{PgRows, PgTable};
use zdm_sql_adapters::table::{ColumnType, DynKey, DynRow, Interval, Value};

use crate::support::{Database, User, database, rows, user, users};

fn text(text: &str) -> Value {
    Value::Text(text.to_owned())
}

fn decimal(text: &str) -> Value {
    Value::Decimal(text.parse().unwrap())
}

fn other(text: &str) -> Value {
    Value::Other(text.to_owned())
}

/// A type and values at its edges.
fn edges() -> Vec<(&'static str, Vec<Value>)> {
    let bits = |text: &str| Value::Text(text.to_owned());
    vec![
        ("boolean", vec![Value::Integer(0), Value::Integer(1)]),
        ("smallint", vec![Value::Integer(-32_768), Value::Integer(32_767)]),
        ("integer", vec![Value::Integer(i64::from(i32::MIN)), Value::Integer(i64::from(i32::MAX))]),
        ("bigint", vec![Value::Integer(i64::MIN), Value::Integer(i64::MAX), Value::Integer(0)]),
        ("oid", vec![Value::Integer(0), Value::Integer(4_294_967_295)]),
        (
            "numeric",
            vec![
                decimal("0"),
                decimal("-0.000000000000000000000000000000000001"),
                decimal("123456789012345678901234567890.123456789"),
                decimal("10000"),
                decimal("0.00010000"),
                decimal(&"9".repeat(3_000)),
                decimal("NaN"),
                decimal("Infinity"),
                decimal("-Infinity"),
            ],
        ),
        ("numeric(12, 4)", vec![decimal("99999999.9999"), decimal("-0.0001"), decimal("NaN")]),
        ("numeric(3, -2)", vec![decimal("99900"), decimal("-100")]),
        ("numeric(2, 4)", vec![decimal("0.0099")]),
        (
            "real",
            vec![0.5, f64::from(f32::MAX), f64::from(f32::MIN_POSITIVE), f64::INFINITY, f64::NAN]
                .into_iter()
                .map(Value::Real)
                .collect(),
        ),
        (
            "double precision",
            vec![0.1, -0.0, 1.0 / 3.0, 5e-324, f64::MAX, f64::NEG_INFINITY, f64::NAN]
                .into_iter()
                .map(Value::Real)
                .collect(),
        ),
        (
            "text",
            vec![
                text(""),
                text(" a "),
                text("'\\\"\u{1}\t\r\n"),
                text("é 🦀 \u{10ffff}"),
                text(&"x".repeat(100_000)),
            ],
        ),
        ("varchar(5)", vec![text("äöü  "), text("")]),
        ("char(5)", vec![text(" ab"), text("")]),
        ("char", vec![other("x")]),
        ("name", vec![text("pg_class")]),
        ("color", vec![text("red"), text("Dark Blue, \"so\"")]),
        ("small", vec![Value::Integer(9)]),
        (
            "bytea",
            vec![Value::Blob(vec![]), Value::Blob((0..=255).collect()), Value::Blob(vec![0xAB; 100_000])],
        ),
        ("date", [0, 10_957, -2_440_588, 2_145_042_905, i32::MIN, i32::MAX].map(Value::Date).into()),
        ("time", [0, 1, 86_399_999_999, 86_400_000_000].map(Value::Time).into()),
        (
            "timestamp",
            [0, -1, 946_684_800_000_000, -210_866_803_200_000_000, i64::MIN, i64::MAX]
                .map(Value::Timestamp)
                .into(),
        ),
        ("timestamptz(3)", [1_000, 253_402_300_799_999_000, i64::MIN, i64::MAX].map(Value::Timestamp).into()),
        (
            "interval",
            [(0, 0, 0), (1, 0, 0), (0, 30, 0), (-14, 5, -1), (i32::MAX, i32::MIN, i64::MAX)]
                .map(|(months, days, micros)| Value::Interval(Interval { months, days, micros }))
                .into(),
        ),
        (
            "json",
            vec![
                Value::Json("{\"a\": [1, 2.50, null],  \"a\": \"\\u0041\"}".to_owned()),
                Value::Json("null".to_owned()),
            ],
        ),
        ("jsonb", vec![Value::Json("{\"a\":[1,2.5,null]}".to_owned()), Value::Json("\"x\"".to_owned())]),
        ("uuid", vec![Value::Uuid([0; 16]), Value::Uuid([0xF7; 16])]),
        ("bit(10)", vec![bits("0101010101")]),
        ("bit varying", vec![bits(""), bits("1"), bits("000000001")]),
        ("int[]", vec![other("{}"), other("{1,NULL,-3}"), other("{{1,2},{3,4}}"), other("[0:1]={5,6}")]),
        ("text[]", vec![other("{\"a,b\",\"\\\"\",NULL,\"NULL\"}")]),
        ("timestamptz[]", vec![other("{\"2024-01-01 00:00:00+00\"}")]),
        ("color[]", vec![other("{red,\"Dark Blue, \\\"so\\\"\"}")]),
        ("int4range", vec![other("[1,5)"), other("empty"), other("(,)")]),
        ("inet", vec![other("10.0.0.1/8"), other("::1/128")]),
        ("cidr", vec![other("10.0.0.0/8")]),
        ("macaddr", vec![other("08:00:2b:01:02:03")]),
        ("timetz", vec![other("12:00:00+01"), other("11:00:00+00")]),
        ("money", vec![other("-$12.50")]),
        ("point", vec![other("(1.5,-2)")]),
        ("box", vec![other("(2,2),(1,1)")]),
        ("tsvector", vec![other("'cat':2 'fat':1")]),
        ("xml", vec![other("<a b=\"c\"/>")]),
        ("pg_lsn", vec![other("16/B374D848")]),
        ("pair", vec![other("(1,\"x,y\")"), other("(,)")]),
    ]
}

const TYPES: &str = "CREATE TYPE color AS ENUM ('red', 'Dark Blue, \"so\"'); CREATE DOMAIN small AS int CHECK (VALUE < 10); \
    CREATE TYPE pair AS (a int, b text);";

fn identical(left: &Value, right: &Value) -> bool {
    match (left, right) {
        (Value::Real(left), Value::Real(right)) => {
            left.to_bits() == right.to_bits() || left.is_nan() && right.is_nan()
        }
        _ => left == right,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_value_of_every_type_comes_back() {
    let Some(db) = database(TYPES).await else { return };
    let mut edges = edges();
    // Infinite numbers came with version 14, a scale outside the precision and the text form of the longest
    // interval, by which rows are compared, with version 15.
    let infinite = [decimal("Infinity"), decimal("-Infinity")];
    edges.retain_mut(|(ty, values)| {
        values.retain(|value| match value {
            Value::Interval(interval) => interval.micros < i64::MAX || db.server_version() >= 150_000,
            value => db.server_version() >= 140_000 || !infinite.contains(value),
        });
        db.server_version() >= 150_000 || !["numeric(3, -2)", "numeric(2, 4)"].contains(ty)
    });
    let mut schema = String::new();
    for (at, (ty, _)) in edges.iter().enumerate() {
        let ty = if *ty == "char" { "\"char\"" } else { ty };
        schema.push_str(&format!("CREATE TABLE t{at} (id int PRIMARY KEY, v {ty});"));
    }
    db.execute(schema).await.unwrap();
    for (at, (ty, values)) in edges.iter().enumerate() {
        let table = format!("t{at}");
        let things = PgRows::discover(&db, &table).await.unwrap();
        let fenced = things.clone().with_fence().await.unwrap();
        let key = |id: usize| DynKey::new([Value::Integer(id as i64)]).unwrap();
        let records: Vec<_> = values
            .iter()
            .chain([&Value::Null])
            .enumerate()
            .map(|(id, value)| {
                let values = vec![Value::Integer(id as i64), value.clone()];
                (key(id), DynRow::new(things.columns().clone(), values).unwrap())
            })
            .collect();
        let keys: Vec<_> = records.iter().map(|(key, _)| key.clone()).collect();
        // One by one, in bulk, as a page into nothing, as a page onto itself.
        for way in 0..4 {
            if way < 3 {
                db.execute(format!("TRUNCATE {table}")).await.unwrap();
            }
            match way {
                0 => {
                    for (key, row) in &records {
                        things.put(key, row).await.unwrap_or_else(|error| panic!("{ty}: {error:?}"));
                    }
                }
                1 => {
                    let puts: Vec<_> =
                        records.iter().map(|(key, row)| Change::Put(key.clone(), row.clone())).collect();
                    things.apply(&puts).await.unwrap();
                }
                _ => {
                    let stamp = Stamp(way);
                    let load = fenced.load_page(stamp, &KeyRange::all(), &records).await.unwrap();
                    assert_eq!((load.written, load.rejected.len()), (records.len() as u64, 0), "{ty}");
                }
            }
            let page = things.page(&KeyRange::all(), 1000).await.unwrap();
            let many = things.get_many(&keys).await.unwrap();
            assert_eq!(page.len(), records.len());
            for (((key, row), paged), many) in records.iter().zip(page).zip(many) {
                let wanted = row.get("v").unwrap();
                let got = things.get(key).await.unwrap().unwrap();
                for (how, found) in [("get", &got), ("page", &paged.1.unwrap()), ("get_many", &many.unwrap())]
                {
                    let found = found.get("v").unwrap();
                    assert!(
                        identical(found, wanted),
                        "{ty}: {how} after way {way}: {found:?} is not {wanted:?}"
                    );
                }
            }
        }
    }
}

/// What the server would round, cut or pad is refused with the column's name, and changes nothing.
#[tokio::test]
async fn values_that_do_not_fit_are_refused_with_their_column() {
    let schema = "CREATE TABLE t (id int PRIMARY KEY, short varchar(3), fixed char(3), price numeric(4, 2), \
        narrow real, whole time(0), stamp timestamp(3), b bit(2), j jsonb, tags int[], small smallint, ident name)";
    let Some(db) = database(schema).await else { return };
    let table = PgRows::discover(&db, "t").await.unwrap();
    let key = DynKey::new([Value::Integer(1)]).unwrap();
    let mut empty = DynRow::new(table.columns().clone(), vec![Value::Null; 12]).unwrap();
    empty.set("id", 1).unwrap();
    table.put(&key, &empty).await.unwrap();
    for (column, value) in [
        ("short", text("abc ")),
        ("short", text("a\0")),
        ("fixed", text("a ")),
        ("price", decimal("1.234")),
        ("price", decimal("100")),
        ("narrow", Value::Real(0.1)),
        ("whole", Value::Time(1)),
        ("whole", Value::Time(-1_000_000)),
        ("stamp", Value::Timestamp(1)),
        ("b", text("1")),
        ("j", text("no json")),
        ("tags", Value::Integer(1)),
        ("tags", other("{x}")),
        ("small", Value::Integer(40_000)),
        ("small", Value::Unsigned(u64::MAX)),
        ("small", Value::Blob(vec![1])),
        ("ident", Value::Text("ä".repeat(32))),
    ] {
        let mut row = empty.clone();
        row.set(column, value.clone()).unwrap();
        let error = table.put(&key, &row).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Rejected, "{column} {value}: {error:?}");
        let local = error.to_string().contains(column) || value == other("{x}");
        assert!(local && error.to_string().contains('t'), "{column} {value}: {error}");
        assert_eq!(table.get(&key).await.unwrap().unwrap(), empty, "{column}");
    }
}

/// What only compares equal to the server is another value all the same.
#[tokio::test]
async fn a_put_replaces_what_only_compares_equal() {
    let Some(db) = database("CREATE TABLE t (id int PRIMARY KEY, span interval, j json, r point)").await
    else {
        return;
    };
    let table = PgRows::discover(&db, "t").await.unwrap().with_fence().await.unwrap();
    let key = DynKey::new([Value::Integer(1)]).unwrap();
    let span = |months, days| Value::Interval(Interval { months, days, micros: 0 });
    let row = |span, json: &str| {
        let values = vec![Value::Integer(1), span, Value::Json(json.to_owned()), other("(1,2)")];
        DynRow::new(table.columns().clone(), values).unwrap()
    };
    let rows = [row(span(1, 0), "1"), row(span(0, 30), "1"), row(span(0, 30), "2"), row(span(1, 0), "[]")];
    for (stamp, row) in rows.iter().enumerate() {
        table.put(&key, row).await.unwrap();
        assert_eq!(table.get(&key).await.unwrap().as_ref(), Some(row));
        let other = &rows[(stamp + 1) % rows.len()];
        table
            .load_page(Stamp(stamp as u64 + 1), &KeyRange::all(), &[(key.clone(), other.clone())])
            .await
            .unwrap();
        assert_eq!(table.get(&key).await.unwrap().as_ref(), Some(other));
    }
}

/// Keys of a type, in an order of their own that is none.
async fn keys(db: &Database, name: &str, ty: &str, values: Vec<Value>) {
    db.execute(format!("CREATE TABLE {name} (k {ty} PRIMARY KEY, v int)")).await.unwrap();
    let table = PgRows::discover(db, name).await.unwrap_or_else(|error| panic!("{ty}: {error}"));
    let mut keys: Vec<_> = values.into_iter().map(|value| DynKey::new([value]).unwrap()).collect();
    let row = |key: &DynKey, version: i64| {
        let values = vec![key.values()[0].clone(), Value::Integer(version)];
        DynRow::new(table.columns().clone(), values).unwrap()
    };
    let puts: Vec<_> = keys.iter().map(|key| Change::Put(key.clone(), row(key, 1))).collect();
    table.apply(&puts).await.unwrap_or_else(|error| panic!("{ty}: {error:?}"));
    keys.sort_unstable();
    let page = table.page(&KeyRange::all(), 100).await.unwrap_or_else(|error| panic!("{ty}: {error:?}"));
    assert_eq!(page.iter().map(|(key, _)| key.clone()).collect::<Vec<_>>(), keys, "{ty}");
    for (at, key) in keys.iter().enumerate() {
        // As a queue or a checkpoint brings it back.
        let stored: DynKey = KeyBytes::of(key).to_key().unwrap();
        assert_eq!(table.get(&stored).await.unwrap(), Some(row(key, 1)), "{ty}: {key:?}");
        let after = table.page(&KeyRange::after(key.clone()), 100).await.unwrap();
        assert_eq!(after.len(), keys.len() - at - 1, "{ty}: after {key:?}");
        let up_to = KeyRange { after: None, up_to: Some(key.clone()) };
        assert_eq!(table.page(&up_to, 100).await.unwrap().len(), at + 1, "{ty}: up to {key:?}");
    }
    let found = table.get_many(&keys).await.unwrap();
    assert!(found.iter().all(Option::is_some), "{ty}");
    table.put(&keys[0], &row(&keys[0], 2)).await.unwrap();
    assert_eq!(table.get(&keys[0]).await.unwrap(), Some(row(&keys[0], 2)));
    let deletes: Vec<_> = keys.iter().map(|key| Change::Delete(key.clone())).collect();
    table.apply(&deletes).await.unwrap();
    assert_eq!(rows(db, format!("SELECT count(*)::text FROM {name}")).await, ["0"], "{ty}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_of_every_type_are_walked_in_their_own_order() {
    let schema = "CREATE TYPE level AS ENUM ('low', 'high', 'Medium'); CREATE DOMAIN code AS varchar(9)";
    let Some(db) = database(schema).await else { return };
    let integers = || [5, -1, 0, 300, -300].map(Value::Integer).to_vec();
    let words = || ["b", "A", "a", "Z", "ä", "", "a b", "ab", "a'b", "🦀", "\u{ffff}"].map(text).to_vec();
    for (at, (ty, values)) in [
        ("smallint", integers()),
        ("int GENERATED ALWAYS AS IDENTITY", integers()),
        ("bigint", vec![Value::Integer(i64::MAX), Value::Integer(i64::MIN), Value::Integer(0)]),
        ("oid", vec![Value::Integer(4_000_000_000), Value::Integer(1)]),
        ("boolean", vec![Value::Integer(1), Value::Integer(0)]),
        ("numeric", ["10", "-3.5", "9.99", "0.001", "123456789012345678901"].map(decimal).to_vec()),
        ("double precision", [1.5, -2.0, 0.0, f64::INFINITY, f64::MIN].map(Value::Real).to_vec()),
        ("text", words()),
        ("text COLLATE \"C\"", words()),
        ("text COLLATE \"en-x-icu\"", words()),
        ("varchar(20)", words()),
        ("name", words()),
        ("code", words()),
        ("char(10)", words()),
        ("level", ["low", "high", "Medium"].map(text).to_vec()),
        (
            "bytea",
            vec![Value::Blob(vec![0]), Value::Blob(vec![]), Value::Blob(vec![0xFF]), Value::Blob(vec![0, 0])],
        ),
        ("date", [0, -5, 20_000, i32::MAX, i32::MIN].map(Value::Date).to_vec()),
        ("time", [0, 5, 86_400_000_000].map(Value::Time).to_vec()),
        ("timestamp", [0, -1, 253_402_300_800_000_000, i64::MAX, i64::MIN].map(Value::Timestamp).to_vec()),
        ("timestamptz", [0, -62_135_596_800_000_001, 1].map(Value::Timestamp).to_vec()),
        ("uuid", vec![Value::Uuid([0xFF; 16]), Value::Uuid([1; 16]), Value::Uuid([0; 16])]),
        ("bit varying", ["1", "01", "0", "000000001", "00"].map(text).to_vec()),
    ]
    .into_iter()
    .enumerate()
    {
        keys(&db, &format!("k{at}"), ty, values).await;
    }
}

/// A store that was opened before does not take the new bytes for the old type, and a new one prepares anew.
#[tokio::test]
async fn a_table_may_be_altered_while_it_is_in_use() {
    let Some(db) = database("CREATE TABLE t (id int PRIMARY KEY, v int); INSERT INTO t VALUES (1, 2)").await
    else {
        return;
    };
    let table = PgRows::discover(&db, "t").await.unwrap();
    let key = DynKey::new([Value::Integer(1)]).unwrap();
    table.get(&key).await.unwrap().unwrap();
    db.execute("ALTER TABLE t ALTER v TYPE bigint").await.unwrap();
    let error = table.get(&key).await.unwrap_err();
    assert!(matches!(error.kind(), Kind::Busy | Kind::Invalid), "{error:?}");
    let table = PgRows::discover(&db, "t").await.unwrap();
    // Each connection that had prepared the statement says so once.
    let mut row = loop {
        match table.get(&key).await {
            Ok(row) => break row.unwrap(),
            Err(error) => assert_eq!(error.kind(), Kind::Busy, "{error:?}"),
        }
    };
    row.set("v", i64::MAX).unwrap();
    table.put(&key, &row).await.unwrap();
    assert_eq!(rows(&db, "SELECT v::text FROM t").await, [i64::MAX.to_string()]);
}

/// Both sides of a migration are opened with the same types, whatever their columns are.
#[tokio::test]
async fn rows_carry_the_types_that_both_sides_agreed_on() {
    let schema = "CREATE TABLE t (id text PRIMARY KEY, n numeric(20, 2), at text, j text); \
        INSERT INTO t VALUES ('00000000-0000-0000-0000-00000000000a', 5, '2000-02-29 00:00:00.5', '{\"a\": 1}')";
    let Some(db) = database(schema).await else { return };
    let types = [
        ("id".to_owned(), ColumnType::Uuid),
        ("n".to_owned(), ColumnType::signed(64)),
        ("at".to_owned(), ColumnType::Timestamp { zone: false, digits: 6 }),
        ("j".to_owned(), ColumnType::Json),
    ];
    let table = PgRows::discover_as(&db, "t", &types).await.unwrap();
    let mut uuid = [0; 16];
    uuid[15] = 10;
    let key = DynKey::new([Value::Uuid(uuid)]).unwrap();
    let mut row = table.get(&key).await.unwrap().unwrap();
    let wanted = [
        Value::Uuid(uuid),
        Value::Integer(5),
        Value::Timestamp(951_782_400_500_000),
        Value::Json("{\"a\":1}".to_owned()),
    ];
    assert_eq!(row.values(), wanted);
    row.set("n", -7).unwrap();
    table.put(&key, &row).await.unwrap();
    assert_eq!(table.page(&KeyRange::all(), 9).await.unwrap()[0].1.as_ref().unwrap(), &row);
    assert_eq!(rows(&db, "SELECT n::text || at FROM t").await, ["-7.002000-02-29 00:00:00.5"]);
    db.execute("UPDATE t SET n = 0.5").await.unwrap();
    let error = table.get(&key).await.unwrap_err();
    assert!(error.kind() == Kind::Rejected && error.to_string().contains("column n"), "{error}");

    let error = PgRows::discover_as(&db, "t", &[("x".to_owned(), ColumnType::Date)]).await.unwrap_err();
    assert!(error.kind() == Kind::Invalid && error.to_string().contains("column x"), "{error}");
    let error = PgRows::discover_as(&db, "t", &[("id".to_owned(), ColumnType::signed(8))]).await.unwrap_err();
    assert!(error.kind() == Kind::Invalid && error.to_string().contains("another order"), "{error}");
}

#[tokio::test]
async fn a_row_that_cannot_be_mapped_keeps_its_place_in_the_page() {
    let schema = "CREATE TABLE users (id bigint PRIMARY KEY, name text, email text, score float8)";
    let Some((db, table)) = users(schema).await else { return };
    db.execute("INSERT INTO users VALUES (1, 'a', NULL, 1), (2, NULL, NULL, 1), (3, 'c', NULL, 1)")
        .await
        .unwrap();
    let page = table.page(&KeyRange::all(), 10).await.unwrap();
    assert_eq!(page.iter().map(|(key, _)| *key).collect::<Vec<_>>(), [1, 2, 3]);
    for error in [page[1].1.as_ref().unwrap_err(), &table.get(&2).await.unwrap_err()] {
        assert_eq!(error.kind(), Kind::Rejected, "{error}");
        assert!(error.to_string().contains("name"), "{error}");
    }
    assert!(page[0].1.is_ok() && page[2].1.is_ok());
}

#[tokio::test]
async fn floats_come_back_bit_by_bit() {
    let schema = "CREATE TABLE users (id bigint PRIMARY KEY, name text, email text, score float8)";
    let Some((db, table)) = users(schema).await else { return };
    // A linear congruential generator over all bit patterns.
    let mut state = 0x2545_F491_4F6C_DD1D_u64;
    let mut floats = Vec::new();
    while floats.len() < 5_000 {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        floats.push(f64::from_bits(state ^ (state >> 29)));
    }
    let changes: Vec<_> = floats
        .iter()
        .zip(1..)
        .map(|(score, id)| Change::Put(id, User { score: *score, email: None, ..user(id, "") }))
        .collect();
    table.apply(&changes).await.unwrap();
    let page = table.page(&KeyRange::all(), floats.len()).await.unwrap();
    for ((id, read), wanted) in page.into_iter().zip(&floats) {
        let read = read.unwrap().score;
        assert!(identical(&Value::Real(read), &Value::Real(*wanted)), "row {id}: {read:?} is not {wanted:?}");
    }
    let found: i64 = db
        .read(|connection| {
            Box::pin(async move {
                let sql = "SELECT count(*) FROM users WHERE score = 'NaN'";
                Ok(sqlx::query_scalar(AssertSqlSafe(sql)).fetch_one(connection).await.unwrap())
            })
        })
        .await
        .unwrap();
    assert_eq!(found, floats.iter().filter(|float| float.is_nan()).count() as i64);
    drop::<PgTable<User>>(table);
}
