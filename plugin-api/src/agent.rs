//! The host as a module sees it: agents for both roles.

use std::{collections::BTreeMap, fmt, future::Future, ops::Deref, rc::Rc, time::Duration};

use abi_stable::std_types::{RSlice, RStr};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    abi::{ask, query, tell},
    app::App,
    event::Server,
    manifest::Role,
    message::{Answer, Body, ModuleError, RequestError},
    runtime::Shared,
};

/// How bad a log line is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u32)]
pub enum Level {
    /// Something failed that should not.
    Error = 1,
    /// Something is odd.
    Warn = 2,
    /// Something an operator wants to know.
    Info = 3,
    /// For those who look for a fault.
    Debug = 4,
    /// Everything.
    Trace = 5,
}

/// The services that both roles offer. Cheap to clone; belongs to the module's thread.
#[derive(Clone)]
pub struct Agent {
    pub(crate) shared: Rc<Shared>,
    pub(crate) instance: u32,
    pub(crate) module: Rc<str>,
    pub(crate) role: Role,
}

/// The services of the master. Also offers all of [`Agent`].
#[derive(Debug, Clone)]
pub struct MasterAgent(Agent);

/// The services of a monitor. Also offers all of [`Agent`].
#[derive(Debug, Clone)]
pub struct MonitorAgent(Agent);

/// Which of several servers with one id is meant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerAddress {
    /// The server id.
    pub id: String,
    /// `info.host`.
    pub host: String,
    /// `info.port`, if it has one.
    pub port: Option<u16>,
}

// === impl Agent ===

impl Agent {
    /// The role of this instance.
    pub fn role(&self) -> Role {
        self.role
    }

    /// The id of this module.
    pub fn module_id(&self) -> &str {
        &self.module
    }

    /// The master's services, in the master.
    pub fn master(&self) -> Option<MasterAgent> {
        (self.role == Role::Master).then(|| MasterAgent(self.clone()))
    }

    /// The monitor's services, in a monitor.
    pub fn monitor(&self) -> Option<MonitorAgent> {
        (self.role == Role::Monitor).then(|| MonitorAgent(self.clone()))
    }

    /// What the daemon itself offers: figures, settings, the directory of servers.
    pub fn app(&self) -> App {
        App::new(self.clone())
    }

    /// Writes to the daemon's log, tagged with module and generation.
    pub fn log(&self, level: Level, message: impl fmt::Display) {
        self.shared.host.log(self.instance, level as u32, RStr::from_str(&message.to_string()), RStr::from_str(""));
    }

    /// As [`Agent::log`], with an object of fields.
    pub fn log_with(&self, level: Level, message: impl fmt::Display, fields: &Value) {
        let (message, fields) = (message.to_string(), fields.to_string());
        self.shared.host.log(self.instance, level as u32, RStr::from_str(&message), RStr::from_str(&fields));
    }

    /// Writes a line where orders are recorded, with an object of fields. To be called before the effect, so that no
    /// effect is without its line; never with a secret in it. False if the host keeps no such record: it is in the log,
    /// then.
    pub fn audit(&self, what: impl fmt::Display, fields: &Value) -> bool {
        let what = what.to_string();
        let recorded = self.tell(tell::AUDIT, &what, "", 0, &fields.into());
        if !recorded {
            self.log_with(Level::Info, what, fields);
        }
        recorded
    }

    /// Waits. Counted on the monotonic clock.
    pub async fn sleep(&self, duration: Duration) {
        let ms = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        // A refused timer can only mean that the module is stopping: the task is about to be dropped.
        drop(self.ask(ask::SLEEP, "", "", ms, &Body::ABSENT).await);
    }

    /// Lets `task` run beside the callbacks, on the module's thread, until it ends or the module stops.
    pub fn spawn(&self, task: impl Future<Output = ()> + 'static) {
        self.shared.spawn(task);
    }

    /// Stores a value. Values belong to the host: they outlive a replacement of the plugin.
    pub fn put(&self, key: &str, value: impl Into<Body>) {
        self.tell(tell::PUT, key, "", 0, &value.into());
    }

