//! When a cron is due: six fields, as pomelo's scheduler reads them.
//!
//! Second, minute, hour, day of the month, month and day of the week, of which the last two have to hold both. Months are
//! numbered 0 to 11, days of the week 0 (Sunday) to 6.

use chrono::{DateTime, Local};
use croner::parser::{CronParser, Seconds};

/// The months of pomelo's scheduler.
const MONTHS: std::ops::RangeInclusive<u32> = 0..=11;

/// Which of the six fields is the month.
const MONTH: usize = 4;

/// A pattern of times.
#[derive(Debug, Clone)]
pub(super) struct Pattern(Box<croner::Cron>);

/// The text is no pattern.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "expected six fields (second minute hour day month weekday, with months from 0) such as \"0 30 10 * * *\": {0}"
)]
pub(crate) struct NotAPattern(String);

impl Pattern {
    pub(super) fn parse(text: &str) -> Result<Pattern, NotAPattern> {
        let refuse = |why: String| NotAPattern(format!("{text:?}: {why}"));
        let mut fields: Vec<String> = text.split_whitespace().map(str::to_owned).collect();
        let found = fields.len();
        match fields.get_mut(MONTH) {
            Some(month) if found == 6 => *month = from_one(month).map_err(refuse)?,
            _ => return Err(refuse(format!("there are {found} fields"))),
        }
        let parser = CronParser::builder().seconds(Seconds::Required).dom_and_dow(true).build();
        let cron = parser.parse(&fields.join(" ")).map_err(|error| refuse(error.to_string()))?;
        Ok(Pattern(Box::new(cron)))
    }

    /// The first time after `time`; none if there is none in the years to come.
    pub(super) fn after(&self, time: DateTime<Local>) -> Option<DateTime<Local>> {
        self.0.find_next_occurrence(&time, false).ok()
    }
}

/// Months counted from 1. The number after a `/` is no month.
fn from_one(field: &str) -> Result<String, String> {
    let mut shifted = String::new();
    let mut digits = String::new();
    let mut is_step = false;
    for character in field.chars().chain(['\0']) {
        if character.is_ascii_digit() {
            digits.push(character);
            continue;
        }
        if !digits.is_empty() {
            let number: u32 = digits.parse().map_err(|_| format!("the month {digits}"))?;
            match (is_step, MONTHS.contains(&number)) {
                (true, _) => shifted.push_str(&digits),
                (false, true) => shifted.push_str(&(number + 1).to_string()),
                (false, false) => return Err(format!("there is no month {number}")),
            }
            digits.clear();
        }
        is_step = character == '/';
        if character != '\0' {
            shifted.push(character);
        }
    }
    Ok(shifted)
}

#[cfg(test)]
mod tests {
    use chrono::TimeZone;

    use super::*;

    #[track_caller]
    fn next(pattern: &str) -> String {
        let time = Local.with_ymd_and_hms(2026, 11, 26, 10, 29, 59).unwrap();
        Pattern::parse(pattern).unwrap().after(time).unwrap().format("%Y-%m-%d %H:%M:%S").to_string()
    }

    #[test]
    fn a_pattern_has_seconds() {
        assert_eq!(next("0 30 10 * * *"), "2026-11-26 10:30:00");
        assert_eq!(next("*/10 * * * * *"), "2026-11-26 10:30:00");
        assert_eq!(next("5 29 10 * * *"), "2026-11-27 10:29:05");
    }

    #[test]
    fn months_count_from_zero_and_days_hold_both() {
        assert_eq!(next("0 0 0 1 0 *"), "2027-01-01 00:00:00");
        assert_eq!(next("0 0 0 1 11 *"), "2026-12-01 00:00:00");
        assert_eq!(next("0 0 0 1 0-2/2,10 *"), "2027-01-01 00:00:00");
        // The first Friday that is a thirteenth.
        assert_eq!(next("0 0 0 13 * 5"), "2027-08-13 00:00:00");
    }

    #[test]
    fn what_is_no_pattern_is_refused_with_the_reason() {
        for (odd, why) in [("* * * * *", "there are 5 fields"), ("0 0 0 1 12 *", "no month 12"), ("", "0 fields")] {
            let error = Pattern::parse(odd).unwrap_err().to_string();
            assert!(error.contains(why), "{error}");
        }
        assert!(Pattern::parse("61 * * * * *").is_err());
        assert!(Pattern::parse("soon * * * * *").is_err());
    }
}
