//! In the master: servers are started, and started again.

use std::{collections::BTreeMap, time::Duration};

use futures_util::future::join_all;
use muster_plugin_api::{
    Answer, Body, HandlerResult, Level, MasterAgent, ModuleError, RequestError,
    serde_json::{Map, Value},
};
use serde::{Deserialize, Serialize};

use crate::{MODULE, args::Args, client::plain, signal::Signal};

/// How long a server may take to say what it needs to be started again: the original's `TIME_WAIT_COUNTDOWN`.
const ANSWERS_WITHIN: Duration = Duration::from_secs(10);

/// How long a server that was told to leave may take, and a restarted one to be back: what a busy one needs, with time to
/// spare; the caller waits for up to 130 s.
const MOVES_WITHIN: Duration = Duration::from_secs(45);

/// Between two looks at who is registered.
const LOOK: Duration = Duration::from_millis(50);

/// The value that counts a type's servers in clusters, so that no two have one id.
const CLUSTER: &str = "cluster:";

/// What became of an order to one server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "outcome", content = "why", rename_all = "lowercase")]
pub(crate) enum Outcome {
    Done,
    Failed(String),
    #[serde(rename = "timed out")]
    TimedOut(String),
    Unreachable(String),
}

#[derive(Serialize)]
struct Outcomes {
    outcomes: BTreeMap<String, Outcome>,
}

/// Starts one server, or with `clusterCount` several.
pub(crate) async fn add(agent: &MasterAgent, order: &Body) -> HandlerResult {
    let args = Args::of(order)?;
    args.describe_a_server()?;
    let Some(count) = args.get("clusterCount") else {
        return match start(agent, Body::of(&args)?).await {
            Ok(()) => Ok(Answer::ok(Value::from(Map::from_iter([("status".to_owned(), "ok".into())])))),
            Err(why) => Err(ModuleError::new(why)),
        };
    };
    let key = format!("{CLUSTER}{}", args.get("serverType").unwrap_or_default());
    let first: u64 = agent.get(&key).and_then(|number| number.parse().ok()).unwrap_or(0);
    let servers = args.cluster(count, first)?;
    agent.put(&key, Value::from(first + servers.len() as u64));
    let started = servers.iter().map(async |server| start(agent, Body::of(server)?).await.map_err(ModuleError::new));
    let started = join_all(started).await;
    let failed: Vec<&Args> = servers.iter().zip(&started).filter(|(_, end)| end.is_err()).map(|(one, _)| one).collect();
    for error in started.iter().filter_map(|end| end.as_ref().err()) {
        agent.log(Level::Warn, format_args!("a server of a cluster was not started: {error}"));
    }
    if failed.len() == servers.len() { Ok(none_started()) } else { Answer::json(&failed) }
}

/// Restarts the servers of `ids`, of a type, or all. The answer is the list of those that were not; with `detail` what
/// became of each.
pub(crate) async fn restart(agent: &MasterAgent, order: &Body) -> HandlerResult {
    #[derive(Deserialize)]
    struct Restart {
        ids: Vec<String>,
        #[serde(default, rename = "type")]
        server_type: Option<String>,
        #[serde(default)]
        detail: bool,
    }
    let Ok(Restart { mut ids, server_type, detail }) = order.parse() else {
        return Err("restart needs ids: a list of server ids, or an empty list and a type.".into());
    };
    if ids.is_empty() {
        let server_type = server_type.filter(|server_type| !server_type.is_empty());
        let servers = agent.servers().into_iter().filter(|server| !server.slave && server.server_type != "master");
        let meant = servers.filter(|server| server_type.as_ref().is_none_or(|of| server.server_type == *of));
        ids = meant.map(|server| server.id).collect();
        if let (true, Some(server_type)) = (ids.is_empty(), server_type) {
            // An error that the original calls back without a body (`lib/modules/console.js`, restart).
            let text = format!("restart servers with unknown server type: {server_type}");
            return Ok(ModuleError::new(text).into_answer());
        }
    }
    let outcomes = join_all(ids.iter().map(|id| restart_one(agent, id))).await;
    let outcomes: BTreeMap<String, Outcome> = ids.iter().cloned().zip(outcomes).collect();
    for (id, outcome) in &outcomes {
        agent.log(Level::Info, format_args!("restart of {id}: {outcome:?}"));
    }
    if detail {
        return Answer::json(&Outcomes { outcomes });
    }
    let failed: Vec<&String> = ids.iter().filter(|id| outcomes.get(*id) != Some(&Outcome::Done)).collect();
    if failed.len() == ids.len() { Ok(none_started()) } else { Answer::json(&failed) }
}

