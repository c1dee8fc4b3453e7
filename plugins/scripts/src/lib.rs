//! Scripts that administrators keep on the master and run on servers.
//!
//! Off by default: whoever may run scripts may do with a server what they like. With the option `enabled` on the master
//! and on the monitors, clients list and read the scripts in the master's directory (option `root`), and those of level 1
//! save them and run them. A script is JavaScript and answers by the global `result`; what it sees and what it may take
//! is the sandbox's to say (options `time_limit_s`, `memory_limit_mib`, `fs`, `process`, `require` of the monitor).

mod master;
mod monitor;
mod name;

use muster_plugin_api::{
    ClientCall, Context, HandlerResult, Input, Manifest, MasterAgent, Module, ModuleError, MonitorAgent, export_modules,
};
use muster_sandbox::Limits;
use serde::Deserialize;

const MODULE: &str = "scripts";

struct Scripts {
    options: Options,
    limits: Limits,
}

#[derive(Debug, Deserialize)]
#[serde(default)]
struct Options {
    enabled: bool,
    /// Where the master keeps scripts.
    root: String,
    #[serde(flatten)]
    sandbox: muster_sandbox::Options,
}

impl Default for Options {
    fn default() -> Options {
        // The directory's name in pomelo's applications.
        Options { enabled: false, root: "scripts".to_owned(), sandbox: muster_sandbox::Options::default() }
    }
}

impl Module for Scripts {
    fn manifest() -> Manifest {
        Manifest::new(MODULE, env!("CARGO_PKG_VERSION")).commands("command", &["list", "get"], &["save", "run"])
    }

    fn create(context: Context) -> Result<Scripts, ModuleError> {
        let options: Options = context.options.parse()?;
        let limits = options.sandbox.limits()?;
        Ok(Scripts { options, limits })
    }

    async fn monitor_handler(&self, agent: MonitorAgent, input: Input) -> HandlerResult {
        monitor::handle(&agent, input, self).await
    }

    async fn client_handler(&self, agent: MasterAgent, call: ClientCall) -> HandlerResult {
        master::handle(&agent, &call, &self.options).await
    }
}

impl Options {
    /// Whether anything may be done.
    ///
    /// # Errors
    /// A sentence that says how to switch it on.
    fn require_enabled(&self, place: &str) -> Result<(), ModuleError> {
        if self.enabled {
            return Ok(());
        }
        Err(format!("scripts are switched off on {place}; modules.{MODULE}.enabled = true switches them on").into())
    }
}

export_modules!(Scripts);
