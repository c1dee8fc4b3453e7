//! A monitor: keeps a link to its master, gives the master's messages to modules, and theirs to the master.
//!
//! A program that is wrapped, or none at all, is `muster monitor`; a server in Rust may have its monitor inside:
//! [`EmbeddedMonitor`], with what it answers as an [`Application`].
//!
//! It never gives up: a master that is away or refuses it is tried again, with growing pauses.

mod asked;
mod asks;
mod embedded;
mod services;

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use muster_plugin_api::Role;
use parking_lot::Mutex;
use tokio::{
    sync::watch,
    time::{Instant, sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

pub(crate) use self::asked::Begun;
pub use self::embedded::{Application, Ask, Body, EmbeddedMonitor, Event, Said, Saying, serve_as_child};
pub(crate) use self::services::MonitorServices;
use self::{asked::Asked, asks::Asks};
use crate::{
    app::App,
    beat,
    ids::ConnId,
    link::{
        Beat, Incoming, Keepalive, Link, LinkError,
        backoff::{Backoff, FIRST, LONGEST},
    },
    modules::{
        Modules,
        call::{Call, ServerIdentity, Source},
        deliver::Blocked,
    },
    session::{Reply, outbox::Outbox},
    wire::{
        Topic,
        envelope::{self, Envelope},
        handshake::{self, MonitorHello},
        packet,
    },
};

/// Time to find the master and open a socket.
const CONNECT_WITHIN: Duration = Duration::from_secs(5);

/// Time from the registration to its answer. Our own master may watch a dead predecessor for 3 s before it answers.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);

/// How often overdue requests are looked for.
const SWEEP: Duration = beat::OFTEN;

/// A monitor.
#[derive(Debug)]
pub(crate) struct Monitor {
    pub(crate) app: Arc<App>,
    pub(crate) modules: Arc<Modules>,
    token: Option<String>,
    /// The largest amount that may be queued for the master, in bytes.
    outbox_limit: usize,
    deadline: Duration,
    asks: Asks,
    asked: Arc<Asked>,
    /// The way to the master while registered.
    outbox: Mutex<Option<Arc<Outbox>>>,
    links: AtomicU64,
    was_registered: AtomicBool,
    state: watch::Sender<bool>,
    dropped: AtomicU64,
}

/// Why a link ended.
#[derive(Debug, thiserror::Error)]
enum End {
    #[error(transparent)]
    Link(#[from] LinkError),
    #[error("the master ended the connection")]
    Dismissed,
    #[error("the master refused: {0}")]
    Refused(String),
    #[error("the master did not answer the registration in time")]
    NoAnswer,
    #[error("the master does not answer pings")]
    NoPong,
    #[error("the master does not read")]
    DoesNotRead,
    #[error("stopping")]
    Stopping,
    #[error("another process is watched now")]
    Renewed,
}

impl Monitor {
    pub(crate) fn new(
        app: Arc<App>,
        modules: Arc<Modules>,
        token: Option<String>,
        outbox_limit: usize,
        deadline: Duration,
    ) -> Monitor {
        Monitor {
            app,
            modules,
            token,
            outbox_limit,
            deadline,
            asks: Asks::default(),
            asked: Arc::default(),
            outbox: Mutex::default(),
            links: AtomicU64::new(0),
            was_registered: AtomicBool::new(false),
            state: watch::Sender::new(false),
            dropped: AtomicU64::new(0),
        }
    }

    /// Whether the monitor is registered; changes are seen.
    pub(crate) fn registered(&self) -> watch::Receiver<bool> {
        self.state.subscribe()
    }

    /// Serves until `stop`: connects, registers, and begins again when the link is lost.
    pub(crate) async fn run(self: Arc<Self>, master: String, stop: CancellationToken) {
        let mut backoff = Backoff::new(FIRST, LONGEST);
        // After a refused reconnect only a registration, with its token, can help.
        let mut register = true;
        loop {
            let end = self.connect(&master, register, &mut backoff, &stop).await;
            register = match &end {
                End::Stopping => return,
                // To the fleet it is a server that left, and another one that came.
                End::Renewed => {
                    register = true;
                    continue;
                }
                // A predecessor holds the id; registering would make this one its slave.
                End::Refused(text) => !text.starts_with("id has been registered"),
                _ => !self.was_registered.load(Ordering::Relaxed),
            };
            let pause = backoff.wait();
            match &end {
                End::Link(LinkError::Unreachable { source, .. }) => {
                    info!(master, %source, again_in = ?pause, "the master cannot be reached");
                }
                _ => warn!(master, reason = %end, again_in = ?pause, "no link to the master"),
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = sleep(pause) => {}
            }
        }
    }

    async fn connect(&self, master: &str, register: bool, backoff: &mut Backoff, stop: &CancellationToken) -> End {
        let mut link = tokio::select! {
            () = stop.cancelled() => return End::Stopping,
            link = Link::open(master, CONNECT_WITHIN) => match link {
                Ok(link) => link,
                Err(error) => return error.into(),
            },
        };
        let mut watched = self.app.watched();
        let pid = *watched.borrow_and_update();
        let introduced = tokio::select! {
            () = stop.cancelled() => return End::Stopping,
            introduced = timeout(ANSWER_WITHIN, self.introduce(&mut link, register, pid)) => introduced,
        };
        match introduced {
            Ok(Ok(())) => {}
            Ok(Err(end)) => return end,
            Err(_) => return End::NoAnswer,
        }
        backoff.reset();
        let again = self.was_registered.swap(true, Ordering::Relaxed);
        info!(master, again, "registered with the master");
        let outbox = Arc::new(Outbox::without_socket(self.outbox_limit));
        *self.outbox.lock() = Some(outbox.clone());
        self.state.send_replace(true);
        // For those who start later, and for those who are there.
        self.modules.greet(Role::Monitor, Some(&Event::MasterConnected { again: false }));
        self.app.announce(&Event::MasterConnected { again });
        let end = self.serve(link, &outbox, stop, watched).await;
        *self.outbox.lock() = None;
        outbox.close();
        self.state.send_replace(false);
        self.modules.greet(Role::Monitor, None);
        self.app.announce(&Event::MasterLost);
        self.asks.lose();
        end
    }

    /// Says who this is, and waits for the verdict. What comes before it means nothing.
    async fn introduce(&self, link: &mut Link, register: bool, pid: u32) -> Result<(), End> {
        let identity = self.app.identity();
        let hello = MonitorHello {
            id: identity.id.clone(),
            server_type: identity.server_type.clone(),
            info: identity.info.clone(),
            token: self.token.clone(),
        };
        let (topic, answer) =
            if register { (Topic::Register, Topic::Register) } else { (Topic::Reconnect, Topic::ReconnectOk) };
        link.send(handshake::monitor_hello(topic, &hello, pid)).await?;
        loop {
            match link.recv().await? {
                Incoming::Publish { topic, payload } if topic == answer => match handshake::read_answer(&payload) {
                    Ok(Ok(())) => return Ok(()),
                    Ok(Err(text)) => return Err(End::Refused(text)),
                    Err(_) => drop(self.dropped.fetch_add(1, Ordering::Relaxed)),
                },
                Incoming::Disconnect => return Err(End::Dismissed),
                Incoming::Pingreq => link.send(Bytes::from_static(packet::PINGRESP)).await?,
                Incoming::Publish { .. } | Incoming::Pingresp => {}
            }
        }
    }

    async fn serve(
        &self,
        link: Link,
        outbox: &Arc<Outbox>,
        stop: &CancellationToken,
        mut watched: watch::Receiver<u32>,
    ) -> End {
        use crate::session::outbox::Order;
        let identity = Arc::new(ServerIdentity {
            id: "master".into(),
            server_type: "master".into(),
            incarnation: ConnId(self.links.fetch_add(1, Ordering::Relaxed) + 1),
        });
        let (mut reader, mut writer) = link.split();
        let mut keepalive = Keepalive::new(Instant::now());
        let mut sweep = beat::every(SWEEP);
        let mut writing = VecDeque::new();
        loop {
            let due = keepalive.due();
            tokio::select! {
                biased;
                end = async {
                    tokio::select! {
                        () = stop.cancelled() => End::Stopping,
                        Ok(()) = watched.changed() => End::Renewed,
                    }
                } => {
                    // The answers that are queued, then the good-bye; a master that does not read is not waited for.
                    outbox.take(&mut writing);
                    let goodbye = async {
                        writer.send_all(writing).await?;
                        writer.close().await
                    };
                    drop(timeout(Duration::from_millis(500), goodbye).await);
                    return end;
                }
                incoming = reader.recv() => match incoming {
                    Ok(Incoming::Publish { topic: Topic::Monitor, payload }) => {
                        if let Some(blocked) = self.receive(&identity, outbox, &payload) {
                            blocked.wait(&self.modules).await;
                        }
                    }
                    Ok(Incoming::Publish { .. }) => {}
                    Ok(Incoming::Pingreq) => drop(outbox.push(&Bytes::from_static(packet::PINGRESP))),
                    Ok(Incoming::Pingresp) => keepalive.answered(),
                    Ok(Incoming::Disconnect) => return End::Dismissed,
                    Err(error) => return error.into(),
                },
                flushed = writer.flush(), if writer.pending() > 0 => {
                    if let Err(error) = flushed {
                        return error.into();
                    }
                }
                () = outbox.changed(), if writer.pending() == 0 => {
                    if outbox.take(&mut writing) == Order::Overflow {
                        return End::DoesNotRead;
                    }
                    writing.drain(..).for_each(|frame| writer.push(frame));
                }
                () = tokio::time::sleep_until(due) => match keepalive.tick(Instant::now()) {
                    Beat::Wait => {}
                    Beat::Ping => drop(outbox.push(&Bytes::from_static(packet::PINGREQ))),
                    Beat::Dead => return End::NoPong,
                },
                _ = sweep.tick() => self.asks.expire(Instant::now()),
            }
        }
    }

    fn receive(&self, from: &Arc<ServerIdentity>, outbox: &Arc<Outbox>, payload: &[u8]) -> Option<Blocked> {
        let mut scratch = String::new();
        let Ok(envelope) = envelope::read(payload, &mut scratch) else {
            self.dropped.fetch_add(1, Ordering::Relaxed);
            debug!("a payload that is no message was dropped");
            return None;
        };
        let (id, module, body) = match envelope {
            Envelope::Request { id, module, body } => (Some(id), module, body),
            Envelope::Notify { module, body } => (None, module, body),
            Envelope::Response { id, error, body } => {
                self.asks.end(id, error.as_bytes(), body.as_bytes());
                return None;
            }
            // The original cannot carry these out (Q18).
            Envelope::Command { command, module, .. } => {
                let known = match &*command {
                    "enable" => self.modules.set_enabled(Role::Monitor, &module, true),
                    "disable" => self.modules.set_enabled(Role::Monitor, &module, false),
                    _ => false,
                };
                info!(%command, %module, known, "command of the master");
                return None;
            }
        };
        let responder = match id {
            None => None,
            Some(id) => {
                let reply = Reply::new(outbox.clone(), Topic::Monitor, id.clone());
                Some(self.asked.begin(&id, &module, body, reply)?)
            }
        };
        let call = Call {
            source: Source::Server(from.clone()),
            body: Bytes::copy_from_slice(body.as_bytes()),
            arrived: std::time::Instant::now(),
            patience_ms: None,
            responder,
        };
        self.modules.deliver(Role::Monitor, &module, call)
    }
}
