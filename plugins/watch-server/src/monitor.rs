//! In a monitor: what the master asks of this server.

use muster_plugin_api::{
    Answer, App, Body, Change, HandlerResult, Info, Input, Level, MonitorAgent,
    serde_json::{Map, Value, json},
};
use muster_sandbox::{Outcome, World};
use serde::{Deserialize, Serialize};

use crate::{
    WatchServer,
    comd::{Ask, Comd},
    settings,
};

/// What is told of a server and of its process. The original puts the row of `servers` into the error slot.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Told<T> {
    server_id: String,
    body: T,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Row {
    server_id: String,
    server_type: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    host: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    port: Option<Value>,
    pid: u32,
    /// In millions of bytes.
    heap_used: String,
    /// In minutes.
    uptime: String,
}

pub(crate) async fn handle(module: &WatchServer, agent: &MonitorAgent, input: Input) -> HandlerResult {
    let Input::Message(message) = input else { return Ok(Answer::Silence) };
    let ask: Ask = message.body.parse().unwrap_or_default();
    let comd = match ask.comd() {
        Ok(comd) => comd,
        Err(text) => return Ok(Answer::error_text(&text)),
    };
    let app = agent.app();
    match comd {
        Comd::Servers => servers(&app).await,
        Comd::Connections | Comd::Logins => connections(&app),
        // Nobody asks: the master answers for itself.
        Comd::Modules => Ok(Answer::ok(json!({ "msg": app.modules() }))),
        Comd::Status => {
            let status = module.meter.read(&app).await?;
            Answer::json(&Told { server_id: status.server_id.clone(), body: status })
        }
        Comd::Config => {
            // Without a name there is nothing of this name, as in the original.
            let name: String = ask.param.parse().unwrap_or_default();
            let config = settings::scalars(&app.setting(&format!("{name}Config")));
            Ok(Answer::ok(Value::Object(config)))
        }
        // What pomelo's components and their handlers are, other servers do not have.
        Comd::Proxy | Comd::Handler | Comd::Components => Ok(Answer::ok(json!({}))),
        Comd::Settings => Ok(Answer::ok(Value::Object(settings::shown(&app.info().env, &app.settings())))),
        Comd::Get => get(&app, &key(&ask)?).await,
        Comd::Set => set(&app, &ask.param).await,
        Comd::Enable => switch(&app, &key(&ask)?, Change::Enable).await,
        Comd::Disable => switch(&app, &key(&ask)?, Change::Disable).await,
        Comd::Run => run(module, agent, &message.from.id, &ask).await,
        Comd::Cpu => Ok(Answer::ok(Body::text("cpu dump is unused in 1.0 of pomelo"))),
        // The original writes to the path before it finds that it has nothing to write; here it is not touched.
        Comd::Memory => Ok(Answer::error_text("pomelo-admin require heapdump")),
    }
}

async fn servers(app: &App) -> HandlerResult {
    let Info { id, server_type, info, .. } = app.info();
    let figures = app.figures().await?;
    let info: Map<String, Value> = info.parse().unwrap_or_default();
    let row = Row {
        server_id: id.clone(),
        server_type,
        host: info.get("host").cloned(),
        port: info.get("port").cloned(),
        pid: figures.pid,
        heap_used: format!("{:.2}", figures.heap_used as f64 / 1e6),
        uptime: format!("{:.2}", figures.uptime_s / 60.0),
    };
    Ok(Answer::in_error_slot(Body::of(&Told { server_id: id, body: row })?))
}

/// What the application tells of its connections. Without a word of it a frontend server has none, and one that is not
/// has nothing to tell.
fn connections(app: &App) -> HandlerResult {
    let Info { id, info, .. } = app.info();
    let info: Map<String, Value> = info.parse().unwrap_or_default();
    let is_frontend = info.get("frontend").is_some_and(|frontend| frontend == "true" || *frontend == true);
    let published: Option<Map<String, Value>> = app.connections().parse().ok();
    let body = match published {
        Some(published) => Value::Object(statistics(&id, published)),
        None if is_frontend => Value::Object(statistics(&id, Map::new())),
        None => "error".into(),
    };
    Ok(Answer::in_error_slot(Body::of(&Told { server_id: id, body })?))
}

