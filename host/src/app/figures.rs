//! Figures of a process, from `/proc`.

use muster_plugin_api::Figures;
use procfs::{Current, ProcResult, Uptime, WithCurrentSystemInfo, process::Process};

const KIB: u64 = 1024;

/// The figures of the process `pid`.
///
/// What a Node server reports as its heap has no counterpart here: memory for data, and its resident part, stand for it.
///
/// # Errors
/// When the process is gone.
pub(crate) fn of(pid: u32) -> ProcResult<Figures> {
    let process = Process::new(i32::try_from(pid).unwrap_or(i32::MAX))?;
    let stat = process.stat()?;
    let status = process.status()?;
    let seconds = |ticks: u64| ticks as f64 / procfs::ticks_per_second() as f64;
    let started_s = seconds(stat.starttime);
    Ok(Figures {
        pid,
        rss: stat.rss_bytes().get(),
        heap_total: status.vmdata.unwrap_or(0) * KIB,
        heap_used: status.rssanon.unwrap_or(0) * KIB,
        uptime_s: (Uptime::current()?.uptime - started_s).max(0.0),
        vsz: stat.vsize,
        cpu_user_s: seconds(stat.utime),
        cpu_system_s: seconds(stat.stime),
        cpu_guest_s: seconds(stat.guest_time.unwrap_or(0)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_has_figures() {
        let figures = of(std::process::id()).unwrap();
        assert!(figures.rss > 0 && figures.heap_total >= figures.heap_used, "{figures:?}");
        assert!(figures.uptime_s < 3600.0 * 24.0, "{figures:?}");
        assert!(figures.vsz >= figures.rss, "{figures:?}");
        assert!(figures.cpu_guest_s <= figures.cpu_user_s, "{figures:?}");
    }

    #[test]
    fn a_process_that_is_gone_is_an_error() {
        assert!(of(u32::MAX).is_err());
    }
}
