//! The trait that an author implements.

use std::{future::Future, time::Duration};

use serde::{Deserialize, de::DeserializeOwned};
use serde_json::Value;

use crate::{
    agent::{Agent, MasterAgent, MonitorAgent},
    event::Event,
    manifest::{Manifest, Role},
    message::{Body, HandlerResult, ModuleError},
};

/// An admin module.
///
/// One instance exists per role of the daemon. All callbacks of all modules of a library run on one thread of their own,
/// never on a thread of the daemon; several calls may be waiting at an `.await` at the same time. Futures need not be
/// `Send`, so `Rc` and `RefCell` serve for state. A callback must not block: while it does, nothing else of the library
/// runs.
///
/// A panic in a callback ends that call with an error and nothing else.
pub trait Module: Sized + 'static {
    /// Describes the module. Called before any instance exists, also by tools that only look.
    fn manifest() -> Manifest;

    /// Makes the instance of one role. Called once per role, before [`Module::start`].
    ///
    /// # Errors
    /// A reason for people: the plugin is refused with it, and what ran before goes on.
    fn create(context: Context) -> Result<Self, ModuleError>;

    /// Called once after [`Module::create`], before any other callback. The plugin serves when all its modules started.
    ///
    /// # Errors
    /// As for [`Module::create`].
    fn start(&self, agent: Agent) -> impl Future<Output = Result<(), ModuleError>> {
        let _unused = agent;
        async { Ok(()) }
    }

    /// In a monitor: a message from the master, or a tick of a push schedule.
    ///
    /// # Errors
    /// Sent to the caller, if it asked for an answer, and logged.
    fn monitor_handler(&self, agent: MonitorAgent, input: Input) -> impl Future<Output = HandlerResult> {
        let _unused = (agent, input);
        async { Err(ModuleError::no_such_handler()) }
    }

    /// In the master: a message from a monitor, or a tick of a pull schedule.
    ///
    /// # Errors
    /// Sent to the caller, if it asked for an answer, and logged.
    fn master_handler(&self, agent: MasterAgent, input: Input) -> impl Future<Output = HandlerResult> {
        let _unused = (agent, input);
        async { Err(ModuleError::no_such_handler()) }
    }

    /// In the master: a message from a client. Who may send it was asked before, see
    /// [`Manifest::commands`](crate::Manifest::commands).
    ///
    /// # Errors
    /// Sent to the caller, if it asked for an answer.
    fn client_handler(&self, agent: MasterAgent, call: ClientCall) -> impl Future<Output = HandlerResult> {
        let _unused = (agent, call);
        async { Err(ModuleError::no_such_handler()) }
    }

    /// Something happened around the module. Events come in their order, but the next may begin before the last is done.
    fn on_event(&self, agent: Agent, event: Event) -> impl Future<Output = ()> {
        let _unused = (agent, event);
        async {}
    }

    /// Hands over what the next generation of this module is to go on with, as any JSON; [`Body::ABSENT`] for nothing.
    ///
    /// Called only if [`Manifest::state`] names a schema version, when a new generation has started whose manifest names
    /// one as well. By then no message, tick or event comes any more; the calls that had begun have ended, or had
    /// `plugins.handover` (1 s) to do so. What the instance still does afterwards (a call that takes longer, a spawned
    /// task) is not handed over, and the log says so.
    ///
    /// It ends nothing: if the new generation does not take the state, or is rolled back later, this instance serves again,
    /// with the state that it has. So export a copy, change nothing, and expect to be asked again.
    ///
    /// It may take as long as `plugins.handover` again, and the state may have `plugins.state_limit` (16 MiB) bytes as JSON.
    ///
    /// # Errors
    /// Logged and shown. A state that cannot be had (an error, a panic, too late, too large) does not stop the
    /// replacement, which may be what mends it: the new instance starts without, and this generation is kept for the
    /// probation, so that `muster plugin rollback` goes back to it and its state.
    fn export_state(&self, agent: Agent) -> impl Future<Output = Result<Body, ModuleError>> {
        let _unused = agent;
        async { Ok(Body::ABSENT) }
    }

    /// Takes over what the generation before this one has exported for the same module in the same role.
    ///
    /// Called at most once, after [`Module::start`] and before any message, tick or event; those wait meanwhile. Not called
    /// when there is nothing to take over: at the start of the daemon, after the plugin was disabled or its file was away,
    /// when the old generation has no such module, or names no state. A worker process (`isolation = "process"`) that is
    /// started for one that died is not given it again either: it would be out of date.
    ///
    /// It may take as long as `plugins.handover`. Which versions of the schema it understands, older or newer ones, is this
    /// method's to decide:
    ///
    /// ```
    /// # use muster_plugin_api::{Agent, Imported, ModuleError, State};
    /// # use std::cell::Cell;
    /// # struct Counter { count: Cell<u64> }
    /// # impl Counter {
    /// async fn import_state(&self, _: Agent, state: State) -> Result<Imported, ModuleError> {
    ///     match state.schema {
    ///         // Version 1 was the bare number.
    ///         1 => self.count.set(state.body.parse()?),
    ///         2 => self.count.set(state.body.parse::<Vec<u64>>()?.into_iter().sum()),
    ///         newer => return Err(format!("its state has schema {newer}, and 2 is the newest that is known").into()),
    ///     }
    ///     Ok(Imported::Taken)
    /// }
    /// # }
    /// ```
    ///
    /// # Errors
    /// The new generation does not serve: the plugin is refused with the reason, and the old generation goes on with all
    /// calls that have waited, and with the state that it has. One module that fails is enough, whatever the others of the
    /// library say. To start all the same, return [`Imported::Empty`].
    fn import_state(&self, agent: Agent, state: State) -> impl Future<Output = Result<Imported, ModuleError>> {
        let _unused = (agent, state);
        async { Ok(Imported::Empty) }
    }

    /// Called once, when no call is left and none will come: the plugin was replaced or removed, or the daemon stops.
    fn stop(&self, agent: Agent) -> impl Future<Output = ()> {
        let _unused = agent;
        async {}
    }
}

