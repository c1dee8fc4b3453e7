//! The three commands of clients, and the host's own module for plugins.

use muster_plugin_api::Role;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use tracing::info;

use super::Master;
use crate::{
    modules::call::ClientIdentity,
    peers::To,
    session::Reply,
    wire::{self, Topic, envelope},
};

impl Master {
    /// Carries out a command of a client. The order of checks and the texts are the original's
    /// (`ConsoleService.command`); but who the client is, its connection says.
    pub(super) fn command(
        &self,
        client: &ClientIdentity,
        reply: Option<Reply>,
        command: &str,
        module: &str,
        body: &str,
    ) {
        let body: Map<String, Value> = serde_json::from_str(body).unwrap_or_default();
        let permitted = permission(client, &body);
        info!(
            target: "audit",
            client = %client.id, user = client.user, command, module, refused = permitted.err(), "command"
        );
        let enable = match command {
            "list" => None,
            "enable" => Some(true),
            "disable" => Some(false),
            _ => return answer(reply, Err(wire::json_text(&format!("unknown command:{command}")))),
        };
        if let Err(text) = permitted {
            return answer(reply, Err(wire::error_object(text)));
        }
        let Some(enable) = enable else {
            let mut modules = self.modules.list(Role::Master);
            modules.retain(|id| !is_internal(id));
            return answer(reply, Ok(json!({ "modules": modules })));
        };
        if module.is_empty() {
            return answer(reply, Err(wire::json_text("empty moduleId")));
        }
        if !self.modules.set_enabled(Role::Master, module, enable) {
            return answer(reply, Ok(json!(-1)));
        }
        // With a `clientId` in the body, monitors of version 1.0.1 never read from this connection again (Q18).
        let mut forwarded = body;
        forwarded.remove("clientId");
        let body = Value::Object(forwarded).to_string();
        let frame = envelope::command(Topic::Monitor, None, command, Some(module), body.as_bytes());
        self.peers.send(To::All, &frame);
        answer(reply, Ok(json!(1)));
    }

    /// Answers the host's own module `__plugins__`.
    pub(super) fn plugin_request(&self, client: &ClientIdentity, reply: Reply, body: &str) {
        #[derive(Deserialize)]
        struct Ask {
            #[serde(default)]
            action: String,
            #[serde(default)]
            name: String,
        }
        let ask: Result<Ask, _> = serde_json::from_str(body);
        match ask {
            Ok(ask) if ask.action == "list" => answer(Some(reply), Ok(self.plugins())),
            Ok(ask) if ask.action == "unquarantine" => {
                let refused = client.level != 1;
                info!(
                    target: "audit",
                    client = %client.id, user = client.user, action = ask.action, plugin = ask.name, refused, "plugin"
                );
                let Some((_, orders)) = self.plugins.get().filter(|_| !refused) else {
                    return reply.refuse("Command permission denied");
                };
                orders.unquarantine(&ask.name, |outcome| match outcome {
                    Ok(text) => answer(Some(reply), Ok(json!(text))),
                    Err(text) => reply.refuse(&text),
                });
            }
            Ok(ask) => {
                reply.refuse(&format!("unknown action:{}; there are \"list\" and \"unquarantine\"", ask.action));
            }
            Err(_) => reply.refuse("expected an object with an action, such as {\"action\":\"list\"}"),
        }
    }
}

fn permission(client: &ClientIdentity, body: &Map<String, Value>) -> Result<(), &'static str> {
    match body.get("clientId") {
        None | Some(Value::Null) => Err("Unknow clientId"),
        Some(Value::String(claimed)) if claimed.is_empty() => Err("Unknow clientId"),
        Some(Value::String(claimed)) if claimed == client.id.as_str() && client.level > 0 => {
            if client.level == 1 {
                Ok(())
            } else {
                Err("Command permission denied")
            }
        }
        Some(_) => Err("Client info error"),
    }
}

/// The original's `/^__\w+__$/`.
fn is_internal(id: &str) -> bool {
    id.strip_prefix("__")
        .and_then(|rest| rest.strip_suffix("__"))
        .is_some_and(|name| !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_'))
}

fn answer(reply: Option<Reply>, result: Result<Value, String>) {
    // A command without an id is carried out and not answered.
    let Some(reply) = reply else { return };
    match result {
        Ok(body) => reply.send(b"null", body.to_string().as_bytes()),
        Err(error) => reply.send(error.as_bytes(), if error.starts_with('{') { b"null" } else { b"" }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::ConnId;

    fn check(level: u32, body: Value) -> Result<(), &'static str> {
        let client = ClientIdentity { connection: ConnId(1), id: "c".into(), user: "u".into(), level };
        permission(&client, body.as_object().unwrap())
    }

    #[test]
    fn the_identity_is_the_connections_whatever_the_body_says() {
        assert_eq!(check(1, json!({ "clientId": "c" })), Ok(()));
        assert_eq!(check(1, json!({ "username": "admin" })), Err("Unknow clientId"));
        assert_eq!(check(1, json!({ "clientId": "other" })), Err("Client info error"));
        assert_eq!(check(1, json!({ "clientId": 5 })), Err("Client info error"));
        assert_eq!(check(0, json!({ "clientId": "c" })), Err("Client info error"));
        assert_eq!(check(2, json!({ "clientId": "c" })), Err("Command permission denied"));
    }

    #[test]
    fn internal_modules_are_told_by_their_underscores() {
        assert!(is_internal("__console__") && is_internal("__a_1__"));
        assert!(!is_internal("timeReport") && !is_internal("____") && !is_internal("__a-b__"));
    }
}
