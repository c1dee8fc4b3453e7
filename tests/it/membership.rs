//! Who is there, after many came and went under one id faster than the master could look: FAULTS.md, row 16.

use std::net::SocketAddr;

use muster_tests::daemon::{Daemon, Setup};
use muster_tests::deadline::{PROCESS, eventually};
use muster_tests::operator::Operator;
use muster_tests::packet::Packet;
use muster_tests::peer::Peer;
use serde_json::{Value, json};

const ROUNDS: u32 = 500;
const CHAT: &str = "chat-server-1";

async fn start() -> (Daemon, SocketAddr, Peer) {
    let master = Setup::master().plugins(&["echo", "watchdog", "console"]).start().await;
    let address = master.address();
    let mut watcher = Peer::monitor(address, "gate-server-1", "gate").await;
    let subscribed = watcher.request("__masterwatcher__", json!({"action": "subscribe", "id": "gate-server-1"})).await;
    assert_eq!(subscribed["body"]["gate-server-1"]["serverType"], "gate");
    (master, address, watcher)
}

/// What the master says of chat-server-1, once a listener that heeds all it is told, in that order, believes the same.
async fn agreed(watcher: &mut Peer) -> Value {
    let watcher = tokio::sync::Mutex::new(watcher);
    // The news may come after the answer to a question that was asked later: nobody waits for them.
    eventually("what a listener believes is what the master says", PROCESS, async || {
        let mut watcher = watcher.lock().await;
        let map = watcher.request("__masterwatcher__", json!({"action": "query"})).await["body"][CHAT].clone();
        (map == believed(&watcher)).then_some(map)
    })
    .await
}

/// What somebody believes of chat-server-1 who was told all that is in the inbox.
fn believed(watcher: &Peer) -> Value {
    let mut believed = Value::Null;
    for packet in watcher.inbox() {
        let Packet::Publish { payload, .. } = packet else { continue };
        let body = &muster_tests::payload::decode(payload)["body"];
        match body["action"].as_str() {
            Some("addServer") if body["server"]["id"] == CHAT => believed = body["server"].clone(),
            Some("removeServer") if body["id"] == CHAT => believed = Value::Null,
            _ => {}
        }
    }
    believed
}

#[tokio::test]
async fn row_16_a_monitor_that_is_killed_and_started_again_500_times_is_there_once() {
    let (master, address, mut watcher) = start().await;
    // All but the last without plugins: so they start as fast as processes do.
    let chat = || Setup::monitor(address, CHAT, "chat");
    for _ in 1..ROUNDS {
        let monitor = chat().plugins(&[]).start().await;
        monitor.wait_registered().await;
        drop(monitor.kill().await);
    }
    let last = chat().plugins(&["console"]).start().await;
    last.wait_registered().await;
    let operator = tokio::sync::Mutex::new(Operator::log_in(address).await);
    eventually("the last one is asked", PROCESS, async || {
        // A request, so that it ends for sure; Q19: the figures are in the error slot.
        let listed = operator.lock().await.ask(CHAT, "__console__", json!({"signal": "list"})).await;
        (listed["error"]["body"]["pid"] == last.pid()).then_some(())
    })
    .await;
    assert_eq!(agreed(&mut watcher).await["pid"], last.pid());
    last.shutdown().await;
    operator.into_inner().wait_until_gone(CHAT).await;
    assert_eq!(agreed(&mut watcher).await, Value::Null);
    master.shutdown().await;
}

#[tokio::test]
async fn row_16_an_old_link_that_ends_after_its_successor_has_registered_takes_nobody_with_it() {
    let (master, address, mut watcher) = start().await;
    let mut newest = Peer::monitor(address, CHAT, "chat").await;
    for _ in 1..ROUNDS {
        let successor = Peer::monitor(address, CHAT, "chat").await;
        drop(std::mem::replace(&mut newest, successor));
    }
    // Asked of whoever is first at the moment, and handed on until it is the one that lives.
    let mut operator = Operator::log_in(address).await;
    let request = operator.begin(CHAT, "echo", json!({"op": "ok"})).await;
    newest.answer_next(Value::Null, json!("the newest")).await;
    assert_eq!(operator.client().response(request).await["body"], "the newest");
    assert_eq!(agreed(&mut watcher).await["id"], CHAT);
    drop(newest);
    operator.wait_until_gone(CHAT).await;
    assert_eq!(agreed(&mut watcher).await, Value::Null);
    master.shutdown().await;
}
