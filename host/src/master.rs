//! The master: lets peers in, gives their messages to modules, and theirs to peers.

mod admit;
mod commands;
mod orders;
mod plugins;
mod rpc;
mod services;
mod uploads;

use std::{
    fmt,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

use arc_swap::ArcSwap;
use muster_plugin_api::Role;
use serde_json::{Value, json};
use tracing::debug;

use self::uploads::Uploads;
pub(crate) use self::{admit::Admission, orders::HOSTED, services::MasterServices};
use crate::{
    app::App,
    auth::Auth,
    modules::{
        Modules,
        call::{Call, ClientIdentity, Responder, Source},
        deliver::{self, Blocked},
    },
    peers::{Link, Peers},
    plugin::{FileStatus, control::Control},
    roles::Roles,
    session::{
        Limits, Reply,
        outbox::Outbox,
        scratch::{Bodies, Texts},
    },
    store::Store,
    wire::{
        Topic,
        envelope::{self, Envelope, ReqId},
    },
};

/// What a session belongs to.
#[derive(Debug, Clone)]
pub(crate) enum Identity {
    Nobody,
    Monitor(Link),
    Client(Arc<ClientIdentity>),
}

/// Where a message comes from.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sender<'a> {
    pub(crate) identity: &'a Identity,
    /// Where its answer goes.
    pub(crate) outbox: &'a Arc<Outbox>,
    /// When it came.
    pub(crate) arrived: Instant,
}

/// All that the sessions share.
#[derive(Debug)]
pub(crate) struct Master {
    pub(crate) peers: Peers,
    pub(crate) auth: Auth,
    pub(crate) roles: ArcSwap<Roles>,
    pub(crate) store: Arc<Store>,
    pub(crate) modules: Arc<Modules>,
    plugins: OnceLock<Control>,
    uploads: Arc<Uploads>,
    pub(crate) app: Arc<App>,
    limits: Limits,
    counters: Counters,
}

/// What went wrong, counted.
#[derive(Debug, Default)]
struct Counters {
    /// Payloads that were no messages.
    dropped: AtomicU64,
    /// Answers that nobody waited for (any more).
    unasked: AtomicU64,
}

impl Master {
    pub(crate) fn new(
        peers: Peers,
        auth: Auth,
        roles: Roles,
        store: Arc<Store>,
        modules: Arc<Modules>,
        app: Arc<App>,
        limits: Limits,
    ) -> Master {
        Master {
            peers,
            auth,
            roles: ArcSwap::from_pointee(roles),
            store,
            modules,
            plugins: OnceLock::new(),
            uploads: Arc::default(),
            app,
            limits,
            counters: Counters::default(),
        }
    }

    /// Shows the plugins to those who ask, and takes orders about them. They come after the master that they serve.
    pub(crate) fn show_plugins(&self, control: Control) {
        if self.plugins.set(control).is_err() {
            tracing::error!("the status of the plugins is published already");
        }
    }

    /// What is known of the plugins, for people and programs.
    fn plugins(&self) -> Value {
        let files = self.plugins.get().map(Control::status);
        let files: Vec<Value> = files.iter().flat_map(|files| files.iter()).map(FileStatus::to_json).collect();
        json!({ "plugins": files })
    }

    pub(crate) fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Takes a message of a registered peer; `texts` is scratch memory. Returns what found no room.
    pub(crate) fn receive(
        &self,
        from: Sender<'_>,
        payload: &[u8],
        Texts { inner, bodies }: &mut Texts,
    ) -> Option<Blocked> {
        let Ok(envelope) = envelope::read(payload, inner) else {
            self.count_dropped();
            return None;
        };
        match (from.identity, envelope) {
            (_, Envelope::Request { id, module, body }) => self.route(from, Some(id), &module, body, bodies),
            (_, Envelope::Notify { module, body }) => self.route(from, None, &module, body, bodies),
            (Identity::Monitor(link), Envelope::Response { id, error, body }) => {
                match link.pending.take(id) {
                    Some(waiter) => waiter.answer(error.as_bytes(), body.as_bytes()),
                    None => drop(self.counters.unasked.fetch_add(1, Ordering::Relaxed)),
                }
                None
            }
            (Identity::Client(client), Envelope::Command { id, command, module, body }) => {
                let reply = id.map(|id| Reply::new(from.outbox.clone(), Topic::Client, id));
                self.command(client, reply, &command, &module, body);
                None
            }
            // A monitor commands nobody; a client is asked nothing.
            (_, Envelope::Command { .. } | Envelope::Response { .. }) => {
                self.counters.unasked.fetch_add(1, Ordering::Relaxed);
                None
            }
        }
    }

    fn route(
        &self,
        Sender { identity, outbox, arrived }: Sender<'_>,
        id: Option<ReqId>,
        module: &str,
        body: &str,
        bodies: &mut Bodies,
    ) -> Option<Blocked> {
        let (source, topic) = match identity {
            Identity::Monitor(link) => (Source::Server(link.identity.clone()), Topic::Monitor),
            Identity::Client(client) if self.order(client, outbox, id.as_ref(), module, body) => return None,
            Identity::Client(client) => (Source::Client(client.clone()), Topic::Client),
            Identity::Nobody => return None,
        };
        let kind = orders::kind(id.as_ref());
        let call = Call {
            source,
            body: bodies.own(body),
            arrived,
            patience_ms: None,
            responder: id.map(|id| Responder::Session(Reply::new(outbox.clone(), topic, id))),
        };
        self.modules.deliver_if(Role::Master, module, call, |manifest| match identity {
            Identity::Client(client) => self.permit(client, kind, manifest, body),
            Identity::Monitor(_) | Identity::Nobody => Ok(()),
        })
    }

    /// Takes note that a connection is gone.
    pub(crate) fn leave(&self, identity: &Identity) {
        match identity {
            Identity::Nobody => {}
            Identity::Monitor(link) => self.peers.leave(link, Instant::now()),
            Identity::Client(client) => {
                self.uploads.forget(client.connection);
                self.peers.log_out(client);
            }
        }
    }

    /// Ends what is overdue. Called a few times a second.
    pub(crate) fn expire(&self, now: Instant) {
        self.peers.expire(now);
    }

    /// Counts a payload that was no message.
    pub(crate) fn count_dropped(&self) {
        self.counters.dropped.fetch_add(1, Ordering::Relaxed);
        debug!("a payload that is no message was dropped");
    }

    /// Counts of what went wrong: payloads dropped, answers nobody waited for, notifies that found no room.
    pub(crate) fn counts(&self) -> [u64; 3] {
        let Counters { dropped, unasked } = &self.counters;
        [dropped.load(Ordering::Relaxed), unasked.load(Ordering::Relaxed), deliver::overrun()]
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Identity::Nobody => f.write_str("unregistered"),
            Identity::Monitor(link) => write!(f, "monitor {}", link.identity.id),
            Identity::Client(client) => write!(f, "client {} ({})", client.id, client.user),
        }
    }
}
