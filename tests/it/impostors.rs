//! Peers that claim to be what they are not: FAULTS.md, rows 26 and 27. In each test a well-behaved monitor and
//! client must notice nothing, meanwhile and after.

use muster_tests::bystanders::Bystanders;
use muster_tests::config::{ConfigDir, token_for};
use muster_tests::daemon::Setup;
use muster_tests::packet::{Packet, publish_bytes};
use muster_tests::peer::Peer;
use serde_json::{Value, json};

use crate::hostile::{end, shower, start};

// === Row 26: topics ===

#[tokio::test]
async fn names_of_events_are_no_topics() {
    let (master, address, mut bystanders) = start().await;
    let mut stranger = Peer::connect("stranger", address).await;
    let mut client = Peer::admin(address, "client-1").await;
    let mut monitor = Peer::monitor(address, "chat-server-1", "chat").await;
    let topics = ["error", "close", "disconnect", "__proto__", "constructor", "connect", "timeout", "", "reconnect_ok"];
    for topic in topics {
        for peer in [&mut stranger, &mut client, &mut monitor] {
            for payload in ["{}", r#"{"code":1,"msg":"ok"}"#, "null", "not JSON"] {
                peer.publish(topic, payload).await;
            }
            peer.expect_silence().await;
        }
    }
    let request = client.send_request("echo", json!({"do": "request", "target": "chat-server-1", "payload": {}})).await;
    monitor.answer_next(Value::Null, json!("still here")).await;
    assert_eq!(client.response(request).await["body"], "still here");
    bystanders.check().await;
    end(master, bystanders).await;
}

#[tokio::test]
async fn messages_of_the_other_role_are_ignored() {
    let (master, address, bystanders) = start().await;
    let mut client = Peer::admin(address, "client-1").await;
    let mut monitor = Peer::monitor(address, "chat-server-1", "chat").await;
    let request = json!({"reqId": 1, "moduleId": "echo", "body": {"op": "ok"}}).to_string();
    let command = json!({"reqId": 2, "command": "disable", "moduleId": "echo", "body": {}}).to_string();
    client.publish("monitor", &json!(request).to_string()).await;
    client.expect_silence().await;
    for message in [request, command] {
        monitor.publish("client", &json!(message).to_string()).await;
        monitor.expect_silence().await;
    }
    end(master, bystanders).await;
}

// === Row 27: who may say who it is ===

/// Not let in: answered with -1, or closed, or both.
async fn is_refused(peer: &mut Peer, topic: &str) {
    match peer.next().await {
        None | Some(Packet::Disconnect) => {}
        Some(Packet::Publish { topic: got, payload }) if got == topic => {
            assert_eq!(muster_tests::payload::decode(&payload)["code"], -1, "{payload}");
        }
        other => panic!("a refusal expected, got {other:?}"),
    }
}

#[tokio::test]
async fn reconnect_needs_an_id_that_has_registered_if_there_is_a_token_table() {
    let (master, address, mut bystanders) = start().await;
    let mut stranger = Peer::connect("stranger", address).await;
    let message = json!({"id": "chat-server-7", "type": "monitor", "serverType": "chat", "pid": 1,
        "info": {"id": "chat-server-7", "serverType": "chat", "host": "127.0.0.1", "port": 1}});
    stranger.publish("reconnect", &message.to_string()).await;
    is_refused(&mut stranger, "reconnect_ok").await;

    // With a token it is as good as a registration.
    let mut known = Peer::connect("known", address).await;
    let mut with_token = message.clone();
    with_token["token"] = json!(token_for("chat"));
    known.publish("reconnect", &with_token.to_string()).await;
    assert_eq!(known.expect_json("reconnect_ok").await, json!({"code": 1, "msg": "ok"}));
    bystanders.check().await;
    end(master, bystanders).await;
}

#[tokio::test]
async fn a_known_id_may_come_back_only_as_what_it_was() {
    let (master, address, bystanders) = start().await;
    let mut monitor = Peer::monitor(address, "chat-server-1", "chat").await;
    monitor.send(&Packet::Disconnect).await;
    monitor.expect_closed().await;
    let mut other = Peer::connect("another type", address).await;
    let message = json!({"id": "chat-server-1", "type": "monitor", "serverType": "connector", "pid": 1,
        "info": {"id": "chat-server-1", "serverType": "connector", "host": "127.0.0.1", "port": 1}});
    other.publish("reconnect", &message.to_string()).await;
    is_refused(&mut other, "reconnect_ok").await;
    end(master, bystanders).await;
}

#[tokio::test]
async fn without_a_token_table_reconnect_is_open_as_in_the_original() {
    let config = ConfigDir::empty().with_users();
    let master = Setup::master().config(config).start().await;
    let mut monitor = Peer::connect("chat-server-1", master.address()).await;
    assert_eq!(monitor.reconnect_monitor("chat-server-1", "chat").await, json!({"code": 1, "msg": "ok"}));
    master.shutdown().await;
}

