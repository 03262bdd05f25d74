//! The new database: what the application wishes the columns had been.
//!
//! - one date instead of three numbers;
//! - scheduled times split into hour and minute, because timetables are searched by the hour;
//! - real times in minutes after midnight, because they are subtracted;
//! - kilometres instead of miles, seconds since 1970 instead of text;
//! - a derived column, `flight_code`, that is printed on boarding passes;
//! - without `hour` and `minute`, which only repeated the scheduled departure.

use zdm_core::Result;
use zdm_sql_adapters::table::{RowReader, RowWriter, TableMapping};

use super::flight::Flight;

/// Creates the table.
pub const CREATE: &str = "CREATE TABLE IF NOT EXISTS departures (
    flight_id                  INTEGER PRIMARY KEY,
    flight_date                TEXT    NOT NULL,
    flight_code                TEXT    NOT NULL,
    carrier_code               TEXT    NOT NULL,
    flight_number              INTEGER NOT NULL,
    tail_number                TEXT,
    origin                     TEXT    NOT NULL,
    destination                TEXT    NOT NULL,
    scheduled_departure_hour   INTEGER NOT NULL,
    scheduled_departure_minute INTEGER NOT NULL,
    scheduled_arrival_hour     INTEGER NOT NULL,
    scheduled_arrival_minute   INTEGER NOT NULL,
    departed_at_minute         INTEGER,
    arrived_at_minute          INTEGER,
    departure_delay_minutes    INTEGER,
    arrival_delay_minutes      INTEGER,
    minutes_in_air             INTEGER,
    distance_km                REAL    NOT NULL,
    scheduled_hour_utc         INTEGER NOT NULL
) STRICT";

/// Kilometres of a mile.
const KM_PER_MILE: f64 = 1.609_344;

/// A flight as a row of the new database.
#[derive(Clone, Copy, Debug)]
pub struct Departures;

impl TableMapping for Departures {
    type Key = i64;
    type Record = Flight;
    const TABLE: &'static str = "departures";
    const KEY: &'static [&'static str] = &["flight_id"];
    #[rustfmt::skip]
    const COLUMNS: &'static [&'static str] = &[
        "flight_date", "flight_code", "carrier_code", "flight_number", "tail_number", "origin", "destination",
        "scheduled_departure_hour", "scheduled_departure_minute", "scheduled_arrival_hour", "scheduled_arrival_minute",
        "departed_at_minute", "arrived_at_minute", "departure_delay_minutes", "arrival_delay_minutes",
        "minutes_in_air", "distance_km", "scheduled_hour_utc",
    ];

    fn write(flight: &Flight, row: &mut RowWriter<'_>) -> Result<()> {
        row.set("flight_date", format!("{:04}-{:02}-{:02}", flight.year, flight.month, flight.day))
            .set("flight_code", code(flight))
            .set("carrier_code", &flight.carrier)
            .set("flight_number", flight.number)
            .set("tail_number", &flight.tail_number)
            .set("origin", &flight.origin)
            .set("destination", &flight.destination)
            .set("scheduled_departure_hour", flight.scheduled_departure / 60)
            .set("scheduled_departure_minute", flight.scheduled_departure % 60)
            .set("scheduled_arrival_hour", flight.scheduled_arrival / 60)
            .set("scheduled_arrival_minute", flight.scheduled_arrival % 60)
            .set("departed_at_minute", flight.departure)
            .set("arrived_at_minute", flight.arrival)
            .set("departure_delay_minutes", flight.departure_delay)
            .set("arrival_delay_minutes", flight.arrival_delay)
            .set("minutes_in_air", flight.air_time)
            .set("distance_km", flight.distance_miles as f64 * KM_PER_MILE)
            .set("scheduled_hour_utc", flight.scheduled_hour_unix)
            .done()
    }

    fn read(id: &i64, row: &mut RowReader<'_>) -> Result<Flight> {
        let (year, month, day) = date(row, "flight_date")?;
        let printed: String = row.get("flight_code")?;
        let flight = Flight {
            id: *id,
            year,
            month,
            day,
            carrier: row.get("carrier_code")?,
            number: row.get("flight_number")?,
            tail_number: row.get("tail_number")?,
            origin: row.get("origin")?,
            destination: row.get("destination")?,
            scheduled_departure: row.get::<i64>("scheduled_departure_hour")? * 60
                + row.get::<i64>("scheduled_departure_minute")?,
            scheduled_arrival: row.get::<i64>("scheduled_arrival_hour")? * 60
                + row.get::<i64>("scheduled_arrival_minute")?,
            departure: row.get("departed_at_minute")?,
            arrival: row.get("arrived_at_minute")?,
            departure_delay: row.get("departure_delay_minutes")?,
            arrival_delay: row.get("arrival_delay_minutes")?,
            air_time: row.get("minutes_in_air")?,
            distance_miles: (row.get::<f64>("distance_km")? / KM_PER_MILE).round() as i64,
            scheduled_hour_unix: row.get("scheduled_hour_utc")?,
        };
        if printed != code(&flight) {
            return Err(row.reject("flight_code", format!("'{printed}' is not {}", code(&flight))));
        }
        Ok(flight)
    }
}

/// What stands on a boarding pass.
fn code(flight: &Flight) -> String {
    format!("{}{}", flight.carrier, flight.number)
}

fn date(row: &mut RowReader<'_>, column: &str) -> Result<(i64, i64, i64)> {
    let text: String = row.get(column)?;
    let mut parts = text.splitn(3, '-').map(|part| part.parse().ok());
    match (parts.next().flatten(), parts.next().flatten(), parts.next().flatten()) {
        (Some(year), Some(month), Some(day)) => Ok((year, month, day)),
        _ => Err(row.reject(column, format!("'{text}' is no date"))),
    }
}