/// A server that wraps its program restarts it by itself and is back with another connection. Any other says what it is
/// started with, and leaves.
async fn restart_one(agent: &MasterAgent, id: &str) -> Outcome {
    #[derive(Default, Deserialize)]
    #[serde(default)]
    struct Restarts {
        restarts: bool,
    }
    let Some(connection) = connection(agent, id) else {
        return Outcome::Unreachable("it is not registered".to_owned());
    };
    let message = match plain(Signal::Restart) {
        Ok(message) => message,
        Err(error) => return Outcome::Failed(error.to_string()),
    };
    agent.app().expect_leave(id);
    let answer = match agent.request_within(ANSWERS_WITHIN, id, MODULE, message).await {
        Ok(answer) => answer,
        Err(RequestError::Timeout(why)) => return Outcome::TimedOut(why),
        Err(error) => return Outcome::Unreachable(error.to_string()),
    };
    let Answer::Reply { error: info, body } = answer else {
        return Outcome::Failed("it cannot be restarted".to_owned());
    };
    if body.parse::<Restarts>().is_ok_and(|answer| answer.restarts) {
        let is_back = |now: Option<u64>| now.is_some_and(|now| now != connection);
        return match wait(agent, id, is_back).await {
            true => Outcome::Done,
            false => Outcome::TimedOut("its program is not back".to_owned()),
        };
    }
    if info.parse::<Map<String, Value>>().is_ok_and(|fields| fields.is_empty()) || !info.as_str().starts_with('{') {
        return Outcome::Failed("it cannot be restarted".to_owned());
    }
    if !wait(agent, id, |now| now != Some(connection)).await {
        return Outcome::TimedOut("it does not leave".to_owned());
    }
    match start(agent, info).await {
        Ok(()) => Outcome::Done,
        Err(why) => Outcome::Failed(why),
    }
}

async fn start(agent: &MasterAgent, fields: Body) -> Result<(), String> {
    match agent.app().spawn(fields).await {
        Ok(_) => Ok(()),
        Err(RequestError::Refused(why)) => Err(why),
        Err(error) => Err(error.to_string()),
    }
}

/// The connection under this id.
fn connection(agent: &MasterAgent, id: &str) -> Option<u64> {
    let mut servers = agent.servers().into_iter();
    servers.find(|server| server.id == id && !server.slave && server.server_type != "master").map(|one| one.incarnation)
}

/// Waits until the connection under this id is as wanted; false if it is not in time.
async fn wait(agent: &MasterAgent, id: &str, wanted: impl Fn(Option<u64>) -> bool) -> bool {
    let looks = MOVES_WITHIN.as_millis() / LOOK.as_millis();
    for _ in 0..looks {
        if wanted(connection(agent, id)) {
            return true;
        }
        agent.sleep(LOOK).await;
    }
    false
}

/// The original's text, which it calls back without a body.
fn none_started() -> Answer {
    ModuleError::new("all servers start failed.").into_answer()
}

#[cfg(test)]
mod tests {
    use muster_plugin_api::serde_json::json;

    use super::*;

    #[test]
    fn outcomes_read_as_words() {
        assert_eq!(json!(Outcome::Done), json!({ "outcome": "done" }));
        assert_eq!(json!(Outcome::TimedOut("late".into())), json!({ "outcome": "timed out", "why": "late" }));
    }
}
