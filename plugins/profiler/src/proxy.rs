//! The module as clients of the original know it. They send `{"id":n,"method":"Profiler.<m>","params":{…}}` and get no
//! answers, but notifies whose body is a text: `{"id":n,"result":{…}}`, and events `{"method":…,"params":{…}}`.

use std::{cell::RefCell, collections::VecDeque};

use muster_plugin_api::{
    Answer, Body, ClientCall, HandlerResult, MasterAgent,
    serde_json::{Value, json},
};
use serde::Deserialize;

use crate::{MODULE, record};

/// Profiles that are kept, one of a server. A tree has up to some MB.
const KEPT: usize = 16;

/// What was taken, the oldest first.
#[derive(Debug, Default)]
pub(crate) struct Proxy {
    profiles: RefCell<VecDeque<(String, Value)>>,
}

/// What a monitor tells when a profile is over.
#[derive(Debug, Deserialize)]
pub(crate) struct Taken {
    #[serde(rename = "clientId")]
    client: String,
    #[serde(rename = "type")]
    kind: String,
    body: Value,
}

impl Proxy {
    pub(crate) fn handle(&self, agent: &MasterAgent, call: &ClientCall, fields: &Value) -> HandlerResult {
        call.require_level(1)?;
        let method = fields["method"].as_str().and_then(|method| method.strip_prefix("Profiler."));
        let method = method.ok_or("expected {\"action\":…} or {\"method\":\"Profiler.…\"}")?;
        let server = fields["params"]["uid"].as_str().unwrap_or_default();
        let client = call.caller.client_id.as_str();
        let order = |action| json!({ "type": "CPU", "action": action, "uid": server, "clientId": client });
        let result = match method {
            "enable" | "isSampling" => json!({ "result": true }),
            "causesRecompilation" | "hasHeapProfiler" => json!({ "result": false }),
            "getProfileHeaders" => json!({ "headers": self.headers() }),
            "getProfile" => match self.profile(server) {
                Some(profile) => json!({ "profile": profile }),
                None => return fail(agent, client, fields, &format!("there is no profile of {server:?}")),
            },
            "clearProfiles" => {
                self.profiles.borrow_mut().clear();
                json!({})
            }
            "start" | "stop" => {
                record(agent, call, &format!("{method} a profile"), server);
                if !agent.notify_by_id(server, MODULE, order(method)) {
                    return fail(agent, client, fields, &format!("unknown server id:{server}"));
                }
                if method == "start" {
                    recording(agent, client, json!({ "isProfiling": true }));
                }
                json!({})
            }
            "takeHeapSnapshot" => return fail(agent, client, fields, "there are no heap snapshots without V8"),
            other => return fail(agent, client, fields, &format!("there is no method Profiler.{other}")),
        };
        tell(agent, client, &json!({ "id": fields["id"], "result": result }));
        Ok(Answer::Silence)
    }

    /// A profile that was started for a client is over.
    pub(crate) fn took(&self, agent: &MasterAgent, server: &str, taken: Taken) {
        let Taken { client, kind, body } = taken;
        // Node servers can send heap snapshots, which nobody has asked for.
        if kind != "CPU" {
            return;
        }
        if let Some(error) = body.get("error") {
            return recording(agent, &client, json!({ "isProfiling": false, "error": error }));
        }
        let mut profiles = self.profiles.borrow_mut();
        profiles.retain(|(known, _)| known != server);
        if profiles.len() >= KEPT {
            profiles.pop_front();
        }
        profiles.push_back((server.to_owned(), body));
        tell(agent, &client, &json!({ "method": "Profiler.addProfileHeader", "params": { "header": header(server) } }));
    }

    fn headers(&self) -> Vec<Value> {
        self.profiles.borrow().iter().map(|(server, _)| header(server)).collect()
    }

    fn profile(&self, server: &str) -> Option<Value> {
        let profiles = self.profiles.borrow();
        let (_, body) = profiles.iter().find(|(known, _)| known == server)?;
        let mut profile = header(server);
        for tree in ["head", "bottomUpHead"] {
            profile[tree] = body[tree].clone();
        }
        Some(profile)
    }
}

fn header(server: &str) -> Value {
    json!({ "title": server, "uid": server, "typeId": "CPU" })
}

fn recording(agent: &MasterAgent, client: &str, params: Value) {
    tell(agent, client, &json!({ "method": "Profiler.setRecordingProfile", "params": params }));
}

/// Unlike the original, which says nothing then.
fn fail(agent: &MasterAgent, client: &str, fields: &Value, text: &str) -> HandlerResult {
    tell(agent, client, &json!({ "id": fields["id"], "error": text }));
    Ok(Answer::Silence)
}

fn tell(agent: &MasterAgent, client: &str, message: &Value) {
    agent.notify_client(client, MODULE, Body::text(&message.to_string()));
}