    /// The value `key`, or `None`.
    pub fn get(&self, key: &str) -> Option<Body> {
        let value = self.query(query::VALUE, key, "");
        (!value.is_absent()).then_some(value)
    }

    /// Removes the value `key`.
    pub fn remove(&self, key: &str) {
        self.tell(tell::REMOVE, key, "", 0, &Body::ABSENT);
    }

    /// All values: a JSON object, absent when nothing was ever stored.
    pub fn entries(&self) -> Body {
        self.query(query::VALUES, "", "")
    }

    pub(crate) fn ask(
        &self,
        op: u32,
        a: &str,
        b: &str,
        n: u64,
        body: &Body,
    ) -> impl Future<Output = Result<Answer, RequestError>> + use<> {
        self.shared.ask(self.instance, op, a, b, n, body.wire())
    }

    pub(crate) fn tell(&self, op: u32, a: &str, b: &str, n: u64, body: &Body) -> bool {
        let host = &self.shared.host;
        host.tell(self.instance, op, RStr::from_str(a), RStr::from_str(b), n, RSlice::from_slice(body.wire())) > 0
    }

    pub(crate) fn query(&self, op: u32, a: &str, b: &str) -> Body {
        Body::from_wire(&self.shared.host.query(self.instance, op, RStr::from_str(a), RStr::from_str(b)))
    }
}

impl fmt::Debug for Agent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { shared: _, instance, module, role } = self;
        f.debug_struct("Agent").field("module", module).field("role", role).field("instance", instance).finish()
    }
}

// === impl MasterAgent ===

impl MasterAgent {
    pub(crate) fn new(agent: Agent) -> MasterAgent {
        MasterAgent(agent)
    }

    /// Asks `module` of the server `id`, and waits for its answer or the host's deadline (15 s).
    ///
    /// # Errors
    /// When no answer came: see [`RequestError`]. An answer with an error in it is an [`Answer`].
    pub async fn request(&self, id: &str, module: &str, body: impl Into<Body>) -> Result<Answer, RequestError> {
        self.ask(ask::REQUEST, id, module, 0, &body.into()).await
    }

    /// As [`MasterAgent::request`], with a deadline.
    ///
    /// # Errors
    /// As for [`MasterAgent::request`].
    pub async fn request_within(
        &self,
        timeout: Duration,
        id: &str,
        module: &str,
        body: impl Into<Body>,
    ) -> Result<Answer, RequestError> {
        self.ask(ask::REQUEST, id, module, millis(timeout), &body.into()).await
    }

    /// Asks `module` of the one server with this id *and* address: the way to a slave.
    ///
    /// # Errors
    /// As for [`MasterAgent::request`].
    pub async fn request_server(
        &self,
        server: &ServerAddress,
        module: &str,
        body: impl Into<Body>,
    ) -> Result<Answer, RequestError> {
        self.ask(ask::REQUEST_SERVER, &address(server), module, 0, &body.into()).await
    }

    /// Asks `module` of every server (not the slaves) and gathers what comes within `timeout`.
    ///
    /// # Errors
    /// For every server that gave no answer, in its place.
    pub async fn request_all(
        &self,
        timeout: Duration,
        module: &str,
        body: impl Into<Body>,
    ) -> Vec<(String, Result<Answer, RequestError>)> {
        #[derive(Deserialize)]
        struct One {
            id: String,
            #[serde(default)]
            error: Option<Body>,
            #[serde(default)]
            body: Option<Body>,
            #[serde(default)]
            failed: Option<RequestError>,
        }
        let gathered = self.ask(ask::REQUEST_ALL, "", module, millis(timeout), &body.into()).await;
        let all: Vec<One> = match gathered {
            Ok(Answer::Reply { body, .. }) => body.parse().unwrap_or_default(),
            Ok(Answer::Silence) | Err(_) => Vec::new(),
        };
        all.into_iter()
            .map(|one| {
                let answer = match one.failed {
                    Some(failed) => Err(failed),
                    None => {
                        Ok(Answer::Reply { error: one.error.unwrap_or_default(), body: one.body.unwrap_or_default() })
                    }
                };
                (one.id, answer)
            })
            .collect()
    }

