//! In a monitor: profiles are taken.

use std::time::Duration;

use muster_plugin_api::{
    Answer, HandlerResult, Input, MonitorAgent, ProfileFormat,
    serde_json::{Value, json},
};

use crate::{MODULE, Wanted};

/// How long a profile goes on that nobody stops: the longest that the host takes.
const UNTIL_STOPPED: Duration = Duration::from_secs(60);

pub(crate) async fn handle(agent: &MonitorAgent, input: Input) -> HandlerResult {
    let Input::Message(message) = input else { return Ok(Answer::Silence) };
    let order: Value = message.body.parse()?;
    if order["action"] == "cpu" {
        let Wanted { seconds, format } = message.body.parse()?;
        let duration = Duration::try_from_secs_f64(seconds).map_err(|error| format!("seconds: {error}"))?;
        return Answer::json(&agent.app().profile_cpu(duration, format).await?);
    }
    // What the original's master says.
    match (order["type"].as_str(), order["action"].as_str()) {
        (Some("CPU"), Some("start")) => {
            let told = agent.clone();
            agent.spawn(async move { take(&told, order).await });
        }
        (Some("CPU"), _) => drop(agent.app().end_profile()),
        _ => {}
    }
    Ok(Answer::Silence)
}

/// Takes a profile until it is stopped, and tells the master as the original does. Why there is none is told as well.
async fn take(agent: &MonitorAgent, order: Value) {
    let client = order["clientId"].clone();
    let trees = match agent.app().profile_cpu(UNTIL_STOPPED, ProfileFormat::Tree).await {
        Ok(profile) => muster_plugin_api::serde_json::from_str(&profile.data).map_err(|error| error.to_string()),
        Err(error) => Err(error.to_string()),
    };
    let body = match trees {
        Ok(Value::Object(mut trees)) => {
            trees.insert("msg".to_owned(), order);
            Value::Object(trees)
        }
        Ok(_) => json!({ "msg": order, "error": "the host gave no trees" }),
        Err(error) => json!({ "msg": order, "error": error }),
    };
    agent.notify(MODULE, json!({ "clientId": client, "type": "CPU", "body": body }));
}
