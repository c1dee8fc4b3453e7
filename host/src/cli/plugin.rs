//! `muster plugin`: through a module that Muster's master has.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::Subcommand;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    CliError,
    ask::{Asking, Output, body_of},
    render::{self, cell},
};

/// The module that is asked.
pub(super) const MODULE: &str = "__plugins__";

/// What can be done with plugins.
#[derive(Debug, Subcommand)]
pub(super) enum PluginCommand {
    /// List the plugin files, what became of each, and what could not be unloaded
    List(Asking),
}

#[derive(Deserialize)]
struct Answer {
    plugins: Vec<Value>,
    #[serde(default)]
    still_mapped: Vec<Value>,
}

pub(super) async fn list(asking: Asking) -> Result<String, CliError> {
    let client = asking.connect().await?;
    let response = client.request(MODULE, json!({ "action": "list" })).await?;
    client.close().await;
    let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    shown(body_of(MODULE, response)?, asking.output, since_1970)
}

/// `now` is the time since 1970.
fn shown(body: Value, output: Output, now: Duration) -> Result<String, CliError> {
    let json = body.to_string();
    let Ok(Answer { plugins, still_mapped }) = serde_json::from_value(body) else {
        return Err(CliError::Odd { module: MODULE, found: json });
    };
    if output == Output::Json {
        return Ok(json);
    }
    let rows = plugins.iter().map(|plugin| {
        let field = |name: &str| cell(&plugin[name]);
        let modules = match &plugin["modules"] {
            Value::Array(modules) if !modules.is_empty() => modules.iter().map(cell).collect::<Vec<_>>().join(","),
            _ => render::NOTHING.to_owned(),
        };
        let [name, state, generation, version] = ["name", "state", "generation", "version"].map(field);
        let [calls, errors, reason] = ["calls", "errors", "reason"].map(field);
        vec![name, state, generation, version, modules, calls, errors, age(&plugin["since_ms"], now), reason]
    });
    let header = ["NAME", "STATE", "GENERATION", "VERSION", "MODULES", "CALLS", "ERRORS", "SINCE", "REASON"];
    let mut text = render::table(&header, rows);
    if !still_mapped.is_empty() {
        let rows = still_mapped
            .iter()
            .map(|left| ["name", "generation", "bytes", "reason"].map(|field| cell(&left[field])).to_vec());
        text.push_str("\n\nstill mapped:\n");
        text.push_str(&render::table(&["NAME", "GENERATION", "BYTES", "REASON"], rows));
    }
    Ok(text)
}

/// How long ago a time in milliseconds since 1970 was.
fn age(since_ms: &Value, now: Duration) -> String {
    let Some(since) = since_ms.as_u64().map(Duration::from_millis) else { return render::NOTHING.to_owned() };
    let seconds = now.saturating_sub(since).as_secs();
    humantime::format_duration(Duration::from_secs(seconds)).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plugins_are_shown_with_their_state_and_what_is_still_mapped() {
        let body = json!({
            "plugins": [
                {"name": "console", "state": "running", "generation": 1, "version": "0.1.0", "since_ms": 5_000,
                 "modules": ["__console__"], "calls": 7, "errors": 0, "panics": 0, "reason": null},
                {"name": "bad", "state": "refused", "reason": "no module\u{1b}[31m", "since_ms": 60_000, "modules": []},
            ],
            "still_mapped": [{"name": "echo", "generation": 2, "reason": "a thread is inside", "bytes": 4096}],
        });
        let expected = "\
NAME     STATE    GENERATION  VERSION  MODULES      CALLS  ERRORS  SINCE  REASON
console  running  1           0.1.0    __console__  7      0       1m     -
bad      refused  -           -        -            -      -       5s     no module\\u{1b}[31m

still mapped:
NAME  GENERATION  BYTES  REASON
echo  2           4096   a thread is inside";
        assert_eq!(shown(body, Output::Table, Duration::from_secs(65)).unwrap(), expected);
    }
}