    /// Notifies `module` of the server `id`; false if there is none.
    pub fn notify_by_id(&self, id: &str, module: &str, body: impl Into<Body>) -> bool {
        self.tell(tell::NOTIFY, id, module, 0, &body.into())
    }

    /// Notifies `module` of the one server with this id and address; false if there is none.
    pub fn notify_by_server(&self, server: &ServerAddress, module: &str, body: impl Into<Body>) -> bool {
        self.tell(tell::NOTIFY_SERVER, &address(server), module, 0, &body.into())
    }

    /// Notifies `module` of the slaves of the server `id`; false if there are none.
    pub fn notify_slaves_by_id(&self, id: &str, module: &str, body: impl Into<Body>) -> bool {
        self.tell(tell::NOTIFY_SLAVES, id, module, 0, &body.into())
    }

    /// Notifies `module` of every server of a type (not the slaves); false if there is none.
    pub fn notify_by_type(&self, server_type: &str, module: &str, body: impl Into<Body>) -> bool {
        self.tell(tell::NOTIFY_TYPE, server_type, module, 0, &body.into())
    }

    /// Notifies `module` of every server (not the slaves).
    pub fn notify_all(&self, module: &str, body: impl Into<Body>) -> bool {
        self.tell(tell::NOTIFY_ALL, "", module, 0, &body.into())
    }

    /// Notifies `module` of the client `id`; false if there is none.
    pub fn notify_client(&self, id: &str, module: &str, body: impl Into<Body>) -> bool {
        self.tell(tell::NOTIFY_CLIENT, id, module, 0, &body.into())
    }

    /// The registered servers, slaves included, in order of registration.
    pub fn servers(&self) -> Vec<Server> {
        self.query(query::SERVERS, "", "").parse().unwrap_or_default()
    }

    /// Drops the requests to `module` of the server `id` that still wait for an answer: what they said is outdated.
    /// Their callers get an error.
    pub fn forget_requests(&self, id: &str, module: &str) {
        self.tell(tell::FORGET, id, module, 0, &Body::ABSENT);
    }
}

impl Deref for MasterAgent {
    type Target = Agent;

    fn deref(&self) -> &Agent {
        &self.0
    }
}

// === impl MonitorAgent ===

impl MonitorAgent {
    pub(crate) fn new(agent: Agent) -> MonitorAgent {
        MonitorAgent(agent)
    }

    /// Asks `module` of the master.
    ///
    /// # Errors
    /// When no answer came, also because there is no link: see [`RequestError`].
    pub async fn request(&self, module: &str, body: impl Into<Body>) -> Result<Answer, RequestError> {
        self.ask(ask::REQUEST, "", module, 0, &body.into()).await
    }

    /// As [`MonitorAgent::request`], with a deadline.
    ///
    /// # Errors
    /// As for [`MonitorAgent::request`].
    pub async fn request_within(
        &self,
        timeout: Duration,
        module: &str,
        body: impl Into<Body>,
    ) -> Result<Answer, RequestError> {
        self.ask(ask::REQUEST, "", module, millis(timeout), &body.into()).await
    }

    /// Notifies `module` of the master; false while there is no link (the original drops it, too).
    pub fn notify(&self, module: &str, body: impl Into<Body>) -> bool {
        self.tell(tell::NOTIFY, "", module, 0, &body.into())
    }

    /// The id of this server.
    pub fn server_id(&self) -> String {
        self.app().info().id
    }

    /// The type of this server.
    pub fn server_type(&self) -> String {
        self.app().info().server_type
    }

    /// The other servers, as far as the watchdog told: id → info.
    pub fn directory(&self) -> BTreeMap<String, Body> {
        self.app().servers()
    }
}

impl Deref for MonitorAgent {
    type Target = Agent;

    fn deref(&self) -> &Agent {
        &self.0
    }
}

pub(crate) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX).max(1)
}

fn address(server: &ServerAddress) -> String {
    Body::of(server).as_ref().map_or("null", Body::as_str).to_owned()
}

impl From<ModuleError> for RequestError {
    fn from(error: ModuleError) -> RequestError {
        RequestError::Refused(error.message().to_owned())
    }
}
