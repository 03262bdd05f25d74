//! The checker finds what was planted, and nothing where there is nothing.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use sqlx::sqlite::SqliteConnection;
use sqlx::{AssertSqlSafe, ConnectOptions, Connection};
use zdm_examples::live_migration::checker::{Verdict, check};
use zdm_examples::live_migration::ledger::Ledger;
use zdm_examples::live_migration::load::{connect_options, load};
use zdm_examples::live_migration::new_schema;
use zdm_examples::live_migration::options::TemporaryDirectory;

const ROWS: u64 = 2_000;
/// Some line of the data set that belongs to no flight under test.
const WRITTEN: &str = "2013,7,4,2400,1,-9,NA,2400,NA,UA,7,NA,EWR,IAH,NA,17,0,1,2013-07-04T04:00:00Z";

/// Copies every row of the old database with one statement, written for this test alone.
const COPY: &str = "INSERT INTO departures
    SELECT id, printf('%04d-%02d-%02d', year, month, day), carrier || flight, carrier, flight, tailnum,
        origin, dest, sched_dep_time / 100, sched_dep_time % 100, sched_arr_time / 100, sched_arr_time % 100,
        dep_time / 100 * 60 + dep_time % 100, arr_time / 100 * 60 + arr_time % 100, dep_delay, arr_delay,
        air_time, distance * 1.609344, unixepoch(time_hour)
    FROM old.flights";

struct Bench {
    dir: TemporaryDirectory,
    ledger: Ledger,
}

impl Bench {
    /// Both databases in step, and a ledger without writes.
    async fn new() -> Self {
        let dir = TemporaryDirectory::create().unwrap();
        assert_eq!(load(&dir.path().join("old.db"), ROWS).await.unwrap(), ROWS);
        let ledger = Ledger::create(&dir.path().join("ledger"), ROWS).unwrap();
        let bench = Self { dir, ledger };
        let mut new = bench.open("new.db").await;
        let attach = format!("ATTACH '{}' AS old", bench.dir.path().join("old.db").display());
        for sql in [attach.as_str(), new_schema::CREATE, COPY] {
            sqlx::query(AssertSqlSafe(sql)).execute(&mut new).await.unwrap();
        }
        new.close().await.unwrap();
        bench
    }

    async fn open(&self, file: &str) -> SqliteConnection {
        connect_options(&self.dir.path().join(file)).connect().await.unwrap()
    }

    async fn change(&self, file: &str, sql: &str) {
        let mut database = self.open(file).await;
        let done = sqlx::query(AssertSqlSafe(sql)).execute(&mut database).await.unwrap();
        assert!(done.rows_affected() > 0, "{sql} changed nothing");
        database.close().await.unwrap();
    }

    /// Changes a flight in both databases to what `WRITTEN` says.
    async fn write_both(&self, id: i64) {
        let old = format!(
            "REPLACE INTO flights VALUES ({id}, 2013, 7, 4, 2400, 1, -9, NULL, 2400, NULL, 'UA', 7, NULL, 'EWR',
             'IAH', NULL, 17, 0, 1, '2013-07-04T04:00:00Z')"
        );
        let new = format!(
            "REPLACE INTO departures VALUES ({id}, '2013-07-04', 'UA7', 'UA', 7, NULL, 'EWR', 'IAH', 0, 1, 24, 0,
             1440, NULL, -9, NULL, NULL, 27.358848, 1372910400)"
        );
        self.change("old.db", &old).await;
        self.change("new.db", &new).await;
    }

    async fn remove_both(&self, id: i64) {
        self.change("old.db", &format!("DELETE FROM flights WHERE id = {id}")).await;
        self.change("new.db", &format!("DELETE FROM departures WHERE flight_id = {id}")).await;
    }

    fn acknowledge(&self, key: i64, value: Option<&str>) {
        let write = self.ledger.intend(key, |_| value.map(str::to_owned)).unwrap();
        self.ledger.acknowledged(write).unwrap();
    }

    async fn check(&self) -> Verdict {
        let path = |file| self.dir.path().join(file);
        check(&path("old.db"), &path("new.db"), &path("ledger")).await.unwrap()
    }

    async fn expect(&self, lost: u64, extra: u64, mismatches: u64) -> Verdict {
        let verdict = self.check().await;
        let counts = (verdict.lost, verdict.extra, verdict.mismatches);
        assert_eq!(counts, (lost, extra, mismatches), "{verdict:#?}");
        verdict
    }
}

#[tokio::test]
async fn two_databases_in_step_are_clean() {
    let bench = Bench::new().await;
    let verdict = bench.expect(0, 0, 0).await;
    assert_eq!((verdict.old_rows, verdict.new_rows), (ROWS, ROWS));

    bench.acknowledge(5, Some(WRITTEN));
    bench.write_both(5).await;
    bench.acknowledge(2_001, Some(WRITTEN));
    bench.write_both(2_001).await;
    bench.acknowledge(6, None);
    bench.remove_both(6).await;
    let verdict = bench.expect(0, 0, 0).await;
    assert_eq!((verdict.acknowledged_writes, verdict.written_keys), (3, 3));
}