/// What an instance is made from.
#[derive(Debug)]
pub struct Context {
    /// The role of this instance.
    pub role: Role,
    /// The options of the module from the configuration, e.g. `--set modules.ID.OPTION=…`.
    pub options: Options,
    /// The host. Keep it if callbacks are not enough: it is cheap to clone.
    pub agent: Agent,
}

/// The options of a module: a JSON object.
#[derive(Debug, Clone, Default)]
pub struct Options(Value);

impl Options {
    pub(crate) fn new(options: Value) -> Options {
        Options(options)
    }

    /// The option `key` as a `T`, or `None` when it is not set.
    ///
    /// # Errors
    /// When it has another shape; the text names the option.
    pub fn get<T: DeserializeOwned>(&self, key: &str) -> Result<Option<T>, ModuleError> {
        match self.0.get(key) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => {
                T::deserialize(value).map(Some).map_err(|error| ModuleError::new(format!("option {key}: {error}")))
            }
        }
    }

    /// All options as a `T`, which says what is missing by `#[serde(default)]`.
    ///
    /// # Errors
    /// When they have another shape.
    pub fn parse<T: DeserializeOwned>(&self) -> Result<T, ModuleError> {
        let options = if self.0.is_null() { &Value::Object(serde_json::Map::new()) } else { &self.0 };
        T::deserialize(options).map_err(|error| ModuleError::new(format!("options: {error}")))
    }
}

/// What a generation hands over to the next: see [`Module::export_state`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct State {
    /// The schema version that the manifest of the one that exported it names ([`Manifest::state`]).
    pub schema: u32,
    /// What it exported. The host passes it on, and does not look into it.
    pub body: Body,
}

/// What [`Module::import_state`] has made of a state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Imported {
    /// The instance goes on with it.
    Taken,
    /// The instance starts without it, as at the start of the daemon. The log and `muster plugin show` say so.
    Empty,
}

/// Why a handler is called.
#[derive(Debug, Clone)]
pub enum Input {
    /// The schedule: there is no message, and nobody to answer.
    Tick,
    /// A peer.
    Message(Message),
}

/// A message from the other side: from a monitor in the master, from the master in a monitor.
#[derive(Debug, Clone)]
pub struct Message {
    /// What was sent.
    pub body: Body,
    /// Who sent it. In a monitor this is the master.
    pub from: Peer,
    /// Whether it is a request, that is, whether an answer is sent. A notify is never answered.
    pub is_request: bool,
    /// How long the caller still waits.
    pub time_left: Duration,
}

/// The sender of a message, as its connection knows it; nothing here comes from the message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// The server id.
    pub id: String,
    /// Its type.
    pub server_type: String,
    /// The incarnation of its connection, as in [`Server::incarnation`](crate::Server::incarnation).
    pub incarnation: u64,
}

/// A message from a client.
#[derive(Debug, Clone)]
pub struct ClientCall {
    /// What was sent. Real clients add `clientId` and `username` to it.
    pub body: Body,
    /// Who sent it.
    pub caller: Caller,
    /// Whether it is a request, that is, whether an answer is sent.
    pub is_request: bool,
    /// How long the caller still waits.
    pub time_left: Duration,
}

/// A logged-in client, as its connection knows it; nothing here comes from the message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// The connection.
    pub connection: u64,
    /// The id under which it logged in.
    pub client_id: String,
    /// The user.
    pub user: String,
    /// The user's level: 1 may do everything, 0 stands for none.
    pub level: u32,
}

impl ClientCall {
    /// Requires that the caller's user has this level or a better (lower) one: for what depends on more than the name of a
    /// command, which the master has asked about already (see [`Manifest::commands`](crate::Manifest::commands)).
    ///
    /// The texts and their order are the original's (`ConsoleService`, access control), but the identity is the
    /// connection's: there the body's `clientId` decided, which anybody could forge.
    ///
    /// # Errors
    /// `Unknow clientId`, `Client info error` or `Command permission denied`.
    pub fn require_level(&self, level: u32) -> Result<(), ModuleError> {
        match (self.claimed_identity()?, self.caller.level) {
            (None, _) => Err(ModuleError::new("Unknow clientId")),
            (Some(claimed), _) if claimed != self.caller.client_id => Err(ModuleError::new("Client info error")),
            (Some(_), 0) => Err(ModuleError::new("Client info error")),
            (Some(_), own) if own > level => Err(ModuleError::new("Command permission denied")),
            (Some(_), _) => Ok(()),
        }
    }

    fn claimed_identity(&self) -> Result<Option<String>, ModuleError> {
        #[derive(Deserialize)]
        struct Claim {
            #[serde(default, rename = "clientId")]
            client_id: Option<Value>,
        }
        // A body that is no object claims nothing.
        let claim = self.body.parse::<Claim>().ok().and_then(|claim| claim.client_id);
        match claim {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(id)) if id.is_empty() => Ok(None),
            Some(Value::String(id)) => Ok(Some(id)),
            Some(_) => Err(ModuleError::new("Client info error")),
        }
    }
}
