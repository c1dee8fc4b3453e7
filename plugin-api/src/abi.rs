//! The binary interface between a host and a plugin, and the only file that knows `abi_stable`'s macros.
//!
//! Everything that crosses is borrowed for the length of one call: each side copies what it keeps. No future, no waker
//! and no buffer of one side is ever owned by the other, so that a library can be unmapped without leaving a pointer
//! behind. (The one exception, [`HostApi::query`], returns a buffer of the *host's*, which outlives the plugin.)
//!
//! # How it may change
//! Append trait methods with a default body, append fields to [`PluginRoot`], add kinds and operations. By-value structs
//! ([`Mail`]) never change. What a kind or operation means is data; the names are below.
#![expect(
    unsafe_code,
    non_local_definitions,
    clippy::too_many_arguments,
    missing_debug_implementations,
    reason = "abi_stable's macros write unsafe code and types of their own; they are kept to this file"
)]

use abi_stable::{
    StableAbi,
    library::RootModule,
    package_version_strings, sabi_trait,
    sabi_types::VersionStrings,
    std_types::{RArc, RBox, RResult, RSlice, RStr, RString, RVec},
};

/// What the host does for a plugin. Its code lives in the executable, so it outlives every plugin.
///
/// `instance` is the number that the host gave to a module's instance with [`kind::START`].
#[sabi_trait]
pub trait HostApi: Clone + Send + Sync + 'static {
    /// Writes to the host's log. `level` is 1 (error) to 5 (trace), `fields` a JSON object or empty.
    fn log(&self, instance: u32, level: u32, message: RStr<'_>, fields: RStr<'_>);
    /// Ends the call with this id. `status` is one of [`status`]. Empty slices are absent fields.
    fn reply(&self, call: u64, status: u32, error: RSlice<'_, u8>, body: RSlice<'_, u8>);
    /// Starts an operation of [mod@ask]. Its outcome comes as a [`kind::COMPLETE`] with this `id`.
    fn ask(&self, instance: u32, id: u64, op: u32, a: RStr<'_>, b: RStr<'_>, n: u64, body: RSlice<'_, u8>);
    /// Does an operation of [mod@tell] at once. The result is 1 (done), 0 (nobody there) or -1 (refused).
    fn tell(&self, instance: u32, op: u32, a: RStr<'_>, b: RStr<'_>, n: u64, body: RSlice<'_, u8>) -> i64;
    /// Reads something of [mod@query]. Empty when there is nothing.
    fn query(&self, instance: u32, op: u32, a: RStr<'_>, b: RStr<'_>) -> RVec<u8>;
    /// Asks for a call of [`RawPlugin::turn`], from any thread.
    #[sabi(last_prefix_field)]
    fn wake(&self);
}

/// The host as a plugin holds it.
pub type HostObj = HostApi_TO<RArc<()>>;

/// All modules of one library. Thread-bound: created, called and dropped on one thread.
#[sabi_trait]
pub trait RawPlugin {
    /// Delivers `mail` in order, then lets every task run that can.
    #[sabi(last_prefix_field)]
    fn turn(&self, mail: RSlice<'_, Mail<'_>>);
}

/// A plugin as the host holds it.
pub type PluginObj = RawPlugin_TO<'static, RBox<()>>;

/// One thing that is delivered to a plugin. Which fields mean something depends on [`kind`].
#[repr(C)]
#[derive(StableAbi, Clone, Copy)]
pub struct Mail<'a> {
    /// What it is: one of [`kind`].
    pub kind: u32,
    /// For whom.
    pub instance: u32,
    /// The call to answer, or the operation that is complete; 0 for none.
    pub id: u64,
    /// Flags or a status, by kind.
    pub status: u32,
    /// The level of a caller; 0 for none.
    pub level: u32,
    /// The connection of the sender.
    pub connection: u64,
    /// Milliseconds until the call's deadline.
    pub left_ms: u64,
    /// First name, by kind.
    pub a: RStr<'a>,
    /// Second name, by kind.
    pub b: RStr<'a>,
    /// JSON, or empty for absent.
    pub error: RSlice<'a, u8>,
    /// JSON, or empty for absent.
    pub body: RSlice<'a, u8>,
}

/// What a library exports.
#[repr(C)]
#[derive(StableAbi)]
#[sabi(kind(Prefix(prefix_ref = PluginRootRef)))]
#[sabi(missing_field(option))]
pub struct PluginRoot {
    /// A [`PluginManifest`](crate::PluginManifest) as JSON.
    pub manifest: extern "C" fn() -> RString,
    /// Makes the plugin, with no instances yet. The error is a sentence.
    #[sabi(last_prefix_field)]
    pub create: extern "C" fn(HostObj) -> RResult<PluginObj, RString>,
    /// Does the job with this number, which the plugin asked for with [`ask::BLOCKING`]; on any thread, once. Returns when
    /// it is done, or at once if it is not wanted any more. Missing in plugins that were built before 1.1.
    pub run: extern "C" fn(u64),
}

