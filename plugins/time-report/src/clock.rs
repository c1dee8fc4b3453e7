//! The date as text, as peers expect it: what JavaScript's `Date.toString()` prints.

use time::OffsetDateTime;

/// The current date, in UTC: the zone that servers run in, and the only one whose long name needs no tables.
pub(crate) fn now() -> String {
    text(OffsetDateTime::now_utc())
}

fn text(at: OffsetDateTime) -> String {
    let (weekday, month) = (at.weekday().to_string(), at.month().to_string());
    let (year, day) = (at.year(), at.day());
    let (hour, minute, second) = at.to_hms();
    format!(
        "{weekday:.3} {month:.3} {day:02} {year:04} {hour:02}:{minute:02}:{second:02} GMT+0000 (Coordinated Universal Time)"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> String {
        text(OffsetDateTime::from_unix_timestamp(seconds).unwrap())
    }

    #[test]
    fn a_date_reads_as_javascript_prints_it() {
        assert_eq!(at(1_795_309_119), "Sun Nov 22 2026 00:58:39 GMT+0000 (Coordinated Universal Time)");
    }

    #[test]
    fn days_and_hours_have_two_digits() {
        assert_eq!(at(0), "Thu Jan 01 1970 00:00:00 GMT+0000 (Coordinated Universal Time)");
        assert_eq!(at(951_868_801), "Wed Mar 01 2000 00:00:01 GMT+0000 (Coordinated Universal Time)");
    }
}
