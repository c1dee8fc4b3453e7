//! What a worker process does: one plugin on its main thread, and a socket in the place of the daemon.

use std::{
    collections::VecDeque,
    fs::File,
    io::{self, Write},
    os::{fd::AsFd, unix::net::UnixStream},
    path::Path,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::ThreadId,
    time::{Duration, Instant},
};

use abi_stable::{
    sabi_trait::TD_Opaque,
    std_types::{RArc, RSlice, RStr, RVec},
};
use muster_plugin_api::{
    abi::{HostApi, HostApi_TO, Mail, PluginObj, ask, tell},
    loader::Library,
};
use rustix::process::{Resource, Rlimit, Signal};

use super::{
    Limits, cgroup,
    frame::{Incoming, Parcel, ToHost, ToWorker},
};
use crate::modules::jobs::Jobs;

/// How long the daemon may take to answer a tell or query; it takes microseconds. One that is stopped takes longer.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);
/// How much is kept until the end of a turn: replies that end together travel together.
const FLUSH_FROM: usize = 64 << 10;
/// The result of a tell that was not done.
const REFUSED: i64 = -1;

/// The daemon, as the plugin sees it.
#[derive(Clone)]
struct Remote {
    link: Arc<Link>,
    jobs: Arc<Jobs>,
    /// What does the plugin's jobs, if it has any.
    run: Option<extern "C" fn(u64)>,
}

/// The socket, seen from the worker. What arrives is read by the plugin's thread alone.
struct Link {
    plugin_thread: ThreadId,
    stream: UnixStream,
    saying: Mutex<Saying>,
    hearing: Mutex<Hearing>,
    /// A turn was asked for, and has not begun.
    woken: AtomicBool,
}

#[derive(Default)]
struct Saying {
    buffer: Vec<u8>,
    in_turn: bool,
}

#[derive(Default)]
struct Hearing {
    incoming: Incoming,
    /// Parcels that came while an answer was waited for.
    parcels: VecDeque<(u64, Vec<u8>)>,
    questions: u32,
}

/// The daemon is gone, or wants this process to be.
struct Gone;

/// The whole life of a worker: runs the plugin of the staged library at `path`, and ends the process.
///
/// For the hidden command `worker PATH`; the socket is standard input.
pub(crate) fn worker_main(path: &Path, limits: &Limits, group: Option<&Path>) -> ! {
    // Whatever went wrong, the daemon sees the end.
    drop(work(path, limits, group));
    // No exit: that would run what the plugin left for the end of the process, which may not return.
    loop {
        rustix::process::kill_process(rustix::process::getpid(), Signal::KILL).unwrap_or(());
    }
}

fn work(path: &Path, limits: &Limits, group: Option<&Path>) -> io::Result<()> {
    // A descriptor that no child of the plugin inherits, out of the way of what it may do with the first three.
    let stream = UnixStream::from(std::io::stdin().as_fd().try_clone_to_owned()?);
    rustix::stdio::dup2_stdin(File::open("/dev/null")?)?;
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
    // For `ps` and `top`; without it the name is that of the link it was started from.
    rustix::thread::set_name(c"muster-worker")?;
    stream.set_read_timeout(Some(ANSWER_WITHIN))?;
    let link = Arc::new(Link {
        plugin_thread: std::thread::current().id(),
        stream,
        saying: Mutex::default(),
        hearing: Mutex::default(),
        woken: AtomicBool::new(false),
    });
    // Before anything of the plugin is there to be counted.
    let created = group
        .map_or(Ok(()), cgroup::enter)
        .and_then(|()| limits.confine())
        .map_err(|error| format!("its limits cannot be set ({error})"))
        .and_then(|()| Library::open(path))
        .and_then(|library| {
            let remote = Remote { link: link.clone(), jobs: Arc::default(), run: library.run() };
            let host = HostApi_TO::from_ptr(RArc::new(remote), TD_Opaque);
            Ok((library.create(host)?, library))
        });
    match created {
        Ok((plugin, _library)) => {
            link.say(&ToHost::Created { error: "" });
            while link.take_turn(&plugin).is_ok() {}
        }
        Err(error) => link.say(&ToHost::Created { error: if error.is_empty() { "without a reason" } else { &error } }),
    }
    Ok(())
}

impl Limits {
    fn confine(&self) -> io::Result<()> {
        let limits = [
            (Resource::Core, Some(0)),
            // Not the address space: allocators reserve much that they never touch.
            (Resource::Data, self.memory),
            (Resource::Cpu, self.cpu_seconds),
            (Resource::Nofile, self.files),
        ];
        for (resource, limit) in limits {
            let Some(limit) = limit else { continue };
            let above = rustix::process::getrlimit(resource).maximum;
            let limit = above.map_or(limit, |above| limit.min(above));
            rustix::process::setrlimit(resource, Rlimit { current: Some(limit), maximum: Some(limit) })?;
        }
        Ok(())
    }
}

// === impl Link ===

impl Link {
    /// Waits for a parcel and gives it to the plugin.
    fn take_turn(&self, plugin: &PluginObj) -> Result<(), Gone> {
        let (number, parcel) = self.next_parcel()?;
        let mail: Vec<Mail<'_>> = Parcel::of(&parcel).collect::<Result<_, _>>().map_err(|_| Gone)?;
        self.saying().in_turn = true;
        self.woken.store(false, Ordering::SeqCst);
        plugin.turn(RSlice::from_slice(&mail));
        self.saying().in_turn = false;
        self.say(&ToHost::Turn { number });
        Ok(())
    }

