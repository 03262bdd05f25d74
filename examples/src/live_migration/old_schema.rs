//! The old database: the columns as they were published, packed times and all.

use zdm_core::Result;
use zdm_sql_adapters::table::{RowReader, RowWriter, TableMapping};

use super::clock_time::{
    hhmm_from_minutes, minutes_from_hhmm, text_from_unix_seconds, unix_seconds_from_text,
};
use super::flight::Flight;

/// Creates the table.
pub const CREATE: &str = "CREATE TABLE IF NOT EXISTS flights (
    id             INTEGER PRIMARY KEY,
    year           INTEGER NOT NULL,
    month          INTEGER NOT NULL,
    day            INTEGER NOT NULL,
    dep_time       INTEGER,
    sched_dep_time INTEGER NOT NULL,
    dep_delay      INTEGER,
    arr_time       INTEGER,
    sched_arr_time INTEGER NOT NULL,
    arr_delay      INTEGER,
    carrier        TEXT    NOT NULL,
    flight         INTEGER NOT NULL,
    tailnum        TEXT,
    origin         TEXT    NOT NULL,
    dest           TEXT    NOT NULL,
    air_time       INTEGER,
    distance       INTEGER NOT NULL,
    hour           INTEGER NOT NULL,
    minute         INTEGER NOT NULL,
    time_hour      TEXT    NOT NULL
) STRICT";

/// A flight as a row of the old database.
#[derive(Clone, Copy, Debug)]
pub struct OldFlights;

impl TableMapping for OldFlights {
    type Key = i64;
    type Record = Flight;
    const TABLE: &'static str = "flights";
    const KEY: &'static [&'static str] = &["id"];
    #[rustfmt::skip]
    const COLUMNS: &'static [&'static str] = &[
        "year", "month", "day", "dep_time", "sched_dep_time", "dep_delay", "arr_time", "sched_arr_time", "arr_delay",
        "carrier", "flight", "tailnum", "origin", "dest", "air_time", "distance", "hour", "minute", "time_hour",
    ];

    fn write(flight: &Flight, row: &mut RowWriter<'_>) -> Result<()> {
        row.set("year", flight.year)
            .set("month", flight.month)
            .set("day", flight.day)
            .set("dep_time", flight.departure.map(hhmm_from_minutes))
            .set("sched_dep_time", hhmm_from_minutes(flight.scheduled_departure))
            .set("dep_delay", flight.departure_delay)
            .set("arr_time", flight.arrival.map(hhmm_from_minutes))
            .set("sched_arr_time", hhmm_from_minutes(flight.scheduled_arrival))
            .set("arr_delay", flight.arrival_delay)
            .set("carrier", &flight.carrier)
            .set("flight", flight.number)
            .set("tailnum", &flight.tail_number)
            .set("origin", &flight.origin)
            .set("dest", &flight.destination)
            .set("air_time", flight.air_time)
            .set("distance", flight.distance_miles)
            .set("hour", flight.scheduled_departure / 60)
            .set("minute", flight.scheduled_departure % 60)
            .set("time_hour", text_from_unix_seconds(flight.scheduled_hour_unix))
            .done()
    }

    fn read(id: &i64, row: &mut RowReader<'_>) -> Result<Flight> {
        let flight = Flight {
            id: *id,
            year: row.get("year")?,
            month: row.get("month")?,
            day: row.get("day")?,
            departure: time_of_day(row, "dep_time")?,
            scheduled_departure: scheduled(row, "sched_dep_time")?,
            departure_delay: row.get("dep_delay")?,
            arrival: time_of_day(row, "arr_time")?,
            scheduled_arrival: scheduled(row, "sched_arr_time")?,
            arrival_delay: row.get("arr_delay")?,
            carrier: row.get("carrier")?,
            number: row.get("flight")?,
            tail_number: row.get("tailnum")?,
            origin: row.get("origin")?,
            destination: row.get("dest")?,
            air_time: row.get("air_time")?,
            distance_miles: row.get("distance")?,
            scheduled_hour_unix: hour(row, "time_hour")?,
        };
        // These two repeat the scheduled departure; the new database has no place for anything else.
        let (hour, minute): (i64, i64) = (row.get("hour")?, row.get("minute")?);
        if hour * 60 + minute != flight.scheduled_departure {
            return Err(row.reject("hour", format!("{hour}:{minute:02} is not the scheduled departure")));
        }
        Ok(flight)
    }
}

fn time_of_day(row: &mut RowReader<'_>, column: &str) -> Result<Option<i64>> {
    let Some(hhmm) = row.get::<Option<i64>>(column)? else { return Ok(None) };
    let minutes = minutes_from_hhmm(hhmm);
    minutes.map(Some).ok_or_else(|| row.reject(column, format!("{hhmm} is no time of day")))
}

fn scheduled(row: &mut RowReader<'_>, column: &str) -> Result<i64> {
    time_of_day(row, column)?.ok_or_else(|| row.reject(column, "is NULL, but every flight is scheduled"))
}

fn hour(row: &mut RowReader<'_>, column: &str) -> Result<i64> {
    let text: String = row.get(column)?;
    unix_seconds_from_text(&text).ok_or_else(|| row.reject(column, format!("'{text}' is no time")))
}
