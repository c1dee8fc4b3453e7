//! What our masters know of the programs of their servers, through the console module; Node masters know nothing of them.

use std::time::{Duration, UNIX_EPOCH};

use serde_json::{Value, json};

use super::MODULE;
use crate::cli::{render::cell, session::Session};

/// The status of the program that is the server `id`: wrapped by its monitor, or started by the master.
pub(super) async fn of(id: &str, session: &Session) -> Option<Value> {
    let order = json!({ "signal": "program", "ids": [id] });
    let mut told = session.ask(MODULE, order).await.ok()?;
    Some(told["programs"][id].take()).filter(Value::is_object)
}

/// Why it does not run: how it ended, with its last words. None if it runs, or nothing is known.
pub(super) async fn died_of(id: &str, session: &Session) -> Option<String> {
    let program = of(id, session).await.filter(|program| program["state"] != "running")?;
    let end = &program["lastEnd"];
    let how = end["how"].as_str()?;
    let last_words = end["stderr"].as_array().and_then(|lines| lines.last()?.as_str());
    Some(last_words.map_or_else(|| how.to_owned(), |words| format!("{how}: {words}")))
}

/// In words, for a table: what it is, how it is, and how it ended last.
pub(super) fn rows(program: &Value) -> Vec<[String; 2]> {
    let words = program["command"].as_array().into_iter().flatten().map(cell).collect::<Vec<_>>().join(" ");
    let times = match program["starts"].as_u64() {
        Some(1) => "started once".to_owned(),
        starts => format!("started {} times", starts.unwrap_or_default()),
    };
    let why = match program["why"].as_str() {
        Some(why) => format!(": {why}"),
        None if program["ordered"] == true => "; it was ordered to end".to_owned(),
        None => String::new(),
    };
    let row = |name: &str, text: String| [name.to_owned(), text];
    let mut rows = vec![row("program", words), row("state", format!("{}, {times}{why}", cell(&program["state"])))];
    let end = &program["lastEnd"];
    if let Some(how) = end["how"].as_str() {
        let at = UNIX_EPOCH + Duration::from_secs(end["at"].as_u64().unwrap_or_default());
        let ran_for = Duration::from_millis((end["ranForS"].as_f64().unwrap_or_default() * 1e3) as u64);
        let (at, ran_for) = (humantime::format_rfc3339_seconds(at), humantime::format_duration(ran_for));
        rows.push(row("lastEnd", format!("{how}, at {at} after {ran_for}")));
        let said = end["stderr"].as_array().into_iter().flatten().filter_map(Value::as_str);
        rows.extend(said.map(|line| row("stderr", line.to_owned())));
    }
    rows
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_told_in_words_why_a_program_died() {
        let end = json!({ "how": "exit code 3", "at": 1_795_716_774, "ranForS": 0.25, "stderr": ["no such table"] });
        let program = json!({ "state": "given up", "why": "5 times within 120 s", "starts": 5, "command": ["chat", "-p", "1"],
            "lastEnd": end });
        let told: Vec<String> = rows(&program).iter().map(|row| row.join(" = ")).collect();
        let expected = [
            "program = chat -p 1",
            "state = given up, started 5 times: 5 times within 120 s",
            "lastEnd = exit code 3, at 2026-11-26T18:12:54Z after 250ms",
            "stderr = no such table",
        ];
        assert_eq!(told, expected);
        let running = json!({ "state": "running", "starts": 1, "command": ["chat"], "lastEnd": null });
        assert_eq!(rows(&running).len(), 2);
    }
}