    fn next_parcel(&self) -> Result<(u64, Vec<u8>), Gone> {
        let mut hearing = self.hearing();
        loop {
            if let Some(parcel) = hearing.parcels.pop_front() {
                return Ok(parcel);
            }
            // An answer that comes now comes too late.
            hearing.hear(&self.stream)?;
        }
    }

    /// Says something; within a turn not before its end, unless it should not wait.
    fn say(&self, said: &ToHost<'_>) {
        let mut saying = self.saying();
        said.write(&mut saying.buffer);
        let may_wait = matches!(said, ToHost::Reply { .. } | ToHost::Ask { .. } | ToHost::Wake);
        if may_wait && saying.in_turn && self.is_plugin_thread() && saying.buffer.len() < FLUSH_FROM {
            return;
        }
        // A daemon that does not hear it is gone, which is noticed by whoever listens.
        drop((&self.stream).write_all(&saying.buffer));
        saying.buffer.clear();
    }

    /// Asks the daemon, and waits for its answer. `None` when there is none.
    fn ask<'a>(&self, question: impl FnOnce(u32) -> ToHost<'a>) -> Option<(i64, Vec<u8>)> {
        // Others cannot listen while the plugin's thread does, which may be for ever.
        if !self.is_plugin_thread() {
            return None;
        }
        let mut hearing = self.hearing();
        hearing.questions = hearing.questions.wrapping_add(1);
        let id = hearing.questions;
        self.say(&question(id));
        let until = Instant::now() + ANSWER_WITHIN;
        while Instant::now() < until {
            match hearing.hear(&self.stream).ok()? {
                Some((answered, result, body)) if answered == id => return Some((result, body)),
                _ => {}
            }
        }
        None
    }

    fn is_plugin_thread(&self) -> bool {
        std::thread::current().id() == self.plugin_thread
    }

    fn saying(&self) -> MutexGuard<'_, Saying> {
        self.saying.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn hearing(&self) -> MutexGuard<'_, Hearing> {
        self.hearing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Hearing {
    /// Reads one frame, or for a while. Parcels are kept, an answer is returned.
    fn hear(&mut self, stream: &UnixStream) -> Result<Option<(u32, i64, Vec<u8>)>, Gone> {
        loop {
            match self.incoming.next().and_then(|frame| frame.map(ToWorker::read).transpose()) {
                Ok(Some(ToWorker::Parcel { number, mail })) => {
                    self.parcels.push_back((number, mail.to_vec()));
                    return Ok(None);
                }
                Ok(Some(ToWorker::Answer { id, result, body })) => return Ok(Some((id, result, body.to_vec()))),
                Ok(None) => {}
                Err(_) => return Err(Gone),
            }
            match self.incoming.fill(stream) {
                Ok(0) => return Err(Gone),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                Err(_) => return Err(Gone),
            }
        }
    }
}

// === impl Remote ===

impl HostApi for Remote {
    fn log(&self, instance: u32, level: u32, message: RStr<'_>, fields: RStr<'_>) {
        self.link.say(&ToHost::Log { instance, level, message: message.as_str(), fields: fields.as_str() });
    }

    fn reply(&self, call: u64, status: u32, error: RSlice<'_, u8>, body: RSlice<'_, u8>) {
        self.link.say(&ToHost::Reply { call, status, error: error.as_slice(), body: body.as_slice() });
    }

    fn ask(&self, instance: u32, id: u64, op: u32, a: RStr<'_>, b: RStr<'_>, n: u64, body: RSlice<'_, u8>) {
        match self.run {
            // Done here; the daemon is told when it is, and tells the plugin.
            Some(run) if op == ask::BLOCKING => {
                let link = self.link.clone();
                let taken = self.jobs.submit(move || {
                    run(n);
                    link.say(&ToHost::Ask { instance, id, op, a: "", b: "", n, body: &[] });
                });
                if taken.is_err() {
                    // The plugin finds that it was not.
                    self.link.say(&ToHost::Ask { instance, id, op, a: "", b: "", n, body: &[] });
                }
            }
            _ => {
                self.link.say(&ToHost::Ask { instance, id, op, a: a.as_str(), b: b.as_str(), n, body: body.as_slice() })
            }
        }
    }

    fn tell(&self, instance: u32, op: u32, a: RStr<'_>, b: RStr<'_>, n: u64, body: RSlice<'_, u8>) -> i64 {
        // The bridge watches the whole turn; telling it of every piece of work would cost a round trip for each.
        if op == tell::STEP {
            return 1;
        }
        let (a, b, body) = (a.as_str(), b.as_str(), body.as_slice());
        let answer = self.link.ask(|id| ToHost::Tell { id, instance, op, a, b, n, body });
        answer.map_or(REFUSED, |(result, _)| result)
    }

    fn query(&self, instance: u32, op: u32, a: RStr<'_>, b: RStr<'_>) -> RVec<u8> {
        let (a, b) = (a.as_str(), b.as_str());
        let answer = self.link.ask(|id| ToHost::Query { id, instance, op, a, b });
        answer.map(|(_, body)| body).unwrap_or_default().into()
    }

    fn wake(&self) {
        if !self.link.woken.swap(true, Ordering::SeqCst) {
            self.link.say(&ToHost::Wake);
        }
    }
}
