//! What a daemon offers to its modules in both roles: who it is, figures, settings, the directory, timers, its own end.

mod directory;
mod figures;

use std::{sync::Arc, time::Duration};

use muster_plugin_api::{
    Body, Event, ProfileFormat, RequestError, Role,
    abi::{ask, query, tell},
};
use parking_lot::Mutex;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

use self::directory::Directory;
use crate::{
    ids::ModuleId,
    modules::{
        Modules,
        services::{Asker, Operation},
    },
    profile,
    rpc::{self, Rpc},
    values::Values,
};

/// Who this daemon is.
#[derive(Debug, Clone, Default)]
pub(crate) struct Identity {
    pub(crate) id: String,
    pub(crate) server_type: String,
    pub(crate) env: String,
    /// What is told to a master when registering.
    pub(crate) info: Map<String, Value>,
}

/// One role of the daemon, as its modules see it.
pub(crate) struct App {
    role: Role,
    identity: Identity,
    /// The servers that the configuration names.
    fleet: Vec<Value>,
    settings: Mutex<Map<String, Value>>,
    directory: Mutex<Directory>,
    crons: Mutex<Vec<Value>>,
    /// What the application tells of its connections.
    connections: Mutex<Option<Value>>,
    values: Values,
    rpc: Arc<Rpc>,
    modules: Arc<Modules>,
    /// Cancelled to stop the daemon.
    stop: CancellationToken,
    runtime: Handle,
}

impl App {
    /// Must be called in the runtime, which then runs its timers.
    pub(crate) fn new(
        role: Role,
        identity: Identity,
        fleet: Vec<Value>,
        settings: Map<String, Value>,
        modules: Arc<Modules>,
        rpc: rpc::Config,
        stop: CancellationToken,
    ) -> App {
        App {
            role,
            identity,
            fleet,
            settings: Mutex::new(settings),
            directory: Mutex::default(),
            crons: Mutex::default(),
            connections: Mutex::default(),
            values: Values::default(),
            rpc: Arc::new(Rpc::new(rpc)),
            modules,
            stop,
            runtime: Handle::current(),
        }
    }

    pub(crate) fn identity(&self) -> &Identity {
        &self.identity
    }

    /// The way to the remotes of the servers that are known in this role.
    pub(crate) fn rpc(&self) -> &Arc<Rpc> {
        &self.rpc
    }

    /// Does an operation of `abi::ask` that both roles have; the others are refused.
    pub(crate) fn ask(&self, asker: Asker, operation: Operation<'_>) {
        let Operation { op, a, b, n, body } = operation;
        match op {
            ask::RPC => {
                let timeout = (n > 0).then(|| Duration::from_millis(n));
                let call = self.rpc.call(rpc::Call { target: a, key: b, timeout, body });
                self.runtime.spawn(async move {
                    match call.await {
                        Ok((_, answer)) => asker.answer(answer.error().as_bytes(), answer.results().as_bytes()),
                        Err(error) => asker.fail(error),
                    }
                });
            }
            ask::FIGURES => drop(self.runtime.spawn_blocking(move || match figures::of(std::process::id()) {
                Ok(figures) => asker.answer(b"null", Body::of(&figures).unwrap_or_default().as_str().as_bytes()),
                Err(error) => asker.fail(RequestError::Refused(format!("no figures of this process: {error}"))),
            })),
            ask::PROFILE => {
                #[derive(Deserialize)]
                #[serde(rename_all = "camelCase")]
                struct Wanted {
                    duration_ms: u64,
                    format: ProfileFormat,
                }
                let Ok(Wanted { duration_ms, format }) = serde_json::from_slice(body) else {
                    return asker.fail(RequestError::Refused("expected {\"durationMs\", \"format\"}".into()));
                };
                self.runtime.spawn(async move {
                    let mailbox = asker.mailbox.clone();
                    let profile = profile::take(std::process::id(), Duration::from_millis(duration_ms), format);
                    tokio::select! {
                        profile = profile => match profile {
                            Ok(profile) => asker.answer(b"null", json!(profile).to_string().as_bytes()),
                            Err(error) => asker.fail(error),
                        },
                        // Nobody is left to be told.
                        () = mailbox.closed() => {}
                    }
                });
            }
            ask::SPAWN => asker.fail(RequestError::Refused("starting servers is not available yet".into())),
            _ => asker.fail(RequestError::Refused(format!("this host has no operation {op} in this role"))),
        }
    }

