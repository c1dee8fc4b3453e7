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
    complete::plugin_names,
    render::{self, cell},
    session::Session,
    shown::{Listing, Row, Shown},
};

mod change;
mod check;
mod dev;
mod found;
mod new;
mod trial;

pub(super) use dev::DevError;
pub(super) use found::Unfit;
pub(super) use new::NewError;

/// The module that is asked.
pub(super) const MODULE: &str = "__plugins__";

/// What can be done with plugins.
#[derive(Debug, Subcommand)]
pub(super) enum PluginCommand {
    /// Write a crate for a plugin of your own, which builds and passes its tests at once
    New(new::New),
    /// Vet a file as daemons do, and show what is in it; exit code 1 if it would not be loaded
    Check(check::Check),
    /// Load, call, reload and unload a file in temporary daemons, in both isolation modes; exit code 1 if it fails
    Test(trial::Trial),
    /// Build a crate whenever a file of it changes, and replace it in a sandbox of a master and a monitor
    Dev(dev::Dev),
    /// List the plugin files, what became of each, and what could not be unloaded
    List,
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
    /// Show one plugin: its state and why, its figures, and what has happened to it
    Show(OnePlugin),
    /// Go back to the generation before the last reload, while it is kept
    Rollback(OnePlugin),
    /// Load no other content of it until it is unpinned, also after a restart
    Pin(OnePlugin),
    /// Load new files of it again
    Unpin(OnePlugin),
    /// Try again what was quarantined because the daemon died of it
    Unquarantine(OnePlugin),
}

/// An order about one plugin.
#[derive(Debug, Args)]
pub(super) struct Order {
    /// Name of the plugin: that of its file without .so
    #[arg(add = plugin_names())]
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
}

/// Which plugin.
#[derive(Debug, Args)]
pub(super) struct OnePlugin {
    /// Name of its file, without .so
    #[arg(add = plugin_names())]
    name: String,
}

pub(super) async fn run(command: PluginCommand, session: &Session) -> Result<Shown, CliError> {
    match command {
        PluginCommand::New(new) => Ok(Shown::Text(new.run()?)),
        PluginCommand::Check(check) => check.run().await,
        PluginCommand::Test(trial) => trial.run().await,
        PluginCommand::Dev(dev) => Ok(Shown::Text(dev.run(&mut render::stdout()).await?)),
        PluginCommand::List => list(session).await,
        PluginCommand::Install { file, name, plugins, ordering } => {
            change::install(file, name, plugins, &ordering, session).await
        }
        PluginCommand::Reload(order) => change::order("reload", order, session).await,
        PluginCommand::Enable(order) => change::order("enable", order, session).await,
        PluginCommand::Disable(order) => change::order("disable", order, session).await,
        PluginCommand::Remove(order) => change::order("remove", order, session).await,
        PluginCommand::Show(one) => show(one, session).await,
        PluginCommand::Rollback(one) => order("rollback", one, session).await,
        PluginCommand::Pin(one) => order("pin", one, session).await,
        PluginCommand::Unpin(one) => order("unpin", one, session).await,
        PluginCommand::Unquarantine(one) => order("unquarantine", one, session).await,
    }
}

#[derive(Deserialize)]
struct Answer {
    plugins: Vec<Value>,
}

async fn list(session: &Session) -> Result<Shown, CliError> {
    let body = session.ask(MODULE, json!({ "action": "list" })).await?;
    let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    shown(body, since_1970)
}

async fn show(OnePlugin { name }: OnePlugin, session: &Session) -> Result<Shown, CliError> {
    let body = session.ask(MODULE, json!({ "action": "list" })).await?;
    let plugins = body["plugins"].as_array().map_or(&[][..], Vec::as_slice);
    let file = |plugin: &&Value| plugin["name"] == json!(name) || plugin["file"] == json!(name);
    let Some(plugin) = plugins.iter().find(file) else {
        let text = format!("there is no plugin {name}");
        return Err(CliError::Refused { module: MODULE.to_owned(), text });
    };
    let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Ok(Shown::Sentence(described(plugin, since_1970), plugin.clone()))
}