/// What was published, in the original's order; what is missing is nothing.
fn statistics(id: &str, mut published: Map<String, Value>) -> Map<String, Value> {
    let nothing = [("totalConnCount", json!(0)), ("loginedCount", json!(0)), ("loginedList", json!([]))];
    let mut told = Map::from_iter([("serverId".to_owned(), id.into())]);
    for (field, nothing) in nothing {
        let value = published.get(field).filter(|value| !value.is_null()).cloned();
        told.insert(field.to_owned(), value.unwrap_or(nothing));
        published.remove(field);
    }
    published.remove("serverId");
    told.extend(published);
    told
}

async fn get(app: &App, key: &str) -> HandlerResult {
    let value = app.ask_setting(key).await?;
    let value = if value.is_absent() && key == "env" { Body::text(&app.info().env) } else { value };
    Ok(Answer::ok(settings::got(value)))
}

async fn set(app: &App, param: &Body) -> HandlerResult {
    #[derive(Deserialize)]
    struct Param {
        key: String,
        #[serde(default)]
        value: Body,
    }
    match param.parse() {
        Ok(Param { key, value }) if !key.is_empty() => {
            let text = format!("set {key}:{} ok", settings::in_words(&value));
            app.change_setting(&key, Change::Set(value)).await?;
            Ok(Answer::ok(Body::text(&text)))
        }
        _ => Ok(Answer::error_text("set needs a key and a value")),
    }
}

async fn switch(app: &App, key: &str, change: Change) -> HandlerResult {
    let word = if change == Change::Enable { "enable" } else { "disable" };
    app.change_setting(key, change).await?;
    Ok(Answer::ok(Body::text(&format!("{word} {key} ok"))))
}

async fn run(module: &WatchServer, agent: &MonitorAgent, from: &str, ask: &Ask) -> HandlerResult {
    if let Err(text) = module.options.require_run(&agent.server_id()) {
        return Ok(Answer::error_text(&text));
    }
    let expression = key(ask)?;
    agent.audit("run an expression", &json!({ "from": from, "expression": expression }));
    let printed = agent.clone();
    let log = move |line: &str| printed.log(Level::Info, format_args!("run: {line}"));
    let world = World::of(&agent.app(), &module.options.sandbox.capabilities, log).await?;
    match muster_sandbox::evaluate(world, module.limits, &expression) {
        Outcome::Value(text) => Ok(Answer::ok(text)),
        Outcome::Nothing => Ok(Answer::ok(Body::text("undefined"))),
        // As in the original, an exception is an answer and not an error.
        Outcome::Threw { stack, .. } => Ok(Answer::ok(Body::text(&stack))),
        Outcome::TimedOut => Err(format!("it took more than {:?} and was ended", module.limits.time).into()),
        Outcome::Failed(why) => Err(why.into()),
    }
}

/// The parameter as a text, which is a name or an expression.
fn key(ask: &Ask) -> Result<String, &'static str> {
    let text: Option<String> = ask.param.parse().ok();
    text.filter(|text| !text.is_empty()).ok_or("param should be a text that is not empty")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_published_is_nobody_connected() {
        let told = Value::Object(statistics("gate-1", Map::new()));
        assert_eq!(told.to_string(), r#"{"serverId":"gate-1","totalConnCount":0,"loginedCount":0,"loginedList":[]}"#);
    }

    #[test]
    fn what_is_published_is_told_under_the_servers_own_id() {
        let published = json!({ "serverId": "other", "loginedList": [{ "uid": "u" }], "more": 1, "totalConnCount": 3 });
        let told = statistics("gate-1", published.as_object().unwrap().clone());
        assert_eq!(
            Value::Object(told).to_string(),
            r#"{"serverId":"gate-1","totalConnCount":3,"loginedCount":0,"loginedList":[{"uid":"u"}],"more":1}"#
        );
    }
}
