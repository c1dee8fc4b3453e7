//! From the first byte to an identity: what a connection may say in which order, and how it ends if it does not. Where
//! the original is more patient, the hole that this closes is named.

use std::time::{Duration, Instant};

use muster_tests::config::token_for;
use muster_tests::daemon::Setup;
use muster_tests::operator::Operator;
use muster_tests::packet::{Packet, publish_bytes};
use muster_tests::peer::Peer;
use serde_json::{Value, json};

const CHAT: &str = "chat-server-1";

fn master() -> Setup {
    Setup::master().plugins(&["echo"])
}

fn hello(id: &str, token: Option<&str>) -> Value {
    let mut message = json!({"id": id, "type": "monitor", "serverType": "chat", "pid": 1,
        "info": {"id": id, "serverType": "chat", "host": "127.0.0.1", "port": 4000}});
    if let Some(token) = token {
        message["token"] = json!(token);
    }
    message
}

/// What comes until the connection is closed, PUBLISH as (topic, payload).
async fn last_words(peer: &mut Peer) -> Vec<(String, Value)> {
    let packets = peer.expect_closed().await;
    let word = |packet: Packet| match packet {
        Packet::Publish { topic, payload } => (topic, muster_tests::payload::decode(&payload)),
        other => (format!("{other:?}"), Value::Null),
    };
    packets.into_iter().map(word).collect()
}

fn refusal(topic: &str, text: &str) -> Vec<(String, Value)> {
    vec![(topic.to_owned(), json!({"code": -1, "msg": text})), (format!("{:?}", Packet::Disconnect), Value::Null)]
}

#[tokio::test]
async fn after_connect_a_pingreq_is_answered_before_and_after_registering() {
    let master = master().start().await;
    let mut peer = Peer::connect(CHAT, master.address()).await;
    peer.send(&Packet::Pingreq).await;
    assert_eq!(peer.next().await, Some(Packet::Pingresp));
    assert_eq!(peer.register_monitor(CHAT, "chat").await, json!({"code": 1, "msg": "ok"}));
    peer.send(&Packet::Pingreq).await;
    assert_eq!(peer.next().await, Some(Packet::Pingresp));
    master.shutdown().await;
}

/// The original reads PUBLISH before CONNECT; no peer sends it.
#[tokio::test]
async fn whatever_stands_before_connect_closes() {
    let master = master().start().await;
    let register = publish_bytes("register", hello(CHAT, Some(&token_for("chat"))).to_string().as_bytes());
    let first: [(&str, Vec<u8>); 6] = [
        ("PINGREQ", Packet::Pingreq.encode()),
        ("PINGRESP", Packet::Pingresp.encode()),
        ("CONNACK", Packet::Connack.encode()),
        ("DISCONNECT", Packet::Disconnect.encode()),
        ("register", register),
        ("an unknown topic", publish_bytes("x", b"{}")),
    ];
    for (what, bytes) in first {
        let mut peer = Peer::open(what, master.address()).await;
        peer.send_bytes(&bytes).await;
        assert_eq!(peer.expect_closed().await, [], "{what}");
    }
    let mut operator = Operator::log_in(master.address()).await;
    assert!(!operator.sees(CHAT).await);
    master.shutdown().await;
}

#[tokio::test]
async fn a_second_connect_closes_and_ends_the_identity() {
    let master = master().start().await;
    let mut stranger = Peer::connect("stranger", master.address()).await;
    stranger.send_connect().await;
    assert_eq!(stranger.expect_closed().await, []);
    let mut monitor = Peer::monitor(master.address(), CHAT, "chat").await;
    monitor.send_connect().await;
    assert_eq!(monitor.expect_closed().await, []);
    Operator::log_in(master.address()).await.wait_until_gone(CHAT).await;
    master.shutdown().await;
}

