//! What the author of a Muster admin module sees.
//!
//! A module is a type that implements [`Module`]; a library exports one or more of them with [`export_modules!`]. Built
//! as a `cdylib` and dropped into the plugin directory of a running `muster master` or `muster monitor`, it is checked,
//! loaded, and from then on replaced whenever the file is.
//!
//! ```
//! use muster_plugin_api::{
//!     Answer, ClientCall, Context, HandlerResult, Input, Manifest, MasterAgent, Module, ModuleError, MonitorAgent,
//!     Schedule, export_modules,
//! };
//! use serde_json::json;
//!
//! /// Every five seconds the master asks all monitors for their load; clients read what was collected.
//! struct Load;
//!
//! impl Module for Load {
//!     fn manifest() -> Manifest {
//!         Manifest::new("load", env!("CARGO_PKG_VERSION")).schedule(Schedule::pull(5.0))
//!     }
//!
//!     fn create(_: Context) -> Result<Load, ModuleError> {
//!         Ok(Load)
//!     }
//!
//!     async fn monitor_handler(&self, agent: MonitorAgent, _: Input) -> HandlerResult {
//!         let load = std::fs::read_to_string("/proc/loadavg").map_err(|error| error.to_string())?;
//!         agent.notify("load", json!({ "serverId": agent.server_id(), "load": load.trim() }));
//!         Ok(Answer::Silence)
//!     }
//!
//!     async fn master_handler(&self, agent: MasterAgent, input: Input) -> HandlerResult {
//!         match input {
//!             Input::Tick => drop(agent.notify_all("load", ())),
//!             Input::Message(message) => agent.put(&message.from.id, &message.body),
//!         }
//!         Ok(Answer::Silence)
//!     }
//!
//!     async fn client_handler(&self, agent: MasterAgent, _: ClientCall) -> HandlerResult {
//!         Ok(Answer::ok(agent.entries()))
//!     }
//! }
//!
//! export_modules!(Load);
//! # fn main() {}
//! ```
//!
//! # Threads
//! All modules of a library share one thread, which is theirs alone. Callbacks are `async`: several may be waiting at an
//! `.await`, but only one runs. A callback that blocks stops its library, and nothing else. What arrives is seen in its
//! order, answers included: whoever waits for an answer goes on before a later message is handled.
//!
//! # Panics
//! A panic ends the callback it happens in: the caller gets an error, the log the text. `panic = "abort"` is refused.
//!
//! # Who may do what
//! The master asks before a client's message reaches a module. A module declares which of its commands only look
//! ([`Manifest::commands`], [`Manifest::only_looks`]): these are open to every user who is logged in. Everything else, and
//! all of a module that declares nothing, is for administrators, and recorded.
//!
//! # Replacement
//! When the file is replaced, the new generation is created and started beside the old one; then messages go to the new
//! one, the old one ends what it has begun (5 s), is stopped, dropped, and unmapped. Values stored with [`Agent::put`]
//! belong to the host and outlive this; what an instance holds itself does not, unless it hands it over.
//!
//! # State
//! A module whose manifest names a schema version ([`Manifest::state`]) hands over what it holds:
//! [`Module::export_state`] of the old instance, then [`Module::import_state`] of the new one, per module and role, of
//! threads and worker processes alike. The order is made so that nothing is lost in between:
//!
//! 1. The new generation is created and started. The old one serves.
//! 2. Messages go to the new generation, where they wait in its mailbox. The old one ends what it has begun
//!    (`plugins.handover`, 1 s), then it is asked for its state: no call can change it afterwards unseen.
//! 3. The new one imports it, and is given what has waited. Or it fails: then the old one is given what has waited, in its
//!    order, and serves on as if nothing had happened; the plugin is refused with the reason.
//!
//! To export while the old one serves would need no pause, but lose what calls change between the export and the switch.
//! So there is one, for those modules alone, as long as the two callbacks take. After a roll-back the old generation has
//! the state that it had at the switch: what the new one did is no state to go on with. What has to survive anything,
//! also the end of a worker process, belongs into [`Agent::put`].
//!
//! # When what is called
//! Always on the module's thread. The deadline is what the caller waits; the host cuts nothing off at it, but answers in
//! the module's place, and drops an answer that comes later.
//!
//! | callback | when | until |
//! |---|---|---|
//! | [`Module::manifest`] | before anything, also in a child that only vets the file and by `muster plugin check` | 2 s, then the file is refused |
//! | [`Module::create`] | once per role of the daemon | 10 s with `start`, then the file is refused |
//! | [`Module::start`] | after it, before anything else; with it the old generation still serves | as for `create` |
//! | [`Module::import_state`] | after it, if a generation before has handed something over | 1 s, then the old one serves on |
//! | [`Module::monitor_handler`] | monitor: a message of the master, a tick of a push schedule | the caller's deadline (15 s, [`Manifest::deadline`]) |
//! | [`Module::master_handler`] | master: a message of a monitor, a tick of a pull schedule | the same |
//! | [`Module::client_handler`] | master: a message of a client | the same |
//! | [`Module::on_event`] | something happened around it | none; the next event does not wait |
//! | [`Module::export_state`] | before a new generation takes over | 1 s, then the new one starts without |
//! | [`Module::stop`] | when no call is left: replaced, removed, disabled, or the daemon ends | 2 s, then it is dropped |
//!
//! None of them may block: that stops all modules of the library, and after the deadline the library is taken for hung, and
//! refused further calls. What may: [`Agent::spawn_blocking`], on threads of the host. What waits without blocking:
//! [`Agent::sleep`], the requests of [`MasterAgent`] and [`MonitorAgent`], [`Agent::spawn`] for what goes on beside the
//! callbacks. So a plugin needs no runtime, and must not bring one.
//!
//! # What outlives what
//! | | a call | a reload | the worker's end | the daemon's end |
//! |---|---|---|---|---|
//! | a local variable | | | | |
//! | the instance, a `static`, a task of [`Agent::spawn`] | yes | | | |
//! | a job of [`Agent::spawn_blocking`] that has begun | yes | yes, and the library stays in memory as long | | |
//! | what is handed over ([`Manifest::state`]) | yes | yes | | |
//! | values ([`Agent::put`]), settings, crons, the directory | yes | yes | yes | |
//! | metrics ([`Agent::metrics`]) | yes | | yes | |
//! | options, from the configuration | yes | yes | yes | yes |
//!
//! # Logs and metrics
//! [`Agent::log`] and panics go to the daemon's log, with `module` and `generation`; so do audit lines. [`Agent::metrics`]
//! is kept by the daemon, by module, role and generation.
//!
//! # Cookbook
//! The plugins that come with the project use nothing but this crate; each is a recipe.
//!
//! | to | see |
//! |---|---|
//! | collect something at an interval | `plugins/time-report`: the whole of it in seventy lines |
//! | report when it changes, and keep a table | `plugins/system-info`, `plugins/node-info` |
//! | offer commands to clients, with levels and an audit line | `plugins/console`: `args.rs`, `client.rs` |
//! | know who comes and goes, and tell others | `plugins/watchdog`: `roster.rs` is pure, `master.rs` acts |
//! | act on the server that is watched | `plugins/watch-server` |
//! | read files of the machine safely | `plugins/monitor-log`, and `plugins/beneath` below it |
//! | run scripts, with limits | `plugins/scripts`, and `plugins/sandbox` below it |
//! | hand over state, block, measure, and test all of that | `tests/third-party/disk-usage`, a crate of its own |
//!
//! `muster plugin new NAME` begins a crate; `testing` (a feature of this one) tests it; `muster plugin check`, `test` and `dev` take it further.
//! Which file is loaded by which host says `ABI.md` beside this crate's `Cargo.toml`, and `CHANGELOG.md` what is new.
//!
//! # What a library must not do
//! Leave a thread behind; print; call `process::exit`; bring a runtime of its own; need a C++ library. Timers, requests and
//! threads for what blocks come from the [`Agent`].

