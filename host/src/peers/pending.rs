//! What was asked of one server and is not answered yet.

use std::{
    borrow::Cow,
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Instant,
};

use bytes::Bytes;
use muster_plugin_api::RequestError;
use parking_lot::Mutex;

use super::gather::Gather;
use crate::{
    ids::ConnId,
    modules::services::Asker,
    session::outbox::Outbox,
    wire::{Topic, envelope, packet},
};

/// The requests under way to one server id. Each ends once: whoever takes it out of here ends it.
#[derive(Debug)]
pub(crate) struct Pending {
    /// By id, so that the oldest comes first. Answers mostly come in that order, too.
    waiting: Mutex<VecDeque<Waiting>>,
    count: AtomicUsize,
    limit: usize,
}

#[derive(Debug)]
struct Waiting {
    id: u64,
    /// The request as it was sent: what a repetition is made from.
    frame: Bytes,
    sent_to: ConnId,
    deadline: Instant,
    waiter: Waiter,
}

/// Who waits for the end of a request to a server.
#[derive(Debug)]
#[must_use = "somebody waits for this"]
pub(crate) enum Waiter {
    /// A module.
    Module(Asker),
    /// One of many answers that are gathered.
    Gather { gather: Arc<Gather>, index: usize },
}

impl Waiter {
    /// An answer came: JSON texts, empty for absent fields.
    pub(crate) fn answer(self, error: &[u8], body: &[u8]) {
        match self {
            Waiter::Module(asker) => asker.answer(error, body),
            Waiter::Gather { gather, index } => gather.answer(index, error, body),
        }
    }

    /// No answer will come.
    pub(crate) fn fail(self, reason: RequestError) {
        match self {
            Waiter::Module(asker) => asker.fail(reason),
            Waiter::Gather { gather, index } => gather.fail(index, &reason),
        }
    }
}

impl Pending {
    /// Remembers at most `limit` requests.
    pub(crate) fn new(limit: usize) -> Pending {
        Pending { waiting: Mutex::default(), count: AtomicUsize::new(0), limit }
    }

    /// Sends a request, and remembers it until its end.
    ///
    /// # Errors
    /// Gives the waiter back when there are too many.
    pub(crate) fn send(
        &self,
        id: u64,
        sent_to: ConnId,
        frame: Bytes,
        deadline: Instant,
        waiter: Waiter,
        outbox: &Arc<Outbox>,
    ) -> Result<(), Waiter> {
        let mut waiting = self.waiting.lock();
        if waiting.len() >= self.limit {
            return Err(waiter);
        }
        // Under the lock, so that no answer comes before it is waited for.
        outbox.push(&frame);
        let at = waiting.partition_point(|earlier| earlier.id < id);
        waiting.insert(at, Waiting { id, frame, sent_to, deadline, waiter });
        self.count.store(waiting.len(), Ordering::Relaxed);
        Ok(())
    }

    /// Takes the request that an answer is for; `None` if there is none (any more).
    pub(crate) fn take(&self, id: u64) -> Option<Waiter> {
        let mut waiting = self.waiting.lock();
        let at = waiting.binary_search_by_key(&id, |waiting| waiting.id).ok()?;
        let found = waiting.remove(at);
        self.count.store(waiting.len(), Ordering::Relaxed);
        if waiting.is_empty() {
            // An idle server has nothing to remember, and is to cost nothing.
            *waiting = VecDeque::new();
        }
        found.map(|waiting| waiting.waiter)
    }

    /// What to send to a server that came back: everything again, oldest first, with the id as a string.
    pub(crate) fn repeat(&self, to: ConnId) -> Vec<Bytes> {
        let mut waiting = self.waiting.lock();
        let mut scratch = String::new();
        let repeated = waiting.iter_mut().filter_map(|waiting| {
            waiting.sent_to = to;
            let (module, body) = waiting.asked(&mut scratch)?;
            Some(envelope::request(Topic::Monitor, waiting.id, true, &module, body.as_bytes()))
        });
        repeated.collect()
    }

    /// Takes what is past its deadline.
    pub(crate) fn overdue(&self, now: Instant) -> Vec<Waiter> {
        self.extract(|waiting| waiting.deadline <= now)
    }

    /// The earliest deadline.
    pub(crate) fn earliest(&self) -> Option<Instant> {
        self.waiting.lock().iter().map(|waiting| waiting.deadline).min()
    }

    /// Takes what was sent to a connection that is gone.
    pub(crate) fn abandon(&self, conn: ConnId) -> Vec<Waiter> {
        self.extract(|waiting| waiting.sent_to == conn)
    }

    /// Takes what was sent to a module.
    pub(crate) fn forget(&self, module: &str) -> Vec<Waiter> {
        self.extract(|waiting| waiting.asked(&mut String::new()).is_some_and(|(asked, _)| asked == module))
    }

    /// Takes everything.
    pub(crate) fn all(&self) -> Vec<Waiter> {
        self.extract(|_| true)
    }

    /// Whether nothing is under way. Without the lock: good enough to skip a look.
    pub(crate) fn is_empty(&self) -> bool {
        self.count.load(Ordering::Relaxed) == 0
    }

    fn extract(&self, which: impl Fn(&Waiting) -> bool) -> Vec<Waiter> {
        let mut waiting = self.waiting.lock();
        if !waiting.iter().any(&which) {
            return Vec::new();
        }
        let (taken, kept): (Vec<_>, _) = std::mem::take(&mut *waiting).into_iter().partition(which);
        *waiting = kept.into();
        self.count.store(waiting.len(), Ordering::Relaxed);
        taken.into_iter().map(|waiting| waiting.waiter).collect()
    }
}

impl Waiting {
    /// The module that was asked, and what.
    fn asked<'a>(&'a self, scratch: &'a mut String) -> Option<(Cow<'a, str>, &'a str)> {
        let decoded = packet::decode(&self.frame, packet::MAX_REMAINING);
        let Ok(Some((packet::Packet::Publish { payload, .. }, _))) = decoded else { return None };
        match envelope::read(payload, scratch) {
            Ok(envelope::Envelope::Request { module, body, .. }) => Some((module, body)),
            _ => None,
        }
    }
}
