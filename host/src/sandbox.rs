//! Daemons that run for a while: a master and monitors, as processes of this program, and what they write.
//!
//! For what has to be seen in real daemons without touching those that are in use: the demo, and trying out a plugin. They
//! share one directory of plugins, listen on this machine only, and end with the sandbox.

use std::{
    io::{self, Write},
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, Command},
    sync::mpsc::{self, error::TrySendError},
    time::timeout,
};

use crate::client::{Client, ClientError, Options};

/// Its administrator, whose password is the name.
const ADMIN: &str = "admin";

/// Time for a daemon to say that it is ready.
const READY_WITHIN: Duration = Duration::from_secs(20);

/// Time for the daemons to end: twice their own grace period.
const END_WITHIN: Duration = Duration::from_secs(10);

/// Lines of the daemons that may wait to be shown; more are dropped.
const LINES: usize = 256;

/// A fleet of this program's own daemons.
#[derive(Debug)]
pub(crate) struct Sandbox {
    executable: PathBuf,
    plugins: PathBuf,
    settings: Vec<String>,
    config: TempDir,
    lines: mpsc::Sender<Line>,
    written: mpsc::Receiver<Line>,
    fleet: Vec<Daemon>,
    address: String,
}

/// A line that a daemon has written.
#[derive(Debug)]
pub(crate) struct Line {
    /// Which one.
    pub(crate) name: String,
    /// For people.
    pub(crate) text: String,
    /// Whether it is about something that should not be.
    pub(crate) is_error: bool,
}

/// The sandbox cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
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

#[derive(Debug)]
struct Daemon {
    name: String,
    process: Child,
}

impl Sandbox {
    /// With no daemons yet. `settings` (`KEY=VALUE`) are for all of them.
    ///
    /// # Errors
    /// When its configuration cannot be written.
    pub(crate) fn new(executable: PathBuf, plugins: &Path, settings: &[&str]) -> Result<Sandbox, SandboxError> {
        let config = tempfile::tempdir().map_err(failed("make a directory for the configuration"))?;
        let users = json!([{ "id": "user-1", "username": ADMIN, "password": ADMIN, "level": 1 }]);
        std::fs::write(config.path().join("adminUser.json"), users.to_string())
            .map_err(failed("write the configuration"))?;
        let (lines, written) = mpsc::channel(LINES);
        Ok(Sandbox {
            executable,
            plugins: plugins.to_owned(),
            settings: settings.iter().map(|setting| (*setting).to_owned()).collect(),
            config,
            lines,
            written,
            fleet: Vec::new(),
            address: String::new(),
        })
    }

    /// Starts the master, telling what is written meanwhile; returns its address.
    ///
    /// # Errors
    /// When it does not start.
    pub(crate) async fn master(&mut self, listen: &str, tell: &mut impl FnMut(Line)) -> Result<String, SandboxError> {
        let mut command = self.command("master");
        command.args(["--listen", listen]).arg("--config-dir").arg(self.config.path());
        let ready = self.start("master", command, tell).await?;
        self.address = ready.rsplit(' ').next().unwrap_or_default().to_owned();
        Ok(self.address.clone())
    }

    /// Starts a monitor of the master, around a program if there is one.
    ///
    /// # Errors
    /// When it does not start.
    pub(crate) async fn monitor(
        &mut self,
        (id, server_type, port): (&str, &str, u16),
        settings: &[&str],
        program: &[&str],
        tell: &mut impl FnMut(Line),
    ) -> Result<(), SandboxError> {
        let mut command = self.command("monitor");
        command.args(["--master", &self.address, "--id", id, "--type", server_type, "--info", "host=127.0.0.1"]);
        command.arg("--info").arg(format!("port={port}"));
        for setting in settings {
            command.args(["--set", setting]);
        }
        if !program.is_empty() {
            command.arg("--state-dir").arg(self.config.path().join("state")).arg("--").args(program);
        }
        self.start(id, command, tell).await?;
        Ok(())
    }

    /// A client of the master, with every right.
    ///
    /// # Errors
    /// When the master does not let it in.
    pub(crate) async fn client(&self) -> Result<Client, SandboxError> {
        Ok(Client::connect(Options::new(&self.address, ADMIN, ADMIN)).await?)
    }

    /// The next line that a daemon writes. Cancel safe.
    pub(crate) async fn line(&mut self) -> Line {
        // The sandbox holds a sender itself.
        self.written.recv().await.unwrap_or_else(|| Line::by("sandbox", ""))
    }

    /// A line that is there already.
    pub(crate) fn line_now(&mut self) -> Option<Line> {
        self.written.try_recv().ok()
    }

