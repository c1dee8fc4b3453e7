//! CPU profiles of the processes that monitors watch.
//!
//! The host takes them; this module says of which server, for how long and for whom. Clients of level 1 ask
//! `{"action":"cpu","serverId":…,"seconds":10,"format":"svg"|"pprof"|"tree"}` and get a
//! [`CpuProfile`](muster_plugin_api::CpuProfile), or speak to it as to pomelo-admin's module: see `proxy.rs`. Heap
//! snapshots there are none: they are V8's.

mod monitor;
mod proxy;

use std::time::Duration;

use muster_plugin_api::{
    Answer, Body, ClientCall, Context, HandlerResult, Input, Manifest, MasterAgent, Module, ModuleError, MonitorAgent,
    ProfileFormat, export_modules,
    serde_json::{Value, json},
};
use serde::{Deserialize, Serialize};

use crate::proxy::Proxy;

const MODULE: &str = "profiler";

/// The longest profile that the host takes is a minute; then its child reads the symbols of what may be a large program.
const DEADLINE: Duration = Duration::from_secs(120);

#[derive(Default)]
struct Profiler {
    proxy: Proxy,
}

/// What a client asks for, and what a monitor is asked then.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Wanted {
    #[serde(default = "ten")]
    seconds: f64,
    #[serde(default = "svg")]
    format: ProfileFormat,
}

fn ten() -> f64 {
    10.0
}

fn svg() -> ProfileFormat {
    ProfileFormat::Svg
}

impl Module for Profiler {
    fn manifest() -> Manifest {
        Manifest::new(MODULE, env!("CARGO_PKG_VERSION")).deadline(DEADLINE)
    }

    fn create(_: Context) -> Result<Profiler, ModuleError> {
        Ok(Profiler::default())
    }

    async fn monitor_handler(&self, agent: MonitorAgent, input: Input) -> HandlerResult {
        monitor::handle(&agent, input).await
    }

    async fn master_handler(&self, agent: MasterAgent, input: Input) -> HandlerResult {
        if let Input::Message(message) = input {
            self.proxy.took(&agent, &message.from.id, message.body.parse()?);
        }
        Ok(Answer::Silence)
    }

    async fn client_handler(&self, agent: MasterAgent, call: ClientCall) -> HandlerResult {
        // The original's page sends its messages as a text.
        let call = match call.body.parse::<String>() {
            Ok(text) => ClientCall { body: Body::raw(text)?, ..call },
            Err(_) => call,
        };
        let fields: Value = call.body.parse()?;
        match fields["action"].as_str() {
            Some("list") => {
                call.refuse_foreign_identity()?;
                let servers = agent.servers().into_iter().filter(|server| !server.slave);
                Ok(Answer::ok(servers.map(|server| Value::from(server.id)).collect::<Value>()))
            }
            Some("cpu") => cpu(&agent, &call, &fields).await,
            Some(other) => Err(format!("unknown action:{other}; there are list and cpu").into()),
            None => self.proxy.handle(&agent, &call, &fields),
        }
    }
}

async fn cpu(agent: &MasterAgent, call: &ClientCall, fields: &Value) -> HandlerResult {
    call.require_level(1)?;
    let server = fields["serverId"].as_str().ok_or("expected {\"action\":\"cpu\",\"serverId\":…}")?;
    let wanted: Wanted = call.body.parse()?;
    record(agent, call, "take a profile", server);
    let order = json!({ "action": "cpu", "seconds": wanted.seconds, "format": wanted.format });
    Ok(agent.request_within(DEADLINE, server, MODULE, order).await?)
}

/// The line that comes before the effect.
fn record(agent: &MasterAgent, call: &ClientCall, what: &str, server: &str) {
    let caller = &call.caller;
    agent.audit(what, &json!({ "client": caller.client_id, "user": caller.user, "server": server }));
}

export_modules!(Profiler);
