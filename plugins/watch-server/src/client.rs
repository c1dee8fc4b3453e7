//! In the master: what clients ask.

use std::{collections::BTreeMap, time::Duration};

use futures_util::future::join_all;
use muster_plugin_api::{
    Answer, Body, ClientCall, HandlerResult, MasterAgent, Server,
    serde_json::{Map, Value, json},
};
use serde::{Deserialize, Serialize};

use crate::{
    MODULE, Options,
    comd::{Ask, Comd},
};

/// How long the servers are waited for: the console's time for its list. The original waits for ever.
const WAIT: Duration = Duration::from_secs(10);

/// Answers have it in a field of its own, without which pomelo-cli ends with an exception.
#[derive(Serialize)]
struct Shown<T> {
    msg: T,
}

pub(crate) async fn handle(agent: &MasterAgent, call: &ClientCall, options: &Options) -> HandlerResult {
    let ask: Ask = call.body.parse().unwrap_or_default();
    if !ask.is_complete() {
        return Ok(Answer::error_text("lack of comd or context param"));
    }
    let comd = match ask.comd() {
        Ok(comd) => comd,
        Err(text) => return Ok(Answer::error_text(&text)),
    };
    let context = ask.context();
    if comd.refuses_all() && context == "all" {
        return Ok(Answer::error_text("context error"));
    }
    match comd {
        Comd::Servers => servers(agent, context).await,
        Comd::Connections | Comd::Logins => connections(agent, comd, context).await,
        Comd::Modules => Answer::json(&Shown { msg: agent.app().modules() }),
        Comd::Config if ask.param.as_str() == "\"master\"" => master_config(agent),
        Comd::Run => match options.require_run("this master") {
            Ok(()) => pass_on(agent, comd, &ask).await,
            Err(text) => Ok(Answer::error_text(&text)),
        },
        Comd::Status => Ok(match pass_on(agent, comd, &ask).await? {
            Answer::Reply { error, body } if error.is_null() => Answer::json(&Shown { msg: body })?,
            refused => refused,
        }),
        Comd::Config | Comd::Proxy | Comd::Handler | Comd::Components | Comd::Settings | Comd::Get => {
            pass_on(agent, comd, &ask).await
        }
        Comd::Set | Comd::Enable | Comd::Disable | Comd::Cpu | Comd::Memory => pass_on(agent, comd, &ask).await,
    }
}

/// Asks all monitors; those that do not answer are left out.
async fn servers(agent: &MasterAgent, context: &str) -> HandlerResult {
    let message = Comd::Servers.message(context, &Body::ABSENT)?;
    let answers = agent.request_all(WAIT, MODULE, message).await;
    let rows: BTreeMap<String, Body> =
        answers.into_iter().filter_map(|(id, answer)| Some((id, row(answer.ok()?)?))).collect();
    Answer::json(&Shown { msg: rows })
}

/// Asks the frontend servers, or the one that is meant.
async fn connections(agent: &MasterAgent, comd: Comd, context: &str) -> HandlerResult {
    let message = comd.message(context, &Body::ABSENT)?;
    let first = agent.servers().into_iter().filter(|server| !server.slave);
    if context != "all" {
        let Some(server) = first.into_iter().find(|server| server.id == context) else {
            return Ok(Answer::error_text(&format!("the server {context} not exist")));
        };
        if !is_frontend(&server) {
            return Ok(Answer::error_text("\nthis command should be applied to frontend server\n"));
        }
        let answer = agent.request_within(WAIT, context, MODULE, message).await?;
        return match row(answer.clone()) {
            Some(row) => Answer::json(&Shown { msg: BTreeMap::from([(context, row)]) }),
            None => Ok(answer),
        };
    }
    let asked = first.filter(is_frontend).map(|server| {
        let message = message.clone();
        async move { (agent.request_within(WAIT, &server.id, MODULE, message).await, server.id) }
    });
    let answers = join_all(asked).await;
    let rows: BTreeMap<String, Body> =
        answers.into_iter().filter_map(|(answer, id)| Some((id, row(answer.ok()?)?))).collect();
    Answer::json(&Shown { msg: rows })
}

fn master_config(agent: &MasterAgent) -> HandlerResult {
    let app = agent.app();
    let config = Some(app.setting("masterConfig")).filter(|config| !config.is_null());
    let info: Map<String, Value> = app.info().info.parse().unwrap_or_default();
    let config = config.unwrap_or_else(|| Body::text("no config to master in app.js"));
    Ok(Answer::ok(json!({ "masterConfig": config, "masterInfo": info })))
}

/// Asks the one server. The original swallows most errors, so that nobody knows why there is nothing; here they are
/// passed on, and pomelo-cli prints them.
async fn pass_on(agent: &MasterAgent, comd: Comd, ask: &Ask) -> HandlerResult {
    Ok(agent.request(ask.context(), MODULE, comd.message(ask.context(), &ask.param)?).await?)
}

/// The row of an answer. It stands in the error slot, and so does a real error: that is no row.
fn row(answer: Answer) -> Option<Body> {
    #[derive(Deserialize)]
    struct Row {
        body: Body,
    }
    answer.result().parse::<Row>().ok().map(|row| row.body)
}

/// A text in what pomelo's servers send; a truth value in what servers.json says, which our monitors pass on.
fn is_frontend(server: &Server) -> bool {
    #[derive(Default, Deserialize)]
    struct Info {
        #[serde(default)]
        frontend: Value,
    }
    let frontend = server.info.parse::<Info>().unwrap_or_default().frontend;
    frontend == "true" || frontend == true
}

#[cfg(test)]
mod tests {
    use muster_plugin_api::ModuleError;

    use super::*;

    fn server(info: Value) -> Server {
        Server { id: "a".into(), server_type: "gate".into(), info: info.into(), incarnation: 1, slave: false }
    }

    #[test]
    fn a_row_is_found_in_either_slot() {
        let row_of = |answer| row(answer).map(|row| row.as_str().to_owned());
        let told = json!({ "serverId": "a", "body": { "pid": 7 } });
        assert_eq!(row_of(Answer::in_error_slot(told.clone())).as_deref(), Some(r#"{"pid":7}"#));
        assert_eq!(row_of(Answer::ok(told)).as_deref(), Some(r#"{"pid":7}"#));
        assert_eq!(
            row_of(Answer::in_error_slot(json!({ "serverId": "a", "body": "error" }))).as_deref(),
            Some(r#""error""#)
        );
    }

    #[test]
    fn an_error_is_no_row() {
        for answer in
            [Answer::error_text("unknown moduleId:watchServer"), ModuleError::new("boom").into_answer(), Answer::done()]
        {
            assert_eq!(row(answer), None);
        }
    }

    #[test]
    fn frontend_is_a_text_or_a_truth_value() {
        for info in [json!({ "frontend": "true" }), json!({ "frontend": true })] {
            assert!(is_frontend(&server(info)));
        }
        for info in [
            json!({}),
            json!({ "frontend": "false" }),
            json!({ "frontend": false }),
            json!({ "frontend": 1 }),
            json!(null),
        ] {
            assert!(!is_frontend(&server(info)));
        }
    }
}
