//! `__masterwatcher__`: the master's side.

use std::{collections::BTreeMap, time::Duration};

use muster_plugin_api::{
    Agent, Answer, Body, Context, Event, HandlerResult, Input, Level, Manifest, MasterAgent, Message, Module,
    ModuleError, RequestError, Role, Server,
    serde_json::{Value, json},
};
use serde::{Deserialize, Serialize};

use crate::{
    MASTER, MASTER_ONCE, MONITOR,
    roster::{self, Roster},
};

/// How long a listener has for its answer. Nobody waits for it: whoever does not answer is named in the log.
const ROUND: Duration = Duration::from_secs(10);

/// Keeps no state of its own: see [`roster`].
pub(crate) struct MasterWatcher {
    /// How many servers make the fleet; what the configuration names, if it is not set.
    servers: Option<usize>,
}

#[derive(Deserialize)]
struct Order {
    #[serde(default)]
    action: String,
    #[serde(default)]
    id: Option<String>,
}

/// What is told to the monitors.
#[derive(Serialize)]
#[serde(tag = "action", rename_all = "camelCase")]
enum News<'a> {
    AddServer { server: &'a Body },
    RemoveServer { id: &'a str },
    ReplaceServer { servers: BTreeMap<&'a str, &'a Body> },
    StartOver,
}

impl Module for MasterWatcher {
    fn manifest() -> Manifest {
        Manifest::new(MASTER, env!("CARGO_PKG_VERSION")).alias(MASTER_ONCE).only(Role::Master)
    }

    fn create(context: Context) -> Result<MasterWatcher, ModuleError> {
        Ok(MasterWatcher { servers: context.options.get("servers")? })
    }

    /// Forgets the listeners that left while no watchdog was there to see it.
    async fn start(&self, agent: Agent) -> Result<(), ModuleError> {
        if let Some(agent) = agent.master() {
            for incarnation in Roster::of(&agent.entries()).stale(&agent.servers()) {
                agent.remove(&roster::listener(incarnation));
            }
        }
        Ok(())
    }

    async fn master_handler(&self, agent: MasterAgent, input: Input) -> HandlerResult {
        let Input::Message(message) = input else { return Ok(Answer::Silence) };
        let order: Order = message.body.parse()?;
        match order.action.as_str() {
            "subscribe" => {
                speaks_for_itself(&order, &message)?;
                let registered = agent.servers();
                // A message may outlive its connection.
                if registered.iter().any(|server| server.incarnation == message.from.incarnation) {
                    agent.put(&roster::listener(message.from.incarnation), Value::from(message.from.id.as_str()));
                }
                Answer::json(&roster::directory(&registered))
            }
            "unsubscribe" => {
                speaks_for_itself(&order, &message)?;
                agent.remove(&roster::listener(message.from.incarnation));
                Ok(Answer::both((), ()))
            }
            "query" => Answer::json(&roster::directory(&agent.servers())),
            "record" => {
                speaks_for_itself(&order, &message)?;
                self.record(&agent, &message.from.id)?;
                Ok(Answer::done())
            }
            // The original never answers here.
            other => Ok(Answer::error_text(&format!("unknown action:{other}"))),
        }
    }

    async fn on_event(&self, agent: Agent, event: Event) {
        let Some(agent) = agent.master() else { return };
        let told = match event {
            Event::ServerRegistered { server } => joined(&agent, &server),
            Event::ServerReconnected { server } => came_back(&agent, &server),
            Event::ServerLeft { server } => left(&agent, &server),
            _ => Ok(()),
        };
        if let Err(error) = told {
            agent.log(Level::Error, format_args!("the servers could not be told: {error}"));
        }
    }
}

impl MasterWatcher {
    /// A server has started completely.
    fn record(&self, agent: &MasterAgent, id: &str) -> Result<(), ModuleError> {
        let roster = Roster::of(&agent.entries());
        let fleet = self.servers.unwrap_or_else(|| agent.app().fleet().len());
        let is_last = roster.completes(id, fleet);
        agent.put(&roster::recorded(id), Value::Bool(true));
        if is_last {
            agent.put(roster::STARTED, Value::Bool(true));
            agent.log(Level::Info, format_args!("all {fleet} servers are up"));
            tell(agent, roster.recipients(&agent.servers(), None), &News::StartOver)?;
        }
        Ok(())
    }
}

fn joined(agent: &MasterAgent, server: &Server) -> Result<(), ModuleError> {
    if !roster::is_listed(server) {
        return Ok(());
    }
    let recipients = Roster::of(&agent.entries()).recipients(&agent.servers(), Some(&server.id));
    tell(agent, recipients, &News::AddServer { server: &server.info })
}

/// A server whose link is back does not subscribe again: it gets the whole map, and listens from then on.
fn came_back(agent: &MasterAgent, server: &Server) -> Result<(), ModuleError> {
    // What was said before the break would be sent again, and is outdated.
    agent.forget_requests(&server.id, MONITOR);
    let registered = agent.servers();
    let mut servers = roster::directory(&registered);
    if roster::is_listed(server) {
        servers.entry(&server.id).or_insert(&server.info);
    }
    tell(agent, [server.id.clone()], &News::ReplaceServer { servers })?;
    joined(agent, server)?;
    agent.put(&roster::listener(server.incarnation), Value::from(server.id.as_str()));
    Ok(())
}

fn left(agent: &MasterAgent, server: &Server) -> Result<(), ModuleError> {
    agent.remove(&roster::listener(server.incarnation));
    let registered = agent.servers();
    if !roster::is_gone(server, &registered) {
        return Ok(());
    }
    // When it comes back, it learns everything anew.
    agent.forget_requests(&server.id, MONITOR);
    let recipients = Roster::of(&agent.entries()).recipients(&registered, Some(&server.id));
    tell(agent, recipients, &News::RemoveServer { id: &server.id })
}

/// Sends `news` to all at once and waits for nobody.
fn tell(agent: &MasterAgent, ids: impl IntoIterator<Item = String>, news: &News<'_>) -> Result<(), ModuleError> {
    let body = Body::of(news)?;
    for id in ids {
        let (agent, body) = (agent.clone(), body.clone());
        agent.clone().spawn(async move {
            match agent.request_within(ROUND, &id, MONITOR, &body).await {
                Ok(answer) => {
                    let said = answer.result();
                    if said.parse::<Value>().ok() != Some(json!(1)) {
                        agent.log(Level::Warn, format_args!("{id} answers {said:?} to {}", body.as_str()));
                    }
                }
                Err(error @ RequestError::Timeout(_)) => {
                    agent.log(Level::Warn, format_args!("{id} does not answer {}: {error}", body.as_str()));
                }
                // It is leaving: others are told so.
                Err(error) => agent.log(Level::Debug, format_args!("{id} was not told {}: {error}", body.as_str())),
            }
        });
    }
    Ok(())
}

/// Refuses a message in the name of another server; without a name it is the sender's own.
fn speaks_for_itself(order: &Order, message: &Message) -> Result<(), ModuleError> {
    let own = &message.from.id;
    match &order.id {
        Some(id) if id != own => {
            Err(format!("{own} cannot {} in the name of {id}: leave the id out, or send its own.", order.action).into())
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use muster_plugin_api::Peer;

    use super::*;

    #[track_caller]
    fn reads(news: &News<'_>, json: &str) {
        assert_eq!(Body::of(news).unwrap().as_str(), json);
    }

    #[test]
    fn news_read_as_the_original_sends_them() {
        let info = Body::from(json!({ "id": "chat-1" }));
        reads(&News::AddServer { server: &info }, r#"{"action":"addServer","server":{"id":"chat-1"}}"#);
        reads(&News::RemoveServer { id: "chat-1" }, r#"{"action":"removeServer","id":"chat-1"}"#);
        let servers = BTreeMap::from([("chat-1", &info)]);
        reads(&News::ReplaceServer { servers }, r#"{"action":"replaceServer","servers":{"chat-1":{"id":"chat-1"}}}"#);
        reads(&News::StartOver, r#"{"action":"startOver"}"#);
    }

    #[test]
    fn a_monitor_speaks_for_itself_only() {
        let message = |body: Value| Message {
            body: body.into(),
            from: Peer { id: "chat-1".into(), server_type: "chat".into(), incarnation: 1 },
            is_request: true,
            time_left: Duration::ZERO,
        };
        let check = |body: Value| {
            let message = message(body);
            speaks_for_itself(&message.body.parse().unwrap(), &message)
        };
        assert!(check(json!({ "action": "subscribe", "id": "chat-1" })).is_ok());
        assert!(check(json!({ "action": "subscribe" })).is_ok());
        let error = check(json!({ "action": "subscribe", "id": "gate-1" })).unwrap_err();
        assert_eq!(
            error.message(),
            "chat-1 cannot subscribe in the name of gate-1: leave the id out, or send its own."
        );
    }
}
