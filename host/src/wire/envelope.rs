//! Requests, responses, notifies and commands: what is inside a PUBLISH on the topics `monitor` and `client`.
//!
//! Requests, responses and commands are JSON in a JSON string, notifies are plain: so they are sent, and both forms of
//! everything are understood. Fields are found without parsing what they hold; of several with one name the last counts,
//! as in `JSON.parse`.

use std::{borrow::Cow, fmt};

use bytes::Bytes;
use serde::{
    Deserialize, Deserializer,
    de::{IgnoredAny, MapAccess, Visitor},
};
use serde_json::value::RawValue;

use super::{
    Topic,
    frame::{self, Frame},
    quote,
};

/// The longest id that is echoed. Real peers count from 1.
const MAX_ID: usize = 128;

/// The id of a request as its sender wrote it: the answer carries the same value *with the same JSON type*.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum ReqId {
    /// A plain number.
    Number(u64),
    /// Any other JSON text; `"19"` after a re-push.
    Raw(Box<str>),
}

/// A message, read. Texts are borrowed; bodies and errors are JSON text, empty when absent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Envelope<'a> {
    Request { id: ReqId, module: Cow<'a, str>, body: &'a str },
    Notify { module: Cow<'a, str>, body: &'a str },
    Response { id: u64, error: &'a str, body: &'a str },
    Command { id: Option<ReqId>, command: Cow<'a, str>, module: Cow<'a, str>, body: &'a str },
}

/// The payload is not a message: no JSON, or no object. Dropped and counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct NotAMessage;

/// Reads a payload. `scratch` holds the inner text of a double-encoded one.
pub(crate) fn read<'a>(payload: &'a [u8], scratch: &'a mut String) -> Result<Envelope<'a>, NotAMessage> {
    let json = if payload.trim_ascii_start().starts_with(b"\"") {
        quote::unquote(payload.trim_ascii(), scratch)?;
        scratch.as_str()
    } else {
        std::str::from_utf8(payload).map_err(|_| NotAMessage)?
    };
    as_written(json).map_or_else(|| by_fields(json), Ok)
}

