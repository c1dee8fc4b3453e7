//! Servers that take part in what their monitor does: through the app channel, and by embedding it.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Stdio;

use muster_tests::daemon::{Daemon, Setup, target_dir};
use muster_tests::deadline::{PROCESS, eventually, within};
use muster_tests::operator::Operator;
use serde_json::{Value, json};

const GATE: &str = "gate-server-1";
const PLUGINS: [&str; 4] = ["console", "watch_server", "watchdog", "echo"];

async fn master() -> Daemon {
    Setup::master().plugins(&PLUGINS).start().await
}

fn gate(master: &Daemon, command: &[&str]) -> Setup {
    Setup::monitor(master.address(), GATE, "gate").plugins(&PLUGINS).info("frontend", "true").wrapping(command)
}

fn python() -> String {
    format!("{}/app_channel.py", env!("CARGO_MANIFEST_DIR"))
}

/// The answer of the server `id` to a comd of watchServer.
async fn watch(operator: &mut Operator, id: &str, comd: &str, param: Value) -> Value {
    let ask = json!({"comd": comd, "context": id, "param": param, "clientId": "client-operator"});
    operator.client().request("watchServer", ask).await
}

/// Waits until what the program has written has this in it.
async fn written(gate: &Daemon, text: &str) {
    let file = gate.state_dir().join(format!("logs/{GATE}.stdout.log"));
    eventually(&format!("{text} is written"), PROCESS, async || {
        std::fs::read_to_string(&file).ok().filter(|written| written.contains(text))
    })
    .await;
}

fn socket(gate: &Daemon) -> std::path::PathBuf {
    gate.state_dir().join(format!("monitors/{GATE}/app.sock"))
}

#[tokio::test]
async fn a_program_publishes_and_answers_for_itself() {
    let master = master().await;
    let gate = gate(&master, &["python3", &python()]).start().await;
    written(&gate, "hello gate-server-1").await;
    let mut operator = Operator::log_in(master.address()).await;
    operator.wait_until_seen(GATE).await;
    {
        let operator = tokio::sync::Mutex::new(&mut operator);
        eventually("it has published", PROCESS, async || {
            let answer = watch(*operator.lock().await, GATE, "connections", Value::Null).await;
            (answer["body"]["msg"][GATE]["totalConnCount"] == 3).then_some(())
        })
        .await;
        // What it wants to be asked it says last.
        eventually("it answers", PROCESS, async || {
            let answer = watch(*operator.lock().await, GATE, "set", json!({"key": "mode", "value": "slow"})).await;
            let now = watch(*operator.lock().await, GATE, "get", json!("mode")).await;
            (answer["body"] == "set mode:slow ok" && now["body"] == "slow").then_some(())
        })
        .await;
    }
    let logins = watch(&mut operator, GATE, "logins", Value::Null).await;
    assert_eq!(logins["body"]["msg"][GATE]["loginedList"][0]["uid"], "anna");
    let locked = watch(&mut operator, GATE, "disable", json!("locked")).await;
    assert!(locked.to_string().contains("locked is not to be changed"), "{locked}");
    assert_eq!(watch(&mut operator, GATE, "enable", json!("debug")).await["body"], "enable debug ok");
    assert_eq!(watch(&mut operator, GATE, "get", json!("debug")).await["body"], true);
    gate.shutdown().await;
    master.shutdown().await;
}