    /// Does an operation of `abi::tell` that both roles have.
    pub(crate) fn tell(&self, module: &ModuleId, operation: Operation<'_>) -> i64 {
        let Operation { op, a, b: _, n, body } = operation;
        match op {
            tell::PUT => self.values.put(module, a, body),
            tell::REMOVE => return i64::from(self.values.remove(module, a)),
            tell::SET_SETTING => drop(self.settings.lock().insert(a.to_owned(), value(body))),
            tell::ADD_SERVER => {
                let (id, info) = (a.to_owned(), value(body));
                self.directory.lock().add(&id, info.clone());
                self.announce(&Event::ServersAdded { servers: [(id, info.into())].into() });
            }
            tell::REMOVE_SERVER => {
                self.directory.lock().remove(a);
                self.announce(&Event::ServersRemoved { ids: vec![a.to_owned()] });
            }
            tell::REPLACE_SERVERS => {
                let Value::Object(servers) = value(body) else { return -1 };
                self.rpc.replace(&servers);
                self.announce(&Event::ServersReplaced {
                    servers: servers.iter().map(|(id, info)| (id.clone(), info.into())).collect(),
                });
                self.directory.lock().replace(servers);
            }
            tell::START_OVER => self.announce(&Event::StartOver),
            tell::ADD_CRON => {
                let cron = value(body);
                let mut crons = self.crons.lock();
                crons.retain(|known| known.get("id") != cron.get("id"));
                crons.push(cron.clone());
                drop(crons);
                self.announce(&Event::CronAdded { cron: cron.into() });
            }
            tell::REMOVE_CRON => {
                let cron = value(body);
                let mut crons = self.crons.lock();
                let before = crons.len();
                crons.retain(|known| known.get("id") != cron.get("id"));
                let removed = crons.len() < before;
                drop(crons);
                self.announce(&Event::CronRemoved { cron: cron.into() });
                return i64::from(removed);
            }
            tell::BLACKLIST => {
                let addresses = serde_json::from_slice(body).unwrap_or_default();
                self.announce(&Event::Blacklisted { addresses });
            }
            tell::STOP => {
                tracing::info!(%module, after_ms = n, "a module orders this daemon to stop");
                let stop = self.stop.clone();
                self.runtime.spawn(async move {
                    tokio::time::sleep(Duration::from_millis(n)).await;
                    stop.cancel();
                });
            }
            tell::AUDIT => {
                let fields = String::from_utf8_lossy(body);
                tracing::info!(target: "audit", %module, role = ?self.role, fields = %fields, "{a}");
            }
            tell::PUBLISH_CONNECTIONS => *self.connections.lock() = (!body.is_empty()).then(|| value(body)),
            tell::END_PROFILE => return i64::from(profile::end()),
            _ => return -1,
        }
        1
    }

    /// Reads something of `abi::query` that both roles have.
    pub(crate) fn query(&self, module: &ModuleId, op: u32, a: &str) -> Vec<u8> {
        match op {
            query::VALUE => self.values.get(module, a).map(|json| json.to_vec()).unwrap_or_default(),
            query::VALUES => self.values.entries(module).unwrap_or_default(),
            query::INFO => {
                let Identity { id, server_type, env, info } = &self.identity;
                text(&json!({ "id": id, "serverType": server_type, "env": env, "info": info }))
            }
            query::SETTING if a.is_empty() => text(&self.settings.lock().clone().into()),
            query::SETTING => self.settings.lock().get(a).map(text).unwrap_or_default(),
            query::DIRECTORY if a.is_empty() => text(&self.directory.lock().all()),
            query::DIRECTORY => text(&self.directory.lock().of_type(a)),
            query::MODULES => text(&json!(self.modules.list(self.role))),
            query::FLEET => text(&json!(self.fleet)),
            query::CONNECTIONS => self.connections.lock().as_ref().map(text).unwrap_or_default(),
            query::RPC => text(&self.rpc.list()),
            query::CRONS => text(&json!(*self.crons.lock())),
            _ => Vec::new(),
        }
    }

    /// Tells all modules of this role.
    pub(crate) fn announce(&self, event: &Event) {
        self.rpc.follow(event);
        self.modules.broadcast_event(self.role, event);
    }
}

impl std::fmt::Debug for App {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("App").field("role", &self.role).field("identity", &self.identity).finish_non_exhaustive()
    }
}

fn value(body: &[u8]) -> Value {
    serde_json::from_slice(body).unwrap_or_default()
}

fn text(value: &Value) -> Vec<u8> {
    value.to_string().into_bytes()
}
