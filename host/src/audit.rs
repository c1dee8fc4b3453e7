//! The audit: one line per command, written before its effect, whoever it came from and however it was judged.
//!
//! Under a target of its own, so that it can be kept apart ([`AuditConfig`](crate::config::AuditConfig)). Never a secret.

use serde_json::{Map, Value};

use crate::{modules::call::ClientIdentity, roles::Asked};

/// The target of all its events.
pub(crate) const TARGET: &str = "audit";

/// Fields that may be secrets, or are large and say nothing.
const HIDDEN: [&str; 6] = ["value", "password", "token", "secret", "data", "signature"];
/// Within an object: what a remote is called with may be secret, too.
const HIDDEN_WITHIN: &str = "args";
/// Who the client is, the line says anyhow.
const KNOWN: [&str; 2] = ["clientId", "username"];
/// A script is some kB; more of it is cut off.
const LONGEST: usize = 4096;

/// Writes the line. `module` is that which is meant, `kind` how it came: as a request, a notify, or a command.
pub(crate) fn record(
    client: &ClientIdentity,
    kind: &'static str,
    module: &str,
    asked: &Asked<'_>,
    permitted: Result<(), &'static str>,
) {
    tracing::info!(
        target: TARGET,
        user = client.user,
        level = client.level,
        client = %client.id,
        address = %client.address,
        kind,
        module,
        command = &*asked.command,
        body = told(&serde_json::from_str(asked.body).unwrap_or_default()),
        outcome = permitted.err().unwrap_or("permitted"),
        "order"
    );
}

/// What of a body is told.
fn told(fields: &Map<String, Value>) -> String {
    let fields = fields.iter().filter(|(name, _)| !KNOWN.contains(&name.as_str()));
    let mut text = Value::Object(fields.map(|(name, value)| hidden(name, value, false)).collect()).to_string();
    if text.len() > LONGEST {
        let end = (0..=LONGEST).rev().find(|at| text.is_char_boundary(*at)).unwrap_or_default();
        text.truncate(end);
        text.push('…');
    }
    text
}

fn hidden(name: &str, value: &Value, is_within: bool) -> (String, Value) {
    let is_hidden = HIDDEN.contains(&name) || (is_within && name == HIDDEN_WITHIN);
    (name.to_owned(), if is_hidden { "…".into() } else { within(value) })
}

fn within(value: &Value) -> Value {
    match value {
        Value::Object(fields) => fields.iter().map(|(name, value)| hidden(name, value, true)).collect(),
        Value::Array(items) => items.iter().map(within).collect(),
        plain => plain.clone(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn told_of(body: Value) -> String {
        told(body.as_object().unwrap())
    }

    #[test]
    fn what_was_ordered_is_told_and_secrets_are_not() {
        let set =
            json!({ "comd": "set", "param": { "key": "k", "value": "s3cret" }, "clientId": "c", "username": "u" });
        assert_eq!(told_of(set), r#"{"comd":"set","param":{"key":"k","value":"…"}}"#);
        let call = json!({ "action": "call", "args": ["a=b"], "call": { "method": "kick", "args": ["s3cret"] } });
        assert_eq!(told_of(call), r#"{"action":"call","args":["a=b"],"call":{"method":"kick","args":"…"}}"#);
        let long = told_of(json!({ "script": "é".repeat(LONGEST) }));
        assert!(long.len() <= LONGEST + "…".len() && long.ends_with('…'));
    }
}
