//! What a daemon offers to its modules in both roles: who it is, figures, settings, the directory, timers, its own end.

mod directory;
mod figures;

use std::{
    collections::BTreeMap,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use muster_plugin_api::{
    Body, Event, ProfileFormat, RequestError, Role,
    abi::{ask, query, tell},
};
use parking_lot::Mutex;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use tokio::{runtime::Handle, sync::watch};
use tokio_util::sync::CancellationToken;

use self::directory::Directory;
use crate::{
    application::{Application, Ask},
    crons::{self, Crons},
    ids::{ConnId, ModuleId},
    modules::{
        Modules,
        call::{Call, ServerIdentity, Source},
        services::{Asker, Operation},
    },
    profile,
    program::{Program, State, Status},
    rpc::{self, Rpc},
    starter::Starter,
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
    crons: Crons,
    /// What the application tells of its connections.
    connections: Mutex<Option<Value>>,
    values: Values,
    rpc: Arc<Rpc>,
    modules: Arc<Modules>,
    /// Cancelled to stop the daemon.
    stop: CancellationToken,
    /// Whether it is to be stopped without a grace for what it runs.
    kill: AtomicBool,
    /// The server, if it takes part.
    application: Mutex<Option<Arc<dyn Application>>>,
    /// The program that this monitor wraps.
    program: OnceLock<Program>,
    /// What starts servers, in the master.
    starter: OnceLock<Arc<Starter>>,
    /// The process that is reported of: the program, else this one.
    watched: watch::Sender<u32>,
    runtime: Handle,
}

/// What it works with.
pub(crate) struct Means {
    /// As they are configured.
    pub(crate) settings: Map<String, Value>,
    pub(crate) modules: Arc<Modules>,
    pub(crate) rpc: rpc::Config,
    pub(crate) crons: Crons,
    /// Cancelled to stop the daemon.
    pub(crate) stop: CancellationToken,
}

impl App {
    /// Must be called in the runtime, which then runs its timers.
    pub(crate) fn new(role: Role, identity: Identity, fleet: Vec<Value>, means: Means) -> App {
        let Means { settings, modules, rpc, crons, stop } = means;
        App {
            role,
            identity,
            fleet,
            settings: Mutex::new(settings),
            directory: Mutex::default(),
            crons,
            connections: Mutex::default(),
            values: Values::default(),
            rpc: Arc::new(Rpc::new(rpc)),
            modules,
            stop,
            kill: AtomicBool::new(false),
            application: Mutex::default(),
            program: OnceLock::new(),
            starter: OnceLock::new(),
            watched: watch::Sender::new(std::process::id()),
            runtime: Handle::current(),
        }
    }

    pub(crate) fn identity(&self) -> &Identity {
        &self.identity
    }

    /// Reports of this program from now on, and tells of what happens to it.
    ///
    /// When it has ended and is not to be started again, the daemon stops as well; one that was given up stays, so that it
    /// can be asked why, and ordered to start it again.
    pub(crate) fn wrap(self: &Arc<Self>, program: Program) {
        let mut status = program.status();
        self.look_at(&status.borrow_and_update());
        if self.program.set(program).is_err() {
            tracing::error!("a monitor wraps one program");
        }
        let app = self.clone();
        self.runtime.spawn(async move {
            while status.changed().await.is_ok() {
                app.look_at(&status.borrow_and_update());
            }
        });
    }

    fn look_at(&self, now: &Status) {
        if let Some(pid) = now.pid() {
            self.watched.send_if_modified(|watched| std::mem::replace(watched, pid) != pid);
        }
        self.announce(&Event::ProgramChanged { program: now.to_json().into() });
        if now.state == (State::Ended { ordered: false }) {
            self.stop.cancel();
        }
    }

    /// What an application is greeted with.
    pub(crate) fn hello(&self) -> Value {
        let Identity { id, server_type, env, .. } = &self.identity;
        json!({ "hello": { "id": id, "serverType": server_type, "env": env } })
    }

    /// The servers as they are known: id → info.
    pub(crate) fn directory(&self) -> BTreeMap<String, Body> {
        let all = self.directory.lock().all();
        let all = all.as_object().into_iter().flatten();
        all.map(|(id, info)| (id.clone(), info.clone().into())).collect()
    }

    /// The server takes part from now on.
    pub(crate) fn take_part(&self, application: Arc<dyn Application>) {
        *self.application.lock() = Some(application);
    }

    /// The server takes no part any more, and what it published of its connections is outdated. If another one has taken its
    /// place, nothing changes.
    pub(crate) fn part(&self, application: &Arc<dyn Application>) {
        let mut current = self.application.lock();
        if current.as_ref().is_some_and(|current| Arc::ptr_eq(current, application)) {
            *current = None;
            *self.connections.lock() = None;
        }
    }

    /// Takes settings that the server tells.
    pub(crate) fn publish_settings(&self, settings: Map<String, Value>) {
        self.settings.lock().extend(settings);
    }

    /// Takes what the server tells of its connections; null takes it back.
    pub(crate) fn publish_connections(&self, statistics: Value) {
        *self.connections.lock() = (!statistics.is_null()).then_some(statistics);
    }

    /// Tells the server that its end is near.
    pub(crate) fn tell_end(&self) {
        let application = self.application.lock().clone();
        if let Some(application) = application {
            application.on_event(&Event::Stopping);
        }
    }

    /// Asks the server, or answers for it if it leaves that to its monitor.
    fn ask_application(self: &Arc<Self>, asker: Asker, ask: Ask) {
        let (app, application) = (self.clone(), self.application.lock().clone());
        self.runtime.spawn(async move {
            let said = match application {
                Some(application) => application.ask(ask.clone()).await,
                None => None,
            };
            match said {
                Some(Err(why)) => return asker.fail(RequestError::Refused(why)),
                Some(Ok(value)) if ask.sets().is_none() => return asker.answer(b"null", &text(&value)),
                Some(Ok(_)) | None => {}
            }
            match (ask.sets(), &ask) {
                (Some((key, value)), _) => {
                    app.settings.lock().insert(key.to_owned(), value);
                    asker.answer(b"null", b"true");
                }
                (None, Ask::Get { key }) => {
                    let value = app.settings.lock().get(key).map(text).unwrap_or_default();
                    asker.answer(b"null", &value);
                }
                (None, _) => asker.answer(b"null", b"null"),
            }
        });
    }

    /// Does what crons want when their time has come, until it is dropped: everybody here is told, and the module that the
    /// action names before its first point is sent `{"method", "cron"}`, as from the master.
    pub(crate) async fn run_crons(&self) {
        let own = Arc::new(ServerIdentity {
            id: self.identity.id.as_str().into(),
            server_type: self.identity.server_type.as_str().into(),
            incarnation: ConnId(0),
        });
        let fire = |cron: Value| {
            tracing::info!(%cron, "the time of a cron has come");
            if let Some((module, message)) = crons::call_of(&cron)
                && self.modules.list(self.role).iter().any(|known| known.as_str() == module)
            {
                let call = Call {
                    source: Source::Server(own.clone()),
                    body: text(&message).into(),
                    arrived: Instant::now(),
                    patience_ms: None,
                    responder: None,
                };
                // A module that is busy for so long misses it, as it would any message.
                if self.modules.deliver(self.role, &module, call).is_some() {
                    tracing::warn!(module, "a cron found its module busy");
                }
            }
            self.announce(&Event::CronFired { cron: cron.into() });
        };
        self.crons.run(fire).await;
    }

    /// Starts servers by this from now on.
    pub(crate) fn start_by(&self, starter: Arc<Starter>) {
        if self.starter.set(starter).is_err() {
            tracing::error!("a master starts servers in one way");
        }
    }

    /// The program that is wrapped.
    pub(crate) fn program(&self) -> Option<&Program> {
        self.program.get()
    }

    /// The process that is reported of; another one is seen.
    pub(crate) fn watched(&self) -> watch::Receiver<u32> {
        self.watched.subscribe()
    }

    /// Whether what this daemon runs gets no time to end.
    pub(crate) fn is_killed(&self) -> bool {
        self.kill.load(Ordering::Relaxed)
    }

    /// The way to the remotes of the servers that are known in this role.
    pub(crate) fn rpc(&self) -> &Arc<Rpc> {
        &self.rpc
    }

    /// Does an operation of `abi::ask` that both roles have; the others are refused.
    pub(crate) fn ask(self: &Arc<Self>, asker: Asker, operation: Operation<'_>) {
        let Operation { op, a, b, n, body } = operation;
        match op {
            ask::FIGURES => {
                let pid = *self.watched.borrow();
                drop(self.runtime.spawn_blocking(move || match figures::of(pid) {
                    Ok(figures) => asker.answer(b"null", Body::of(&figures).unwrap_or_default().as_str().as_bytes()),
                    Err(error) => asker.fail(RequestError::Refused(format!("no figures of process {pid}: {error}"))),
                }));
            }
            ask::RESTART => match self.program.get().cloned() {
                Some(program) => drop(self.runtime.spawn(async move {
                    match program.restart().await {
                        Ok(pid) => asker.answer(b"null", pid.to_string().as_bytes()),
                        Err(why) => asker.fail(RequestError::Refused(why)),
                    }
                })),
                None => asker.fail(RequestError::Refused("this monitor wraps no program".into())),
            },
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
                let pid = *self.watched.borrow();
                self.runtime.spawn(async move {
                    let mailbox = asker.mailbox.clone();
                    let profile = profile::take(pid, Duration::from_millis(duration_ms), format);
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
            ask::APPLICATION => match Ask::of(a, b, value(body)) {
                Some(ask) => self.ask_application(asker, ask),
                None => asker.fail(RequestError::Refused(format!("{a} is nothing that can be asked of settings"))),
            },
            ask::SPAWN => match (self.starter.get().cloned(), value(body)) {
                (Some(starter), Value::Object(fields)) => drop(self.runtime.spawn(async move {
                    match starter.start(fields).await {
                        Ok(pid) => asker.answer(b"null", pid.to_string().as_bytes()),
                        Err(error) => asker.fail(RequestError::Refused(error.to_string())),
                    }
                })),
                (Some(_), _) => asker.fail(RequestError::Refused("a server is described by an object".into())),
                (None, _) => asker.fail(RequestError::Refused("servers are started by the master".into())),
            },
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
                match self.crons.add(cron.clone()) {
                    Ok(written) => drop(self.runtime.spawn(written)),
                    Err(error) => {
                        tracing::warn!(%module, %cron, %error, "a cron is refused");
                        return -1;
                    }
                }
                self.announce(&Event::CronAdded { cron: cron.into() });
            }
            tell::REMOVE_CRON => {
                let cron = value(body);
                let Some(written) = self.crons.remove(&cron) else { return 0 };
                self.runtime.spawn(written);
                self.announce(&Event::CronRemoved { cron: cron.into() });
            }
            tell::BLACKLIST => {
                let addresses = serde_json::from_slice(body).unwrap_or_default();
                self.announce(&Event::Blacklisted { addresses });
            }
            tell::EXPECT_LEAVE => match self.starter.get() {
                Some(starter) => starter.expect_leave(a),
                None => return -1,
            },
            tell::STOP | tell::KILL => {
                if op == tell::KILL {
                    self.kill.store(true, Ordering::Relaxed);
                }
                tracing::info!(%module, after_ms = n, "a module orders this daemon to stop");
                let stop = self.stop.clone();
                self.runtime.spawn(async move {
                    tokio::time::sleep(Duration::from_millis(n)).await;
                    stop.cancel();
                });
            }
            tell::AUDIT => {
                let fields = String::from_utf8_lossy(body);
                tracing::info!(target: crate::audit::TARGET, %module, role = ?self.role, fields = %fields, "{a}");
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
            query::VALUE => self.values.get(module, a).unwrap_or_default(),
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
            query::STARTED => self.starter.get().map(|starter| text(&starter.status())).unwrap_or_default(),
            query::PROGRAM => {
                let status = |program: &Program| Status::to_json(&program.status().borrow());
                self.program.get().map(|program| text(&status(program))).unwrap_or_default()
            }
            query::RPC => text(&self.rpc.list()),
            query::CRONS => text(&json!(self.crons.list())),
            _ => Vec::new(),
        }
    }

    /// Tells all modules of this role, and the server if it takes part. What happens to its own program it knows.
    pub(crate) fn announce(&self, event: &Event) {
        self.rpc.follow(event);
        self.modules.broadcast_event(self.role, event);
        let application = self.application.lock().clone();
        if let Some(application) = application.filter(|_| !matches!(event, Event::ProgramChanged { .. })) {
            application.on_event(event);
        }
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