/// `now` is the time since 1970.
fn described(plugin: &Value, now: Duration) -> String {
    let plain = [
        ("state", "state"),
        ("reason", "reason"),
        ("isolation", "isolation"),
        ("generation", "generation"),
        ("version", "version"),
        ("hash", "hash"),
        ("size", "size"),
        ("api", "api"),
        ("compiler", "compiler"),
        ("pinned", "pinned"),
        ("calls", "calls"),
        ("errors", "errors"),
        ("panics", "panics"),
        ("timeouts", "timeouts"),
        ("unclaimed replies", "unclaimedReplies"),
        ("p50 (ms)", "p50Ms"),
        ("p99 (ms)", "p99Ms"),
        ("CPU time (ms)", "cpuMs"),
        ("state handed over", "handover"),
    ];
    let mut rows = vec![vec!["name".to_owned(), cell(&plugin["name"])]];
    rows.push(vec!["modules".to_owned(), modules(plugin)]);
    rows.push(vec!["since".to_owned(), age(&plugin["since"], now)]);
    rows.extend(plain.map(|(title, key)| vec![title.to_owned(), cell(known(plugin, key))]));
    if let Some(limits) = plugin["worker"]["limits"].as_object() {
        let [pid, deaths, restarts] = fields(&plugin["worker"], ["pid", "deaths", "restarts"]);
        rows.push(vec!["worker".to_owned(), format!("process {pid}, {deaths} deaths, {restarts} restarts")]);
        let in_force = limits.iter().filter(|(name, limit)| *name != "group" && !limit.is_null());
        let in_force: Vec<String> = in_force.map(|(name, limit)| format!("{name} {limit}")).collect();
        let in_force = if in_force.is_empty() { render::NOTHING.to_owned() } else { in_force.join(", ") };
        rows.push(vec!["limits".to_owned(), in_force]);
        rows.push(vec!["control group".to_owned(), cell(&limits["group"])]);
    }
    if let (Some(candidate), true) = (plugin["candidate"].as_object(), plugin["generation"].is_u64()) {
        let [step, generation, version] = ["step", "generation", "version"].map(|key| cell(&candidate[key]));
        rows.push(vec!["candidate".to_owned(), format!("generation {generation} (version {version}): {step}")]);
    }
    if let Some(kept) = plugin["probation"].as_object() {
        let left = Duration::from_millis(kept["leftMs"].as_u64().unwrap_or_default());
        let left = humantime::format_duration(Duration::from_secs(left.as_secs()));
        let text = format!("generation {} is kept for another {left}", cell(&kept["keptGeneration"]));
        rows.push(vec!["probation".to_owned(), text]);
    }
    let mut text = render::table(&["", ""], rows.into_iter()).trim_start().to_owned();
    let metrics = plugin["metrics"].as_array().map_or(&[][..], Vec::as_slice);
    if !metrics.is_empty() {
        text.push_str("\n\nmetrics of its modules:\n");
        text.push_str(&render::table(&["MODULE", "ROLE", "NAME", "KIND", "VALUE"], metrics.iter().map(metric)));
    }
    let history = plugin["history"].as_array().map_or(&[][..], Vec::as_slice);
    if !history.is_empty() {
        text.push_str("\n\nhistory:\n");
        let rows = history.iter().map(|change| {
            let [by, from, to, outcome] = fields(change, ["by", "from", "to", "outcome"]);
            vec![age(&change["at"], now), by, from, to, outcome]
        });
        text.push_str(&render::table(&["AGO", "BY", "FROM", "TO", "OUTCOME"], rows));
    }
    text
}

/// A metric, as a row; of a histogram what was noted on average.
fn metric(metric: &Value) -> Vec<String> {
    let mut row = fields(metric, ["module", "role", "name", "kind", "value"]).to_vec();
    if let (Some(count), Some(sum)) = (metric["count"].as_u64(), metric["sum"].as_f64()) {
        row[4] = format!("{count} values, {:.3} on average", sum / count.max(1) as f64);
    }
    row
}

async fn order(action: &'static str, OnePlugin { name }: OnePlugin, session: &Session) -> Result<Shown, CliError> {
    let body = session.ask(MODULE, json!({ "action": action, "name": name })).await?;
    Ok(Shown::Sentence(render::printable(body["text"].as_str().unwrap_or_default()), body))
}

/// `now` is the time since 1970.
fn shown(body: Value, now: Duration) -> Result<Shown, CliError> {
    let Ok(Answer { plugins }) = Answer::deserialize(&body) else {
        return Err(CliError::Odd { module: MODULE, found: body.to_string() });
    };
    let rows = plugins.iter().map(|plugin| {
        let of_plugin = ["name", "state", "generation", "version", "calls", "errors", "reason"];
        let [name, state, generation, version, calls, errors, reason] = of_plugin.map(|key| cell(known(plugin, key)));
        let isolation = isolation(plugin);
        let [hash, file] = ["hash", "file"].map(|key| cell(known(plugin, key)));
        let cells = vec![
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
            hash,
            file,
        ];
        Row { item: plugin.clone(), cells }
    });
    let header =
        vec!["NAME", "STATE", "ISOLATION", "GENERATION", "VERSION", "MODULES", "CALLS", "ERRORS", "SINCE", "REASON"];
    let rows = rows.collect();
    let mut below = String::new();
    let left: Vec<_> = plugins.iter().flat_map(still_mapped).collect();
    if !left.is_empty() {
        below.push_str("\n\nunloaded, but still mapped:\n");
        below.push_str(&render::table(
            &["NAME", "GENERATION", "BYTES", "SINCE", "REASON"],
            left.into_iter().map(|(name, left)| {
                let [generation, bytes, reason] = fields(left, ["generation", "bytes", "reason"]);
                vec![name, generation, bytes, age(&left["since"], now), reason]
            }),
        ));
    }
    Ok(Shown::Listing(Listing { header, wide: vec!["HASH", "FILE"], rows, json: Some(body), below }))
}

