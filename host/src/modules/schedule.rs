//! Push and pull timers.
//!
//! The rules are the original's: seconds, intervals rounded up to whole ones, the first tick after `delay`, then at a
//! fixed rhythm. Ours is that a module is not ticked while it works on the tick before.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use muster_plugin_api::{Role, Schedule, ScheduleKind};
use serde_json::Value;
use tokio::time::Instant;

use super::Modules;
use crate::ids::ModuleId;

/// Longer than this and no clock will see the tick; it keeps additions to instants from overflowing.
const LONGEST: Duration = Duration::from_secs(10 * 365 * 24 * 60 * 60);

/// When which module ticks next. Pure.
#[derive(Debug, Default)]
struct Timetable(BTreeMap<(Role, ModuleId), Line>);

#[derive(Debug, Clone, Copy)]
struct Line {
    plan: Plan,
    next: Instant,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Plan {
    delay: Duration,
    interval: Duration,
}

/// The role whose instances get the ticks.
pub(super) fn side(kind: ScheduleKind) -> Role {
    match kind {
        ScheduleKind::Pull => Role::Master,
        ScheduleKind::Push => Role::Monitor,
    }
}

/// What a module's manifest says, as its options `type`, `interval` and `delay` change it. `None`: it does not tick.
pub(crate) fn effective(manifest: Option<Schedule>, options: &Value) -> Option<Schedule> {
    let interval = options.get("interval").and_then(Value::as_f64).or(manifest.map(|schedule| schedule.interval))?;
    let kind = match options.get("type").and_then(Value::as_str) {
        Some("push") => ScheduleKind::Push,
        // The original takes anything else for pull.
        Some(_) => ScheduleKind::Pull,
        None => manifest.map(|schedule| schedule.kind).unwrap_or_default(),
    };
    let delay = options.get("delay").and_then(Value::as_f64).or(manifest.map(|schedule| schedule.delay)).unwrap_or(0.0);
    let schedule = Schedule { kind, interval, delay };
    plan(&schedule).map(|_| schedule)
}

/// Ticks all modules, for ever.
pub(crate) async fn run(modules: Arc<Modules>) {
    let mut timetable = Timetable::default();
    loop {
        timetable.adopt(modules.scheduled(), Instant::now());
        let next = timetable.next();
        tokio::select! {
            () = modules.rescheduled.notified() => {}
            () = tokio::time::sleep_until(next.unwrap_or_else(Instant::now)), if next.is_some() => {
                for (role, id) in timetable.due(Instant::now()) {
                    modules.tick(role, &id);
                }
            }
        }
    }
}

// === impl Timetable ===

impl Timetable {
    /// Takes over what is to tick from now on. Who ticks already and is not changed keeps the rhythm.
    fn adopt(&mut self, wanted: Vec<(Role, ModuleId, Schedule)>, now: Instant) {
        let mut before = std::mem::take(&mut self.0);
        for (role, id, schedule) in wanted {
            let Some(plan) = plan(&schedule) else { continue };
            let line = before.remove(&(role, id.clone())).filter(|line| line.plan == plan);
            self.0.insert((role, id), line.unwrap_or(Line { plan, next: now + plan.delay }));
        }
    }

    fn next(&self) -> Option<Instant> {
        self.0.values().map(|line| line.next).min()
    }

