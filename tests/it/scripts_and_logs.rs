//! scripts and monitorLog under attack: FAULTS rows 30 and 31. The canary is a file that only a shell, or a path that
//! leads out of the root, could touch or read.

use std::{os::unix::fs::symlink, path::PathBuf};

use muster_tests::{
    cli::muster,
    daemon::{Daemon, Setup},
    deadline::{ANSWER, PROCESS, eventually},
    peer::Peer,
};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::sync::Mutex;

const SECRET: &str = "{\"secret\":\"canary\"}";
const MUTATIONS: usize = 100_000;
/// Asked before the first answer is waited for.
const AT_ONCE: usize = 200;

/// A root with a log and a script in it, a secret beside it, and links that lead there.
struct Place(TempDir);

impl Place {
    fn new() -> Place {
        let dir = TempDir::new().expect("a temporary directory can be made");
        let root = dir.path().join("root");
        std::fs::create_dir(&root).expect("a directory can be made");
        let write =
            |name: &str, text: &str| std::fs::write(dir.path().join(name), text).expect("a file can be written");
        let secret = format!("1 2 3 4 5 {SECRET}\n");
        write("secret-chat-server-1.log", &secret);
        write(
            "root/con-log-chat-server-1.log",
            "1 2 3 4 5 {\"route\":\"a.b\",\"timeUsed\":3,\"time\":1}\n".repeat(3).as_str(),
        );
        write("root/good.js", "result = app.serverId;");
        symlink("../secret-chat-server-1.log", root.join("link-chat-server-1.log")).expect("a link can be made");
        symlink("../secret-chat-server-1.log", root.join("link.js")).expect("a link can be made");
        symlink("..", root.join("up")).expect("a link can be made");
        Place(dir)
    }

    fn root(&self) -> String {
        self.0.path().join("root").display().to_string()
    }

    fn canary(&self) -> PathBuf {
        self.0.path().join("canary")
    }

    /// What is there, without what scripts may have saved in the root.
    fn outside(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.0.path()).expect("the directory is there");
        let mut names: Vec<String> =
            entries.map(|entry| entry.expect("it can be read").file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }

    #[track_caller]
    fn expect_untouched(&self, by: &str) {
        assert_eq!(self.outside(), ["root", "secret-chat-server-1.log"], "after {by}");
    }
}

/// A master and a monitor with both modules, switched on.
async fn daemons(place: &Place, more: &[(&str, &str)]) -> (Daemon, Daemon) {
    let with = |setup: Setup| {
        let setup = setup.plugins(&["monitor_log", "scripts", "console"]).set("modules.scripts.enabled", "true");
        let setup = setup.set("modules.scripts.root", &place.root()).set("modules.monitorLog.root", &place.root());
        more.iter().fold(setup, |setup, (key, value)| setup.set(key, value))
    };
    let master = with(Setup::master()).start().await;
    let monitor = with(Setup::monitor(master.address(), "chat-server-1", "chat")).start().await;
    known(&master, "chat-server-1").await;
    (master, monitor)
}

/// Waits until the server has registered: a monitor is ready before.
async fn known(master: &Daemon, id: &str) {
    let admin = Mutex::new(Peer::admin(master.address(), "waiting").await);
    eventually("the server has registered", ANSWER, async || {
        let list = admin.lock().await.request("scripts", json!({"command": "list", "clientId": "waiting"})).await;
        list["body"]["servers"].as_array()?.contains(&json!(id)).then_some(())
    })
    .await;
}

async fn ask(client: &mut Peer, module: &str, mut body: Value) -> Value {
    body["clientId"] = json!("client-1");
    client.request(module, body).await
}

async fn run(client: &mut Peer, script: &str) -> Value {
    ask(client, "scripts", json!({"command": "run", "serverId": "chat-server-1", "script": script})).await
}

// === row 30 ===

