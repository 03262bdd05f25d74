//! The new database: what the application wishes the columns had been.
//!
//! - one date instead of three numbers;
//! - scheduled times split into hour and minute, because timetables are searched by the hour;
//! - real times in minutes after midnight, because they are subtracted;
//! - kilometres instead of miles, seconds since 1970 instead of text;
//! - a derived column, `flight_code`, that is printed on boarding passes;
//! - without `hour` and `minute`, which only repeated the scheduled departure.

/// The table of departures.
pub const TABLE: &str = "departures";

/// Creates the table.
pub const CREATE: &str = "CREATE TABLE departures (
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
pub const KM_PER_MILE: f64 = 1.609_344;
