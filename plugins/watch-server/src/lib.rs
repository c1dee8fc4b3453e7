//! What servers are and how they are: the module behind pomelo-cli's `show`, `use`, `get` and `set`.
//!
//! A client asks `{"comd", "context", "param"}`; most questions go on to the monitor of the server that is the context.
//! Reading is open to everybody who is logged in; what changes a server needs level 1. `run` evaluates JavaScript in the
//! server: it is off unless the option `run` is set, on the master and on the monitors.

mod client;
mod comd;
mod monitor;
mod settings;

use muster_figures::process::Meter;
use muster_plugin_api::{
    ClientCall, Context, HandlerResult, Input, Manifest, MasterAgent, Module, ModuleError, MonitorAgent, export_modules,
};
use muster_sandbox::Limits;
use serde::Deserialize;

const MODULE: &str = "watchServer";

struct WatchServer {
    options: Options,
    limits: Limits,
    meter: Meter,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Options {
    /// Whether `run` is there.
    run: bool,
    #[serde(flatten)]
    sandbox: muster_sandbox::Options,
}

impl Module for WatchServer {
    fn manifest() -> Manifest {
        Manifest::new(MODULE, env!("CARGO_PKG_VERSION")).commands("comd", &comd::LOOKS, &comd::CHANGES)
    }

    fn create(context: Context) -> Result<WatchServer, ModuleError> {
        let options: Options = context.options.parse()?;
        let limits = options.sandbox.limits()?;
        Ok(WatchServer { options, limits, meter: Meter::default() })
    }

    async fn monitor_handler(&self, agent: MonitorAgent, input: Input) -> HandlerResult {
        monitor::handle(self, &agent, input).await
    }

    async fn client_handler(&self, agent: MasterAgent, call: ClientCall) -> HandlerResult {
        client::handle(&agent, &call, &self.options).await
    }
}

impl Options {
    /// Whether JavaScript may be evaluated.
    ///
    /// # Errors
    /// A sentence that says how to switch it on.
    fn require_run(&self, place: &str) -> Result<(), String> {
        if self.run {
            return Ok(());
        }
        Err(format!("run is switched off on {place}; modules.{MODULE}.run = true switches it on"))
    }
}

export_modules!(WatchServer);
