//! The task that owns the connection of a client.
//!
//! ```text
//! logged in ──link breaks──▶ waiting for the next attempt ──▶ logging in ──▶ logged in
//!                                   ▲                            │
//!                                   └──unreachable, refused ◀────┘   what was asked meanwhile ends with this
//! ```

use std::time::Duration;

use bytes::Bytes;
use serde_json::value::RawValue;
use tokio::{
    sync::{broadcast, mpsc, oneshot},
    time::{Instant, sleep_until, timeout, timeout_at},
};

use super::{
    ClientError, Notification, Response,
    waiting::{Answer, Waiting},
};
use crate::{
    link::{
        Beat, Incoming, Keepalive, Link, LinkError, LinkWriter,
        backoff::{self, Backoff},
    },
    wire::{
        Topic,
        envelope::{self, Envelope},
        handshake::{self, ClientHello},
        packet,
    },
};

/// Bytes that may wait to be sent before nothing more is asked: the callers' deadlines run meanwhile.
const OUTBOX: usize = 1024 * 1024;

/// Requests that may wait for a login. One attempt ends all of them, so more are a sign of a loop.
const PARKED: usize = 1024;

/// What a handle wants of the task.
#[derive(Debug)]
pub(super) enum Ask {
    /// Send a message; `body` is JSON.
    Send { message: Message, body: String, answer: Answer },
    /// End the connection; the sender is dropped when that is done.
    Close(oneshot::Sender<()>),
}

/// What kind of message.
#[derive(Debug)]
pub(super) enum Message {
    Request { module: String },
    Command { name: String, module: Option<String> },
    Notify { module: String },
}

/// How a connection ended.
#[derive(Debug)]
enum End {
    /// On purpose.
    Closed,
    /// The link broke.
    Lost,
}

pub(super) struct Connection {
    master: String,
    hello: ClientHello,
    timeout: Duration,
    asks: mpsc::Receiver<Ask>,
    notifications: broadcast::Sender<Notification>,
    waiting: Waiting,
    /// What was asked while there was no link.
    parked: Vec<Ask>,
}

impl Connection {
    pub(super) fn new(
        master: String,
        hello: ClientHello,
        timeout: Duration,
        asks: mpsc::Receiver<Ask>,
        notifications: broadcast::Sender<Notification>,
    ) -> Connection {
        Connection { master, hello, timeout, asks, notifications, waiting: Waiting::new(), parked: Vec::new() }
    }

    /// Connects and registers, within the timeout.
    pub(super) async fn login(&self) -> Result<Link, ClientError> {
        let until = Instant::now() + self.timeout;
        let link = Link::open(&self.master, self.timeout).await;
        let link = link.map_err(|error| ClientError::of_link(&self.master, error))?;
        timeout_at(until, self.register(link)).await.unwrap_or(Err(ClientError::Timeout { after: self.timeout }))
    }

    async fn register(&self, mut link: Link) -> Result<Link, ClientError> {
        let unreachable = |error| ClientError::of_link(&self.master, error);
        link.send(handshake::client_hello(&self.hello)).await.map_err(unreachable)?;
        loop {
            match link.recv().await {
                Ok(Incoming::Publish { topic: Topic::Register, payload }) => match handshake::read_answer(&payload) {
                    Ok(Ok(())) => return Ok(link),
                    Ok(Err(text)) => return Err(ClientError::RefusedLogin { text }),
                    // The deadline ends this.
                    Err(envelope::NotAMessage) => {}
                },
                Ok(Incoming::Disconnect) | Err(LinkError::Closed) => return Err(ClientError::Disconnected),
                Ok(Incoming::Publish { .. } | Incoming::Pingreq | Incoming::Pingresp) => {}
                Err(error) => return Err(unreachable(error)),
            }
        }
    }

    /// Serves the handles until the last is gone, or one closes the connection.
    pub(super) async fn run(mut self, mut link: Link) {
        while let End::Lost = self.serve(link).await {
            self.waiting.end_all(&ClientError::Disconnected);
            match self.login_again().await {
                Some(new) => link = new,
                None => return,
            }
        }
    }

