//! The calls under way in one generation: each ends exactly once.
//!
//! Two things end, and not always together: the *handler*, which a draining generation waits for, and the *wait* of the
//! one who asked, which may run out before. An entry is kept until both are over, so that a late reply is known as late.

use std::{
    collections::{HashMap, hash_map::Entry::Occupied},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use foldhash::fast::FixedState;
use muster_plugin_api::{Role, abi::status};
use tokio::sync::{Notify, oneshot};

use super::{
    actor::Instance,
    breaker::{self, Breaker},
    call::{Call, Outcome, Responder, Source},
    latency::Latency,
    switch::Open,
};

/// Ids with this bit have an entry in the table; the others are only counted.
const TRACKED: u64 = 1;
/// Ids with this bit are steps in the life of an instance, which nobody called for.
const LIFE: u64 = 2;

/// The table of one generation.
#[derive(Debug)]
pub(crate) struct Calls {
    instances: Arc<[Instance]>,
    figures: Arc<Figures>,
    breaker: Breaker,
    table: Mutex<Table>,
    next: AtomicU64,
    /// Handlers that have not ended: entries and counted calls alike.
    open: Open,
    idle: Notify,
}

/// What one generation has done. Read by anybody at any time.
#[derive(Debug, Default)]
pub(crate) struct Figures {
    /// Messages and ticks that were accepted.
    pub(crate) calls: AtomicU64,
    /// Handlers that have ended, however.
    pub(crate) handled: AtomicU64,
    /// Handlers that failed: with an error, by a panic, or by taking too long. What an answer has in its error slot
    /// may be a result, and does not count.
    pub(crate) errors: AtomicU64,
    /// Handlers that panicked.
    pub(crate) panics: AtomicU64,
    /// The how-manieth handler it was that panicked first; 0 for none.
    pub(crate) first_panic: AtomicU64,
    /// Requests whose deadline passed.
    pub(crate) timeouts: AtomicU64,
    /// Replies that nobody waited for any more: second ones, and those after the deadline.
    pub(crate) unclaimed: AtomicU64,
    /// Ticks left out because the one before had not ended, or the mailbox was full.
    pub(crate) ticks_skipped: AtomicU64,
    /// How long requests and ticks took, those in the queue included.
    pub(crate) latency: Latency,
}

#[derive(Debug, Default)]
struct Table {
    /// By ids of our own, so that a fast hash is safe.
    entries: HashMap<u64, Entry, FixedState>,
    /// No deadline lies before this; later ones may.
    earliest: Option<Instant>,
}

#[derive(Debug)]
struct Entry {
    instance: u32,
    by_client: bool,
    begun: Instant,
    /// `None`: whoever began it watches the time.
    deadline: Option<Instant>,
    /// Gone when the wait is over.
    waiter: Option<Waiter>,
    /// Whether the handler has ended.
    handled: bool,
}

#[derive(Debug)]
enum Waiter {
    Caller(Responder),
    Tick(Tick),
    /// And how many bytes may be said with it, if anything may.
    Life(oneshot::Sender<LifeEnd>, Option<usize>),
}

/// How a step in the life of an instance ended: perhaps with something that it says, or with the reason why not.
pub(crate) type LifeEnd = Result<Option<Bytes>, String>;

/// A tick under way; when it is dropped, the next one may come.
#[derive(Debug)]
pub(crate) struct Tick(Arc<AtomicBool>);

// === impl Calls ===

impl Calls {
    /// A table for these instances.
    pub(crate) fn new(instances: Arc<[Instance]>) -> Calls {
        Calls {
            instances,
            figures: Arc::default(),
            breaker: Breaker::default(),
            table: Mutex::default(),
            next: AtomicU64::new(1),
            open: Open::none(),
            idle: Notify::new(),
        }
    }

    pub(crate) fn instances(&self) -> &[Instance] {
        &self.instances
    }

    /// Why no call is let through just now, if so: what completes "module X ".
    pub(crate) fn out_of_service(&self) -> Option<String> {
        let left = self.breaker.out_for()?.as_secs_f64();
        let (panics, window) = (breaker::PANICS, breaker::WINDOW.as_secs());
        Some(format!("panicked {panics} times within {window} s: calls are refused for another {left:.1} s"))
    }

    pub(crate) fn figures(&self) -> &Arc<Figures> {
        &self.figures
    }

    /// Notes a message; with a responder it is waited for.
    pub(crate) fn begin(&self, instance: u32, call: &Call, deadline: Instant, responder: Option<Responder>) -> u64 {
        let by_client = matches!(call.source, Source::Client(_));
        match responder {
            Some(responder) => {
                self.insert(instance, by_client, call.arrived, Some(deadline), Waiter::Caller(responder))
            }
            None => {
                self.open.begin();
                self.number()
            }
        }
    }

    /// Notes a tick.
    pub(crate) fn begin_tick(&self, instance: u32, deadline: Instant, tick: Tick) -> u64 {
        self.insert(instance, false, Instant::now(), Some(deadline), Waiter::Tick(tick))
    }

    /// Notes a step in the life of an instance, at whose end it may say so many bytes. Has no deadline: whoever began it
    /// watches the time.
    pub(crate) fn begin_life(&self, instance: u32, ended: oneshot::Sender<LifeEnd>, most: Option<usize>) -> u64 {
        self.insert(instance, false, Instant::now(), None, Waiter::Life(ended, most))
    }

    /// Takes back a call that was begun but refused by the mailbox: as if it had never been here.
    pub(crate) fn withdraw(&self, id: u64) -> Option<Responder> {
        let entry = if id & TRACKED == 0 { None } else { self.table().entries.remove(&id) };
        self.handler_ended();
        match entry.and_then(|entry| entry.waiter) {
            Some(Waiter::Caller(responder)) => Some(responder),
            _ => None,
        }
    }

    /// Ends the call as the plugin says. A call that has ended already is counted and left alone.
    pub(crate) fn end(&self, id: u64, status: u32, error: &[u8], body: &[u8]) {
        self.end_at(Instant::now(), id, status, error, body);
    }

    /// As [`end`](Calls::end), by somebody who has looked at the clock.
    pub(crate) fn end_at(&self, now: Instant, id: u64, status: u32, error: &[u8], body: &[u8]) {
        if id & TRACKED == 0 {
            self.note(status);
            return self.handler_ended();
        }
        let Some((instance, by_client, waiter)) = self.take_handled(now, id, status) else { return };
        if id & LIFE == 0 {
            self.note(status);
        }
        self.handler_ended();
        match waiter {
            None => {}
            Some(Waiter::Tick(tick)) => drop(tick),
            Some(Waiter::Life(ended, most)) => {
                let result = match (status, most) {
                    (status::PANIC, _) => Err(format!("panicked: {}", text_of(body))),
                    (status::FAILED, _) => Err(text_of(body)),
                    (status::ANSWER, Some(most)) if body.len() > most => {
                        Err(format!("it has {} bytes, and at most {most} are taken (plugins.state_limit)", body.len()))
                    }
                    (status::ANSWER, Some(_)) => Ok(Some(Bytes::copy_from_slice(body))),
                    _ => Ok(None),
                };
                // Whoever waited may have lost patience.
                drop(ended.send(result));
            }
            Some(Waiter::Caller(responder)) => {
                let module = self.module(instance);
                match status {
                    status::ANSWER | status::ERROR => responder.end(Outcome::Answer { error, body }),
                    status::NO_SUCH_HANDLER => {
                        responder.end(Outcome::NoSuchHandler { module, handler: self.handler(instance, by_client) });
                    }
                    status::PANIC => {
                        responder.end(Outcome::Failed(&format!("module {module} failed: panicked: {}", text_of(body))));
                    }
                    _ => responder.end(Outcome::Failed(&format!("module {module} failed: {}", text_of(body)))),
                }
            }
        }
    }

    /// For a call that is delivered late: how long its caller still waits. `None` if that is over: its handler will not run.
    ///
    /// That it is over, the sweep alone decides: after this whole process was stopped, it gives that time back first.
    pub(crate) fn still_waited_for(&self, id: u64, now: Instant) -> Option<Duration> {
        let mut table = self.table();
        if let Some(Entry { waiter: Some(_), deadline, .. }) = table.entries.get(&id) {
            return Some(deadline.map_or(Duration::ZERO, |deadline| deadline.saturating_duration_since(now)));
        }
        let is_noted = table.entries.remove(&id).is_some();
        drop(table);
        if is_noted {
            self.handler_ended();
        }
        None
    }

    /// Ends what waits in vain: to be called every now and then, by a thread that no plugin can stop.
    pub(crate) fn expire(&self, now: Instant) {
        let mut overdue = Vec::new();
        {
            let mut table = self.table();
            if table.earliest.is_none_or(|earliest| now < earliest) {
                return;
            }
            let mut earliest: Option<Instant> = None;
            table.entries.retain(|_, entry| {
                let Some(deadline) = entry.deadline.filter(|_| entry.waiter.is_some()) else { return true };
                if now < deadline {
                    earliest = Some(earliest.map_or(deadline, |other| other.min(deadline)));
                    return true;
                }
                overdue.extend(entry.waiter.take().map(|waiter| (entry.instance, entry.begun, deadline, waiter)));
                !entry.handled
            });
            table.earliest = earliest;
        }
        for (instance, begun, deadline, waiter) in overdue {
            self.figures.timeouts.fetch_add(1, Ordering::Relaxed);
            if let Waiter::Caller(responder) = waiter {
                self.figures.errors.fetch_add(1, Ordering::Relaxed);
                // To a tenth: deadlines are set in whole or half seconds, a few microseconds before the call gets here.
                let seconds = ((deadline - begun).as_secs_f64() * 10.0).round() / 10.0;
                let module = self.module(instance);
                responder.end(Outcome::Failed(&format!("module {module} failed: timed out after {seconds} s")));
            }
        }
    }

    /// The whole process was stopped for so long: nobody had that time.
    pub(crate) fn forgive(&self, stopped: Duration) {
        let mut table = self.table();
        for entry in table.entries.values_mut() {
            entry.begun += stopped;
            entry.deadline = entry.deadline.map(|deadline| deadline + stopped);
        }
        table.earliest = table.earliest.map(|earliest| earliest + stopped);
    }

    /// Ends a call that was lost with the process that had it. `how` completes "module X ".
    pub(crate) fn lose(&self, id: u64, how: &str) {
        if id & TRACKED == 0 {
            return self.handler_ended();
        }
        let Some(entry) = self.table().entries.remove(&id) else { return };
        match entry.waiter {
            Some(Waiter::Caller(responder)) => {
                self.figures.errors.fetch_add(1, Ordering::Relaxed);
                responder.end(Outcome::Failed(&format!("module {} {how}", self.module(entry.instance))));
            }
            Some(Waiter::Life(ended, _)) => drop(ended.send(Err(how.to_owned()))),
            Some(Waiter::Tick(_)) | None => {}
        }
        if !entry.handled {
            self.handler_ended();
        }
    }

    /// Ends everything that is left: the generation goes. `why` completes "module X failed: ".
    pub(crate) fn end_all(&self, why: &str) {
        let entries = std::mem::take(&mut self.table().entries);
        for entry in entries.into_values() {
            match entry.waiter {
                Some(Waiter::Caller(responder)) => {
                    self.figures.errors.fetch_add(1, Ordering::Relaxed);
                    responder.end(Outcome::Failed(&format!("module {} failed: {why}", self.module(entry.instance))));
                }
                Some(Waiter::Life(ended, _)) => drop(ended.send(Err(why.to_owned()))),
                Some(Waiter::Tick(_)) | None => {}
            }
            if !entry.handled {
                self.handler_ended();
            }
        }
    }

    /// How many handlers have not ended, those of calls in the mailbox included.
    pub(crate) fn open(&self) -> usize {
        self.open.count()
    }

    /// Waits until no handler is open. Of use only once no new calls are accepted.
    pub(crate) async fn idle(&self) {
        loop {
            let idle = self.idle.notified();
            if self.open() == 0 {
                return;
            }
            idle.await;
        }
    }

    fn insert(&self, instance: u32, by_client: bool, begun: Instant, deadline: Option<Instant>, waiter: Waiter) -> u64 {
        let life = if matches!(waiter, Waiter::Life(..)) { LIFE } else { 0 };
        let id = self.number() | TRACKED | life;
        let entry = Entry { instance, by_client, begun, deadline, waiter: Some(waiter), handled: false };
        self.open.begin();
        let mut table = self.table();
        if let Some(deadline) = deadline {
            table.earliest = Some(table.earliest.map_or(deadline, |earliest| earliest.min(deadline)));
        }
        table.entries.insert(id, entry);
        id
    }

    /// Notes that the handler of `id` ended. The waiter comes out, unless it has to go on waiting.
    fn take_handled(&self, now: Instant, id: u64, status: u32) -> Option<(u32, bool, Option<Waiter>)> {
        let mut table = self.table();
        let mut noted = match table.entries.entry(id) {
            Occupied(noted) if !noted.get().handled => noted,
            _ => {
                self.figures.unclaimed.fetch_add(1, Ordering::Relaxed);
                return None;
            }
        };
        let entry = noted.get_mut();
        let (instance, by_client) = (entry.instance, entry.by_client);
        if entry.deadline.is_some() {
            self.figures.latency.record(now.saturating_duration_since(entry.begun));
        }
        if status == status::SILENCE && matches!(entry.waiter, Some(Waiter::Caller(_))) {
            // None is silence until the deadline, as with the original.
            entry.handled = true;
            return Some((instance, by_client, None));
        }
        let waiter = noted.remove().waiter;
        if waiter.is_none() {
            self.figures.unclaimed.fetch_add(1, Ordering::Relaxed);
        }
        Some((instance, by_client, waiter))
    }

    fn note(&self, status: u32) {
        let handled = self.figures.handled.fetch_add(1, Ordering::Relaxed) + 1;
        if !matches!(status, status::ANSWER | status::SILENCE | status::NO_SUCH_HANDLER) {
            self.figures.errors.fetch_add(1, Ordering::Relaxed);
        }
        if status == status::PANIC {
            self.panicked(handled);
        }
    }

    fn panicked(&self, handled: u64) {
        self.figures.panics.fetch_add(1, Ordering::Relaxed);
        // Only the first is noted.
        self.figures.first_panic.compare_exchange(0, handled, Ordering::Relaxed, Ordering::Relaxed).unwrap_or_default();
        if self.breaker.panicked(Instant::now()) {
            let modules: Vec<&str> = self.instances.iter().map(|instance| instance.module.as_str()).collect();
            tracing::error!(?modules, for_s = breaker::OUT.as_secs(), "out of service: it panics again and again");
        }
    }

    fn handler_ended(&self) {
        if self.open.end() {
            self.idle.notify_waiters();
        }
    }

    fn number(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed) << 2
    }

    fn module(&self, instance: u32) -> &str {
        Instance::of(&self.instances, instance).map_or("?", |instance| instance.module.as_str())
    }

    fn handler(&self, instance: u32, by_client: bool) -> &'static str {
        match Instance::of(&self.instances, instance).map(|instance| instance.role) {
            _ if by_client => "clientHandler",
            Some(Role::Monitor) => "monitorHandler",
            _ => "masterHandler",
        }
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Tick ===

impl Tick {
    /// Begins a tick, unless the one before is still under way.
    pub(crate) fn begin(under_way: &Arc<AtomicBool>) -> Option<Tick> {
        (!under_way.swap(true, Ordering::SeqCst)).then(|| Tick(under_way.clone()))
    }
}

impl Drop for Tick {
    fn drop(&mut self) {
        self.0.store(false, Ordering::SeqCst);
    }
}

/// The text in a JSON string; anything else as it stands.
fn text_of(json: &[u8]) -> String {
    serde_json::from_slice(json).unwrap_or_else(|_| String::from_utf8_lossy(json).into_owned())
}

#[cfg(test)]
mod tests;