impl RootModule for PluginRootRef {
    abi_stable::declare_root_module_statics! {PluginRootRef}
    const BASE_NAME: &'static str = "muster_plugin";
    const NAME: &'static str = "muster_plugin";
    const VERSION_STRINGS: VersionStrings = package_version_strings!();
}

/// Kinds of [`Mail`].
pub mod kind {
    /// Create and start an instance: `a` its module id, `b` its role, `body` its options; answer the call `id`.
    pub const START: u32 = 1;
    /// `master_handler` or `monitor_handler`, by role: from server `a` of type `b`; `id` 0 for a notify.
    pub const MESSAGE: u32 = 2;
    /// `client_handler`: from client `a`, user `b`, `level`; `id` 0 for a notify.
    pub const CLIENT: u32 = 3;
    /// A tick of the schedule.
    pub const TICK: u32 = 4;
    /// An [`Event`](crate::Event) as JSON in `body`; `instance` is [`EVERYONE`] or one.
    pub const EVENT: u32 = 5;
    /// The operation `id` is over: `status` is one of [`outcome`](super::outcome).
    pub const COMPLETE: u32 = 6;
    /// Stop the instance; answer the call `id`.
    pub const STOP: u32 = 7;
    /// Hand over the instance's state, within `left_ms`; answer the call `id`: [`ANSWER`](super::status::ANSWER) with the
    /// state as body, or [`SILENCE`](super::status::SILENCE) for none. Sent only if the manifest names a state.
    pub const EXPORT: u32 = 8;
    /// Take over the state in `body`, of the schema version `status`, within `left_ms`; answer the call `id`:
    /// [`ANSWER`](super::status::ANSWER) for taken, [`SILENCE`](super::status::SILENCE) for starting without it. Sent once,
    /// after `START` and before anything else, and only if the manifest names a state.
    pub const IMPORT: u32 = 9;

    /// All instances of the library.
    pub const EVERYONE: u32 = u32::MAX;
}

/// How a call ended: [`HostApi::reply`].
pub mod status {
    /// `error` and `body` are the answer.
    pub const ANSWER: u32 = 0;
    /// Nothing is to be sent.
    pub const SILENCE: u32 = 1;
    /// The module has no such handler.
    pub const NO_SUCH_HANDLER: u32 = 2;
    /// The handler panicked; `body` is the text, as a JSON string.
    pub const PANIC: u32 = 3;
    /// `START`, `EXPORT` or `IMPORT` failed; `body` is the reason, as a JSON string.
    pub const FAILED: u32 = 4;
    /// The handler failed: `error` and `body` are the answer that says so. Unlike [`ANSWER`], whose error slot may hold
    /// a result.
    pub const ERROR: u32 = 5;
}

/// How an operation ended: [`kind::COMPLETE`].
pub mod outcome {
    /// The peer answered: `error` and `body` are its answer.
    pub const ANSWER: u32 = 0;
    /// It came to no answer: `body` is a [`RequestError`](crate::RequestError) as JSON.
    pub const FAILED: u32 = 1;
}

/// Operations of [`HostApi::ask`]. `n` is a timeout in milliseconds, 0 for the default.
pub mod ask {
    /// Master: ask server `a`'s module `b`. Monitor: ask the master's module `b`.
    pub const REQUEST: u32 = 1;
    /// Master: ask module `b` of the one server that is described by the JSON `a` (`{"id", "host", "port"}`).
    pub const REQUEST_SERVER: u32 = 2;
    /// Master: ask module `b` of every server. The answer's body is a list of `{"id", "error", "body", "failed"}`.
    pub const REQUEST_ALL: u32 = 3;
    /// Done after `n` milliseconds.
    pub const SLEEP: u32 = 4;
    /// The process that is watched: [`Figures`](crate::Figures).
    pub const FIGURES: u32 = 5;
    /// Master: start a server process from its info in `body`. The answer's body is its pid.
    pub const SPAWN: u32 = 6;
    /// Call a remote: of the server `a`, or of the one of type `a` that the key `b` belongs to. `body` is
    /// `{"namespace", "service", "method", "args"}`. The answer's error is the first argument of the remote's callback,
    /// its body a list of the others.
    pub const RPC: u32 = 7;
    /// Take a profile of the process that is watched: `body` is `{"durationMs", "format"}`, the answer's body a
    /// [`CpuProfile`](crate::CpuProfile).
    pub const PROFILE: u32 = 8;
    /// Monitor: end the program that it wraps, and start it again. The answer's body is the new pid.
    pub const RESTART: u32 = 9;
    /// Monitor: ask the server for its setting `b`: `a` is `get`, `set` to `body`, `enable` or `disable`. The answer's body is
    /// the value of a `get`.
    pub const APPLICATION: u32 = 10;
    /// Have the job `n` done by [`PluginRoot::run`](super::PluginRoot::run) on a thread that may block.
    pub const BLOCKING: u32 = 11;
}

