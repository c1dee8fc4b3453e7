//! The calls under way in one generation: each ends exactly once.
//!
//! Two things end, and not always together: the *handler*, which a draining generation waits for, and the *wait* of the
//! one who asked, which may run out before. An entry is kept until both are over, so that a late reply is known as late.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::Instant,
};

use foldhash::fast::FixedState;
use muster_plugin_api::{Role, abi::status};
use tokio::sync::{Notify, oneshot};

use super::{
    actor::Instance,
    breaker::{self, Breaker},
    call::{Call, Outcome, Responder, Source},
    latency::Latency,
};

/// Ids with this bit have an entry in the table; the others are only counted.
const TRACKED: u64 = 1;
/// Ids with this bit are starts and stops, which nobody called for.
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
    open: AtomicUsize,
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
    Life(oneshot::Sender<Result<(), String>>),
}

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
            open: AtomicUsize::new(0),
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
                self.open.fetch_add(1, Ordering::SeqCst);
                self.number()
            }
        }
    }

    /// Notes a tick.
    pub(crate) fn begin_tick(&self, instance: u32, deadline: Instant, tick: Tick) -> u64 {
        self.insert(instance, false, Instant::now(), Some(deadline), Waiter::Tick(tick))
    }

    /// Notes the start or the stop of an instance. Has no deadline: whoever began it watches the time.
    pub(crate) fn begin_life(&self, instance: u32, ended: oneshot::Sender<Result<(), String>>) -> u64 {
        self.insert(instance, false, Instant::now(), None, Waiter::Life(ended))
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
        if id & LIFE == 0 {
            self.note(status);
        }
        if id & TRACKED == 0 {
            return self.handler_ended();
        }
        let Some((instance, by_client, waiter)) = self.take_handled(id, status) else { return };
        self.handler_ended();
        match waiter {
            None => {}
            Some(Waiter::Tick(tick)) => drop(tick),
            Some(Waiter::Life(ended)) => {
                let result = match status {
                    status::PANIC => Err(format!("panicked: {}", text_of(body))),
                    status::FAILED => Err(text_of(body)),
                    _ => Ok(()),
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

    /// A call whose deadline passed before it was delivered: its handler will not run.
    pub(crate) fn skip(&self, id: u64, now: Instant) {
        self.expire(now);
        if self.table().entries.remove(&id).is_some() {
            self.handler_ended();
        }
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
            Some(Waiter::Life(ended)) => drop(ended.send(Err(how.to_owned()))),
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
                Some(Waiter::Life(ended)) => drop(ended.send(Err(why.to_owned()))),
                Some(Waiter::Tick(_)) | None => {}
            }
            if !entry.handled {
                self.handler_ended();
            }
        }
    }

    /// How many handlers have not ended, those of calls in the mailbox included.
    pub(crate) fn open(&self) -> usize {
        self.open.load(Ordering::SeqCst)
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
        let life = if matches!(waiter, Waiter::Life(_)) { LIFE } else { 0 };
        let id = self.number() | TRACKED | life;
        let entry = Entry { instance, by_client, begun, deadline, waiter: Some(waiter), handled: false };
        self.open.fetch_add(1, Ordering::SeqCst);
        let mut table = self.table();
        if let Some(deadline) = deadline {
            table.earliest = Some(table.earliest.map_or(deadline, |earliest| earliest.min(deadline)));
        }
        table.entries.insert(id, entry);
        id
    }

    /// Notes that the handler of `id` ended. The waiter comes out, unless it has to go on waiting.
    fn take_handled(&self, id: u64, status: u32) -> Option<(u32, bool, Option<Waiter>)> {
        let mut table = self.table();
        let Some(entry) = table.entries.get_mut(&id).filter(|entry| !entry.handled) else {
            self.figures.unclaimed.fetch_add(1, Ordering::Relaxed);
            return None;
        };
        let (instance, by_client) = (entry.instance, entry.by_client);
        if entry.deadline.is_some() {
            self.figures.latency.record(entry.begun.elapsed());
        }
        if status == status::SILENCE && matches!(entry.waiter, Some(Waiter::Caller(_))) {
            // None is silence until the deadline, as with the original.
            entry.handled = true;
            return Some((instance, by_client, None));
        }
        let waiter = entry.waiter.take();
        if waiter.is_none() {
            self.figures.unclaimed.fetch_add(1, Ordering::Relaxed);
        }
        table.entries.remove(&id);
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
        // A plugin that ends a counted call twice must not make the count wrap.
        let ended = self.open.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |open| open.checked_sub(1));
        if ended == Ok(1) {
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
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;
    use crate::{
        ids::ConnId,
        modules::call::{ClientIdentity, OwnedOutcome},
    };

    type End = oneshot::Receiver<OwnedOutcome>;

    fn call() -> Call {
        let client = ClientIdentity { connection: ConnId(1), id: "c-1".into(), user: "admin".to_owned(), level: 1 };
        let source = Source::Client(Arc::new(client));
        Call { source, body: bytes::Bytes::new(), arrived: Instant::now(), patience_ms: None, responder: None }
    }

    fn request(calls: &Calls, within: Duration) -> (u64, End) {
        let (responder, end) = oneshot::channel();
        let call = call();
        (calls.begin(1, &call, call.arrived + within, Some(Responder::Channel(responder))), end)
    }

    fn calls() -> Calls {
        Calls::new(Arc::new([]))
    }

    const LATER: Duration = Duration::from_secs(15);
    const NOTHING: &[u8] = b"";

    fn answer(body: &'static [u8]) -> OwnedOutcome {
        OwnedOutcome::Answer { error: bytes::Bytes::new(), body: bytes::Bytes::from_static(body) }
    }

    #[test]
    fn the_first_reply_ends_a_call_and_the_second_is_counted() {
        let calls = calls();
        let (id, mut end) = request(&calls, LATER);
        calls.end(id, status::ANSWER, NOTHING, b"1");
        calls.end(id, status::ANSWER, NOTHING, b"2");
        assert_eq!(end.try_recv(), Ok(answer(b"1")));
        assert_eq!(calls.figures().unclaimed.load(Ordering::Relaxed), 1);
        assert_eq!(calls.open(), 0);
    }

    #[test]
    fn errors_are_handlers_that_failed_and_not_what_stands_in_the_error_slot() {
        let calls = calls();
        for (status, errors) in [(status::ANSWER, 0), (status::ERROR, 1), (status::PANIC, 2), (status::SILENCE, 2)] {
            let (id, _end) = request(&calls, LATER);
            calls.end(id, status, b"{}", NOTHING);
            assert_eq!(calls.figures().errors.load(Ordering::Relaxed), errors, "after status {status}");
        }
        let figures = calls.figures();
        assert_eq!((figures.handled.load(Ordering::Relaxed), figures.first_panic.load(Ordering::Relaxed)), (4, 3));
        assert!(figures.latency.quantile(0.5).is_some());
    }

    #[test]
    fn silence_ends_the_handler_but_not_the_wait() {
        let calls = calls();
        let (id, mut end) = request(&calls, LATER);
        calls.end(id, status::SILENCE, NOTHING, NOTHING);
        assert_eq!(calls.open(), 0, "nothing to drain");
        assert!(end.try_recv().is_err(), "nobody was told anything");
        calls.expire(Instant::now() + LATER);
        assert_eq!(end.try_recv(), Ok(OwnedOutcome::Failed("module ? failed: timed out after 15 s".to_owned())));
    }

    #[test]
    fn a_deadline_ends_the_wait_but_not_the_handler() {
        let calls = calls();
        let (id, mut end) = request(&calls, Duration::ZERO);
        calls.expire(Instant::now());
        assert!(matches!(end.try_recv(), Ok(OwnedOutcome::Failed(_))));
        assert_eq!(calls.open(), 1, "it is still being worked on");
        calls.end(id, status::ANSWER, NOTHING, b"1");
        assert_eq!((calls.open(), calls.figures().unclaimed.load(Ordering::Relaxed)), (0, 1));
    }

    #[test]
    fn deadlines_are_found_whatever_their_order() {
        let calls = calls();
        let now = Instant::now();
        let ends: Vec<End> = [3, 1, 2].map(|s| request(&calls, Duration::from_secs(s)).1).into();
        let mut open: Vec<End> = ends;
        for (seconds, left) in [(0, 3), (1, 2), (2, 1), (3, 0)] {
            calls.expire(now + Duration::from_secs(seconds) + Duration::from_millis(500));
            open.retain_mut(|end| end.try_recv().is_err());
            assert_eq!(open.len(), left, "after {seconds} s");
        }
    }

    #[test]
    fn ending_all_ends_each_that_waits_with_the_reason() {
        let calls = calls();
        let (_, mut first) = request(&calls, LATER);
        let (silent, mut second) = request(&calls, LATER);
        calls.end(silent, status::SILENCE, NOTHING, NOTHING);
        let (ended, mut life) = oneshot::channel();
        calls.begin_life(1, ended);
        calls.end_all("gone");
        let gone = OwnedOutcome::Failed("module ? failed: gone".to_owned());
        assert_eq!((first.try_recv(), second.try_recv()), (Ok(gone.clone()), Ok(gone)));
        assert_eq!(life.try_recv(), Ok(Err("gone".to_owned())));
        assert_eq!(calls.open(), 0);
    }

    #[test]
    fn a_call_that_is_lost_ends_with_the_reason_and_is_not_waited_for() {
        let calls = calls();
        let (id, mut end) = request(&calls, LATER);
        let notify = calls.begin(1, &call(), Instant::now() + LATER, None);
        calls.lose(id, "was restarted: it died");
        calls.lose(notify, "was restarted: it died");
        assert_eq!(end.try_recv(), Ok(OwnedOutcome::Failed("module ? was restarted: it died".to_owned())));
        assert_eq!(calls.open(), 0);
        calls.end(id, status::ANSWER, NOTHING, b"1");
        assert_eq!(calls.figures().unclaimed.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn a_tick_lets_the_next_one_come_when_it_ends_or_is_overdue() {
        let calls = calls();
        let under_way = Arc::default();
        let tick = Tick::begin(&under_way).unwrap();
        let id = calls.begin_tick(1, Instant::now() + LATER, tick);
        assert!(Tick::begin(&under_way).is_none());
        calls.end(id, status::SILENCE, NOTHING, NOTHING);
        let tick = Tick::begin(&under_way).expect("the one before has ended");
        calls.begin_tick(1, Instant::now(), tick);
        calls.expire(Instant::now());
        assert!(Tick::begin(&under_way).is_some(), "one that never ends stops the clock for its deadline only");
    }

    #[tokio::test]
    async fn idle_is_reached_when_the_last_handler_ends() {
        let calls = Arc::new(calls());
        let (id, _end) = request(&calls, LATER);
        let notify = calls.begin(1, &call(), Instant::now() + LATER, None);
        let idle = tokio::spawn({
            let calls = calls.clone();
            async move { calls.idle().await }
        });
        tokio::task::yield_now().await;
        calls.end(id, status::ANSWER, NOTHING, NOTHING);
        tokio::task::yield_now().await;
        assert!(!idle.is_finished(), "notifies count");
        calls.end(notify, status::SILENCE, NOTHING, NOTHING);
        idle.await.unwrap();
    }

    #[derive(Debug, Clone)]
    enum Step {
        Begin,
        End(usize, u32),
        Expire,
        EndAll,
        Withdraw,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => Just(Step::Begin),
            4 => (0..8_usize, 0..6_u32).prop_map(|(call, status)| Step::End(call, status)),
            1 => Just(Step::Expire),
            1 => Just(Step::EndAll),
            1 => Just(Step::Withdraw),
        ]
    }

    proptest! {
        /// Whatever a plugin replies, twice, late or never: each call ends once, or is still waited for, or came back.
        #[test]
        fn each_call_ends_exactly_once(steps in proptest::collection::vec(step(), 0..40)) {
            let calls = calls();
            let mut begun: Vec<(u64, End)> = Vec::new();
            let mut returned = Vec::new();
            for step in steps {
                match step {
                    Step::Begin => begun.push(request(&calls, Duration::ZERO)),
                    Step::End(call, status) => {
                        if let Some((id, _)) = begun.get(call) {
                            calls.end(*id, status, NOTHING, NOTHING);
                        }
                    }
                    Step::Expire => calls.expire(Instant::now()),
                    Step::EndAll => calls.end_all("gone"),
                    // Only ever done for a call that was begun just now.
                    Step::Withdraw => {
                        let (id, end) = request(&calls, LATER);
                        returned.push((calls.withdraw(id).expect("it has not ended"), end));
                    }
                }
            }
            calls.expire(Instant::now());
            for (_, mut end) in begun {
                // A sender that was dropped unused would be a call that was lost.
                prop_assert!(end.try_recv().is_ok());
            }
            calls.end_all("gone");
            prop_assert_eq!(calls.open(), 0);
        }
    }
}
