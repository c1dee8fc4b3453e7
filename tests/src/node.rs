//! The original programs, in processes of their own, told by lines of JSON what to do.
//!
//! `tests/node/install.sh` puts the packages into a directory outside the source tree, where the scripts
//! of `tests/node` find them through `NODE_PATH`.

use std::ffi::OsStr;
use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::AsyncWriteExt;
use tokio::process::{Child, ChildStdin, Command};
use tokio::sync::Mutex;

use crate::config::ConfigDir;
use crate::deadline::{ANSWER, PROCESS, within};
use crate::output::Output;
use crate::ports::free_port;

/// Directory in which the packages are installed.
pub fn peers_dir() -> PathBuf {
    let home = || PathBuf::from(std::env::var_os("HOME").expect("HOME is set"));
    let cache = || std::env::var_os("XDG_CACHE_HOME").map_or_else(|| home().join(".cache"), PathBuf::from);
    let dir = std::env::var_os("MUSTER_PEERS").map_or_else(|| cache().join("muster-peers"), PathBuf::from);
    let installed = dir.join("node_modules/pomelo-admin");
    assert!(installed.exists(), "{} is missing; tests/node/install.sh installs it", installed.display());
    dir
}

/// `node SCRIPT ARGUMENTS…`, with the packages in reach.
pub(crate) fn command(script: &Path) -> Command {
    let mut command = Command::new("node");
    command.arg(script).env("NODE_PATH", peers_dir().join("node_modules")).kill_on_drop(true);
    command
}

/// Path of a script in `tests/node`.
pub fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("node").join(name)
}

/// A copy of the small pomelo application in `tests/node/pomelo-app`, whose master is at `master`.
pub fn pomelo_app(master: SocketAddr) -> TempDir {
    let app = TempDir::with_prefix("muster-pomelo-").expect("a temporary directory can be made");
    copy_dir(script("pomelo-app"), app.path());
    let place = json!({"id": "master-server-1", "host": "127.0.0.1", "port": master.port()});
    let file = app.path().join("config/master.json");
    std::fs::write(file, json!({"development": place}).to_string()).expect("a temporary file can be written");
    app
}

/// A Node process. It is killed when dropped, for the originals never end by themselves.
pub struct Node {
    name: String,
    child: Mutex<Child>,
    stdin: Mutex<ChildStdin>,
    /// Our lines of JSON, one a line; logs of the packages stand between them.
    stdout: Output,
    stderr: Output,
    calls: AtomicU64,
    /// Kept until the process is gone.
    _dirs: (Option<ConfigDir>, Option<TempDir>),
}

impl fmt::Debug for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Node").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.stdout.show_if_panicking();
        self.stderr.show_if_panicking();
    }
}

// === The programs ===

impl Node {
    /// The original master with the fixture modules, on a port of its choice. Schedules are in seconds, 0 = none.
    pub async fn master(config: ConfigDir, options: Value) -> (Self, SocketAddr) {
        let dir = config.path();
        let mut node = Self::spawn("node master", command(&script("master.js")).arg(dir).arg(options.to_string()));
        node._dirs.0 = Some(config);
        let port = node.event("listening").await["port"].as_u64().and_then(|port| u16::try_from(port).ok());
        let port = port.expect("the master says its port");
        (node, SocketAddr::from((Ipv4Addr::LOCALHOST, port)))
    }

    /// An original monitor with the fixture modules; `options` has `id`, `type`, and may have `info`, `token` and
    /// the schedules. It tells `registered` as an event.
    pub async fn monitor(master: SocketAddr, options: Value) -> Self {
        let mut command = command(&script("monitor.js"));
        command.arg(master.port().to_string()).arg(options.to_string());
        Self::spawn(&format!("node monitor {}", options["id"]), &mut command)
    }

    /// An original client that has not connected yet: `{"do":"connect","id":…,"username":…,"password":…,"md5":…}`.
    pub async fn client(master: SocketAddr) -> Self {
        Self::spawn("node client", command(&script("client.js")).arg(master.port().to_string()))
    }

    /// An original client that has logged in as `user`, whose password is the user's name.
    pub async fn logged_in(master: SocketAddr, id: &str, user: &str) -> Self {
        let client = Self::client(master).await;
        let login = json!({"do": "connect", "id": id, "username": user, "password": user, "md5": true});
        assert_eq!(client.call(login).await, json!({"error": null}), "{id}: login");
        client
    }

