//! Waking others once per batch.
//!
//! Whoever handles many messages in a row (a session its input, a generation its mail) would wake the next thread with
//! the first of them, and on a busy processor change places with it for each. So in a batch, wakes are held back; at its
//! end mailboxes are roused once, and sockets are written with one syscall each, from here or, if they are many, by a
//! [`round`]. A worker of the runtime holds back mailboxes still longer, until it has served all sockets that were ready
//! and is about to sleep.
//!
//! Nothing may be lost by this if a handler does not return: what a batch holds is shared, and [`rescue`] wakes it.

use std::{
    cell::Cell,
    marker::PhantomData,
    sync::{Arc, LazyLock, OnceLock, Weak},
    thread::available_parallelism,
    time::{Duration, Instant},
};

use parking_lot::Mutex;

use crate::{
    modules::mailbox::Mailbox,
    session::{outbox::Outbox, round},
};

/// How long a wake may be held back: then it goes out, so that slow handlers delay nobody but themselves.
const PATIENCE: Duration = Duration::from_millis(1);

/// Sockets that a batch writes itself. More are left to tasks, which run on all processors.
pub(crate) const DIRECT: usize = 256;

thread_local! {
    /// What this thread holds back.
    static OWN: Arc<Batch> = Batch::registered();
    /// Whether this thread says when it is about to sleep.
    static SAYS_WHEN: Cell<bool> = const { Cell::new(false) };
    /// Whether this thread has looked again for what came meanwhile, since it last slept.
    static LOOKED: Cell<bool> = const { Cell::new(false) };
}

/// Whether there is one processor: modules have it only while a worker of the runtime has not.
static IS_ALONE: LazyLock<bool> =
    LazyLock::new(|| available_parallelism().is_ok_and(|processors| processors.get() == 1));

/// What the batch of one thread holds back.
#[derive(Debug, Default)]
struct Batch(Mutex<Held>);

#[derive(Debug, Default)]
struct Held {
    /// Whether messages are being handled in a row.
    in_scope: bool,
    /// Since when something may be held back.
    since: Option<Instant>,
    mailboxes: Vec<Arc<Mailbox>>,
    outboxes: Vec<Arc<Outbox>>,
}

/// A batch. It ends when this is dropped, on the same thread: it is not for use across an `.await`.
#[derive(Debug)]
pub(crate) struct Scope {
    began: Instant,
    on_this_thread: PhantomData<*const ()>,
}

/// Begins a batch on this thread: until it ends, wakes are held back.
#[must_use = "the batch ends when this is dropped"]
pub(crate) fn begin() -> Scope {
    let now = Instant::now();
    OWN.with(|batch| {
        let mut held = batch.0.lock();
        held.in_scope = true;
        let overdue = if held.is_overdue(now) { std::mem::take(&mut held.mailboxes) } else { Vec::new() };
        if held.mailboxes.is_empty() {
            held.since = Some(now);
        }
        drop(held);
        overdue.iter().for_each(|mailbox| mailbox.rouse());
    });
    Scope { began: now, on_this_thread: PhantomData }
}

impl Scope {
    /// When it began: for its messages, the time at which they came.
    pub(crate) fn began(&self) -> Instant {
        self.began
    }
}

impl Drop for Scope {
    fn drop(&mut self) {
        let says_when = SAYS_WHEN.get();
        let (mailboxes, outboxes) = OWN.with(|batch| {
            let mut held = batch.0.lock();
            held.in_scope = false;
            let mailboxes = if says_when { Vec::new() } else { std::mem::take(&mut held.mailboxes) };
            if held.mailboxes.is_empty() {
                held.since = None;
            }
            (mailboxes, std::mem::take(&mut held.outboxes))
        });
        mailboxes.iter().for_each(|mailbox| mailbox.rouse());
        if outboxes.len() <= DIRECT {
            outboxes.iter().for_each(|outbox| outbox.flush_from_batch());
        } else {
            round::begin(outboxes);
        }
    }
}

/// For a worker of the runtime, which calls it each time it is about to sleep: rouses the mailboxes that it held back.
///
/// Where there is one processor, modules have it only while the worker has not. It then waits for those that have much to
/// do: if it slept until a socket is ready, whoever gets the first answer would wake it before the second is written.
pub(crate) fn before_sleep() {
    SAYS_WHEN.set(true);
    LOOKED.set(false);
    for mailbox in take(|_| true) {
        mailbox.rouse();
        if *IS_ALONE {
            mailbox.wait_if_busy(PATIENCE);
        }
    }
}

