//! How full the disks of all servers are.
//!
//! The master asks every monitor at an interval (`interval`, 30 s); each looks at the file systems of its `paths` and
//! reports. A file system that is filled beyond `warn_percent` is logged once, until it is below again. Clients ask for
//!
//! ```json
//! {}                      what was reported last: server → path → {"total", "free", "percent"}
//! {"history": "chat-1"}   the percentages of that server so far, newest last, also those before a new version came
//! ```

mod disk;
mod history;

use std::{cell::RefCell, collections::BTreeMap};

use muster_plugin_api::{
    Agent, Answer, Body, ClientCall, Context, HandlerResult, Imported, Input, Json, Level, Manifest, MasterAgent,
    Module, ModuleError, MonitorAgent, Schedule, State, export_modules,
    serde::{Deserialize, Serialize},
    serde_json::json,
};

pub use crate::disk::Usage;
use crate::history::History;

/// Its id.
pub const MODULE: &str = "diskUsage";

/// Seconds from one question to the next: disks fill slowly.
const INTERVAL_S: f64 = 30.0;

/// What a monitor reports: path → usage.
type Report = BTreeMap<String, Usage>;

/// The module.
pub struct DiskUsage {
    options: Options,
    history: RefCell<History>,
    /// Monitor: the paths that have been warned of.
    warned: RefCell<Vec<String>>,
}

/// `--set modules.diskUsage.…`
#[derive(Debug, Deserialize)]
#[serde(crate = "muster_plugin_api::serde", default)]
struct Options {
    /// Which file systems: those of these paths.
    paths: Vec<String>,
    /// How full one may be.
    warn_percent: f64,
}

/// What a client asks for.
#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(crate = "muster_plugin_api::serde", default)]
struct Ask {
    history: Option<String>,
}

impl Default for Options {
    fn default() -> Options {
        Options { paths: vec!["/".to_owned()], warn_percent: 90.0 }
    }
}

impl Module for DiskUsage {
    fn manifest() -> Manifest {
        Manifest::new(MODULE, env!("CARGO_PKG_VERSION")).schedule(Schedule::pull(INTERVAL_S)).state(History::SCHEMA)
    }

    fn create(context: Context) -> Result<DiskUsage, ModuleError> {
        let options: Options = context.options.parse()?;
        if !(0.0..=100.0).contains(&options.warn_percent) {
            return Err(format!("option warn_percent: 0 to 100 is expected, {} was found", options.warn_percent).into());
        }
        Ok(DiskUsage { options, history: RefCell::default(), warned: RefCell::default() })
    }

    async fn monitor_handler(&self, agent: MonitorAgent, input: Input) -> HandlerResult {
        let paths = self.options.paths.clone();
        // A file system on a network may not answer for minutes.
        let report: Report = agent.spawn_blocking(move || disk::usages(&paths)).await??;
        agent.metrics().count("looks", 1);
        for (path, usage) in &report {
            self.warn(&agent, path, usage);
        }
        if matches!(input, Input::Message(message) if message.is_request) {
            return Ok(Answer::ok(Json(report)));
        }
        agent.notify(MODULE, Json(report));
        Ok(Answer::done())
    }

    async fn master_handler(&self, agent: MasterAgent, input: Input) -> HandlerResult {
        match input {
            Input::Tick => drop(agent.notify_all(MODULE, ())),
            Input::Message(message) => {
                let report: Report = message.body.parse()?;
                let fullest = report.values().map(Usage::percent).fold(0.0, f64::max);
                self.history.borrow_mut().add(&message.from.id, fullest);
                agent.metrics().gauge("fullest_percent", fullest);
                agent.put(&message.from.id, message.body);
            }
        }
        Ok(Answer::done())
    }

    async fn client_handler(&self, agent: MasterAgent, call: ClientCall) -> HandlerResult {
        let Ask { history } = call.body.parse::<Option<Ask>>()?.unwrap_or_default();
        match history {
            None => Ok(Answer::ok(agent.entries())),
            Some(server) => Ok(Answer::ok(Json(self.history.borrow().of(&server)))),
        }
    }

    async fn export_state(&self, _: Agent) -> Result<Body, ModuleError> {
        Body::of(&*self.history.borrow())
    }

    async fn import_state(&self, _: Agent, state: State) -> Result<Imported, ModuleError> {
        *self.history.borrow_mut() = History::import(&state)?;
        Ok(Imported::Taken)
    }
}

impl DiskUsage {
    /// Tells of a file system that has become too full, once.
    fn warn(&self, agent: &MonitorAgent, path: &str, usage: &Usage) {
        let mut warned = self.warned.borrow_mut();
        let known = warned.iter().position(|known| known == path);
        match (usage.percent() > self.options.warn_percent, known) {
            (true, None) => {
                let fields = json!({ "path": path, "percent": usage.percent(), "free": usage.free });
                agent.log_with(Level::Warn, "a disk is nearly full", &fields);
                warned.push(path.to_owned());
            }
            (false, Some(place)) => drop(warned.remove(place)),
            _ => {}
        }
    }
}

export_modules!(DiskUsage);
