//! Uses what plugins of the first interface could: every handler, values, requests, timers, events, options, a schedule.

use std::time::Duration;

use muster_plugin_api::{
    Agent, Answer, ClientCall, Context, Event, HandlerResult, Input, Level, Manifest, MasterAgent, Module, ModuleError,
    MonitorAgent, Schedule, export_modules, serde_json::json,
};

struct Veteran {
    greeting: String,
}

impl Module for Veteran {
    fn manifest() -> Manifest {
        Manifest::new("veteran", env!("CARGO_PKG_VERSION")).alias("old").schedule(Schedule::pull(1.0))
    }

    fn create(context: Context) -> Result<Veteran, ModuleError> {
        Ok(Veteran { greeting: context.options.get("greeting")?.unwrap_or_else(|| "hello".into()) })
    }

    async fn start(&self, agent: Agent) -> Result<(), ModuleError> {
        agent.log(Level::Info, "the veteran starts");
        Ok(())
    }

    async fn monitor_handler(&self, agent: MonitorAgent, input: Input) -> HandlerResult {
        match input {
            Input::Message(message) if message.is_request => {
                let figures = agent.app().figures().await?;
                Ok(Answer::ok(json!({ "from": agent.server_id(), "pid": figures.pid > 0 })))
            }
            _ => {
                agent.notify("veteran", json!("report"));
                Ok(Answer::Silence)
            }
        }
    }

    async fn master_handler(&self, agent: MasterAgent, input: Input) -> HandlerResult {
        match input {
            Input::Tick => drop(agent.notify_all("veteran", ())),
            Input::Message(message) => agent.put(&message.from.id, message.body),
        }
        Ok(Answer::Silence)
    }

    async fn client_handler(&self, agent: MasterAgent, call: ClientCall) -> HandlerResult {
        match call.body.parse::<muster_plugin_api::serde_json::Value>()?["do"].as_str() {
            Some("ask") => {
                agent.sleep(Duration::from_millis(1)).await;
                let all = agent.request_all(Duration::from_secs(5), "veteran", ()).await;
                let answers: Result<Vec<_>, _> = all.into_iter().map(|(_, answer)| answer.map(Answer::result)).collect();
                Ok(Answer::json(&answers?)?)
            }
            Some("values") => Ok(Answer::ok(agent.entries())),
            Some("panic") => panic!("as told"),
            _ => Ok(Answer::ok(json!(self.greeting))),
        }
    }

    async fn on_event(&self, agent: Agent, event: Event) {
        if let Event::ServerRegistered { server } = event {
            agent.put("seen", json!(server.id));
        }
    }

    async fn stop(&self, agent: Agent) {
        agent.log(Level::Info, "the veteran stops");
    }
}

export_modules!(Veteran);
