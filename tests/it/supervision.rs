//! Monitors that wrap a program: a real one, as small as it can be. It runs in the state directory of its monitor.

use std::path::Path;

use muster_tests::daemon::{Daemon, Setup};
use muster_tests::deadline::{PROCESS, eventually};
use muster_tests::node::Node;
use muster_tests::operator::Operator;
use muster_tests::peer::Peer;
use rustix::process::Signal;
use serde_json::{Value, json};

const CHAT: &str = "chat-server-1";
const PLUGINS: [&str; 3] = ["console", "watch_server", "echo"];

async fn master() -> Daemon {
    Setup::master().plugins(&PLUGINS).start().await
}

fn wrapping(master: &Daemon, script: &str) -> Setup {
    Setup::monitor(master.address(), CHAT, "chat")
        .plugins(&PLUGINS)
        .set("program.restart_first", "1ms")
        .set("program.restart_longest", "10ms")
        .wrapping(&["sh", "-c", script])
}

/// Waits for a whole line in a file.
async fn line(path: &Path) -> String {
    let path = path.to_owned();
    eventually(&format!("a line in {}", path.display()), PROCESS, async || {
        std::fs::read_to_string(&path).ok().filter(|text| text.ends_with('\n'))
    })
    .await
    .trim_end()
    .to_owned()
}

/// A process id, as it is in JSON.
fn number(pid: &str) -> Value {
    pid.parse::<u32>().expect("a process id").into()
}

/// Whether a process runs; one that ended and was not waited for does not.
fn runs(pid: &str) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"));
    stat.is_ok_and(|stat| stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with('Z')))
}

async fn gone(pid: &str) {
    eventually(&format!("{pid} is gone"), PROCESS, async || (!runs(pid)).then_some(())).await;
}

/// What the master was told of the program of [`CHAT`], once it is as wanted.
async fn program(master: &Daemon, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
    let client = tokio::sync::Mutex::new(Peer::admin(master.address(), "client-of-programs").await);
    eventually(what, PROCESS, async || {
        let ask = json!({"signal": "program", "ids": [CHAT], "clientId": "client-of-programs"});
        let answer = client.lock().await.request("__console__", ask).await;
        let program = answer["body"]["programs"][CHAT].clone();
        wanted(&program).then_some(program)
    })
    .await
}

/// The row of [`CHAT`] in a list.
async fn listed(client: &mut Peer) -> Value {
    client.request("__console__", json!({"signal": "list"})).await["body"]["msg"][CHAT].clone()
}

#[tokio::test]
async fn the_wrapped_program_is_the_process_that_is_reported() {
    let master = master().await;
    let chat = wrapping(&master, "echo $$ > pid; exec sleep 600").start().await;
    let pid = line(&chat.state_dir().join("pid")).await;
    let mut operator = Operator::log_in(master.address()).await;
    operator.wait_until_seen(CHAT).await;
    assert_eq!(listed(operator.client()).await["pid"].to_string(), pid);
    let status = json!({"comd": "status", "context": CHAT});
    let status = operator.client().request("watchServer", status).await["body"]["msg"]["body"].clone();
    assert_eq!(status["pid"].to_string(), pid);
    chat.shutdown().await;
    assert!(!runs(&pid), "it ends with its monitor");
    master.shutdown().await;
}

#[tokio::test]
async fn a_program_that_crashed_runs_again_and_why_it_died_is_told() {
    let master = master().await;
    let script = "echo hello; if [ -e once ]; then echo $$ > pid; exec sleep 600; fi; echo $$ > first; touch once; \
                  echo 'out of eggs' >&2; exit 3";
    let chat = wrapping(&master, script).start().await;
    let (first, pid) = (line(&chat.state_dir().join("first")).await, line(&chat.state_dir().join("pid")).await);
    assert_ne!(first, pid);
    let told = program(&master, "it runs again", |program| program["pid"] == number(&pid)).await;
    assert_eq!((&told["state"], &told["starts"]), (&json!("running"), &json!(2)));
    let end = &told["lastEnd"];
    assert_eq!((&end["how"], &end["code"]), (&json!("exit code 3"), &json!(3)));
    assert_eq!(end["stderr"], json!(["out of eggs"]));
    let stdout = std::fs::read_to_string(told["stdout"].as_str().expect("a path")).expect("the output is there");
    assert_eq!(stdout, "hello\nhello\n");

    // The master was told of the new process as of a new server.
    let mut operator = Operator::log_in(master.address()).await;
    operator.wait_until_seen(CHAT).await;
    assert_eq!(listed(operator.client()).await["pid"].to_string(), pid);
    chat.shutdown().await;
    master.shutdown().await;
}

