//! One connection: a task that reads packets, lets [`State`] say what they mean, and writes what its outbox holds.
//!
//! The task waits for four things: input, something to write, room to write, and, until the peer has registered, the end
//! of patience. A registered, idle connection has no timer and no buffer.

pub(crate) mod outbox;
mod state;

use std::{
    io,
    net::{Shutdown, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::{Buf, Bytes, BytesMut};
use socket2::SockRef;
use tokio::net::TcpStream;
use tracing::{debug, info};

use self::{
    outbox::{Flushed, Order, Outbox},
    state::{Action, Patience, Reason, State},
};
use crate::{
    batch,
    ids::ConnId,
    master::{Admission, Identity, Master},
    modules::{call::Outcome, deliver::Blocked},
    net::Place,
    wire::{
        self, Topic,
        envelope::{self, ReqId},
        handshake,
        packet::{self, PacketError},
    },
};

/// How much is read at once. Also what a connection with input pending costs; an idle one has no buffer.
const READ_CHUNK: usize = 16 * 1024;

/// How long the last words to a peer may take. The original's peers act on DISCONNECT at once.
const LAST_WORDS: Duration = Duration::from_millis(500);

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
    limits: Limits,
    outbox: Arc<Outbox>,
    state: State,
    identity: Identity,
    input: BytesMut,
    accepted: Instant,
    /// Since when the peer has taken nothing of what is to be written.
    blocked: Option<Instant>,
    /// When the last words must be out.
    finish_by: Option<Instant>,
}

/// How far a batch of packets got.
enum Step<'a> {
    /// All that was complete is handled.
    Done,
    /// Somebody wants in.
    Admit { topic: Topic, payload: &'a [u8] },
    /// A module has no room.
    Wait(Blocked<'a>),
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
        match outcome {
            Outcome::Answer { error, body } => self.send(error, body),
            Outcome::NoSuchHandler { module, handler } => {
                self.send(wire::json_text(&wire::no_such_handler(module, handler)).as_bytes(), b"");
            }
            Outcome::Failed(text) => self.send(wire::error_object(text).as_bytes(), b""),
        }
    }

    /// Sends an error that is a plain text.
    pub(crate) fn refuse(self, text: &str) {
        self.send(wire::json_text(text).as_bytes(), b"");
    }

    /// Sends an error and a body, as JSON texts.
    pub(crate) fn send(self, error: &[u8], body: &[u8]) {
        self.outbox.push(envelope::response(self.topic, &self.id, error, body));
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
        let limits = *master.limits();
        let stream = Arc::new(stream);
        Session {
            stream: stream.clone(),
            conn,
            address,
            master,
            place,
            limits,
            outbox: Arc::new(Outbox::new(stream, limits.outbox)),
            state: State::Greeting,
            identity: Identity::Nobody,
            input: BytesMut::new(),
            accepted: Instant::now(),
            blocked: None,
            finish_by: None,
        }
    }

    /// The outbox: whoever holds it can end the session.
    pub(crate) fn outbox(&self) -> &Arc<Outbox> {
        &self.outbox
    }

    /// Serves the connection until it ends.
    pub(crate) async fn run(mut self) {
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
            self.linger().await;
        }
    }

    async fn serve(&mut self) -> Result<std::convert::Infallible, End> {
        loop {
            self.handle_input().await?;
            self.flush()?;
            if self.input.is_empty() {
                self.input = BytesMut::new();
            }
            let deadline = self.deadline();
            tokio::select! {
                biased;
                ready = self.stream.readable(), if self.finish_by.is_none() => {
                    ready?;
                    self.read()?;
                }
                () = self.outbox.changed() => {}
                ready = self.stream.writable(), if self.blocked.is_some() => ready?,
                () = until(deadline.as_ref().map(|(at, _)| *at)), if deadline.is_some() => {
                    let Some((_, end)) = deadline else { continue };
                    return Err(end);
                }
            }
        }
    }

    fn deadline(&self) -> Option<(Instant, End)> {
        let stall = self
            .blocked
            .map(|since| (since + self.limits.write_stall, End::DoesNotRead("nothing was taken for too long")));
        let finish = self.finish_by.map(|at| (at, End::Finished));
        let Limits { connect_within, register_within, .. } = self.limits;
        let patience = Patience { accepted: self.accepted, connect_within, register_within };
        let patience = self.state.deadline(&patience).map(|(at, reason)| (at, End::Reason(reason)));
        [stall, finish, patience].into_iter().flatten().min_by_key(|(at, _)| *at)
    }

    // === input ===

    fn read(&mut self) -> Result<(), End> {
        self.input.reserve(READ_CHUNK);
        match self.stream.try_read_buf(&mut self.input) {
            Ok(0) => Err(End::Eof),
            Ok(_) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    async fn handle_input(&mut self) -> Result<(), End> {
        if self.input.is_empty() || self.finish_by.is_some() {
            return Ok(());
        }
        let master = self.master.clone();
        // Packets borrow from the input while they are handled.
        let mut input = std::mem::take(&mut self.input);
        let mut used = 0;
        loop {
            match self.handle_packets(&master, &input, &mut used)? {
                Step::Done => break,
                Step::Admit { topic, payload } => self.admit(topic, payload).await?,
                Step::Wait(blocked) => {
                    // Its module is busy: what was answered so far goes out, and nothing more is read for a while.
                    self.flush()?;
                    blocked.wait().await;
                }
            }
        }
        input.advance(used);
        self.input = input;
        Ok(())
    }

    /// Handles complete packets as one batch, until one needs time.
    fn handle_packets<'a>(&mut self, master: &'a Master, input: &'a [u8], used: &mut usize) -> Result<Step<'a>, End> {
        let _batch = batch::begin();
        while self.finish_by.is_none() {
            let limit = if self.state.is_registered() {
                self.limits.packet_after_login
            } else {
                self.limits.packet_before_login
            };
            if input.get(*used).is_some_and(|first| !self.state.may_begin_with(*first)) {
                return Err(End::Reason(Reason::NoConnect));
            }
            let Some((packet, length)) = packet::decode(&input[*used..], limit)? else { break };
            *used += length;
            match self.state.on_packet(packet) {
                Action::Nothing => {}
                Action::Send(bytes) => drop(self.outbox.push(Bytes::from_static(bytes))),
                Action::Admit { topic, payload } => return Ok(Step::Admit { topic, payload }),
                Action::Message { payload } => {
                    if let Some(blocked) = master.receive(&self.identity, &self.outbox, payload) {
                        return Ok(Step::Wait(blocked));
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
        Ok(Step::Done)
    }

    async fn admit(&mut self, topic: Topic, payload: &[u8]) -> Result<(), End> {
        let Ok(hello) = handshake::read(payload) else {
            self.master.count_dropped();
            return Ok(());
        };
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
        self.outbox.push(Bytes::from_static(packet::DISCONNECT));
        self.outbox.finish();
    }

    // === output ===

    fn flush(&mut self) -> Result<(), End> {
        let order = self.outbox.order();
        match order {
            Order::GoOn => {}
            Order::Overflow => return Err(End::DoesNotRead("too much is queued for it")),
            Order::Closed => return Err(End::Finished),
            Order::Finish => {
                self.finish_by.get_or_insert_with(|| Instant::now() + LAST_WORDS);
            }
        }
        self.blocked = match self.outbox.flush()? {
            Flushed::All if order == Order::Finish => return Err(End::Finished),
            Flushed::Blocked(since) => Some(since),
            Flushed::All | Flushed::Busy => None,
        };
        Ok(())
    }

    /// Lets the peer read the last words: closing with input unread would reset the connection and lose them.
    async fn linger(self) {
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

async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}
