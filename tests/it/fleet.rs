//! Masters that start servers: those of an original application, and monitors that wrap a program.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use muster_tests::config::ConfigDir;
use muster_tests::daemon::{Daemon, Setup, binary};
use muster_tests::deadline::{PROCESS, eventually, within};
use muster_tests::node::{peers_dir, pomelo_app};
use muster_tests::operator::Operator;
use muster_tests::ports::free_port;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tempfile::TempDir;

const CHAT: &str = "chat-server-1";
const GATE: &str = "gate-server-1";
const PLUGINS: [&str; 4] = ["console", "watchdog", "watch_server", "echo"];

/// Time for two programs in a row to start and end on a busy machine.
const TWICE: std::time::Duration = PROCESS.saturating_mul(2);

/// A fleet on a machine: whatever a test leaves of it ends with it.
struct Fleet {
    operator: Operator,
}

impl Fleet {
    async fn of(master: &Daemon) -> Self {
        Self { operator: Operator::log_in(master.address()).await }
    }

    /// The process that is registered under this id.
    async fn pid(&mut self, id: &str) -> Option<u64> {
        self.operator.order(json!({"signal": "list"})).await["body"]["msg"][id]["pid"].as_u64()
    }

    /// Waits for another process than `not` under this id.
    async fn up(&mut self, id: &str, not: Option<u64>) -> u64 {
        let fleet = tokio::sync::Mutex::new(self);
        eventually(&format!("{id} is up, and not as {not:?}"), TWICE, async || {
            fleet.lock().await.pid(id).await.filter(|pid| Some(*pid) != not)
        })
        .await
    }

    async fn order(&mut self, order: Value) -> Value {
        let what = format!("{order}");
        within(&what, TWICE, async {
            let id = {
                let mut order = order;
                order["clientId"] = "client-operator".into();
                self.operator.client().send_request("__console__", order).await
            };
            self.operator.client().response_within(id, TWICE).await
        })
        .await
    }

    async fn programs(&mut self) -> Value {
        self.order(json!({"signal": "program"})).await["body"]["programs"].clone()
    }

    /// Stops all servers, and waits for the end of their processes.
    async fn stop(mut self, master: Daemon, pids: &[u64]) -> TempDir {
        let servers = self.programs().await;
        let ids: Vec<&String> = servers.as_object().expect("an object").keys().collect();
        for id in ids {
            self.order(json!({"signal": "stop", "ids": [id]})).await;
        }
        for pid in pids {
            eventually(&format!("{pid} has ended"), TWICE, async || (!runs(*pid)).then_some(())).await;
        }
        master.shutdown().await
    }
}

/// Whether a process runs; one that ended and was not waited for does not.
fn runs(pid: u64) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"));
    stat.is_ok_and(|stat| stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with('Z')))
}

fn kill(pid: u64) {
    let pid = Pid::from_raw(i32::try_from(pid).expect("pids are small")).expect("pids are not zero");
    kill_process(pid, Signal::KILL).expect("a process of this user can be killed");
}

fn quick(setup: Setup) -> Setup {
    setup.set("program.restart_first", "10ms").set("program.restart_longest", "50ms")
}

/// An original application with a gate and a chat server, and a master that starts its servers.
fn pomelo(more: &Value) -> (TempDir, Setup) {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()));
    let app = pomelo_app(address);
    let mut chat = json!({"id": CHAT, "host": "127.0.0.1", "port": free_port()});
    for (name, value) in more.as_object().expect("fields") {
        chat[name] = value.clone();
    }
    let gate = json!({"id": GATE, "host": "127.0.0.1", "clientPort": free_port(), "frontend": true});
    let servers = json!({"development": {"gate": [gate], "chat": [chat]}});
    std::fs::write(app.path().join("config/servers.json"), servers.to_string()).expect("a file can be written");
    let modules = peers_dir().join("node_modules").display().to_string();
    let setup = Setup::master().plugins(&PLUGINS).listen(address).config_dir(&app.path().join("config"));
    (app, quick(setup.variable("NODE_PATH", &modules)))
}

