//! What pomelo's log lines say: `[date] [level] category - … {json}`, six words each, the last of them JSON.

use muster_plugin_api::serde_json::{self, Value};
use serde::{Deserialize, Serialize};

/// Words of a line, by the original's count, which takes the text as one row of words whatever its lines.
const WORDS: usize = 6;

/// One request that a server has logged, or a line that its program wrote. What was not logged is left out.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Line {
    #[serde(skip_serializing_if = "Option::is_none")]
    time: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    route: Option<Value>,
    server_id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    time_used: Option<Value>,
    /// The JSON as it was logged; of a program's output, the line.
    params: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Logged {
    time: Option<Value>,
    route: Option<Value>,
    service: Option<Value>,
    time_used: Option<Value>,
}

/// Every sixth word that is JSON; the others are left out.
pub(crate) fn lines(text: &str, server_id: &str) -> Vec<Line> {
    let words = text.split_whitespace().skip(WORDS - 1).step_by(WORDS);
    words.filter_map(|word| Line::of(word, server_id)).collect()
}

/// Each line of a program's output.
pub(crate) fn written(text: &str, server_id: &str) -> Vec<Line> {
    let line = |line: &str| Line {
        time: None,
        route: None,
        server_id: server_id.to_owned(),
        time_used: None,
        params: line.to_owned(),
    };
    text.lines().map(line).collect()
}

impl Line {
    fn of(word: &str, server_id: &str) -> Option<Line> {
        let Logged { time, route, service, time_used } = serde_json::from_str(word).ok()?;
        let route = route.filter(is_true).or(service);
        Some(Line { time, route, server_id: server_id.to_owned(), time_used, params: word.to_owned() })
    }
}

/// As JavaScript has it.
fn is_true(value: &Value) -> bool {
    !(value == "" || *value == false || value.as_f64() == Some(0.0))
}

#[cfg(test)]
mod tests {
    use muster_plugin_api::Body;

    use super::*;

    fn told(text: &str) -> String {
        Body::of(&lines(text, "chat-1")).unwrap().as_str().to_owned()
    }

    #[test]
    fn every_sixth_word_is_a_line() {
        let text = concat!(
            "[2026-11-22 01:06:07.000] [INFO] con-log - [x] {\"route\":\"a.b\",\"timeUsed\":3,\"time\":1}\n",
            "[2026-11-22 01:06:08.000] [INFO] con-log - [x] {\"service\":\"s\"}\n",
        );
        assert_eq!(text.split_whitespace().count(), 14);
        // Seven words: the count is the original's, and so is what it misses.
        assert_eq!(told(text), "[]");
        let text = text.replace("[x] ", "");
        assert_eq!(
            told(&text),
            concat!(
                r#"[{"time":1,"route":"a.b","serverId":"chat-1","timeUsed":3,"#,
                r#""params":"{\"route\":\"a.b\",\"timeUsed\":3,\"time\":1}"},"#,
                r#"{"route":"s","serverId":"chat-1","params":"{\"service\":\"s\"}"}]"#
            )
        );
    }

    #[test]
    fn an_empty_route_gives_way_to_the_service() {
        assert!(told(r#"1 2 3 4 5 {"route":"","service":"s"}"#).contains(r#""route":"s""#));
    }

    #[test]
    fn what_is_no_json_is_left_out() {
        assert_eq!(told("1 2 3 4 5 six 1 2 3 4 5 {} 1 2"), r#"[{"serverId":"chat-1","params":"{}"}]"#);
        assert_eq!(told(""), "[]");
    }
}