#[tokio::test]
async fn a_program_is_told_what_happens_and_before_it_is_stopped() {
    let master = master().await;
    let gate = gate(&master, &["python3", &python()]).start().await;
    let mut operator = Operator::log_in(master.address()).await;
    operator.wait_until_seen(GATE).await;
    written(&gate, "hello").await;
    operator.order(json!({"signal": "blacklist", "args": ["10.1.2.3"]})).await;
    written(&gate, r#"event {"blacklisted":{"addresses":["10.1.2.3"]}}"#).await;
    let cron = json!(["id=8", format!("serverId={GATE}"), "action=any.thing", "time=* * * * * *"]);
    operator.order(json!({"signal": "addCron", "args": cron})).await;
    written(&gate, r#"event {"cronFired":{"cron":{"id":"8""#).await;
    let other = Setup::monitor(master.address(), "chat-server-1", "chat").plugins(&PLUGINS).start().await;
    written(&gate, r#"event {"serversAdded":{"servers":{"chat-server-1""#).await;
    other.shutdown().await;
    written(&gate, r#"event {"serversRemoved":{"ids":["chat-server-1"]}}"#).await;
    let state = gate.shutdown().await;
    let log = std::fs::read_to_string(state.path().join(format!("logs/{GATE}.stdout.log"))).expect("it has written");
    assert!(log.contains(r#"event "stopping""#), "{log}");
    master.shutdown().await;
}

#[tokio::test]
async fn a_program_finds_its_monitor_again_after_that_was_killed() {
    let master = master().await;
    let script = python();
    let first = gate(&master, &["python3", &script]).start().await;
    written(&first, "hello").await;
    let state = first.kill().await;
    let second = gate(&master, &["python3", &script]).state(state).start().await;
    second.wait_log("takes part").await;
    second.shutdown().await;
    master.shutdown().await;
}

#[tokio::test]
async fn without_an_app_channel_a_frontend_server_has_nobody_connected_and_configured_settings() {
    let master = master().await;
    let setup = gate(&master, &["sleep", "600"]).set("app.settings.connectorConfig", r#"{"heartbeat":3}"#);
    let gate = setup.start().await;
    let mut operator = Operator::log_in(master.address()).await;
    operator.wait_until_seen(GATE).await;
    let connections = watch(&mut operator, GATE, "connections", Value::Null).await;
    let nobody = json!({"serverId": GATE, "totalConnCount": 0, "loginedCount": 0, "loginedList": []});
    assert_eq!(connections["body"]["msg"][GATE], nobody);
    assert_eq!(watch(&mut operator, GATE, "config", json!("connector")).await["body"], json!({"heartbeat": 3}));
    assert_eq!(watch(&mut operator, GATE, "settings", Value::Null).await["body"], json!({"env": "development"}));
    assert_eq!(watch(&mut operator, GATE, "set", json!({"key": "a", "value": 1})).await["body"], "set a:1 ok");
    assert_eq!(watch(&mut operator, GATE, "get", json!("a")).await["body"], 1);
    gate.shutdown().await;
    master.shutdown().await;
}

#[tokio::test]
async fn what_is_no_line_is_refused_and_what_is_too_much_is_cut() {
    let master = master().await;
    let gate = gate(&master, &["sleep", "600"]).start().await;
    let (path, refusals) = (socket(&gate), tokio::task::spawn_blocking);
    let speak = |path: &Path| {
        let stream = UnixStream::connect(path).expect("it is there");
        stream.set_read_timeout(Some(PROCESS)).expect("a socket has a timeout");
        stream
    };
    let of_others = path.clone();
    refusals(move || {
        let mut stream = speak(&of_others);
        let mut lines = BufReader::new(stream.try_clone().expect("a socket can be shared")).lines();
        let hello = lines.next().expect("a line").expect("a hello");
        assert!(hello.starts_with(r#"{"hello":{"id":"gate-server-1""#), "{hello}");
        for odd in ["not json", r#"{"shout":1}"#, r#"{"answers":["run"]}"#, r#"{"settings":[]}"#] {
            stream.write_all(format!("{odd}\n").as_bytes()).expect("it listens");
            let refusal = lines.by_ref().map(|line| line.expect("a line")).find(|line| line.contains("refused"));
            assert!(refusal.is_some(), "{odd}");
        }
        // A line without an end, and lines without end: both end the connection, and nothing else.
        for flood in ["x".repeat(1 << 16), "{\"settings\":{}}\n".repeat(1 << 10)] {
            let mut stream = speak(&of_others);
            while stream.write_all(flood.as_bytes()).is_ok() {}
            let mut rest = Vec::new();
            // Ended in order, or reset with what was not read; in any case ended.
            drop(stream.read_to_end(&mut rest));
        }
    })
    .await
    .expect("it goes as expected");
    let mode = std::fs::metadata(&path).expect("it is there").permissions();
    assert_eq!(std::os::unix::fs::PermissionsExt::mode(&mode) & 0o777, 0o600);
    let mut operator = Operator::log_in(master.address()).await;
    operator.wait_until_seen(GATE).await;
    gate.shutdown().await;
    master.shutdown().await;
}

#[tokio::test]
async fn a_server_in_rust_may_have_its_monitor_inside() {
    let master = master().await;
    let example = target_dir().join("release/examples/embedded");
    assert!(example.exists(), "{} is missing; `make fixtures` builds it", example.display());
    let mut server = tokio::process::Command::new(example);
    server.arg(master.address().to_string()).arg(master.plugin_dir()).args(["monitor.token=token-for-test"]);
    let mut server = server.stdout(Stdio::null()).stderr(Stdio::piped()).kill_on_drop(true).spawn().expect("it starts");
    let told = muster_tests::output::Output::collect("embedded".to_owned(), server.stderr.take().expect("piped"));
    let mut operator = Operator::log_in(master.address()).await;
    operator.wait_until_seen("embedded-1").await;
    let listed = operator.order(json!({"signal": "list"})).await;
    assert_eq!(listed["body"]["msg"]["embedded-1"]["pid"], json!(server.id()));
    let watch =
        async |operator: &mut Operator, comd: &str, param: Value| watch(operator, "embedded-1", comd, param).await;
    assert_eq!(watch(&mut operator, "get", json!("greetings")).await["body"], Value::Null, "nothing counts as nothing");
    assert_eq!(watch(&mut operator, "enable", json!("greeting")).await["body"], "enable greeting ok");
    assert_eq!(watch(&mut operator, "get", json!("greetings")).await["body"], 1);
    let refused = watch(&mut operator, "set", json!({"key": "greetings", "value": 7})).await;
    assert!(refused.to_string().contains("counted, not set"), "{refused}");
    assert_eq!(watch(&mut operator, "get", json!("language")).await["body"], "en");
    operator.order(json!({"signal": "stop", "ids": ["embedded-1"]})).await;
    let status = within("its end", PROCESS, server.wait()).await.expect("a child can be waited for");
    assert!(status.success());
    assert!(told.text().contains("told: \"stopping\""), "{}", told.text());
    master.shutdown().await;
}
