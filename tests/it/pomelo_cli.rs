//! Every command of pomelo-cli, typed on a terminal: on our master with our monitors and with servers of pomelo, and on an
//! original master with our monitors.

use std::net::SocketAddr;

use muster_tests::cli::muster;
use muster_tests::daemon::{Daemon, Setup};
use muster_tests::deadline::{ANSWER, PROCESS, eventually};
use muster_tests::node::Node;
use muster_tests::peer::Peer;
use muster_tests::ports::free_port;
use muster_tests::pty::{PomeloCli, Terminal};
use serde_json::json;

/// Who serves and who is served.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Fleet {
    /// Our master and our monitors.
    Ours,
    /// Our master and servers of pomelo.
    Servers,
    /// An original master and our monitors.
    Master,
}

/// What is typed, what is asked back, and what must appear.
struct Step {
    line: &'static str,
    question: Option<&'static str>,
    /// By fleet, in the order of [`Fleet`]; empty for what cannot be typed there without harm.
    shown: [&'static str; 3],
}

const fn step(line: &'static str, shown: &'static str) -> Step {
    Step { line, question: None, shown: [shown; 3] }
}

const fn differing(line: &'static str, shown: [&'static str; 3]) -> Step {
    Step { line, question: None, shown }
}

const fn confirmed(line: &'static str, question: &'static str, shown: &'static str) -> Step {
    Step { line, question: Some(question), shown: [shown; 3] }
}

const DISABLED: &str = "command disable module __console__ ok";
const ENABLED: &str = "command enable module __console__ ok";

/// All verbs, and what they do in the wrong place. Those that end servers come apart.
const STEPS: [Step; 44] = [
    step("help", "List of all Pomelo commands"),
    step("?", "List of all Pomelo commands"),
    step("help show", "you can show following informations"),
    step("bogus", "unknow command : bogus"),
    step("show servers", "chat-server-1"),
    step("show connections", "totalConnCount"),
    step("show modules", "watchServer"),
    step("show status", "not used in this context"),
    step("get name", "not used in this context"),
    step("use nobody-1", "not in pomelo clusters"),
    step("use connector-server-1", "switch to server: connector-server-1"),
    step("show connections", "connector-server-1"),
    step("show logins", "no user logined in this connector"),
    step("show config connector", "heartbeat"),
    step("show config master", "no config to master in app.js"),
    step("use chat-server-1", "switch to server: chat-server-1"),
    // pomelo's own servers ask the program ps for it, and say nothing without it.
    differing("show status", ["cpuAvg", "chat-server-1>", "cpuAvg"]),
    differing("show settings", ["interop", "muster-peers", "interop"]),
    step("show components", "chat-server-1>"),
    step("show proxy", "chat-server-1>"),
    step("show handler", "chat-server-1>"),
    step("show connections", "should be applied to frontend server"),
    differing("get name", ["interop", "muster-peers", "interop"]),
    step("set kk vv", "set kk:vv ok"),
    step("get kk", "vv"),
    step("enable app foo", "enable foo ok"),
    step("get foo", "true"),
    step("disable app foo", "disable foo ok"),
    // The original tells a setting that is false and one that is not there alike.
    step("get foo", "null"),
    differing("disable module __console__", [DISABLED, DISABLED, ""]),
    differing("enable module __console__", [ENABLED, ENABLED, ""]),
    step("enable module nothing", "command enable module nothing bad"),
    step("run 40+2", "42"),
    // Neither the servers nor the master of this application have the module.
    differing("exec SCRIPT", ["chat-server-1 says so", "unknown moduleId:scripts", "unknown moduleId:scripts"]),
    step("exec /nowhere/script.js", "exec command script filepath error"),
    step("dump cpu /nowhere/x 1", "cpu dump is unused in 1.0 of pomelo"),
    step("dump memory /nowhere/x", "chat-server-1>"),
    step("use all", "switch to server: all"),
    confirmed("blacklist 10.1.2.3", "add this blacklist", "all>"),
    confirmed("addCron id=8 serverId=chat-server-1 'time=0 30 10 * * *' action=chatCron.send", "add this cron", "all>"),
    confirmed("removeCron id=8 serverId=chat-server-1", "[yes/no]", "all>"),
    // The original starts a useless process.
    Step {
        line: "add host=127.0.0.1",
        question: Some("add this server"),
        shown: ["Miss necessary server parameters.", "Miss necessary server parameters.", ""],
    },
    confirmed("stop nobody-1", "stop this server", "Cannot find the server to stop."),
    step("show servers", "chat-server-1"),
];

/// Types everything, and stops one server.
async fn everything(fleet: Fleet, master: SocketAddr, script: &str) -> Terminal {
    let mut cli = PomeloCli::start(master, "admin", "all").await;
    for Step { line, question, shown } in &STEPS {
        let shown = shown[fleet as usize];
        if !shown.is_empty() {
            cli.run(&line.replace("SCRIPT", script), *question, shown).await;
        }
    }
    if fleet == Fleet::Master {
        // It starts a process, which ends with all others.
        let line = format!("add host=127.0.0.1 port={} serverType=chat id=chat-server-9", free_port());
        cli.run(&line, Some("add this server"), "all>").await;
        let there = muster(&["server", "wait", "chat-server-9", "--master", &master.to_string()]).await;
        assert_eq!(there.code, 0, "{there:?}");
    }
    let mut other = PomeloCli::start(master, "admin", "all").await;
    other.type_line("quit");
    assert!(other.ended().await.success());

    cli.run("stop chat-server-1", Some("stop this server"), "all>").await;
    cli
}

