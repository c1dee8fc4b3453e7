//! Waking others once per batch.
//!
//! Whoever handles many messages in a row (a session its input, a generation its mail) would wake the next thread with
//! the first of them, and on a busy processor change places with it for each. So in a batch, wakes are held back; at its
//! end mailboxes are roused once, and sockets are written with one syscall each, from here.
//!
//! Nothing may be lost by this if a handler does not return: what a batch holds is shared, and [`rescue`] wakes it.

use std::{
    marker::PhantomData,
    sync::{Arc, OnceLock, Weak},
    time::{Duration, Instant},
};

use parking_lot::Mutex;

use crate::{modules::mailbox::Mailbox, session::outbox::Outbox};

/// How long a wake may be held back: then each goes out at once, so that slow handlers delay nobody but themselves.
const PATIENCE: Duration = Duration::from_millis(1);

/// Sockets that a batch writes itself. The rest is left to the tasks of their sessions, which run on all processors.
const DIRECT: usize = 256;

thread_local! {
    /// What this thread holds back.
    static OWN: Arc<Batch> = Batch::registered();
}

/// What the batch of one thread holds back.
#[derive(Debug, Default)]
struct Batch(Mutex<Held>);

#[derive(Debug, Default)]
struct Held {
    /// Since when; `None` outside of a batch.
    since: Option<Instant>,
    mailboxes: Vec<Arc<Mailbox>>,
    outboxes: Vec<Arc<Outbox>>,
}

/// A batch. It ends when this is dropped, on the same thread: it is not for use across an `.await`.
#[derive(Debug)]
pub(crate) struct Scope(PhantomData<*const ()>);

/// Begins a batch on this thread: until it ends, wakes are held back.
#[must_use = "the batch ends when this is dropped"]
pub(crate) fn begin() -> Scope {
    OWN.with(|batch| batch.0.lock().since = Some(Instant::now()));
    Scope(PhantomData)
}

impl Drop for Scope {
    fn drop(&mut self) {
        let (mailboxes, outboxes) = OWN.with(|batch| {
            let mut held = batch.0.lock();
            held.since = None;
            (std::mem::take(&mut held.mailboxes), std::mem::take(&mut held.outboxes))
        });
        mailboxes.iter().for_each(|mailbox| mailbox.rouse());
        outboxes.iter().for_each(|outbox| outbox.flush_from_batch());
    }
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

/// Rouses a mailbox: now, or at the end of the batch.
pub(crate) fn rouse(mailbox: &Arc<Mailbox>) {
    if !hold(|held| held.mailboxes.push(mailbox.clone())) {
        mailbox.rouse();
    }
}

/// Has an outbox written: by its session, or at the end of the batch.
pub(crate) fn write(outbox: &Arc<Outbox>) {
    let mut room = true;
    let held = hold(|held| {
        room = held.outboxes.len() < DIRECT;
        if room {
            held.outboxes.push(outbox.clone());
        }
    });
    if !held || !room {
        outbox.wake_session();
    }
}

/// Wakes what batches have held back for too long: their handlers may never return.
pub(crate) fn rescue(now: Instant) {
    let stuck: Vec<Arc<Batch>> = all().lock().iter().filter_map(Weak::upgrade).collect();
    for batch in stuck {
        let mut held = batch.0.lock();
        if held.since.is_none_or(|since| now.saturating_duration_since(since) < PATIENCE) {
            continue;
        }
        let (mailboxes, outboxes) = (std::mem::take(&mut held.mailboxes), std::mem::take(&mut held.outboxes));
        drop(held);
        mailboxes.iter().for_each(|mailbox| mailbox.rouse());
        outboxes.iter().for_each(|outbox| outbox.wake_session());
    }
}

/// Whether this thread is in a batch, and that is young: then `what` was done.
fn hold(what: impl FnOnce(&mut Held)) -> bool {
    // A thread that is ending has no batch any more.
    let held = OWN.try_with(|batch| {
        let mut held = batch.0.lock();
        let holds = held.since.is_some_and(|since| since.elapsed() < PATIENCE);
        if holds {
            what(&mut held);
        }
        holds
    });
    held.unwrap_or(false)
}

fn all() -> &'static Mutex<Vec<Weak<Batch>>> {
    static ALL: OnceLock<Mutex<Vec<Weak<Batch>>>> = OnceLock::new();
    ALL.get_or_init(Mutex::default)
}
