//! One connection: a task that reads packets, lets [`State`] say what they mean, and writes what its outbox holds.
//!
//! The task waits for four things: input, something to write, room to write, and, until the peer has registered, the end
//! of patience. A registered, idle connection has no timer and no buffer. What is rare is boxed, since a fleet's
//! connections are idle most of the time and each costs what its largest state needs.

pub(crate) mod outbox;
pub(crate) mod round;
pub(crate) mod scratch;
mod state;

use std::{
    convert::Infallible,
    future::poll_fn,
    io,
    net::{Shutdown, SocketAddr},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

use bytes::{Buf, Bytes, BytesMut};
use socket2::SockRef;
use tokio::{
    net::TcpStream,
    task::yield_now,
    time::{Sleep, sleep_until},
};
use tracing::{debug, info};

use self::{
    outbox::{Flushed, Order, Outbox},
    scratch::{Scratch, Texts},
    state::{Action, Patience, Reason, State},
};
use crate::{
    batch,
    ids::ConnId,
    master::{Admission, Identity, Master, Sender},
    modules::{call::Outcome, deliver::Blocked},
    net::Place,
    wire::{
        self, Topic,
        envelope::{self, ReqId},
        handshake::{self, Hello},
        packet::{self, PacketError},
    },
};

/// How long the last words to a peer may take. The original's peers act on DISCONNECT at once.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// Answers up to this size, in bytes, are written into the outbox itself; larger ones are built before, not to hold its
/// lock for long.
const SHORT_ANSWER: usize = 4 * 1024;

/// Limits of one connection.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// The largest packet before registering, in bytes.
    pub(crate) packet_before_login: usize,
    /// The largest packet after it, in bytes.
    pub(crate) packet_after_login: usize,
    /// Time from acceptance to CONNECT.
    pub(crate) connect_within: Duration,
    /// Time from acceptance to a successful registration.
    pub(crate) register_within: Duration,
    /// What may be queued for a peer, in bytes, before it is cut.
    pub(crate) outbox: usize,
    /// How long a peer may read nothing while something is being written to it.
    pub(crate) write_stall: Duration,
}

/// A request of a peer that waits for its answer.
#[derive(Debug)]
pub(crate) struct Reply {
    outbox: Arc<Outbox>,
    topic: Topic,
    id: ReqId,
}

/// A connection and its task's state.
pub(crate) struct Session {
    stream: Arc<TcpStream>,
    conn: ConnId,
    address: SocketAddr,
    master: Arc<Master>,
    place: Place,
    outbox: Arc<Outbox>,
    state: State,
    identity: Identity,
    /// What was read and is not handled: a packet that is not complete, or what came behind one that needs time.
    rest: BytesMut,
    accepted: Instant,
    /// Since when the peer has taken nothing of what is to be written.
    blocked: Option<Instant>,
    /// When the last words must be out.
    finish_by: Option<Instant>,
    /// Rings at the deadline, if there is one.
    alarm: Option<Pin<Box<Sleep>>>,
}

/// Why the task goes on.
enum Event {
    Readable,
    /// There is something to write, or room to write.
    Output,
}

/// How far a batch of packets got.
enum Step {
    /// All that was complete is handled.
    Done,
    /// Somebody wants in.
    Admit(Topic, Box<Hello>),
    /// A module has no room.
    Wait(Box<Blocked>),
}

