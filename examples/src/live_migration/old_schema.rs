//! The old database: the columns as they were published, packed times and all.

/// The table of flights.
pub const TABLE: &str = "flights";

/// Creates the table.
pub const CREATE: &str = "CREATE TABLE flights (
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

/// How many columns the table has.
pub const COLUMN_COUNT: usize = 20;
