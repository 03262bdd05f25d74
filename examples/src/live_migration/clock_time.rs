//! The three ways in which the two schemas write times.

/// Minutes after midnight of a packed `hhmm` number; 2400 is the end of the day.
pub(super) fn minutes_from_hhmm(hhmm: i64) -> Option<i64> {
    ((0..=2400).contains(&hhmm) && hhmm % 100 < 60).then_some(hhmm / 100 * 60 + hhmm % 100)
}

/// The packed `hhmm` number of minutes after midnight.
pub(super) fn hhmm_from_minutes(minutes: i64) -> i64 {
    minutes / 60 * 100 + minutes % 60
}

/// Seconds since 1970 of a time written `2013-01-01T10:00:00Z`.
pub(super) fn unix_seconds_from_text(text: &str) -> Option<i64> {
    let digits = |from: usize, to: usize| -> Option<i64> {
        let part = text.get(from..to)?;
        part.bytes().all(|byte| byte.is_ascii_digit()).then(|| part.parse().ok())?
    };
    let (year, month, day) = (digits(0, 4)?, digits(5, 7)?, digits(8, 10)?);
    let (hour, minute, second) = (digits(11, 13)?, digits(14, 16)?, digits(17, 19)?);
    let seconds = days_from_date(year, month, day) * 86_400 + hour * 3_600 + minute * 60 + second;
    // Writing it again refuses the 30th of February, hour 25, and other punctuation.
    (text_from_unix_seconds(seconds) == text).then_some(seconds)
}

/// The text of a time given in seconds since 1970, `2013-01-01T10:00:00Z`.
pub(super) fn text_from_unix_seconds(seconds: i64) -> String {
    let (year, month, day) = date_from_days(seconds.div_euclid(86_400));
    let rest = seconds.rem_euclid(86_400);
    format!("{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z", rest / 3_600, rest / 60 % 60, rest % 60)
}

/// Days since 1970 of a date of the Gregorian calendar. Years start in March here, so that the day
/// that comes and goes is the last one.
fn days_from_date(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468
}

fn date_from_days(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let day_of_era = days.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = (month_from_march + 2) % 12 + 1;
    let year = era * 400 + year_of_era + i64::from(month <= 2);
    (year, month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packed_times_go_both_ways() {
        for hhmm in (0..=2400).filter(|hhmm| hhmm % 100 < 60) {
            let minutes = minutes_from_hhmm(hhmm).unwrap();
            assert_eq!(hhmm_from_minutes(minutes), hhmm);
        }
        assert_eq!(minutes_from_hhmm(517), Some(317));
        assert_eq!([minutes_from_hhmm(2401), minutes_from_hhmm(1260), minutes_from_hhmm(-1)], [None; 3]);
    }

    #[test]
    fn times_of_a_century_go_both_ways() {
        for hour in 0..36_525 * 24 {
            let seconds = hour * 3_600 + hour % 3_600;
            assert_eq!(unix_seconds_from_text(&text_from_unix_seconds(seconds)), Some(seconds));
        }
        assert_eq!(unix_seconds_from_text("2013-01-01T10:00:00Z"), Some(1_357_034_400));
        assert_eq!(unix_seconds_from_text("2012-02-29T00:00:00Z"), Some(1_330_473_600));
        for wrong in
            ["2013-02-29T10:00:00Z", "2013-01-01 10:00:00Z", "2013-01-01T25:00:00Z", "2013-01-01", ""]
        {
            assert_eq!(unix_seconds_from_text(wrong), None, "{wrong}");
        }
    }
}
