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
    /// Boxed, for a table is up to half empty.
    servers: HashMap<ServerId, Box<Entry>>,
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
                tables.servers.remove(&identity.id);
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
                && let Some(entry) = tables.servers.remove(&id)
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
mod tests {
    use std::collections::VecDeque;

    use parking_lot::Mutex;
    use serde_json::json;

    use super::*;
    use crate::{
        modules::{calls::Calls, mailbox::Mailbox, services::Asker},
        session::outbox::Order,
    };

    /// Peers, and what their modules were told.
    struct Stage {
        peers: Peers,
        told: Arc<Mutex<Vec<String>>>,
    }

    struct Member {
        link: Link,
        outbox: Arc<Outbox>,
    }

    impl Stage {
        fn new() -> Stage {
            let told = Arc::new(Mutex::new(Vec::new()));
            let limits =
                Remembering { window: Duration::from_secs(10), per_server: 2, deadline: Duration::from_secs(15) };
            let events = {
                let told = told.clone();
                move |event: &Event| {
                    let (what, server) = match event {
                        Event::ServerRegistered { server } => ("registered", server),
                        Event::ServerReconnected { server } => ("reconnected", server),
                        Event::ServerLeft { server } => ("left", server),
                        other => panic!("not of peers: {other:?}"),
                    };
                    let slave = if server.slave { " as a slave" } else { "" };
                    told.lock().push(format!("{} {what}{slave} as {}", server.id, server.incarnation));
                }
            };
            Stage { peers: Peers::new(limits, Box::new(events)), told }
        }

        fn candidate(id: &str, conn: u64, port: u16) -> Candidate {
            let info = json!({ "id": id, "host": "10.0.0.1", "port": port });
            Candidate {
                id: id.into(),
                server_type: id.split('-').next().unwrap().into(),
                info: info.into(),
                conn: ConnId(conn),
                outbox: Arc::new(Outbox::without_socket(1000)),
                welcome: Bytes::from_static(b"welcome,"),
            }
        }

        fn register(&self, id: &str, conn: u64) -> Member {
            let candidate = Stage::candidate(id, conn, conn as u16);
            let outbox = candidate.outbox.clone();
            Member { link: self.peers.register(candidate), outbox }
        }

        fn send(&self, to: To<'_>) -> usize {
            self.peers.send(to, &Bytes::from_static(b"x,"))
        }

        /// Asks a server that will not answer, with `deadline` from now.
        fn ask(&self, id: &str, deadline: Duration) {
            let mailbox = Arc::new(Mailbox::new(Arc::new(Calls::new(Vec::new().into()))));
            let waiter = Waiter::Module(Asker { mailbox, instance: 0, id: 1 });
            self.peers.request(To::Id(id), "m", b"{}", Instant::now() + deadline, waiter);
        }

        /// How many ids there is an entry for.
        fn entries(&self) -> usize {
            self.peers.tables.read().servers.len()
        }

        fn told(&self) -> Vec<String> {
            std::mem::take(&mut self.told.lock())
        }
    }

    impl Member {
        /// What was sent to it since the last look.
        fn got(&self) -> String {
            let mut frames = VecDeque::new();
            assert_eq!(self.outbox.take(&mut frames), Order::GoOn);
            let sent: Vec<u8> = frames.into_iter().flatten().collect();
            String::from_utf8_lossy(&sent).trim_end_matches(',').to_owned()
        }
    }

    #[test]
    fn a_second_server_with_an_id_becomes_a_slave_and_is_promoted_when_the_first_leaves() {
        let stage = Stage::new();
        let (first, second, third) =
            (stage.register("chat-1", 1), stage.register("chat-1", 2), stage.register("chat-1", 3));
        assert_eq!((stage.send(To::All), stage.send(To::Slaves("chat-1")), stage.send(To::Id("chat-1"))), (1, 2, 1));
        assert_eq!((first.got(), second.got()), ("welcome,x,x".into(), "welcome,x".into()));
        stage.told();
        stage.peers.leave(&first.link, Instant::now());
        assert_eq!(stage.told(), ["chat-1 left as 1", "chat-1 registered as 2"]);
        assert_eq!((stage.send(To::Id("chat-1")), second.got(), third.got()), (1, "x".into(), "welcome,x".into()));
        stage.peers.leave(&third.link, Instant::now());
        assert_eq!(stage.told(), ["chat-1 left as a slave as 3"]);
        stage.peers.leave(&second.link, Instant::now());
        assert_eq!((stage.send(To::Id("chat-1")), stage.peers.counts()), (0, (0, 0)));
    }

