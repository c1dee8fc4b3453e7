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
    /// Let a plugin be run again that was quarantined
    Unquarantine {
        /// Name of the file, without .so
        name: String,
        #[command(flatten)]
        asking: Asking,
    },
}

impl PluginCommand {
    pub(super) fn output(&self) -> Output {
        let (PluginCommand::List(asking) | PluginCommand::Unquarantine { asking, .. }) = self;
        asking.output
    }
}

#[derive(Deserialize)]
struct Answer {
    plugins: Vec<Value>,
}

pub(super) async fn run(command: PluginCommand) -> Result<String, CliError> {
    match command {
        PluginCommand::List(asking) => list(asking).await,
        PluginCommand::Unquarantine { name, asking } => {
            let client = asking.connect().await?;
            let response = client.request(MODULE, json!({ "action": "unquarantine", "name": name })).await?;
            client.close().await;
            let body = body_of(MODULE, response)?;
            Ok(match asking.output {
                Output::Json => json!({ "plugin": name, "quarantined": false }).to_string(),
                Output::Table => render::printable(body.as_str().unwrap_or_default()).to_string(),
            })
        }
    }
}

async fn list(asking: Asking) -> Result<String, CliError> {
    let client = asking.connect().await?;
    let response = client.request(MODULE, json!({ "action": "list" })).await?;
    client.close().await;
    let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    shown(body_of(MODULE, response)?, asking.output, since_1970)
}

/// `now` is the time since 1970.
fn shown(body: Value, output: Output, now: Duration) -> Result<String, CliError> {
    let json = body.to_string();
    let Ok(Answer { plugins }) = serde_json::from_value(body) else {
        return Err(CliError::Odd { module: MODULE, found: json });
    };
    if output == Output::Json {
        return Ok(json);
    }
    let rows = plugins.iter().map(|plugin| {
        let [name, state, generation, version] = fields(plugin, ["name", "state", "generation", "version"]);
        let isolation = isolation(plugin);
        let [calls, errors, reason] = fields(plugin, ["calls", "errors", "reason"]);
        vec![
            name,
            state,
            isolation,
            generation,
            version,
            modules(plugin),
            calls,
            errors,
            age(&plugin["since"], now),
            reason,
        ]
    });
    let header =
        ["NAME", "STATE", "ISOLATION", "GENERATION", "VERSION", "MODULES", "CALLS", "ERRORS", "SINCE", "REASON"];
    let mut text = render::table(&header, rows);
    let left: Vec<_> = plugins.iter().flat_map(still_mapped).collect();
    if !left.is_empty() {
        text.push_str("\n\nunloaded, but still mapped:\n");
        text.push_str(&render::table(
            &["NAME", "GENERATION", "BYTES", "SINCE", "REASON"],
            left.into_iter().map(|(name, left)| {
                let [generation, bytes, reason] = fields(left, ["generation", "bytes", "reason"]);
                vec![name, generation, bytes, age(&left["since"], now), reason]
            }),
        ));
    }
    Ok(text)
}

fn fields<const N: usize>(of: &Value, names: [&str; N]) -> [String; N] {
    names.map(|name| cell(&of[name]))
}

/// Where it runs, with the process if that is one of its own.
fn isolation(plugin: &Value) -> String {
    match plugin["worker"]["pid"].as_u64() {
        Some(pid) => format!("process {pid}"),
        None => cell(&plugin["isolation"]),
    }
}

fn modules(plugin: &Value) -> String {
    match plugin["modules"].as_array() {
        Some(modules) if !modules.is_empty() => {
            modules.iter().map(|module| cell(&module["id"])).collect::<Vec<_>>().join(",")
        }
        _ => render::NOTHING.to_owned(),
    }
}

/// Generations whose libraries stayed in memory, with the name of the plugin.
fn still_mapped(plugin: &Value) -> impl Iterator<Item = (String, &Value)> {
    let left = plugin["stillMapped"].as_array().map_or(&[][..], Vec::as_slice);
    left.iter().map(|left| (cell(&plugin["name"]), left))
}

/// How long ago a time in seconds since 1970 was.
fn age(since: &Value, now: Duration) -> String {
    let Some(since) = since.as_u64().map(Duration::from_secs) else { return render::NOTHING.to_owned() };
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
                {"name": "console", "state": "running", "generation": 3, "version": "0.1.0", "since": 5,
                 "isolation": "process", "worker": {"pid": 77},
                 "modules": [{"id": "__console__", "roles": ["master"]}], "calls": 7, "errors": 0, "reason": null,
                 "stillMapped": [{"generation": 2, "reason": "a thread is inside", "bytes": 4096, "since": 64}]},
                {"name": "bad", "state": "refused", "reason": "no module\u{1b}[31m", "since": 60, "stillMapped": []},
            ],
        });
        let expected = "\
NAME     STATE    ISOLATION   GENERATION  VERSION  MODULES      CALLS  ERRORS  SINCE  REASON
console  running  process 77  3           0.1.0    __console__  7      0       1m     -
bad      refused  -           -           -        -            -      -       5s     no module\\u{1b}[31m

unloaded, but still mapped:
NAME     GENERATION  BYTES  SINCE  REASON
console  2           4096   1s     a thread is inside";
        assert_eq!(shown(body, Output::Table, Duration::from_secs(65)).unwrap(), expected);
    }
}
