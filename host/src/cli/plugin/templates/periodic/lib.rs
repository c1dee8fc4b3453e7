//! A figure of every server, collected by the master at an interval, for clients to read.
//!
//! The master's schedule ticks (`Schedule::pull`), the master asks all monitors, and keeps what each notifies it of. With
//! the option `type = "push"` the monitors tick and report by themselves; the code is the same.

use std::fs;

use muster_plugin_api::{
    Answer, ClientCall, Context, HandlerResult, Input, Manifest, MasterAgent, Module, ModuleError, MonitorAgent,
    Schedule, export_modules, serde_json::json,
};

const MODULE: &str = env!("CARGO_PKG_NAME");

/// Seconds from one question to the next; `--set modules.NAME.interval=…` overrides it.
const INTERVAL_S: f64 = 5.0;

/// What is collected: the load of the machine.
pub struct Load {
    file: String,
}

impl Module for Load {
    fn manifest() -> Manifest {
        Manifest::new(MODULE, env!("CARGO_PKG_VERSION")).schedule(Schedule::pull(INTERVAL_S))
    }

    fn create(context: Context) -> Result<Load, ModuleError> {
        let file = context.options.get("file")?.unwrap_or_else(|| "/proc/loadavg".to_owned());
        Ok(Load { file })
    }

    /// In a monitor: the master asks, or the own schedule does. An error is logged, and told to whoever waits.
    async fn monitor_handler(&self, agent: MonitorAgent, _: Input) -> HandlerResult {
        let text = fs::read_to_string(&self.file)?;
        let load: f64 = text.split_whitespace().next().ok_or("the file is empty")?.parse()?;
        agent.notify(MODULE, json!({ "load": load }));
        Ok(Answer::done())
    }

    /// In the master: a tick of the schedule, or what a monitor reports. Values belong to the host: a new version of this
    /// plugin finds them.
    async fn master_handler(&self, agent: MasterAgent, input: Input) -> HandlerResult {
        match input {
            Input::Tick => drop(agent.notify_all(MODULE, ())),
            Input::Message(message) => agent.put(&message.from.id, message.body),
        }
        Ok(Answer::done())
    }

    /// In the master, for a client: `muster call NAME`.
    async fn client_handler(&self, agent: MasterAgent, _: ClientCall) -> HandlerResult {
        Ok(Answer::ok(agent.entries()))
    }
}

export_modules!(Load);

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, time::Duration};

    use muster_plugin_api::{serde_json::Value, testing::Fleet};

    use super::*;

    #[test]
    fn the_load_of_every_server_is_collected() {
        let setup = Fleet::of::<Load>().monitor("chat-1", "chat").monitor("gate-1", "gate");
        let mut fleet = setup.start().expect("it starts");
        fleet.advance(Duration::from_secs_f64(INTERVAL_S));
        let loads: BTreeMap<String, Value> = fleet.call(MODULE, ()).parse();
        assert_eq!(loads.keys().collect::<Vec<_>>(), ["chat-1", "gate-1"]);
        assert!(loads["chat-1"]["load"].is_f64(), "{loads:?}");
    }

    #[test]
    fn a_file_that_is_missing_is_an_error_for_who_asks() {
        let setup = Fleet::of::<Load>().monitor("chat-1", "chat").options(MODULE, json!({ "file": "/no/such/file" }));
        let mut fleet = setup.start().expect("it starts");
        assert!(fleet.ask_monitor("chat-1", MODULE, ()).error().contains("No such file"));
    }
}
