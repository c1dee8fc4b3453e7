//! In the master: what clients order.

use muster_beneath::Root;
use muster_plugin_api::{
    Answer, Body, ClientCall, HandlerResult, Level, MasterAgent,
    serde_json::{Value, json},
};
use serde::Deserialize;

use crate::{MODULE, Options, name};

/// A script that is read; people write some kB.
const LARGEST: u64 = 1 << 20;

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Order {
    command: Value,
    filename: Value,
    body: Value,
    server_id: Value,
}

pub(crate) async fn handle(agent: &MasterAgent, call: &ClientCall, options: &Options) -> HandlerResult {
    let order: Order = call.body.parse().unwrap_or_default();
    let command = text(&order.command);
    if !matches!(command, "list" | "get" | "save" | "run") {
        let shown = order.command.as_str().map_or_else(|| order.command.to_string(), str::to_owned);
        return Ok(Answer::error_text(&format!("unknown command:{shown}")));
    }
    options.require_enabled("this master")?;
    match command {
        "list" => Ok(list(agent, options)),
        "get" => Ok(get(agent, options, text(&order.filename))),
        "save" => Ok(save(agent, options, &order)),
        _ => run(agent, call, &order).await,
    }
}

fn list(agent: &MasterAgent, options: &Options) -> Answer {
    let servers: Vec<String> =
        agent.servers().into_iter().filter(|server| !server.slave).map(|server| server.id).collect();
    // A directory that cannot be read has no scripts, as in the original.
    let mut scripts = Root::open(&options.root).and_then(|root| root.names()).unwrap_or_default();
    scripts.retain(|script| name::is_good(script));
    Answer::ok(json!({ "servers": servers, "scripts": scripts }))
}

/// Answers once; the original answers an error twice.
fn get(agent: &MasterAgent, options: &Options, filename: &str) -> Answer {
    if filename.is_empty() {
        return Answer::error_text("empty filename");
    }
    let refused = || Answer::error_text(&format!("fail to read script with name:{filename}"));
    if !name::is_good(filename) {
        return refused();
    }
    match Root::open(&options.root).and_then(|root| root.read(filename, LARGEST)) {
        Ok(script) => Answer::ok(Body::text(&script)),
        Err(error) => {
            agent.log(Level::Warn, format_args!("cannot read the script {filename:?}: {error}"));
            refused()
        }
    }
}

fn save(agent: &MasterAgent, options: &Options, order: &Order) -> Answer {
    let filename = text(&order.filename);
    let refused = || Answer::error_text(&format!("fail to write script file:{filename}"));
    let Some(script) = order.body.as_str().filter(|_| name::is_good(filename)) else { return refused() };
    match Root::open(&options.root).and_then(|root| root.replace(filename, script.as_bytes())) {
        // The original answers neither error nor body here.
        Ok(()) => Answer::both((), ()),
        Err(error) => {
            agent.log(Level::Warn, format_args!("cannot write the script {filename:?}: {error}"));
            refused()
        }
    }
}

/// Passed on as it is, and the answer as well. The original swallows errors, so that nobody ever gets them.
async fn run(agent: &MasterAgent, call: &ClientCall, order: &Order) -> HandlerResult {
    Ok(agent.request(text(&order.server_id), MODULE, &call.body).await?)
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}
