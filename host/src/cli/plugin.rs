//! `muster plugin`: through a module that Muster's master has.

use std::{
    path::PathBuf,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use clap::{Args, Subcommand};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    CliError,
    ask::{Asking, Output, body_of},
    render::{self, cell},
};

mod change;

/// The module that is asked.
pub(super) const MODULE: &str = "__plugins__";

/// What can be done with plugins.
#[derive(Debug, Subcommand)]
pub(super) enum PluginCommand {
    /// List the plugin files, what became of each, and what could not be unloaded
    List(Asking),
    /// Put a file into the plugin directory, and wait until it is served or refused
    Install {
        /// The library; NAME.so.minisig beside it is taken along
        file: PathBuf,
        /// Name of the plugin [default: that of the file without .so]
        #[arg(long)]
        name: Option<String>,
        /// Plugin directory of a master on this machine: copied there instead of sent to the master
        #[arg(long, value_name = "DIR")]
        plugins: Option<PathBuf>,
        #[command(flatten)]
        ordering: Ordering,
    },
    /// Load a plugin again, also if its file is the same
    Reload(Order),
    /// Load a plugin that was disabled
    Enable(Order),
    /// Unload a plugin, and leave it alone until it is enabled, also after a restart
    Disable(Order),
    /// Unload a plugin and remove its file
    Remove(Order),
}

/// An order about one plugin.
#[derive(Debug, Args)]
pub(super) struct Order {
    /// Name of the plugin: that of its file without .so
    name: String,
    #[command(flatten)]
    ordering: Ordering,
}

/// How an order is given.
#[derive(Debug, Args)]
pub(super) struct Ordering {
    /// Wait for the outcome, at most as long as --timeout says (the default)
    #[arg(long, overrides_with = "no_wait")]
    wait: bool,
    /// Only give the order
    #[arg(long)]
    no_wait: bool,
    #[command(flatten)]
    asking: Asking,
}

impl PluginCommand {
    pub(super) fn output(&self) -> Output {
        match self {
            PluginCommand::List(asking) => asking.output,
            PluginCommand::Install { ordering, .. }
            | PluginCommand::Reload(Order { ordering, .. })
            | PluginCommand::Enable(Order { ordering, .. })
            | PluginCommand::Disable(Order { ordering, .. })
            | PluginCommand::Remove(Order { ordering, .. }) => ordering.asking.output,
        }
    }
}

pub(super) async fn run(command: PluginCommand) -> Result<String, CliError> {
    match command {
        PluginCommand::List(asking) => list(asking).await,
        PluginCommand::Install { file, name, plugins, ordering } => {
            change::install(file, name, plugins, &ordering).await
        }
        PluginCommand::Reload(order) => change::order("reload", order).await,
        PluginCommand::Enable(order) => change::order("enable", order).await,
        PluginCommand::Disable(order) => change::order("disable", order).await,
        PluginCommand::Remove(order) => change::order("remove", order).await,
    }
}

#[derive(Deserialize)]
struct Answer {
    plugins: Vec<Value>,
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
        let [calls, errors, reason] = fields(plugin, ["calls", "errors", "reason"]);
        vec![name, state, generation, version, modules(plugin), calls, errors, age(&plugin["since"], now), reason]
    });
    let header = ["NAME", "STATE", "GENERATION", "VERSION", "MODULES", "CALLS", "ERRORS", "SINCE", "REASON"];
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
                 "modules": [{"id": "__console__", "roles": ["master"]}], "calls": 7, "errors": 0, "reason": null,
                 "stillMapped": [{"generation": 2, "reason": "a thread is inside", "bytes": 4096, "since": 64}]},
                {"name": "bad", "state": "refused", "reason": "no module\u{1b}[31m", "since": 60, "stillMapped": []},
            ],
        });
        let expected = "\
NAME     STATE    GENERATION  VERSION  MODULES      CALLS  ERRORS  SINCE  REASON
console  running  3           0.1.0    __console__  7      0       1m     -
bad      refused  -           -        -            -      -       5s     no module\\u{1b}[31m

unloaded, but still mapped:
NAME     GENERATION  BYTES  SINCE  REASON
console  2           4096   1s     a thread is inside";
        assert_eq!(shown(body, Output::Table, Duration::from_secs(65)).unwrap(), expected);
    }
}