/// A master whose servers are monitors that wrap `script`, as `muster.toml` may describe them.
fn wrapping(script: &str, servers: &Value) -> (TempDir, Setup) {
    let state = TempDir::with_prefix("muster-test-servers-").expect("a temporary directory can be made");
    let setup = wrapping_at(SocketAddr::from((Ipv4Addr::LOCALHOST, free_port())), state.path(), script, servers);
    (state, setup)
}

/// The same at an address, with what the servers keep in a directory.
fn wrapping_at(address: SocketAddr, state: &Path, script: &str, servers: &Value) -> Setup {
    let command = json!([
        binary(),
        "monitor",
        "--master",
        address.to_string(),
        "--id",
        "{id}",
        "--type",
        "{serverType}",
        "--token",
        "token-for-{serverType}",
        "--info",
        "host={host}",
        "--state-dir",
        state.join("state"),
        "--plugins",
        state.join("plugins"),
        "--",
        "sh",
        "-c",
        script
    ]);
    let plugins = state.join("plugins");
    std::fs::create_dir_all(&plugins).expect("a directory can be made");
    for name in ["console", "watchdog"] {
        let file = format!("{name}.so");
        std::fs::copy(muster_tests::daemon::plugin_file(name), plugins.join(file)).expect("a plugin can be copied");
    }
    let setup = Setup::master().plugins(&PLUGINS).listen(address).set("start.command", &command.to_string());
    quick(setup.set("fleet", &servers.to_string()))
}

fn chat(more: &[(&str, Value)]) -> Value {
    let mut chat = json!({"id": CHAT, "host": "127.0.0.1"});
    for (name, value) in more {
        chat[*name] = value.clone();
    }
    json!({"chat": [chat]})
}

#[tokio::test]
async fn an_original_application_is_started_and_a_server_of_it_restarted_and_stopped() {
    let (_app, setup) = pomelo(&json!({"cpu": "0"}));
    let master = setup.argument("--start", "all").start().await;
    let mut fleet = Fleet::of(&master).await;
    let (gate, chat) = (fleet.up(GATE, None).await, fleet.up(CHAT, None).await);
    let status = std::fs::read_to_string(format!("/proc/{chat}/status")).expect("it runs");
    let allowed = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:")).map(str::trim);
    assert_eq!(allowed, Some("0"), "it is bound to its processor");
    let words = std::fs::read_to_string(format!("/proc/{chat}/cmdline")).expect("it runs").replace('\0', " ");
    assert!(words.starts_with("node app.js env=development id=chat-server-1 host=127.0.0.1 port="), "{words}");

    assert_eq!(fleet.order(json!({"signal": "restart", "ids": [CHAT]})).await["body"], json!([]));
    let again = fleet.up(CHAT, Some(chat)).await;
    assert!(!runs(chat));
    let outcomes = fleet.order(json!({"signal": "restart", "ids": ["nobody-1"], "detail": true})).await;
    assert_eq!(outcomes["body"]["outcomes"]["nobody-1"]["outcome"], "unreachable");
    fleet.stop(master, &[gate, again]).await;
}

#[tokio::test]
async fn an_original_server_is_added_if_its_port_is_free() {
    let (_app, setup) = pomelo(&json!({}));
    let master = setup.start().await;
    let mut fleet = Fleet::of(&master).await;
    let args = |id: &str, port: u16| {
        let args = [format!("id={id}"), format!("port={port}"), "host=127.0.0.1".into(), "serverType=chat".into()];
        json!({"signal": "add", "args": args})
    };
    let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("there is a free port");
    let port = taken.local_addr().expect("it is bound").port();
    let busy = fleet.order(args("chat-server-7", port)).await;
    assert_eq!(busy["error"]["message"], "Port occupied already, check your server to add.");

    assert_eq!(fleet.order(args("chat-server-7", free_port())).await["body"], json!({"status": "ok"}));
    let pid = fleet.up("chat-server-7", None).await;
    let twice = fleet.order(args("chat-server-7", free_port())).await;
    assert!(twice["error"]["message"].as_str().is_some_and(|text| text.contains("runs already")), "{twice}");
    fleet.stop(master, &[pid]).await;
}

