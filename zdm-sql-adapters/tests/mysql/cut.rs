//! A connection that is lost at every byte of a write: what the write says is true.

use std::time::Duration;

use sqlx::mysql::MySqlConnectOptions;
use zdm_core::error::Certainty;
use zdm_sql_adapters::mysql::MySqlOptions;

use crate::cutting::{Proxy, Way};
use crate::support::{database, rows, url, write};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_lost_at_any_byte_of_a_write_leaves_no_wrong_answer() {
    let Some(db) = database("CREATE TABLE seen (id INT PRIMARY KEY, note VARCHAR(20) NOT NULL)").await else {
        return;
    };
    let direct: MySqlConnectOptions = url().unwrap().parse().unwrap();
    let server = format!("{}:{}", direct.get_host(), direct.get_port());
    let server = tokio::net::lookup_host(server).await.unwrap().next().unwrap();
    let proxy = Proxy::start(server).await;
    let through = direct.host("127.0.0.1").port(proxy.port).database(db.name());
    let through = MySqlOptions::with(through).unwrap().writers(1).readers(1).connect().await.unwrap();

    let (mut id, mut unknown, mut refused) = (0, 0, 0);
    for way in [Way::ToServer, Way::ToClient] {
        for bytes in 0.. {
            id += 1;
            // A connection that is whole, whose first byte is the first of this write.
            write(&through, "DO 1").await.unwrap();
            proxy.allow(way, bytes);
            let outcome =
                write(&through, format!("INSERT INTO seen VALUES ({id}, 'cut after {bytes}')")).await;
            let whole = !proxy.calm(way);
            // Whatever the server has received, it has done by then.
            tokio::time::sleep(Duration::from_millis(10)).await;
            let found = rows(&db, format!("SELECT note FROM seen WHERE id = {id}")).await.len();
            match &outcome {
                Ok(()) => assert_eq!(found, 1, "{way:?} {bytes}: acknowledged and not there"),
                Err(error) if error.certainty() == Certainty::NotApplied => {
                    refused += 1;
                    assert_eq!(found, 0, "{way:?} {bytes}: there, though {error}");
                }
                Err(_) => unknown += 1,
            }
            if whole {
                assert!(outcome.is_ok(), "{way:?} {bytes}: {outcome:?}");
                assert!(bytes > 30, "the write has more bytes than that: {bytes}");
                break;
            }
        }
    }
    assert!(unknown > 10 && refused > 10, "{unknown} unknown, {refused} refused");
}
