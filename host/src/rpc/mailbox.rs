//! One server's mailbox: a task that connects when somebody calls, and keeps the link as long as it can.
//!
//! ```text
//!           call                    connected                  link lost
//!  idle ───────────▶ connecting ──────────────▶ serving ──────────────────▶ idle
//!                      │    ▲                                 sent calls end, the others wait for the next link
//!               failed │    │ pause over
//!    its calls end ─▶ pausing: later calls wait for the next attempt
//! ```
//!
//! What waits is bounded in bytes, over all of a server's calls, sent or not.

use std::{collections::HashMap, error::Error, sync::Arc, time::Duration};

use bytes::Bytes;
use muster_plugin_api::RequestError;
use tokio::{
    runtime::Handle,
    sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot},
    time::{Instant, sleep, sleep_until},
};
use tokio_util::sync::{CancellationToken, DropGuard};
use tracing::{debug, info};

use super::{
    Config,
    message::{self, Response},
};
use crate::{
    beat,
    link::{Beat, Incoming, Keepalive, Link, LinkError, LinkReader, LinkWriter, backoff::Backoff},
    wire::{Topic, frame, packet},
};

/// Time to open a socket: that of the original's mailbox.
const CONNECT_WITHIN: Duration = Duration::from_secs(2);

/// Pauses between attempts: short at first, for a server that is being restarted.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
/// And at most: shorter than calls wait, so that a call that waits for an attempt sees it.
const LONGEST_PAUSE: Duration = Duration::from_secs(8);

/// What may wait for one server, in bytes: as much as one peer may send us.
const ROOM: u32 = 16 << 20;
/// What a call costs at least: its entry, and whoever waits for it.
const LEAST: u32 = 4 << 10;
/// No more calls than this have room, so a queue of this length is never full.
const MOST_CALLS: usize = (ROOM / LEAST) as usize;

/// Collected calls are sent without waiting for more when they are so large.
const LARGE_BATCH: usize = 64 << 10;

/// How often calls that nobody waits for any more are looked for.
const SWEEP: Duration = beat::OFTEN;

/// The end of a call.
pub(super) type Answer = oneshot::Receiver<Result<Response, RequestError>>;

/// The handle of the task, which ends with it.
#[derive(Debug)]
pub(super) struct Mailbox {
    id: String,
    calls: mpsc::Sender<Call>,
    room: Arc<Semaphore>,
    _stop: DropGuard,
}

/// A call that was not sent yet.
struct Call {
    msg: String,
    waiting: Waiting,
}

/// Who waits for a call's end, and the room that it takes.
struct Waiting {
    done: oneshot::Sender<Result<Response, RequestError>>,
    _room: OwnedSemaphorePermit,
}

/// The task.
struct Task {
    id: String,
    address: String,
    config: Config,
    calls: mpsc::Receiver<Call>,
    stop: CancellationToken,
}

/// One link, while it lasts.
struct Serving<'a> {
    task: &'a mut Task,
    writer: LinkWriter,
    /// Sent or collected, by id.
    waiting: HashMap<u64, Waiting>,
    next_id: u64,
    /// Entries that are collected, separated by commas, and until when.
    batch: Vec<u8>,
    batch_due: Instant,
    /// Whether the server ever said anything: what accepts connections and closes them serves nobody.
    spoke: bool,
}

/// Why a link ended.
#[derive(Debug, thiserror::Error)]
enum End {
    #[error("it ended the connection")]
    Dismissed,
    #[error("it does not answer pings")]
    NoPong,
    #[error("it does not speak pomelo-rpc's MQTT ({0})")]
    Protocol(packet::PacketError),
    #[error("the connection broke: {0}")]
    Link(LinkError),
    #[error("it left the directory")]
    Left,
}

// === impl Mailbox ===