#[tokio::test]
async fn an_original_server_that_crashed_is_started_again_if_it_wants_that() {
    let (_app, setup) = pomelo(&json!({"auto-restart": "true"}));
    let master = setup.argument("--start", "chat").start().await;
    let mut fleet = Fleet::of(&master).await;
    let first = fleet.up(CHAT, None).await;
    assert_eq!(fleet.pid(GATE).await, None, "only what was asked for is started");
    kill(first);
    let second = fleet.up(CHAT, Some(first)).await;
    let told = fleet.programs().await[CHAT].clone();
    assert_eq!((&told["state"], &told["pid"]), (&json!("running"), &json!(second)));

    // What was ordered to stop stays away.
    fleet.order(json!({"signal": "stop", "ids": [CHAT]})).await;
    let fleet = tokio::sync::Mutex::new(fleet);
    let ended = eventually("it has ended", TWICE, async || {
        let told = fleet.lock().await.programs().await[CHAT].clone();
        (told["state"] == "ended").then_some(told)
    })
    .await;
    assert!(!runs(second), "{ended}");
    assert_eq!(master.log().matches("nobody ordered it").count(), 1, "{}", master.log());
    fleet.into_inner().stop(master, &[]).await;
}

#[tokio::test]
async fn any_program_is_a_server_and_several_are_added_at_once() {
    let (_state, setup) = wrapping("exec sleep 600", &json!({}));
    let master = setup.start().await;
    let mut fleet = Fleet::of(&master).await;
    let args = json!(["host=127.0.0.1", format!("port={}", "1++"), "serverType=chat", "clusterCount=2"]);
    let answer = fleet.order(json!({"signal": "add", "args": args})).await;
    assert_eq!(answer["body"], json!([]), "the list of those that failed: {answer}");
    let first = fleet.up("cluster-server-chat-0", None).await;
    let second = fleet.up("cluster-server-chat-1", None).await;
    assert_eq!(fleet.order(json!({"signal": "restart", "ids": [], "type": "chat"})).await["body"], json!([]));
    let (third, fourth) =
        (fleet.up("cluster-server-chat-0", Some(first)).await, fleet.up("cluster-server-chat-1", Some(second)).await);
    fleet.stop(master, &[first, second, third, fourth]).await;
}

#[tokio::test]
async fn a_master_that_was_killed_knows_its_servers_when_it_is_back() {
    let servers = chat(&[("auto-restart", json!(true))]);
    let place = TempDir::with_prefix("muster-test-servers-").expect("a temporary directory can be made");
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()));
    let setup = || wrapping_at(address, place.path(), "exec sleep 600", &servers);
    let first = setup().argument("--start", "all").start().await;
    let mut fleet = Fleet::of(&first).await;
    let program = fleet.up(CHAT, None).await;
    drop(fleet);
    let state = first.kill().await;
    assert!(runs(program), "servers do not end because their master does");

    let second = setup().state(state).argument("--start", "all").start().await;
    let mut fleet = Fleet::of(&second).await;
    assert_eq!(fleet.up(CHAT, None).await, program, "it was not started twice");
    // It still starts again what it has not started in this life: the monitor that wraps the program.
    let parent = std::fs::read_to_string(format!("/proc/{program}/stat")).expect("it runs");
    let parent = parent.rsplit_once(") ").and_then(|(_, rest)| rest.split(' ').nth(1)).expect("a parent");
    kill(parent.parse().expect("a process id"));
    eventually("the monitor is started again", TWICE, async || {
        second.log().contains("the server was started again").then_some(())
    })
    .await;
    assert_eq!(fleet.up(CHAT, None).await, program, "and it has found its program");
    fleet.stop(second, &[program]).await;
}

#[tokio::test]
async fn a_server_that_cannot_start_is_given_up_and_why_is_told() {
    let servers = chat(&[("restart-force", json!("true"))]);
    let (_state, setup) = wrapping("", &servers);
    let setup = setup.set("program.restart_limit", "2");
    let broken = json!(["sh", "-c", "echo 'no such table' >&2; exit 4"]).to_string();
    let master = setup.set("start.command", &broken).argument("--start", CHAT).start().await;
    master.wait_log("gone too often").await;
    let mut fleet = Fleet::of(&master).await;
    let told = fleet.programs().await[CHAT].clone();
    assert_eq!((&told["state"], &told["lastEnd"]["code"]), (&json!("ended"), &json!(4)));
    assert_eq!(told["lastEnd"]["stderr"], json!(["no such table"]));
    fleet.stop(master, &[]).await;
}