#[tokio::test]
async fn row_30_a_log_is_read_and_no_name_or_number_leads_elsewhere() {
    let place = Place::new();
    let (master, monitor) = daemons(&place, &[]).await;
    let mut admin = Peer::admin(master.address(), "client-1").await;
    let good = json!({"serverId": "chat-server-1", "logfile": "con-log", "number": 2});
    let answer = ask(&mut admin, "monitorLog", good).await;
    let line = json!({"time": 1, "route": "a.b", "serverId": "chat-server-1", "timeUsed": 3,
        "params": "{\"route\":\"a.b\",\"timeUsed\":3,\"time\":1}"});
    let expected = json!({"serverId": "chat-server-1", "body": {"logfile": "con-log", "dataArray": [line, line]}});
    assert_eq!(answer["body"], expected);

    let canary = place.canary().display().to_string();
    let outside = place.0.path().join("secret").display().to_string();
    let numbers = [
        json!(format!("1;touch {canary}")),
        json!(format!("$(touch {canary})")),
        json!("-f"),
        json!(-1),
        json!(1e9),
        json!([1]),
        json!("1;id"),
    ];
    for number in numbers {
        let body = json!({"serverId": "chat-server-1", "logfile": "con-log", "number": number});
        let answer = ask(&mut admin, "monitorLog", body).await;
        assert!(
            answer["error"]["message"].as_str().is_some_and(|text| text.starts_with("number should be")),
            "{answer}"
        );
        place.expect_untouched(&number.to_string());
    }
    let names =
        ["../secret", "../../etc/x", "up/secret", "link", "a\0b", ".", "x;id", "`id`", "$(id)", &outside, "a\nb"];
    for name in names {
        let body = json!({"serverId": "chat-server-1", "logfile": name, "number": 1});
        let answer = ask(&mut admin, "monitorLog", body).await;
        assert!(answer["error"]["message"].is_string(), "{name:?}: {answer}");
        assert!(!answer.to_string().contains("canary\\\""), "{name:?} reads the secret: {answer}");
        place.expect_untouched(name);
    }
    for daemon in [monitor, master] {
        daemon.shutdown().await;
    }
}

#[tokio::test]
async fn row_30_a_script_is_saved_and_read_and_no_name_leads_elsewhere() {
    let place = Place::new();
    let (master, monitor) = daemons(&place, &[]).await;
    let mut admin = Peer::admin(master.address(), "client-1").await;
    let saved =
        ask(&mut admin, "scripts", json!({"command": "save", "filename": "hello.js", "body": "result = 1"})).await;
    assert_eq!(saved.as_object().expect("an answer").len(), 1, "neither error nor body: {saved}");
    let read = ask(&mut admin, "scripts", json!({"command": "get", "filename": "hello.js"})).await;
    assert_eq!(read["body"], "result = 1");
    let listed = ask(&mut admin, "scripts", json!({"command": "list"})).await;
    assert_eq!(
        listed["body"]["scripts"],
        json!(["con-log-chat-server-1.log", "good.js", "hello.js"]),
        "links to the outside are not listed"
    );

    let canary = place.canary().display().to_string();
    for name in ["../canary", "up/canary", "a/b", canary.as_str(), "..", ".", ".hidden", "a\0b", "-x", "a;id", ""] {
        let shown = json!(name).to_string();
        let save = json!({"command": "save", "filename": name, "body": "x"});
        let answer = ask(&mut admin, "scripts", save).await;
        assert_eq!(answer["error"], format!("fail to write script file:{name}"), "{shown}");
        let answer = ask(&mut admin, "scripts", json!({"command": "get", "filename": name})).await;
        assert!(answer["error"].is_string(), "{shown}: {answer}");
        place.expect_untouched(&shown);
    }
    for name in ["../secret-chat-server-1.log", "link.js", "up/secret-chat-server-1.log"] {
        let answer = ask(&mut admin, "scripts", json!({"command": "get", "filename": name})).await;
        assert_eq!(answer["error"], format!("fail to read script with name:{name}"));
    }
    // A link is replaced and not followed.
    ask(&mut admin, "scripts", json!({"command": "save", "filename": "link.js", "body": "mine"})).await;
    let secret = std::fs::read_to_string(place.0.path().join("secret-chat-server-1.log")).expect("it is still there");
    assert!(secret.contains(SECRET));
    for daemon in [monitor, master] {
        daemon.shutdown().await;
    }
}

/// Numbers that look random and are the same in every run.
struct Dice(u64);

