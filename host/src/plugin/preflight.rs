//! Vets a candidate in a child process: a constructor that crashes or loops takes the child along and nothing else.
//!
//! The child is this program again with `preflight PATH`. It gets a socket as its standard input and writes one line of
//! JSON there; the candidate's own output goes nowhere. Whatever the line says, the whole process group is killed then:
//! neither exit handlers nor destructors of the candidate run, and nothing that it started stays (`offspring.rs`).

use std::{ffi::OsString, io, os::fd::OwnedFd, path::Path, path::PathBuf, process::Stdio, time::Duration};

use muster_plugin_api::PluginManifest;
use rustix::process::{Pid, Signal};
use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, BufReader},
    net::UnixStream,
    process::{Child, Command},
};

use super::{elf, refusal::Refusal};

mod child;
mod offspring;

pub(crate) use child::child_main;

/// A manifest is a few hundred bytes, the long text about a layout some 20 KB.
const LONGEST_REPORT: u64 = 1024 * 1024;

/// How to start the child.
#[derive(Debug, Clone)]
pub(crate) struct Checker {
    /// The program that is started.
    pub(crate) program: PathBuf,
    /// Its arguments; the path of the candidate follows.
    pub(crate) arguments: Vec<OsString>,
    /// How long the child may take.
    pub(crate) timeout: Duration,
}

/// A candidate that may be loaded.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Checked {
    pub(crate) manifest: PluginManifest,
    pub(crate) facts: elf::Facts,
}

/// A candidate that may not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Refused {
    pub(crate) refusal: Refusal,
    /// More than a sentence, for those who build the plugin.
    pub(crate) details: Option<String>,
}

impl Default for Checker {
    /// `/proc/self/exe` is the program that runs, even when an upgrade has replaced the file it came from.
    fn default() -> Checker {
        Checker {
            program: "/proc/self/exe".into(),
            arguments: vec!["preflight".into()],
            timeout: super::PREFLIGHT_TIMEOUT,
        }
    }
}

impl Checker {
    /// Vets the staged file at `path`.
    ///
    /// # Errors
    /// When it must not be loaded.
    ///
    /// # Cancel safety
    /// Dropping the future kills the child and all that it started.
    pub(crate) async fn check(&self, path: &Path) -> Result<Checked, Refused> {
        let unchecked = |error: io::Error| Refused::from(Refusal::Unchecked(error.to_string()));
        let (ours, theirs) = std::os::unix::net::UnixStream::pair().map_err(unchecked)?;
        ours.set_nonblocking(true).map_err(unchecked)?;
        // A candidate that reads its standard input gets its end, and does not wait.
        ours.shutdown(std::net::Shutdown::Write).map_err(unchecked)?;
        let child = Command::new(&self.program)
            .args(&self.arguments)
            .arg(path)
            .env(offspring::MARK, path)
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .map_err(unchecked)?;
        let mut group = Group::of(child);
        let mut report = BufReader::new(UnixStream::from_std(ours).map_err(unchecked)?.take(LONGEST_REPORT));
        let mut line = Vec::new();
        let read = tokio::time::timeout(self.timeout, report.read_until(b'\n', &mut line)).await;
        // Killed before it is waited for, so that its number still means this group.
        let ended_by_itself = read.is_ok() && line.last() != Some(&b'\n');
        let left = group.end_offspring(path, ended_by_itself).await;
        let status = group.end(ended_by_itself, self.timeout).await.map_err(unchecked)?;
        if left > 0 {
            return Err(Refusal::LeftProcesses(left).into());
        }
        if line.last() == Some(&b'\n') {
            let report: Result<Result<Checked, Refused>, _> = serde_json::from_slice(&line);
            return report.unwrap_or_else(|error| Err(Refusal::Unchecked(error.to_string()).into()));
        }
        use std::os::unix::process::ExitStatusExt;
        Err(match (status.signal(), status.code()) {
            (Some(signal), _) if signal != Signal::KILL.as_raw() => {
                Refusal::Died { signal: signal_name(signal) }.into()
            }
            (None, Some(code)) => Refusal::Exited(code).into(),
            _ => Refusal::NoAnswer(self.timeout).into(),
        })
    }
}

/// A child and all that it has started.
struct Group {
    child: Child,
    leader: Option<Pid>,
}

impl Group {
    fn of(child: Child) -> Group {
        let leader = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
        Group { child, leader }
    }

    /// Ends what the leader has started, in its group or not; says how many that were.
    async fn end_offspring(&self, path: &Path, leader_is_gone: bool) -> usize {
        let Some(leader) = self.leader else { return 0 };
        if !leader_is_gone && !offspring::has_children(leader) {
            return 0;
        }
        let path = path.to_owned();
        tokio::task::spawn_blocking(move || offspring::end(leader, &path)).await.unwrap_or_default()
    }

    /// Ends the group. A leader that has closed its end by itself is about to exit: its status tells why.
    async fn end(&mut self, by_itself: bool, patience: Duration) -> io::Result<std::process::ExitStatus> {
        if by_itself {
            // A zombie keeps its number, but it is reaped in here: a group that outlives its leader keeps it as well.
            if let Ok(status) = tokio::time::timeout(patience, self.child.wait()).await {
                self.kill();
                return status;
            }
        }
        self.kill();
        self.child.wait().await
    }

    fn kill(&mut self) {
        if let Some(leader) = self.leader.take() {
            // There may be nobody left to kill.
            rustix::process::kill_process_group(leader, Signal::KILL).unwrap_or(());
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // The runtime reaps what is dropped before it was waited for.
        self.kill();
    }
}

impl From<Refusal> for Refused {
    fn from(refusal: Refusal) -> Refused {
        Refused { refusal, details: None }
    }
}

/// The name of a signal, as people know it.
pub(crate) fn signal_name(signal: i32) -> String {
    let name = match Signal::from_named_raw(signal) {
        Some(Signal::SEGV) => "SIGSEGV",
        Some(Signal::BUS) => "SIGBUS",
        Some(Signal::ABORT) => "SIGABRT",
        Some(Signal::ILL) => "SIGILL",
        Some(Signal::FPE) => "SIGFPE",
        Some(Signal::XCPU) => "SIGXCPU",
        Some(Signal::TRAP) => "SIGTRAP",
        Some(Signal::SYS) => "SIGSYS",
        Some(Signal::KILL) => "SIGKILL",
        Some(Signal::TERM) => "SIGTERM",
        Some(Signal::HUP) => "SIGHUP",
        Some(Signal::INT) => "SIGINT",
        Some(Signal::QUIT) => "SIGQUIT",
        Some(Signal::PIPE) => "SIGPIPE",
        _ => return format!("signal {signal}"),
    };
    name.to_owned()
}