/// Operations of [`HostApi::tell`].
pub mod tell {
    /// Master: notify server `a`'s module `b`. Monitor: notify the master's module `b`.
    pub const NOTIFY: u32 = 1;
    /// Master: notify module `b` of the one server that is described by the JSON `a`.
    pub const NOTIFY_SERVER: u32 = 2;
    /// Master: notify module `b` of the slaves of server `a`.
    pub const NOTIFY_SLAVES: u32 = 3;
    /// Master: notify module `b` of every server of type `a`.
    pub const NOTIFY_TYPE: u32 = 4;
    /// Master: notify module `b` of every server.
    pub const NOTIFY_ALL: u32 = 5;
    /// Master: notify module `b` of client `a`.
    pub const NOTIFY_CLIENT: u32 = 6;
    /// Store `body` as the module's value `a`.
    pub const PUT: u32 = 7;
    /// Remove the module's value `a`.
    pub const REMOVE: u32 = 8;
    /// Set the application's setting `a` to `body`.
    pub const SET_SETTING: u32 = 9;
    /// Directory: add the server `a` with the info in `body`.
    pub const ADD_SERVER: u32 = 10;
    /// Directory: remove the server `a`.
    pub const REMOVE_SERVER: u32 = 11;
    /// Directory: replace it with the map in `body`.
    pub const REPLACE_SERVERS: u32 = 12;
    /// Tell everybody here that the whole fleet is up.
    pub const START_OVER: u32 = 13;
    /// Add the cron in `body`.
    pub const ADD_CRON: u32 = 14;
    /// Remove the cron in `body`.
    pub const REMOVE_CRON: u32 = 15;
    /// Turn away the addresses in `body`, a list.
    pub const BLACKLIST: u32 = 16;
    /// Stop this daemon in an orderly way, after `n` milliseconds.
    pub const STOP: u32 = 17;
    /// Forget what is still waiting for an answer of server `a`'s module `b`.
    pub const FORGET: u32 = 18;
    /// Write the line `a` with the fields in `body`, an object, where orders are recorded.
    pub const AUDIT: u32 = 19;
    /// Publish what the application tells of its connections: `body`.
    pub const PUBLISH_CONNECTIONS: u32 = 20;
    /// Code of the module is about to run, for a mail of kind `n`; 0 for a task of its own. Told before each piece of
    /// work in a turn, so that whoever watches from outside can say which handler does not return.
    pub const STEP: u32 = 21;
    /// End the profile that is being taken.
    pub const END_PROFILE: u32 = 22;
    /// End what this daemon runs at once, with SIGKILL, and stop it, after `n` milliseconds.
    pub const KILL: u32 = 23;
    /// Master: server `a` is about to leave because somebody ordered it, so it is not to be brought back.
    pub const EXPECT_LEAVE: u32 = 24;
    /// Metric: add `n` to the counter `a`.
    pub const COUNT: u32 = 25;
    /// Metric: set the gauge `a` to the number in `body`.
    pub const GAUGE: u32 = 26;
    /// Metric: note the number in `body` in the histogram `a`.
    pub const OBSERVE: u32 = 27;
}

/// Reads of [`HostApi::query`].
pub mod query {
    /// The module's value `a`.
    pub const VALUE: u32 = 1;
    /// All values of the module: an object.
    pub const VALUES: u32 = 2;
    /// Own info: an object. Of the server in a monitor, of the master in the master.
    pub const INFO: u32 = 3;
    /// The setting `a`, or with an empty `a` an object of all.
    pub const SETTING: u32 = 4;
    /// The directory, an object id → info; with `a` that of one type.
    pub const DIRECTORY: u32 = 5;
    /// The ids of the modules here, in their order.
    pub const MODULES: u32 = 6;
    /// Master: the registered servers, a list of [`Server`](crate::Server).
    pub const SERVERS: u32 = 7;
    /// The servers that the configuration names (`servers.json`): a list of infos.
    pub const FLEET: u32 = 8;
    /// The crons that are known here, a list.
    pub const CRONS: u32 = 9;
    /// What the application tells of its connections, empty if nothing was published.
    pub const CONNECTIONS: u32 = 10;
    /// The servers that are known here, and whether they can be called: a list of [`Callee`](crate::Callee).
    pub const RPC: u32 = 11;
    /// Monitor: the program that it wraps, as [`Event::ProgramChanged`](crate::Event::ProgramChanged) tells it; empty if
    /// there is none.
    pub const PROGRAM: u32 = 12;
    /// Master: the servers that it started: an object id → status of the process, as of [`PROGRAM`].
    pub const STARTED: u32 = 13;
}
