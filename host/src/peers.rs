//! Who is connected: the server that is served first under each id, its slaves, and the clients.
//!
//! One short lock around the tables. Whoever registers gets its answer *under* it, and events are posted under it, so
//! that nobody can be told of a peer, or write to it, before it was told that it is in.

mod due;
mod gather;
mod pending;

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use indexmap::IndexMap;
use muster_plugin_api::{Body, Event, RequestError, Server, ServerAddress};
use parking_lot::RwLock;
use serde_json::Value;

use self::due::Due;
pub(crate) use self::gather::Gather;
pub(crate) use self::pending::{Pending, Waiter};
use crate::{
    ids::{ClientId, ConnId, ServerId, ServerType},
    modules::call::{ClientIdentity, ServerIdentity},
    session::outbox::Outbox,
    wire::{Topic, envelope},
};

/// Outboxes that are fetched from memory at once: the processor waits for a dozen or so in parallel.
const FETCHED: usize = 32;

/// All peers of a master.
pub(crate) struct Peers {
    tables: RwLock<Tables>,
    /// One counter for all requests to monitors, as in the original.
    next_request: AtomicU64,
    /// Deadlines are told under the lock of the tables, and forgotten while nobody else holds it.
    due: Due,
    limits: Remembering,
    events: Box<dyn Fn(&Event) + Send + Sync>,
}

/// How long and how many requests are remembered.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Remembering {
    /// Time in which a server that left may come back and be asked again.
    pub(crate) window: Duration,
    /// Requests that may wait for the answer of one server.
    pub(crate) per_server: usize,
    /// The deadline of a request that has none of its own.
    pub(crate) deadline: Duration,
}

#[derive(Default)]
struct Tables {
    /// In order of registration, but that the last takes the place of one that left: what belongs to servers that came one
    /// after the other lies side by side in memory, in the kernel's as well, and all are written to in this order.
    ///
    /// Boxed, for a table is up to half empty.
    servers: IndexMap<ServerId, Box<Entry>>,
    clients: HashMap<ClientId, ClientPeer>,
}

/// All that is known under one server id.
struct Entry {
    primary: Option<Peer>,
    /// In order of registration.
    slaves: Vec<Peer>,
    pending: Arc<Pending>,
    /// When the last link was lost; from then on the entry is kept for the window in which it may come back.
    away_since: Option<Instant>,
}

#[derive(Clone)]
struct Peer {
    identity: Arc<ServerIdentity>,
    /// Kept as text: a tree of a dozen values would take most of what a server costs.
    info: Body,
    outbox: Arc<Outbox>,
}

struct ClientPeer {
    identity: Arc<ClientIdentity>,
    outbox: Arc<Outbox>,
}

/// A registered server, as its session holds it.
#[derive(Debug, Clone)]
pub(crate) struct Link {
    pub(crate) identity: Arc<ServerIdentity>,
    pub(crate) pending: Arc<Pending>,
}

/// A server that wants in.
pub(crate) struct Candidate {
    pub(crate) id: ServerId,
    pub(crate) server_type: ServerType,
    /// What it says of itself: an object.
    pub(crate) info: Body,
    pub(crate) conn: ConnId,
    pub(crate) outbox: Arc<Outbox>,
    /// The frame that tells it that it is in.
    pub(crate) welcome: Bytes,
}

