//! What a monitor does at certain times: crons of `crons.json`, and those that were ordered.
//!
//! Whose time has come is looked for at least once a second on the monotonic clock, so that a clock that is set shows
//! soon. A time that was jumped over counts once. A clock that is set back a little lives through times again, and what
//! has fired waits until they are over; one that is set back by more was wrong, and its new time counts at once.

mod pattern;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use chrono::{DateTime, Local, TimeDelta};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::{sync::Notify, time::sleep};
use tracing::warn;

use self::pattern::{NotAPattern, Pattern};
use crate::store::{Kept, Store};

/// The longest pause between two looks at the clock.
const LOOK: Duration = Duration::from_secs(1);

/// How far a clock may be set back and what has fired still waits, as vixie's cron has it: summer time and small
/// corrections are below, a date that was wrong is above.
const WAITED_OUT: TimeDelta = TimeDelta::hours(3);

/// The crons of a server.
#[derive(Debug)]
pub(crate) struct Crons {
    table: Mutex<Table>,
    changed: Notify,
    store: Arc<Store>,
}

/// Pure: time is what the caller says.
#[derive(Debug, Default)]
struct Table {
    entries: BTreeMap<String, Entry>,
    /// The latest time that was looked at since the clock was last corrected.
    seen: Option<DateTime<Local>>,
}

#[derive(Debug)]
struct Entry {
    cron: Value,
    pattern: Pattern,
    next: Option<DateTime<Local>>,
}

