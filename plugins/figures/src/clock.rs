//! The date as pomelo-monitor writes it: `2026-11-22 1:06:07 AM`.

use time::OffsetDateTime;

/// The current date, in UTC: the zone that servers run in.
pub fn now() -> String {
    text(OffsetDateTime::now_utc())
}

fn text(at: OffsetDateTime) -> String {
    let (year, month, day) = (at.year(), u8::from(at.month()), at.day());
    let (hour, minute, second) = at.to_hms();
    let half = if hour < 12 { "AM" } else { "PM" };
    let hour = if hour.is_multiple_of(12) { 12 } else { hour % 12 };
    format!("{year}-{month}-{day} {hour}:{minute:02}:{second:02} {half}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> String {
        text(OffsetDateTime::from_unix_timestamp(seconds).unwrap())
    }

    #[test]
    fn a_date_reads_as_in_the_recordings() {
        assert_eq!(at(1_795_309_567), "2026-11-22 1:06:07 AM");
    }

    #[test]
    fn midnight_and_noon_are_twelve() {
        assert_eq!(at(0), "1970-1-1 12:00:00 AM");
        assert_eq!(at(12 * 3600), "1970-1-1 12:00:00 PM");
        assert_eq!(at(23 * 3600 + 59), "1970-1-1 11:00:59 PM");
    }
}