impl Dice {
    fn below(&mut self, most: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).expect("31 bits fit") % most
    }

    fn text(&mut self, canary: &str) -> String {
        let parts = [
            "..",
            "/",
            "secret",
            "con-log",
            "up/",
            "link",
            ";",
            "$(touch ",
            canary,
            ")",
            "\0",
            "\n",
            "`",
            "|",
            " ",
            "-n",
            "%2e%2e",
            "\\",
            "\u{202e}",
            "-chat-server-1.log",
            "1",
            "10",
        ];
        (0..=self.below(6)).map(|_| parts[self.below(parts.len())]).collect()
    }
}

/// An order in which everything that could reach a shell or a path is made up.
fn mutation(round: usize, dice: &mut Dice, canary: &str) -> (&'static str, Value) {
    let (name, other) = (dice.text(canary), dice.text(canary));
    match round % 20 {
        0..=7 => ("monitorLog", json!({"serverId": "chat-server-1", "logfile": name, "number": other})),
        8..=14 => ("scripts", json!({"command": "get", "filename": name})),
        15 => ("scripts", json!({"command": "save", "filename": name, "body": other})),
        16 => (
            "__console__",
            json!({"signal": "addCron", "args": [format!("serverId={name}"), format!("action={other}")]}),
        ),
        17 => ("__console__", json!({"signal": "stop", "ids": [name, other]})),
        18 => ("__console__", json!({"signal": "blacklist", "args": [name]})),
        // Neither is a server: one lacks its type, the other its address.
        _ => (
            "__console__",
            json!({"signal": "add", "args": [format!("port={name}"), format!("host=-oProxyCommand={other}")]}),
        ),
    }
}

#[tokio::test]
async fn row_30_a_hundred_thousand_mutations_touch_and_read_nothing() {
    let place = Place::new();
    let (master, monitor) = daemons(&place, &[("log.level", "error")]).await;
    let mut admin = Peer::admin(master.address(), "client-1").await;
    let canary = place.canary().display().to_string();
    let mut dice = Dice(30);
    for first in (0..MUTATIONS).step_by(AT_ONCE) {
        let mut asked = Vec::new();
        for round in first..first + AT_ONCE {
            let (module, mut body) = mutation(round, &mut dice, &canary);
            body["clientId"] = json!("client-1");
            asked.push((admin.send_request(module, body.clone()).await, body));
        }
        for (id, body) in asked {
            let answer = admin.response(id).await;
            assert!(!answer.to_string().contains("canary\\\""), "{body} reads the secret: {answer}");
        }
        place.expect_untouched(&format!("something from round {first} on"));
    }
    for daemon in [monitor, master] {
        daemon.shutdown().await;
    }
}

// === row 31 ===

#[tokio::test]
async fn row_31_scripts_are_off_by_default_on_each_side() {
    let place = Place::new();
    let off = Setup::master().plugins(&["scripts"]).start().await;
    let mut admin = Peer::admin(off.address(), "client-1").await;
    for command in ["list", "get", "save", "run"] {
        let body =
            json!({"command": command, "filename": "a.js", "body": "1", "serverId": "master-server-1", "script": "1"});
        let answer = ask(&mut admin, "scripts", body).await;
        let text = "scripts are switched off on this master; modules.scripts.enabled = true switches them on";
        assert_eq!(answer["error"]["message"], text, "{command}");
    }
    off.shutdown().await;

    let (master, on) = daemons(&place, &[]).await;
    let careful = Setup::monitor(master.address(), "gate-server-1", "gate").plugins(&["scripts"]).start().await;
    known(&master, "gate-server-1").await;
    let mut admin = Peer::admin(master.address(), "client-1").await;
    let body = json!({"command": "run", "serverId": "gate-server-1", "script": "result = 1"});
    let answer = ask(&mut admin, "scripts", body).await;
    let text = answer["error"]["message"].as_str().unwrap_or_default();
    assert!(text.starts_with("scripts are switched off on gate-server-1"), "{answer}");
    for daemon in [careful, on, master] {
        daemon.shutdown().await;
    }
}