/// A cron is of no use.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BadCron {
    #[error("a cron needs {0}: a text that is not empty")]
    Lacks(&'static str),
    #[error(transparent)]
    Time(#[from] NotAPattern),
}

impl Crons {
    /// The crons of the configuration, changed by what was ordered in earlier lives.
    pub(crate) fn new(store: Arc<Store>, configured: impl IntoIterator<Item = Value>) -> Crons {
        let crons = Crons { table: Mutex::default(), changed: Notify::new(), store };
        let ordered = crons.store.names(Kept::Cron).into_iter().map(|id| {
            let text = crons.store.kept(Kept::Cron, &id).unwrap_or_default();
            (id, serde_json::from_str::<Value>(&text).unwrap_or_default())
        });
        let mut all: BTreeMap<String, Value> =
            configured.into_iter().map(|cron| (text(&cron, "id").unwrap_or_default(), cron)).collect();
        all.extend(ordered);
        for cron in all.into_values().filter(|cron| !cron.is_null()) {
            if let Err(error) = crons.table.lock().add(cron.clone(), Local::now()) {
                warn!(%cron, %error, "a cron is left out");
            }
        }
        crons
    }

    /// As they were ordered.
    pub(crate) fn list(&self) -> Vec<Value> {
        self.table.lock().entries.values().map(|entry| entry.cron.clone()).collect()
    }

    /// Adds a cron, or replaces the one with its id. The future says when it is durable.
    pub(crate) fn add(&self, cron: Value) -> Result<impl Future<Output = bool> + use<>, BadCron> {
        let written = cron.to_string();
        let id = self.table.lock().add(cron, Local::now())?;
        self.changed.notify_one();
        Ok(self.store.keep(Kept::Cron, &id, Some(&written)))
    }

    /// Removes the cron with the same id; `None` if there is none. One of the configuration stays away in later lives, too.
    pub(crate) fn remove(&self, cron: &Value) -> Option<impl Future<Output = bool> + use<>> {
        let id = text(cron, "id")?;
        self.table.lock().entries.remove(&id)?;
        Some(self.store.keep(Kept::Cron, &id, Some("null")))
    }

    /// Calls `fire` with each cron whose time has come, until it is dropped.
    pub(crate) async fn run(&self, fire: impl Fn(Value)) {
        loop {
            let (due, pause) = {
                let mut table = self.table.lock();
                let now = Local::now();
                (table.due(now), table.pause(now))
            };
            due.into_iter().for_each(&fire);
            let waiting = async {
                match pause {
                    Some(pause) => sleep(pause.min(LOOK)).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = waiting => {}
                () = self.changed.notified() => {}
            }
        }
    }
}

/// Whether this is a cron.
pub(crate) fn check(cron: &Value) -> Result<(), BadCron> {
    read(cron).map(drop)
}

/// Its id, and when it is due.
fn read(cron: &Value) -> Result<(String, Pattern), BadCron> {
    let id = text(cron, "id").ok_or(BadCron::Lacks("id"))?;
    text(cron, "action").ok_or(BadCron::Lacks("action"))?;
    Ok((id, Pattern::parse(&text(cron, "time").ok_or(BadCron::Lacks("time"))?)?))
}

impl Table {
    fn add(&mut self, cron: Value, now: DateTime<Local>) -> Result<String, BadCron> {
        let (id, pattern) = read(&cron)?;
        let next = pattern.after(now);
        self.entries.insert(id.clone(), Entry { cron, pattern, next });
        Ok(id)
    }

    /// The crons whose time has come, each once, however often it came.
    fn due(&mut self, now: DateTime<Local>) -> Vec<Value> {
        if self.seen.is_some_and(|seen| now < seen - WAITED_OUT) {
            self.seen = None;
            self.entries.values_mut().for_each(|entry| entry.next = entry.pattern.after(now));
        }
        let latest = self.seen.map_or(now, |seen| seen.max(now));
        self.seen = Some(latest);
        let mut due = Vec::new();
        for entry in self.entries.values_mut() {
            if entry.next.is_some_and(|next| next <= now) {
                due.push(entry.cron.clone());
                entry.next = entry.pattern.after(latest);
            }
        }
        due
    }

    /// From `now` to the next one.
    fn pause(&self, now: DateTime<Local>) -> Option<Duration> {
        let next = self.entries.values().filter_map(|entry| entry.next).min()?;
        Some((next - now).to_std().unwrap_or_default())
    }
}

/// A field as a text; a number counts as one, as ids are written both ways.
fn text(cron: &Value, field: &str) -> Option<String> {
    match cron.get(field)? {
        Value::String(text) if !text.is_empty() => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    }
}

/// The module that an action names, and what a module is sent when the time has come: `{"method", "cron"}`.
pub(crate) fn call_of(cron: &Value) -> Option<(String, Value)> {
    let action = text(cron, "action")?;
    let (module, method) = action.split_once('.').unwrap_or((&action, ""));
    Some((module.to_owned(), json!({ "method": method, "cron": cron })))
}

#[cfg(test)]
mod tests {
    use chrono::{TimeDelta, TimeZone};

    use super::*;

    fn at(hour: u32, minute: u32, second: u32) -> DateTime<Local> {
        Local.with_ymd_and_hms(2026, 11, 26, hour, minute, second).unwrap()
    }

    fn cron(id: &str, time: &str) -> Value {
        json!({ "id": id, "time": time, "action": "chatCron.send" })
    }

    fn table(now: DateTime<Local>) -> Table {
        let mut table = Table::default();
        table.add(cron("1", "0 30 10 * * *"), now).unwrap();
        assert!(table.due(now).is_empty());
        table
    }

    #[test]
    fn a_cron_fires_once_when_its_time_has_come() {
        let mut table = table(at(10, 29, 0));
        assert_eq!(table.pause(at(10, 29, 30)), Some(Duration::from_secs(30)));
        assert!(table.due(at(10, 29, 59)).is_empty());
        assert_eq!(table.due(at(10, 30, 0)), [cron("1", "0 30 10 * * *")]);
        assert!(table.due(at(10, 30, 0)).is_empty());
        assert!(table.due(at(10, 30, 1)).is_empty());
    }

    /// Which crons fire, as `id@time`, when the clock shows `from`, and then every second until `to`.
    fn fired(table: &mut Table, from: DateTime<Local>, to: DateTime<Local>) -> Vec<String> {
        let seconds = (to - from).num_seconds();
        let each = (0..=seconds).map(|second| from + TimeDelta::seconds(second));
        each.flat_map(|now| {
            let due = table.due(now);
            due.into_iter().map(move |cron| format!("{}@{}", text(&cron, "id").unwrap(), now.format("%a %H:%M:%S")))
        })
        .collect()
    }

    /// At 10:30 each day, and each minute.
    fn daily_and_each_minute(now: DateTime<Local>) -> Table {
        let mut table = table(now);
        table.add(cron("2", "0 * * * * *"), now).unwrap();
        table
    }

    #[test]
    fn row_21_a_clock_that_is_set_forward_by_a_day_fires_once_what_it_jumped_over_and_goes_on() {
        let mut table = daily_and_each_minute(at(10, 29, 30));
        let day = TimeDelta::days(1);
        assert_eq!(fired(&mut table, at(10, 31, 30) + day, at(10, 31, 59) + day), ["1@Fri 10:31:30", "2@Fri 10:31:30"]);
        assert_eq!(fired(&mut table, at(10, 32, 0) + day, at(10, 32, 59) + day), ["2@Fri 10:32:00"]);
        assert_eq!(table.due(at(10, 30, 0) + day * 2).len(), 2, "and on the day after");
    }

    #[test]
    fn row_21_a_clock_that_is_set_back_by_a_day_goes_on_from_its_new_time_at_once() {
        let mut table = daily_and_each_minute(at(10, 29, 30));
        assert_eq!(fired(&mut table, at(10, 30, 0), at(10, 30, 59)), ["1@Thu 10:30:00", "2@Thu 10:30:00"]);
        let day = TimeDelta::days(1);
        assert_eq!(table.due(at(10, 28, 30) - day), [] as [Value; 0], "nothing fires because the clock was set");
        assert_eq!(table.pause(at(10, 28, 30) - day), Some(Duration::from_secs(30)));
        let expected = ["2@Wed 10:29:00", "1@Wed 10:30:00", "2@Wed 10:30:00"];
        assert_eq!(fired(&mut table, at(10, 28, 31) - day, at(10, 30, 59) - day), expected);
    }

    #[test]
    fn row_21_a_clock_that_is_set_back_by_an_hour_does_not_fire_again_what_has_fired() {
        let mut table = daily_and_each_minute(at(10, 29, 30));
        assert_eq!(fired(&mut table, at(10, 30, 0), at(10, 30, 59)), ["1@Thu 10:30:00", "2@Thu 10:30:00"]);
        assert_eq!(fired(&mut table, at(9, 30, 59), at(10, 30, 59)), [] as [&str; 0]);
        assert_eq!(fired(&mut table, at(10, 31, 0), at(10, 31, 59)), ["2@Thu 10:31:00"]);
    }

    #[test]
    fn row_21_steps_back_that_come_to_more_than_three_hours_are_a_correction() {
        let mut table = daily_and_each_minute(at(10, 29, 30));
        assert_eq!(fired(&mut table, at(10, 30, 0), at(10, 30, 0)).len(), 2);
        assert_eq!(fired(&mut table, at(8, 30, 0), at(8, 31, 0)), [] as [&str; 0]);
        assert_eq!(fired(&mut table, at(7, 29, 59), at(7, 30, 0)), ["2@Thu 07:30:00"]);
    }

    #[tokio::test]
    async fn what_was_ordered_outlives_the_process_and_comes_before_the_configuration() {
        let store = Arc::new(Store::default());
        let configured = || [cron("1", "0 0 0 * * *"), cron("2", "0 0 0 * * *"), cron("bad", "never")];
        let crons = Crons::new(store.clone(), configured());
        assert_eq!(crons.list().len(), 2, "what cannot be read is left out");
        assert!(crons.add(cron("3", "1 2 3 * * *")).unwrap().await);
        assert!(crons.add(cron("1", "9 9 9 * * *")).unwrap().await);
        assert!(crons.remove(&json!({ "id": 2 })).unwrap().await);
        assert!(crons.remove(&json!({ "id": "nobody" })).is_none());
        let expected = [cron("1", "9 9 9 * * *"), cron("3", "1 2 3 * * *")];
        assert_eq!(crons.list(), expected);
        assert_eq!(Crons::new(store, configured()).list(), expected);
    }

    #[test]
    fn a_cron_lacks_nothing() {
        let crons = Crons::new(Arc::default(), []);
        let lacking = json!({ "time": "* * * * * *", "action": "a.b" });
        assert_eq!(crons.add(lacking).map(drop), Err(BadCron::Lacks("id")));
        assert_eq!(crons.add(json!({ "id": 1, "action": "a.b" })).map(drop), Err(BadCron::Lacks("time")));
        assert_eq!(crons.add(json!({ "id": 1, "time": "* * * * * *" })).map(drop), Err(BadCron::Lacks("action")));
        assert!(matches!(crons.add(cron("1", "soon")).map(drop), Err(BadCron::Time(_))));
    }
}
