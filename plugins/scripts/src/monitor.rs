//! In a monitor: scripts are run.

use muster_plugin_api::{
    Answer, Body, HandlerResult, Input, Level, MonitorAgent,
    serde_json::{Value, json},
};
use muster_sandbox::{Outcome, World};
use serde::Deserialize;

use crate::Scripts;

/// The original's text.
const NOTHING: &str = "script result should be assigned to result value to script module context";

pub(crate) async fn handle(agent: &MonitorAgent, input: Input, module: &Scripts) -> HandlerResult {
    #[derive(Default, Deserialize)]
    struct Order {
        #[serde(default)]
        script: Value,
    }
    let Input::Message(message) = input else { return Ok(Answer::Silence) };
    module.options.require_enabled(&agent.server_id())?;
    let order: Order = message.body.parse().unwrap_or_default();
    let Value::String(script) = order.script else { return Err("script should be a text".into()) };
    agent.audit("run a script", &json!({ "from": message.from.id, "script": script }));
    let printed = agent.clone();
    let log = move |line: &str| printed.log(Level::Info, format_args!("script: {line}"));
    let world = World::of(&agent.app(), &module.options.sandbox.capabilities, log).await?;
    match muster_sandbox::run(world, module.limits, &script) {
        Outcome::Value(value) => Ok(Answer::ok(value)),
        Outcome::Nothing => Ok(Answer::ok(Body::text(NOTHING))),
        // As in the original, an exception is an answer and not an error.
        Outcome::Threw { text, .. } => Ok(Answer::ok(Body::text(&text))),
        Outcome::TimedOut => Err(format!("the script took more than {:?} and was ended", module.limits.time).into()),
        Outcome::Failed(why) => Err(why.into()),
    }
}
