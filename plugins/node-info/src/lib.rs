//! Memory and processor time of every server's process, collected by the master.
//!
//! Every five minutes (options `interval`, `delay`; `type = "push"` lets the monitors do it by themselves) the master asks
//! all monitors. Clients get what was collected: `{"<server id>": {"time", "pid", "cpuAvg", "memAvg", …}}`.

use muster_figures::process::{Meter, Status};
use muster_plugin_api::{
    Answer, Body, ClientCall, Context, HandlerResult, Input, Manifest, MasterAgent, Message, Module, ModuleError,
    MonitorAgent, Schedule, export_modules, serde_json::json,
};
use serde::{Deserialize, Serialize};

const MODULE: &str = "nodeInfo";

/// The original's: seconds from one question to the next, and before the first.
const INTERVAL_S: f64 = 300.0;
const DELAY_S: f64 = 10.0;

struct NodeInfo {
    meter: Meter,
}

/// What a monitor tells the master.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Report {
    server_id: String,
    body: Status,
}

impl Module for NodeInfo {
    fn manifest() -> Manifest {
        Manifest::new(MODULE, env!("CARGO_PKG_VERSION"))
            .schedule(Schedule::pull(INTERVAL_S).delayed(DELAY_S))
            .only_looks()
    }

    fn create(_: Context) -> Result<NodeInfo, ModuleError> {
        Ok(NodeInfo { meter: Meter::default() })
    }

    /// The master asks, or the own schedule does: either way the figures go to the master as a notify.
    async fn monitor_handler(&self, agent: MonitorAgent, _: Input) -> HandlerResult {
        let status = self.meter.read(&agent.app()).await?;
        agent.notify(MODULE, Body::of(&Report { server_id: agent.server_id(), body: status })?);
        Ok(Answer::done())
    }

    async fn master_handler(&self, agent: MasterAgent, input: Input) -> HandlerResult {
        match input {
            Input::Tick => drop(agent.notify_all(MODULE, ())),
            Input::Message(message) => agent.put(&message.from.id, reported(&message)?),
        }
        Ok(Answer::done())
    }

    async fn client_handler(&self, agent: MasterAgent, _: ClientCall) -> HandlerResult {
        let collected = agent.entries();
        Ok(Answer::ok(if collected.is_absent() { json!({}).into() } else { collected }))
    }
}

/// The row in a report, as it is. It is kept under the sender's own id, whatever id the report has.
fn reported(message: &Message) -> Result<Body, ModuleError> {
    #[derive(Deserialize)]
    struct Reported {
        body: Body,
    }
    Ok(message.body.parse::<Reported>()?.body)
}

export_modules!(NodeInfo);