pub mod abi;
mod agent;
mod app;
mod blocking;
mod event;
mod export;
#[cfg(feature = "loader")]
pub mod loader;
mod manifest;
mod message;
mod metrics;
mod module;
mod profile;
mod rpc;
mod runtime;
mod schedule;
mod tasks;
#[cfg(feature = "testing")]
pub mod testing;

/// The version of this crate: of the interface that a plugin was built with, or that a host has.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

pub use agent::{Agent, Level, MasterAgent, MonitorAgent, ServerAddress};
pub use app::{App, Change, Figures, Info};
pub use event::{Event, Server};
pub use manifest::{Commands, Manifest, PluginManifest, Role};
pub use message::{Answer, Body, HandlerResult, Json, ModuleError, RequestError};
pub use metrics::Metrics;
pub use module::{Caller, ClientCall, Context, Imported, Input, Message, Module, Options, Peer, State};
pub use profile::{CpuProfile, ProfileFormat};
pub use rpc::{Callee, RpcTarget};
pub use schedule::{Pace, Schedule, ScheduleKind};
/// For `#[derive(Deserialize)] #[serde(crate = "muster_plugin_api::serde")]`, so that a plugin needs no other dependency.
pub use serde;
pub use serde_json;

#[doc(hidden)]
pub mod __private {
    pub use abi_stable::{
        library::{__call_root_module_loader as load_root, CheckTypeLayout, LibHeader, RootModuleResult},
        prefix_type::{PrefixTypeTrait, WithMetadata},
        std_types::{RResult, RString},
    };

    pub use crate::{
        abi::{HostObj, PluginObj, PluginRoot, PluginRootRef},
        blocking::run,
        export::{create, manifest},
        runtime::Export,
    };
}

/// The README's plugin is compiled, so that it stays true.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
struct Readme;
