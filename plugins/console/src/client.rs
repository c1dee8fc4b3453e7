//! In the master: what clients order.

use std::{collections::BTreeMap, time::Duration};

use muster_plugin_api::{
    Answer, Body, ClientCall, HandlerResult, Level, MasterAgent, ModuleError, RequestError, Server,
    serde_json::{Map, Value, json},
};
use serde::{Deserialize, Serialize};

use crate::{
    MODULE,
    args::{self, Args},
    programs, servers,
    signal::Signal,
};

/// How long `list` waits for the monitors: the original's `TIME_WAIT_COUNTDOWN`.
const LIST_WAIT: Duration = Duration::from_secs(10);
/// How long `listCrons` waits: ours answer at once, and the original's never, since they do not know it.
const CRONS_WAIT: Duration = Duration::from_secs(3);
/// How long `kill` waits for the monitors: the original's `TIME_WAIT_MASTER_KILL`, two minutes.
const KILL_WAIT: Duration = Duration::from_secs(120);
/// From the answer to a `kill` until the master stops itself.
const KILL_DELAY: Duration = Duration::from_secs(2);
/// What the servers get for stopping before the master does: the original's `TIME_WAIT_STOP`.
const STOP_WAIT: Duration = Duration::from_secs(3);
/// From the answer to a `stop` of all until the master stops, so that the answer is out.
const STOP_DELAY: Duration = Duration::from_millis(200);

#[derive(Default, Deserialize)]
#[serde(default)]
struct Order {
    signal: Value,
}

/// What goes to the monitors.
#[derive(Serialize)]
struct Forwarded<'a> {
    signal: Signal,
    #[serde(skip_serializing_if = "Option::is_none")]
    cron: Option<&'a Args>,
    #[serde(skip_serializing_if = "Option::is_none")]
    blacklist: Option<&'a [String]>,
}

pub(crate) async fn handle(agent: &MasterAgent, call: &ClientCall) -> HandlerResult {
    let order: Order = call.body.parse().unwrap_or_default();
    let Ok(signal) = Signal::deserialize(&order.signal) else {
        return Err("The command cannot be recognized, please check.".into());
    };
    match signal {
        Signal::List => list(agent).await,
        Signal::Stop => stop(agent, &call.body).await,
        Signal::Kill => kill(agent).await,
        Signal::Restart => servers::restart(agent, &call.body).await,
        Signal::Add => servers::add(agent, &call.body).await,
        Signal::AddCron | Signal::RemoveCron => cron(agent, signal, &call.body),
        Signal::Blacklist => blacklist(agent, &call.body),
        Signal::ListCrons => crons(agent).await,
        Signal::Program => programs::show(agent, &call.body),
    }
}

async fn list(agent: &MasterAgent) -> HandlerResult {
    #[derive(Serialize)]
    struct List {
        msg: BTreeMap<String, Body>,
    }
    let answers = agent.request_all(LIST_WAIT, MODULE, plain(Signal::List)?).await;
    Answer::json(&List { msg: rows(answers) })
}

/// Stops the servers of `ids`, or all and the master, if there are none in it.
async fn stop(agent: &MasterAgent, order: &Body) -> HandlerResult {
    #[derive(Deserialize)]
    struct Stop {
        ids: Vec<String>,
    }
    let Ok(Stop { ids }) = order.parse() else {
        return Err("stop needs ids: a list of server ids, or an empty list for all servers and the master.".into());
    };
    let message = plain(Signal::Stop)?;
    if ids.is_empty() {
        expect_all(agent);
        agent.notify_all(MODULE, message);
        agent.sleep(STOP_WAIT).await;
        agent.app().stop(STOP_DELAY);
        return Ok(Answer::ok(json!({ "status": "all" })));
    }
    // Those that exist are stopped even if others do not: as in the original, which then answers twice.
    let (known, unknown) = split(ids, &agent.servers());
    for id in &known {
        agent.app().expect_leave(id);
        agent.notify_by_id(id, MODULE, &message);
    }
    if !unknown.is_empty() {
        agent.log(Level::Warn, format_args!("to stop, but not registered: {}", unknown.join(", ")));
        return Err("Cannot find the server to stop.".into());
    }
    Ok(Answer::ok(json!({ "status": "part" })))
}

/// Nobody is brought back after an order to all.
fn expect_all(agent: &MasterAgent) {
    agent.servers().iter().for_each(|server| agent.app().expect_leave(&server.id));
}

async fn kill(agent: &MasterAgent) -> HandlerResult {
    expect_all(agent);
    let answers = agent.request_all(KILL_WAIT, MODULE, plain(Signal::Kill)?).await;
    let remained = remained(answers);
    agent.app().stop(KILL_DELAY);
    if remained.is_empty() {
        return Ok(Answer::ok(json!({ "code": "ok" })));
    }
    Ok(Answer::ok(json!({ "code": "remained", "serverIds": remained })))
}

/// The crons of all servers that tell theirs, each with the server that runs it.
async fn crons(agent: &MasterAgent) -> HandlerResult {
    let answers = agent.request_all(CRONS_WAIT, MODULE, plain(Signal::ListCrons)?).await;
    let of_server = |(id, crons): (String, Body)| {
        let crons: Vec<Map<String, Value>> = crons.parse().unwrap_or_default();
        crons.into_iter().map(move |mut cron| {
            cron.insert("serverId".to_owned(), id.clone().into());
            Value::Object(cron)
        })
    };
    let crons: Vec<Value> = rows(answers).into_iter().flat_map(of_server).collect();
    Ok(Answer::ok(json!({ "crons": crons })))
}

