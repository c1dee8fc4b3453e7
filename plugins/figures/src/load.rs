//! What `iostat` prints: how busy processors and disks were between two readings of the kernel's counters.

use std::{path::Path, time::Instant};

use procfs::{CurrentSI, DiskStat, KernelStats, ProcResult};
use serde::{Deserialize, Serialize};

use crate::{clock, hundredths};

/// The kernel counts in sectors of this many bytes, whatever the disk has.
const SECTOR: u64 = 512;
const KIB: f64 = 1024.0;

/// The counters at one moment.
#[derive(Debug, Clone)]
pub struct Reading {
    at: Instant,
    cpu: Ticks,
    disk: Transfers,
}

/// Processor time since the machine was started, in ticks.
#[derive(Debug, Clone, Copy, Default)]
struct Ticks {
    user: u64,
    nice: u64,
    /// Interrupts included, as `iostat` counts.
    system: u64,
    iowait: u64,
    steal: u64,
    idle: u64,
}

/// What all disks together have moved since the machine was started.
#[derive(Debug, Clone, Copy, Default)]
struct Transfers {
    count: u64,
    read: u64,
    written: u64,
}

/// How busy the machine was.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Iostat {
    /// When it was read.
    pub date: String,
    /// Disks, all together.
    pub disk: Disk,
    /// Processors, all together.
    pub cpu: Cpu,
}

/// How busy the disks were.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Disk {
    /// KiB read.
    pub kb_read: f64,
    /// KiB written.
    pub kb_wrtn: f64,
    /// KiB read in a second.
    pub kb_read_per: f64,
    /// KiB written in a second.
    pub kb_wrtn_per: f64,
    /// Transfers in a second.
    pub tps: f64,
}

/// What the processors' time went into, in percent.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the names are iostat's")]
pub struct Cpu {
    pub cpu_user: f64,
    pub cpu_nice: f64,
    pub cpu_system: f64,
    pub cpu_iowait: f64,
    pub cpu_steal: f64,
    pub cpu_idle: f64,
}

// === impl Reading ===

impl Reading {
    /// Reads the counters.
    ///
    /// # Errors
    /// When `/proc` cannot be read.
    pub fn take() -> ProcResult<Reading> {
        let total = KernelStats::current()?.total;
        let cpu = Ticks {
            user: total.user,
            nice: total.nice,
            system: total.system + total.irq.unwrap_or(0) + total.softirq.unwrap_or(0),
            iowait: total.iowait.unwrap_or(0),
            steal: total.steal.unwrap_or(0),
            idle: total.idle,
        };
        // A container may have no disks to show; processors are worth telling all the same.
        let disks = procfs::diskstats().unwrap_or_default();
        Ok(Reading { at: Instant::now(), cpu, disk: Transfers::of(&disks, is_disk) })
    }

    /// Seconds since then.
    pub fn age_s(&self) -> f64 {
        self.at.elapsed().as_secs_f64()
    }

    /// What happened since `earlier`.
    pub fn since(&self, earlier: &Reading) -> Iostat {
        let seconds = self.at.saturating_duration_since(earlier.at).as_secs_f64();
        Iostat { date: clock::now(), disk: self.disk.since(earlier.disk, seconds), cpu: self.cpu.since(earlier.cpu) }
    }
}

// === impl Ticks ===

impl Ticks {
    fn since(self, earlier: Ticks) -> Cpu {
        // Idle and iowait may go back on some kernels: then nothing was added.
        let spent = |field: fn(Ticks) -> u64| field(self).saturating_sub(field(earlier)) as f64;
        let fields: [fn(Ticks) -> u64; 6] =
            [|t| t.user, |t| t.nice, |t| t.system, |t| t.iowait, |t| t.steal, |t| t.idle];
        let [user, nice, system, iowait, steal, idle] = fields.map(spent);
        let total = user + nice + system + iowait + steal + idle;
        let percent = |ticks: f64| if total > 0.0 { hundredths(ticks * 100.0 / total) } else { 0.0 };
        Cpu {
            cpu_user: percent(user),
            cpu_nice: percent(nice),
            cpu_system: percent(system),
            cpu_iowait: percent(iowait),
            cpu_steal: percent(steal),
            // Two readings within one tick: nothing was spent, so it was idle.
            cpu_idle: if total > 0.0 { percent(idle) } else { 100.0 },
        }
    }
}