/// Whether a task should give way once, so that its worker looks for what came while it handled many messages: a module that
/// is roused now would take the processor, and be roused again for those.
pub(crate) fn look_again() -> bool {
    if !*IS_ALONE || LOOKED.get() || !SAYS_WHEN.get() {
        return false;
    }
    let is_busy = OWN.with(|batch| batch.0.lock().mailboxes.iter().any(|mailbox| mailbox.is_busy()));
    LOOKED.set(is_busy);
    is_busy
}

/// Rouses what this thread has held back for too long. For tasks that do much without handling messages.
pub(crate) fn relieve() {
    take(|held| held.is_overdue(Instant::now())).iter().for_each(|mailbox| mailbox.rouse());
}

/// Takes the mailboxes that this thread has held back, if it is time.
fn take(whether: impl FnOnce(&Held) -> bool) -> Vec<Arc<Mailbox>> {
    // A thread that is ending has no batch any more.
    let released = OWN.try_with(|batch| {
        let mut held = batch.0.lock();
        if held.mailboxes.is_empty() || !whether(&held) {
            return Vec::new();
        }
        held.since = None;
        std::mem::take(&mut held.mailboxes)
    });
    released.unwrap_or_default()
}

impl Batch {
    fn registered() -> Arc<Batch> {
        let batch = Arc::new(Batch::default());
        let mut all = all().lock();
        all.retain(|batch| batch.strong_count() > 0);
        all.push(Arc::downgrade(&batch));
        batch
    }
}

impl Drop for Batch {
    fn drop(&mut self) {
        let held = self.0.get_mut();
        held.mailboxes.iter().for_each(|mailbox| mailbox.rouse());
        held.outboxes.iter().for_each(|outbox| outbox.wake_session());
    }
}

impl Held {
    fn is_overdue(&self, now: Instant) -> bool {
        self.since.is_some_and(|since| now.saturating_duration_since(since) >= PATIENCE)
    }
}

/// Rouses a mailbox: now, or at the end of the batch.
pub(crate) fn rouse(mailbox: &Arc<Mailbox>) {
    let held = OWN.try_with(|batch| {
        let mut held = batch.0.lock();
        let now = Instant::now();
        let holds = (held.in_scope || SAYS_WHEN.get()) && !held.is_overdue(now);
        if holds {
            held.since.get_or_insert(now);
            held.mailboxes.push(mailbox.clone());
        }
        holds
    });
    if !held.unwrap_or(false) {
        mailbox.rouse();
    }
}

/// Has an outbox written: at the end of the batch, or when that has lasted too long; without a batch, by its session.
pub(crate) fn write(outbox: &Arc<Outbox>) {
    let held = OWN.try_with(|batch| {
        let mut held = batch.0.lock();
        if !held.in_scope {
            return None;
        }
        held.outboxes.push(outbox.clone());
        let now = Instant::now();
        if !held.is_overdue(now) {
            return Some(Vec::new());
        }
        if held.mailboxes.is_empty() {
            held.since = Some(now);
        }
        Some(std::mem::take(&mut held.outboxes))
    });
    match held.ok().flatten() {
        None => outbox.wake_session(),
        Some(overdue) if overdue.is_empty() => {}
        Some(overdue) => round::begin(overdue),
    }
}

/// Wakes what batches have held back for too long: their handlers may never return.
pub(crate) fn rescue(now: Instant) {
    let stuck: Vec<Arc<Batch>> = all().lock().iter().filter_map(Weak::upgrade).collect();
    for batch in stuck {
        let mut held = batch.0.lock();
        if !held.is_overdue(now) {
            continue;
        }
        let (mailboxes, outboxes) = (std::mem::take(&mut held.mailboxes), std::mem::take(&mut held.outboxes));
        drop(held);
        mailboxes.iter().for_each(|mailbox| mailbox.rouse());
        outboxes.iter().for_each(|outbox| outbox.wake_session());
    }
}

fn all() -> &'static Mutex<Vec<Weak<Batch>>> {
    static ALL: OnceLock<Mutex<Vec<Weak<Batch>>>> = OnceLock::new();
    ALL.get_or_init(Mutex::default)
}