    /// A server of the small pomelo application in `tests/node/pomelo-app`, whose master is at `master`.
    /// `arguments` are those of pomelo, such as `id=chat-server-1`.
    pub async fn pomelo(master: SocketAddr, arguments: &[String]) -> Self {
        let app = pomelo_app(master);
        let mut command = command(&app.path().join("app.js"));
        command.arg("env=development").args(arguments).current_dir(app.path());
        let mut node = Self::spawn(&format!("pomelo {}", arguments.join(" ")), &mut command);
        node._dirs.1 = Some(app);
        node
    }

    /// The master of the small pomelo application, with its own monitor, on a free port.
    pub async fn pomelo_master() -> (Self, SocketAddr) {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()));
        let node = Self::pomelo(address, &["startId=master".to_owned()]).await;
        node.event("started").await;
        (node, address)
    }

    /// Starts any command under the same protocol.
    fn spawn(name: &str, command: &mut Command) -> Self {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap_or_else(|error| panic!("{name}: node does not start: {error}"));
        Self {
            name: name.to_owned(),
            stdin: Mutex::new(child.stdin.take().expect("stdin is piped")),
            stdout: Output::collect(format!("{name}, stdout"), child.stdout.take().expect("stdout is piped")),
            stderr: Output::collect(format!("{name}, stderr"), child.stderr.take().expect("stderr is piped")),
            child: Mutex::new(child),
            calls: AtomicU64::new(0),
            _dirs: (None, None),
        }
    }
}

// === Talking to it ===

impl Node {
    /// Has the script do something and returns the `result`.
    pub async fn call(&self, order: Value) -> Value {
        let number = self.order(order).await;
        self.line(&format!("result of call {number}"), ANSWER, |line| line["call"] == json!(number)).await["result"]
            .clone()
    }

    /// Has the script do something that need not end.
    pub async fn order(&self, mut order: Value) -> u64 {
        let number = self.calls.fetch_add(1, Ordering::Relaxed) + 1;
        order["call"] = json!(number);
        let line = format!("{order}\n");
        let mut stdin = self.stdin.lock().await;
        stdin.write_all(line.as_bytes()).await.unwrap_or_else(|error| panic!("{}: {error}", self.name));
        number
    }

    /// A request to a module, answered by `{"error":…,"body":…}`.
    pub async fn request(&self, module: &str, body: Value) -> Value {
        self.call(json!({"do": "request", "module": module, "body": body})).await
    }

    /// Waits for an event, which may have come already, and returns its line.
    pub async fn event(&self, name: &str) -> Value {
        self.line(&format!("event `{name}`"), PROCESS, |line| line["event"] == name).await
    }

    /// Waits until an event has come `count` times in all.
    pub async fn events(&self, name: &str, count: usize) {
        let enough = |text: &str| (lines(text).filter(|line| line["event"] == name).count() >= count).then_some(());
        self.stdout.find(&format!("event `{name}`, {count} times"), PROCESS, enough).await;
    }

    /// How often an event has come so far.
    pub fn count(&self, name: &str) -> usize {
        lines(&self.stdout.text()).filter(|line| line["event"] == name).count()
    }

    /// Waits for the process to end by itself.
    pub async fn wait(&self, limit: Duration) -> ExitStatus {
        let mut child = self.child.lock().await;
        let status = within(&format!("{}: end of the process", self.name), limit, child.wait()).await;
        status.expect("a child can be waited for")
    }

    /// Whether the process is still there.
    pub async fn is_running(&self) -> bool {
        self.child.lock().await.try_wait().expect("a child can be asked").is_none()
    }

    /// Kills the process without warning.
    pub async fn kill(&self) {
        self.child.lock().await.kill().await.expect("a child can be killed");
    }

    async fn line(&self, what: &str, limit: Duration, wanted: impl Fn(&Value) -> bool) -> Value {
        self.stdout.find(what, limit, |text| lines(text).find(|line| wanted(line))).await
    }
}

/// The lines of JSON among what a process has written.
fn lines(text: &str) -> impl Iterator<Item = Value> {
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    whole.lines().filter(|line| line.starts_with('{')).filter_map(|line| serde_json::from_str(line).ok())
}

fn copy_dir(from: impl AsRef<OsStr>, to: &Path) {
    for entry in std::fs::read_dir(Path::new(&from)).expect("the application is part of the source tree") {
        let entry = entry.expect("a directory can be read");
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            std::fs::create_dir_all(&target).expect("a temporary directory can be made");
            copy_dir(entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).expect("a file can be copied");
        }
    }
}
