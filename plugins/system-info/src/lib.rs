//! Load, memory and disks of every machine, collected by the master.
//!
//! Every five minutes (options `interval`, `delay`; `type = "push"` lets the monitors do it by themselves) the master asks
//! all monitors. Clients get what was collected: `{"<server id>": {"Time", "hostname", "cpu_user", …}}`.

mod report;
mod row;

use std::{cell::RefCell, time::Duration};

use muster_figures::load::{Iostat, Reading};
use muster_plugin_api::{
    Answer, Body, ClientCall, Context, HandlerResult, Input, Manifest, MasterAgent, Module, ModuleError, MonitorAgent,
    Schedule, export_modules, serde_json::json,
};

use crate::{report::Report, row::Row};

const MODULE: &str = "systemInfo";

/// The original's: seconds from one question to the next, and before the first.
const INTERVAL_S: f64 = 300.0;
const DELAY_S: f64 = 10.0;

/// What the kernel counts is told for at least this long: over less, one file that is written looks like a busy disk.
const SHORTEST_S: f64 = 1.0;

struct SystemInfo {
    /// The reading before: what is told is what happened since.
    last: RefCell<Option<Reading>>,
}

impl Module for SystemInfo {
    fn manifest() -> Manifest {
        Manifest::new(MODULE, env!("CARGO_PKG_VERSION"))
            .schedule(Schedule::pull(INTERVAL_S).delayed(DELAY_S))
            .only_looks()
    }

    fn create(_: Context) -> Result<SystemInfo, ModuleError> {
        Ok(SystemInfo { last: RefCell::new(Reading::take().ok()) })
    }

    /// The master asks, or the own schedule does: either way the figures go to the master as a notify.
    async fn monitor_handler(&self, agent: MonitorAgent, _: Input) -> HandlerResult {
        let iostat = self.iostat(&agent).await?;
        let figures = agent.app().figures().await?;
        let report = Report::new(agent.server_id(), &figures, iostat)?;
        agent.notify(MODULE, Body::of(&report)?);
        Ok(Answer::done())
    }

    async fn master_handler(&self, agent: MasterAgent, input: Input) -> HandlerResult {
        match input {
            Input::Tick => drop(agent.notify_all(MODULE, ())),
            Input::Message(message) => {
                let sender = &message.from.id;
                agent.put(sender, Body::of(&Row::of(sender, &message.body)?)?);
            }
        }
        Ok(Answer::done())
    }

    async fn client_handler(&self, agent: MasterAgent, _: ClientCall) -> HandlerResult {
        let collected = agent.entries();
        Ok(Answer::ok(if collected.is_absent() { json!({}).into() } else { collected }))
    }
}

impl SystemInfo {
    /// How busy the machine was since the reading before, or if that is too fresh, in the second after it.
    async fn iostat(&self, agent: &MonitorAgent) -> Result<Iostat, ModuleError> {
        let read = || Reading::take().map_err(|error| error.to_string());
        let before = self.last.take().map_or_else(read, Ok)?;
        let missing_s = SHORTEST_S - before.age_s();
        if missing_s > 0.0 {
            agent.sleep(Duration::from_secs_f64(missing_s)).await;
        }
        let now = read()?;
        let iostat = now.since(&before);
        self.last.replace(Some(now));
        Ok(iostat)
    }
}

export_modules!(SystemInfo);
