//! The domain record: what the application knows about a flight, whichever database holds it.

use serde::Serialize;

use super::clock_time::{
    hhmm_from_minutes, minutes_from_hhmm, text_from_unix_seconds, unix_seconds_from_text,
};
use super::{Failure, Result};

/// One flight out of New York City.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Flight {
    /// The number of the flight in the order of the source, from 1.
    pub id: i64,
    /// Year of the departure, local time.
    pub year: i64,
    /// Month of the departure, 1 to 12.
    pub month: i64,
    /// Day of the departure, 1 to 31.
    pub day: i64,
    /// When it left, in minutes after midnight; none for a cancelled flight.
    pub departure: Option<i64>,
    /// When it was to leave, in minutes after midnight.
    pub scheduled_departure: i64,
    /// How late it left, in minutes; negative when early.
    pub departure_delay: Option<i64>,
    /// When it arrived, in minutes after midnight.
    pub arrival: Option<i64>,
    /// When it was to arrive, in minutes after midnight.
    pub scheduled_arrival: i64,
    /// How late it arrived, in minutes; negative when early.
    pub arrival_delay: Option<i64>,
    /// The two letters of the airline.
    pub carrier: String,
    /// The airline's number of the flight.
    pub number: i64,
    /// The registration of the plane.
    pub tail_number: Option<String>,
    /// The airport it left from.
    pub origin: String,
    /// The airport it went to.
    pub destination: String,
    /// Time in the air, in minutes.
    pub air_time: Option<i64>,
    /// Distance flown, in miles.
    pub distance_miles: i64,
    /// The full hour of the scheduled departure, in seconds since 1970.
    pub scheduled_hour_unix: i64,
}

impl Flight {
    /// Reads a line of the source.
    ///
    /// # Errors
    /// The line has not the columns of the source, or a column holds something else than it should.
    pub fn from_line(id: i64, line: &str) -> Result<Self> {
        Self::parse(id, line)
            .ok_or_else(|| Failure::new(format!("flight {id} of the data set cannot be read: {line}")))
    }

    fn parse(id: i64, line: &str) -> Option<Self> {
        let mut columns = line.split(',');
        let mut next = || columns.next();
        let (year, month, day) = (number(next()?)?, number(next()?)?, number(next()?)?);
        let departure = optional(next()?, packed_time)?;
        let scheduled_departure = packed_time(next()?)?;
        let departure_delay = optional(next()?, number)?;
        let arrival = optional(next()?, packed_time)?;
        let scheduled_arrival = packed_time(next()?)?;
        let arrival_delay = optional(next()?, number)?;
        let (carrier, flight_number) = (next()?.to_owned(), number(next()?)?);
        let tail_number = optional(next()?, |text| Some(text.to_owned()))?;
        let (origin, destination) = (next()?.to_owned(), next()?.to_owned());
        let air_time = optional(next()?, number)?;
        let distance_miles = number(next()?)?;
        // The hour and the minute repeat the scheduled departure; a line where they do not is no line of ours.
        let (hour, minute) = (number(next()?)?, number(next()?)?);
        let scheduled_hour_unix = unix_seconds_from_text(next()?)?;
        let whole = columns.next().is_none() && hour * 60 + minute == scheduled_departure;
        whole.then_some(Self {
            id,
            year,
            month,
            day,
            departure,
            scheduled_departure,
            departure_delay,
            arrival,
            scheduled_arrival,
            arrival_delay,
            carrier,
            number: flight_number,
            tail_number,
            origin,
            destination,
            air_time,
            distance_miles,
            scheduled_hour_unix,
        })
    }

    /// Writes the flight as a line of the source.
    pub fn to_line(&self) -> String {
        let optional = |value: Option<i64>| value.map_or_else(|| "NA".to_owned(), |value| value.to_string());
        format!(
            "{},{},{},{},{},{},{},{},{},{},{},{},{},{},{},{},{},{},{}",
            self.year,
            self.month,
            self.day,
            optional(self.departure.map(hhmm_from_minutes)),
            hhmm_from_minutes(self.scheduled_departure),
            optional(self.departure_delay),
            optional(self.arrival.map(hhmm_from_minutes)),
            hhmm_from_minutes(self.scheduled_arrival),
            optional(self.arrival_delay),
            self.carrier,
            self.number,
            self.tail_number.as_deref().unwrap_or("NA"),
            self.origin,
            self.destination,
            optional(self.air_time),
            self.distance_miles,
            self.scheduled_departure / 60,
            self.scheduled_departure % 60,
            text_from_unix_seconds(self.scheduled_hour_unix),
        )
    }
}

fn number(text: &str) -> Option<i64> {
    text.parse().ok()
}

fn packed_time(text: &str) -> Option<i64> {
    minutes_from_hhmm(number(text)?)
}

fn optional<T>(text: &str, read: impl Fn(&str) -> Option<T>) -> Option<Option<T>> {
    if text == "NA" { Some(None) } else { read(text).map(Some) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_of_the_source_goes_both_ways() {
        let mut count = 0;
        for line in super::super::lines(5_000).unwrap() {
            let line = line.unwrap();
            count += 1;
            assert_eq!(Flight::from_line(count, &line).unwrap().to_line(), line);
        }
        assert_eq!(count, 5_000);
    }

    #[test]
    fn a_line_that_is_not_a_flight_is_named() {
        let good = "2013,1,1,517,515,2,830,819,11,UA,1545,N14228,EWR,IAH,227,1400,5,15,2013-01-01T10:00:00Z";
        assert!(Flight::from_line(1, good).is_ok());
        for wrong in [
            "",
            &good.replace("517", "5x7"),
            &good.replace("515", "575"),
            &good.replace(",5,15,", ",6,15,"),
            &good.replace("T10", " 10"),
            &format!("{good},1"),
        ] {
            let error = Flight::from_line(7, wrong).unwrap_err().to_string();
            assert!(error.contains("flight 7") && error.contains(wrong), "{error}");
        }
    }
}
