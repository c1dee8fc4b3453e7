//! The program under test as a daemon: a master or a monitor, in a process of its own.

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::process::{Child, Command};

use crate::config::{ConfigDir, token_for};
use crate::deadline::{PROCESS, within};
use crate::output::Output;

/// Plugins that the recordings need on the master: the fixture modules, and the product's own.
pub const RECORDED_PLUGINS: [&str; 6] = ["time_report", "push_report", "echo", "no_handlers", "watchdog", "console"];

/// The modules of PROTOCOL 18 alone: what the recordings had that are not of a pomelo application. Nobody watched there
/// who comes and goes.
pub const FIXTURE_PLUGINS: [&str; 4] = ["time_report", "push_report", "echo", "no_handlers"];

/// Where cargo leaves what it builds.
pub fn target_dir() -> PathBuf {
    match std::env::var_os("CARGO_TARGET_DIR") {
        Some(dir) => PathBuf::from(dir),
        None => Path::new(env!("CARGO_MANIFEST_DIR")).join("../target"),
    }
}

/// The binary under test: `MUSTER_BIN`, or the release build.
pub fn binary() -> PathBuf {
    let path = std::env::var_os("MUSTER_BIN").map_or_else(|| target_dir().join("release/muster"), PathBuf::from);
    assert!(path.exists(), "{} is missing; `make build` builds it, MUSTER_BIN names another", path.display());
    path
}

/// File of a plugin (`console`) or fixture plugin (`echo`), by its name without ending.
pub fn plugin_file(name: &str) -> PathBuf {
    let file = format!("{name}.so");
    let places = ["plugins", "fixtures"].map(|dir| target_dir().join(dir).join(&file));
    let found = places.iter().find(|path| path.exists());
    found.unwrap_or_else(|| panic!("{file} is missing; `make build fixtures` builds it")).clone()
}

/// How to start a daemon. Each has directories of its own.
#[derive(Debug)]
pub struct Setup {
    role: Role,
    binary: Option<PathBuf>,
    config: Option<ConfigDir>,
    plugins: Vec<String>,
    /// Kept over a restart, if the test hands it on.
    state: Option<TempDir>,
    arguments: Vec<String>,
    /// What a monitor wraps.
    command: Vec<String>,
    variables: Vec<(String, String)>,
    /// The control group that it is started in.
    group: Option<PathBuf>,
}

#[derive(Clone, Debug)]
enum Role {
    Master { listen: SocketAddr },
    Monitor { id: String },
}

impl Setup {
    /// A master on a free port, with the recorded users and tokens, and [`RECORDED_PLUGINS`] without
    /// schedules: tests that want a timer set one.
    pub fn master() -> Self {
        let listen = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut setup = Self::new(Role::Master { listen });
        setup.config = Some(ConfigDir::recorded());
        setup.plugins = RECORDED_PLUGINS.map(str::to_owned).to_vec();
        setup.set("modules.timeReport.interval", "0").set("modules.pushReport.interval", "0")
    }

    /// A monitor with the token of its type, info of its own, and [`RECORDED_PLUGINS`] without schedules.
    pub fn monitor(master: SocketAddr, id: &str, server_type: &str) -> Self {
        let mut setup = Self::new(Role::Monitor { id: id.to_owned() });
        setup.plugins = RECORDED_PLUGINS.map(str::to_owned).to_vec();
        let setup = setup.argument("--master", &master.to_string()).argument("--id", id);
        let setup = setup.argument("--type", server_type).argument("--token", &token_for(server_type));
        setup.set("modules.timeReport.interval", "0").set("modules.pushReport.interval", "0")
    }

    fn new(role: Role) -> Self {
        Self {
            role,
            binary: None,
            config: None,
            plugins: Vec::new(),
            state: None,
            arguments: Vec::new(),
            command: Vec::new(),
            variables: Vec::new(),
            group: None,
        }
    }

    /// Another executable than [`binary`].
    #[must_use]
    pub fn executable(mut self, path: PathBuf) -> Self {
        self.binary = Some(path);
        self
    }

    /// Other configuration files.
    #[must_use]
    pub fn config(mut self, config: ConfigDir) -> Self {
        self.config = Some(config);
        self
    }

    /// Other plugins.
    #[must_use]
    pub fn plugins(mut self, names: &[&str]) -> Self {
        self.plugins = names.iter().map(|name| (*name).to_owned()).collect();
        self
    }

    /// Without these plugins.
    #[must_use]
    pub fn without_plugins(mut self, names: &[&str]) -> Self {
        self.plugins.retain(|plugin| !names.contains(&plugin.as_str()));
        self
    }

    /// With the state that another daemon has left ([`Daemon::shutdown`] hands it out).
    #[must_use]
    pub fn state(mut self, state: TempDir) -> Self {
        self.state = Some(state);
        self
    }

    /// Listens on a port that nobody is given while the master is away: for one that is going to come back.
    #[must_use]
    pub fn on_a_reserved_port(self) -> Self {
        let port = crate::ports::free_port();
        self.listen(SocketAddr::from(([127, 0, 0, 1], port)))
    }

