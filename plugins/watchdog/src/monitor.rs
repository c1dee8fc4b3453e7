//! `__monitorwatcher__`: the monitor's side.

use std::{cell::Cell, time::Duration};

use muster_plugin_api::{
    Agent, Answer, App, Body, Context, Event, HandlerResult, Input, Level, Manifest, Module, ModuleError, MonitorAgent,
    Role,
    serde_json::{Value, json},
};
use serde::{Deserialize, Serialize};

use crate::{MASTER, MONITOR};

/// Before the first and the last of the attempts to subscribe: each waits twice as long as the one before.
const PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// The value that says that this server has recorded itself. It survives a replacement of the plugin: a real master counts
/// records, so that a second one would end the start of the fleet too early.
const RECORDED: &str = "recorded";

pub(crate) struct MonitorWatcher {
    /// Counts what happens to the link, so that whoever waits can see that its link is not the one of today.
    link: Cell<u64>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Order {
    action: String,
    server: Body,
    id: Value,
    servers: Body,
}

/// What is said to the master.
#[derive(Serialize)]
struct Said<'a> {
    action: &'a str,
    id: &'a str,
}

impl Module for MonitorWatcher {
    fn manifest() -> Manifest {
        Manifest::new(MONITOR, env!("CARGO_PKG_VERSION")).only(Role::Monitor)
    }

    fn create(_: Context) -> Result<MonitorWatcher, ModuleError> {
        Ok(MonitorWatcher { link: Cell::new(0) })
    }

    /// The answer is a number in the error slot: 1 for done, 0 for something missing.
    async fn monitor_handler(&self, agent: MonitorAgent, input: Input) -> HandlerResult {
        let Input::Message(message) = input else { return Ok(Answer::Silence) };
        let order: Order = message.body.parse()?;
        let done = match order.action.as_str() {
            "addServer" => id_of(&order.server).map(|id| agent.app().add_server(&id, order.server)).is_some(),
            "removeServer" => named(&order.id).map(|id| agent.app().remove_server(id)).is_some(),
            "replaceServer" => replace(&agent.app(), order.servers),
            "startOver" => {
                agent.app().start_over();
                true
            }
            // The original never answers here.
            other => return Ok(Answer::error_text(&format!("unknown action:{other}"))),
        };
        Ok(Answer::in_error_slot(json!(u8::from(done))))
    }

    async fn on_event(&self, agent: Agent, event: Event) {
        let Some(agent) = agent.monitor() else { return };
        match event {
            Event::MasterConnected { .. } => self.follow(&agent, self.next_link()).await,
            Event::MasterLost => drop(self.next_link()),
            _ => {}
        }
    }
}

impl MonitorWatcher {
    fn next_link(&self) -> u64 {
        self.link.set(self.link.get() + 1);
        self.link.get()
    }

    /// Subscribes at the master, however long that takes, and records this server once.
    ///
    /// The original subscribes after its first registration only: on a reconnect the master sends `replaceServer` by
    /// itself. A master that has no watchdog yet, or a new one, would not; and to subscribe twice changes nothing.
    async fn follow(&self, agent: &MonitorAgent, link: u64) {
        let id = agent.server_id();
        let mut pause = PAUSE;
        loop {
            let answer = ask_for_servers(agent, &id).await;
            if self.link.get() != link {
                return;
            }
            match answer {
                Ok(servers) if replace(&agent.app(), servers.clone()) => break,
                Ok(other) => agent.log(level(pause), format_args!("the master's directory is no object: {other:?}")),
                Err(error) => agent.log(level(pause), format_args!("no directory from the master: {error}")),
            }
            agent.sleep(pause).await;
            if self.link.get() != link {
                return;
            }
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
        if agent.get(RECORDED).is_none() {
            let told = Body::of(&Said { action: "record", id: &id }).is_ok_and(|body| agent.notify(MASTER, body));
            if told {
                agent.put(RECORDED, Value::Bool(true));
            }
        }
    }
}

async fn ask_for_servers(agent: &MonitorAgent, id: &str) -> Result<Body, ModuleError> {
    match agent.request(MASTER, Body::of(&Said { action: "subscribe", id })?).await? {
        Answer::Reply { error, body } if error.is_null() => Ok(body),
        Answer::Reply { error, .. } => Err(ModuleError::new(error.as_str())),
        Answer::Silence => Err("no answer".into()),
    }
}

/// The first failure is worth a warning; those after it say nothing new.
fn level(pause: Duration) -> Level {
    if pause == PAUSE { Level::Warn } else { Level::Debug }
}

fn replace(app: &App, servers: Body) -> bool {
    servers.as_str().starts_with('{') && app.replace_servers(servers)
}

/// The id in a server's info.
fn id_of(info: &Body) -> Option<String> {
    #[derive(Deserialize)]
    struct Named {
        #[serde(default)]
        id: Value,
    }
    named(&info.parse::<Named>().ok()?.id).map(str::to_owned)
}

fn named(id: &Value) -> Option<&str> {
    id.as_str().filter(|id| !id.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_is_known_by_the_id_in_its_info() {
        assert_eq!(id_of(&json!({ "id": "chat-1", "port": 1 }).into()).as_deref(), Some("chat-1"));
    }

    #[test]
    fn infos_without_a_usable_id_name_nobody() {
        for info in [json!({}), json!({ "id": "" }), json!({ "id": 7 }), json!("chat-1"), Value::Null] {
            assert_eq!(id_of(&info.clone().into()), None, "{info}");
        }
        assert_eq!(id_of(&Body::ABSENT), None);
    }

    #[test]
    fn what_is_said_to_the_master_reads_as_the_original_sends_it() {
        let said = Said { action: "subscribe", id: "chat-1" };
        assert_eq!(Body::of(&said).unwrap().as_str(), r#"{"action":"subscribe","id":"chat-1"}"#);
    }

    #[test]
    fn an_order_may_lack_every_field() {
        let order: Order = Body::from(json!({ "action": "addServer" })).parse().unwrap();
        assert!(order.server.is_absent() && order.servers.is_absent() && order.id.is_null());
    }
}