/// Stops all. Whoever was stopped before has to have ended: a server that leaves with the order in its hands is waited for,
/// since it may come back.
async fn kill_the_others(mut cli: Terminal, master: SocketAddr) {
    gone(master, "chat-server-1").await;
    kill(&mut cli).await;
}

async fn gone(master: SocketAddr, id: &str) {
    let done = muster(&["server", "wait", id, "--gone", "--master", &master.to_string()]).await;
    assert_eq!(done.code, 0, "{done:?}");
}

async fn kill(cli: &mut Terminal) {
    cli.type_line("kill");
    cli.wait_for("kill all servers").await;
    cli.type_line("yes");
    cli.wait_for("all>").await;
}

async fn monitor(master: SocketAddr, server_type: &str) -> Daemon {
    let id = format!("{server_type}-server-1");
    let setup = Setup::monitor(master, &id, server_type).plugins(&["watch_server", "console", "scripts"]);
    let setup = setup.info("host", "127.0.0.1").info("port", "4050").set("app.settings.name", "interop");
    let setup = setup.set("modules.watchServer.run", "true").set("modules.scripts.enabled", "true");
    let setup = match server_type {
        "connector" => setup.info("frontend", "true").set("app.settings.connectorConfig", r#"{"heartbeat":3}"#),
        _ => setup,
    };
    let monitor = setup.start().await;
    monitor.wait_registered().await;
    monitor
}

async fn server(master: SocketAddr, server_type: &str) -> Node {
    let id = format!("id={server_type}-server-1");
    let (kind, port) = (format!("serverType={server_type}"), format!("port={}", free_port()));
    let mut arguments = vec![id, "host=127.0.0.1".to_owned(), kind, port];
    if server_type == "connector" {
        arguments.extend([format!("clientPort={}", free_port()), "frontend=true".to_owned()]);
    }
    let server = Node::pomelo(master, &arguments).await;
    server.event("started").await;
    server
}

async fn our_master() -> Daemon {
    let master = Setup::master().plugins(&["watch_server", "console", "scripts", "watchdog"]);
    let master = master.set("modules.watchServer.run", "true").set("modules.scripts.enabled", "true").start().await;
    let mut admin = Peer::admin(master.address(), "observer").await;
    let looking = tokio::sync::Mutex::new(&mut admin);
    eventually("the master's own monitor is there", ANSWER, async || {
        let listed = looking.lock().await.request("__console__", json!({"signal": "list"})).await;
        listed["body"]["msg"].get("master-server-1").cloned()
    })
    .await;
    master
}

fn script() -> (tempfile::TempDir, String) {
    let place = tempfile::tempdir().expect("a temporary directory can be made");
    let file = place.path().join("script.js");
    std::fs::write(&file, "result = app.serverId + ' says so'").expect("a temporary file can be written");
    let path = file.display().to_string();
    (place, path)
}

#[tokio::test]
async fn pomelo_cli_has_all_its_commands_on_our_master_with_our_monitors() {
    let mut master = our_master().await;
    let (mut connector, mut chat) =
        (monitor(master.address(), "connector").await, monitor(master.address(), "chat").await);
    let (_place, script) = script();
    let cli = everything(Fleet::Ours, master.address(), &script).await;
    assert_eq!(chat.wait(PROCESS).await.code(), Some(0));
    kill_the_others(cli, master.address()).await;
    for daemon in [&mut connector, &mut master] {
        assert_eq!(daemon.wait(PROCESS).await.code(), Some(0));
    }
}

#[tokio::test]
async fn pomelo_cli_has_all_its_commands_on_our_master_with_original_servers() {
    let mut master = our_master().await;
    let (connector, chat) = (server(master.address(), "connector").await, server(master.address(), "chat").await);
    let (_place, script) = script();
    let cli = everything(Fleet::Servers, master.address(), &script).await;
    chat.wait(PROCESS).await;
    kill_the_others(cli, master.address()).await;
    connector.wait(PROCESS).await;
    assert_eq!(master.wait(PROCESS).await.code(), Some(0));
}

#[tokio::test]
async fn pomelo_cli_has_all_its_commands_on_an_original_master_with_our_monitors() {
    let (node, address) = Node::pomelo_master().await;
    let (mut connector, mut chat) = (monitor(address, "connector").await, monitor(address, "chat").await);
    let (_place, script) = script();
    let cli = everything(Fleet::Master, address, &script).await;
    assert_eq!(chat.wait(PROCESS).await.code(), Some(0));
    kill_the_others(cli, address).await;
    assert_eq!(connector.wait(PROCESS).await.code(), Some(0));
    node.wait(PROCESS).await;
}

/// Apart, because an original master that forwards the command breaks its own monitor (Q18), and waits for it ever after.
#[tokio::test]
async fn pomelo_cli_switches_modules_of_our_monitors_through_an_original_master() {
    let (_node, address) = Node::pomelo_master().await;
    let chat = monitor(address, "chat").await;
    let mut cli = PomeloCli::start(address, "admin", "all").await;
    cli.run("use chat-server-1", None, "switch to server: chat-server-1").await;
    cli.run("disable module __console__", None, DISABLED).await;
    cli.run("enable module __console__", None, ENABLED).await;
    chat.shutdown().await;
}
