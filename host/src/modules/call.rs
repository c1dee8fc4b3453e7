//! One message on its way to a module, and the one who waits for its end.

use std::{borrow::Cow, net::SocketAddr, sync::Arc, time::Instant};

use bytes::Bytes;
use tokio::sync::oneshot;

use crate::{
    ids::{ClientId, ConnId, ServerId, ServerType},
    monitor::Begun,
    session::Reply,
    wire,
};

/// A message for a module. Who may send it was decided before.
#[derive(Debug)]
pub(crate) struct Call {
    /// Who sent it.
    pub(crate) source: Source,
    /// Its body: JSON text, checked to be JSON by whoever made the call; empty for absent.
    pub(crate) body: Bytes,
    /// When it came; its deadline counts from there.
    pub(crate) arrived: Instant,
    /// How long the one who waits may have to, in milliseconds; `None`: as its module says.
    pub(crate) patience_ms: Option<u32>,
    /// Who waits; nobody for notifies and ticks.
    pub(crate) responder: Option<Responder>,
}

/// Who sent a call: what the connection knows, nothing from the message.
#[derive(Debug, Clone)]
pub(crate) enum Source {
    /// A monitor; in a monitor, the master.
    Server(Arc<ServerIdentity>),
    /// A client.
    Client(Arc<ClientIdentity>),
}

/// A registered server.
#[derive(Debug)]
pub(crate) struct ServerIdentity {
    pub(crate) id: ServerId,
    pub(crate) server_type: ServerType,
    pub(crate) incarnation: ConnId,
}

/// A logged-in client.
#[derive(Debug)]
pub(crate) struct ClientIdentity {
    pub(crate) connection: ConnId,
    /// Where it is connected from.
    pub(crate) address: SocketAddr,
    pub(crate) id: ClientId,
    pub(crate) user: String,
    /// The level of the user; 0 stands for none.
    pub(crate) level: u32,
}

/// The one who waits for the end of a call. Used up by its one end.
#[derive(Debug)]
#[must_use = "somebody waits for the end of this call"]
pub(crate) enum Responder {
    /// A peer of this daemon.
    Session(Reply),
    /// The master of this monitor, which may ask again. Boxed, so that no other call is larger for it.
    Repeatable(Box<Begun>),
    /// Somebody in this process: a test, or a bench.
    Channel(oneshot::Sender<OwnedOutcome>),
}

/// How a call ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome<'a> {
    /// The module answered: JSON texts, empty for absent fields.
    Answer { error: &'a [u8], body: &'a [u8] },
    /// The module has no handler for it.
    NoSuchHandler { module: &'a str, handler: &'static str },
    /// The handler panicked, was cut off, or its library is gone: what to tell the caller.
    Failed(&'a str),
}

/// An [`Outcome`] that travels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum OwnedOutcome {
    /// See [`Outcome::Answer`].
    Answer { error: Bytes, body: Bytes },
    /// See [`Outcome::NoSuchHandler`]: the original's text.
    NoSuchHandler(String),
    /// See [`Outcome::Failed`].
    Failed(String),
}

impl Responder {
    /// Ends the call.
    pub(crate) fn end(self, outcome: Outcome<'_>) {
        match self {
            Responder::Session(reply) => reply.end(outcome),
            Responder::Repeatable(begun) => begun.end(outcome),
            Responder::Channel(sender) => drop(sender.send(outcome.into())),
        }
    }
}

impl<'a> Outcome<'a> {
    /// What a peer is told: error and body as JSON texts, empty for absent fields.
    pub(crate) fn texts(self) -> (Cow<'a, [u8]>, &'a [u8]) {
        match self {
            Outcome::Answer { error, body } => (error.into(), body),
            Outcome::NoSuchHandler { module, handler } => {
                (wire::json_text(&wire::no_such_handler(module, handler)).into_bytes().into(), b"")
            }
            Outcome::Failed(text) => (wire::error_object(text).into_bytes().into(), b""),
        }
    }
}

impl From<Outcome<'_>> for OwnedOutcome {
    fn from(outcome: Outcome<'_>) -> OwnedOutcome {
        match outcome {
            Outcome::Answer { error, body } => {
                OwnedOutcome::Answer { error: Bytes::copy_from_slice(error), body: Bytes::copy_from_slice(body) }
            }
            Outcome::NoSuchHandler { module, handler } => {
                OwnedOutcome::NoSuchHandler(wire::no_such_handler(module, handler))
            }
            Outcome::Failed(text) => OwnedOutcome::Failed(text.to_owned()),
        }
    }
}
