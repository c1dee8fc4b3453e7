//! The end of a generation: joined, left by every thread, closed, and looked up whether it is really gone.
//!
//! An unload is measured and never promised. What keeps a library mapped is found out and said: a thread that is still
//! inside, a destructor that has not run, the library's own wish. It is then tried again later.

use std::{
    collections::BTreeSet,
    fs, io,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread::JoinHandle,
    time::{Duration, Instant, SystemTime},
};

use muster_plugin_api::loader::{self, Mapped};
use procfs::process::{MMPermissions, MMapPath, MemoryMap, Process};
use tokio::sync::oneshot;

use super::{elf::Facts, recorder::Plate};
use crate::{
    ids::Generation,
    modules::{
        actor::{Actor, Left},
        jobs::Jobs,
    },
};

/// How long a thread may take from the closing of its mailbox to its end, destructors included.
const JOIN_TIMEOUT: Duration = Duration::from_secs(2);

/// Between two looks at a thread that is about to end; it takes some 100 µs.
const JOIN_LOOK: Duration = Duration::from_millis(1);

/// How long the destructors of a library may take.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a thread may look as if it were inside: words on a stack that was used before may point anywhere, but not for
/// long.
const FORGOTTEN: Duration = Duration::from_millis(50);
/// How long a thread may run, or wait for a processor, without being seen at rest: only then its stack can be read.
const SEEN: Duration = Duration::from_secs(1);
/// Between two looks.
const LOOK_AGAIN: Duration = Duration::from_millis(2);

/// The longest piece of a stack that is searched: more than any stack has that was not asked for by name.
const STACK_SEARCHED: u64 = 64 * 1024 * 1024;

/// The stack of every thread that deals with a library's addresses. A thread that ends leaves its stack to the next one
/// that fits, with all that was on it, and whoever got it would seem to be inside. glibc gives nobody a stack of more than
/// four times the size that was asked for, and the host's other threads ask for 2 MiB. What is not used takes no memory.
pub(crate) const STACK: usize = 16 * 1024 * 1024;

/// Threads of the host, wherever they come from: none of them runs code of a plugin that is not its own.
static HOST_THREADS: Mutex<BTreeSet<i32>> = Mutex::new(BTreeSet::new());

/// A generation that is gone for good but still mapped.
#[derive(Debug)]
pub(crate) struct Leftover {
    pub(crate) generation: Generation,
    pub(crate) reason: String,
    /// How much address space it holds.
    pub(crate) bytes: u64,
    pub(crate) since: SystemTime,
    path: PathBuf,
    facts: Facts,
    jobs: Arc<Jobs>,
    held: Held,
}

#[derive(Debug)]
enum Held {
    /// Its own thread has not come back.
    Thread(i32, Option<JoinHandle<Left>>),
    /// Other threads are inside, so it was not closed.
    Open(Left),
    /// It was closed, and is still there.
    Closed,
}

/// Says, while it lives, that the thread that made it is one of the host's.
#[derive(Debug)]
pub(crate) struct HostThread(i32);

/// The threads of this process at some moment.
#[derive(Debug, Default)]
pub(crate) struct Bystanders(BTreeSet<(i32, u64)>);

/// How a thread looks as if it were inside a library.
#[derive(Debug, Clone, Copy)]
enum Trace {
    /// It could not be seen at rest.
    Unseen,
    /// It is at an instruction of it.
    Code,
    /// It has an address of its code on its stack: this many words from the end that moves, of so many.
    Stack { depth: usize, of: usize },
}

// === unloading ===

/// Ends a generation whose instances are stopped: closes its mailbox, joins its thread, closes the library.
///
/// # Errors
/// What is left if the library is still mapped afterwards.
pub(crate) async fn unload(actor: Actor, facts: Facts) -> Result<(), Box<Leftover>> {
    let (generation, path, presence) = (actor.generation, actor.path.clone(), actor.presence.clone());
    let jobs = actor.jobs.clone();
    actor.mailbox.close();
    jobs.close();
    let tid = presence.tid();
    let thread = actor.into_thread();
    let mut leftover = Leftover {
        generation,
        reason: String::new(),
        bytes: 0,
        since: SystemTime::now(),
        path,
        facts,
        jobs,
        held: Held::Thread(tid, thread),
    };
    let patience = Instant::now() + JOIN_TIMEOUT;
    while !leftover.is_left() {
        if Instant::now() >= patience {
            let inside = match (presence.inside_for(), leftover.jobs.running_for()) {
                (Some(inside), _) => format!("its thread is inside a handler since {:.0} s", inside.as_secs_f64()),
                (None, Some(job)) => {
                    format!("a job of it (`spawn_blocking`) is running since {:.0} s", job.as_secs_f64())
                }
                (None, None) => "its thread does not end".to_owned(),
            };
            return Err(leftover.because(inside));
        }
        tokio::time::sleep(JOIN_LOOK).await;
    }
    leftover.retry().await
}

