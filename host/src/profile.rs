//! CPU profiles of a process, taken from outside: the daemon starts a child that stops the process' running threads a
//! hundred times a second, for as long as it takes to read their stacks, and tells where they were.
//!
//! ```text
//! Profile::take ─▶ child: sampler.rs ─▶ symbols.rs ─▶ stacks.rs ─▶ flamegraph, pprof, tree ─▶ standard output
//! ```
//!
//! From outside, because there is no good place for a sampler inside. A signal handler in a daemon that opens and closes
//! libraries must neither be in one of them nor wait for the loader's lock, and it could not see a program that the
//! monitor wraps. A child that dies, or is killed, lets go of all threads; that is the kernel's promise.

mod child;
mod pprof;
mod sampler;
mod stacks;
mod symbols;

use std::{
    io,
    process::Stdio,
    time::{Duration, Instant},
};

use base64::{Engine, prelude::BASE64_STANDARD};
use muster_plugin_api::{CpuProfile, ProfileFormat, RequestError};
use parking_lot::Mutex;
use rustix::process::{PTracer, Pid, set_ptracer};
use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    process::{Child, ChildStdin, ChildStdout, Command},
    time::timeout,
};
use tokio_util::sync::CancellationToken;

pub(crate) use self::child::child_main;

/// The longest profile. Stacks of minutes say nothing that those of one minute do not.
const LONGEST: Duration = Duration::from_secs(60);
/// What the child may need beyond: reading the symbols of a large program takes seconds.
const LATE: Duration = Duration::from_secs(30);
/// The largest result; it travels as a message. The flamegraph of a busy daemon has some hundred kB.
const LARGEST: u64 = 4 << 20;

/// The profile that is being taken by this daemon, in whichever role: a thread can be stopped by one at a time.
static RUNNING: Mutex<Option<CancellationToken>> = Mutex::new(None);

/// What the child is told, in one line of JSON.
#[derive(Debug, Serialize, Deserialize)]
struct Order {
    pid: u32,
    duration_ms: u64,
    format: ProfileFormat,
}

/// What the child says first, in one line of JSON; the result follows.
type Verdict = Result<Taken, String>;

#[derive(Debug, Serialize, Deserialize)]
struct Taken {
    samples: u64,
    duration_ms: u64,
}

/// The right to take a profile, and the way to end it before its time.
struct Turn(CancellationToken);

/// Takes a profile of the process `pid`, until its time is over or [`end`] is called. Dropping the future ends the child.
///
/// # Errors
/// When one is being taken already, or the process cannot be looked into; the text says why, and what to do.
pub(crate) async fn take(pid: u32, wanted: Duration, format: ProfileFormat) -> Result<CpuProfile, RequestError> {
    if wanted.is_zero() || wanted > LONGEST {
        let longest = humantime::format_duration(LONGEST);
        return Err(RequestError::Refused(format!("a profile takes from 1ms to {longest}")));
    }
    let turn = Turn::begin()?;
    let (mut child, stdin, stdout) = start(pid, wanted, format).await.map_err(|error| {
        RequestError::Refused(format!("the process that takes the profile cannot be started: {error}"))
    })?;
    let taking = async {
        let mut stdin = Some(stdin);
        let result = read(stdout);
        tokio::pin!(result);
        loop {
            tokio::select! {
                result = &mut result => return result,
                // The child takes the end of its input for the end of its time.
                () = turn.0.cancelled(), if stdin.is_some() => drop(stdin.take()),
            }
        }
    };
    let taken = timeout(wanted + LATE, taking).await;
    drop(child.start_kill());
    drop(child.wait().await);
    let failed = |reason: String| RequestError::Refused(format!("process {pid} cannot be profiled: {reason}"));
    let (verdict, data) = match taken {
        Ok(read) => read.map_err(|error| failed(format!("the one that does it ended early ({error})")))?,
        Err(_) => return Err(RequestError::Timeout("the profile was not ready in time".to_owned())),
    };
    let Taken { samples, duration_ms } = verdict.map_err(failed)?;
    let data = match format {
        ProfileFormat::Pprof => BASE64_STANDARD.encode(data),
        ProfileFormat::Svg | ProfileFormat::Tree => {
            String::from_utf8(data).map_err(|error| failed(error.to_string()))?
        }
    };
    Ok(CpuProfile { pid, samples, duration_ms, format, data })
}

/// Ends the profile that is being taken; what was seen so far is its result. False if there is none.
pub(crate) fn end() -> bool {
    let running = RUNNING.lock();
    running.as_ref().inspect(|running| running.cancel()).is_some()
}

impl Turn {
    fn begin() -> Result<Turn, RequestError> {
        let mut running = RUNNING.lock();
        if running.is_some() {
            return Err(RequestError::Busy("a profile is being taken already: wait for its end".to_owned()));
        }
        let end = CancellationToken::new();
        *running = Some(end.clone());
        Ok(Turn(end))
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let_trace(PTracer::None);
        *RUNNING.lock() = None;
    }
}

/// Starts the child, lets it look into this process if it is the one, and tells it to begin.
async fn start(pid: u32, wanted: Duration, format: ProfileFormat) -> io::Result<(Child, ChildStdin, ChildStdout)> {
    // `/proc/self/exe` is the program that runs, even when an upgrade has replaced the file it came from.
    let mut child = Command::new("/proc/self/exe")
        .arg("sample")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()?;
    let missing = || io::Error::other("it has no standard input or output");
    let (mut stdin, stdout) = (child.stdin.take().ok_or_else(missing)?, child.stdout.take().ok_or_else(missing)?);
    if pid == std::process::id()
        && let Some(tracer) = child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?))
    {
        let_trace(PTracer::ProcessID(tracer));
    }
    let order = Order { pid, duration_ms: u64::try_from(wanted.as_millis()).unwrap_or(u64::MAX), format };
    let mut line = serde_json::to_vec(&order)?;
    line.push(b'\n');
    stdin.write_all(&line).await?;
    Ok((child, stdin, stdout))
}

/// Where the kernel lets processes look into their descendants only (Yama), the child needs leave to look into its parent.
/// Elsewhere the call is unknown, and not needed.
fn let_trace(who: PTracer) {
    set_ptracer(who).unwrap_or(());
}

async fn read(stdout: ChildStdout) -> io::Result<(Verdict, Vec<u8>)> {
    let mut stdout = BufReader::new(stdout.take(LARGEST));
    let mut line = Vec::new();
    stdout.read_until(b'\n', &mut line).await?;
    let verdict = serde_json::from_slice(&line)?;
    let mut data = Vec::new();
    stdout.read_to_end(&mut data).await?;
    if stdout.get_ref().limit() == 0 {
        return Err(io::Error::other(format!("its result is larger than {LARGEST} bytes: profile for a shorter time")));
    }
    Ok((verdict, data))
}

/// Time that is left until `end`.
fn left(end: Instant) -> Duration {
    end.saturating_duration_since(Instant::now())
}