    #[test]
    fn a_late_leave_of_an_old_connection_does_not_take_out_its_successor() {
        let stage = Stage::new();
        let old = stage.register("chat-1", 1);
        stage.peers.leave(&old.link, Instant::now());
        let new = stage.register("chat-1", 2);
        stage.peers.leave(&old.link, Instant::now());
        assert_eq!(stage.send(To::Id("chat-1")), 1);
        assert_eq!(new.got(), "welcome,x");
    }

    #[test]
    fn an_id_that_does_not_come_back_is_forgotten_however_its_requests_ended() {
        let stage = Stage::new();
        let now = Instant::now();
        let (none, answered, overdue, dropped) =
            (stage.register("a-1", 1), stage.register("b-1", 2), stage.register("c-1", 3), stage.register("d-1", 4));
        stage.ask("b-1", Duration::from_secs(60));
        stage.ask("c-1", Duration::from_secs(1));
        stage.ask("d-1", Duration::from_secs(60));
        for member in [&none, &answered, &overdue, &dropped] {
            stage.peers.leave(&member.link, now);
        }
        assert_eq!(stage.entries(), 3, "nothing was asked of the first");
        stage.peers.forget("d-1", "m");
        stage.peers.expire(now + Duration::from_secs(5));
        assert_eq!(stage.entries(), 3, "each may still come back");
        stage.peers.expire(now + Duration::from_secs(11));
        assert_eq!(stage.entries(), 0);
    }

    #[test]
    fn each_request_ends_at_its_own_deadline() {
        let stage = Stage::new();
        let now = Instant::now();
        let (soon, late) = (stage.register("a-1", 1), stage.register("b-1", 2));
        stage.ask("a-1", Duration::from_secs(1));
        stage.ask("b-1", Duration::from_secs(60));
        for (after, waiting) in [(0, [true, true]), (2, [false, true]), (59, [false, true]), (61, [false, false])] {
            stage.peers.expire(now + Duration::from_secs(after));
            assert_eq!([&soon, &late].map(|member| !member.link.pending.is_empty()), waiting, "after {after} s");
        }
    }

    #[test]
    fn a_reconnect_never_makes_a_slave() {
        let stage = Stage::new();
        let first = stage.register("chat-1", 1);
        let (back, outbox) = *stage.peers.reconnect(Stage::candidate("chat-1", 2, 2)).unwrap_err();
        assert!(Arc::ptr_eq(&outbox, &first.outbox));
        stage.peers.leave(&first.link, Instant::now());
        assert!(stage.peers.reconnect(back).is_ok());
        assert_eq!(stage.told().last().unwrap(), "chat-1 reconnected as 2");
    }

    #[test]
    fn a_server_is_found_by_type_and_by_address() {
        let stage = Stage::new();
        let (_first, slave, _other) =
            (stage.register("chat-1", 1), stage.register("chat-1", 2), stage.register("gate-1", 3));
        assert_eq!((stage.send(To::Type("chat")), stage.send(To::Type("gate")), stage.send(To::Type("x"))), (1, 1, 0));
        let at = |port| ServerAddress { id: "chat-1".into(), host: "10.0.0.1".into(), port: Some(port) };
        assert_eq!((stage.send(To::Server(&at(2))), stage.send(To::Server(&at(9)))), (1, 0));
        assert_eq!(slave.got(), "welcome,x");
        assert_eq!(stage.peers.ids(), ["chat-1".into(), "gate-1".into()]);
    }

    #[test]
    fn a_client_id_is_taken_once() {
        let stage = Stage::new();
        let log_in = |conn| {
            let client = Arc::new(ClientIdentity {
                connection: ConnId(conn),
                address: ([127, 0, 0, 1], 1).into(),
                id: "c".into(),
                user: "u".into(),
                level: 1,
            });
            let entered = stage.peers.log_in(&client, &Arc::new(Outbox::without_socket(100)), Bytes::new());
            (client, entered)
        };
        let (first, entered) = log_in(1);
        assert!(entered.is_ok());
        let (second, refused) = log_in(2);
        assert!(refused.is_err());
        stage.peers.log_out(&second);
        assert!(stage.peers.send_to_client("c", Bytes::from_static(b"x")), "the first is not disturbed");
        stage.peers.log_out(&first);
        assert!(log_in(3).1.is_ok());
    }
}
