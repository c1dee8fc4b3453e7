//! The time of every server, collected by the master: the module of the well-known pomelo tutorial.
//!
//! By default (`pull`) the master asks all monitors every five seconds, and each notifies it of its time. With the option
//! `type = "push"` the monitors do so by themselves. Clients get what was collected: `{"<server id>": "<date>", …}`.

mod clock;

use muster_plugin_api::{
    Answer, Body, ClientCall, Context, HandlerResult, Input, Level, Manifest, MasterAgent, Message, Module,
    ModuleError, MonitorAgent, Schedule, export_modules,
};
use serde::{Deserialize, Serialize};

const MODULE: &str = "timeReport";

/// Seconds from one question to the next.
const INTERVAL_S: f64 = 5.0;

struct TimeReport;

/// What a monitor tells the master.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Report {
    #[serde(default)]
    server_id: String,
    time: Body,
}

impl Module for TimeReport {
    fn manifest() -> Manifest {
        Manifest::new(MODULE, env!("CARGO_PKG_VERSION")).schedule(Schedule::pull(INTERVAL_S)).only_looks()
    }

    fn create(_: Context) -> Result<TimeReport, ModuleError> {
        Ok(TimeReport)
    }

    /// The master asks, or the own schedule does: either way the time goes to the master as a notify.
    async fn monitor_handler(&self, agent: MonitorAgent, _: Input) -> HandlerResult {
        let report = Report { server_id: agent.server_id(), time: Body::text(&clock::now()) };
        agent.notify(MODULE, Body::of(&report)?);
        Ok(Answer::done())
    }

    async fn master_handler(&self, agent: MasterAgent, input: Input) -> HandlerResult {
        match input {
            Input::Tick => drop(agent.notify_all(MODULE, Body::text("testMsg"))),
            Input::Message(message) => collect(&agent, &message)?,
        }
        Ok(Answer::done())
    }

    /// The original answers no body at all before anything is collected; so do [`entries`](MasterAgent::entries).
    async fn client_handler(&self, agent: MasterAgent, _: ClientCall) -> HandlerResult {
        Ok(Answer::ok(agent.entries()))
    }
}

/// Keeps what a server says of its time. The original believes the report's own `serverId`; here a server speaks for
/// itself only. Real monitors always send their own id, so they cannot tell.
fn collect(agent: &MasterAgent, message: &Message) -> Result<(), ModuleError> {
    let report: Report = message.body.parse()?;
    let sender = &message.from.id;
    if report.server_id != *sender {
        agent.log(Level::Debug, format_args!("{sender} reports as {:?}; kept under {sender}", report.server_id));
    }
    agent.put(sender, report.time);
    Ok(())
}

export_modules!(TimeReport);