/// Whom a message is for.
#[derive(Debug, Clone, Copy)]
pub(crate) enum To<'a> {
    /// The first server with this id.
    Id(&'a str),
    /// The one server with this id and address.
    Server(&'a ServerAddress),
    /// The slaves of this id.
    Slaves(&'a str),
    /// The first servers of this type.
    Type(&'a str),
    /// All first servers.
    All,
}

impl Peers {
    /// An empty table. `events` is called under its lock, so that events have the order of what they tell.
    pub(crate) fn new(limits: Remembering, events: Box<dyn Fn(&Event) + Send + Sync>) -> Peers {
        Peers { tables: RwLock::default(), next_request: AtomicU64::new(1), due: Due::new(), limits, events }
    }

    // === coming and going ===

    /// Lets a server in: as the first of its id, or as a slave.
    pub(crate) fn register(&self, candidate: Candidate) -> Link {
        let mut tables = self.tables.write();
        self.enter(&mut tables, candidate, false)
    }

    /// Lets a server in whose link had broken, if nobody is registered under its id.
    ///
    /// # Errors
    /// Gives the candidate back, with the outbox of the one who is registered.
    pub(crate) fn reconnect(&self, candidate: Candidate) -> Result<Link, Box<(Candidate, Arc<Outbox>)>> {
        let mut tables = self.tables.write();
        match tables.servers.get(&candidate.id).and_then(|entry| entry.primary.as_ref()) {
            Some(primary) => {
                let outbox = primary.outbox.clone();
                Err(Box::new((candidate, outbox)))
            }
            None => Ok(self.enter(&mut tables, candidate, true)),
        }
    }

    fn enter(&self, tables: &mut Tables, candidate: Candidate, again: bool) -> Link {
        let Candidate { id, server_type, info, conn, outbox, welcome } = candidate;
        let identity = Arc::new(ServerIdentity { id: id.clone(), server_type, incarnation: conn });
        let entry = tables.servers.entry(id).or_insert_with(|| {
            let pending = Arc::new(Pending::new(self.limits.per_server));
            Box::new(Entry { primary: None, slaves: Vec::new(), pending, away_since: None })
        });
        let peer = Peer { identity: identity.clone(), info, outbox: outbox.clone() };
        let link = Link { identity, pending: entry.pending.clone() };
        outbox.push(&welcome);
        let slave = entry.primary.is_some();
        let server = peer.describe(slave);
        if slave {
            entry.slaves.push(peer);
        } else {
            entry.primary = Some(peer);
            entry.away_since = None;
            outbox.push_all(&entry.pending.repeat(conn));
        }
        let event = if again { Event::ServerReconnected { server } } else { Event::ServerRegistered { server } };
        (self.events)(&event);
        link
    }

    /// Takes a server out; the oldest slave takes its place.
    pub(crate) fn leave(&self, link: &Link, now: Instant) {
        let identity = &link.identity;
        let mut tables = self.tables.write();
        let Some(entry) = tables.servers.get_mut(&identity.id) else { return };
        let is_it = |peer: &Peer| peer.identity.incarnation == identity.incarnation;
        let mut abandoned = Vec::new();
        if entry.primary.as_ref().is_some_and(is_it) {
            let Some(left) = entry.primary.take() else { return };
            (self.events)(&Event::ServerLeft { server: left.describe(false) });
            if !entry.slaves.is_empty() {
                // The original forgets its slaves here (Q14); real peers cannot tell that they are promoted.
                let promoted = entry.slaves.remove(0);
                promoted.outbox.push_all(&entry.pending.repeat(promoted.identity.incarnation));
                let server = promoted.describe(false);
                entry.primary = Some(promoted);
                (self.events)(&Event::ServerRegistered { server });
            } else if entry.pending.is_empty() {
                tables.servers.swap_remove(&identity.id);
            } else {
                entry.away_since = Some(now);
                self.due.at(now + self.limits.window);
            }
        } else if let Some(position) = entry.slaves.iter().position(is_it) {
            let left = entry.slaves.remove(position);
            abandoned = entry.pending.abandon(identity.incarnation);
            (self.events)(&Event::ServerLeft { server: left.describe(true) });
        }
        drop(tables);
        for waiter in abandoned {
            waiter.fail(gone(identity.id.as_str()));
        }
    }

    /// Lets a client in.
    ///
    /// # Errors
    /// When a client with this id is logged in.
    pub(crate) fn log_in(
        &self,
        identity: &Arc<ClientIdentity>,
        outbox: &Arc<Outbox>,
        welcome: Bytes,
    ) -> Result<(), ()> {
        let mut tables = self.tables.write();
        if tables.clients.contains_key(&identity.id) {
            return Err(());
        }
        outbox.push(&welcome);
        tables.clients.insert(identity.id.clone(), ClientPeer { identity: identity.clone(), outbox: outbox.clone() });
        Ok(())
    }

    /// Takes a client out.
    pub(crate) fn log_out(&self, identity: &ClientIdentity) {
        let mut tables = self.tables.write();
        if tables.clients.get(&identity.id).is_some_and(|peer| peer.identity.connection == identity.connection) {
            tables.clients.remove(&identity.id);
        }
    }

    // === messages ===

    /// Sends a request to one server; `waiter` gets its end.
    pub(crate) fn request(&self, to: To<'_>, module: &str, body: &[u8], deadline: Instant, waiter: Waiter) {
        let id = self.next_request.fetch_add(1, Ordering::Relaxed);
        let tables = self.tables.read();
        let (name, found) = match to {
            To::Id(name) => (name, tables.servers.get(name).and_then(|entry| Some((entry.primary.as_ref()?, entry)))),
            To::Server(address) => {
                let entry = tables.servers.get(address.id.as_str());
                (&*address.id, entry.and_then(|entry| Some((entry.all().find(|peer| peer.is_at(address))?, entry))))
            }
            To::Slaves(name) | To::Type(name) => (name, None),
            To::All => ("", None),
        };
        // Unlike the original (Q10), a request that fails at once is not remembered.
        let Some((peer, entry)) = found else {
            drop(tables);
            return waiter.fail(RequestError::UnknownServer(name.to_owned()));
        };
        let frame = envelope::request(Topic::Monitor, id, false, module, body);
        let sent = entry.pending.send(id, peer.identity.incarnation, frame, deadline, waiter, &peer.outbox);
        self.due.at(deadline);
        if let Err(waiter) = sent {
            drop(tables);
            waiter.fail(RequestError::Busy(format!("too many requests wait for {name} already")));
        }
    }

    /// Sends one frame to all that are meant: it is encoded once. Returns how many there were.
    pub(crate) fn send(&self, to: To<'_>, frame: &Bytes) -> usize {
        let tables = self.tables.read();
        let push = |peer: &Peer| usize::from(peer.outbox.push(frame));
        match to {
            To::Id(id) => tables.servers.get(id).and_then(|entry| entry.primary.as_ref()).map_or(0, push),
            To::Server(address) => tables
                .servers
                .get(address.id.as_str())
                .and_then(|entry| entry.all().find(|peer| peer.is_at(address)))
                .map_or(0, push),
            To::Slaves(id) => tables.servers.get(id).map_or(0, |entry| entry.slaves.iter().map(push).sum()),
            To::Type(server_type) => {
                send_all(tables.primaries().filter(|peer| peer.identity.server_type.as_str() == server_type), frame)
            }
            To::All => send_all(tables.primaries(), frame),
        }
    }

    /// Sends a frame to a client; false if there is none with this id.
    pub(crate) fn send_to_client(&self, id: &str, frame: Bytes) -> bool {
        self.tables.read().clients.get(id).is_some_and(|peer| peer.outbox.push(&frame))
    }

    /// Drops the requests to `module` that wait for an answer of the server `id`.
    pub(crate) fn forget(&self, id: &str, module: &str) {
        let forgotten = match self.tables.read().servers.get(id) {
            Some(entry) => entry.pending.forget(module),
            None => return,
        };
        for waiter in forgotten {
            waiter.fail(RequestError::Gone(format!("what was asked of {id} is outdated")));
        }
    }

    /// Ends what is overdue: requests past their deadline, and those to servers that did not come back in time.
    pub(crate) fn expire(&self, now: Instant) {
        if !self.due.is_due(now) {
            return;
        }
        {
            let _nobody_asks = self.tables.write();
            self.due.forget();
        }
        let mut ended = Vec::new();
        let mut abandoned = Vec::new();
        for (id, entry) in &self.tables.read().servers {
            // Whatever it remembered may have ended in another way by now; it goes all the same.
            match entry.away_since.map(|since| since + self.limits.window) {
                Some(end) if end <= now => abandoned.push(id.clone()),
                Some(end) => self.due.at(end),
                None => {}
            }
            if entry.pending.is_empty() {
                continue;
            }
            for waiter in entry.pending.overdue(now) {
                ended.push((waiter, RequestError::Timeout(format!("{id} did not answer in time"))));
            }
            if let Some(deadline) = entry.pending.earliest() {
                self.due.at(deadline);
            }
        }
        for id in abandoned {
            let mut tables = self.tables.write();
            // It may be back by now.
            if tables.servers.get(&id).is_some_and(|entry| entry.primary.is_none())
                && let Some(entry) = tables.servers.swap_remove(&id)
            {
                ended.extend(entry.pending.all().into_iter().map(|waiter| (waiter, gone(id.as_str()))));
            }
        }
        for (waiter, error) in ended {
            waiter.fail(error);
        }
    }

    // === looking ===

    /// The ids of all first servers, by age.
    pub(crate) fn ids(&self) -> Vec<ServerId> {
        let tables = self.tables.read();
        let mut ids: Vec<_> = tables.primaries().map(|peer| (peer.identity.incarnation, &peer.identity.id)).collect();
        ids.sort_unstable();
        ids.into_iter().map(|(_, id)| id.clone()).collect()
    }

    /// All servers, slaves included, by age.
    pub(crate) fn servers(&self) -> Vec<Server> {
        let tables = self.tables.read();
        let mut servers: Vec<Server> = tables
            .servers
            .values()
            .flat_map(|entry| {
                let slaves = entry.slaves.iter().map(|peer| peer.describe(true));
                entry.primary.iter().map(|peer| peer.describe(false)).chain(slaves)
            })
            .collect();
        servers.sort_unstable_by_key(|server| server.incarnation);
        servers
    }

    /// How many servers and clients are connected.
    pub(crate) fn counts(&self) -> (usize, usize) {
        let tables = self.tables.read();
        (tables.servers.values().map(|entry| entry.all().count()).sum(), tables.clients.len())
    }

    /// The deadline of a request that asks for `timeout`, or for none of its own.
    pub(crate) fn deadline(&self, timeout: Option<Duration>) -> Instant {
        Instant::now() + timeout.unwrap_or(self.limits.deadline)
    }
}

impl Tables {
    fn primaries(&self) -> impl Iterator<Item = &Peer> {
        self.servers.values().filter_map(|entry| entry.primary.as_ref())
    }
}

impl Entry {
    fn all(&self) -> impl Iterator<Item = &Peer> {
        self.primary.iter().chain(&self.slaves)
    }
}

impl Peer {
    fn describe(&self, slave: bool) -> Server {
        Server {
            id: self.identity.id.as_str().to_owned(),
            server_type: self.identity.server_type.as_str().to_owned(),
            info: self.info.clone(),
            incarnation: self.identity.incarnation.0,
            slave,
        }
    }

    fn is_at(&self, address: &ServerAddress) -> bool {
        let info: Value = self.info.parse().unwrap_or_default();
        info.get("host").and_then(Value::as_str) == Some(&address.host)
            && info.get("port").and_then(Value::as_u64) == address.port.map(u64::from)
    }
}

impl std::fmt::Debug for Peers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (servers, clients) = self.counts();
        f.debug_struct("Peers").field("servers", &servers).field("clients", &clients).finish_non_exhaustive()
    }
}

fn send_all<'p>(peers: impl Iterator<Item = &'p Peer>, frame: &Bytes) -> usize {
    let outboxes: Vec<&Arc<Outbox>> = peers.map(|peer| &peer.outbox).collect();
    let mut sent = 0;
    for some in outboxes.chunks(FETCHED) {
        some.iter().for_each(|outbox| outbox.fetch());
        sent += some.iter().filter(|outbox| outbox.push(frame)).count();
    }
    sent
}

fn gone(id: &str) -> RequestError {
    RequestError::Gone(format!("{id} left before it answered"))
}

#[cfg(test)]
mod tests;