#[tokio::test]
async fn acknowledged_writes_that_are_not_there_are_found() {
    let bench = Bench::new().await;
    bench.acknowledge(5, Some(WRITTEN));
    bench.acknowledge(2_001, Some(WRITTEN));
    bench.acknowledge(6, None);
    // Each in both databases: an old value, no row, and a row that was removed.
    let verdict = bench.expect(2, 2, 2).await;
    assert!(verdict.findings[0].contains("flight 5 is different in the old database"), "{verdict:#?}");
}

#[tokio::test]
async fn a_row_that_one_database_lacks_or_has_too_much_is_found() {
    let bench = Bench::new().await;
    bench.change("new.db", "DELETE FROM departures WHERE flight_id IN (1, 1000, 2000)").await;
    bench.change("old.db", "DELETE FROM flights WHERE id = 7").await;
    bench.expect(4, 0, 0).await;
    let copy = "INSERT INTO departures SELECT flight_id + 5000, flight_date, flight_code, carrier_code, flight_number,
        tail_number, origin, destination, scheduled_departure_hour, scheduled_departure_minute,
        scheduled_arrival_hour, scheduled_arrival_minute, departed_at_minute, arrived_at_minute,
        departure_delay_minutes, arrival_delay_minutes, minutes_in_air, distance_km, scheduled_hour_utc
        FROM departures WHERE flight_id BETWEEN 2 AND 4";
    bench.change("new.db", copy).await;
    bench.expect(4, 3, 0).await;
}

#[tokio::test]
async fn any_column_that_differs_is_found() {
    let bench = Bench::new().await;
    let columns = [
        "flight_date = '2013-1-1'",
        "flight_date = '2013-02-30'",
        "flight_code = 'XX1'",
        "carrier_code = 'XX'",
        "flight_number = flight_number + 1",
        "tail_number = NULL",
        "tail_number = 'NA'",
        "origin = 'XXX'",
        "destination = 'XXX'",
        "scheduled_departure_hour = scheduled_departure_hour + 1",
        "scheduled_departure_minute = scheduled_departure_minute + 1",
        "scheduled_arrival_hour = scheduled_arrival_hour + 1",
        "scheduled_arrival_minute = scheduled_arrival_minute + 1",
        "departed_at_minute = NULL",
        "arrived_at_minute = arrived_at_minute + 1",
        "departure_delay_minutes = 0.0 + 9999",
        "arrival_delay_minutes = NULL",
        "minutes_in_air = minutes_in_air + 1",
        "distance_km = distance_km + 0.01",
        "scheduled_hour_utc = scheduled_hour_utc + 1",
    ];
    for (id, change) in (1..).zip(columns) {
        bench.change("new.db", &format!("UPDATE departures SET {change} WHERE flight_id = {id}")).await;
        bench.expect(0, 0, id).await;
    }
    let so_far = columns.len() as u64;
    bench.change("old.db", "UPDATE flights SET time_hour = '2013-01-01T10:00:01Z' WHERE id = 1500").await;
    bench.expect(0, 0, so_far + 1).await;
}

#[tokio::test]
async fn a_write_with_an_unknown_outcome_is_allowed_either_way_but_the_same_way_in_both() {
    let bench = Bench::new().await;
    let write = bench.ledger.intend(5, |_| Some(WRITTEN.into())).unwrap();
    bench.ledger.failed(write).unwrap();
    bench.expect(0, 0, 0).await;
    bench.write_both(5).await;
    bench.expect(0, 0, 0).await;
    // A removal that may have happened, and did in one database only.
    bench.ledger.intend(6, |_| None).unwrap();
    bench.change("new.db", "DELETE FROM departures WHERE flight_id = 6").await;
    let verdict = bench.expect(0, 0, 1).await;
    assert!(verdict.findings[0].contains("flight 6"), "{verdict:#?}");
}

#[tokio::test]
async fn what_cannot_be_checked_is_named() {
    let bench = Bench::new().await;
    let path = |file| bench.dir.path().join(file);
    let missing = check(&path("old.db"), &path("nowhere.db"), &path("ledger")).await.unwrap_err();
    assert!(missing.to_string().contains("nowhere.db"), "{missing}");
    let swapped = check(&path("new.db"), &path("old.db"), &path("ledger")).await.unwrap_err();
    assert!(swapped.to_string().contains("new.db"), "{swapped}");
    let no_ledger = check(&path("old.db"), &path("new.db"), &path("nothing")).await.unwrap_err();
    assert!(no_ledger.to_string().contains("nothing"), "{no_ledger}");
}