/// A message exactly as the original's peers write it, with one look at each part; `None` for all others, and for what is
/// no message.
fn as_written(json: &str) -> Option<Envelope<'_>> {
    if let Some(rest) = json.strip_prefix(r#"{"respId":"#) {
        let (id, rest) = number(rest)?;
        let body = last_value(rest.strip_prefix(r#","error":null,"body":"#)?)?;
        return Some(Envelope::Response { id, error: "null", body });
    }
    let (id, rest) = match json.strip_prefix(r#"{"reqId":"#) {
        Some(rest) => {
            let (id, rest) = number(rest)?;
            (Some(ReqId::Number(id)), rest.strip_prefix(',')?)
        }
        None => (None, json.strip_prefix('{')?),
    };
    let (module, rest) = rest.strip_prefix(r#""moduleId":""#)?.split_once('"')?;
    if module.bytes().any(|byte| byte < 0x20 || byte == b'\\') {
        return None;
    }
    let (module, body) = (module.into(), last_value(rest.strip_prefix(r#","body":"#)?)?);
    Some(match id {
        Some(id) => Envelope::Request { id, module, body },
        None => Envelope::Notify { module, body },
    })
}

/// A number at the beginning, as peers count: not 0, which is none to JavaScript.
fn number(text: &str) -> Option<(u64, &str)> {
    let end = text.bytes().position(|byte| !byte.is_ascii_digit())?;
    let (digits, rest) = text.split_at(end);
    Some((digits.parse().ok().filter(|_| !digits.starts_with('0'))?, rest))
}

/// A value that ends an object.
fn last_value(text: &str) -> Option<&str> {
    serde_json::from_str::<&RawValue>(text.strip_suffix('}')?).ok().map(RawValue::get)
}

/// A message with its fields in any order and form.
fn by_fields(json: &str) -> Result<Envelope<'_>, NotAMessage> {
    let fields: Fields<'_> = serde_json::from_str(json).map_err(|_| NotAMessage)?;
    fields.kind()
}

/// A request; for a re-push with the id as a string, as the original sends it then.
pub(crate) fn request(topic: Topic, id: u64, repeated: bool, module: &str, body: &[u8]) -> Bytes {
    frame::alone(topic, 48 + module.len() + room(body), |frame| {
        frame.put(br#""{\"reqId\":"#);
        if repeated {
            frame.put(b"\\\"").put_number(id).put(b"\\\"");
        } else {
            frame.put_number(id);
        }
        frame.put(br#",\"moduleId\":"#).put_escaped(super::json_text(module).as_bytes());
        put_field(frame, br#",\"body\":"#, body);
        frame.put(br#"}""#)
    })
}

/// An answer, at the end of `out`: it has one receiver.
pub(crate) fn response(out: &mut Vec<u8>, topic: Topic, id: &ReqId, error: &[u8], body: &[u8]) {
    let mut frame = Frame::begin(out, topic, 48 + room(error) + room(body));
    frame.put(br#""{\"respId\":"#);
    match id {
        ReqId::Number(number) => frame.put_number(*number),
        ReqId::Raw(raw) => frame.put_escaped(raw.as_bytes()),
    };
    put_field(&mut frame, br#",\"error\":"#, error);
    put_field(&mut frame, br#",\"body\":"#, body);
    frame.put(br#"}""#);
    frame.finish();
}

/// A notify: plain JSON.
pub(crate) fn notify(topic: Topic, module: &str, body: &[u8]) -> Bytes {
    frame::alone(topic, 32 + module.len() + body.len(), |frame| {
        frame.put(br#"{"moduleId":"#).put(super::json_text(module).as_bytes());
        if !body.is_empty() {
            frame.put(br#","body":"#).put(body);
        }
        frame.put(b"}")
    })
}

/// A command: with an id from a client, without one from the master to a monitor.
pub(crate) fn command(topic: Topic, id: Option<u64>, command: &str, module: Option<&str>, body: &[u8]) -> Bytes {
    frame::alone(topic, 64 + room(body), |frame| {
        frame.put(br#""{"#);
        if let Some(id) = id {
            frame.put(br#"\"reqId\":"#).put_number(id).put(b",");
        }
        frame.put(br#"\"command\":"#).put_escaped(super::json_text(command).as_bytes());
        if let Some(module) = module {
            frame.put(br#",\"moduleId\":"#).put_escaped(super::json_text(module).as_bytes());
        }
        put_field(frame, br#",\"body\":"#, body);
        frame.put(br#"}""#)
    })
}

/// What JSON text takes once it is escaped, as a rule.
fn room(json: &[u8]) -> usize {
    json.len() + json.len() / 4
}

/// Appends a field, unless it is absent. The name is escaped already.
fn put_field(frame: &mut Frame<'_>, name: &[u8], json: &[u8]) {
    if !json.is_empty() {
        frame.put(name).put_escaped(json);
    }
}

// === reading ===

#[derive(Default)]
struct Fields<'a> {
    req_id: Option<&'a RawValue>,
    resp_id: Option<&'a RawValue>,
    command: Option<&'a RawValue>,
    module: Option<&'a RawValue>,
    error: Option<&'a RawValue>,
    body: Option<&'a RawValue>,
}

impl<'a> Fields<'a> {
    /// Tells the kinds apart by the original's rule.
    fn kind(self) -> Result<Envelope<'a>, NotAMessage> {
        let body = text(self.body);
        if let Some(command) = truthy(self.command) {
            return Ok(Envelope::Command {
                id: truthy(self.req_id).map(req_id).transpose()?,
                command: name(Some(command)),
                module: truthy(self.module).map_or(Cow::Borrowed(""), |module| name(Some(module))),
                body,
            });
        }
        if let Some(id) = truthy(self.resp_id) {
            // 19 and "19" are the same id. What is no number was never sent by us.
            let id = id.trim_matches('"').parse().map_err(|_| NotAMessage)?;
            return Ok(Envelope::Response { id, error: text(self.error), body });
        }
        let module = name(self.module.map(RawValue::get));
        match truthy(self.req_id) {
            Some(id) => Ok(Envelope::Request { id: req_id(id)?, module, body }),
            None => Ok(Envelope::Notify { module, body }),
        }
    }
}

fn text(raw: Option<&RawValue>) -> &str {
    raw.map_or("", RawValue::get)
}

/// JavaScript's idea of truth.
fn truthy(raw: Option<&RawValue>) -> Option<&str> {
    raw.map(RawValue::get).filter(|text| !matches!(*text, "null" | "false" | "\"\"" | "0" | "-0" | "0.0"))
}

fn req_id(raw: &str) -> Result<ReqId, NotAMessage> {
    match raw.parse() {
        Ok(number) if !raw.starts_with(['+', '0']) => Ok(ReqId::Number(number)),
        _ if raw.len() <= MAX_ID => Ok(ReqId::Raw(raw.into())),
        _ => Err(NotAMessage),
    }
}

/// A name; what is not a string stands for itself, as it would when JavaScript uses it as a key.
fn name(raw: Option<&str>) -> Cow<'_, str> {
    let Some(raw) = raw else { return Cow::Borrowed("undefined") };
    match raw.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')) {
        Some(plain) if !plain.contains('\\') => Cow::Borrowed(plain),
        Some(_) => serde_json::from_str(raw).map_or(Cow::Borrowed(raw), Cow::Owned),
        None => Cow::Borrowed(raw),
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Fields<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct FieldsVisitor;

        impl<'de> Visitor<'de> for FieldsVisitor {
            type Value = Fields<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a message object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Fields<'de>, A::Error> {
                let mut fields = Fields::default();
                while let Some(field) = map.next_key::<Field>()? {
                    let slot = match field {
                        Field::ReqId => &mut fields.req_id,
                        Field::RespId => &mut fields.resp_id,
                        Field::Command => &mut fields.command,
                        Field::ModuleId => &mut fields.module,
                        Field::Error => &mut fields.error,
                        Field::Body => &mut fields.body,
                        Field::Other => {
                            map.next_value::<IgnoredAny>()?;
                            continue;
                        }
                    };
                    *slot = Some(map.next_value()?);
                }
                Ok(fields)
            }
        }

        deserializer.deserialize_map(FieldsVisitor)
    }
}

#[derive(Deserialize)]
#[serde(field_identifier, rename_all = "camelCase")]
enum Field {
    ReqId,
    RespId,
    Command,
    ModuleId,
    Error,
    Body,
    #[serde(other)]
    Other,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::packet::{self, Packet};

    fn payload(frame: &Bytes) -> String {
        match packet::decode(frame, usize::MAX) {
            Ok(Some((Packet::Publish { payload, .. }, _))) => String::from_utf8(payload.to_vec()).unwrap(),
            other => panic!("no PUBLISH: {other:?}"),
        }
    }

    fn answer(id: &ReqId, error: &[u8], body: &[u8]) -> String {
        let mut out = Vec::new();
        response(&mut out, Topic::Client, id, error, body);
        payload(&out.into())
    }

    #[track_caller]
    fn check(payload: &str, expected: Envelope<'_>) {
        assert_eq!(read(payload.as_bytes(), &mut String::new()), Ok(expected.clone()), "plain {payload}");
        let twice = serde_json::to_string(payload).unwrap();
        assert_eq!(read(twice.as_bytes(), &mut String::new()), Ok(expected), "twice {twice}");
    }

    #[test]
    fn messages_are_written_as_the_original_writes_them() {
        let body = br#"{"op":"ok","v":"h\u00e9llo \"x\""}"#;
        assert_eq!(
            payload(&request(Topic::Monitor, 1, false, "echo", br#"{"op":"ok"}"#)),
            r#""{\"reqId\":1,\"moduleId\":\"echo\",\"body\":{\"op\":\"ok\"}}""#
        );
        assert_eq!(
            payload(&request(Topic::Monitor, 19, true, "echo", b"")),
            r#""{\"reqId\":\"19\",\"moduleId\":\"echo\"}""#
        );
        assert_eq!(answer(&ReqId::Number(3), b"", b""), r#""{\"respId\":3}""#);
        assert_eq!(
            answer(&ReqId::Raw("\"3\"".into()), b"null", b"1"),
            r#""{\"respId\":\"3\",\"error\":null,\"body\":1}""#
        );
        assert_eq!(
            payload(&notify(Topic::Monitor, "timeReport", br#""testMsg""#)),
            r#"{"moduleId":"timeReport","body":"testMsg"}"#
        );
        assert_eq!(payload(&notify(Topic::Monitor, "systemInfo", b"")), r#"{"moduleId":"systemInfo"}"#);
        assert_eq!(
            payload(&command(Topic::Monitor, None, "disable", Some("timeReport"), b"")),
            r#""{\"command\":\"disable\",\"moduleId\":\"timeReport\"}""#
        );
        let request = payload(&request(Topic::Client, 7, false, "m\"x", body));
        let mut scratch = String::new();
        let Ok(Envelope::Request { module, body: read_body, .. }) = read(request.as_bytes(), &mut scratch) else {
            panic!("not a request")
        };
        assert_eq!((&*module, read_body.as_bytes()), ("m\"x", &body[..]));
    }

    #[test]
    fn kinds_are_told_apart_by_the_original_rule() {
        let echo = || Cow::Borrowed("echo");
        check(
            r#"{"reqId":1,"moduleId":"echo","body":{"a": 1}}"#,
            Envelope::Request { id: ReqId::Number(1), module: echo(), body: r#"{"a": 1}"# },
        );
        check(
            r#"{"reqId":"19","moduleId":"echo"}"#,
            Envelope::Request { id: ReqId::Raw("\"19\"".into()), module: echo(), body: "" },
        );
        check(r#"{"reqId":0,"moduleId":"echo"}"#, Envelope::Notify { module: echo(), body: "" });
        check(r#"{"respId":19,"error":null}"#, Envelope::Response { id: 19, error: "null", body: "" });
        check(r#"{"respId":"19","body":5}"#, Envelope::Response { id: 19, error: "", body: "5" });
        check(
            r#"{"reqId":2,"command":"list","body":{}}"#,
            Envelope::Command {
                id: Some(ReqId::Number(2)),
                command: Cow::Borrowed("list"),
                module: Cow::Borrowed(""),
                body: "{}",
            },
        );
        check(r#"{"command":null,"respId":null,"moduleId":"echo"}"#, Envelope::Notify { module: echo(), body: "" });
        check(r#"{}"#, Envelope::Notify { module: Cow::Borrowed("undefined"), body: "" });
    }

    #[test]
    fn of_fields_with_one_name_the_last_counts() {
        check(
            r#"{"moduleId":"a","body":1,"moduleId":"b","body":2}"#,
            Envelope::Notify { module: Cow::Borrowed("b"), body: "2" },
        );
    }

    #[test]
    fn escapes_in_names_are_read() {
        check(r#"{"module\u0049d":"\u0065cho"}"#, Envelope::Notify { module: Cow::Borrowed("echo"), body: "" });
    }

    #[test]
    fn odd_bodies_pass_as_they_are() {
        for body in ["12345678901234567890123", "1E400", "\"\\ud800\"", "[ 1,\n 2 ]", "{\"a\":1,\"a\":2}"] {
            check(
                &format!(r#"{{"moduleId":"m","body":{body}}}"#),
                Envelope::Notify { module: Cow::Borrowed("m"), body },
            );
        }
        let deep = format!("{}{}", "[".repeat(1000), "]".repeat(1000));
        check(
            &format!(r#"{{"moduleId":"m","body":{deep}}}"#),
            Envelope::Notify { module: Cow::Borrowed("m"), body: &deep },
        );
    }

    #[test]
    fn what_the_original_writes_is_read_at_a_glance() {
        for message in [
            r#"{"reqId":1,"moduleId":"echo","body":{"a":[1,"}"]}}"#,
            r#"{"moduleId":"echo","body": null }"#,
            r#"{"respId":18446744073709551615,"error":null,"body":5}"#,
        ] {
            assert_eq!(as_written(message), by_fields(message).ok(), "{message}");
            assert!(as_written(message).is_some(), "{message}");
        }
    }

    proptest::proptest! {
        #[test]
        fn what_is_read_at_a_glance_is_what_its_fields_say(
            start in r#"\{("(reqId|respId)":("?[0-9]{0,2}"?|18446744073709551616|-1|1e2),)?"#,
            middle in r#"("moduleId":"([a-z]|\\"|\\u0065|\t|ü){0,3}",?|"error":(null|1),)?"#,
            end in r#""body":([0-9]|\{\}|"[a}",]{0,2}"|null|,|"body":|"moduleId":"x"| |\}){0,4}\}?"#,
        ) {
            let json = format!("{start}{middle}{end}");
            if let Some(envelope) = as_written(&json) {
                proptest::prop_assert_eq!(Ok(envelope), by_fields(&json));
            }
        }
    }

    #[test]
    fn what_is_no_message_is_dropped() {
        for odd in
            ["", "nonsense", "{\"moduleId\":NaN}", "[]", "5", "\"5\"", "\"\\ud800\"", "{\"a\":1", "\"{\"", "null"]
        {
            assert_eq!(read(odd.as_bytes(), &mut String::new()), Err(NotAMessage), "{odd}");
        }
        assert_eq!(read(b"{\"moduleId\":\"\xff\"}", &mut String::new()), Err(NotAMessage));
        assert_eq!(read(br#"{"respId":"x"}"#, &mut String::new()), Err(NotAMessage));
    }
}
