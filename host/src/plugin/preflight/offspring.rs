//! What a candidate started while it was being looked at, found and ended.
//!
//! A process may leave its group, its session and its parent, so that killing the group does not reach it. The child is
//! the parent of all that lose theirs, for as long as it lives. When it has none, there are none. Otherwise they are
//! looked for by what they inherited: the mark in their environment.

use std::{
    collections::BTreeSet,
    fs,
    os::unix::ffi::OsStrExt,
    path::Path,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal};

/// A variable of the child's environment; its value is the path of the candidate.
pub(super) const MARK: &str = "MUSTER_PREFLIGHT";

/// Those that start others as fast as they are ended win after this time. The refusal says that there are some.
const PATIENCE: Duration = Duration::from_secs(1);

/// Whether a process has children. What cannot be known may be.
pub(super) fn has_children(parent: Pid) -> bool {
    let Ok(tasks) = fs::read_dir(format!("/proc/{}/task", parent.as_raw_nonzero())) else { return true };
    tasks.flatten().any(|task| fs::read(task.path().join("children")).map_or(true, |children| !children.is_empty()))
}

/// Ends all processes that have the mark of the candidate, but not the child itself; says how many that were.
pub(super) fn end(child: Pid, candidate: &Path) -> usize {
    let mark = [MARK.as_bytes(), b"=", candidate.as_os_str().as_bytes()].concat();
    let (mut ended, until) = (BTreeSet::new(), Instant::now() + PATIENCE);
    loop {
        let found: Vec<Pid> = marked(&mark).into_iter().filter(|process| *process != child).collect();
        for process in &found {
            // It may have ended by itself.
            rustix::process::kill_process(*process, Signal::KILL).unwrap_or(());
            ended.insert(process.as_raw_nonzero());
        }
        if found.is_empty() || Instant::now() >= until {
            return ended.len();
        }
    }
}

fn marked(mark: &[u8]) -> Vec<Pid> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    let numbers = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let processes = numbers.filter_map(Pid::from_raw);
    // Those of other users cannot be read, and are not ours; those that are dead have no environment.
    let has_mark = |process: &Pid| {
        let environment = fs::read(format!("/proc/{}/environ", process.as_raw_nonzero())).unwrap_or_default();
        environment.split(|byte| *byte == 0).any(|variable| variable == mark)
    };
    processes.filter(has_mark).collect()
}
