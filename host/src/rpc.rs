//! Calling the remotes of a fleet's servers, as servers call each other: the mailbox of pomelo-rpc 1.0.7.
//!
//! ```text
//! directory ── follow ──▶ one proxy per server        route.rs    which server a call is for (pure)
//! call ── message.rs ──▶ mailbox.rs, a task per server that was ever called ──▶ PUBLISH rpc {"id":7,"msg":{…}}
//! its end ◀──────────── the one table of the task      ◀── PUBLISH rpc {"id":7,"resp":[…]}
//! ```
//!
//! A call is a future; it ends when the mailbox ends it, when the mailbox is gone, or at its deadline, whichever is
//! first. What was sent is never sent again: whether it was carried out is not known when the link breaks.

mod mailbox;
mod message;
mod route;
#[cfg(test)]
mod tests;

use std::time::Duration;

use muster_plugin_api::{Event, RequestError};
use parking_lot::Mutex;
use serde_json::{Map, Value, json};
use tokio::{runtime::Handle, time::timeout};

use self::{
    mailbox::Mailbox,
    message::{Message, Response},
    route::{Server, Table, Uncallable},
};

/// The host's own module, which clients ask.
pub(crate) const MODULE: &str = "__rpc__";

/// How servers are called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Config {
    /// When a call without a time of its own is over.
    pub(crate) timeout: Duration,
    /// Time between two PINGREQs; a server that leaves one unanswered for twice that is given up.
    pub(crate) keepalive: Duration,
    /// For how long calls are collected and sent as one message; zero to send each at once.
    pub(crate) buffer: Duration,
    /// The largest packet that is taken from a server.
    pub(crate) largest: usize,
}

/// The proxies of one role of the daemon.
#[derive(Debug)]
pub(crate) struct Rpc {
    config: Config,
    runtime: Handle,
    proxies: Mutex<Table<Proxy>>,
}

/// What stands for a server here. Of the many that nobody ever calls, it is no more than an address.
#[derive(Debug)]
struct Proxy {
    address: Result<Box<str>, Uncallable>,
    /// From the first call on.
    mailbox: Option<Box<Mailbox>>,
}

/// What is called, and where.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Call<'a> {
    /// The id of a server, or a type of servers.
    pub(crate) target: &'a str,
    /// Which server of a type: one key means one server, as long as the servers are the same.
    pub(crate) key: &'a str,
    /// Else [`Config::timeout`].
    pub(crate) timeout: Option<Duration>,
    /// JSON: `{"namespace", "service", "method", "args"}`.
    pub(crate) body: &'a [u8],
}

impl Rpc {
    /// Must be called in the runtime, which then runs the mailboxes.
    pub(crate) fn new(config: Config) -> Rpc {
        Rpc { config, runtime: Handle::current(), proxies: Mutex::default() }
    }

    /// Takes note of a change of the directory, in both roles. Never calls back.
    pub(crate) fn follow(&self, event: &Event) {
        let info = |body: &muster_plugin_api::Body| body.parse::<Map<String, Value>>().unwrap_or_default();
        match event {
            Event::ServerRegistered { server } | Event::ServerReconnected { server } if !server.slave => {
                self.add(&server.id, &server.server_type, &info(&server.info));
            }
            Event::ServerLeft { server } if !server.slave => drop(self.proxies.lock().remove(&server.id)),
            Event::ServersAdded { servers } => {
                for (id, body) in servers {
                    let info = info(body);
                    self.add(id, type_of(&info), &info);
                }
            }
            Event::ServersRemoved { ids } => {
                let mut proxies = self.proxies.lock();
                ids.iter().for_each(|id| drop(proxies.remove(id)));
            }
            _ => {}
        }
    }

    /// Takes note of a directory that replaces what was known. Their order is that of the map, which an event has lost.
    pub(crate) fn replace(&self, servers: &Map<String, Value>) {
        let mut proxies = self.proxies.lock();
        let mut known = std::mem::take(&mut *proxies);
        for (id, info) in servers {
            let info = info.as_object().cloned().unwrap_or_default();
            let address = route::address(type_of(&info), &info);
            let kept = known.remove(id).filter(|server| server.proxy.stands_for(&address));
            let proxy = kept.map_or_else(|| Proxy::of(address), |server| server.proxy);
            proxies.insert(id, Server { server_type: type_of(&info).into(), proxy });
        }
    }

    /// One that is known at this address keeps its mailbox, with its link and its calls.
    fn add(&self, id: &str, server_type: &str, info: &Map<String, Value>) {
        let address = route::address(server_type, info);
        let server_type = server_type.into();
        let mut proxies = self.proxies.lock();
        match proxies.get_mut(id) {
            Some(server) if server.proxy.stands_for(&address) => server.server_type = server_type,
            _ => proxies.insert(id, Server { server_type, proxy: Proxy::of(address) }),
        }
    }

    /// Calls a remote and waits for the arguments of its callback. Returns the server's id as well.
    ///
    /// # Errors
    /// When there is no such server, it cannot be called, too much waits for it already, it is lost, or does not answer
    /// in time. What the remote itself says is an answer.
    pub(crate) fn call(
        &self,
        call: Call<'_>,
    ) -> impl Future<Output = Result<(String, Response), RequestError>> + Send + 'static {
        let begun = self.begin(call);
        let patience = call.timeout.unwrap_or(self.config.timeout);
        async move {
            let (id, answer) = begun?;
            let answer = timeout(patience, answer).await.map_err(|_| {
                let patience = humantime::format_duration(patience);
                RequestError::Timeout(format!("{id} did not answer the call within {patience}"))
            })?;
            // The mailbox is dropped with what it had when its server leaves.
            let left = || RequestError::Gone(format!("{id} left before it answered"));
            let response = answer.map_err(|_| left())??;
            Ok((id, response))
        }
    }

    fn begin(&self, call: Call<'_>) -> Result<(String, mailbox::Answer), RequestError> {
        let message = Message::read(call.body).map_err(RequestError::Refused)?;
        let mut proxies = self.proxies.lock();
        let (id, server) =
            proxies.find(call.target, call.key).ok_or_else(|| RequestError::UnknownServer(call.target.to_owned()))?;
        let Proxy { address, mailbox } = &mut server.proxy;
        let address =
            address.as_deref().map_err(|reason| RequestError::Refused(format!("{id} cannot be called: {reason}")))?;
        let mailbox = mailbox.get_or_insert_with(|| Box::new(Mailbox::open(&self.runtime, &id, address, self.config)));
        let answer = mailbox.send(&message.of_type(&server.server_type))?;
        Ok((id, answer))
    }

    /// All servers, in the order in which they came: `{"id", "serverType", "callable"}` with `address` or `reason`.
    pub(crate) fn list(&self) -> Value {
        let proxies = self.proxies.lock();
        let server = |(id, server): (&str, &Server<Proxy>)| match &server.proxy.address {
            Ok(address) => json!({
                "id": id, "serverType": server.server_type, "callable": true, "address": address,
            }),
            Err(reason) => json!({
                "id": id, "serverType": server.server_type, "callable": false, "reason": reason.to_string(),
            }),
        };
        proxies.in_order().map(server).collect()
    }
}

impl Proxy {
    fn of(address: Result<String, Uncallable>) -> Proxy {
        Proxy { address: address.map(String::into_boxed_str), mailbox: None }
    }

    fn stands_for(&self, address: &Result<String, Uncallable>) -> bool {
        self.address.as_deref() == address.as_deref()
    }
}

fn type_of(info: &Map<String, Value>) -> &str {
    info.get("serverType").and_then(Value::as_str).unwrap_or_default()
}
