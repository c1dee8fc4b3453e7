//! The hot paths, for `host/benches` alone: what each message passes on its way, without sockets and plugins.

use std::{
    fmt,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use muster_plugin_api::{Manifest, Role, abi::status};

use crate::{
    ids::ConnId,
    modules::{
        Modules, Offer,
        call::{Call, ClientIdentity, Responder, Source},
        calls::Calls,
        mailbox::{Mailbox, Post},
    },
    peers::{Candidate, Peers, Remembering, To},
    session::{Reply, outbox::Outbox},
    wire::{
        Topic,
        envelope::{self, Envelope, ReqId},
        packet::{self, Packet},
    },
};

/// More than any bench queues.
const ROOM: usize = 1 << 30;

/// How many packets there are in these bytes.
pub fn packets(mut bytes: &[u8]) -> usize {
    let mut count = 0;
    while let Ok(Some((_, used))) = packet::decode(bytes, packet::MAX_REMAINING) {
        bytes = &bytes[used..];
        count += 1;
    }
    count
}

/// The payload of the packet at the front; empty if it has none.
pub fn payload(frame: &[u8]) -> &[u8] {
    match packet::decode(frame, packet::MAX_REMAINING) {
        Ok(Some((Packet::Publish { payload, .. }, _))) => payload,
        _ => &[],
    }
}

/// Reads a payload, and tells how long its body is; 0 for what is no request and no notify.
pub fn read(payload: &[u8], scratch: &mut String) -> usize {
    match envelope::read(payload, scratch) {
        Ok(Envelope::Request { body, .. } | Envelope::Notify { body, .. }) => body.len(),
        _ => 0,
    }
}

/// A client's request.
pub fn request(id: u64, module: &str, body: &str) -> Bytes {
    envelope::request(Topic::Client, id, false, module, body.as_bytes())
}

/// A monitor's notify.
pub fn notify(module: &str, body: &str) -> Bytes {
    envelope::notify(Topic::Monitor, module, body.as_bytes())
}

/// Appends the answer to a client's request.
pub fn answer(out: &mut Vec<u8>, id: u64, body: &str) {
    envelope::response(out, Topic::Client, &ReqId::Number(id), b"null", body.as_bytes());
}

/// One module behind its mailbox, and a client that asks it.
pub struct Asked {
    modules: Modules,
    mailbox: Arc<Mailbox>,
    client: Source,
    outbox: Arc<Outbox>,
}

impl Asked {
    /// The module `echo`, which nobody serves unless [`serve`](Asked::serve) is called.
    pub fn new() -> Asked {
        let modules = Modules::new(&[], Duration::from_secs(15));
        let mailbox = Arc::new(Mailbox::new(Arc::new(Calls::new(Arc::new([])))));
        let served = vec![(1, Role::Master, Arc::new(Manifest::new("echo", "1.0.0")), None)];
        // Nobody else owns the id.
        drop(modules.install(Offer { owner: "echo.so".into(), place: 0, mailbox: mailbox.clone(), modules: served }));
        let client = ClientIdentity {
            connection: ConnId(1),
            address: ([127, 0, 0, 1], 1).into(),
            id: "c-1".into(),
            user: "admin".to_owned(),
            level: 1,
        };
        Asked {
            modules,
            mailbox,
            client: Source::Client(Arc::new(client)),
            outbox: Arc::new(Outbox::without_socket(ROOM)),
        }
    }

    /// Routes a request to the module; false if it was refused.
    pub fn ask(&self, id: u64, body: &str) -> bool {
        let reply = Reply::new(self.outbox.clone(), Topic::Client, ReqId::Number(id));
        let call = Call {
            source: self.client.clone(),
            body: Bytes::copy_from_slice(body.as_bytes()),
            arrived: Instant::now(),
            patience_ms: None,
            responder: Some(Responder::Session(reply)),
        };
        self.modules.route(Role::Master, "echo", call, |_| Ok(())).is_ok()
    }

    /// Takes what waits for the module, and answers each with its own body.
    pub fn serve(&self) -> bool {
        let mut batch = Vec::new();
        let open = self.mailbox.take(&mut batch);
        for post in batch {
            if let Post::Call { id, call, .. } = post {
                self.mailbox.calls().end(id, status::ANSWER, b"null", &call.body);
            }
        }
        open
    }

    /// Takes the bytes of all answers so far.
    pub fn answers(&self) -> usize {
        taken(&self.outbox)
    }

    /// Waits until there are answers.
    pub async fn answered(&self) {
        self.outbox.changed().await;
    }

    /// Sends whoever serves the module away.
    pub fn close(&self) {
        self.mailbox.close();
    }
}

impl Default for Asked {
    fn default() -> Asked {
        Asked::new()
    }
}

impl fmt::Debug for Asked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Asked").finish_non_exhaustive()
    }
}

/// A fleet of registered servers.
pub struct Fleet {
    peers: Peers,
    outboxes: Vec<Arc<Outbox>>,
}

impl Fleet {
    /// So many servers, registered one after the other.
    pub fn new(servers: usize) -> Fleet {
        let second = Duration::from_secs(1);
        let limits = Remembering { window: second, per_server: 1, deadline: second };
        let peers = Peers::new(limits, Box::new(|_| {}));
        let outboxes: Vec<_> = (0..servers).map(|_| Arc::new(Outbox::without_socket(ROOM))).collect();
        for (number, outbox) in outboxes.iter().enumerate() {
            let id = format!("connector-server-{number}");
            let info = serde_json::json!({ "id": id, "host": "127.0.0.1", "port": number });
            peers.register(Candidate {
                id: id.into(),
                server_type: "connector".into(),
                info: info.into(),
                conn: ConnId(number as u64),
                outbox: outbox.clone(),
                welcome: Bytes::from_static(b"welcome"),
            });
        }
        Fleet { peers, outboxes }
    }

    /// Notifies all of them; says how many there were.
    pub fn notify(&self, module: &str, body: &str) -> usize {
        self.peers.send(To::All, &notify(module, body))
    }

    /// Takes the bytes that all of them would have got.
    pub fn taken(&self) -> usize {
        self.outboxes.iter().map(taken).sum()
    }
}

impl fmt::Debug for Fleet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Fleet").finish_non_exhaustive()
    }
}

fn taken(outbox: &Arc<Outbox>) -> usize {
    let mut frames = std::collections::VecDeque::new();
    outbox.take(&mut frames);
    frames.iter().map(Bytes::len).sum()
}
