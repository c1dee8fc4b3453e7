//! Commands for clients: who may do what, typed messages, and questions to the servers.
//!
//! ```json
//! {"do": "list"}                                      what the notes say; everybody may
//! {"do": "write", "about": "chat-1", "text": "slow"}  level 1 only
//! {"do": "ping", "server": "chat-1"}                  asks that server
//! ```

use muster_plugin_api::{
    Answer, ClientCall, Context, HandlerResult, Input, Json, Manifest, MasterAgent, Module, ModuleError, MonitorAgent,
    export_modules, serde::Deserialize, serde_json::json,
};

const MODULE: &str = env!("CARGO_PKG_NAME");

/// Who may change anything: 1 is an administrator, higher numbers may less.
const MAY_WRITE: u32 = 1;

/// Notes about servers.
pub struct Notes;

/// What a client may ask for.
#[derive(Debug, Deserialize)]
#[serde(crate = "muster_plugin_api::serde", tag = "do", rename_all = "lowercase")]
enum Ask {
    List,
    Write { about: String, text: String },
    Ping { server: String },
}

impl Module for Notes {
    fn manifest() -> Manifest {
        Manifest::new(MODULE, env!("CARGO_PKG_VERSION"))
    }

    fn create(_: Context) -> Result<Notes, ModuleError> {
        Ok(Notes)
    }

    async fn client_handler(&self, agent: MasterAgent, call: ClientCall) -> HandlerResult {
        match call.body.parse()? {
            Ask::List => Ok(Answer::ok(agent.entries())),
            Ask::Write { about, text } => {
                call.require_level(MAY_WRITE)?;
                // Before the effect, so that none is without its line.
                agent.audit("note", &json!({ "user": call.caller.user, "about": about }));
                agent.put(&about, Json((&call.caller.user, text)));
                Ok(Answer::done())
            }
            Ask::Ping { server } => Ok(agent.request(&server, MODULE, ()).await?),
        }
    }

    async fn monitor_handler(&self, agent: MonitorAgent, _: Input) -> HandlerResult {
        let figures = agent.app().figures().await?;
        Ok(Answer::ok(json!({ "pid": figures.pid, "uptime": figures.uptime_s })))
    }
}

export_modules!(Notes);

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use muster_plugin_api::testing::{CLIENT, Fleet};

    use super::*;

    fn fleet() -> Fleet {
        Fleet::of::<Notes>().monitor("chat-1", "chat").start().expect("it starts")
    }

    #[test]
    fn what_an_administrator_writes_everybody_reads() {
        let mut fleet = fleet();
        let note = json!({ "do": "write", "about": "chat-1", "text": "slow", "clientId": CLIENT });
        fleet.call(MODULE, note).body();
        let read = fleet.call_as("guest", 5, MODULE, json!({ "do": "list" }));
        let notes: BTreeMap<String, (String, String)> = read.parse();
        assert_eq!(notes["chat-1"], (CLIENT.to_owned(), "slow".to_owned()));
        assert!(fleet.transcript().contains("audit note"), "{}", fleet.transcript());
    }

    #[test]
    fn others_may_not_write() {
        let note = json!({ "do": "write", "about": "chat-1", "text": "slow", "clientId": "guest" });
        let denied = fleet().call_as("guest", 5, MODULE, note);
        assert_eq!(denied.error(), "Command permission denied");
    }

    #[test]
    fn a_server_is_asked_by_the_master() {
        let mut fleet = fleet();
        let ping = |server: &str| json!({ "do": "ping", "server": server });
        assert!(fleet.call(MODULE, ping("chat-1")).body().as_str().contains("pid"));
        assert_eq!(fleet.call(MODULE, ping("nobody")).error(), "unknown server id:nobody");
    }

    #[test]
    fn an_unknown_command_is_told_what_there_is() {
        let error = fleet().call(MODULE, json!({ "do": "dance" })).error();
        assert!(error.contains("expected one of `list`, `write`, `ping`"), "{error}");
    }
}