#[tokio::test]
async fn no_role_can_be_had_by_reconnect() {
    for config in [ConfigDir::recorded(), ConfigDir::empty().with_users()] {
        let master = Setup::master().config(config).set("auth.reconnect", "open").start().await;
        let mut bystanders = Bystanders::join(master.address()).await;
        let claims = [
            json!({"id": "x", "type": "client", "serverType": "client", "username": "admin"}),
            json!({"id": "x", "type": "monitor", "serverType": "client", "pid": 1, "info": {}}),
            json!({"id": "x", "type": "client", "serverType": "chat", "pid": 1, "info": {"level": 1}}),
        ];
        for claim in claims {
            let mut peer = Peer::connect("claimant", master.address()).await;
            peer.publish("reconnect", &claim.to_string()).await;
            let body = json!({"clientId": "x", "username": "admin"});
            for command in [
                json!({"reqId": 1, "command": "list", "body": body}),
                json!({"reqId": 2, "command": "disable", "moduleId": "echo", "body": body}),
                json!({"reqId": 3, "moduleId": "__console__", "body": {"signal": "kill", "clientId": "x"}}),
            ] {
                let bytes = publish_bytes("client", json!(command.to_string()).to_string().as_bytes());
                shower(&mut peer, &bytes).await;
            }
            peer.settle().await;
            let answered =
                peer.inbox().iter().any(|packet| matches!(packet, Packet::Publish { topic, .. } if topic == "client"));
            assert!(!answered, "{claim} made a client: {:?}", peer.inbox());
            bystanders.check().await;
        }
        end(master, bystanders).await;
    }
}

#[tokio::test]
async fn a_connection_cannot_take_a_second_id() {
    let (master, address, mut bystanders) = start().await;
    let mut monitor = Peer::monitor(address, "chat-server-1", "chat").await;
    let mut second = json!({"id": "chat-server-2", "type": "monitor", "serverType": "chat", "pid": 1,
        "info": {"id": "chat-server-2", "serverType": "chat", "host": "127.0.0.1", "port": 2}});
    second["token"] = json!(token_for("chat"));
    shower(&mut monitor, &publish_bytes("register", second.to_string().as_bytes())).await;
    monitor.settle().await;
    let mut client = Peer::admin(address, "client-1").await;
    let target = |id: &str| json!({"do": "notifyById", "target": id, "payload": {"op": "mark", "v": 1}});
    assert_eq!(client.request("echo", target("chat-server-2")).await["body"], false, "nobody has that id");
    bystanders.check().await;
    end(master, bystanders).await;
}

#[tokio::test]
async fn a_client_cannot_become_another_client_or_a_monitor() {
    let (master, address, mut bystanders) = start().await;
    let mut client = Peer::client(address, "client-1", "monitor").await;
    let admin = json!({"type": "client", "id": "client-2", "username": "admin", "password": "admin", "md5": false});
    shower(&mut client, &publish_bytes("register", admin.to_string().as_bytes())).await;
    let forged = json!({"reqId": 1, "command": "disable", "moduleId": "echo",
        "body": {"clientId": "client-2", "username": "admin"}});
    shower(&mut client, &publish_bytes("client", json!(forged.to_string()).to_string().as_bytes())).await;
    client.settle().await;
    let told_ok = client.inbox().iter().any(|packet| match packet {
        Packet::Publish { topic, payload } if topic == "client" => muster_tests::payload::decode(payload)["body"] == 1,
        _ => false,
    });
    assert!(!told_ok, "{:?}", client.inbox());
    bystanders.check().await;
    end(master, bystanders).await;
}

/// In the original one `reconnect` before any login is handed everything that waits for the id.
#[tokio::test]
async fn requests_that_wait_for_a_server_are_not_handed_to_a_stranger() {
    let (master, address, mut bystanders) = start().await;
    let mut monitor = Peer::monitor(address, "chat-server-1", "chat").await;
    let mut client = Peer::admin(address, "client-1").await;
    let secret = json!({"do": "request", "target": "chat-server-1", "payload": {"op": "ok", "v": "a secret"}});
    let asked = client.send_request("echo", secret).await;
    assert_eq!(monitor.expect_message().await["body"]["v"], "a secret");
    drop(monitor);

    let attempts: [(&str, Value); 4] = [
        ("register", json!({"id": "chat-server-1", "type": "monitor", "serverType": "chat", "token": "wrong"})),
        ("register", json!({"id": "chat-server-1", "type": "client", "username": "admin", "password": "wrong"})),
        ("reconnect", json!({"id": "chat-server-1", "type": "client", "serverType": "client"})),
        ("reconnect", json!({"id": "chat-server-1", "type": "monitor", "serverType": "gate", "token": "wrong"})),
    ];
    for (topic, message) in attempts {
        let mut thief = Peer::connect("thief", address).await;
        shower(&mut thief, &publish_bytes(topic, message.to_string().as_bytes())).await;
        thief.settle().await;
        let handed = thief.inbox().iter().any(|packet| format!("{packet:?}").contains("a secret"));
        assert!(!handed, "{topic} {message} was handed {:?}", thief.inbox());
    }
    bystanders.check().await;

    // The server itself gets it again, and the client its answer.
    let mut back = Peer::connect("chat-server-1", address).await;
    assert_eq!(back.reconnect_monitor("chat-server-1", "chat").await, json!({"code": 1, "msg": "ok"}));
    let request = back.answer_next(Value::Null, json!("kept")).await;
    assert!(request["reqId"].is_string(), "sent again with a string id: {request}");
    assert_eq!(client.response(asked).await["body"], "kept");
    end(master, bystanders).await;
}

#[tokio::test]
async fn a_foreign_client_id_in_a_body_is_refused() {
    let (master, address, mut bystanders) = start().await;
    // The bystanding client is an administrator; this one is not, and borrows its id.
    let mut client = Peer::client(address, "client-1", "monitor").await;
    let borrowed = json!({"clientId": "client-bystander", "username": "admin"});
    let answer = client.command("disable", "echo", borrowed.clone()).await;
    assert_eq!(answer["error"]["message"], "Client info error", "{answer}");
    let mut body = borrowed;
    body["signal"] = json!("stop");
    body["ids"] = json!(["test-server-bystander"]);
    let answer = client.request("__console__", body).await;
    assert_eq!(answer["error"]["message"], "Client info error", "{answer}");
    bystanders.check().await;
    end(master, bystanders).await;
}