#[tokio::test]
async fn a_program_that_ends_well_takes_its_monitor_with_it_and_what_it_did_is_still_told() {
    let master = master().await;
    let mut chat = wrapping(&master, "while [ ! -e done ]; do sleep 0.02; done; exit 0").start().await;
    chat.wait_registered().await;
    std::fs::write(chat.state_dir().join("done"), "").expect("a file can be written");
    assert_eq!(chat.wait(PROCESS).await.code(), Some(0));
    let told = program(&master, "the end is told", |program| program["state"] == "ended").await;
    assert_eq!(told["lastEnd"]["code"], 0);
    master.shutdown().await;
}

#[tokio::test]
async fn a_crash_loop_stops_and_the_monitor_stays_to_be_asked_and_ordered() {
    let master = master().await;
    let script = "if [ -e healed ]; then echo $$ > pid; exec sleep 600; fi; echo broken >&2; exit 1";
    let chat = wrapping(&master, script).set("program.restart_limit", "2").start().await;
    let told = program(&master, "it is given up", |program| program["state"] == "given up").await;
    assert_eq!(told["starts"], 3);
    assert!(told["why"].as_str().is_some_and(|why| why.contains("exit code 1")), "{told}");
    let mut operator = Operator::log_in(master.address()).await;
    operator.wait_until_seen(CHAT).await;
    std::fs::write(chat.state_dir().join("healed"), "").expect("a file can be written");
    let answer = operator.ask(CHAT, "__console__", json!({"signal": "restart"})).await;
    assert_eq!((&answer["error"], &answer["body"]), (&json!({}), &json!({"restarts": true})));
    let pid = line(&chat.state_dir().join("pid")).await;
    program(&master, "it runs", |program| program["pid"] == number(&pid)).await;
    chat.shutdown().await;
    master.shutdown().await;
}

#[tokio::test]
async fn a_stop_by_the_console_ends_the_program_its_children_and_the_monitor() {
    let master = master().await;
    let script = "trap 'echo clean > cleaned; exit 0' TERM; setsid sh -c 'echo $$ > far; exec sleep 600' & \
                  echo $$ > pid; while :; do sleep 0.02; done";
    let mut chat = wrapping(&master, script).start().await;
    let (pid, far) = (line(&chat.state_dir().join("pid")).await, line(&chat.state_dir().join("far")).await);
    let mut operator = Operator::log_in(master.address()).await;
    operator.wait_until_seen(CHAT).await;
    let answer = operator.order(json!({"signal": "stop", "ids": [CHAT]})).await;
    assert_eq!(answer["body"], json!({"status": "part"}), "{answer}");
    assert_eq!(chat.wait(PROCESS).await.code(), Some(0));
    assert_eq!(line(&chat.state_dir().join("cleaned")).await, "clean");
    assert!(!runs(&pid) && !runs(&far));
    drop(chat.state_after_end());
    master.shutdown().await;
}

#[tokio::test]
async fn a_kill_by_the_console_asks_no_program_whether_it_likes_to_end() {
    let mut master = master().await;
    let mut chat = wrapping(&master, "trap '' TERM; echo $$ > pid; while :; do sleep 0.02; done")
        .set("program.stop_grace", "1h")
        .start()
        .await;
    let pid = line(&chat.state_dir().join("pid")).await;
    let mut operator = Operator::log_in(master.address()).await;
    operator.wait_until_seen(CHAT).await;
    let answer = operator.order(json!({"signal": "kill"})).await;
    assert_eq!(answer["body"], json!({"code": "ok"}), "{answer}");
    assert_eq!(chat.wait(PROCESS).await.code(), Some(0));
    assert!(!runs(&pid));
    master.wait(PROCESS).await;
}

#[tokio::test]
async fn a_program_that_ignores_sigterm_is_killed_after_its_grace() {
    let master = master().await;
    let script = "trap '' TERM; echo $$ > pid; while :; do sleep 0.02; done";
    let chat = wrapping(&master, script).set("program.stop_grace", "100ms").start().await;
    let pid = line(&chat.state_dir().join("pid")).await;
    chat.shutdown().await;
    assert!(!runs(&pid));
    master.shutdown().await;
}

