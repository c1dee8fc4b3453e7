//! A fleet in one terminal: a master, three monitors around three programs, the plugins, and what happens among them,
//! line by line.
//!
//! The daemons are processes of their own, started from this executable; what is shown comes from their logs, and from a
//! client that asks the master like any other.

use std::{
    io::{self, Write},
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use serde::Deserialize;
use serde_json::{Map, Value, json};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, Command},
    signal::unix::{SignalKind, signal},
    sync::mpsc,
    time::{MissedTickBehavior, interval, timeout},
};

use crate::client::{Client, ClientError, Options};

/// The servers of the demo: id, type, port.
const SERVERS: [(&str, &str, u16); 3] =
    [("gate-server-1", "gate", 3014), ("connector-server-1", "connector", 4050), ("chat-server-1", "chat", 6050)];

/// What each server runs: a program that serves nobody.
const PROGRAM: &str = "echo serving; exec sleep 1000000";

/// What the last of them runs: one that crashes now and then, to be seen being started again.
const CRASHING: &str = "echo serving; sleep 30; echo 'this crash is a part of the demo' >&2; exit 3";

/// How often plugins are looked at: a replacement is seen at once.
const LOOK: Duration = Duration::from_millis(500);

/// Looks from one time report to the next.
const LOOKS_PER_REPORT: u32 = 10;

/// Time for a daemon to say that it is ready.
const READY_WITHIN: Duration = Duration::from_secs(20);

/// Time for the daemons to end: twice their own grace period.
const END_WITHIN: Duration = Duration::from_secs(10);

/// Lines of the daemons that may wait to be shown. They are few.
const LINES: usize = 256;

/// What the demo runs on.
#[derive(Debug, Clone)]
pub struct Demo {
    /// This program.
    pub executable: PathBuf,
    /// Where the master listens; port 0 asks for any.
    pub listen: String,
    /// The directory of plugins that all daemons watch.
    pub plugins: PathBuf,
}

/// The demo cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum DemoError {
    /// A file or a process.
    #[error("{what}")]
    Io {
        /// What was tried.
        what: String,
        /// Why it failed.
        source: io::Error,
    },
    /// A daemon ended, or did not start in time.
    #[error("{0} did not start; its last lines are above")]
    NotReady(String),
    /// The master does not answer.
    #[error("the master cannot be asked")]
    Client(#[from] ClientError),
}

struct Daemon {
    name: String,
    process: Child,
}

struct Line {
    name: String,
    text: String,
}

/// What is shown of a plugin.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
struct Plugin {
    name: String,
    state: String,
    #[serde(default)]
    generation: Option<u64>,
    #[serde(default)]
    reason: Option<String>,
}

impl Demo {
    /// Runs until Ctrl-C or SIGTERM, writing to `out`.
    ///
    /// # Errors
    /// When a daemon does not start.
    pub async fn run(self, out: &mut (impl Write + Send)) -> Result<(), DemoError> {
        let config = tempfile::tempdir().map_err(io_error("make a directory for the configuration"))?;
        let users = json!([{ "id": "user-1", "username": "admin", "password": "admin", "level": 1 }]);
        std::fs::write(config.path().join("adminUser.json"), users.to_string())
            .map_err(io_error("write the configuration"))?;
        let (lines, mut shown) = mpsc::channel(LINES);
        let mut fleet = Vec::new();
        let ended = self.live(config.path(), &lines, &mut shown, &mut fleet, out).await;
        stop(fleet, out).await;
        ended
    }