/// In the original a monitor becomes its own slave, or a second server on one connection.
#[tokio::test]
async fn a_second_register_or_reconnect_ends_the_first_identity_with_the_connection() {
    let master = master().start().await;
    let mut operator = Operator::log_in(master.address()).await;
    let token = token_for("chat");
    for (topic, id) in [("register", CHAT), ("register", "chat-server-2"), ("reconnect", "chat-server-2")] {
        let mut monitor = Peer::monitor(master.address(), CHAT, "chat").await;
        monitor.publish(topic, &hello(id, Some(&token)).to_string()).await;
        assert_eq!(monitor.expect_closed().await, [Packet::Disconnect], "{topic} {id}");
        operator.wait_until_gone(CHAT).await;
        assert!(!operator.sees("chat-server-2").await, "{topic} {id}");
    }
    let mut client = Peer::admin(master.address(), "client-1").await;
    let login = json!({"type": "client", "id": "client-2", "username": "admin", "password": "admin", "md5": false});
    client.publish("register", &login.to_string()).await;
    assert_eq!(client.expect_closed().await, [Packet::Disconnect]);
    // Both ids are free.
    Peer::admin(master.address(), "client-1").await;
    Peer::admin(master.address(), "client-2").await;
    master.shutdown().await;
}

/// Q6: the original lets everybody in by `reconnect`.
#[tokio::test]
async fn a_reconnect_with_a_wrong_token_or_none_is_answered_and_disconnected() {
    let master = master().start().await;
    for token in [None, Some("wrong"), Some("token-for-gate")] {
        let mut peer = Peer::connect(CHAT, master.address()).await;
        peer.publish("reconnect", &hello(CHAT, token).to_string()).await;
        assert_eq!(last_words(&mut peer).await, refusal("reconnect_ok", "server auth failed"), "{token:?}");
    }
    master.shutdown().await;
}

/// In the original this makes an administrator of anybody.
#[tokio::test]
async fn a_client_cannot_come_in_by_reconnect() {
    for policy in ["known", "open"] {
        let master = master().set("auth.reconnect", policy).start().await;
        let login = json!({"type": "client", "id": "client-1", "username": "admin", "password": "admin", "md5": false,
            "serverType": "client"});
        let mut peer = Peer::connect("client-1", master.address()).await;
        peer.publish("reconnect", &login.to_string()).await;
        let words = last_words(&mut peer).await;
        assert_eq!((words[0].0.as_str(), &words[0].1["code"]), ("reconnect_ok", &json!(-1)), "{policy}: {words:?}");
        assert_eq!(words[1..], [(format!("{:?}", Packet::Disconnect), Value::Null)], "{policy}");
        master.shutdown().await;
    }
}

/// Q5: the old link is probed for 3 s, the refusal has the original's text, and the connection stays as long as any
/// other that has not registered.
#[tokio::test]
async fn a_reconnect_for_a_live_id_waits_for_the_old_link_and_then_for_its_own_time_to_register() {
    let master = master().start().await;
    let mut first = Peer::monitor(master.address(), CHAT, "chat").await;
    let accepted = Instant::now();
    let mut second = Peer::connect("second", master.address()).await;
    let refused = second.reconnect_monitor(CHAT, "chat").await;
    assert_eq!(refused, json!({"code": -1, "msg": "id has been registered. id:chat-server-1"}));
    let waited = accepted.elapsed();
    assert!(waited > Duration::from_millis(2500), "the old link had {waited:?} to show that it is dead");
    // The original's peers take a PINGRESP that they did not ask for.
    assert_eq!(first.next().await, Some(Packet::Pingresp));
    // It may try again: the old one leaves, and while it does, the new one is let in.
    let again = async { second.reconnect_monitor(CHAT, "chat").await };
    let (answer, ()) = tokio::join!(again, first.finish_sending());
    assert_eq!(answer, json!({"code": 1, "msg": "ok"}));
    let mut third = Peer::connect("third", master.address()).await;
    let accepted = Instant::now();
    assert_eq!(third.reconnect_monitor(CHAT, "chat").await["code"], -1);
    // Waiting for the old link buys no time: it counts from acceptance.
    third.expect_closed_within(Duration::from_secs(15)).await;
    let lasted = accepted.elapsed();
    let expected = Duration::from_millis(9500)..Duration::from_secs(13);
    assert!(expected.contains(&lasted), "cut after {lasted:?}");
    second.expect_silence().await;
    master.shutdown().await;
}
