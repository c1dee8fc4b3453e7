//! Every request ends exactly once: with its answer, at its deadline, when the server is gone, or when a handler fails.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use muster_tests::bystanders::Bystanders;
use muster_tests::daemon::{Daemon, Setup};
use muster_tests::deadline::{PROCESS, eventually};
use muster_tests::operator::Operator;
use muster_tests::peer::Peer;
use serde_json::{Value, json};

const CHAT: &str = "chat-server-1";
const PLUGINS: [&str; 2] = ["echo", "faulty"];
/// In which a server may come back: the default.
const WINDOW: Duration = Duration::from_secs(10);

async fn master(key: &str, value: &str) -> (Daemon, SocketAddr) {
    let master = Setup::master().plugins(&PLUGINS).set(key, value).start().await;
    let address = master.address();
    (master, address)
}

async fn monitor(master: SocketAddr) -> Daemon {
    let monitor = Setup::monitor(master, CHAT, "chat").plugins(&PLUGINS).start().await;
    monitor.wait_registered().await;
    monitor
}

/// The text of an error that is an Error object.
#[track_caller]
fn message(response: &Value) -> &str {
    assert_eq!(response.get("body"), None, "no body beside an error that the host gives: {response}");
    response["error"]["message"].as_str().unwrap_or_else(|| panic!("an Error object expected: {response}"))
}

#[tokio::test]
async fn a_server_that_never_answers_is_a_timeout_and_its_late_answer_is_nobodys() {
    let (master, address) = master("requests.deadline", "1s").await;
    let mut server = Peer::monitor(address, CHAT, "chat").await;
    let mut operator = Operator::log_in(address).await;
    let request = operator.begin(CHAT, "echo", json!({"op": "ok"})).await;
    let asked = server.expect_message().await;
    let response = operator.client().response(request).await;
    let text = message(&response);
    // The handler on the master and what it waits for have the same deadline; either may be the first to say so.
    assert!(text.contains("did not answer in time") || text.contains("timed out"), "{text}");
    let late = json!({"respId": asked["reqId"], "body": "late"});
    server.publish("monitor", &json!(late.to_string()).to_string()).await;
    server.expect_silence().await;
    operator.client().expect_silence().await;
    master.shutdown().await;
}

#[tokio::test]
async fn a_handler_that_never_answers_is_a_timeout_and_a_late_reply_is_counted() {
    let (master, address) = master("requests.deadline", "1s").await;
    let mut operator = Operator::log_in(address).await;
    let never = operator.client().request("faulty", json!({"do": "never"})).await;
    assert_eq!(message(&never), "module faulty failed: timed out after 1 s");
    let late = operator.client().request("faulty", json!({"do": "late"})).await;
    assert_eq!(message(&late), "module faulty failed: timed out after 1 s");
    let operator = tokio::sync::Mutex::new(operator);
    eventually("the late reply", PROCESS, async || {
        let listed = operator.lock().await.client().request("__plugins__", json!({"action": "list"})).await;
        let plugins = listed["body"]["plugins"].as_array()?.clone();
        let faulty = plugins.into_iter().find(|plugin| plugin["name"] == "faulty")?;
        (faulty["unclaimedReplies"] == 1 && faulty["timeouts"] == 2).then_some(())
    })
    .await;
    let mut operator = operator.into_inner();
    operator.client().expect_silence().await;
    assert_eq!(operator.client().request("faulty", json!({"do": "ok"})).await["body"], json!({"ok": true}));
    master.shutdown().await;
}

#[tokio::test]
async fn row_15_a_monitor_that_is_killed_mid_request_and_stays_away_is_gone_after_the_window_of_10_seconds() {
    let master = Setup::master().plugins(&PLUGINS).start().await;
    let address = master.address();
    let chat = monitor(address).await;
    let mut operator = Operator::log_in(address).await;
    let request = operator.begin(CHAT, "faulty", json!({"do": "never"})).await;
    // Its next answer shows that it has got the first request.
    assert_eq!(operator.ask(CHAT, "faulty", json!({"do": "ok"})).await["body"], json!({"ok": true}));
    let killed = Instant::now();
    drop(chat.kill().await);
    let response = operator.client().response_within(request, WINDOW + PROCESS).await;
    assert!(killed.elapsed() >= WINDOW, "it might have come back for as long");
    assert!(message(&response).contains("chat-server-1 left before it answered"), "{response}");
    let response = operator.ask(CHAT, "echo", json!({"op": "ok"})).await;
    assert_eq!(message(&response), "unknown server id:chat-server-1");
    operator.client().expect_silence().await;
    master.shutdown().await;
}

#[tokio::test]
async fn row_15_a_monitor_that_is_killed_mid_request_and_comes_back_within_the_window_is_asked_again() {
    let (master, address) = master("requests.repush_window", "30s").await;
    let first = monitor(address).await;
    let mut operator = Operator::log_in(address).await;
    let request = operator.begin(CHAT, "faulty", json!({"do": "late"})).await;
    assert_eq!(operator.ask(CHAT, "faulty", json!({"do": "ok"})).await["body"], json!({"ok": true}));
    drop(first.kill().await);
    let second = monitor(address).await;
    assert_eq!(operator.client().response(request).await["body"], json!({"ok": true}));
    operator.client().expect_silence().await;
    second.shutdown().await;
    master.shutdown().await;
}

#[tokio::test]
async fn a_panic_in_any_handler_is_an_error_and_nothing_else() {
    let (mut master, address) = master("requests.deadline", "15s").await;
    let mut chat = monitor(address).await;
    let mut bystanders = Bystanders::join(address).await;
    let mut server = Peer::monitor(address, "gate-server-1", "gate").await;
    let mut operator = Operator::log_in(address).await;
    let pids = (master.pid(), chat.pid());
    let (panic, ok) = (json!({"do": "panic"}), json!({"do": "ok"}));
    // More than once: what survives the first panic must survive the next.
    for _ in 0..3 {
        for (handler, response, after) in [
            (
                "clientHandler",
                operator.client().request("faulty", panic.clone()).await,
                operator.client().request("faulty", ok.clone()).await,
            ),
            (
                "masterHandler",
                server.request("faulty", panic.clone()).await,
                server.request("faulty", ok.clone()).await,
            ),
            (
                "monitorHandler",
                operator.ask(CHAT, "faulty", panic.clone()).await,
                operator.ask(CHAT, "faulty", ok.clone()).await,
            ),
        ] {
            let text = message(&response);
            assert!(text.contains("faulty") && text.contains("panicked"), "{handler}: {text}");
            assert_eq!(after["body"], json!({"ok": true}), "{handler}: the next request");
        }
        bystanders.check().await;
    }
    assert!(master.is_running() && chat.is_running());
    assert_eq!((master.pid(), chat.pid()), pids);
    operator.client().expect_silence().await;
    server.expect_silence().await;
    chat.shutdown().await;
    master.shutdown().await;
}
