//! systemInfo and nodeInfo: their figures against the system's own, and the recording of the system modules.

use muster_tests::{
    daemon::{Daemon, Setup},
    deadline::{ANSWER, eventually},
    peer::Peer,
    transcript::{Line, Transcript},
};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{process::Command, sync::Mutex};

use crate::watch_server::recorded_peers;

/// A master and a monitor that report every second, from the first second on.
async fn reporting(module: &str, plugin: &str) -> (Daemon, Daemon) {
    let now = |setup: Setup| {
        let setup = setup.plugins(&[plugin]).set(&format!("modules.{module}.interval"), "1");
        setup.set(&format!("modules.{module}.delay"), "0")
    };
    let master = now(Setup::master()).start().await;
    let monitor = now(Setup::monitor(master.address(), "chat-server-1", "chat")).start().await;
    (master, monitor)
}

/// What the module has collected of the server, once it has.
async fn collected(master: &Daemon, module: &str, id: &str) -> Value {
    let admin = Mutex::new(Peer::admin(master.address(), "client-1").await);
    eventually("a report of the server", ANSWER, async || {
        let answer = admin.lock().await.request(module, json!({"clientId": "client-1"})).await;
        assert_eq!(answer["error"], Value::Null);
        answer["body"].get(id).cloned()
    })
    .await
}