#[tokio::test]
async fn row_31_saving_and_running_need_level_one_and_are_recorded() {
    let place = Place::new();
    let (master, monitor) = daemons(&place, &[]).await;
    let mut visitor = Peer::client(master.address(), "client-1", "monitor").await;
    for body in [
        json!({"command": "run", "serverId": "chat-server-1", "script": "result = 1"}),
        json!({"command": "save", "filename": "a.js", "body": "x"}),
    ] {
        let answer = ask(&mut visitor, "scripts", body).await;
        assert_eq!(answer["error"]["message"], "Command permission denied");
    }
    let read = ask(&mut visitor, "scripts", json!({"command": "get", "filename": "good.js"})).await;
    assert_eq!(read["body"], "result = app.serverId;", "reading is open to level 2");
    let log = master.log();
    let refused = log.lines().filter(|line| line.contains("audit") && line.contains("Command permission denied"));
    assert_eq!(refused.count(), 2, "{log}");

    let mut admin = Peer::admin(master.address(), "client-2").await;
    let order =
        json!({"command": "run", "serverId": "chat-server-1", "script": "result = 40 + 2", "clientId": "client-2"});
    assert_eq!(admin.request("scripts", order).await["body"], 42);
    master.wait_log("40 + 2").await;
    monitor.wait_log("run a script").await;
    let log = master.log();
    let line = log.lines().find(|line| line.contains("40 + 2")).expect("it was waited for");
    for part in ["audit", "admin", "client-2", "127.0.0.1", "chat-server-1", "permitted"] {
        assert!(line.contains(part), "{part} is missing in {line}");
    }
    for daemon in [monitor, master] {
        daemon.shutdown().await;
    }
}

#[tokio::test]
async fn row_31_a_script_that_does_not_end_is_ended_and_the_module_goes_on() {
    let place = Place::new();
    let (master, monitor) = daemons(&place, &[("modules.scripts.time_limit_s", "0.2")]).await;
    let mut admin = Peer::admin(master.address(), "client-1").await;
    let answer = run(&mut admin, "while (true) {}").await;
    assert_eq!(answer["error"]["message"], "the script took more than 200ms and was ended");
    let greedy = run(&mut admin, "let a = []; for (;;) a.push('x'.repeat(1e6) + a.length)").await;
    assert!(greedy.to_string().contains("out of memory") || greedy.to_string().contains("was ended"), "{greedy}");
    for reach in ["require('fs')", "fs", "process", "std", "import('fs').x.y"] {
        let answer = run(&mut admin, reach).await;
        let text = answer["body"].as_str().unwrap_or_default();
        assert!(text.contains("Error: "), "{reach}: {answer}");
    }
    assert_eq!(run(&mut admin, "result = app.serverId;").await["body"], "chat-server-1");
    for daemon in [monitor, master] {
        daemon.shutdown().await;
    }
}

// === the engine and the loader ===

#[tokio::test]
async fn a_plugin_with_an_engine_in_it_is_unmapped_when_its_file_is_gone() {
    let place = Place::new();
    let (master, monitor) = daemons(&place, &[("plugins.gone_after", "100ms")]).await;
    let mut admin = Peer::admin(master.address(), "client-1").await;
    let body = json!({"command": "run", "serverId": "master-server-1", "script": "result = app.serverId"});
    assert_eq!(ask(&mut admin, "scripts", body).await["body"], "master-server-1");
    std::fs::remove_file(master.plugin_dir().join("scripts.so")).expect("the plugin is there");
    let mapped = || {
        let maps = std::fs::read_to_string(format!("/proc/{}/maps", master.pid())).expect("the daemon runs");
        maps.lines().any(|line| line.contains("scripts"))
    };
    assert!(mapped(), "the plugin is in use");
    eventually("the library is unmapped", PROCESS, async || (!mapped()).then_some(())).await;
    let address = master.address().to_string();
    let list =
        muster(&["plugin", "list", "--master", &address, "--user", "admin", "--password", "admin", "-o", "json"]).await;
    assert_eq!(list.code, 0, "{list:?}");
    assert!(!list.stdout.contains("stillMapped\":[{"), "nothing is left: {}", list.stdout);
    // And it comes back.
    master.install_plugin("scripts");
    eventually("scripts are back", ANSWER, async || {
        let mut admin = Peer::admin(master.address(), "client-9").await;
        let answer = admin.request("scripts", json!({"command": "list", "clientId": "client-9"})).await;
        answer["body"]["scripts"].is_array().then_some(())
    })
    .await;
    for daemon in [monitor, master] {
        daemon.shutdown().await;
    }
}
