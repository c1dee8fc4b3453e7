//! When a packet of today is the packet that was recorded.
//!
//! Compared is the decoded JSON, and whether it was encoded once or twice. What differs from run to run
//! is accepted only in fields known for it, and only in the same shape.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::packet::Packet;
use crate::payload::unwrap;

/// Who sent the packet that is judged; it decides which fields may differ from the recording.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sender {
    /// A master passes on what the recorded peers said, word for word. Its own are stack traces and the
    /// figures of its own monitor.
    Master,
    /// A monitor or client has a pid, a clock and figures of its own.
    Peer,
}

/// Fields whose value belongs to the process that sends them. A counter that started earlier or later than in
/// the recording (`seq`) is among them, since the timers of two processes are not in step.
const OF_THE_PROCESS: [&str; 15] = [
    "pid",
    "time",
    "rss",
    "heapTotal",
    "heapUsed",
    "uptime",
    "seq",
    "password",
    "md5",
    "cpuAvg",
    "memAvg",
    "vsz",
    "usr",
    "sys",
    "gue",
];

/// In what a deviation expects: any text that is not empty.
pub const ANY_TEXT: &str = "<any text>";

/// Key under which answers carry the master's own monitor.
const MASTERS_OWN_MONITOR: &str = "master-server-1";

/// The names of this run for those of the recording.
#[derive(Debug, Default)]
pub struct Names {
    /// Ids of requests. A request that is sent again as a string must have the number it had before.
    requests: BTreeMap<u64, u64>,
    /// Ids that a program chose for itself, such as `pomelo_cli_<ms>`.
    ids: BTreeMap<String, String>,
}

impl Names {
    /// From now on `recorded` is called `live`.
    pub fn call(&mut self, recorded: &str, live: &str) {
        self.ids.insert(recorded.to_owned(), live.to_owned());
    }

    /// The recorded payload with this run's id in `respId`, in the same form, string or number.
    pub fn translate_response(&self, payload: &str) -> String {
        let Ok((doubled, message)) = unwrap(payload) else {
            return payload.to_owned();
        };
        let Some(recorded) = number(&message["respId"]) else {
            return payload.to_owned();
        };
        let Some(live) = self.requests.get(&recorded) else {
            return payload.to_owned();
        };
        let quote = if message["respId"].is_string() { "\"" } else { "" };
        let field = |id: u64| format!("\"respId\":{quote}{id}{quote}");
        let inner = if doubled { serde_json::from_str(payload).expect("decoded above") } else { payload.to_owned() };
        let inner = inner.replacen(&field(recorded), &field(*live), 1);
        if doubled { Value::String(inner).to_string() } else { inner }
    }

    /// Whether `live` is what was `recorded`.
    ///
    /// # Errors
    /// A text that says where they differ.
    pub fn compare(&mut self, recorded: &Packet, live: &Packet, sender: Sender) -> Result<(), String> {
        match (recorded, live) {
            (Packet::Publish { topic: wanted, payload: expected }, Packet::Publish { topic, payload })
                if wanted == topic =>
            {
                self.compare_payloads(expected, payload, sender)
            }
            // Client ids differ from run to run; the rest of the packet may not.
            (Packet::Connect(wanted), Packet::Connect(got)) if sender == Sender::Peer => {
                if wanted.len() == got.len() && wanted.starts_with(&got[..got.len().min(14)]) {
                    Ok(())
                } else {
                    Err(format!("CONNECT differs: recorded {wanted:02x?}, got {got:02x?}"))
                }
            }
            _ if recorded == live => Ok(()),
            _ => Err("another packet".to_owned()),
        }
    }

    fn compare_payloads(&mut self, recorded: &str, live: &str, sender: Sender) -> Result<(), String> {
        let (doubled, expected) = unwrap(recorded).map_err(|error| format!("the recording is not JSON: {error}"))?;
        let (live_doubled, got) = unwrap(live).map_err(|error| format!("not JSON: {error}"))?;
        if doubled != live_doubled {
            let form = |doubled| {
                if doubled { "JSON in a JSON string" } else { "a plain object" }
            };
            return Err(format!("recorded as {}, sent as {}", form(doubled), form(live_doubled)));
        }
        self.compare_values(&expected, &got, sender, "")
    }

    fn compare_values(&mut self, expected: &Value, got: &Value, sender: Sender, at: &str) -> Result<(), String> {
        match (expected, got) {
            (Value::Object(wanted), Value::Object(found)) => {
                for (key, value) in wanted {
                    let place = format!("{at}/{key}");
                    let other = found.get(key).ok_or_else(|| format!("{place} is missing"))?;
                    let sender = if key == MASTERS_OWN_MONITOR { Sender::Peer } else { sender };
                    match (key.as_str(), at) {
                        ("reqId" | "respId", "") => self.compare_ids(value, other, &place)?,
                        ("stack", _) => compare_stacks(other, &place)?,
                        // In order of registration, which for plugins is nobody's choice.
                        ("modules", _) => compare_sets(value, other, &place)?,
                        (MASTERS_OWN_MONITOR, _) if value.is_string() => {
                            compare_shapes(value, other, &place)?;
                        }
                        (field, _) if sender == Sender::Peer && OF_THE_PROCESS.contains(&field) => {
                            compare_shapes(value, other, &place)?;
                        }
                        _ => self.compare_values(value, other, sender, &place)?,
                    }
                }
                match found.keys().find(|key| !wanted.contains_key(*key)) {
                    Some(extra) => Err(format!("{at}/{extra} was not recorded")),
                    None => Ok(()),
                }
            }
            (Value::Array(wanted), Value::Array(found)) if wanted.len() == found.len() => {
                for (index, (value, other)) in wanted.iter().zip(found).enumerate() {
                    self.compare_values(value, other, sender, &format!("{at}/{index}"))?;
                }
                Ok(())
            }
            (Value::String(wanted), Value::String(found)) if self.ids.get(wanted) == Some(found) => Ok(()),
            (Value::String(wanted), Value::String(found)) if wanted == ANY_TEXT => {
                compare_stacks(&Value::from(found.as_str()), at)
            }
            _ if expected == got => Ok(()),
            _ => Err(format!("{at} was recorded as {expected}, and is {got}")),
        }
    }