/// Sends a cron to the server or the servers it is for. Like the original, answers ok even if there are none.
fn cron(agent: &MasterAgent, signal: Signal, order: &Body) -> HandlerResult {
    let cron = Args::of(order)?;
    let message = Body::of(&Forwarded { signal, cron: Some(&cron), blacklist: None })?;
    let reached = match (cron.get("serverId"), cron.get("serverType")) {
        (Some(id), _) => agent.notify_by_id(id, MODULE, message),
        (None, Some(server_type)) => agent.notify_by_type(server_type, MODULE, message),
        (None, None) => return Err(args::missing()),
    };
    if !reached {
        agent.log(Level::Warn, format_args!("a cron for nobody who is registered: {}", order.as_str()));
    }
    Ok(Answer::ok(json!({ "status": "ok" })))
}

fn blacklist(agent: &MasterAgent, order: &Body) -> HandlerResult {
    let addresses = args::addresses(order)?;
    agent.notify_all(
        MODULE,
        Body::of(&Forwarded { signal: Signal::Blacklist, cron: None, blacklist: Some(&addresses) })?,
    );
    Ok(Answer::ok(json!({ "status": "ok" })))
}

pub(crate) fn plain(signal: Signal) -> Result<Body, ModuleError> {
    Body::of(&Forwarded { signal, cron: None, blacklist: None })
}

type Answers = Vec<(String, Result<Answer, RequestError>)>;

/// The rows of the servers that gave one. It stands in the error slot, and so does a real error: that is no row.
fn rows(answers: Answers) -> BTreeMap<String, Body> {
    #[derive(Deserialize)]
    struct Row {
        body: Body,
    }
    let row = |answer: Answer| answer.result().parse::<Row>().ok();
    answers.into_iter().filter_map(|(id, answer)| Some((id, row(answer.ok()?)?.body))).collect()
}

/// The servers that did not confirm a `kill` with their own id.
fn remained(answers: Answers) -> Vec<String> {
    let confirms = |id: &String, answer: Answer| answer.result().parse::<String>().is_ok_and(|said| said == *id);
    answers
        .into_iter()
        .filter_map(|(id, answer)| match answer {
            Ok(answer) if confirms(&id, answer.clone()) => None,
            _ => Some(id),
        })
        .collect()
}

/// The ids that name a server which can be stopped, and those that do not. The master is not one.
fn split(ids: Vec<String>, registered: &[Server]) -> (Vec<String>, Vec<String>) {
    ids.into_iter().partition(|id| registered.iter().any(|server| server.id == *id && server.server_type != "master"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(id: &str, server_type: &str) -> Server {
        Server { id: id.into(), server_type: server_type.into(), info: Body::ABSENT, incarnation: 1, slave: false }
    }

    #[test]
    fn rows_are_found_in_either_slot() {
        let row = json!({ "serverId": "chat-1", "body": { "pid": 7 } });
        let rows = rows(vec![
            ("chat-1".into(), Ok(Answer::in_error_slot(&row))),
            ("gate-1".into(), Ok(Answer::ok(json!({ "serverId": "gate-1", "body": { "pid": 8 } })))),
        ]);
        assert_eq!(Body::of(&rows).unwrap().as_str(), r#"{"chat-1":{"pid":7},"gate-1":{"pid":8}}"#);
    }

    #[test]
    fn servers_that_gave_no_row_are_left_out_of_a_list() {
        let rows = rows(vec![
            ("deaf-1".into(), Err(RequestError::Timeout("no answer".into()))),
            ("old-1".into(), Ok(Answer::error_text("unknown moduleId:__console__"))),
            ("mute-1".into(), Ok(Answer::done())),
        ]);
        assert!(rows.is_empty());
    }

    #[test]
    fn a_server_cannot_be_listed_under_the_name_of_another() {
        let forged = Answer::in_error_slot(json!({ "serverId": "gate-1", "body": {} }));
        assert!(rows(vec![("chat-1".into(), Ok(forged))]).contains_key("chat-1"));
    }

    #[test]
    fn a_kill_is_confirmed_by_the_own_id_only() {
        let said = |text: &str| Ok(Answer::in_error_slot(Body::text(text)));
        let remained = remained(vec![
            ("gate-1".into(), said("gate-1")),
            ("chat-1".into(), said("unknown moduleId:__console__")),
            ("deaf-1".into(), Err(RequestError::Timeout("no answer".into()))),
        ]);
        assert_eq!(remained, ["chat-1", "deaf-1"]);
    }

    #[test]
    fn a_kill_of_nobody_leaves_nobody() {
        assert!(remained(Vec::new()).is_empty());
    }

    #[test]
    fn the_master_and_strangers_cannot_be_stopped_by_id() {
        let registered = [server("master-server-1", "master"), server("chat-1", "chat")];
        let (known, unknown) = split(vec!["chat-1".into(), "nobody-1".into(), "master-server-1".into()], &registered);
        assert_eq!(known, ["chat-1"]);
        assert_eq!(unknown, ["nobody-1", "master-server-1"]);
    }

    #[test]
    fn a_plain_order_to_the_monitors_is_its_signal_alone() {
        assert_eq!(plain(Signal::List).unwrap().as_str(), r#"{"signal":"list"}"#);
    }
}
