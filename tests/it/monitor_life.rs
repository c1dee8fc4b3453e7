//! Our monitor and our master: whichever of them is away, late, killed or without memory, they find each other, and the
//! monitor's directory of servers is right afterwards.

use std::net::{Ipv4Addr, SocketAddr};

use muster_tests::daemon::{Daemon, Setup};
use muster_tests::deadline::{PROCESS, eventually};
use muster_tests::operator::Operator;
use muster_tests::packet::Packet;
use muster_tests::peer::Peer;
use muster_tests::ports::free_port;
use serde_json::{Value, json};

/// `directory` tells what a module is told.
const PLUGINS: [&str; 4] = ["echo", "watchdog", "console", "directory"];

const CHAT: &str = "chat-server-1";
const GATE: &str = "gate-server-1";

fn master() -> Setup {
    Setup::master().plugins(&PLUGINS).set("auth.reconnect", "known")
}

async fn monitor(master: SocketAddr, id: &str, server_type: &str) -> Daemon {
    Setup::monitor(master, id, server_type).plugins(&PLUGINS).start().await
}

/// What the modules of a server were told.
pub(crate) struct Told {
    /// Ids in the directory as it is.
    servers: Vec<String>,
    events: Vec<String>,
}

async fn told(operator: &mut Operator, id: &str) -> Option<Told> {
    let answer = operator.ask(id, "directory", json!({})).await["body"].clone();
    let servers = answer["servers"].as_object()?.keys().cloned().collect();
    let events = answer["events"].as_array()?.iter().filter_map(Value::as_str).map(str::to_owned).collect();
    Some(Told { servers, events })
}

/// Waits until the directory of the server `id` holds exactly these.
pub(crate) async fn knows(operator: &mut Operator, id: &str, servers: &[&str]) -> Told {
    knows_by(operator, id, servers, "").await
}

/// Waits until it does, and the server was told so by an event that starts with `word` since it lost its master.
pub(crate) async fn knows_by(operator: &mut Operator, id: &str, servers: &[&str], word: &str) -> Told {
    let operator = tokio::sync::Mutex::new(operator);
    eventually(&format!("{id} knows {servers:?} {word}"), PROCESS, async || {
        let told = told(*operator.lock().await, id).await?;
        let lately = told.events.rsplit(|event| event == "lost").next()?;
        (told.servers == servers && lately.iter().any(|event| event.starts_with(word))).then_some(told)
    })
    .await
}

/// Two monitors that know each other.
async fn pair(master: SocketAddr) -> (Daemon, Daemon) {
    let (chat, gate) = tokio::join!(monitor(master, CHAT, "chat"), monitor(master, GATE, "gate"));
    chat.wait_registered().await;
    gate.wait_registered().await;
    let mut operator = Operator::log_in(master).await;
    knows(&mut operator, CHAT, &[CHAT, GATE]).await;
    knows(&mut operator, GATE, &[CHAT, GATE]).await;
    (chat, gate)
}

#[tokio::test]
async fn a_monitor_is_ready_without_a_master_and_registers_when_one_comes() {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()));
    let mut chat = monitor(address, CHAT, "chat").await;
    chat.wait_log("the master cannot be reached").await;
    assert!(chat.is_running(), "a monitor does not end because its master is away");
    let master = master().listen(address).start().await;
    let mut operator = Operator::log_in(address).await;
    operator.wait_until_seen(CHAT).await;
    let told = knows(&mut operator, CHAT, &[CHAT]).await;
    assert_eq!(told.events[0], "connected", "{:?}", told.events);
    chat.shutdown().await;
    master.shutdown().await;
}

#[tokio::test]
async fn monitors_find_a_master_that_was_killed_and_each_other() {
    let first = master().on_a_reserved_port().start().await;
    let address = first.address();
    let (mut chat, mut gate) = pair(address).await;
    let state = first.kill().await;
    for monitor in [&mut chat, &mut gate] {
        monitor.wait_log("no link to the master").await;
        assert!(monitor.is_running());
    }
    let second = master().listen(address).state(state).start().await;
    let mut operator = Operator::log_in(address).await;
    for id in [CHAT, GATE] {
        operator.wait_until_seen(id).await;
        let told = knows_by(&mut operator, id, &[CHAT, GATE], "replaced").await;
        let lost = told.events.iter().position(|event| event == "lost").expect("the link was lost");
        // Nothing was taken out of the directory as long as there was no master to say so.
        assert_eq!(told.events[lost + 1], "connected again", "{:?}", told.events);
    }
    second.wait_log("server reconnected").await;
    chat.shutdown().await;
    // The others are told as before.
    let told = knows_by(&mut operator, GATE, &[GATE], "removed").await;
    assert_eq!(told.events.last().map(String::as_str), Some("removed chat-server-1"));
    gate.shutdown().await;
    second.shutdown().await;
}

#[tokio::test]
async fn an_id_that_registered_with_a_token_is_known_to_a_restarted_master_and_to_no_other() {
    let first = master().on_a_reserved_port().start().await;
    let address = first.address();
    drop(Peer::monitor(address, "test-server-1", "test").await);
    let state = first.kill().await;

    let second = master().listen(address).state(state).start().await;
    let mut peer = Peer::connect("test-server-1", address).await;
    assert_eq!(peer.reconnect_monitor("test-server-1", "test").await, json!({"code": 1, "msg": "ok"}));
    drop((peer, second.kill().await));

    let third = master().listen(address).start().await;
    let mut peer = Peer::connect("test-server-1", address).await;
    let refusal = json!({"code": -1, "msg": "server auth failed"});
    assert_eq!(peer.reconnect_monitor("test-server-1", "test").await, refusal);
    assert_eq!(peer.expect_closed().await, [Packet::Disconnect]);
    third.shutdown().await;
}

#[tokio::test]
async fn a_master_that_forgot_everything_lets_our_monitor_in_by_its_token() {
    let first = master().on_a_reserved_port().start().await;
    let address = first.address();
    let (chat, gate) = pair(address).await;
    drop(first.kill().await);
    let second = master().listen(address).start().await;
    let mut operator = Operator::log_in(address).await;
    for id in [CHAT, GATE] {
        operator.wait_until_seen(id).await;
        knows(&mut operator, id, &[CHAT, GATE]).await;
    }
    assert!(!second.log().contains("refused"), "the token came with the first message");
    chat.shutdown().await;
    gate.shutdown().await;
    second.shutdown().await;
}

#[tokio::test]
async fn a_monitor_with_a_wrong_token_goes_on_trying_and_stays_out() {
    let master = master().start().await;
    let address = master.address();
    let stranger = Setup::monitor(address, CHAT, "chat").plugins(&PLUGINS).token("wrong").start().await;
    stranger.wait_log("the master refused: server auth failed").await;
    let mut operator = Operator::log_in(address).await;
    // Twice: it came back, and with the token, since a `reconnect` could not help it.
    let twice = |log: String| log.matches("server refused: wrong token").count() >= 2;
    eventually("a second attempt", PROCESS, async || twice(master.log()).then_some(())).await;
    assert!(!operator.sees(CHAT).await);
    stranger.shutdown().await;
    master.shutdown().await;
}