    /// Listens on this address instead of a free port: for a master that comes back. Only masters listen.
    #[must_use]
    pub fn listen(mut self, address: SocketAddr) -> Self {
        self.role = Role::Master { listen: address };
        self
    }

    /// `--set KEY=VALUE`; a later one of the same key counts.
    #[must_use]
    pub fn set(mut self, key: &str, value: &str) -> Self {
        let prefix = format!("{key}=");
        if let Some(old) = self.arguments.iter().position(|argument| argument.starts_with(&prefix)) {
            self.arguments.drain(old - 1..=old);
        }
        self.argument("--set", &format!("{key}={value}"))
    }

    /// Another token than that of its type.
    #[must_use]
    pub fn token(mut self, token: &str) -> Self {
        let place = self.arguments.iter().position(|argument| argument == "--token");
        let place = place.expect("every monitor is given a token");
        token.clone_into(&mut self.arguments[place + 1]);
        self
    }

    /// `--info KEY=VALUE` of a monitor.
    #[must_use]
    pub fn info(self, key: &str, value: &str) -> Self {
        self.argument("--info", &format!("{key}={value}"))
    }

    /// Users and tokens that are somewhere else.
    #[must_use]
    pub fn config_dir(mut self, dir: &Path) -> Self {
        self.config = None;
        self.argument("--config-dir", &dir.display().to_string())
    }

    /// A variable in the environment of the daemon, and of what it starts.
    #[must_use]
    pub fn variable(mut self, name: &str, value: &str) -> Self {
        self.variables.push((name.to_owned(), value.to_owned()));
        self
    }

    /// The program that a monitor wraps: what follows `--`.
    #[must_use]
    pub fn wrapping(mut self, command: &[&str]) -> Self {
        self.command = command.iter().map(|word| (*word).to_owned()).collect();
        self
    }

    /// In a control group (its directory) from the beginning.
    #[must_use]
    pub fn in_group(mut self, group: &Path) -> Self {
        self.group = Some(group.to_owned());
        self
    }

    /// Any option with a value.
    #[must_use]
    pub fn argument(mut self, option: &str, value: &str) -> Self {
        self.arguments.extend([option.to_owned(), value.to_owned()]);
        self
    }

    /// Starts the daemon and waits until it says that it is ready.
    pub async fn start(self) -> Daemon {
        let temporary = |what: &str| {
            TempDir::with_prefix(format!("muster-test-{what}-")).expect("a temporary directory can be made")
        };
        let plugins = temporary("plugins");
        for name in &self.plugins {
            install(plugins.path(), name);
        }
        let state = self.state.unwrap_or_else(|| temporary("state"));
        let name = match &self.role {
            Role::Master { .. } => "muster master".to_owned(),
            Role::Monitor { id } => format!("muster monitor {id}"),
        };
        let executable = self.binary.unwrap_or_else(binary);
        let mut command = match &self.group {
            None => Command::new(executable),
            Some(group) => {
                let mut shell = Command::new("sh");
                shell.args(["-c", r#"echo $$ > "$0" && exec "$@""#]).arg(group.join("cgroup.procs")).arg(executable);
                shell
            }
        };
        match &self.role {
            Role::Master { listen } => command.args(["master", "--listen", &listen.to_string()]),
            Role::Monitor { .. } => command.arg("monitor"),
        };
        if let Some(config) = &self.config {
            command.arg("--config-dir").arg(config.path());
        }
        command.args(["--env", "development"]).arg("--plugins").arg(plugins.path());
        command.arg("--state-dir").arg(state.path()).args(&self.arguments);
        if !self.command.is_empty() {
            command.arg("--").args(&self.command);
        }
        // So that a test never sees what the user of this machine has configured.
        command.envs(self.variables.iter().map(|(name, value)| (name, value)));
        command.env_remove("MUSTER_CONFIG").current_dir(state.path());
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().unwrap_or_else(|error| panic!("{name} does not start: {error}"));
        let stdout = Output::collect(format!("{name}, stdout"), child.stdout.take().expect("stdout is piped"));
        let log = Output::collect(format!("{name}, log"), child.stderr.take().expect("stderr is piped"));
        let mut daemon = Daemon {
            name,
            child: Some(child),
            stdout,
            log,
            address: None,
            plugins,
            state: Some(state),
            _config: self.config,
        };
        daemon.wait_until_ready(&self.role).await;
        daemon
    }
}

/// A daemon that runs. It must be shut down or killed; dropping it while it runs fails the test.
pub struct Daemon {
    name: String,
    child: Option<Child>,
    stdout: Output,
    log: Output,
    address: Option<SocketAddr>,
    plugins: TempDir,
    state: Option<TempDir>,
    _config: Option<ConfigDir>,
}

impl fmt::Debug for Daemon {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Daemon").field("name", &self.name).field("address", &self.address).finish_non_exhaustive()
    }
}

impl Daemon {
    /// Where a master listens.
    pub fn address(&self) -> SocketAddr {
        self.address.unwrap_or_else(|| panic!("{} does not listen", self.name))
    }

