//! Deciding who a connection is.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use serde_json::Value;
use tracing::{info, warn};

use super::{Identity, Master};
use crate::{
    auth::{Trust, Verdict},
    ids::ConnId,
    modules::call::ClientIdentity,
    peers::Candidate,
    session::outbox::Outbox,
    wire::{
        Topic,
        handshake::{self, ClientHello, Hello, MonitorHello},
        packet,
    },
};

/// What to do when a password is kept in a form that the login cannot be compared with.
const OTHER_FORM: &str = "client auth failed: this user's password is kept as a hash of the password itself, with which its \
                          md5 cannot be compared; log in with md5:false, or have the password set by `muster user passwd`";

/// How long an old link is watched for a sign that it is dead, before its successor is refused.
const PROBE: Duration = Duration::from_secs(3);

/// The verdict on a `register` or `reconnect`. Its text was sent already.
#[derive(Debug)]
pub(crate) enum Admission {
    /// The message says nothing, as the original sees it.
    Ignored,
    /// It is in.
    Registered(Identity),
    /// It may not come in as long as another link holds its id.
    NotNow,
    /// It may not come in: the connection ends.
    Refused(String),
}

impl Master {
    /// Decides who a connection is, and answers it.
    pub(crate) async fn admit(
        &self,
        hello: Hello,
        topic: Topic,
        conn: ConnId,
        address: SocketAddr,
        outbox: &Arc<Outbox>,
    ) -> Admission {
        match (topic, hello) {
            (_, Hello::Nothing) => Admission::Ignored,
            (Topic::Register, Hello::Monitor(hello)) => self.register(hello, conn, address, outbox).await,
            (Topic::Register, Hello::Client(hello)) => self.log_in(hello, conn, address, outbox).await,
            (Topic::Reconnect, Hello::Monitor(hello)) => self.reconnect(hello, conn, address, outbox).await,
            // In the original, one `reconnect` makes an admin of anybody.
            (Topic::Reconnect, Hello::Client(_)) => {
                warn!(%conn, %address, "a client tried to come in by reconnect");
                refuse(outbox, Topic::ReconnectOk, "client should auth with username")
            }
            (Topic::Reconnect, Hello::UnknownType) => refuse(outbox, Topic::ReconnectOk, "unknown auth master type"),
            (_, Hello::UnknownType) => refuse(outbox, Topic::Register, "unknown auth master type"),
            // Only these two topics lead here.
            (_, Hello::Monitor(_) | Hello::Client(_)) => Admission::Ignored,
        }
    }

    async fn register(
        &self,
        hello: MonitorHello,
        conn: ConnId,
        address: SocketAddr,
        outbox: &Arc<Outbox>,
    ) -> Admission {
        match self.auth.register(&hello, address.ip()) {
            Trust::Refused => {
                warn!(%conn, %address, id = hello.id, server_type = hello.server_type, "server refused: wrong token");
                return refuse(outbox, Topic::Register, "server auth failed");
            }
            Trust::Token => self.store.remember(&hello.id, &hello.server_type).await,
            Trust::Tolerated => {}
        }
        info!(%conn, %address, id = hello.id, server_type = hello.server_type, "server registered");
        let link = self.peers.register(candidate(hello, conn, outbox, Topic::Register));
        Admission::Registered(Identity::Monitor(link))
    }

    async fn reconnect(
        &self,
        hello: MonitorHello,
        conn: ConnId,
        address: SocketAddr,
        outbox: &Arc<Outbox>,
    ) -> Admission {
        let known = || self.store.is_known(&hello.id, &hello.server_type);
        match self.auth.reconnect(&hello, address.ip(), known) {
            Trust::Refused => {
                warn!(
                    %conn, %address, id = hello.id, server_type = hello.server_type,
                    "reconnect refused: this id has never shown a valid token here (auth.reconnect = \"known\")"
                );
                return refuse(outbox, Topic::ReconnectOk, "server auth failed");
            }
            Trust::Token => self.store.remember(&hello.id, &hello.server_type).await,
            Trust::Tolerated => {}
        }
        let id = hello.id.clone();
        let first = candidate(hello, conn, outbox, Topic::ReconnectOk);
        let second = match self.peers.reconnect(first) {
            Ok(link) => return came_back(link, conn, address),
            Err(taken) => {
                let (candidate, old) = *taken;
                // The old link may be half-open. Real peers take a PINGRESP at any time; a dead one resets, or never
                // acknowledges it, in which case the kernel gives up on it.
                old.push(&Bytes::from_static(packet::PINGRESP));
                drop(tokio::time::timeout(PROBE, old.closed()).await);
                candidate
            }
        };
        match self.peers.reconnect(second) {
            Ok(link) => came_back(link, conn, address),
            Err(_) => {
                let text = format!("id has been registered. id:{id}");
                outbox.push(&handshake::answer(Topic::ReconnectOk, Err(&text)));
                Admission::NotNow
            }
        }
    }

    async fn log_in(&self, hello: ClientHello, conn: ConnId, address: SocketAddr, outbox: &Arc<Outbox>) -> Admission {
        if hello.id.is_empty() {
            // The original says nothing but DISCONNECT.
            return Admission::Refused("a client without an id".into());
        }
        if hello.username.is_empty() {
            return refuse(outbox, Topic::Register, "client should auth with username");
        }
        tokio::time::sleep(self.auth.attempt(address.ip(), &hello.username, Instant::now())).await;
        let level = match self.auth.log_in(&hello).await {
            Verdict::In(level) => level,
            Verdict::Wrong => {
                warn!(%conn, %address, user = hello.username, "login refused: wrong user or password");
                return refuse(outbox, Topic::Register, "client auth failed with username or password error");
            }
            Verdict::OtherForm => {
                warn!(%conn, %address, user = hello.username, "login refused: an MD5 for a hash of the password itself");
                return refuse(outbox, Topic::Register, OTHER_FORM);
            }
        };
        self.auth.succeeded(address.ip(), &hello.username);
        let ClientHello { id, username: user, .. } = hello;
        let text = format!("id has been registered. id:{id}");
        let identity = Arc::new(ClientIdentity { connection: conn, address, id: id.into(), user, level });
        match self.peers.log_in(&identity, outbox, handshake::answer(Topic::Register, Ok(()))) {
            Ok(()) => {
                info!(%conn, %address, client = %identity.id, user = identity.user, level, "client logged in");
                Admission::Registered(Identity::Client(identity))
            }
            Err(()) => refuse(outbox, Topic::Register, &text),
        }
    }
}

fn came_back(link: crate::peers::Link, conn: ConnId, address: SocketAddr) -> Admission {
    info!(%conn, %address, id = %link.identity.id, server_type = %link.identity.server_type, "server reconnected");
    Admission::Registered(Identity::Monitor(link))
}

fn candidate(hello: MonitorHello, conn: ConnId, outbox: &Arc<Outbox>, answer: Topic) -> Candidate {
    let MonitorHello { id, server_type, info, token: _ } = hello;
    Candidate {
        id: id.into(),
        server_type: server_type.into(),
        info: Value::Object(info).into(),
        conn,
        outbox: outbox.clone(),
        welcome: handshake::answer(answer, Ok(())),
    }
}

fn refuse(outbox: &Arc<Outbox>, topic: Topic, text: &str) -> Admission {
    outbox.push(&handshake::answer(topic, Err(text)));
    Admission::Refused(text.to_owned())
}
