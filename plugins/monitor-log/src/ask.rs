//! What is asked for, checked: both come from whoever is logged in.

use muster_plugin_api::{Body, ModuleError, serde_json::Value};
use serde::Deserialize;

/// As `tail` does without a number.
const LINES: u64 = 10;
/// More than anybody reads, and less than an answer may hold.
const MOST_LINES: u64 = 10_000;
/// What file systems take, less the id and the ending.
const LONGEST_NAME: usize = 128;

/// A part of a log.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Ask {
    pub(crate) logfile: String,
    pub(crate) number: u64,
    /// Of a program's output: where the last part ended, in bytes. Then all that follows is asked for.
    pub(crate) from: Option<u64>,
}

/// What the program that a monitor wraps writes, by the names of its status.
pub(crate) const OUTPUT: [&str; 2] = ["stdout", "stderr"];

#[derive(Default, Deserialize)]
#[serde(default)]
struct Raw {
    logfile: Value,
    number: Value,
    from: Option<u64>,
}

impl Ask {
    /// Reads and checks it.
    ///
    /// # Errors
    /// The original's text when there is no name, and a sentence for what it would have handed to a shell.
    pub(crate) fn of(body: &Body) -> Result<Ask, ModuleError> {
        let Raw { logfile, number, from } = body.parse().unwrap_or_default();
        let logfile = match logfile {
            Value::Null => return Err("logfile should not be empty".into()),
            Value::String(name) if name.is_empty() => return Err("logfile should not be empty".into()),
            Value::String(name) if is_name(&name) => name,
            _ => return Err("logfile should be a name of letters, digits, '-', '_' and '.'".into()),
        };
        Ok(Ask { logfile, number: lines(&number)?, from })
    }

    /// Whether it may be a program's output that is meant.
    pub(crate) fn is_output(&self) -> bool {
        OUTPUT.contains(&self.logfile.as_str())
    }

    /// The file's name on the server with this id.
    ///
    /// # Errors
    /// When the id cannot be part of one.
    pub(crate) fn file_name(&self, server_id: &str) -> Result<String, ModuleError> {
        if is_name(server_id) {
            Ok(format!("{}-{server_id}.log", self.logfile))
        } else {
            Err(format!("the id {server_id:?} cannot be part of a file's name").into())
        }
    }
}

fn is_name(text: &str) -> bool {
    let of_a_name = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    (1..=LONGEST_NAME).contains(&text.len()) && !text.starts_with(['.', '-']) && text.bytes().all(of_a_name)
}

/// A number, or a text that is nothing else: web pages send what was typed.
fn lines(number: &Value) -> Result<u64, ModuleError> {
    let read = match number {
        Value::Null => Some(LINES),
        Value::Number(number) => number.as_u64(),
        Value::String(text) if text.bytes().all(|byte| byte.is_ascii_digit()) => text.parse().ok(),
        _ => None,
    };
    let within = read.filter(|number| *number <= MOST_LINES);
    within.ok_or_else(|| format!("number should be a whole number of at most {MOST_LINES}").into())
}

#[cfg(test)]
mod tests {
    use muster_plugin_api::serde_json::json;

    use super::*;

    #[track_caller]
    fn refused(logfile: Value, number: Value) -> String {
        let body: Body = json!({ "logfile": logfile, "number": number }).into();
        Ask::of(&body).unwrap_err().message().to_owned()
    }

    #[test]
    fn a_name_and_a_number_are_taken() {
        for number in [json!(25), json!("25")] {
            let body: Body = json!({ "serverId": "chat-1", "logfile": "con-log", "number": number }).into();
            let ask = Ask::of(&body).unwrap();
            assert_eq!(ask, Ask { logfile: "con-log".into(), number: 25, from: None });
            assert_eq!(ask.file_name("chat-server-1").unwrap(), "con-log-chat-server-1.log");
        }
    }

    #[test]
    fn without_a_number_it_is_ten() {
        assert_eq!(Ask::of(&json!({ "logfile": "a" }).into()).unwrap().number, 10);
    }

    #[test]
    fn without_a_name_it_is_the_originals_error() {
        for body in [json!({}), json!({ "logfile": "" }), json!(null), json!("x")] {
            assert_eq!(Ask::of(&body.into()).unwrap_err().message(), "logfile should not be empty");
        }
    }

    #[test]
    fn what_is_no_plain_name_is_refused() {
        for name in ["../x", "a/b", "/etc/x", "a\0b", ".hidden", "-n", "a b", "$(id)", "a;id", "a\nb", "ä", "~root"] {
            assert!(refused(json!(name), json!(1)).starts_with("logfile should be a name"), "{name:?}");
        }
        refused(json!("x".repeat(129)), json!(1));
        refused(json!(["con-log"]), json!(1));
    }

    #[test]
    fn what_is_no_number_is_refused() {
        for number in ["1;id", "-1", "+1", "1e3", " 1", "$(id)", "0x10", "99999999999999999999"] {
            assert!(refused(json!("a"), json!(number)).starts_with("number should be"), "{number}");
        }
        for number in [json!(-1), json!(1.5), json!(10_001), json!([1]), json!(true), json!({ "a": 1 })] {
            assert!(refused(json!("a"), number.clone()).starts_with("number should be"), "{number}");
        }
    }

    #[test]
    fn an_id_that_is_a_path_is_no_part_of_a_name() {
        let ask = Ask { logfile: "a".into(), number: 1, from: None };
        for id in ["../x", "a/b", "", "a\0b"] {
            assert!(ask.file_name(id).is_err(), "{id:?}");
        }
    }
}
