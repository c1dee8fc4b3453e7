//! A monitor as a part of the server that it watches, for servers in Rust.

use std::{collections::BTreeMap, fmt, sync::Arc};

use clap::Parser;
pub use muster_plugin_api::{Body, Event};
use serde_json::{Map, Value};

pub use crate::application::{Application, Ask, Said, Saying};
use crate::{
    cli::{self, Cli},
    config::MonitorConfig,
    daemon::{DaemonError, RunningMonitor},
};

/// A monitor in this process. `host/examples/embedded.rs` is a server that has one.
///
/// It keeps its link to the master by itself and serves whatever plugins the configuration names. What the process is
/// ordered, [`EmbeddedMonitor::stopped`] says; signals are left to the server. Dropped without
/// [`shutdown`](EmbeddedMonitor::shutdown), its tasks end with the runtime.
pub struct EmbeddedMonitor {
    running: RunningMonitor,
}

/// Does what a child of this executable is for, and then does not return: plugins are vetted, and may run, in such children,
/// which are started as `EXECUTABLE preflight …` and `EXECUTABLE worker …`. In any other process it does nothing.
///
/// To be called first thing in the `main` of a server that embeds a monitor with plugins.
pub fn serve_as_child() {
    let is_child = std::env::args_os().nth(1).is_some_and(|word| word == "preflight" || word == "worker");
    if let Some(cli) = is_child.then(Cli::try_parse).and_then(Result::ok) {
        cli::run(cli);
    }
}

impl EmbeddedMonitor {
    /// Returns when its plugins are ready; the master may be away. To be called in a tokio runtime, with time and I/O.
    ///
    /// # Errors
    /// When it cannot start.
    pub async fn start(
        config: MonitorConfig,
        application: Arc<dyn Application>,
    ) -> Result<EmbeddedMonitor, DaemonError> {
        Ok(EmbeddedMonitor { running: RunningMonitor::start(config, Some(application)).await? })
    }

    /// Tells settings, for those who ask without asking the server itself. Those with the same name are replaced.
    pub fn publish_settings(&self, settings: Map<String, Value>) {
        self.running.app().publish_settings(settings);
    }

    /// Tells what there is of connections: `{"totalConnCount", "loginedCount", "loginedList": [{"loginTime", "uid",
    /// "address"}]}`, and what else there is. Null takes it back.
    pub fn publish_connections(&self, statistics: Value) {
        self.running.app().publish_connections(statistics);
    }

    /// The servers of the fleet as the master told them: id → info.
    pub fn servers(&self) -> BTreeMap<String, Body> {
        self.running.app().directory()
    }

    /// Waits until the master, or a module, orders this process to end.
    pub async fn stopped(&self) {
        self.running.stop().cancelled().await;
    }

    /// Tells the application that the end is near, lets modules finish, and takes leave of the master.
    pub async fn shutdown(self) {
        self.running.app().tell_end();
        self.running.end().await;
    }
}

impl fmt::Debug for EmbeddedMonitor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EmbeddedMonitor").field("app", self.running.app()).finish_non_exhaustive()
    }
}
