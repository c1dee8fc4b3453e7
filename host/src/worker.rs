//! Plugins in processes of their own: `isolation = "process"`.
//!
//! ```text
//!   mailbox → bridge.rs (the generation's thread) → life.rs: one process → socket → child.rs: the same .so, unchanged
//!   calls, services ← life.rs (a thread that reads) ←──────────────────── socket ←
//! ```
//! What crosses the socket is what crosses the ABI: pieces of mail one way, functions of the host the other way
//! (`frame.rs`). The bridge outlives its workers: when one dies, the calls that it had end with an error, and the next one
//! is started, later each time (`deaths.rs`), until it has died too often.

use std::{
    ffi::OsString,
    path::PathBuf,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicI32, AtomicU64, Ordering},
    },
    time::Duration,
};

use serde_json::{Value, json};
use tokio::sync::watch;

use self::cgroup::Grouped;
use crate::{
    deaths::Patience,
    plugin::{quarantine::Quarantine, settle::ContentHash},
};

pub(crate) mod bridge;
pub(crate) mod cgroup;
pub(crate) mod child;
mod death;
mod frame;
mod life;

/// A worker is back within a second, with time to spare; a plugin that dies with every call shall not keep the machine
/// busy. Ten deaths in a minute are no accident.
const PATIENCE: Patience = Patience {
    first: Duration::from_millis(100),
    longest: Duration::from_secs(2),
    long_life: Duration::from_secs(60),
    deaths: 10,
    window: Duration::from_secs(60),
};

/// What a worker may use; `None` for as much as the daemon.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Limits {
    /// Bytes of memory that are its own and may be written to.
    pub(crate) memory: Option<u64>,
    /// Seconds of processor time, over its whole life.
    pub(crate) cpu_seconds: Option<u64>,
    /// Open files.
    pub(crate) files: Option<u64>,
    /// Percent of a processor; only in a control group.
    pub(crate) cpu_percent: Option<u64>,
    /// Processes and threads; only in a control group.
    pub(crate) tasks: Option<u64>,
}

/// How to start workers.
#[derive(Debug, Clone)]
pub(crate) struct Launcher {
    /// The program that is started.
    pub(crate) program: PathBuf,
    /// Its arguments; limits and the path of the library follow.
    pub(crate) arguments: Vec<OsString>,
    /// Where each gets a control group of its own, if it does.
    pub(crate) groups: Option<Arc<cgroup::Delegation>>,
}

/// What the workers of one generation are.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) launcher: Launcher,
    pub(crate) limits: Limits,
    /// How long a turn without a call that has a deadline may take.
    pub(crate) patience: Duration,
    pub(crate) hash: ContentHash,
    pub(crate) quarantine: Arc<Quarantine>,
}

/// What is known of a generation's workers. Read by anybody at any time.
#[derive(Debug)]
pub(crate) struct Figures {
    /// The process that runs; 0 for none.
    pid: AtomicI32,
    /// Workers that ended without being told to.
    pub(crate) deaths: AtomicU64,
    /// Those of them that were the plugin's fault.
    pub(crate) faults: AtomicU64,
    /// How the last of these came about.
    fault: Mutex<String>,
    /// Workers that took over from one that died.
    pub(crate) restarts: AtomicU64,
    limits: Limits,
    /// The control group of the process that runs, if it has one.
    group: Mutex<Option<Grouped>>,
    condemned: watch::Sender<Option<String>>,
}

impl Plan {
    /// A control group for one worker, if there can be one.
    fn group(&self, stem: &str) -> Option<cgroup::Group> {
        let group = self.launcher.groups.as_ref()?.divide(&self.limits);
        group.map_err(|error| tracing::warn!(plugin = stem, %error, "a worker gets no control group")).ok()
    }
}

impl Limits {
    fn arguments(&self) -> Vec<String> {
        let Limits { memory, cpu_seconds, files, cpu_percent: _, tasks: _ } = *self;
        let limits = [("--memory", memory), ("--cpu-seconds", cpu_seconds), ("--files", files)];
        limits.into_iter().filter_map(|(option, limit)| limit.map(|limit| format!("{option}={limit}"))).collect()
    }
}

impl Default for Launcher {
    /// `/proc/self/exe` is the program that runs, even when an upgrade has replaced the file it came from.
    fn default() -> Launcher {
        Launcher { program: "/proc/self/exe".into(), arguments: vec!["worker".into()], groups: None }
    }
}

impl Figures {
    /// Of workers with these limits, of which none runs yet.
    pub(crate) fn new(limits: Limits) -> Figures {
        Figures {
            pid: AtomicI32::new(0),
            deaths: AtomicU64::new(0),
            faults: AtomicU64::new(0),
            fault: Mutex::default(),
            restarts: AtomicU64::new(0),
            limits,
            group: Mutex::default(),
            condemned: watch::Sender::new(None),
        }
    }

    /// The limits that the process which runs has, by their names in the configuration, and its control group.
    pub(crate) fn in_force(&self) -> Value {
        let group = self.group.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let Limits { memory, cpu_seconds, files, cpu_percent, tasks } = self.limits;
        let can = group.as_ref().map(|group| group.controllers).unwrap_or_default();
        json!({
            "memory": memory,
            "cpu_seconds": cpu_seconds,
            "files": files,
            "cpu_percent": cpu_percent.filter(|_| can.cpu),
            "tasks": tasks.filter(|_| can.pids),
            "group": group.map(|group| group.directory),
        })
    }

    fn died(&self, death: &death::Death) {
        self.deaths.fetch_add(1, Ordering::Relaxed);
        if !death.from_outside {
            self.faults.fetch_add(1, Ordering::Relaxed);
            self.fault.lock().unwrap_or_else(PoisonError::into_inner).clone_from(&death.why);
        }
    }

    /// How the last death came about that was the plugin's fault.
    pub(crate) fn fault(&self) -> String {
        self.fault.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Another process runs, in this group, or none.
    fn runs(&self, process: Option<(i32, Option<Grouped>)>) {
        let (pid, group) = process.unwrap_or_default();
        self.pid.store(pid, Ordering::SeqCst);
        *self.group.lock().unwrap_or_else(PoisonError::into_inner) = group;
    }

    /// The process that runs now.
    pub(crate) fn pid(&self) -> Option<i32> {
        Some(self.pid.load(Ordering::SeqCst)).filter(|pid| *pid != 0)
    }

    /// How much processor time the plugin has used in the process that runs now.
    pub(crate) fn cpu_time(&self) -> Option<Duration> {
        let text = std::fs::read_to_string(format!("/proc/{}/schedstat", self.pid()?)).ok()?;
        text.split(' ').next()?.parse().ok().map(Duration::from_nanos)
    }

    /// Waits until no further worker will be started; the reason.
    pub(crate) async fn condemned(&self) -> String {
        let mut condemned = self.condemned.subscribe();
        // The sender is in `self`, so that there is no error.
        drop(condemned.wait_for(Option::is_some).await.map(|_| ()));
        self.condemned.borrow().clone().unwrap_or_default()
    }
}