    async fn live(
        &self,
        config: &Path,
        lines: &mpsc::Sender<Line>,
        shown: &mut mpsc::Receiver<Line>,
        fleet: &mut Vec<Daemon>,
        out: &mut (impl Write + Send),
    ) -> Result<(), DemoError> {
        let mut interrupt = signal(SignalKind::interrupt()).map_err(io_error("listen for signals"))?;
        let mut terminate = signal(SignalKind::terminate()).map_err(io_error("listen for signals"))?;

        let mut command = self.command("master");
        command.args(["--listen", &self.listen]).arg("--config-dir").arg(config);
        let ready = self.start("master", command, lines, shown, fleet, out).await?;
        let address = ready.rsplit(' ').next().unwrap_or_default().to_owned();
        for (id, server_type, port) in SERVERS {
            let mut command = self.command("monitor");
            command.args(["--master", &address, "--id", id, "--type", server_type, "--info", "host=127.0.0.1"]);
            command.arg("--info").arg(format!("port={port}")).arg("--state-dir").arg(config.join("state"));
            let is_last = SERVERS.last().is_some_and(|(last, ..)| *last == id);
            command.args(["--", "sh", "-c", if is_last { CRASHING } else { PROGRAM }]);
            self.start(id, command, lines, shown, fleet, out).await?;
        }
        let client = Client::connect(Options::new(&address, "admin", "admin")).await?;
        self.explain(&address, out);

        let mut look = interval(LOOK);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut looks = 0;
        let mut plugins: Vec<Plugin> = Vec::new();
        loop {
            tokio::select! {
                _ = interrupt.recv() => return Ok(()),
                _ = terminate.recv() => return Ok(()),
                Some(line) = shown.recv() => show(out, &line.name, &line.text),
                _ = look.tick() => {
                    looks += 1;
                    show_plugins(&client, &mut plugins, out).await;
                    if looks % LOOKS_PER_REPORT == 0 {
                        show_times(&client, out).await;
                    }
                }
            }
        }
    }