// === FAULTS row 30 ===

#[tokio::test]
async fn row_30_nothing_of_an_order_to_add_is_read_by_a_shell_or_taken_for_an_option() {
    let (_state, setup) = wrapping("", &json!({}));
    let setup = setup.set("start.command", "[\"true\", \"{fields}\"]");
    let master = setup.start().await;
    let canary = master.state_dir().join("canary");
    let touch = format!("touch {}", canary.display());
    let mut fleet = Fleet::of(&master).await;
    for (name, value, expected) in [
        ("port", format!("1;{touch}"), "expected a port"),
        ("host", format!("-oProxyCommand={touch}"), "no host"),
        ("host", format!("127.0.0.1;{touch}"), "no host"),
        ("cpu", format!("1;{touch}"), "expected processors"),
    ] {
        let mut fields = vec![("id", "x"), ("host", "127.0.0.1"), ("port", "1"), ("serverType", "chat")];
        fields.retain(|(known, _)| *known != name);
        fields.push((name, &value));
        // What follows a second = is lost, so that it is put differently.
        let args: Vec<String> =
            fields.iter().map(|(name, value)| format!("{name}={}", value.replace('=', " "))).collect();
        let answer = fleet.order(json!({"signal": "add", "args": args})).await;
        let text = answer["error"]["message"].as_str().unwrap_or_default();
        assert!(text.contains(expected), "{name}={value}: {answer}");
    }
    // What is no port, host or processor is a word, whatever is in it.
    let args = json!(["id=y", "host=127.0.0.1", "port=1", "serverType=chat", format!("x=$({touch});{touch}")]);
    assert_eq!(fleet.order(json!({"signal": "add", "args": args})).await["body"], json!({"status": "ok"}));
    eventually("it has ended", PROCESS, async || master.log().contains("the program ended").then_some(())).await;
    assert!(!canary.exists());
    fleet.stop(master, &[]).await;
}

#[tokio::test]
async fn a_server_on_another_machine_is_started_through_ssh_and_its_shell_reads_words_only() {
    // In place of ssh: writes down its words, and has a shell read the last one as the one on the other side would.
    let dir = TempDir::with_prefix("muster-test-ssh-").expect("a temporary directory can be made");
    let ssh = dir.path().join("ssh");
    let script = "#!/bin/sh\nprintf '%s\\n' \"$1\" \"$2\" \"$3\" > words\nfor last; do :; done\nexec sh -c \"$last\"\n";
    std::fs::write(&ssh, script).expect("a file can be written");
    std::fs::set_permissions(&ssh, std::fs::Permissions::from_mode(0o755)).expect("its mode can be changed");
    let started = dir.path().join("started");
    let command =
        json!(["sh", "-c", "printf '%s\\n' \"$@\" > \"$0\".part; mv \"$0\".part \"$0\"", started, "{fields}"]);
    let setup =
        Setup::master().plugins(&PLUGINS).config(ConfigDir::recorded()).set("start.command", &command.to_string());
    let setup = setup.set("start.ssh", &json!([ssh, "-v"]).to_string());
    let master = setup.set("start.dir", &dir.path().display().to_string()).start().await;
    let mut fleet = Fleet::of(&master).await;
    // Nobody has this address; so nobody is asked whether the port is free either, for longer than two seconds.
    let odd = "it's $(touch canary) & \"so\" on";
    let args = json!(["id=far-1", "host=192.0.2.1", "port=1", "serverType=chat", format!("x={odd}")]);
    assert_eq!(fleet.order(json!({"signal": "add", "args": args})).await["body"], json!({"status": "ok"}));
    let words = text(&started).await;
    let expected = format!("id=far-1\nhost=192.0.2.1\nport=1\nserverType=chat\nx={odd}\n");
    assert_eq!(words, expected);
    assert_eq!(text(&master.state_dir().join("words")).await, "-v\n--\n192.0.2.1\n");
    assert!(!dir.path().join("canary").exists());
    fleet.stop(master, &[]).await;
}

async fn text(path: &Path) -> String {
    eventually(&format!("{}", path.display()), PROCESS, async || {
        std::fs::read_to_string(path).ok().filter(|text| text.ends_with('\n'))
    })
    .await
}
