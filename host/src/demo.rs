//! A fleet in one terminal: a master, three monitors around three programs, the plugins, and what happens among them,
//! line by line.
//!
//! The daemons are processes of their own, started from this executable; what is shown comes from their logs, and from a
//! client that asks the master like any other.

use std::{io::Write, path::PathBuf, time::Duration};

use serde::Deserialize;
use serde_json::{Map, Value, json};
use tokio::{
    signal::unix::{SignalKind, signal},
    time::{MissedTickBehavior, interval},
};

use crate::{
    client::Client,
    sandbox::{Line, Sandbox, SandboxError, failed},
};

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
    pub async fn run(self, out: &mut (impl Write + Send)) -> Result<(), SandboxError> {
        let mut sandbox = Sandbox::new(self.executable.clone(), &self.plugins, &["modules.timeReport.interval=2"])?;
        let ended = self.live(&mut sandbox, out).await;
        sandbox.end(&mut |line| line.show(out)).await;
        ended
    }

    async fn live(&self, sandbox: &mut Sandbox, out: &mut (impl Write + Send)) -> Result<(), SandboxError> {
        let mut interrupt = signal(SignalKind::interrupt()).map_err(failed("listen for signals"))?;
        let mut terminate = signal(SignalKind::terminate()).map_err(failed("listen for signals"))?;

        let address = sandbox.master(&self.listen, &mut |line| line.show(out)).await?;
        for server in SERVERS {
            let program = if Some(&server) == SERVERS.last() { CRASHING } else { PROGRAM };
            sandbox.monitor(server, &[], &["sh", "-c", program], &mut |line| line.show(out)).await?;
        }
        let client = sandbox.client().await?;
        self.explain(&address, out);

        let mut look = interval(LOOK);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut looks = 0;
        let mut plugins: Vec<Plugin> = Vec::new();
        loop {
            tokio::select! {
                _ = interrupt.recv() => return Ok(()),
                _ = terminate.recv() => return Ok(()),
                line = sandbox.line() => line.show(out),
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

fn show(out: &mut impl Write, name: &str, text: &str) {
    Line::by(name, text).show(out);
}