    /// Stops the monitors, then the master.
    pub(crate) async fn end(mut self, tell: &mut impl FnMut(Line)) {
        while let Some(Daemon { name, mut process }) = self.fleet.pop() {
            let pid = process.id().and_then(|pid| rustix::process::Pid::from_raw(i32::try_from(pid).ok()?));
            if let Some(pid) = pid
                && rustix::process::kill_process(pid, rustix::process::Signal::TERM).is_ok()
            {
                match timeout(END_WITHIN, process.wait()).await {
                    Ok(Ok(status)) => tell(Line::by(&name, &format!("ended, {status}"))),
                    Ok(Err(_)) | Err(_) => tell(Line::by(&name, "did not end in time and is killed")),
                }
            }
        }
    }

    fn command(&self, role: &str) -> Command {
        let mut command = Command::new(&self.executable);
        command.arg(role).arg("--plugins").arg(&self.plugins);
        // Who tries this has just built the plugins, where a group may write by custom.
        command.args(["--set", "plugins.strict=false", "--set", "log.format=json"]);
        for setting in &self.settings {
            command.args(["--set", setting]);
        }
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            // Ctrl-C is for the one who started the sandbox, and then stops the daemons in their order.
            .process_group(0)
            .kill_on_drop(true);
        command
    }

    /// Starts a daemon, and returns the line by which it says that it is ready.
    async fn start(
        &mut self,
        name: &str,
        mut command: Command,
        tell: &mut impl FnMut(Line),
    ) -> Result<String, SandboxError> {
        let mut process = command.spawn().map_err(failed(&format!("start {}", self.executable.display())))?;
        let (stdout, stderr) = (process.stdout.take(), process.stderr.take());
        self.fleet.push(Daemon { name: name.to_owned(), process });
        if let Some(stderr) = stderr {
            let (name, lines) = (name.to_owned(), self.lines.clone());
            tokio::spawn(async move {
                let mut log = BufReader::new(stderr).lines();
                while let Ok(Some(line)) = log.next_line().await {
                    // Nobody may be looking just now. A daemon does not wait for that, whatever its plugins write.
                    if let Err(TrySendError::Closed(_)) = lines.try_send(Line::of(&name, &line)) {
                        return;
                    }
                }
            });
        }
        let mut stdout = BufReader::new(stdout.ok_or_else(|| SandboxError::NotReady(name.to_owned()))?).lines();
        let ready = timeout(READY_WITHIN, async {
            loop {
                tokio::select! {
                    line = stdout.next_line() => return line.ok().flatten(),
                    Some(line) = self.written.recv() => tell(line),
                }
            }
        });
        match ready.await {
            Ok(Some(line)) => {
                tell(Line::of(name, &line));
                Ok(line)
            }
            Ok(None) | Err(_) => {
                while let Some(line) = self.line_now() {
                    tell(line);
                }
                Err(SandboxError::NotReady(name.to_owned()))
            }
        }
    }
}

impl Line {
    /// A line that no daemon wrote.
    pub(crate) fn by(name: &str, text: &str) -> Line {
        Line { name: name.to_owned(), text: text.to_owned(), is_error: false }
    }

    /// Writes it, with who wrote it.
    pub(crate) fn show(&self, out: &mut impl Write) {
        // A terminal that is gone ends what it shows soon enough.
        drop(writeln!(out, "{:>18} │ {}", self.name, self.text));
    }

    /// A line of a daemon's JSON log, for people; anything else as it is.
    fn of(name: &str, line: &str) -> Line {
        let name = name.to_owned();
        let Ok(Value::Object(entry)) = serde_json::from_str(line) else {
            return Line::by(&name, line);
        };
        let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        let fields = entry.get("fields").and_then(Value::as_object);
        let message = fields.and_then(|fields| fields.get("message")).map(text).unwrap_or_default();
        let fields = fields.into_iter().flatten().filter(|(name, _)| *name != "message");
        let fields: String = fields.map(|(name, value)| format!("  {name}={}", text(value))).collect();
        let level = entry.get("level").and_then(Value::as_str);
        let shown = level.filter(|level| *level != "INFO").map(|level| format!("{level} ")).unwrap_or_default();
        Line { name, text: format!("{shown}{message}{fields}"), is_error: level == Some("ERROR") }
    }
}

pub(crate) fn failed(what: &str) -> impl FnOnce(io::Error) -> SandboxError {
    let what = format!("cannot {what}");
    move |source| SandboxError::Io { what, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_the_log_is_shown_without_its_machinery() {
        let line = r#"{"timestamp":"x","level":"INFO","fields":{"message":"server registered","id":"gate-1"},"target":"muster::master"}"#;
        assert_eq!(Line::of("m", line).text, "server registered  id=gate-1");
        let line = Line::of("m", r#"{"level":"ERROR","fields":{"message":"odd","n":3}}"#);
        assert_eq!((line.text.as_str(), line.is_error), ("ERROR odd  n=3", true));
        assert_eq!(Line::of("m", "thread panicked").text, "thread panicked");
    }
}