impl Mailbox {
    pub(super) fn open(runtime: &Handle, id: &str, address: &str, config: Config) -> Mailbox {
        let (sender, calls) = mpsc::channel(MOST_CALLS);
        let stop = CancellationToken::new();
        let task = Task { id: id.to_owned(), address: address.to_owned(), config, calls, stop: stop.clone() };
        runtime.spawn(task.run());
        let room = Arc::new(Semaphore::new(ROOM as usize));
        Mailbox { id: id.to_owned(), calls: sender, room, _stop: stop.drop_guard() }
    }

    /// Queues a call.
    ///
    /// # Errors
    /// When too much waits for this server already.
    pub(super) fn send(&self, msg: &str) -> Result<Answer, RequestError> {
        let busy = || RequestError::Busy(format!("too many calls wait for {} already", self.id));
        let cost = u32::try_from(msg.len()).unwrap_or(ROOM).max(LEAST);
        let room = self.room.clone().try_acquire_many_owned(cost).map_err(|_| busy())?;
        let (done, answer) = oneshot::channel();
        let call = Call { msg: msg.to_owned(), waiting: Waiting { done, _room: room } };
        self.calls.try_send(call).map_err(|_| busy())?;
        Ok(answer)
    }
}

// === impl Task ===

impl Task {
    async fn run(mut self) {
        let mut pauses = Backoff::new(FIRST_PAUSE, LONGEST_PAUSE);
        while let Some(first) = self.next_call().await {
            let good = match self.connect().await {
                Ok(link) => self.serve(link, first).await,
                Err(None) => return,
                Err(Some(reason)) => {
                    let reason = format!("{} cannot be reached at {}: {reason}", self.id, self.address);
                    debug!(server = self.id, address = self.address, "calls fail: {reason}");
                    first.waiting.fail(&reason);
                    while let Ok(call) = self.calls.try_recv() {
                        call.waiting.fail(&reason);
                    }
                    false
                }
            };
            if good {
                pauses.reset();
                continue;
            }
            tokio::select! {
                () = self.stop.cancelled() => return,
                () = sleep(pauses.wait()) => {}
            }
        }
    }

    /// The next call that somebody waits for; `None` when the server has left.
    async fn next_call(&mut self) -> Option<Call> {
        loop {
            let call = tokio::select! {
                biased;
                () = self.stop.cancelled() => None,
                call = self.calls.recv() => call,
            }?;
            if !call.waiting.done.is_closed() {
                return Some(call);
            }
        }
    }

    /// The error is the reason, or none when the server has left meanwhile.
    async fn connect(&self) -> Result<Link, Option<String>> {
        tokio::select! {
            biased;
            () = self.stop.cancelled() => Err(None),
            link = Link::dial(&self.address, CONNECT_WITHIN, self.config.largest) => link.map_err(|error| {
                Some(error.source().map_or_else(|| error.to_string(), ToString::to_string))
            }),
        }
    }

    /// Serves until the link is lost. Returns whether it was good for anything.
    async fn serve(&mut self, link: Link, first: Call) -> bool {
        info!(server = self.id, address = self.address, "connected, for calls");
        let (id, address) = (self.id.clone(), self.address.clone());
        let (mut reader, writer) = link.split();
        let mut serving = Serving {
            task: self,
            writer,
            waiting: HashMap::new(),
            next_id: 0,
            batch: Vec::new(),
            batch_due: Instant::now(),
            spoke: false,
        };
        serving.begin(first);
        let end = serving.run(&mut reader).await;
        info!(server = id, address, reason = %end, unanswered = serving.waiting.len(), "no longer connected, for calls");
        let reason = format!("{id} was lost before it answered: {end}");
        for (_, waiting) in serving.waiting.drain() {
            waiting.fail(&reason);
        }
        serving.spoke
    }
}

// === impl Serving ===