impl Leftover {
    /// Goes on where the last attempt ended.
    ///
    /// # Errors
    /// What is left if the library is still mapped.
    pub(crate) async fn retry(mut self) -> Result<(), Box<Leftover>> {
        if !self.is_left() {
            return Err(self.into());
        }
        // Not on a thread of the runtime: the library's destructors run in there, and may not return.
        let (done, outcome) = oneshot::channel();
        let (generation, since, path, facts) = (self.generation, self.since, self.path.clone(), self.facts.clone());
        let jobs = self.jobs.clone();
        let work = move || {
            // Two that unload at a time are not inside each other's library.
            let _mark = HostThread::mark();
            // Whoever waits may have lost patience.
            drop(done.send(self.finish()));
        };
        let lost = |reason: &str| {
            let held = Held::Closed;
            let left = Leftover { generation, since, path, facts, jobs, held, reason: String::new(), bytes: 0 };
            Err(left.because(reason.to_owned()))
        };
        if let Err(error) = std::thread::Builder::new().name("m-unload".to_owned()).stack_size(STACK).spawn(work) {
            return lost(&format!("there can be no thread to unload it on ({error})"));
        }
        match tokio::time::timeout(CLOSE_TIMEOUT, outcome).await {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(_)) => lost("the thread that unloads it was lost"),
            Err(_) => lost("its destructors have not returned"),
        }
    }

    fn finish(mut self) -> Result<(), Box<Leftover>> {
        let held = std::mem::replace(&mut self.held, Held::Closed);
        let left = match held {
            Held::Thread(_, Some(thread)) => match thread.join() {
                Ok(left) => Some(left),
                Err(_) => return Err(self.because("its thread panicked, so that nobody can close it".to_owned())),
            },
            Held::Open(left) => Some(left),
            Held::Thread(_, None) | Held::Closed => None,
        };
        if let Some(Left { library: Some(library), bystanders }) = left {
            let inside = threads_inside(&self.path, &bystanders);
            if !inside.is_empty() {
                self.held = Held::Open(Left { library: Some(library), bystanders });
                return Err(self.because(format!("other threads are inside: {}", inside.join(", "))));
            }
            // Its destructors run in there.
            let plate = Plate::default();
            plate.describe(&self.path, std::iter::empty());
            let inside = plate.put_up();
            let closed = Mapped::close(library);
            drop(inside);
            if let Err(error) = closed {
                return Err(self.because(format!("the loader cannot close it ({error})")));
            }
        }
        let loaded = loader::is_loaded(&self.path);
        let bytes = mapped_bytes(&self.path);
        if loaded || bytes > 0 {
            let reason = if self.facts.nodelete {
                "it is linked with NODELETE"
            } else if loaded && self.facts.unique_symbols > 0 {
                "it has symbols that are unique in the process (STB_GNU_UNIQUE)"
            } else if loaded {
                "a thread has still to run a destructor of it"
            } else {
                "it has mapped its own file"
            };
            return Err(self.because(reason.to_owned()));
        }
        if let Err(error) = fs::remove_file(&self.path)
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::debug!(path = %self.path.display(), %error, "staged copy stays");
        }
        Ok(())
    }

    /// Whether nothing runs any more that belongs to it: neither its thread nor a job.
    fn is_left(&mut self) -> bool {
        self.thread_is_gone() && self.jobs.running_for().is_none()
    }

    /// Whether the thread has left the system, so that joining it takes no time: not just its closure, its destructors too.
    fn thread_is_gone(&mut self) -> bool {
        match &self.held {
            Held::Thread(tid, Some(thread)) => {
                thread.is_finished() && !Path::new(&format!("/proc/self/task/{tid}")).exists()
            }
            _ => true,
        }
    }

    fn because(mut self, reason: String) -> Box<Leftover> {
        self.reason = reason;
        self.bytes = mapped_bytes(&self.path);
        self.into()
    }
}

// === what is mapped ===

/// How many bytes of address space a file holds.
fn mapped_bytes(path: &Path) -> u64 {
    ranges(|map| is_of(map, path)).iter().map(|(start, end)| end - start).sum()
}

/// The parts of the address space that are like this.
fn ranges(like: impl Fn(&MemoryMap) -> bool) -> Vec<(u64, u64)> {
    let maps = Process::myself().and_then(|process| process.maps());
    let maps = maps.map(|maps| maps.0).unwrap_or_default();
    maps.into_iter().filter(|map| like(map)).map(|map| map.address).collect()
}

/// Whether the file is mapped there. The kernel marks files that are removed.
fn is_of(map: &MemoryMap, path: &Path) -> bool {
    let MMapPath::Path(mapped) = &map.pathname else { return false };
    mapped == path || mapped.to_str().and_then(|text| text.strip_suffix(" (deleted)")).map(Path::new) == Some(path)
}

// === who is inside ===