fn fields<const N: usize>(of: &Value, names: [&str; N]) -> [String; N] {
    names.map(|name| cell(&of[name]))
}

/// What is known of a plugin: of what is served; or else of what is about to be, or was last.
fn known<'a>(plugin: &'a Value, key: &str) -> &'a Value {
    let places = [plugin, &plugin["candidate"], &plugin["last"]];
    places.into_iter().map(|place| &place[key]).find(|value| !value.is_null()).unwrap_or(&Value::Null)
}

/// Where it runs, with the process if that is one of its own.
fn isolation(plugin: &Value) -> String {
    match plugin["worker"]["pid"].as_u64() {
        Some(pid) => format!("process {pid}"),
        None => cell(known(plugin, "isolation")),
    }
}

fn modules(plugin: &Value) -> String {
    match known(plugin, "modules").as_array() {
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
    use crate::cli::ask::Output;

    #[test]
    fn one_plugin_is_described_with_what_happened_to_it() {
        let plugin = json!({
            "name": "echo", "state": "rolled back", "reason": "it was slow", "since": 60, "generation": 1,
            "probation": {"keptGeneration": 1, "leftMs": 29_500},
            "history": [{"at": 5, "by": "probation", "from": 2, "to": 1, "outcome": "rolled back: it was slow"}],
        });
        let text = described(&plugin, Duration::from_secs(65));
        let words = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
        let lines: Vec<String> = text.lines().map(words).collect();
        for line in ["name echo", "state rolled back", "since 5s", "probation generation 1 is kept for another 29s"] {
            assert!(lines.contains(&line.to_owned()), "{line} is not in\n{text}");
        }
        assert_eq!(lines.last().unwrap(), "1m probation 2 1 rolled back: it was slow");
    }

    #[test]
    fn every_figure_has_its_row_and_what_does_not_run_is_told_of_as_well() {
        let serving = json!({
            "name": "echo", "state": "running", "since": 60, "reason": "why", "isolation": "process", "generation": 4,
            "version": "1.2.3", "hash": "ab12", "size": 4096, "api": "1.0.0", "compiler": "rustc 1.95", "pinned": true,
            "calls": 30, "errors": 5, "panics": 2, "timeouts": 1, "unclaimedReplies": 6, "p50Ms": 1.5, "p99Ms": 20.25, "cpuMs": 77,
            "handover": "with the state of generation 3",
            "worker": {"pid": 77, "deaths": 2, "restarts": 2, "limits": {"memory": 1024, "files": null, "tasks": 8, "group": "/sys/fs/cgroup/m/worker-1-1"}}, "modules": [{"id": "echo"}, {"id": "other"}],
            "candidate": {"generation": 5, "version": "1.3.0", "step": "handing-over"},
        });
        let words = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
        let rows = |plugin: &Value| described(plugin, Duration::from_secs(65)).lines().map(words).collect::<Vec<_>>();
        let found = rows(&serving);
        for row in [
            "name echo",
            "modules echo,other",
            "since 5s",
            "state running",
            "reason why",
            "isolation process",
            "generation 4",
            "version 1.2.3",
            "hash ab12",
            "size 4096",
            "api 1.0.0",
            "compiler rustc 1.95",
            "pinned true",
            "calls 30",
            "errors 5",
            "panics 2",
            "timeouts 1",
            "unclaimed replies 6",
            "p50 (ms) 1.5",
            "p99 (ms) 20.25",
            "CPU time (ms) 77",
            "state handed over with the state of generation 3",
            "worker process 77, 2 deaths, 2 restarts",
            "limits memory 1024, tasks 8",
            "control group /sys/fs/cgroup/m/worker-1-1",
            "candidate generation 5 (version 1.3.0): handing-over",
        ] {
            assert!(found.contains(&row.to_owned()), "{row} is not in {found:#?}");
        }
        let loaded =
            json!({ "state": "loaded", "candidate": {"generation": 5, "hash": "cd34", "modules": [{"id": "m"}]} });
        let draining =
            json!({ "state": "draining", "last": {"generation": 5, "hash": "cd34", "modules": [{"id": "m"}]} });
        for plugin in [loaded, draining] {
            let found = rows(&plugin);
            for row in ["generation 5", "hash cd34", "modules m", "calls -"] {
                assert!(found.contains(&row.to_owned()), "{row} is not in {found:#?}");
            }
        }
    }

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
        assert_eq!(shown(body, Duration::from_secs(65)).unwrap().render(Output::Table), expected);
    }
}
