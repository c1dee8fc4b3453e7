//! Writes down of which plugin the daemon dies, at the moment it does.
//!
//! Handlers of the signals that a fault raises, and one for `exit`, look where the thread is that caused it, write that
//! to a file that was opened before, and leave the rest to whoever handled the signal so far. What is found there at the
//! next start is judged by [`postmortem`](super::postmortem).
//!
//! A generation's thread has a [`Plate`] that says whose it is; it is up while the thread is inside the plugin and not
//! in the host. A thread that a plugin started has none: its stack is written down, and the map of the process. Which
//! threads those are is told by the stack for signals: Rust's runtime gives one to every thread of the daemon, and a
//! library's own copy of the runtime gives none. What comes from outside (`kill`) is nobody's fault, and the kernel's
//! SIGKILL lets nobody write.
#![expect(unsafe_code, reason = "signals are handled, and memory of a thread that is about to end is written down")]

use std::{
    ffi::{c_int, c_void},
    io,
    mem::MaybeUninit,
    os::fd::{AsRawFd, RawFd},
    path::Path,
    ptr,
    sync::{
        Once, OnceLock,
        atomic::{AtomicI32, AtomicPtr, AtomicU64, Ordering},
    },
};

use rustix::fs::FlockOperation;
use tempfile::NamedTempFile;

/// How the files are named; something unique follows.
pub(super) const PREFIX: &str = "crash-";
/// Where in the file the stack begins: far behind the lines.
pub(super) const STACK_AT: u64 = 64 << 10;
/// How much of it is kept.
const STACK_KEPT: usize = 64 << 10;
/// Where the map of the process begins.
pub(super) const MAP_AT: u64 = STACK_AT + STACK_KEPT as u64;
/// The line that follows when the thread, having failed, aborts: what Rust's runtime does when a stack has overflowed.
pub(super) const ABORTED: &str = "aborted";
/// The signal that is written for `exit`.
pub(super) const EXIT: i32 = 0;

/// What a fault raises, by the kernel or by `abort`.
const SIGNALS: [c_int; 5] = [libc::SIGSEGV, libc::SIGBUS, libc::SIGILL, libc::SIGFPE, libc::SIGABRT];
/// Who handled them before.
static PREVIOUS: [OnceLock<libc::sigaction>; SIGNALS.len()] = [const { OnceLock::new() }; SIGNALS.len()];

/// The file; -1 for none.
static RECORD: AtomicI32 = AtomicI32::new(-1);
/// The thread that writes it: the first that fails.
static WRITER: AtomicI32 = AtomicI32::new(0);
/// How much is written of the lines.
static WRITTEN: AtomicU64 = AtomicU64::new(0);

thread_local! {
    /// The plate that is up. Without a destructor, so that it can be read at any moment of the thread's life.
    static UP: AtomicPtr<Plate> = const { AtomicPtr::new(ptr::null_mut()) };
}

/// Records while it lives: one for the process.
#[derive(Debug)]
pub(crate) struct Recorder {
    /// Locked: a file without a lock was left by a dead process. Removed at the end of one that ends in order.
    _file: NamedTempFile,
}

/// Whose thread it is, and what it does there.
#[derive(Debug, Default)]
pub(crate) struct Plate {
    /// The beginning of a JSON object.
    text: OnceLock<Box<str>>,
    /// See [`Step`](crate::modules::presence::Step).
    pub(crate) step: AtomicU64,
}

/// A thread is inside a plugin, or back in the host, while it lives.
#[derive(Debug)]
pub(crate) struct Up(*mut Plate);

// === impl Recorder ===