impl HostThread {
    /// Marks this thread. To be dropped on it, before it ends.
    pub(crate) fn mark() -> HostThread {
        let tid = rustix::thread::gettid().as_raw_nonzero().get();
        host_threads().insert(tid);
        HostThread(tid)
    }
}

impl Drop for HostThread {
    fn drop(&mut self) {
        host_threads().remove(&self.0);
    }
}

fn host_threads() -> MutexGuard<'static, BTreeSet<i32>> {
    HOST_THREADS.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Bystanders {
    /// Those that are here now.
    pub(crate) fn now() -> Bystanders {
        Bystanders(tasks().into_iter().filter_map(|tid| Some((tid, begun(tid)?))).collect())
    }

    fn has(&self, tid: i32) -> bool {
        begun(tid).is_some_and(|begun| self.0.contains(&(tid, begun)))
    }
}

/// The threads that came after the library and may be inside it, by name and why. Conservative: it may name one that is
/// only about to forget, but none that is inside is left out.
fn threads_inside(path: &Path, bystanders: &Bystanders) -> Vec<String> {
    // Whoever is inside returns into its code. Addresses of its data say nothing: where it is now, there was memory for other
    // purposes before, of which words may be left on any stack.
    let code = ranges(|map| is_of(map, path) && map.perms.contains(MMPermissions::EXECUTE));
    let me = rustix::thread::gettid().as_raw_nonzero().get();
    let mut suspects: Vec<(i32, Trace)> = {
        let host = host_threads();
        let strangers = tasks().into_iter().filter(|tid| *tid != me && !bystanders.has(*tid) && !host.contains(tid));
        strangers.map(|tid| (tid, Trace::Unseen)).collect()
    };
    let begin = Instant::now();
    loop {
        let stacks = ranges(|map| map.perms.contains(MMPermissions::WRITE));
        suspects.retain_mut(|(tid, trace)| match look_for(*tid, &code, &stacks) {
            None => false,
            Some(found) => {
                *trace = found;
                true
            }
        });
        let patience = if suspects.iter().any(|(_, trace)| matches!(trace, Trace::Unseen)) { SEEN } else { FORGOTTEN };
        if suspects.is_empty() || begin.elapsed() >= patience {
            break;
        }
        std::thread::sleep(LOOK_AGAIN);
    }
    suspects.into_iter().map(|(tid, trace)| format!("{} ({tid}, {trace})", comm(tid))).collect()
}

/// What of the library a thread has, if any.
fn look_for(tid: i32, code: &[(u64, u64)], stacks: &[(u64, u64)]) -> Option<Trace> {
    let unseen = || begun(tid).map(|_| Trace::Unseen);
    // Gone, or a kernel that does not tell; then its existence has to do.
    let Ok(syscall) = fs::read_to_string(format!("/proc/self/task/{tid}/syscall")) else { return unseen() };
    let mut words = syscall.split_whitespace().rev();
    // A thread that runs has no registers to be read.
    let (Some(pc), Some(sp)) = (words.next().and_then(hexadecimal), words.next().and_then(hexadecimal)) else {
        return unseen();
    };
    if within(pc, code) {
        return Some(Trace::Code);
    }
    let (_, top) = stacks.iter().find(|(start, end)| (*start..*end).contains(&sp))?;
    let from = sp & !7;
    let mut stack = vec![0; usize::try_from((top - from).min(STACK_SEARCHED)).unwrap_or_default()];
    // A stack that is gone by now had an end that this thread has reached as well.
    let Ok(read) = fs::File::open("/proc/self/mem").and_then(|memory| memory.read_at(&mut stack, from)) else {
        return unseen();
    };
    let words = stack[..read].chunks_exact(8).filter_map(|word| word.try_into().ok()).map(u64::from_ne_bytes);
    words.zip(0..).find(|(word, _)| within(*word, code)).map(|(_, depth)| Trace::Stack { depth, of: read / 8 })
}

fn within(address: u64, ranges: &[(u64, u64)]) -> bool {
    ranges.iter().any(|(start, end)| (*start..*end).contains(&address))
}

fn hexadecimal(text: &str) -> Option<u64> {
    u64::from_str_radix(text.strip_prefix("0x")?, 16).ok()
}

fn tasks() -> Vec<i32> {
    let Ok(entries) = fs::read_dir("/proc/self/task") else { return Vec::new() };
    entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

/// When the thread began, in ticks since the start of the system: with its number, its identity.
fn begun(tid: i32) -> Option<u64> {
    procfs::process::Process::myself().ok()?.task_from_tid(tid).ok()?.stat().ok().map(|stat| stat.starttime)
}

fn comm(tid: i32) -> String {
    fs::read_to_string(format!("/proc/self/task/{tid}/comm")).unwrap_or_default().trim().to_owned()
}

impl std::fmt::Display for Trace {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Trace::Unseen => f.write_str("always running"),
            Trace::Code => f.write_str("in its code"),
            Trace::Stack { depth, of } => write!(f, "on its stack, {depth} of {of} words deep"),
        }
    }
}