    async fn serve(&mut self, link: Link) -> End {
        let (mut reader, mut writer) = link.split();
        let mut keepalive = Keepalive::new(Instant::now());
        for ask in std::mem::take(&mut self.parked) {
            if let Some(done) = self.carry_out(ask, &mut writer) {
                return close(writer, self.timeout, Some(done)).await;
            }
        }
        loop {
            tokio::select! {
                incoming = reader.recv() => match incoming {
                    Ok(Incoming::Publish { topic: Topic::Client, payload }) => self.take(&payload),
                    Ok(Incoming::Publish { .. }) => {}
                    Ok(Incoming::Pingreq) => writer.push(Bytes::from_static(packet::PINGRESP)),
                    Ok(Incoming::Pingresp) => keepalive.answered(),
                    Ok(Incoming::Disconnect) => return self.lost("the master said good-bye"),
                    Err(error) => return self.lost(&error),
                },
                flushed = writer.flush(), if writer.pending() > 0 => if let Err(error) = flushed {
                    return self.lost(&error);
                },
                ask = self.asks.recv(), if writer.pending() < OUTBOX => match ask {
                    Some(ask) => if let Some(done) = self.carry_out(ask, &mut writer) {
                        return close(writer, self.timeout, Some(done)).await;
                    },
                    None => return close(writer, self.timeout, None).await,
                },
                () = sleep_until(keepalive.due()) => match keepalive.tick(Instant::now()) {
                    Beat::Wait => {}
                    Beat::Ping => writer.push(Bytes::from_static(packet::PINGREQ)),
                    Beat::Dead => return self.lost("the master does not answer pings"),
                },
            }
        }
    }

    fn lost(&self, reason: impl std::fmt::Display) -> End {
        tracing::debug!(master = self.master, %reason, "link lost");
        End::Lost
    }

    /// Queues a message; returns whom to tell when the connection is to be closed.
    fn carry_out(&mut self, ask: Ask, writer: &mut LinkWriter) -> Option<oneshot::Sender<()>> {
        let (message, body, answer) = match ask {
            Ask::Send { message, body, answer } => (message, body, answer),
            Ask::Close(done) => return Some(done),
        };
        if answer.is_closed() {
            return None;
        }
        let body = body.as_bytes();
        writer.push(match message {
            Message::Request { module } => {
                envelope::request(Topic::Client, self.waiting.add(answer), false, &module, body)
            }
            Message::Command { name, module } => {
                let id = self.waiting.add(answer);
                envelope::command(Topic::Client, Some(id), &name, module.as_deref(), body)
            }
            Message::Notify { module } => {
                // Checked above; a caller that gave up since does not mind.
                drop(answer.send(Ok(Response::default())));
                envelope::notify(Topic::Client, &module, body)
            }
        });
        None
    }

    fn take(&mut self, payload: &[u8]) {
        match envelope::read(payload, &mut String::new()) {
            Ok(Envelope::Response { id, error, body }) => {
                let response = Response { error: json(error), body: json(body) };
                if !self.waiting.answer(id, response) {
                    tracing::debug!(id, "answer that nobody waits for");
                }
            }
            // Without a reader it is dropped.
            Ok(Envelope::Notify { module, body }) => {
                drop(self.notifications.send(Notification { module: module.into_owned(), body: json(body) }));
            }
            Ok(Envelope::Request { .. } | Envelope::Command { .. }) => {
                tracing::debug!("the master asked this client something")
            }
            Err(envelope::NotAMessage) => tracing::debug!("payload is not a message"),
        }
    }

    /// Tries until it succeeds; `None` when nobody needs the connection any more.
    async fn login_again(&mut self) -> Option<Link> {
        let mut backoff = Backoff::new(backoff::FIRST, backoff::LONGEST);
        loop {
            let now = Instant::now();
            let mut next = now + backoff.wait();
            loop {
                tokio::select! {
                    () = sleep_until(next) => break,
                    ask = self.asks.recv() => match ask? {
                        Ask::Close(_) => return None,
                        ask if self.parked.len() < PARKED => {
                            self.parked.push(ask);
                            // Somebody waits: do not let them wait for a minute.
                            next = next.min(now + backoff::FIRST);
                        }
                        ask => ask.fail(&ClientError::Disconnected),
                    },
                }
            }
            match self.login().await {
                Ok(link) => return Some(link),
                Err(error) => {
                    tracing::debug!(master = self.master, %error, "cannot log in again");
                    self.parked.drain(..).for_each(|ask| ask.fail(&error));
                }
            }
        }
    }
}

impl Ask {
    fn fail(self, error: &ClientError) {
        match self {
            // Whoever asked may have stopped waiting.
            Ask::Send { answer, .. } => drop(answer.send(Err(error.clone()))),
            Ask::Close(_) => {}
        }
    }
}

/// Whoever waits for `done` learns it by the drop.
async fn close(writer: LinkWriter, within: Duration, _done: Option<oneshot::Sender<()>>) -> End {
    match timeout(within, writer.close()).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%error, "no good-bye"),
        Err(_) => tracing::debug!("no good-bye: the master does not read"),
    }
    End::Closed
}

fn json(text: &str) -> Option<Box<RawValue>> {
    // The envelope was read: what is inside is JSON.
    if text.is_empty() || text == "null" { None } else { RawValue::from_string(text.to_owned()).ok() }
}
