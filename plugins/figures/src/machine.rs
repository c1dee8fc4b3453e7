//! The machine, as Node's module `os` tells of it.

use procfs::{CpuInfo, Current, CurrentSI, KernelStats, LoadAverage, Meminfo, ProcError, ProcResult, Uptime};
use serde::Serialize;

use crate::hundredths;

/// The machine, in the order in which pomelo-monitor reports it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Machine {
    /// Its name.
    pub hostname: String,
    /// `Linux`.
    #[serde(rename = "type")]
    pub kind: String,
    /// `linux`.
    pub platform: String,
    /// In Node's words: `x64`, `arm64`.
    pub arch: String,
    /// The kernel's.
    pub release: String,
    /// Seconds since it was started.
    pub uptime: f64,
    /// Of the last 1, 5 and 15 minutes.
    pub loadavg: [f64; 3],
    /// Bytes.
    pub totalmem: u64,
    /// Bytes that programs could have, as Node has it: caches count as free.
    pub freemem: u64,
    /// Its processors.
    pub cpus: Vec<Processor>,
}

/// One processor.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Processor {
    /// Its name, as it calls itself.
    pub model: String,
    /// In MHz.
    pub speed: u64,
    /// Since the machine was started.
    pub times: Times,
}

/// What a processor's time went into, in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[expect(missing_docs, reason = "the names are Node's")]
pub struct Times {
    pub user: u64,
    pub nice: u64,
    pub sys: u64,
    pub idle: u64,
    pub irq: u64,
}

impl Machine {
    /// Reads what it is and how it is.
    ///
    /// # Errors
    /// When `/proc` cannot be read.
    pub fn read() -> ProcResult<Machine> {
        let name = rustix::system::uname();
        let text = |part: &std::ffi::CStr| part.to_string_lossy().into_owned();
        let memory = Meminfo::current()?;
        let load = LoadAverage::current()?;
        Ok(Machine {
            hostname: text(name.nodename()),
            kind: text(name.sysname()),
            platform: std::env::consts::OS.to_owned(),
            arch: arch().to_owned(),
            release: text(name.release()),
            uptime: Uptime::current()?.uptime,
            loadavg: [load.one, load.five, load.fifteen].map(|figure| hundredths(figure.into())),
            totalmem: memory.mem_total,
            freemem: memory.mem_available.unwrap_or(memory.mem_free),
            cpus: processors()?,
        })
    }
}

/// Memory of the machine in bytes.
///
/// # Errors
/// When `/proc` cannot be read.
pub fn total_memory() -> Result<u64, ProcError> {
    Ok(Meminfo::current()?.mem_total)
}

/// The architecture in Node's words.
pub fn arch() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "x64",
        "aarch64" => "arm64",
        "x86" => "ia32",
        other => other,
    }
}

fn processors() -> ProcResult<Vec<Processor>> {
    let info = CpuInfo::current()?;
    let millis = |ticks: u64| ticks * 1000 / procfs::ticks_per_second();
    let speed = |number: usize| {
        // Not on every architecture; whole MHz are enough for people.
        let mhz = info.get_field(number, "cpu MHz").and_then(|text| text.split('.').next()?.parse().ok());
        mhz.unwrap_or(0)
    };
    let times = KernelStats::current()?.cpu_time.into_iter().enumerate();
    Ok(times
        .map(|(number, time)| Processor {
            model: info.model_name(number).unwrap_or("unknown").to_owned(),
            speed: speed(number),
            times: Times {
                user: millis(time.user),
                nice: millis(time.nice),
                sys: millis(time.system),
                idle: millis(time.idle),
                irq: millis(time.irq.unwrap_or(0)),
            },
        })
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_can_be_read() {
        let machine = Machine::read().unwrap();
        assert_eq!((machine.kind.as_str(), machine.platform.as_str()), ("Linux", "linux"));
        assert!(!machine.hostname.is_empty() && !machine.release.is_empty(), "{machine:?}");
        assert!(machine.freemem <= machine.totalmem && machine.totalmem > 1 << 20, "{machine:?}");
        assert!(!machine.cpus.is_empty(), "{machine:?}");
        assert_eq!(machine.totalmem, total_memory().unwrap());
    }
}
