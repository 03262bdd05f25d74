//! Tables that grow from nothing to many rows while connections stay open, without fresh statistics.

use std::time::Duration;

use zdm_core::key::KeyRange;
use zdm_core::store::{Bulk, Change, Fenced, Scan, Stamp, Store};
use zdm_sql_adapters::postgres::PgRows;
use zdm_sql_adapters::table::{DynKey, DynRow, Value};

use crate::support::{database_with, rows};

#[tokio::test]
async fn no_call_walks_a_table_that_was_empty_when_its_connection_was_opened() {
    no_call_walks_a_table_with(0).await;
}

/// The fewer rows a server expects on a page, the cheaper it takes a walk to be.
#[tokio::test]
async fn no_call_walks_a_table_of_wide_rows_that_was_empty() {
    no_call_walks_a_table_with(40).await;
}

async fn no_call_walks_a_table_with(more: usize) {
    let wide: String = (0..more).map(|number| format!(", c{number} TEXT")).collect();
    let schema =
        format!("CREATE TABLE t (id BIGINT PRIMARY KEY, n INT{wide}) WITH (autovacuum_enabled = false)");
    let Some(db) = database_with(&schema, |options| options.writers(1).readers(1)).await else { return };
    let table = PgRows::discover(&db, "t").await.unwrap().with_fence().await.unwrap();
    let key = |id: i64| DynKey::new([Value::Integer(id)]).unwrap();
    let row = |id: i64| {
        let mut values = vec![Value::Integer(id), Value::Integer(0)];
        values.resize(2 + more, Value::Null);
        (key(id), DynRow::new(table.columns().clone(), values).unwrap())
    };
    let every_call = async |id: i64| {
        let (key, row) = row(id);
        let page = KeyRange::between(key.clone(), self::key_after(id));
        table.put(&key, &row).await.unwrap();
        table.get(&key).await.unwrap();
        table.get_many(std::slice::from_ref(&key)).await.unwrap();
        table.page(&page, 10).await.unwrap();
        table.delete(&key).await.unwrap();
        let stamp = Stamp(id.cast_unsigned());
        table.apply_if_newer(stamp, &[Change::Put(key.clone(), row)]).await.unwrap();
        table.apply_if_newer(stamp, &[Change::Delete(key)]).await.unwrap();
        table.load_page(stamp, &page, &[]).await.unwrap();
        let rest = KeyRange { after: Some(self::key_after(100_000)), up_to: None };
        table.load_page(stamp, &rest, &[]).await.unwrap();
    };
    // Often enough for plans to be kept.
    for id in 1..10 {
        every_call(id).await;
    }
    db.execute("INSERT INTO t SELECT i, 1 FROM generate_series(1000, 40000) i").await.unwrap();
    for id in 11..20 {
        every_call(id).await;
    }
    assert_eq!(rows(&db, "SELECT count(*)::text FROM t WHERE id < 1000").await, ["0"]);
    let own_count = 39_001;
    let mut other = db.other().await;
    // A connection tells what it did when it ends.
    db.close().await;
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    let sql = "SELECT seq_tup_read FROM pg_stat_user_tables WHERE relid = 't'::regclass";
    let read: i64 = sqlx::query_scalar(sql).fetch_one(&mut other).await.unwrap();
    assert!(read <= own_count, "{read} rows were read by walking the table");
}

fn key_after(id: i64) -> DynKey {
    DynKey::new([Value::Integer(id + 1)]).unwrap()
}