    fn command(&self, role: &str) -> Command {
        let mut command = Command::new(&self.executable);
        command
            .arg(role)
            .arg("--plugins")
            .arg(&self.plugins)
            // Who tries this has just built the plugins, where a group may write by custom.
            .args(["--set", "plugins.strict=false"])
            .args(["--set", "log.format=json", "--set", "modules.timeReport.interval=2"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            // Ctrl-C is for the demo, which then stops the daemons in their order.
            .process_group(0)
            .kill_on_drop(true);
        command
    }

    /// Starts a daemon, and returns the line by which it says that it is ready.
    async fn start(
        &self,
        name: &str,
        mut command: Command,
        lines: &mpsc::Sender<Line>,
        shown: &mut mpsc::Receiver<Line>,
        fleet: &mut Vec<Daemon>,
        out: &mut (impl Write + Send),
    ) -> Result<String, DemoError> {
        let mut process = command.spawn().map_err(io_error(&format!("start {}", self.executable.display())))?;
        let (stdout, stderr) = (process.stdout.take(), process.stderr.take());
        fleet.push(Daemon { name: name.to_owned(), process });
        if let Some(stderr) = stderr {
            let (name, lines) = (name.to_owned(), lines.clone());
            tokio::spawn(async move {
                let mut log = BufReader::new(stderr).lines();
                while let Ok(Some(line)) = log.next_line().await {
                    if lines.send(Line { name: name.clone(), text: readable(&line) }).await.is_err() {
                        return;
                    }
                }
            });
        }
        let mut stdout = BufReader::new(stdout.ok_or_else(|| DemoError::NotReady(name.to_owned()))?).lines();
        let ready = timeout(READY_WITHIN, async {
            loop {
                tokio::select! {
                    line = stdout.next_line() => return line.ok().flatten(),
                    Some(line) = shown.recv() => show(out, &line.name, &line.text),
                }
            }
        });
        match ready.await {
            Ok(Some(line)) => {
                show(out, name, &line);
                Ok(line)
            }
            Ok(None) | Err(_) => {
                while let Ok(line) = shown.try_recv() {
                    show(out, &line.name, &line.text);
                }
                Err(DemoError::NotReady(name.to_owned()))
            }
        }
    }

    fn explain(&self, address: &str, out: &mut impl Write) {
        let (exe, plugins) = (self.executable.display(), self.plugins.display());
        let text = format!(
            "\n\
             A master at {address}, three monitors, each around a program, and the plugins of {plugins}.\n\
             The program of chat-server-1 crashes every 30 seconds, and is started again.\n\
             In another terminal:\n\n  \
             {exe} server list --master {address}\n  \
             {exe} plugin list --master {address}\n  \
             {exe} call timeReport --master {address}\n  \
             cp another-build.so {plugins}/time_report.so     # replaced while it runs\n\n\
             Ctrl-C ends it.\n"
        );
        for line in text.lines() {
            // A terminal that is gone ends the demo soon enough.
            drop(writeln!(out, "{line}"));
        }
    }
}

async fn show_plugins(client: &Client, known: &mut Vec<Plugin>, out: &mut impl Write) {
    #[derive(Deserialize)]
    struct Report {
        plugins: Vec<Plugin>,
    }
    let Ok(response) = client.request("__plugins__", json!({ "action": "list" })).await else { return };
    let Some(report) = response.body.and_then(|body| serde_json::from_str::<Report>(body.get()).ok()) else { return };
    for plugin in &report.plugins {
        if !known.contains(plugin) {
            let Plugin { name, state, generation, reason } = plugin;
            let generation = generation.map(|number| format!(" g{number}")).unwrap_or_default();
            let reason = reason.as_ref().map(|reason| format!(": {reason}")).unwrap_or_default();
            show(out, "plugin", &format!("{name}{generation} {state}{reason}"));
        }
    }
    for plugin in known.iter().filter(|old| !report.plugins.iter().any(|plugin| plugin.name == old.name)) {
        show(out, "plugin", &format!("{} is gone", plugin.name));
    }
    *known = report.plugins;
}

async fn show_times(client: &Client, out: &mut impl Write) {
    let Ok(response) = client.request("timeReport", ()).await else { return };
    let times: Map<String, Value> =
        response.body.and_then(|body| serde_json::from_str(body.get()).ok()).unwrap_or_default();
    for (server, time) in times {
        show(out, "timeReport", &format!("{server}  {}", time.as_str().unwrap_or_default()));
    }
}

/// A line of a daemon's JSON log, for people.
fn readable(line: &str) -> String {
    let Ok(Value::Object(entry)) = serde_json::from_str(line) else { return line.to_owned() };
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let fields = entry.get("fields").and_then(Value::as_object);
    let message = fields.and_then(|fields| fields.get("message")).map(text).unwrap_or_default();
    let fields = fields.into_iter().flatten().filter(|(name, _)| *name != "message");
    let fields: String = fields.map(|(name, value)| format!("  {name}={}", text(value))).collect();
    let level = entry.get("level").and_then(Value::as_str).filter(|level| *level != "INFO");
    let level = level.map(|level| format!("{level} ")).unwrap_or_default();
    format!("{level}{message}{fields}")
}

fn show(out: &mut impl Write, name: &str, text: &str) {
    // A terminal that is gone ends the demo soon enough.
    drop(writeln!(out, "{name:>18} │ {text}"));
}

/// Stops the monitors, then the master.
async fn stop(mut fleet: Vec<Daemon>, out: &mut impl Write) {
    while let Some(Daemon { name, mut process }) = fleet.pop() {
        let pid = process.id().and_then(|pid| rustix::process::Pid::from_raw(i32::try_from(pid).ok()?));
        if let Some(pid) = pid
            && rustix::process::kill_process(pid, rustix::process::Signal::TERM).is_ok()
        {
            match timeout(END_WITHIN, process.wait()).await {
                Ok(Ok(status)) => show(out, &name, &format!("ended, {status}")),
                Ok(Err(_)) | Err(_) => show(out, &name, "did not end in time and is killed"),
            }
        }
    }
}

fn io_error(what: &str) -> impl FnOnce(io::Error) -> DemoError {
    let what = format!("cannot {what}");
    move |source| DemoError::Io { what, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_the_log_is_shown_without_its_machinery() {
        let line = r#"{"timestamp":"x","level":"INFO","fields":{"message":"server registered","id":"gate-1"},"target":"muster::master"}"#;
        assert_eq!(readable(line), "server registered  id=gate-1");
        let line = r#"{"level":"WARN","fields":{"message":"odd","n":3}}"#;
        assert_eq!(readable(line), "WARN odd  n=3");
        assert_eq!(readable("thread panicked"), "thread panicked");
    }
}
