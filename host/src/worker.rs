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
        Arc,
        atomic::{AtomicI32, AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::sync::watch;

use crate::{
    deaths::Patience,
    plugin::{quarantine::Quarantine, settle::ContentHash},
};

pub(crate) mod bridge;
pub(crate) mod child;
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
}

/// How to start workers.
#[derive(Debug, Clone)]
pub(crate) struct Launcher {
    /// The program that is started.
    pub(crate) program: PathBuf,
    /// Its arguments; limits and the path of the library follow.
    pub(crate) arguments: Vec<OsString>,
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
    /// Workers that took over from one that died.
    pub(crate) restarts: AtomicU64,
    condemned: watch::Sender<Option<String>>,
}

impl Default for Launcher {
    /// `/proc/self/exe` is the program that runs, even when an upgrade has replaced the file it came from.
    fn default() -> Launcher {
        Launcher { program: "/proc/self/exe".into(), arguments: vec!["worker".into()] }
    }
}

impl Default for Figures {
    fn default() -> Figures {
        Figures {
            pid: AtomicI32::new(0),
            deaths: AtomicU64::new(0),
            restarts: AtomicU64::new(0),
            condemned: watch::Sender::new(None),
        }
    }
}

impl Figures {
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
