//! The bounded queue in front of a generation's thread.

use std::{
    borrow::Cow,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, Thread},
    time::{Duration, Instant},
};

use bytes::Bytes;
use muster_plugin_api::{
    RequestError,
    abi::{kind, outcome},
};
use tokio::sync::{Notify, oneshot};

use crate::batch;

use super::{
    call::{Call, Source},
    calls::{Calls, LifeEnd, Tick},
    presence::{Hang, Presence},
    switch::Phase,
};

mod handover;

/// Messages that wait in front of one generation. At 100,000 small messages a second it is full after 80 ms of a module
/// that does not listen; a session then stops reading, so that the rest waits in sockets instead of in our memory.
const CAPACITY: usize = 8192;

/// So many messages are worth to be waited for: see [`Mailbox::is_busy`] and [`Mailbox::wait_if_busy`].
const MANY: usize = 8;

/// The queue: any thread posts, the generation's thread takes.
#[derive(Debug)]
pub(crate) struct Mailbox {
    calls: Arc<Calls>,
    presence: Arc<Presence>,
    /// Set while a handler does not return; beside it, for those who only ask whether.
    hang: Mutex<Option<Hang>>,
    hung: AtomicBool,
    queue: Mutex<Queue>,
    arrived: Condvar,
    room: Notify,
    /// The phase once more, for those who only ask whether it is worth while.
    closed: AtomicBool,
    ended: Notify,
}

/// A call that did not get in.
#[derive(Debug)]
pub(crate) enum Refused {
    /// There is no room; there may be later.
    Full(Call),
    /// A handler does not return, or too many have panicked: what completes "module X ".
    Unfit(Call, Box<str>),
    /// This generation takes no calls any more: another may.
    Closed(Call),
}

/// Something for the plugin, owned.
#[derive(Debug)]
pub(crate) enum Post {
    /// A message, noted in the table of calls under `id`.
    Call { instance: u32, id: u64, deadline: Instant, call: Call, waited_for: bool },
    /// A tick of the schedule.
    Tick { instance: u32, id: u64 },
    /// An event, as JSON.
    Event { instance: u32, json: Bytes },
    /// The end of an operation that the plugin had begun.
    Complete { instance: u32, id: u64, outcome: u32, error: Cow<'static, [u8]>, body: Cow<'static, [u8]> },
    /// Make and start an instance.
    Start { instance: u32, id: u64, options: Bytes },
    /// Stop an instance.
    Stop { instance: u32, id: u64 },
    /// Ask an instance for its state.
    Export { instance: u32, id: u64, within: Duration },
    /// Give an instance a state of this schema version.
    Import { instance: u32, id: u64, within: Duration, schema: u32, state: Bytes },
}

#[derive(Debug)]
struct Queue {
    posts: Vec<Post>,
    /// How many of them are calls: those are bounded.
    calls: usize,
    phase: Phase,
    /// Calls, ticks and events stay where they are: see [`Mailbox::hold`].
    held: bool,
    /// The plugin asked for a turn.
    woken: bool,
    /// The thread waits on the condition, or is about to.
    asleep: bool,
    /// Who waits until it does.
    awaited_by: Option<Thread>,
}

// === impl Mailbox ===

impl Mailbox {
    /// An open mailbox whose calls are noted in `calls`.
    pub(crate) fn new(calls: Arc<Calls>) -> Mailbox {
        let queue = Queue {
            posts: Vec::new(),
            calls: 0,
            phase: Phase::Open,
            held: false,
            woken: false,
            asleep: false,
            awaited_by: None,
        };
        Mailbox {
            calls,
            presence: Arc::default(),
            hang: Mutex::new(None),
            hung: AtomicBool::new(false),
            queue: Mutex::new(queue),
            arrived: Condvar::new(),
            room: Notify::new(),
            closed: AtomicBool::new(false),
            ended: Notify::new(),
        }
    }

    pub(crate) fn calls(&self) -> &Arc<Calls> {
        &self.calls
    }

    pub(crate) fn presence(&self) -> &Arc<Presence> {
        &self.presence
    }

