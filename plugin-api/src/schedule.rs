//! When a module is called without a message: the rules are the original's.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Longer than this and no clock will see the tick; it keeps additions to instants from overflowing.
const LONGEST: Duration = Duration::from_secs(10 * 365 * 24 * 60 * 60);

/// Which side a schedule ticks on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ScheduleKind {
    /// The master's instance gets the tick and asks the monitors.
    #[default]
    Pull,
    /// Each monitor's instance gets the tick and reports.
    Push,
}

/// When a module is called without a message. Options of the same names (`type`, `interval`, `delay`) override it.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Schedule {
    /// Which side ticks.
    #[serde(rename = "type")]
    pub kind: ScheduleKind,
    /// Seconds from tick to tick, rounded up to whole seconds; a negative one is 1; 0 is no schedule.
    pub interval: f64,
    /// Seconds before the first tick; a negative one is 0.
    #[serde(default)]
    pub delay: f64,
}

/// The times of a [`Schedule`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pace {
    /// From the start to the first tick.
    pub delay: Duration,
    /// From tick to tick; never zero.
    pub interval: Duration,
}

impl Schedule {
    /// The master asks every `seconds`.
    pub fn pull(seconds: f64) -> Schedule {
        Schedule { kind: ScheduleKind::Pull, interval: seconds, delay: 0.0 }
    }

    /// Each monitor reports every `seconds`.
    pub fn push(seconds: f64) -> Schedule {
        Schedule { kind: ScheduleKind::Push, ..Schedule::pull(seconds) }
    }

    /// The first tick comes `seconds` after the start.
    #[must_use]
    pub fn delayed(self, seconds: f64) -> Schedule {
        Schedule { delay: seconds, ..self }
    }

    /// What a manifest says, as the options `type`, `interval` and `delay` of the module change it. `None`: it does not
    /// tick.
    pub fn effective(manifest: Option<Schedule>, options: &Value) -> Option<Schedule> {
        let interval = options.get("interval").and_then(Value::as_f64).or(manifest.map(|schedule| schedule.interval))?;
        let kind = match options.get("type").and_then(Value::as_str) {
            Some("push") => ScheduleKind::Push,
            // The original takes anything else for pull.
            Some(_) => ScheduleKind::Pull,
            None => manifest.map(|schedule| schedule.kind).unwrap_or_default(),
        };
        let delay = options.get("delay").and_then(Value::as_f64).or(manifest.map(|schedule| schedule.delay));
        let schedule = Schedule { kind, interval, delay: delay.unwrap_or(0.0) };
        schedule.pace().map(|_| schedule)
    }

    /// Its times as a clock counts them; `None` for an interval of 0, and for what is no number.
    pub fn pace(&self) -> Option<Pace> {
        let interval = match self.interval {
            zero if zero == 0.0 || zero.is_nan() => return None,
            negative if negative < 0.0 => 1.0,
            seconds => seconds.ceil(),
        };
        let limited = |seconds: f64| Duration::try_from_secs_f64(seconds).unwrap_or(LONGEST).min(LONGEST);
        Some(Pace { delay: limited(self.delay.max(0.0)), interval: limited(interval) })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn options_override_what_the_manifest_says() {
        let manifest = Some(Schedule::pull(5.0).delayed(2.0));
        assert_eq!(Schedule::effective(manifest, &json!({})), manifest);
        let options = json!({ "type": "push", "interval": 1, "delay": 0.5 });
        assert_eq!(Schedule::effective(manifest, &options), Some(Schedule::push(1.0).delayed(0.5)));
        assert_eq!(Schedule::effective(manifest, &json!({ "interval": 0 })), None, "0 is no schedule");
        assert_eq!(Schedule::effective(None, &json!({ "type": "push" })), None, "nor is none");
        let unless = Schedule::effective(None, &json!({ "interval": 3 }));
        assert_eq!(unless, Some(Schedule::pull(3.0)), "pull unless it says push");
    }

    #[test]
    fn intervals_are_whole_seconds_and_never_negative() {
        let seconds = Duration::from_secs_f64;
        let interval = |interval: f64| Schedule::pull(interval).pace().map(|pace| pace.interval);
        assert_eq!(interval(1.2), Some(seconds(2.0)));
        assert_eq!(interval(0.1), Some(seconds(1.0)));
        assert_eq!(interval(-7.0), Some(seconds(1.0)));
        assert_eq!((interval(0.0), interval(-0.0), interval(f64::NAN)), (None, None, None));
        assert_eq!(interval(1e300), Some(LONGEST));
        let delay = |delay: f64| Schedule::pull(1.0).delayed(delay).pace().map(|pace| pace.delay);
        assert_eq!((delay(-3.0), delay(0.25)), (Some(Duration::ZERO), Some(seconds(0.25))));
    }
}