    fn compare_ids(&mut self, expected: &Value, got: &Value, place: &str) -> Result<(), String> {
        let (Some(wanted), Some(found)) = (number(expected), number(got)) else {
            return Err(format!("{place} was recorded as {expected}, and is {got}"));
        };
        if expected.is_string() != got.is_string() {
            return Err(format!("{place} was recorded as {expected}, and comes in the other form, {got}"));
        }
        if place == "/respId" {
            // Each side answers with the id it was asked with, and what we ask and answer is played as recorded.
            return if found == wanted {
                Ok(())
            } else {
                Err(format!("{place} answers {found}, recorded was {wanted}"))
            };
        }
        let known = *self.requests.entry(wanted).or_insert(found);
        if known == found {
            Ok(())
        } else {
            Err(format!("{place}: request {wanted} of the recording was {known} here, and is {found} now"))
        }
    }
}

fn number(id: &Value) -> Option<u64> {
    id.as_u64().or_else(|| id.as_str()?.parse().ok())
}

fn compare_stacks(got: &Value, place: &str) -> Result<(), String> {
    match got.as_str() {
        Some(text) if !text.is_empty() => Ok(()),
        _ => Err(format!("{place} must be a text, and is {got}")),
    }
}

fn compare_sets(expected: &Value, got: &Value, place: &str) -> Result<(), String> {
    let sorted = |list: &Value| {
        let mut texts: Vec<String> = list.as_array()?.iter().map(Value::to_string).collect();
        texts.sort();
        Some(texts)
    };
    if sorted(expected).is_some() && sorted(expected) == sorted(got) {
        Ok(())
    } else {
        Err(format!("{place} was recorded as {expected}, and is {got}"))
    }
}

fn compare_shapes(expected: &Value, got: &Value, place: &str) -> Result<(), String> {
    let same = match (expected, got) {
        (Value::String(wanted), Value::String(found)) => shape(wanted) == shape(found) || !is_decimal(wanted),
        (Value::Number(_), Value::Number(_)) | (Value::Bool(_), Value::Bool(_)) => true,
        _ => expected == got,
    };
    if same && *got != Value::String(String::new()) {
        Ok(())
    } else {
        Err(format!("{place} has another form: recorded {expected}, got {got}"))
    }
}

fn is_decimal(text: &str) -> bool {
    text.parse::<f64>().is_ok()
}

/// Digits behind the point of a decimal number in a text.
fn shape(text: &str) -> Option<usize> {
    is_decimal(text).then(|| text.split_once('.').map_or(0, |(_, digits)| digits.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn publish(payload: &str) -> Packet {
        Packet::publish("monitor", payload)
    }

    fn judge(recorded: &str, live: &str, sender: Sender) -> Result<(), String> {
        Names::default().compare(&publish(recorded), &publish(live), sender)
    }

    #[test]
    fn encoding_once_and_twice_are_different() {
        let refusal = judge(r#""{\"respId\":1}""#, r#"{"respId":1}"#, Sender::Master);
        assert_eq!(refusal, Err("recorded as JSON in a JSON string, sent as a plain object".to_owned()));
    }

    #[test]
    fn absent_and_null_are_different() {
        assert!(judge(r#"{"a":null}"#, "{}", Sender::Master).is_err());
        assert!(judge("{}", r#"{"a":null}"#, Sender::Master).is_err());
    }

    #[test]
    fn a_pid_may_differ_only_in_what_a_process_says_of_itself() {
        let (recorded, live) = (r#"{"body":{"pid":1}}"#, r#"{"body":{"pid":2}}"#);
        assert!(judge(recorded, live, Sender::Master).is_err());
        assert_eq!(judge(recorded, live, Sender::Peer), Ok(()));
        assert!(judge(recorded, r#"{"body":{"pid":"2"}}"#, Sender::Peer).is_err());
    }

    #[test]
    fn figures_keep_their_number_of_decimals() {
        assert_eq!(judge(r#"{"rss":"74.57"}"#, r#"{"rss":"8.10"}"#, Sender::Peer), Ok(()));
        assert!(judge(r#"{"rss":"74.57"}"#, r#"{"rss":"8.1"}"#, Sender::Peer).is_err());
    }

    #[test]
    fn a_request_sent_again_keeps_its_number_and_becomes_a_string() {
        let mut names = Names::default();
        let mut compare =
            |recorded: &str, live: &str| names.compare(&publish(recorded), &publish(live), Sender::Master);
        assert_eq!(compare(r#"{"reqId":5}"#, r#"{"reqId":9}"#), Ok(()));
        assert_eq!(compare(r#"{"reqId":"5"}"#, r#"{"reqId":"9"}"#), Ok(()));
        assert!(compare(r#"{"reqId":"5"}"#, r#"{"reqId":9}"#).is_err());
        assert!(compare(r#"{"reqId":"5"}"#, r#"{"reqId":"10"}"#).is_err());
        let payload = r#""{\"respId\":\"5\",\"body\":{\"b\":1,\"a\":2}}""#;
        assert_eq!(names.translate_response(payload), payload.replace('5', "9"));
    }
}