    /// The handler that does not return, if there is one.
    pub(crate) fn hang(&self) -> Option<Hang> {
        if !self.hung.load(Ordering::SeqCst) {
            return None;
        }
        self.hang.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Why no call is accepted, other than for want of room: what completes "module X ".
    fn unfit(&self) -> Option<String> {
        let hung = self.hang().map(|hang| format!("is hung: {hang}; calls are refused until it does"));
        hung.or_else(|| self.calls.out_of_service())
    }

    /// Looks whether a handler does not return, or has returned after all: no call may take longer than its module's
    /// deadline, or this one. Says whether something has changed.
    pub(crate) fn look_for_hang(&self, deadline: Duration) -> bool {
        let before = self.hang();
        let now = match &before {
            Some(hang) if self.presence.is_still_in(hang) => return false,
            _ => self.presence.hang(self.calls.instances(), |instance| {
                instance.and_then(|instance| instance.deadline).unwrap_or(deadline)
            }),
        };
        if let Some(Hang { handler, .. }) = &before {
            tracing::warn!(handler, "a handler that had hung has returned: its library takes calls again");
        }
        if let Some(hang) = &now {
            tracing::error!(%hang, "hung: calls to its library are refused");
        }
        let changed = before.is_some() || now.is_some();
        if changed {
            self.hung.store(now.is_some(), Ordering::SeqCst);
            *self.hang.lock().unwrap_or_else(PoisonError::into_inner) = now;
            // Whoever waits for room shall not go on waiting.
            self.room.notify_waiters();
        }
        changed
    }

    /// Puts a message into the queue.
    ///
    /// # Errors
    /// The call comes back, with whoever waits for it, if there is no room or this generation is going.
    pub(crate) fn post(self: &Arc<Self>, instance: u32, deadline: Instant, mut call: Call) -> Result<(), Refused> {
        if let Some(why) = self.unfit() {
            return Err(Refused::Unfit(call, why.into()));
        }
        let responder = call.responder.take();
        let waited_for = responder.is_some();
        // Noted before it can be answered. The table and the queue are never locked together.
        let id = self.calls.begin(instance, &call, deadline, responder);
        let refused = {
            let mut queue = self.queue();
            match queue.phase {
                Phase::Open if queue.calls < CAPACITY => {
                    queue.calls += 1;
                    self.push(queue, Post::Call { instance, id, deadline, call, waited_for });
                    self.calls.figures().calls.fetch_add(1, Ordering::Relaxed);
                    return Ok(());
                }
                Phase::Open => Refused::Full,
                Phase::Draining | Phase::Closed => Refused::Closed,
            }
        };
        call.responder = self.calls.withdraw(id);
        if waited_for && call.responder.is_none() {
            // Its deadline passed just now, so that it has had its end.
            return Ok(());
        }
        Err(refused(call))
    }

    /// Puts a tick into the queue; says whether it did.
    pub(crate) fn tick(self: &Arc<Self>, instance: u32, deadline: Instant, tick: Tick) -> bool {
        let id = self.calls.begin_tick(instance, deadline, tick);
        let unfit = self.unfit();
        let queue = self.queue();
        let fits = queue.phase == Phase::Open && queue.calls < CAPACITY && unfit.is_none();
        if fits {
            self.push(queue, Post::Tick { instance, id });
            self.calls.figures().calls.fetch_add(1, Ordering::Relaxed);
        } else {
            drop(queue);
            self.calls.withdraw(id);
        }
        fits
    }

    /// Puts an event into the queue.
    pub(crate) fn event(self: &Arc<Self>, instance: u32, json: Bytes) {
        self.internal(Post::Event { instance, json });
    }

    /// Tells the plugin how an operation ended: JSON texts, empty for absent fields.
    pub(crate) fn complete(self: &Arc<Self>, instance: u32, id: u64, result: Result<(&[u8], &[u8]), RequestError>) {
        self.internal(match result {
            Ok((error, body)) => {
                let (error, body) = (owned(error), owned(body));
                Post::Complete { instance, id, outcome: outcome::ANSWER, error, body }
            }
            Err(failure) => {
                // An enum of texts: there is nothing in it that JSON could not express.
                let body = serde_json::to_vec(&failure).unwrap_or_default().into();
                Post::Complete { instance, id, outcome: outcome::FAILED, error: Cow::default(), body }
            }
        });
    }

    /// Orders the making and start of an instance. The receiver gets the outcome, or nothing if the generation goes.
    pub(crate) fn start(self: &Arc<Self>, instance: u32, options: Bytes) -> oneshot::Receiver<LifeEnd> {
        let (ended, end) = oneshot::channel();
        let id = self.calls.begin_life(instance, ended, None);
        self.internal(Post::Start { instance, id, options });
        end
    }

    /// Orders the stop of an instance.
    pub(crate) fn stop(self: &Arc<Self>, instance: u32) -> oneshot::Receiver<LifeEnd> {
        let (ended, end) = oneshot::channel();
        let id = self.calls.begin_life(instance, ended, None);
        self.internal(Post::Stop { instance, id });
        end
    }

    /// Asks for a turn, from any thread.
    pub(crate) fn wake(self: &Arc<Self>) {
        let mut queue = self.queue();
        queue.woken = true;
        self.rouse_later(queue);
    }

    /// No new calls from now on.
    pub(crate) fn drain(&self) {
        self.queue().phase.drain();
        self.room.notify_waiters();
    }

    /// Takes calls again after [`drain`](Mailbox::drain), unless it was closed.
    pub(crate) fn reopen(&self) {
        self.queue().phase.reopen();
    }

    /// Nothing from now on: the thread leaves after its turn.
    pub(crate) fn close(self: &Arc<Self>) {
        let mut queue = self.queue();
        queue.phase = Phase::Closed;
        let left = std::mem::take(&mut queue.posts);
        queue.calls = 0;
        self.closed.store(true, Ordering::SeqCst);
        self.rouse_later(queue);
        // Whoever waits for a call is in the table, and is told when the generation ends.
        for id in left.iter().filter_map(Post::life) {
            self.calls.withdraw(id);
        }
        self.room.notify_waiters();
        self.ended.notify_waiters();
    }

    /// Whether [`close`](Mailbox::close) was called.
    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::SeqCst)
    }

    /// Waits until the mailbox is closed.
    pub(crate) async fn closed(&self) {
        loop {
            let ended = self.ended.notified();
            if self.is_closed() {
                return;
            }
            ended.await;
        }
    }

    /// Waits until a call would not be refused for want of room.
    ///
    /// # Cancel safety
    /// Cancel safe: it only looks.
    pub(crate) async fn space(&self) {
        loop {
            let room = self.room.notified();
            if self.hung.load(Ordering::SeqCst) {
                return;
            }
            {
                let queue = self.queue();
                if queue.phase != Phase::Open || queue.calls < CAPACITY {
                    return;
                }
            }
            room.await;
        }
    }

    /// Waits for work and swaps it into `batch`, which has to be empty; an empty batch is a turn that the plugin asked
    /// for. `false` when the mailbox is closed.
    pub(crate) fn take(&self, batch: &mut Vec<Post>) -> bool {
        let mut queue = self.queue();
        while queue.phase != Phase::Closed && !queue.has_work() && !queue.woken {
            queue.asleep = true;
            if let Some(waiting) = queue.awaited_by.take() {
                // Without the lock, which it would have to wait for; it may bring more.
                drop(queue);
                waiting.unpark();
                queue = self.queue();
            } else {
                queue = self.arrived.wait(queue).unwrap_or_else(PoisonError::into_inner);
            }
            queue.asleep = false;
        }
        if queue.phase == Phase::Closed {
            return false;
        }
        queue.woken = false;
        if queue.held {
            batch.extend(queue.posts.extract_if(.., |post| !post.can_be_held()));
            return true;
        }
        let was_full = queue.calls >= CAPACITY;
        queue.calls = 0;
        std::mem::swap(&mut queue.posts, batch);
        drop(queue);
        if was_full {
            self.room.notify_waiters();
        }
        true
    }

    /// Like [`take`](Mailbox::take), for those who start and cannot take calls yet: these stay where they are. Returns at
    /// `until` at the latest.
    pub(crate) fn take_urgent(&self, batch: &mut Vec<Post>, until: Instant) -> bool {
        let is_urgent = |post: &Post| !matches!(post, Post::Call { .. } | Post::Tick { .. });
        let mut queue = self.queue();
        while queue.phase != Phase::Closed && !queue.woken && !queue.posts.iter().any(is_urgent) {
            match self.sleep(queue, until) {
                (awake, true) => queue = awake,
                (awake, false) => return awake.phase != Phase::Closed,
            }
        }
        queue.woken = false;
        batch.extend(queue.posts.extract_if(.., |post| is_urgent(post)));
        queue.phase != Phase::Closed
    }

    /// Lets time pass; says whether the mailbox was closed meanwhile.
    pub(crate) fn pause(&self, duration: Duration) -> bool {
        let until = Instant::now() + duration;
        let mut queue = self.queue();
        while queue.phase != Phase::Closed {
            match self.sleep(queue, until) {
                (awake, true) => queue = awake,
                (awake, false) => return awake.phase == Phase::Closed,
            }
        }
        true
    }

    /// Sleeps until something arrives; `false` when it is `until`.
    fn sleep<'a>(&self, mut queue: MutexGuard<'a, Queue>, until: Instant) -> (MutexGuard<'a, Queue>, bool) {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return (queue, false);
        }
        queue.asleep = true;
        let (mut queue, _) = self.arrived.wait_timeout(queue, left).unwrap_or_else(PoisonError::into_inner);
        queue.asleep = false;
        (queue, true)
    }

    fn internal(self: &Arc<Self>, post: Post) {
        let queue = self.queue();
        if queue.phase != Phase::Closed {
            return self.push(queue, post);
        }
        drop(queue);
        if let Some(id) = post.life() {
            self.calls.withdraw(id);
        }
    }

    fn push(self: &Arc<Self>, mut queue: MutexGuard<'_, Queue>, post: Post) {
        queue.posts.push(post);
        self.rouse_later(queue);
    }

    /// Wakes the thread. Whoever holds a wake back sees to it later.
    pub(crate) fn rouse(&self) {
        self.arrived.notify_one();
    }

    /// Whether many messages wait for the thread.
    pub(crate) fn is_busy(&self) -> bool {
        self.queue().is_busy()
    }

    /// If many messages wait for the thread, which was roused, waits until there are none, for so long at most.
    pub(crate) fn wait_if_busy(&self, patience: Duration) {
        let mut queue = self.queue();
        if !queue.is_busy() {
            return;
        }
        queue.awaited_by = Some(thread::current());
        drop(queue);
        thread::park_timeout(patience);
        self.queue().awaited_by = None;
    }

    fn rouse_later(self: &Arc<Self>, mut queue: MutexGuard<'_, Queue>) {
        // Once is enough: whoever comes next need not.
        let asleep = std::mem::take(&mut queue.asleep);
        drop(queue);
        if asleep {
            batch::rouse(self);
        }
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Queue ===

impl Queue {
    fn is_busy(&self) -> bool {
        self.posts.len() >= MANY
    }

    fn has_work(&self) -> bool {
        if self.held { self.posts.iter().any(|post| !post.can_be_held()) } else { !self.posts.is_empty() }
    }
}

// === impl Post ===

impl Post {
    /// The step in the life of an instance that it orders.
    fn life(&self) -> Option<u64> {
        match self {
            Post::Start { id, .. } | Post::Stop { id, .. } | Post::Export { id, .. } | Post::Import { id, .. } => {
                Some(*id)
            }
            Post::Call { .. } | Post::Tick { .. } | Post::Event { .. } | Post::Complete { .. } => None,
        }
    }

    /// Whether it comes from outside, and can wait until an instance has its state.
    fn can_be_held(&self) -> bool {
        matches!(self, Post::Call { .. } | Post::Tick { .. } | Post::Event { .. })
    }

    /// How many bytes of JSON it carries.
    pub(crate) fn body_len(&self) -> usize {
        match self {
            Post::Call { call, .. } => call.body.len(),
            Post::Event { json: body, .. } | Post::Start { options: body, .. } => body.len(),
            Post::Complete { error, body, .. } => error.len() + body.len(),
            Post::Import { state, .. } => state.len(),
            Post::Tick { .. } | Post::Stop { .. } | Post::Export { .. } => 0,
        }
    }

    /// The kind of mail that delivers it.
    pub(crate) fn kind(&self) -> u32 {
        match self {
            Post::Call { call, .. } => match call.source {
                Source::Server(_) => kind::MESSAGE,
                Source::Client(_) => kind::CLIENT,
            },
            Post::Tick { .. } => kind::TICK,
            Post::Event { .. } => kind::EVENT,
            Post::Complete { .. } => kind::COMPLETE,
            Post::Start { .. } => kind::START,
            Post::Stop { .. } => kind::STOP,
            Post::Export { .. } => kind::EXPORT,
            Post::Import { .. } => kind::IMPORT,
        }
    }
}

/// JSON that a post keeps; what most errors are needs no memory.
fn owned(json: &[u8]) -> Cow<'static, [u8]> {
    match json {
        b"" => Cow::Borrowed(b""),
        b"null" => Cow::Borrowed(b"null"),
        json => Cow::Owned(json.to_vec()),
    }
}

#[cfg(test)]
mod tests;
