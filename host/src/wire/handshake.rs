//! The four messages that come before all others: registering, reconnecting, and their answers. Plain JSON objects.

use std::{borrow::Cow, collections::BTreeMap};

use bytes::Bytes;
use md5::{Digest, Md5};
use serde_json::{Map, Value, json, value::RawValue};

use super::{Topic, envelope::NotAMessage, frame};

/// What a peer says of itself on the topic `register` or `reconnect`.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Hello {
    Monitor(MonitorHello),
    Client(ClientHello),
    /// Any other type: refused.
    UnknownType,
    /// No type, or a monitor without an id: ignored, as in the original.
    Nothing,
}

/// A monitor.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct MonitorHello {
    pub(crate) id: String,
    pub(crate) server_type: String,
    /// What it tells of itself, with the process id set, as the original's master does.
    pub(crate) info: Map<String, Value>,
    pub(crate) token: Option<String>,
}

/// A client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ClientHello {
    pub(crate) id: String,
    pub(crate) username: String,
    pub(crate) password: String,
    /// Whether `password` is the hex MD5 of the password.
    pub(crate) md5: bool,
}

/// Reads a `register` or `reconnect`.
///
/// # Errors
/// When the payload is no JSON object.
pub(crate) fn read(payload: &[u8]) -> Result<Hello, NotAMessage> {
    let payload = std::str::from_utf8(payload).map_err(|_| NotAMessage)?;
    let inner;
    let json = if payload.trim_start().starts_with('"') {
        inner = serde_json::from_str::<String>(payload).map_err(|_| NotAMessage)?;
        inner.as_str()
    } else {
        payload
    };
    let fields: BTreeMap<Cow<'_, str>, &RawValue> = serde_json::from_str(json).map_err(|_| NotAMessage)?;
    let text = |name: &str| -> Option<String> { serde_json::from_str(fields.get(name)?.get()).ok() };
    let id = text("id").filter(|id| !id.is_empty());
    match text("type").as_deref() {
        None | Some("") => Ok(Hello::Nothing),
        Some("monitor") => {
            let Some(id) = id else { return Ok(Hello::Nothing) };
            let info = fields.get("info").and_then(|info| serde_json::from_str::<Value>(info.get()).ok());
            let mut info = match info {
                Some(Value::Object(info)) => info,
                _ => Map::new(),
            };
            if let Some(pid) = fields.get("pid").and_then(|pid| serde_json::from_str::<u64>(pid.get()).ok()) {
                info.insert("pid".to_owned(), pid.into());
            }
            let server_type = text("serverType").unwrap_or_default();
            Ok(Hello::Monitor(MonitorHello { id, server_type, info, token: text("token") }))
        }
        Some("client") => Ok(Hello::Client(ClientHello {
            id: id.unwrap_or_default(),
            username: text("username").unwrap_or_default(),
            password: text("password").unwrap_or_default(),
            md5: fields.get("md5").is_some_and(|md5| md5.get() == "true"),
        })),
        Some(_) => Ok(Hello::UnknownType),
    }
}

/// The answer to a handshake message; `Err` is the text of the refusal.
pub(crate) fn answer(topic: Topic, result: Result<(), &str>) -> Bytes {
    let payload = match result {
        Ok(()) => json!({ "code": 1, "msg": "ok" }),
        Err(text) => json!({ "code": -1, "msg": text }),
    };
    publish(topic, &payload)
}

/// Reads the answer to a handshake message.
///
/// # Errors
/// When the payload is no such answer.
pub(crate) fn read_answer(payload: &[u8]) -> Result<Result<(), String>, NotAMessage> {
    let answer: Value = serde_json::from_slice(payload).map_err(|_| NotAMessage)?;
    match answer.get("code").and_then(Value::as_i64) {
        Some(1) => Ok(Ok(())),
        Some(_) => Ok(Err(answer.get("msg").and_then(Value::as_str).unwrap_or("refused").to_owned())),
        None => Err(NotAMessage),
    }
}

/// A monitor's `register`, or its `reconnect`, which in the original has no token; ours brings it along.
pub(crate) fn monitor_hello(topic: Topic, hello: &MonitorHello, pid: u32) -> Bytes {
    let MonitorHello { id, server_type, info, token } = hello;
    publish(
        topic,
        &json!({ "id": id, "type": "monitor", "serverType": server_type, "pid": pid, "info": info, "token": token }),
    )
}

/// A client's `register`.
pub(crate) fn client_hello(hello: &ClientHello) -> Bytes {
    let ClientHello { id, username, password, md5 } = hello;
    publish(
        Topic::Register,
        &json!({ "type": "client", "id": id, "username": username, "password": password, "md5": md5 }),
    )
}

/// The lower-case hex MD5 of a password, as clients send it.
pub(crate) fn md5_hex(password: &str) -> String {
    format!("{:x}", Md5::digest(password))
}

fn publish(topic: Topic, payload: &Value) -> Bytes {
    let payload = payload.to_string();
    frame::alone(topic, payload.len(), |frame| frame.put(payload.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_process_id_becomes_part_of_the_info() {
        let hello =
            read(br#"{"id":"a","type":"monitor","serverType":"t","pid":7,"info":{"id":"a","host":"h"},"token":"x"}"#);
        let Ok(Hello::Monitor(hello)) = hello else { panic!("{hello:?}") };
        assert_eq!(Value::Object(hello.info).to_string(), r#"{"id":"a","host":"h","pid":7}"#);
        assert_eq!(hello.token.as_deref(), Some("x"));
    }

    #[test]
    fn what_the_original_ignores_is_nothing() {
        assert_eq!(read(br#"{"id":"a"}"#), Ok(Hello::Nothing));
        assert_eq!(read(br#"{"type":"monitor"}"#), Ok(Hello::Nothing));
        assert_eq!(read(br#"{"type":"monitor","id":""}"#), Ok(Hello::Nothing));
        assert_eq!(read(br#"{"type":"robot","id":"a"}"#), Ok(Hello::UnknownType));
        assert_eq!(read(b"[1]"), Err(NotAMessage));
        assert_eq!(read(b"NaN"), Err(NotAMessage));
    }

    #[test]
    fn fields_of_another_shape_count_as_missing() {
        let hello = read(br#"{"type":"client","id":5,"username":["admin"],"password":{},"md5":"yes"}"#);
        let empty = ClientHello { id: String::new(), username: String::new(), password: String::new(), md5: false };
        assert_eq!(hello, Ok(Hello::Client(empty)));
    }
}