impl Recorder {
    /// Begins to record into the directory, in this process.
    ///
    /// # Errors
    /// When there can be no file.
    pub(crate) fn start(directory: &Path) -> io::Result<Recorder> {
        static INSTALL: Once = Once::new();
        std::fs::create_dir_all(directory)?;
        // Under a name that is new: the number of a process may have been that of a dead daemon.
        let file = tempfile::Builder::new().prefix(PREFIX).tempfile_in(directory)?;
        rustix::fs::flock(file.as_file(), FlockOperation::NonBlockingLockExclusive)?;
        WRITER.store(0, Ordering::SeqCst);
        WRITTEN.store(0, Ordering::SeqCst);
        RECORD.store(file.as_file().as_raw_fd(), Ordering::SeqCst);
        let recorder = Recorder { _file: file };
        let mut installed = Ok(());
        INSTALL.call_once(|| installed = install());
        installed.map(|()| recorder)
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        RECORD.store(-1, Ordering::SeqCst);
    }
}

fn install() -> io::Result<()> {
    for (signal, previous) in SIGNALS.into_iter().zip(&PREVIOUS) {
        // SAFETY: zero is a valid `sigaction`: the default action, no flags, an empty mask.
        let mut action: libc::sigaction = unsafe { MaybeUninit::zeroed().assume_init() };
        action.sa_sigaction = on_signal as *const () as usize;
        // On the stack for signals where there is one: of a stack that has overflowed nothing is left.
        action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
        // SAFETY: as above, to be overwritten.
        let mut old: libc::sigaction = unsafe { MaybeUninit::zeroed().assume_init() };
        // First read: the handler needs it from its first moment on.
        // SAFETY: both pointers are to structures that live, or null, which changes nothing.
        check(unsafe { libc::sigaction(signal, ptr::null(), &raw mut old) })?;
        if previous.set(old).is_err() {
            continue;
        }
        // SAFETY: the handler does only what may be done in one: it reads atomics and thread-locals without
        // destructors, and makes system calls.
        check(unsafe { libc::sigaction(signal, &raw const action, ptr::null_mut()) })?;
    }
    // SAFETY: the function is there as long as the process, and does not unwind.
    check(unsafe { libc::atexit(on_exit) })
}

fn check(result: c_int) -> io::Result<()> {
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

// === impl Plate ===

impl Plate {
    /// The plate of a staged library, and of the modules that its instances have, by number.
    pub(crate) fn describe<'a>(&self, library: &Path, modules: impl Iterator<Item = (&'a str, &'a str)>) {
        let modules: Vec<_> = modules.collect();
        let text = serde_json::json!({ "library": library, "modules": modules }).to_string();
        // Without the bracket at its end: more follows. Described once.
        drop(self.text.set(text[..text.len() - 1].into()));
    }

    /// This thread goes into the plugin.
    pub(crate) fn put_up(&self) -> Up {
        Up::with(ptr::from_ref(self).cast_mut())
    }
}

impl Up {
    /// This thread is in the host for a while.
    pub(crate) fn take_down() -> Up {
        Up::with(ptr::null_mut())
    }

    fn with(plate: *mut Plate) -> Up {
        Up(UP.with(|up| up.swap(plate, Ordering::Relaxed)))
    }
}

impl Drop for Up {
    fn drop(&mut self) {
        UP.with(|up| up.store(self.0, Ordering::Relaxed));
    }
}

// === when it happens: nothing from here on allocates, locks or panics ===

extern "C" fn on_signal(signal: c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
    // SAFETY: the kernel passes a valid structure to a handler with SA_SIGINFO; a signal that a process sent has a sender.
    let (code, sender) = unsafe { ((*info).si_code, (*info).si_pid()) };
    let by_itself = code > 0 || (code == libc::SI_TKILL && sender == rustix::process::getpid().as_raw_nonzero().get());
    if by_itself {
        record(signal);
    }
    let place = SIGNALS.iter().position(|known| *known == signal);
    let previous = place.and_then(|place| PREVIOUS.get(place)?.get());
    // Rust's runtime tells of stacks that overflow. What was sent means nothing to it.
    match previous.filter(|previous| code > 0 && previous.sa_flags & libc::SA_SIGINFO != 0) {
        Some(previous) => {
            // SAFETY: it was installed as a handler with SA_SIGINFO, so that this is its type.
            let handler: extern "C" fn(c_int, *mut libc::siginfo_t, *mut c_void) =
                unsafe { std::mem::transmute(previous.sa_sigaction) };
            handler(signal, info, context);
        }
        // SAFETY: the default action is one. A fault happens again when this returns, what was sent is sent again.
        None => unsafe {
            libc::signal(signal, libc::SIG_DFL);
            if code <= 0 {
                libc::raise(signal);
            }
        },
    }
}

