//! Where the threads of a process are. Each that runs is stopped, its stack is read, and it goes on.

use std::{
    fs,
    io::{self, IoSliceMut},
};

use nix::{
    errno::Errno,
    sys::{
        ptrace::{self, Options},
        uio::{RemoteIoVec, process_vm_readv},
        wait::{WaitPidFlag, WaitStatus, waitpid},
    },
    unistd::Pid,
};

use super::symbols::{Frame, Symbols};

/// Frames of a stack that are looked at, from the innermost.
const DEEPEST: usize = 256;
/// Threads that are looked at in one round.
const MOST_THREADS: usize = 512;

/// A process that can be looked into.
pub(super) struct Sampler {
    pid: u32,
}

/// One thread at one moment.
pub(super) struct Sample {
    pub(super) thread: String,
    /// From the innermost.
    pub(super) frames: Vec<Frame>,
}

impl Sampler {
    pub(super) fn of(pid: u32) -> io::Result<Sampler> {
        // One that waits is stopped as well: so it is known at once whether it is permitted.
        stopped(tid_of(pid)?, |_| ()).map_err(|error| explained(pid, error))?;
        Ok(Sampler { pid })
    }

    /// A sample of each thread that runs.
    pub(super) fn sample(&mut self, symbols: &mut Symbols) -> io::Result<Vec<Sample>> {
        let pid = self.pid;
        let threads = fs::read_dir(format!("/proc/{pid}/task")).map_err(|error| explained(pid, error))?;
        let mut samples = Vec::new();
        for entry in threads.flatten().take(MOST_THREADS) {
            let Some(tid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
            // It may be gone by now, as at every step below.
            let Ok(stat) = fs::read_to_string(entry.path().join("stat")) else { continue };
            let Some((name, state)) = name_and_state(&stat) else { continue };
            if state != 'R' {
                continue;
            }
            let frames = stopped(Pid::from_raw(tid), |tid| walk(tid, symbols)).unwrap_or_default();
            if !frames.is_empty() {
                samples.push(Sample { thread: name.to_owned(), frames });
            }
        }
        Ok(samples)
    }
}

/// `12 (name) R …`: the name may have any characters.
fn name_and_state(stat: &str) -> Option<(&str, char)> {
    let (before, after) = stat.rsplit_once(") ")?;
    Some((before.split_once('(')?.1, after.chars().next()?))
}

fn tid_of(pid: u32) -> io::Result<Pid> {
    i32::try_from(pid).map(Pid::from_raw).map_err(io::Error::other)
}

fn explained(pid: u32, error: io::Error) -> io::Error {
    let text = match error.kind() {
        io::ErrorKind::PermissionDenied => format!(
            "ptrace is not permitted: the daemon must run as the process' user and be permitted to trace it \
             (CAP_SYS_PTRACE, or kernel.yama.ptrace_scope = 0), and nobody else may trace process {pid}, such as a debugger"
        ),
        _ if error.raw_os_error() == Some(Errno::ESRCH as i32) => format!("there is no process {pid} (any more)"),
        io::ErrorKind::NotFound => format!("there is no process {pid} (any more)"),
        _ => return error,
    };
    io::Error::new(error.kind(), text)
}

/// Does something while a thread is stopped. What the kernel has to tell the thread meanwhile is passed on.
fn stopped<T>(tid: Pid, work: impl FnOnce(Pid) -> T) -> io::Result<T> {
    ptrace::seize(tid, Options::empty())?;
    ptrace::interrupt(tid)?;
    let signal = match waitpid(tid, Some(WaitPidFlag::__WALL))? {
        WaitStatus::Stopped(_, signal) => Some(signal),
        WaitStatus::Exited(..) | WaitStatus::Signaled(..) => return Err(Errno::ESRCH.into()),
        _ => None,
    };
    let done = work(tid);
    // If it fails the thread is gone.
    ptrace::detach(tid, signal).unwrap_or(());
    Ok(done)
}

/// Follows the frame pointers of a stopped thread, for as long as they lead to code.
fn walk(tid: Pid, symbols: &mut Symbols) -> Vec<Frame> {
    let Ok((counter, mut pointer)) = registers(tid) else { return Vec::new() };
    let mut frames: Vec<Frame> = symbols.locate(counter).into_iter().collect();
    let mut last = 0;
    while frames.len() < DEEPEST && pointer > last && pointer % 8 == 0 {
        let Some([next, returns_to]) = two_words(tid, pointer) else { break };
        // The call is before the place that it returns to.
        let Some(frame) = returns_to.checked_sub(1).and_then(|address| symbols.locate(address)) else { break };
        frames.push(frame);
        (last, pointer) = (pointer, next);
    }
    frames
}

fn two_words(tid: Pid, address: u64) -> Option<[u64; 2]> {
    let mut bytes = [0; 16];
    let remote = RemoteIoVec { base: usize::try_from(address).ok()?, len: bytes.len() };
    let read = process_vm_readv(tid, &mut [IoSliceMut::new(&mut bytes)], &[remote]).ok()?;
    let [first, second] = [bytes.first_chunk()?, bytes.last_chunk()?].map(|word| u64::from_ne_bytes(*word));
    (read == bytes.len()).then_some([first, second])
}

/// Program counter and frame pointer.
#[cfg(target_arch = "x86_64")]
fn registers(tid: Pid) -> nix::Result<(u64, u64)> {
    let registers = ptrace::getregset::<ptrace::regset::NT_PRSTATUS>(tid)?;
    Ok((registers.rip, registers.rbp))
}

/// Program counter and frame pointer.
#[cfg(target_arch = "aarch64")]
fn registers(tid: Pid) -> nix::Result<(u64, u64)> {
    let registers = ptrace::getregset::<ptrace::regset::NT_PRSTATUS>(tid)?;
    Ok((registers.pc, registers.regs[29]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_threads_may_look_like_anything() {
        assert_eq!(name_and_state("12 (tokio) R 1 2"), Some(("tokio", 'R')));
        assert_eq!(name_and_state("12 (a) R (b) S 1"), Some(("a) R (b", 'S')));
        assert_eq!(name_and_state("12"), None);
    }

    #[test]
    fn a_process_that_is_gone_is_told_by_its_number() {
        let error = Sampler::of(i32::MAX as u32).err().unwrap();
        assert!(error.to_string().contains("there is no process 2147483647"), "{error}");
    }
}
