use std::{
    collections::VecDeque,
    task::{Context, Wake},
};

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
        let limits = Remembering { window: Duration::from_secs(10), per_server: 2, deadline: Duration::from_secs(15) };
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

/// Notes whose session was woken.
struct Woken {
    conn: u64,
    order: Arc<Mutex<Vec<u64>>>,
}

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.order.lock().push(self.conn);
    }
}

#[test]
fn all_are_written_to_in_the_order_in_which_they_came() {
    let (stage, order) = (Stage::new(), Arc::new(Mutex::new(Vec::new())));
    let members: Vec<Member> = (1..=100)
        .map(|conn| stage.register(&format!("{}-{conn}", ["chat", "gate"][conn as usize % 2]), conn))
        .collect();
    for (conn, member) in (1..).zip(&members) {
        let waker = Arc::new(Woken { conn, order: order.clone() }).into();
        assert_eq!(member.got(), "welcome");
        while member.outbox.poll_changed(&mut Context::from_waker(&waker)).is_ready() {}
    }
    stage.send(To::All);
    assert_eq!(*order.lock(), Vec::from_iter(1..=100));
}
