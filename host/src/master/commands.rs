//! The three commands of clients.

use muster_plugin_api::Role;
use serde_json::{Map, Value, json};
use tracing::warn;

use super::Master;
use crate::{
    audit,
    modules::call::ClientIdentity,
    peers::To,
    session::Reply,
    store::Kept,
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
        let asked = self.roles.load().of_command(command, body);
        let permitted = asked.permit(client);
        audit::record(client, "command", module, &asked, permitted);
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
        let own_id = self.modules.find(Role::Master, module).map(|route| route.id.clone());
        let Some(own_id) = own_id.filter(|_| self.modules.set_enabled(Role::Master, module, enable)) else {
            return answer(reply, Ok(json!(-1)));
        };
        let kept = self.store.keep(Kept::DisabledModule, own_id.as_str(), (!enable).then_some(""));
        // With a `clientId` in the body, monitors of version 1.0.1 never read from this connection again (Q18).
        let mut forwarded: Map<String, Value> = serde_json::from_str(asked.body).unwrap_or_default();
        forwarded.remove("clientId");
        let body = Value::Object(forwarded).to_string();
        let frame = envelope::command(Topic::Monitor, None, command, Some(module), body.as_bytes());
        self.peers.send(To::All, &frame);
        // What is acknowledged holds after a restart.
        tokio::spawn(async move {
            if !kept.await {
                warn!(module = %own_id, "not remembered durably: after a restart it is as it was before");
            }
            answer(reply, Ok(json!(1)));
        });
    }
}

/// The original's `/^__\w+__$/`.
fn is_internal(id: &str) -> bool {
    id.strip_prefix("__")
        .and_then(|rest| rest.strip_suffix("__"))
        .is_some_and(|name| !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_'))
}

pub(super) fn answer(reply: Option<Reply>, result: Result<Value, String>) {
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
    #[test]
    fn internal_modules_are_told_by_their_underscores() {
        assert!(is_internal("__console__") && is_internal("__a_1__"));
        assert!(!is_internal("timeReport") && !is_internal("____") && !is_internal("__a-b__"));
    }
}