/// What a program of the system prints, if it is installed.
async fn printed(program: &str, arguments: &[&str]) -> Option<String> {
    let output = Command::new(program).args(arguments).output().await.ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

fn keys(row: &Value) -> Vec<&str> {
    row.as_object().expect("a row is an object").keys().map(String::as_str).collect()
}

fn number(text: &Value) -> f64 {
    text.as_str().and_then(|text| text.parse().ok()).unwrap_or_else(|| panic!("{text} is no number in a text"))
}

#[tokio::test]
async fn system_info_tells_what_proc_and_vmstat_tell() {
    let (master, monitor) = reporting("systemInfo", "system_info").await;
    let row = collected(&master, "systemInfo", "chat-server-1").await;
    let expected = [
        "Time",
        "hostname",
        "serverId",
        "cpu_user",
        "cpu_nice",
        "cpu_system",
        "cpu_iowait",
        "cpu_steal",
        "cpu_idle",
        "tps",
        "kb_read",
        "kb_wrtn",
        "kb_read_per",
        "kb_wrtn_per",
        "totalmem",
        "freemem",
        "free/total",
        "m_1",
        "m_5",
        "m_15",
    ];
    let mut sorted = expected.to_vec();
    sorted.sort_unstable();
    let mut found = keys(&row);
    found.sort_unstable();
    assert_eq!(found, sorted);
    assert_eq!(row["serverId"], "chat-server-1");

    let hostname = std::fs::read_to_string("/proc/sys/kernel/hostname").expect("/proc is there");
    assert_eq!(row["hostname"], hostname.trim());
    let sum: f64 = expected[3..9].iter().map(|field| row[*field].as_f64().expect("percentages are numbers")).sum();
    assert!((99.9..=100.1).contains(&sum), "processors spend all their time: {row}");
    let (free, total) = (row["freemem"].as_f64().expect("a number"), row["totalmem"].as_f64().expect("a number"));
    // The client's JSON may lose the last digit.
    assert!(row["free/total"].as_f64().is_some_and(|ratio| (ratio - free / total).abs() < 1e-12), "{row}");

    let meminfo = std::fs::read_to_string("/proc/meminfo").expect("/proc is there");
    let kib = |name: &str| -> f64 {
        let line = meminfo.lines().find_map(|line| line.strip_prefix(name)).expect("a line of this name");
        line.trim_matches(|letter: char| !letter.is_ascii_digit()).parse().expect("a number of kB")
    };
    assert_eq!(total, kib("MemTotal:") * 1024.0);
    // Other programs come and go meanwhile.
    assert!((free - kib("MemAvailable:") * 1024.0).abs() < total / 4.0, "{row}");
    if let Some(vmstat) = printed("vmstat", &["-s"]).await {
        let first: f64 = vmstat.split_whitespace().next().and_then(|word| word.parse().ok()).expect("total memory");
        assert_eq!(total, first * 1024.0);
    }
    let load = std::fs::read_to_string("/proc/loadavg").expect("/proc is there");
    let fifteen: f64 = load.split_whitespace().nth(2).and_then(|word| word.parse().ok()).expect("three figures");
    assert!((row["m_15"].as_f64().expect("a number") - fifteen).abs() < 2.0, "{row}, now {load}");
    for daemon in [monitor, master] {
        daemon.shutdown().await;
    }
}

#[tokio::test]
async fn node_info_tells_what_proc_and_ps_tell() {
    let (master, monitor) = reporting("nodeInfo", "node_info").await;
    let row = collected(&master, "nodeInfo", "chat-server-1").await;
    let expected = ["time", "serverId", "serverType", "pid", "cpuAvg", "memAvg", "vsz", "rss", "usr", "sys", "gue"];
    assert_eq!(keys(&row), expected);
    assert_eq!(row["serverId"], "chat-server-1");
    assert_eq!(row["serverType"], "chat");
    assert_eq!(row["pid"], monitor.pid());
    // It may have grown or given back since it was asked.
    let near = |told: f64, other: f64| (told - other).abs() <= other / 4.0;
    let rss = monitor.rss_kib();
    assert!(near(number(&row["rss"]), rss as f64), "{row}, now {rss} KiB");
    let pid = monitor.pid().to_string();
    if let Some(ps) = printed("ps", &["-o", "vsz=,rss=,%mem=,%cpu=", "-p", &pid]).await {
        let ps: Vec<f64> = ps.split_whitespace().map(|word| word.parse().expect("ps prints numbers")).collect();
        assert!(near(number(&row["vsz"]), ps[0]), "{row}, ps says {ps:?}");
        assert!(near(number(&row["rss"]), ps[1]), "{row}, ps says {ps:?}");
        assert!((number(&row["memAvg"]) - ps[2]).abs() <= 0.3, "{row}, ps says {ps:?}");
    }
    let own = collected(&master, "nodeInfo", "master-server-1").await;
    assert_eq!(own["pid"], master.pid());
    for daemon in [monitor, master] {
        daemon.shutdown().await;
    }
}

#[tokio::test]
async fn nothing_collected_is_an_empty_map_and_a_foreign_identity_is_refused() {
    let master = Setup::master().plugins(&["system_info", "node_info"]).start().await;
    let mut admin = Peer::admin(master.address(), "client-1").await;
    for module in ["systemInfo", "nodeInfo"] {
        assert_eq!(admin.request(module, json!({"clientId": "client-1"})).await["body"], json!({}));
        let forged = admin.request(module, json!({"clientId": "client-2"})).await;
        assert_eq!(forged["error"]["message"], "Client info error");
    }
    master.shutdown().await;
}

#[tokio::test]
async fn a_server_reports_for_itself_only_and_a_report_without_figures_is_harmless() {
    let master = Setup::master().plugins(&["system_info", "node_info"]).start().await;
    let mut admin = Peer::admin(master.address(), "client-1").await;
    let mut chat = Peer::monitor(master.address(), "chat-server-1", "chat").await;
    for module in ["systemInfo", "nodeInfo"] {
        chat.notify(module, json!("nonsense")).await;
        chat.notify(module, json!({"serverId": "gate-server-1", "body": {"hostname": "h", "pid": 7}})).await;
    }
    assert!(chat.settle().await);
    for (module, field) in [("systemInfo", "hostname"), ("nodeInfo", "pid")] {
        let body = admin.request(module, json!({"clientId": "client-1"})).await["body"].clone();
        assert_eq!(keys(&body), ["chat-server-1"]);
        assert!(body["chat-server-1"].get(field).is_some(), "{body}");
    }
    master.shutdown().await;
}

/// The recording from the client's request `first` to what ends its request `last`.
fn exchanges(first: u64, last: u64) -> Transcript {
    let transcript = Transcript::load("system-modules");
    let is_of_them = |id: &Value| id.as_u64().is_some_and(|id| (first..=last).contains(&id));
    let concerned = |line: &&Line| {
        let message = line.message();
        line.conn == 8 && (is_of_them(&message["reqId"]) || is_of_them(&message["respId"]))
    };
    let numbers: Vec<usize> = transcript.lines().iter().filter(concerned).map(|line| line.number).collect();
    transcript.part(numbers[0], numbers[numbers.len() - 1])
}

#[tokio::test]
async fn logs_and_scripts_of_the_recording_are_answered_as_recorded() {
    let nowhere = TempDir::new().expect("a temporary directory can be made");
    let root = nowhere.path().join("missing");
    let master = Setup::master().plugins(&["monitor_log", "scripts", "console"]);
    let master = master.set("modules.scripts.enabled", "true").set("modules.scripts.root", &root.display().to_string());
    let master = master.start().await;
    let mut player = recorded_peers(&master).await;
    player.play(&exchanges(54, 54)).await;
    let scripts = exchanges(56, 63)
        .without_all("Q20: a request has one response", |line| line.message() == json!({"respId": 59, "error": null}));
    player.play(&scripts).await;

    // Q24: the original leaves errors of monitors, and unknown servers, unanswered.
    let lacking = json!({"serverId": "chat-server-1", "clientId": "admin-client", "username": "admin"});
    let id = player.peer(8).send_request("monitorLog", lacking).await;
    let error = json!({"message": "logfile should not be empty", "stack": "Error: logfile should not be empty"});
    let asked = player.peer(5).expect_monitor_message().await;
    let response = json!({"respId": asked["reqId"], "error": error});
    player.peer(5).publish("monitor", &json!(response.to_string()).to_string()).await;
    assert_eq!(player.peer(8).response(id).await["error"], error);
    for (module, body) in [
        ("scripts", json!({"command": "run", "serverId": "nobody-1", "script": "1", "clientId": "admin-client"})),
        ("monitorLog", json!({"serverId": "nobody-1", "logfile": "con-log", "clientId": "admin-client"})),
    ] {
        let answer = player.peer(8).request(module, body).await;
        assert_eq!(answer["error"]["message"], "unknown server id:nobody-1", "{module}");
    }
    player.finish().await;
    master.shutdown().await;
}