/// Why a session ended.
#[derive(Debug, thiserror::Error)]
enum End {
    #[error("the peer closed the connection")]
    Eof,
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("malformed packet: {0}")]
    Packet(#[from] PacketError),
    #[error("{0}")]
    Reason(Reason),
    #[error("refused: {0}")]
    Refused(String),
    #[error("it does not read: {0}")]
    DoesNotRead(&'static str),
    #[error("closed from here")]
    Finished,
}

// === impl Reply ===

impl Reply {
    pub(crate) fn new(outbox: Arc<Outbox>, topic: Topic, id: ReqId) -> Reply {
        Reply { outbox, topic, id }
    }

    /// Sends the answer. A peer that has left does not get it, and nobody else.
    pub(crate) fn end(self, outcome: Outcome<'_>) {
        let (error, body) = outcome.texts();
        self.send(&error, body);
    }

    /// Sends an error that is a plain text.
    pub(crate) fn refuse(self, text: &str) {
        self.send(wire::json_text(text).as_bytes(), b"");
    }

    /// Sends an error and a body, as JSON texts.
    pub(crate) fn send(self, error: &[u8], body: &[u8]) {
        let Reply { outbox, topic, id } = self;
        let write = |out: &mut Vec<u8>| envelope::response(out, topic, &id, error, body);
        if error.len() + body.len() <= SHORT_ANSWER {
            outbox.write(write);
        } else {
            let mut frame = Vec::new();
            write(&mut frame);
            outbox.push(&frame.into());
        }
    }
}

// === impl Session ===

impl Session {
    pub(crate) fn new(
        stream: TcpStream,
        conn: ConnId,
        address: SocketAddr,
        master: Arc<Master>,
        place: Place,
    ) -> Session {
        let stream = Arc::new(stream);
        let outbox = Arc::new(Outbox::new(stream.clone(), master.limits().outbox));
        Session {
            stream,
            conn,
            address,
            master,
            place,
            outbox,
            state: State::Greeting,
            identity: Identity::Nobody,
            rest: BytesMut::new(),
            accepted: Instant::now(),
            blocked: None,
            finish_by: None,
            alarm: None,
        }
    }

    /// The outbox: whoever holds it can end the session.
    pub(crate) fn outbox(&self) -> &Arc<Outbox> {
        &self.outbox
    }

    /// Serves the connection until it ends.
    pub(crate) async fn run(&mut self) {
        let end = match self.serve().await {
            Ok(never) => match never {},
            Err(end) => end,
        };
        let (conn, address, identity) = (self.conn, self.address, &self.identity);
        match &end {
            // These are how connections end; the rest is a peer's fault, or its misfortune.
            End::Eof | End::Finished | End::Reason(Reason::Left) => debug!(%conn, %address, %identity, %end, "closed"),
            _ => info!(%conn, %address, %identity, reason = %end, "connection cut"),
        }
        self.outbox.close();
        self.master.leave(&self.identity);
        if matches!(end, End::Finished | End::Refused(_) | End::Reason(_)) {
            Box::pin(self.linger()).await;
        }
    }

    async fn serve(&mut self) -> Result<Infallible, End> {
        loop {
            match poll_fn(|context| self.poll_event(context)).await? {
                Event::Readable => self.take_input().await?,
                // A broadcast wakes thousands of tasks: what the first have held back is not to wait for the last.
                Event::Output => batch::relieve(),
            }
            self.flush()?;
            if batch::look_again() {
                yield_now().await;
            }
        }
    }

    fn poll_event(&mut self, context: &mut Context<'_>) -> Poll<Result<Event, End>> {
        if self.finish_by.is_none()
            && let Poll::Ready(ready) = self.stream.poll_read_ready(context)
        {
            return Poll::Ready(ready.map(|()| Event::Readable).map_err(End::Io));
        }
        if self.outbox.poll_changed(context).is_ready() {
            return Poll::Ready(Ok(Event::Output));
        }
        if self.blocked.is_some()
            && let Poll::Ready(ready) = self.stream.poll_write_ready(context)
        {
            return Poll::Ready(ready.map(|()| Event::Output).map_err(End::Io));
        }
        let Some((at, end)) = self.deadline() else {
            self.alarm = None;
            return Poll::Pending;
        };
        let at = at.into();
        let alarm = self.alarm.get_or_insert_with(|| Box::pin(sleep_until(at)));
        if alarm.deadline() != at {
            alarm.as_mut().reset(at);
        }
        ready!(alarm.as_mut().poll(context));
        Poll::Ready(Err(end))
    }

    fn deadline(&self) -> Option<(Instant, End)> {
        let Limits { connect_within, register_within, write_stall, .. } = *self.master.limits();
        let stall = self.blocked.map(|since| (since + write_stall, End::DoesNotRead("nothing was taken for too long")));
        let finish = self.finish_by.map(|at| (at, End::Finished));
        let patience = Patience { accepted: self.accepted, connect_within, register_within };
        let patience = self.state.deadline(&patience).map(|(at, reason)| (at, End::Reason(reason)));
        [stall, finish, patience].into_iter().flatten().min_by_key(|(at, _)| *at)
    }

    // === input ===

    async fn take_input(&mut self) -> Result<(), End> {
        let mut step = self.read()?;
        loop {
            match step {
                Step::Done => return Ok(()),
                Step::Admit(topic, hello) => Box::pin(self.admit(topic, *hello)).await?,
                Step::Wait(blocked) => {
                    // Its module is busy: what was answered so far goes out, and nothing more is read for a while.
                    self.flush()?;
                    Box::pin(blocked.wait(&self.master.modules)).await;
                }
            }
            step = scratch::with(|scratch| self.handle_rest(&mut scratch.texts))?;
        }
    }

    /// Reads once, and handles what is there.
    fn read(&mut self) -> Result<Step, End> {
        scratch::with(|Scratch { input, texts }| {
            let Some(length) = scratch::receive(&self.stream, input)? else { return Ok(Step::Done) };
            if length == 0 {
                return Err(End::Eof);
            }
            let input = &input[..length];
            if self.rest.is_empty() {
                let (step, used) = self.handle_packets(input, texts)?;
                self.rest.extend_from_slice(&input[used..]);
                Ok(step)
            } else {
                self.rest.extend_from_slice(input);
                self.handle_rest(texts)
            }
        })
    }

    fn handle_rest(&mut self, texts: &mut Texts) -> Result<Step, End> {
        let mut rest = std::mem::take(&mut self.rest);
        let (step, used) = self.handle_packets(&rest, texts)?;
        rest.advance(used);
        if !rest.is_empty() {
            self.rest = rest;
        }
        Ok(step)
    }

    /// Handles complete packets as one batch, until one needs time. Says how many bytes they were.
    fn handle_packets(&mut self, input: &[u8], texts: &mut Texts) -> Result<(Step, usize), End> {
        let batch = batch::begin();
        let mut used = 0;
        while self.finish_by.is_none() {
            let limits = self.master.limits();
            let limit = if self.state.is_registered() { limits.packet_after_login } else { limits.packet_before_login };
            if input.get(used).is_some_and(|first| !self.state.may_begin_with(*first)) {
                return Err(End::Reason(Reason::NoConnect));
            }
            let Some((packet, length)) = packet::decode(&input[used..], limit)? else { break };
            used += length;
            match self.state.on_packet(packet) {
                Action::Nothing => {}
                Action::Send(bytes) => drop(self.outbox.push(&Bytes::from_static(bytes))),
                Action::Admit { topic, payload } => match handshake::read(payload) {
                    Ok(hello) => return Ok((Step::Admit(topic, Box::new(hello)), used)),
                    Err(_) => self.master.count_dropped(),
                },
                Action::Message { payload } => {
                    let from = Sender { identity: &self.identity, outbox: &self.outbox, arrived: batch.began() };
                    if let Some(blocked) = self.master.receive(from, payload, texts) {
                        return Ok((Step::Wait(Box::new(blocked)), used));
                    }
                }
                Action::Dismiss(reason) => {
                    debug!(conn = %self.conn, address = %self.address, %reason, "dismissed");
                    self.say_goodbye();
                    break;
                }
                Action::Close(reason) => return Err(End::Reason(reason)),
            }
        }
        Ok((Step::Done, used))
    }

    async fn admit(&mut self, topic: Topic, hello: Hello) -> Result<(), End> {
        self.flush()?;
        match self.master.admit(hello, topic, self.conn, self.address, &self.outbox).await {
            Admission::Ignored => {}
            Admission::Registered(identity) => {
                self.state = if matches!(identity, Identity::Client(_)) { State::Client } else { State::Monitor };
                self.identity = identity;
                self.place.registered();
            }
            // The original leaves such a connection open; ours has the time that is left to register.
            Admission::NotNow => {}
            Admission::Refused(text) => {
                self.say_goodbye();
                self.flush()?;
                return if self.blocked.is_none() { Err(End::Refused(text)) } else { Ok(()) };
            }
        }
        Ok(())
    }

    fn say_goodbye(&mut self) {
        self.outbox.push(&Bytes::from_static(packet::DISCONNECT));
        self.outbox.finish();
    }

    // === output ===

    fn flush(&mut self) -> Result<(), End> {
        let (flushed, order) = self.outbox.flush()?;
        self.blocked = if let Flushed::Blocked(since) = flushed { Some(since) } else { None };
        match order {
            Order::GoOn => {}
            Order::Overflow => return Err(End::DoesNotRead("too much is queued for it")),
            Order::Closed => return Err(End::Finished),
            Order::Finish if flushed == Flushed::All => return Err(End::Finished),
            Order::Finish => {
                self.finish_by.get_or_insert_with(|| Instant::now() + LAST_WORDS);
            }
        }
        Ok(())
    }

    /// Lets the peer read the last words: closing with input unread would reset the connection and lose them.
    async fn linger(&self) {
        if SockRef::from(&*self.stream).shutdown(Shutdown::Write).is_err() {
            return;
        }
        let drain = async {
            let mut sink = [0; 1024];
            while let Ok(()) = self.stream.readable().await {
                match self.stream.try_read(&mut sink) {
                    Ok(0) => break,
                    Ok(_) => {}
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    Err(_) => break,
                }
            }
        };
        // A peer that goes on talking is cut.
        drop(tokio::time::timeout(LAST_WORDS, drain).await);
    }
}
