//! What was asked of one server and is not answered yet.

use std::{
    collections::BTreeMap,
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
    wire::{Topic, envelope, packet},
};

/// The requests under way to one server id. Each ends once: whoever takes it out of here ends it.
#[derive(Debug)]
pub(crate) struct Pending {
    /// By id, so that the oldest comes first.
    waiting: Mutex<BTreeMap<u64, Waiting>>,
    count: AtomicUsize,
    limit: usize,
}

#[derive(Debug)]
struct Waiting {
    /// The request as it was sent: what a repetition is made from.
    frame: Bytes,
    module: Box<str>,
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

    /// Remembers a request until its end.
    ///
    /// # Errors
    /// Gives the waiter back when there are too many.
    pub(crate) fn remember(
        &self,
        id: u64,
        sent_to: ConnId,
        module: &str,
        frame: Bytes,
        deadline: Instant,
        waiter: Waiter,
    ) -> Result<(), Waiter> {
        let mut waiting = self.waiting.lock();
        if waiting.len() >= self.limit {
            return Err(waiter);
        }
        waiting.insert(id, Waiting { frame, module: module.into(), sent_to, deadline, waiter });
        self.count.store(waiting.len(), Ordering::Relaxed);
        Ok(())
    }

    /// Takes the request that an answer is for; `None` if there is none (any more).
    pub(crate) fn take(&self, id: u64) -> Option<Waiter> {
        let mut waiting = self.waiting.lock();
        let found = waiting.remove(&id);
        self.count.store(waiting.len(), Ordering::Relaxed);
        found.map(|waiting| waiting.waiter)
    }

    /// What to send to a server that came back: everything again, oldest first, with the id as a string.
    pub(crate) fn repeat(&self, to: ConnId) -> Vec<Bytes> {
        let mut waiting = self.waiting.lock();
        let repeated = waiting.iter_mut().filter_map(|(id, waiting)| {
            waiting.sent_to = to;
            repetition(*id, &waiting.frame)
        });
        repeated.collect()
    }

    /// Takes what is past its deadline.
    pub(crate) fn overdue(&self, now: Instant) -> Vec<Waiter> {
        self.extract(|waiting| waiting.deadline <= now)
    }

    /// Takes what was sent to a connection that is gone.
    pub(crate) fn abandon(&self, conn: ConnId) -> Vec<Waiter> {
        self.extract(|waiting| waiting.sent_to == conn)
    }

    /// Takes what was sent to a module.
    pub(crate) fn forget(&self, module: &str) -> Vec<Waiter> {
        self.extract(|waiting| &*waiting.module == module)
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
        let taken = waiting.extract_if(.., |_, waiting| which(waiting)).map(|(_, waiting)| waiting.waiter).collect();
        self.count.store(waiting.len(), Ordering::Relaxed);
        taken
    }
}

fn repetition(id: u64, frame: &Bytes) -> Option<Bytes> {
    let Ok(Some((packet::Packet::Publish { payload, .. }, _))) = packet::decode(frame, packet::MAX_REMAINING) else {
        return None;
    };
    let mut scratch = String::new();
    match envelope::read(payload, &mut scratch) {
        Ok(envelope::Envelope::Request { module, body, .. }) => {
            Some(envelope::request(Topic::Monitor, id, true, &module, body.as_bytes()))
        }
        _ => None,
    }
}
