//! One run of a program: a process that was started, or one that was found again.

use std::{
    fmt,
    fs::File,
    io,
    os::unix::process::{CommandExt, ExitStatusExt},
    path::PathBuf,
    process::{Child, Command, ExitStatus, Stdio},
};

use procfs::process::Process;
use rustix::{
    process::{Pid, Signal},
    thread::{CpuSet, sched_getaffinity, sched_setaffinity},
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{
    cpus::Cpus,
    kin::{Handle, Mark, VARIABLE},
};
use crate::plugin::preflight::signal_name;

/// What is run, and how.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Launch {
    /// The program, and its arguments as they are: nothing is read by a shell.
    pub(crate) command: Vec<String>,
    /// Where; the daemon's own directory if it is not given.
    pub(crate) dir: Option<PathBuf>,
    /// Variables beside those of the daemon.
    pub(crate) variables: Vec<(String, String)>,
    /// The processors that it may use; all if it is not given.
    pub(crate) cpus: Option<Cpus>,
}

/// What is written down of a run, so that a later supervisor finds it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Record {
    pid: i32,
    /// When the process was started, in ticks since the machine was: with the pid it names one process only.
    started: u64,
    command: Vec<String>,
}

/// A process that runs.
#[derive(Debug)]
pub(super) struct Run {
    handle: Handle,
    started: u64,
    /// `None` if it is not our child.
    child: Option<Child>,
}

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum How {
    /// By itself, with a code.
    Exit(i32),
    /// By a signal.
    Signal(i32),
    /// Nobody was told: it was not our child.
    Unknown,
}

impl Run {
    /// Starts a process in a group of its own. Its output goes to the files as it is: so the process depends on no
    /// supervisor that reads it.
    pub(super) fn start(launch: &Launch, mark: &Mark, stdout: File, stderr: File) -> io::Result<Run> {
        let Some((program, arguments)) = launch.command.split_first() else {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "the command is empty"));
        };
        let mut command = Command::new(program);
        command
            .args(arguments)
            .envs(launch.variables.iter().map(|(name, value)| (name, value)))
            .env(VARIABLE, mark.as_str())
            .stdin(Stdio::null())
            .stdout(stdout)
            .stderr(stderr)
            .process_group(0);
        if let Some(dir) = &launch.dir {
            command.current_dir(dir);
        }
        let mut child = match &launch.cpus {
            Some(cpus) => pinned(cpus, || command.spawn())?,
            None => command.spawn()?,
        };
        let opened = pid(child.id()).and_then(|pid| Ok((Handle::open(pid)?, start_time(pid)?)));
        match opened {
            Ok((handle, started)) => Ok(Run { handle, started, child: Some(child) }),
            // Without a handle it could not be watched.
            Err(error) => {
                child.kill()?;
                child.wait()?;
                Err(error)
            }
        }
    }

    /// Finds the process that an earlier supervisor wrote down, if it still runs and carries the mark.
    pub(super) fn find(record: &Record, mark: &Mark) -> Option<Run> {
        let handle = Handle::open(Pid::from_raw(record.pid)?).ok()?;
        let process = Process::new(record.pid).ok()?;
        let stat = process.stat().ok()?;
        let same = stat.starttime == record.started && stat.state != 'Z' && mark.is_on(&process);
        same.then_some(Run { handle, started: record.started, child: None })
    }

    pub(super) fn record(&self, launch: &Launch) -> Record {
        let pid = self.handle.pid.as_raw_nonzero().get();
        Record { pid, started: self.started, command: launch.command.clone() }
    }

    pub(super) fn pid(&self) -> Pid {
        self.handle.pid
    }

    pub(super) fn signal(&self, signal: Signal) {
        self.handle.signal(signal);
    }

    /// Waits for the end of the first process. It is not taken note of yet, so that its group stays its own.
    ///
    /// # Cancel safety
    /// Waiting may be given up and begun again.
    pub(super) async fn over(&self) {
        self.handle.gone().await;
    }

    /// Takes note of the end, which has come.
    pub(super) fn how(mut self) -> How {
        match self.child.as_mut().map(Child::wait) {
            Some(Ok(status)) => How::of(status),
            Some(Err(_)) | None => How::Unknown,
        }
    }
}

impl Record {
    pub(super) fn into_command(self) -> Vec<String> {
        self.command
    }
}

impl How {
    fn of(status: ExitStatus) -> How {
        match (status.code(), status.signal()) {
            (Some(code), _) => How::Exit(code),
            (None, Some(signal)) => How::Signal(signal),
            (None, None) => How::Unknown,
        }
    }

    /// Whether something went wrong. What nobody was told of is taken for a failure: a server does not end for nothing.
    pub(super) fn is_failure(self) -> bool {
        self != How::Exit(0)
    }

    /// `{"how", "code", "signal"}`
    pub(super) fn to_json(self) -> Value {
        let (code, signal) = match self {
            How::Exit(code) => (Some(code), None),
            How::Signal(signal) => (None, Some(signal)),
            How::Unknown => (None, None),
        };
        json!({ "how": self.to_string(), "code": code, "signal": signal })
    }
}

impl fmt::Display for How {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            How::Exit(code) => write!(f, "exit code {code}"),
            How::Signal(signal) => f.write_str(&signal_name(*signal)),
            How::Unknown => f.write_str("an unknown end, as it was started by an earlier supervisor"),
        }
    }
}

/// Does something while this thread is bound to processors, as what it starts then is from its first moment on.
fn pinned<T>(cpus: &Cpus, start: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    let before: CpuSet = sched_getaffinity(None)?;
    sched_setaffinity(None, &cpus.set()).map_err(|error| {
        io::Error::new(io::Error::from(error).kind(), format!("cpu {cpus}: this machine has no such processor"))
    })?;
    let started = start();
    sched_setaffinity(None, &before)?;
    started
}

fn pid(raw: u32) -> io::Result<Pid> {
    let pid = i32::try_from(raw).ok().and_then(Pid::from_raw);
    pid.ok_or_else(|| io::Error::other(format!("{raw} is no process id")))
}

fn start_time(pid: Pid) -> io::Result<u64> {
    let stat = Process::new(pid.as_raw_nonzero().get()).and_then(|process| process.stat());
    Ok(stat.map_err(io::Error::other)?.starttime)
}