#[tokio::test]
async fn a_monitor_that_was_killed_finds_its_program_again() {
    let master = master().await;
    let script =
        "echo $$ >> pids; trap 'exit 0' TERM; while :; do [ -e say ] && { rm say; echo said; }; sleep 0.02; done";
    let first = wrapping(&master, script).start().await;
    let pid = line(&first.state_dir().join("pids")).await;
    let state = first.kill().await;
    assert!(runs(&pid), "a server does not end because its monitor does");
    // What it writes while nobody watches is there as well.
    std::fs::write(state.path().join("say"), "").expect("a file can be written");
    let second = wrapping(&master, script).state(state).start().await;
    let told = program(&master, "it is adopted", |program| program["adopted"] == true).await;
    assert_eq!(told["pid"].to_string(), pid);
    assert_eq!(line(Path::new(told["stdout"].as_str().expect("a path"))).await, "said");
    let state = second.shutdown().await;
    assert!(!runs(&pid));
    assert_eq!(line(&state.path().join("pids")).await, pid, "it was started once");
    master.shutdown().await;
}

#[tokio::test]
async fn a_monitor_that_was_killed_ends_its_program_and_starts_another_if_so_configured() {
    let master = master().await;
    let script = "echo $$ >> pids; exec sleep 600";
    let first = wrapping(&master, script).start().await;
    let pid = line(&first.state_dir().join("pids")).await;
    let state = first.kill().await;
    let second = wrapping(&master, script).set("program.orphans", "end").state(state).start().await;
    gone(&pid).await;
    // Until it is told otherwise, the master says what it was told last.
    let runs_another = |program: &Value| program["state"] == "running" && program["pid"] != number(&pid);
    program(&master, "another one runs", runs_another).await;
    second.shutdown().await;
    master.shutdown().await;
}

#[tokio::test]
async fn signals_of_no_meaning_to_a_monitor_are_passed_on() {
    let master = master().await;
    let script = "trap 'echo usr1 > told' USR1; touch up; while :; do sleep 0.02; done";
    let chat = wrapping(&master, script).start().await;
    let up = chat.state_dir().join("up");
    eventually("it listens", PROCESS, async || up.exists().then_some(())).await;
    chat.signal(Signal::USR1);
    assert_eq!(line(&chat.state_dir().join("told")).await, "usr1");
    chat.shutdown().await;
    master.shutdown().await;
}

#[tokio::test]
async fn an_original_master_lists_a_wrapped_program_and_does_not_start_a_second_one() {
    let (_master, address) = Node::pomelo_master().await;
    let setup = Setup::monitor(address, CHAT, "chat").plugins(&["console", "watchdog"]);
    let mut chat = setup.wrapping(&["sh", "-c", "echo $$ >> pids; exec sleep 600"]).start().await;
    chat.wait_registered().await;
    let pid = line(&chat.state_dir().join("pids")).await;
    let client = Node::logged_in(address, "client-1", "admin").await;
    let listed = client.request("__console__", json!({"signal": "list"})).await;
    assert_eq!(listed["body"]["msg"][CHAT]["pid"], number(&pid));

    // It restarts by itself; the master takes it for one that cannot be restarted.
    let answer = client.request("__console__", json!({"signal": "restart", "ids": [CHAT]})).await;
    assert_eq!(answer["error"]["message"], "all servers start failed.");
    let pids = chat.state_dir().join("pids");
    let again = eventually("it was started again", PROCESS, async || {
        std::fs::read_to_string(&pids).ok()?.lines().nth(1).map(str::to_owned)
    })
    .await;
    assert!(!runs(&pid));
    // What is sent before that would go to a link that is about to end.
    eventually("it is registered again", PROCESS, async || {
        let listed = client.request("__console__", json!({"signal": "list"})).await;
        (listed["body"]["msg"][CHAT]["pid"] == number(&again)).then_some(())
    })
    .await;
    let stopped = client.request("__console__", json!({"signal": "stop", "ids": [CHAT]})).await;
    assert_eq!(stopped["error"], Value::Null);
    assert_eq!(chat.wait(PROCESS).await.code(), Some(0));
}

#[tokio::test]
async fn a_program_that_is_not_there_is_said_to_be_missing() {
    let state = tempfile::tempdir().expect("a temporary directory");
    let dir = state.path().display().to_string();
    let started = ["monitor", "--master", "127.0.0.1:1", "--id", CHAT, "--type", "chat", "--state-dir", &dir, "--"];
    let done = muster_tests::cli::muster(&[&started[..], &["/nonexistent/server"]].concat()).await;
    assert_ne!(done.code, 0);
    assert!(done.stderr.contains("/nonexistent/server") && done.stderr.contains("No such file"), "{done:?}");

    let stateless = ["monitor", "--master", "127.0.0.1:1", "--id", CHAT, "--type", "chat", "--", "sleep", "1"];
    let done = muster_tests::cli::muster(&stateless).await;
    assert_eq!(done.code, 2);
    assert!(done.stderr.contains("--state-dir"), "{done:?}");
}