    /// Process id.
    pub fn pid(&self) -> u32 {
        self.child.as_ref().and_then(Child::id).unwrap_or_else(|| panic!("{} has ended", self.name))
    }

    /// Resident memory in KiB.
    pub fn rss_kib(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).expect("the daemon runs");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a process has memory");
        let figure = line.trim().trim_end_matches(" kB");
        figure.parse().expect("the kernel writes memory as a number of kB")
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(i32::try_from(self.pid()).expect("pids are small")).expect("pids are not zero");
        rustix::process::kill_process(pid, signal).expect("a child can be signalled");
    }

    /// Puts a plugin into the plugin directory, by rename, so that no half of it is ever seen there.
    pub fn install_plugin(&self, name: &str) {
        install(self.plugins.path(), name);
    }

    /// Its state directory, in which it runs, and what it wraps.
    pub fn state_dir(&self) -> &Path {
        self.state.as_ref().map_or_else(|| panic!("{} has ended", self.name), TempDir::path)
    }

    /// The directory it loads plugins from.
    pub fn plugin_dir(&self) -> &Path {
        self.plugins.path()
    }

    /// Waits until the log contains `needle`.
    pub async fn wait_log(&self, needle: &str) {
        self.log.wait_for(needle, crate::deadline::ANSWER).await;
    }

    /// Waits until a monitor has registered for the first time: it is ready before, since its master may be away.
    pub async fn wait_registered(&self) {
        self.log.wait_for("registered with the master", crate::deadline::PROCESS).await;
    }

    /// The log so far.
    pub fn log(&self) -> String {
        self.log.text()
    }

    /// All of the log of a daemon that has ended.
    pub async fn whole_log(&self) -> String {
        self.log.whole().await
    }

    /// Whether the process is still there.
    pub fn is_running(&mut self) -> bool {
        self.child.as_mut().is_some_and(|child| child.try_wait().expect("a child can be asked").is_none())
    }

    /// Waits for the process to end by itself.
    pub async fn wait(&mut self, limit: Duration) -> ExitStatus {
        let child = self.child.as_mut().unwrap_or_else(|| panic!("{} has ended already", self.name));
        let status = within(&format!("{}: end of the process", self.name), limit, child.wait()).await;
        self.child = None;
        status.expect("a child can be waited for")
    }

    /// Sends SIGTERM, asserts that the daemon ends with exit code 0, and returns its state directory.
    pub async fn shutdown(mut self) -> TempDir {
        self.signal(Signal::TERM);
        let status = self.wait(PROCESS).await;
        assert_eq!(status.code(), Some(0), "{}: exit after SIGTERM; log:\n{}", self.name, self.log.text());
        self.state.take().expect("handed out only here and in kill")
    }

    /// The state directory of a daemon that has ended by itself.
    ///
    /// # Panics
    /// If [`Daemon::wait`] has not seen its end.
    pub fn state_after_end(mut self) -> TempDir {
        assert!(self.child.is_none(), "{} has not ended", self.name);
        self.state.take().expect("handed out at the end")
    }

    /// Kills the process without warning, and returns its state directory.
    pub async fn kill(mut self) -> TempDir {
        self.signal(Signal::KILL);
        self.wait(PROCESS).await;
        self.state.take().expect("handed out only here and in shutdown")
    }

    async fn wait_until_ready(&mut self, role: &Role) {
        let first_line = |text: &str| text.split_once('\n').map(|(line, _)| line.to_owned());
        let child = self.child.as_mut().expect("just started");
        let line = tokio::select! {
            line = self.stdout.find("its first line", PROCESS, first_line) => line,
            status = child.wait() => panic!("{} ended at once: {status:?}; log:\n{}", self.name, self.log.whole().await),
        };
        match role {
            Role::Master { .. } => {
                let address = line.strip_prefix("muster master listening on ").and_then(|text| text.parse().ok());
                let address = address.unwrap_or_else(|| panic!("{} says `{line}` instead of its address", self.name));
                self.address = Some(address);
            }
            Role::Monitor { id } => {
                let start = format!("muster monitor {id}");
                assert!(line.starts_with(&start), "{} says `{line}` when it is ready", self.name);
            }
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.log.show_if_panicking();
        if self.child.is_some() && !std::thread::panicking() {
            panic!("{} was dropped without shutdown() or kill(); log:\n{}", self.name, self.log.text());
        }
    }
}

/// Info that a monitor has by its arguments, as the recordings have it.
pub fn recorded_info(id: &str, server_type: &str, port: u16) -> Value {
    json!({"id": id, "serverType": server_type, "host": "127.0.0.1", "port": port})
}

fn install(dir: &Path, name: &str) {
    let half = dir.join(format!(".{name}.part"));
    let copied =
        std::fs::copy(plugin_file(name), &half).and_then(|_| std::fs::rename(&half, dir.join(format!("{name}.so"))));
    copied.unwrap_or_else(|error| panic!("{name} cannot be installed: {error}"));
}