extern "C" fn on_exit() {
    record(EXIT);
}

fn record(signal: c_int) {
    let file = RECORD.load(Ordering::SeqCst);
    let me = rustix::thread::gettid().as_raw_nonzero().get();
    if file < 0 {
        return;
    }
    match WRITER.compare_exchange(0, me, Ordering::SeqCst, Ordering::SeqCst) {
        Ok(_) => {}
        Err(writer) if writer == me && signal == libc::SIGABRT => return write(file, ABORTED.as_bytes()),
        Err(_) => return,
    }
    let up = UP.with(|up| up.load(Ordering::Relaxed));
    // SAFETY: it was put up by this thread with a reference that outlives the `Up`, which takes it down again.
    match unsafe { up.as_ref() } {
        Some(plate) => record_plate(file, plate, signal),
        None if has_signal_stack() => {}
        None => record_stack(file, signal),
    }
}

fn record_plate(file: RawFd, plate: &Plate, signal: c_int) {
    let Some(text) = plate.text.get() else { return };
    write(file, text.as_bytes());
    write_number(file, r#","step":"#, plate.step.load(Ordering::Relaxed));
    write_end(file, signal);
}

fn record_stack(file: RawFd, signal: c_int) {
    let here = 0_u8;
    let stack = ptr::from_ref(&here);
    write_number(file, r#"{"stack":"#, stack.addr() as u64);
    write_end(file, signal);
    // SAFETY: the kernel reads the memory, and stops where there is none.
    unsafe { libc::pwrite(file, stack.cast(), STACK_KEPT, STACK_AT.cast_signed()) };
    // SAFETY: a path that ends with a zero; the descriptor is closed with the process.
    let map = unsafe { libc::open(c"/proc/self/maps".as_ptr(), libc::O_RDONLY | libc::O_CLOEXEC) };
    let (mut piece, mut at) = ([0_u8; 1024], MAP_AT);
    loop {
        // SAFETY: the buffer has that size.
        let read = unsafe { libc::read(map, piece.as_mut_ptr().cast(), piece.len()) };
        let Some(read) = usize::try_from(read).ok().filter(|read| *read > 0) else { return };
        // SAFETY: so much was read into the buffer.
        unsafe { libc::pwrite(file, piece.as_ptr().cast(), read, at.cast_signed()) };
        at += read as u64;
    }
}

fn write_end(file: RawFd, signal: c_int) {
    write_number(file, r#","process":"#, std::process::id().into());
    write_number(file, r#","signal":"#, u64::from(signal.unsigned_abs()));
    write(file, b"}\n");
}

/// Not by `format!` and its like: the stack for signals has room for little more than the two handlers of an overflow.
fn write_number(file: RawFd, name: &str, mut number: u64) {
    write(file, name.as_bytes());
    let mut digits = [b'0'; 20];
    let mut first = digits.len() - 1;
    while number >= 10 {
        digits[first] += (number % 10) as u8;
        number /= 10;
        first -= 1;
    }
    digits[first] += number as u8;
    write(file, &digits[first..]);
}

fn write(file: RawFd, text: &[u8]) {
    let at = WRITTEN.fetch_add(text.len() as u64, Ordering::SeqCst);
    // SAFETY: the text is there for as long as the call.
    unsafe { libc::pwrite(file, text.as_ptr().cast(), text.len(), at.cast_signed()) };
}

/// Whether this is a thread of the daemon's own runtime.
fn has_signal_stack() -> bool {
    // SAFETY: zero is a valid `stack_t`, and the call only writes to it.
    let stack = unsafe {
        let mut stack: libc::stack_t = MaybeUninit::zeroed().assume_init();
        libc::sigaltstack(ptr::null(), &raw mut stack);
        stack
    };
    stack.ss_flags & libc::SS_DISABLE == 0
}
