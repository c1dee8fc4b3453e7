//! Push and pull timers.
//!
//! The rules are the original's ([`Schedule::pace`]): the first tick after `delay`, then at a fixed rhythm. Ours is that a module is not ticked while it works on the tick before.

use std::{collections::BTreeMap, sync::Arc};

use muster_plugin_api::{Pace, Role, Schedule, ScheduleKind};
use tokio::time::Instant;

use super::Modules;
use crate::ids::ModuleId;

/// When which module ticks next. Pure.
#[derive(Debug, Default)]
struct Timetable(BTreeMap<(Role, ModuleId), Line>);

#[derive(Debug, Clone, Copy)]
struct Line {
    pace: Pace,
    next: Instant,
}

/// The role whose instances get the ticks.
pub(super) fn side(kind: ScheduleKind) -> Role {
    match kind {
        ScheduleKind::Pull => Role::Master,
        ScheduleKind::Push => Role::Monitor,
    }
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
            let Some(pace) = schedule.pace() else { continue };
            let line = before.remove(&(role, id.clone())).filter(|line| line.pace == pace);
            self.0.insert((role, id), line.unwrap_or(Line { pace, next: now + pace.delay }));
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
            let missed = now.duration_since(line.next).as_nanos() / line.pace.interval.as_nanos();
            // Behind by more than there are intervals in a u32: then it starts afresh.
            line.next = u32::try_from(missed + 1)
                .ok()
                .and_then(|intervals| line.pace.interval.checked_mul(intervals))
                .and_then(|behind| line.next.checked_add(behind))
                .unwrap_or(now + line.pace.interval);
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

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
