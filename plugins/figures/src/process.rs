//! A server's process, as `ps` and `pidstat` print it: what nodeInfo collects, and watchServer shows as status.

use std::{cell::RefCell, time::Instant};

use muster_plugin_api::{App, Figures, ModuleError};
use serde::{Deserialize, Serialize};

use crate::{clock, machine};

/// Below this, two readings of counters that count hundredths of a second say nothing.
const SHORTEST_S: f64 = 0.5;
const KIB: u64 = 1024;

/// A server's process. Figures are texts, as the original cuts them out of what programs print.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    /// When it was read.
    pub time: String,
    /// The server.
    pub server_id: String,
    /// The first part of its id, as in the original.
    pub server_type: String,
    /// Process id.
    pub pid: u32,
    /// Percent of one processor since the process was started.
    pub cpu_avg: String,
    /// Percent of the machine's memory.
    pub mem_avg: String,
    /// Address space in KiB.
    pub vsz: String,
    /// Resident memory in KiB.
    pub rss: String,
    /// Percent of one processor in the program itself, since the reading before. (The original often has the pid here.)
    pub usr: String,
    /// Percent of one processor in the kernel, since the reading before.
    pub sys: String,
    /// Percent of one processor in a virtual machine, since the reading before.
    pub gue: String,
}

/// Remembers the reading before.
#[derive(Debug, Default)]
pub struct Meter(RefCell<Option<(Instant, Figures)>>);

impl Meter {
    /// Reads the process that is watched here.
    ///
    /// # Errors
    /// When it is gone, or `/proc` cannot be read.
    pub async fn read(&self, app: &App) -> Result<Status, ModuleError> {
        let figures = app.figures().await?;
        let total_memory = machine::total_memory().map_err(|error| error.to_string())?;
        Ok(self.status(&app.info().id, &figures, total_memory, Instant::now()))
    }

    fn status(&self, server_id: &str, figures: &Figures, total_memory: u64, now: Instant) -> Status {
        let whole_life = (figures.uptime_s, Figures::default());
        let mut last = self.0.borrow_mut();
        let (seconds, before) = match &*last {
            // Another process may be watched by now.
            Some((at, before)) if before.pid == figures.pid => {
                let seconds = now.saturating_duration_since(*at).as_secs_f64();
                if seconds < SHORTEST_S { whole_life } else { (seconds, *before) }
            }
            _ => whole_life,
        };
        if last.as_ref().is_none_or(|(at, before)| {
            before.pid != figures.pid || now.saturating_duration_since(*at).as_secs_f64() >= SHORTEST_S
        }) {
            *last = Some((now, *figures));
        }
        let spent = |field: fn(&Figures) -> f64| percent(field(figures) - field(&before), seconds);
        let guest = spent(|figures| figures.cpu_guest_s);
        let used = figures.cpu_user_s + figures.cpu_system_s;
        Status {
            time: clock::now(),
            server_id: server_id.to_owned(),
            server_type: server_id.split('-').next().unwrap_or_default().to_owned(),
            pid: figures.pid,
            cpu_avg: format!("{:.1}", percent(used, figures.uptime_s)),
            mem_avg: format!("{:.1}", percent(figures.rss as f64, total_memory as f64)),
            vsz: (figures.vsz / KIB).to_string(),
            rss: (figures.rss / KIB).to_string(),
            // pidstat leaves out of %usr what it prints as %guest; the kernel counts it in both.
            usr: format!("{:.2}", (spent(|figures| figures.cpu_user_s) - guest).max(0.0)),
            sys: format!("{:.2}", spent(|figures| figures.cpu_system_s)),
            gue: format!("{guest:.2}"),
        }
    }
}

fn percent(part: f64, whole: f64) -> f64 {
    if whole > 0.0 { (part * 100.0 / whole).max(0.0) } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn figures(pid: u32, uptime_s: f64, user_s: f64, system_s: f64) -> Figures {
        let memory = Figures { rss: 2048 * KIB, vsz: 9000 * KIB, ..Figures::default() };
        Figures { pid, uptime_s, cpu_user_s: user_s, cpu_system_s: system_s, ..memory }
    }

    fn usage(status: &Status) -> [&str; 4] {
        [&status.cpu_avg, &status.usr, &status.sys, &status.gue]
    }

    #[test]
    fn a_row_reads_as_ps_prints_it() {
        let status = Meter::default().status("chat-server-1", &figures(7, 100.0, 1.0, 0.5), 1 << 30, Instant::now());
        assert_eq!((status.server_id.as_str(), status.server_type.as_str(), status.pid), ("chat-server-1", "chat", 7));
        assert_eq!((status.vsz.as_str(), status.rss.as_str(), status.mem_avg.as_str()), ("9000", "2048", "0.2"));
        assert_eq!(usage(&status), ["1.5", "1.00", "0.50", "0.00"]);
    }

    #[test]
    fn the_second_row_tells_of_the_time_since_the_first() {
        let (meter, start) = (Meter::default(), Instant::now());
        meter.status("a", &figures(7, 100.0, 1.0, 0.5), 1 << 30, start);
        let later = meter.status("a", &figures(7, 110.0, 6.0, 0.5), 1 << 30, start + Duration::from_secs(10));
        assert_eq!(usage(&later), ["5.9", "50.00", "0.00", "0.00"]);
    }

    #[test]
    fn readings_too_close_to_each_other_tell_of_the_whole_life() {
        let (meter, start) = (Meter::default(), Instant::now());
        meter.status("a", &figures(7, 100.0, 1.0, 0.0), 1 << 30, start);
        let soon = meter.status("a", &figures(7, 100.0, 1.01, 0.0), 1 << 30, start + Duration::from_millis(1));
        assert_eq!(usage(&soon), ["1.0", "1.01", "0.00", "0.00"]);
    }

    #[test]
    fn another_process_starts_from_its_own_beginning() {
        let (meter, start) = (Meter::default(), Instant::now());
        meter.status("a", &figures(7, 100.0, 90.0, 0.0), 1 << 30, start);
        let other = meter.status("a", &figures(8, 10.0, 1.0, 0.0), 1 << 30, start + Duration::from_secs(10));
        assert_eq!(usage(&other), ["10.0", "10.00", "0.00", "0.00"]);
    }
}
