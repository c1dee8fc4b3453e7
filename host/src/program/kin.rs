//! Who belongs to a program: all processes of its group, and those that left the group but inherited its mark.
//!
//! A process that is to outlive a terminal calls `setsid`, and is in its parent's group no more. The mark is a variable in
//! the environment, which is inherited all the same; and a supervisor that was killed before it could write down what it
//! had started finds it by the mark.

use std::{ffi::OsStr, io, os::fd::OwnedFd, path::Path, time::Duration};

use procfs::process::{Process, all_processes};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use tokio::{
    io::{Interest, unix::AsyncFd},
    time::{Instant, timeout_at},
};
use tracing::warn;

/// The variable that holds the mark.
pub(super) const VARIABLE: &str = "MUSTER_PROGRAM";

/// A process that was sent SIGKILL is gone at once, unless the kernel is busy with it.
const KILLED_WITHIN: Duration = Duration::from_secs(5);

/// What marks the processes of one program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Mark(String);

/// A process, by a handle that never means another one.
#[derive(Debug)]
pub(super) struct Handle {
    pub(super) pid: Pid,
    fd: AsyncFd<OwnedFd>,
}

impl Mark {
    /// The mark of the program `name` whose state is in `dir`; no two supervisors have the same.
    pub(super) fn new(dir: &Path, name: &str) -> Mark {
        let dir = dir.canonicalize().unwrap_or_else(|_| dir.to_owned());
        Mark(format!("{name}@{}", dir.display()))
    }

    pub(super) fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether this process carries the mark. What cannot be read is not ours.
    pub(super) fn is_on(&self, process: &Process) -> bool {
        process.environ().is_ok_and(|environment| {
            environment.get(OsStr::new(VARIABLE)).is_some_and(|value| value == OsStr::new(&self.0))
        })
    }

    /// Ends all processes of the program whose first is `leader`: with SIGTERM, and what is left after `grace` with
    /// SIGKILL. Without a grace, SIGKILL comes at once.
    ///
    /// A leader that is our child and was not waited for keeps its number, so that its group cannot be another one.
    pub(super) async fn end(&self, leader: Option<Pid>, grace: Option<Duration>) {
        let phases = grace.map(|grace| (Signal::TERM, grace)).into_iter().chain([(Signal::KILL, KILLED_WITHIN)]);
        for (signal, patience) in phases {
            let until = Instant::now() + patience;
            loop {
                // Again and again, as they may have started others in the meantime.
                let members = self.members(leader).await;
                if members.is_empty() {
                    return;
                }
                for member in &members {
                    member.signal(signal);
                }
                for member in &members {
                    if timeout_at(until, member.gone()).await.is_err() {
                        break;
                    }
                }
                if Instant::now() >= until {
                    break;
                }
            }
        }
        warn!(mark = self.0, "processes of the program are left after SIGKILL");
    }

    async fn members(&self, leader: Option<Pid>) -> Vec<Handle> {
        let mark = self.clone();
        let found = tokio::task::spawn_blocking(move || mark.scan(leader)).await.unwrap_or_default();
        // Looked at again when the handle is there: what it means cannot change any more.
        let handles = found.into_iter().filter_map(|pid| Handle::open(pid).ok());
        handles.filter(|handle| self.is_member(handle.pid, leader)).collect()
    }

    fn scan(&self, leader: Option<Pid>) -> Vec<Pid> {
        let processes = all_processes().into_iter().flatten().filter_map(Result::ok);
        let pids = processes.filter_map(|process| Pid::from_raw(process.pid));
        pids.filter(|pid| self.is_member(*pid, leader)).collect()
    }

    fn is_member(&self, pid: Pid, leader: Option<Pid>) -> bool {
        let Ok(process) = Process::new(pid.as_raw_nonzero().get()) else { return false };
        let Ok(stat) = process.stat() else { return false };
        let in_group = leader.is_some_and(|leader| stat.pgrp == leader.as_raw_nonzero().get());
        stat.state != 'Z' && (in_group || self.is_on(&process))
    }
}

impl Handle {
    #[expect(deprecated, reason = "it is unsound for types whose descriptor may change; that of an OwnedFd does not")]
    pub(super) fn open(pid: Pid) -> io::Result<Handle> {
        let fd = pidfd_open(pid, PidfdFlags::empty())?;
        Ok(Handle { pid, fd: AsyncFd::with_interest(fd, Interest::READABLE)? })
    }

    /// Does nothing if the process has ended.
    pub(super) fn signal(&self, signal: Signal) {
        if let Err(error) = pidfd_send_signal(self.fd.get_ref(), signal)
            && error != rustix::io::Errno::SRCH
        {
            warn!(pid = %self.pid.as_raw_nonzero(), ?signal, %error, "a process could not be signalled");
        }
    }

    /// Waits for the end of the process; its status is left to its parent.
    ///
    /// # Cancel safety
    /// Waiting may be given up and begun again.
    pub(super) async fn gone(&self) {
        if let Err(error) = self.fd.readable().await {
            warn!(%error, "the end of a process cannot be waited for");
        }
    }
}
