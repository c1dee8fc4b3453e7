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
//! # What a library must not do
//! Leave a thread behind; print; call `process::exit`; bring a runtime of its own. Timers and requests come from the
//! [`Agent`].

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