// === impl Transfers ===

impl Transfers {
    /// The sum over the disks that `counts` picks. (The original takes the first line of `iostat`, whichever disk it is.)
    fn of(disks: &[DiskStat], counts: impl Fn(&str) -> bool) -> Transfers {
        disks.iter().filter(|disk| counts(&disk.name)).fold(Transfers::default(), |sum, disk| Transfers {
            count: sum.count + disk.reads + disk.writes,
            read: sum.read + disk.sectors_read * SECTOR,
            written: sum.written + disk.sectors_written * SECTOR,
        })
    }

    fn since(self, earlier: Transfers, seconds: f64) -> Disk {
        let kib = |now: u64, then: u64| now.saturating_sub(then) as f64 / KIB;
        let per_second = |amount: f64| if seconds > 0.0 { hundredths(amount / seconds) } else { 0.0 };
        let (read, written) = (kib(self.read, earlier.read), kib(self.written, earlier.written));
        Disk {
            kb_read: hundredths(read),
            kb_wrtn: hundredths(written),
            kb_read_per: per_second(read),
            kb_wrtn_per: per_second(written),
            tps: per_second(self.count.saturating_sub(earlier.count) as f64),
        }
    }
}

/// Whether it is hardware: partitions and what is made of other disks (loop, mapper, RAID) would be counted twice.
fn is_disk(name: &str) -> bool {
    Path::new("/sys/block").join(name).join("device").exists()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn percentages_are_those_of_the_time_between() {
        let before = Ticks { user: 1000, nice: 7, system: 500, iowait: 10, steal: 0, idle: 9000 };
        let after = Ticks { user: 1050, nice: 7, system: 525, iowait: 35, steal: 0, idle: 9100 };
        let cpu = after.since(before);
        assert_eq!((cpu.cpu_user, cpu.cpu_nice, cpu.cpu_system), (25.0, 0.0, 12.5));
        assert_eq!((cpu.cpu_iowait, cpu.cpu_steal, cpu.cpu_idle), (12.5, 0.0, 50.0));
    }

    #[test]
    fn a_counter_that_goes_back_adds_nothing() {
        let before = Ticks { iowait: 10, idle: 5, ..Ticks::default() };
        let cpu = Ticks { iowait: 4, idle: 9, ..Ticks::default() }.since(before);
        assert_eq!((cpu.cpu_iowait, cpu.cpu_idle), (0.0, 100.0));
    }

    #[test]
    fn disks_are_told_per_second_and_in_kib() {
        let before = Transfers { count: 10, read: 0, written: 4096 };
        let after = Transfers { count: 30, read: 10 * 1024, written: 4096 + 512 };
        let disk = after.since(before, 4.0);
        assert_eq!((disk.kb_read, disk.kb_read_per), (10.0, 2.5));
        assert_eq!((disk.kb_wrtn, disk.kb_wrtn_per), (0.5, 0.13));
        assert_eq!(disk.tps, 5.0);
    }

    #[test]
    fn two_readings_of_one_moment_divide_by_nothing() {
        let reading = Reading::take().unwrap();
        let iostat = reading.since(&reading);
        assert_eq!(iostat.cpu.cpu_idle, 100.0);
        assert_eq!(iostat.disk.tps, 0.0);
    }

    #[test]
    fn this_machine_spends_all_its_time_on_something() {
        let before = Reading::take().unwrap();
        // Busy, so that the counters move on whatever machine this is.
        while before.at.elapsed() < Duration::from_millis(60) {
            std::hint::spin_loop();
        }
        let cpu = Reading::take().unwrap().since(&before).cpu;
        let sum = cpu.cpu_user + cpu.cpu_nice + cpu.cpu_system + cpu.cpu_iowait + cpu.cpu_steal + cpu.cpu_idle;
        assert!((99.9..=100.1).contains(&sum), "{cpu:?}");
    }
}
