//! The flights of 2013, compressed in the program itself, read line by line.

use std::io::{BufRead, BufReader, Lines};

use lzma_rust2::XzReader;

use super::{Doing, Failure, Result};

/// How many flights the data set holds.
pub const FLIGHTS_IN_2013: u64 = 336_776;

const COMPRESSED: &[u8] = include_bytes!("../../data/flights.csv.xz");
const COLUMNS: &str = "year,month,day,dep_time,sched_dep_time,dep_delay,arr_time,sched_arr_time,arr_delay,\
carrier,flight,tailnum,origin,dest,air_time,distance,hour,minute,time_hour";

/// The first `limit` flights, one line of comma-separated values each, without the line of names.
///
/// # Errors
/// The data in the program are not the flights they should be.
pub fn lines(limit: u64) -> Result<impl Iterator<Item = Result<String>>> {
    let mut lines: Lines<_> = BufReader::with_capacity(1 << 16, XzReader::new(COMPRESSED, false)).lines();
    let names = lines.next().transpose().doing(|| "the data set cannot be unpacked".into())?;
    if names.as_deref() != Some(COLUMNS) {
        return Err(Failure::new(format!("the data set starts with {names:?} instead of {COLUMNS}")));
    }
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    Ok(lines.take(limit).map(|line| line.doing(|| "the data set cannot be unpacked".into())))
}
