//! `__console__`: what an operator orders through pomelo-cli or any other client.
//!
//! The client's side (`client.rs`) runs in the master, checks who may order what, and passes orders on; the monitor's side
//! (`monitor.rs`) carries them out. Bodies, texts and slots are those of pomelo's `lib/modules/console.js`, with three
//! differences: one answer to one request, nobody but the connection's own identity counts, and every order that changes
//! something needs level 1.

mod args;
mod client;
mod figures;
mod monitor;
mod signal;

use std::time::Duration;

use muster_plugin_api::{
    Answer, ClientCall, Context, HandlerResult, Input, Manifest, MasterAgent, Module, ModuleError, MonitorAgent,
    export_modules, serde_json::Value,
};

const MODULE: &str = "__console__";

/// `kill` waits 120 s for the monitors; its caller must not be told of a timeout before that.
const DEADLINE: Duration = Duration::from_secs(130);

struct Console;

impl Module for Console {
    fn manifest() -> Manifest {
        Manifest::new(MODULE, env!("CARGO_PKG_VERSION")).deadline(DEADLINE).commands(
            "signal",
            &signal::LOOKS,
            &signal::CHANGES,
        )
    }

    fn create(_: Context) -> Result<Console, ModuleError> {
        Ok(Console)
    }

    async fn monitor_handler(&self, agent: MonitorAgent, input: Input) -> HandlerResult {
        match input {
            Input::Message(message) => monitor::handle(&agent, &message).await,
            Input::Tick => Ok(Answer::Silence),
        }
    }

    async fn client_handler(&self, agent: MasterAgent, call: ClientCall) -> HandlerResult {
        match client::handle(&agent, &call).await {
            Err(error) => Ok(with_null_body(error)),
            answer => answer,
        }
    }
}

/// The original's callbacks pass `null` along with an error; it is on the wire.
fn with_null_body(error: ModuleError) -> Answer {
    match error.into_answer() {
        Answer::Reply { error, .. } => Answer::both(error, Value::Null),
        Answer::Silence => Answer::Silence,
    }
}

export_modules!(Console);