    /// Who is to be ticked now. Ticks that were missed altogether are not made up for.
    fn due(&mut self, now: Instant) -> Vec<(Role, ModuleId)> {
        let mut due = Vec::new();
        for (key, line) in &mut self.0 {
            if now < line.next {
                continue;
            }
            due.push(key.clone());
            let missed = now.duration_since(line.next).as_nanos() / line.plan.interval.as_nanos();
            // Behind by more than there are intervals in a u32: then it starts afresh.
            line.next = u32::try_from(missed + 1)
                .ok()
                .and_then(|intervals| line.plan.interval.checked_mul(intervals))
                .and_then(|behind| line.next.checked_add(behind))
                .unwrap_or(now + line.plan.interval);
        }
        due
    }
}

/// `None` for an interval of 0, and for what is no number.
fn plan(schedule: &Schedule) -> Option<Plan> {
    let interval = match schedule.interval {
        zero if zero == 0.0 || zero.is_nan() => return None,
        negative if negative < 0.0 => 1.0,
        seconds => seconds.ceil(),
    };
    let limited = |seconds: f64| Duration::try_from_secs_f64(seconds).unwrap_or(LONGEST).min(LONGEST);
    Some(Plan { delay: limited(schedule.delay.max(0.0)), interval: limited(interval) })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn key(id: &str) -> (Role, ModuleId) {
        (Role::Master, id.into())
    }

    fn wanted(id: &str, interval: f64, delay: f64) -> (Role, ModuleId, Schedule) {
        (Role::Master, id.into(), Schedule::pull(interval).delayed(delay))
    }

    fn seconds(seconds: f64) -> Duration {
        Duration::from_secs_f64(seconds)
    }

    #[test]
    fn options_override_what_the_manifest_says() {
        let manifest = Some(Schedule::pull(5.0).delayed(2.0));
        assert_eq!(effective(manifest, &json!({})), manifest);
        let options = json!({ "type": "push", "interval": 1, "delay": 0.5 });
        assert_eq!(effective(manifest, &options), Some(Schedule::push(1.0).delayed(0.5)));
        assert_eq!(effective(manifest, &json!({ "interval": 0 })), None, "0 is no schedule");
        assert_eq!(effective(None, &json!({ "type": "push" })), None, "nor is none");
        assert_eq!(effective(None, &json!({ "interval": 3 })), Some(Schedule::pull(3.0)), "pull unless it says push");
    }

    #[test]
    fn intervals_are_whole_seconds_and_never_negative() {
        let interval = |interval: f64| plan(&Schedule::pull(interval)).map(|plan| plan.interval);
        assert_eq!(interval(1.2), Some(seconds(2.0)));
        assert_eq!(interval(0.1), Some(seconds(1.0)));
        assert_eq!(interval(-7.0), Some(seconds(1.0)));
        assert_eq!((interval(0.0), interval(-0.0), interval(f64::NAN)), (None, None, None));
        assert_eq!(interval(1e300), Some(LONGEST));
        assert_eq!(plan(&Schedule::pull(1.0).delayed(-3.0)).map(|plan| plan.delay), Some(Duration::ZERO));
        assert_eq!(plan(&Schedule::pull(1.0).delayed(0.25)).map(|plan| plan.delay), Some(seconds(0.25)));
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_tick_comes_after_the_delay_and_the_next_at_the_interval() {
        let start = Instant::now();
        let mut timetable = Timetable::default();
        timetable.adopt(vec![wanted("a", 2.0, 0.5)], start);
        let mut ticks = Vec::new();
        while ticks.len() < 4 {
            tokio::time::sleep_until(timetable.next().unwrap()).await;
            // A little late, as timers are.
            tokio::time::advance(Duration::from_millis(3)).await;
            assert_eq!(timetable.due(Instant::now()), [key("a")]);
            ticks.push((start.elapsed().as_secs_f64() * 10.0).round() / 10.0);
        }
        assert_eq!(ticks, [0.5, 2.5, 4.5, 6.5], "without drift");
    }

    #[test]
    fn ticks_that_were_missed_are_not_made_up_for() {
        let start = Instant::now();
        let mut timetable = Timetable::default();
        timetable.adopt(vec![wanted("a", 2.0, 0.0)], start);
        assert_eq!(timetable.due(start + seconds(7.1)), [key("a")], "one, for those at 0, 2, 4 and 6");
        assert_eq!(timetable.next(), Some(start + seconds(8.0)), "in the old rhythm");
    }

    #[test]
    fn what_is_not_changed_keeps_its_rhythm_and_what_is_starts_afresh() {
        let start = Instant::now();
        let mut timetable = Timetable::default();
        timetable.adopt(vec![wanted("a", 10.0, 0.0), wanted("b", 10.0, 0.0)], start);
        timetable.due(start);
        let later = start + seconds(4.0);
        timetable.adopt(vec![wanted("a", 10.0, 0.0), wanted("b", 5.0, 1.0)], later);
        assert_eq!(timetable.next(), Some(later + seconds(1.0)));
        assert_eq!(timetable.due(later + seconds(1.0)), [key("b")]);
        assert_eq!(timetable.due(start + seconds(9.9)), []);
        timetable.adopt(vec![wanted("a", 10.0, 0.0)], later);
        assert_eq!(timetable.due(start + seconds(10.0)), [key("a")]);
        timetable.adopt(vec![], later);
        assert_eq!(timetable.next(), None, "what is disabled does not tick");
    }
}