impl Serving<'_> {
    async fn run(&mut self, reader: &mut LinkReader) -> End {
        let stop = self.task.stop.clone();
        let mut keepalive = Keepalive::every(self.task.config.keepalive, Instant::now());
        let mut sweep = beat::every(SWEEP);
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return End::Left,
                incoming = reader.recv() => match incoming {
                    Ok(Incoming::Publish { topic: Topic::Rpc, payload }) => self.take(&payload),
                    Ok(Incoming::Publish { .. }) => {}
                    Ok(Incoming::Pingreq) => self.writer.push(Bytes::from_static(packet::PINGRESP)),
                    Ok(Incoming::Pingresp) => {
                        self.spoke = true;
                        keepalive.answered();
                    }
                    Ok(Incoming::Disconnect) | Err(LinkError::Closed) => return End::Dismissed,
                    Err(LinkError::Protocol(error)) => return End::Protocol(error),
                    Err(error) => return End::Link(error),
                },
                flushed = self.writer.flush(), if self.writer.pending() > 0 => {
                    if let Err(error) = flushed {
                        return End::Link(error);
                    }
                }
                () = sleep_until(self.batch_due), if !self.batch.is_empty() => self.send_batch(),
                call = self.task.calls.recv(), if self.writer.pending() == 0 => match call {
                    Some(call) => self.begin(call),
                    None => return End::Left,
                },
                () = sleep_until(keepalive.due()) => match keepalive.tick(Instant::now()) {
                    Beat::Wait => {}
                    Beat::Ping => self.writer.push(Bytes::from_static(packet::PINGREQ)),
                    Beat::Dead => return End::NoPong,
                },
                _ = sweep.tick(), if !self.waiting.is_empty() => {
                    self.waiting.retain(|_, waiting| !waiting.done.is_closed());
                }
            }
        }
    }

    /// Sends a call, or lays it to the others that are sent together.
    fn begin(&mut self, Call { msg, waiting }: Call) {
        if waiting.done.is_closed() {
            return;
        }
        let id = self.next_id;
        self.next_id += 1;
        self.waiting.insert(id, waiting);
        let entry = format!(r#"{{"id":{id},"msg":{msg}}}"#);
        let buffer = self.task.config.buffer;
        if buffer.is_zero() {
            return self.publish(&[entry.as_bytes()]);
        }
        if self.batch.is_empty() {
            self.batch_due = Instant::now() + buffer;
        } else {
            self.batch.push(b',');
        }
        self.batch.extend_from_slice(entry.as_bytes());
        if self.batch.len() >= LARGE_BATCH {
            self.send_batch();
        }
    }

    fn send_batch(&mut self) {
        let batch = std::mem::take(&mut self.batch);
        self.publish(&[b"[", &batch, b"]"]);
    }

    fn publish(&mut self, payload: &[&[u8]]) {
        let size = payload.iter().map(|part| part.len()).sum();
        self.writer
            .push(frame::alone(Topic::Rpc, size, |frame| payload.iter().fold(frame, |frame, part| frame.put(part))));
    }

    /// Ends the calls that a message answers. Answers that nobody waits for (any more) are dropped.
    fn take(&mut self, payload: &[u8]) {
        self.spoke = true;
        let (entries, odd) = message::read(payload);
        let mut unasked = 0;
        for entry in entries {
            let Some(waiting) = self.waiting.remove(&entry.id) else {
                unasked += 1;
                continue;
            };
            let answer = entry.response().ok_or_else(|| {
                RequestError::Refused(format!("{} answered the call without a list `resp`", self.task.id))
            });
            waiting.end(answer);
        }
        if odd + unasked > 0 {
            debug!(server = self.task.id, odd, unasked, "answers were dropped");
        }
    }
}

// === impl Waiting ===

impl Waiting {
    fn end(self, answer: Result<Response, RequestError>) {
        // Whoever waited may have given up in this moment.
        drop(self.done.send(answer));
    }

    fn fail(self, reason: &str) {
        self.end(Err(RequestError::Gone(reason.to_owned())));
    }
}
