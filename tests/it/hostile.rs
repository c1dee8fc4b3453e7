//! Peers that mean no good, or do not know better: FAULTS.md, rows 24 to 27 and 33. In each test a well-behaved
//! monitor and client must notice nothing, meanwhile and after.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use muster_tests::bystanders::Bystanders;
use muster_tests::config::{ConfigDir, token_for};
use muster_tests::daemon::{Daemon, Setup};
use muster_tests::packet::{Packet, frame, publish_bytes, remaining_length};
use muster_tests::peer::Peer;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

/// Largest packet before and after login, from the table of defaults.
const BEFORE_LOGIN: usize = 64 * 1024;
const AFTER_LOGIN: usize = 16 * 1024 * 1024;
/// Until a connection must have said CONNECT, and have registered.
const TO_CONNECT: Duration = Duration::from_secs(5);
const TO_REGISTER: Duration = Duration::from_secs(10);
/// A timer may be late on a busy machine, and never early.
const LATE: Duration = Duration::from_secs(8);

async fn start() -> (Daemon, SocketAddr, Bystanders) {
    let master = Setup::master().start().await;
    let address = master.address();
    let bystanders = Bystanders::join(address).await;
    (master, address, bystanders)
}

async fn end(master: Daemon, mut bystanders: Bystanders) {
    bystanders.check().await;
    master.shutdown().await;
}

/// The packets that a peer got before it was cut, which must not be before `limit` has passed.
async fn cut_after(peer: &mut Peer, since: Instant, limit: Duration) -> Vec<Packet> {
    let packets = peer.expect_closed_within(limit + LATE).await;
    let lasted = since.elapsed();
    // Half a second of grace: our clock was started before the master's.
    assert!(lasted + Duration::from_millis(500) > limit, "cut after {lasted:?}, due are {limit:?}");
    packets
}

/// Sends bytes of which the other side may refuse the rest.
async fn shower(peer: &mut Peer, bytes: &[u8]) {
    for chunk in bytes.chunks(64 * 1024) {
        if peer.try_send_bytes(chunk).await.is_err() {
            return;
        }
    }
}

fn only_disconnect(packets: &[Packet]) -> bool {
    packets.iter().all(|packet| *packet == Packet::Disconnect)
}

// === Row 24: slow and silent ===

#[tokio::test]
async fn who_never_says_connect_is_cut_after_five_seconds() {
    let (master, address, mut bystanders) = start().await;
    let since = Instant::now();
    let mut silent = Peer::open("silent", address).await;
    let mut dripping = Peer::open("dripping", address).await;
    // Half a CONNECT is no CONNECT.
    dripping.send_bytes(&Packet::connect("MQTT_ADMIN_1").encode()[..7]).await;
    bystanders.check().await;
    assert_eq!(cut_after(&mut silent, since, TO_CONNECT).await, []);
    assert_eq!(cut_after(&mut dripping, since, TO_CONNECT).await, []);
    end(master, bystanders).await;
}

#[tokio::test]
async fn who_never_registers_is_cut_after_ten_seconds() {
    let (master, address, mut bystanders) = start().await;
    let since = Instant::now();
    let mut silent = Peer::connect("silent", address).await;
    let mut busy = Peer::connect("busy", address).await;
    // Neither half a registration nor pings buy time.
    busy.publish("register", r#"{"type":"monitor","serverType":"chat"}"#).await;
    busy.settle().await;
    bystanders.check().await;
    assert!(only_disconnect(&cut_after(&mut silent, since, TO_REGISTER).await));
    assert!(only_disconnect(&cut_after(&mut busy, since, TO_REGISTER).await));
    end(master, bystanders).await;
}

#[tokio::test]
async fn many_silent_connections_disturb_nobody() {
    let (master, address, mut bystanders) = start().await;
    let mut crowd = Vec::new();
    for _ in 0..200 {
        crowd.push(Peer::open("crowd", address).await);
    }
    bystanders.check().await;
    let mut newcomer = Peer::admin(address, "newcomer").await;
    newcomer.expect_silence().await;
    for mut peer in crowd {
        peer.expect_closed_within(TO_CONNECT + LATE).await;
    }
    end(master, bystanders).await;
}

// === Row 25: sizes and malformed packets ===

#[tokio::test]
async fn an_announced_packet_of_256_megabytes_closes_the_connection_at_once() {
    let (master, address, mut bystanders) = start().await;
    let before = master.rss_kib();
    for first in [0x10, 0x30] {
        let mut peer = Peer::open("huge", address).await;
        let announcement = [&[first][..], &remaining_length(268_435_455)].concat();
        peer.send_bytes(&announcement).await;
        let since = Instant::now();
        peer.expect_closed().await;
        assert!(since.elapsed() < TO_CONNECT, "it is the size that closes, not the clock");
        bystanders.check().await;
    }
    let mut logged_in = Peer::admin(address, "huge").await;
    logged_in.send_bytes(&[&[0x30][..], &remaining_length(268_435_455)].concat()).await;
    logged_in.expect_closed().await;
    let grown = master.rss_kib().saturating_sub(before);
    assert!(grown < 64 * 1024, "announcements must reserve nothing, memory grew by {grown} KiB");
    end(master, bystanders).await;
}

#[tokio::test]
async fn before_login_packets_are_limited_to_64_kib() {
    let (master, address, mut bystanders) = start().await;
    let mut large = Peer::connect("large", address).await;
    // An unknown topic, so that nothing but the size matters.
    let fits = publish_bytes("x", &vec![b' '; BEFORE_LOGIN - 1024]);
    large.send_bytes(&fits).await;
    assert!(large.settle().await, "a packet below the limit is taken");
    shower(&mut large, &publish_bytes("x", &vec![b' '; BEFORE_LOGIN + 1024])).await;
    large.expect_closed().await;
    bystanders.check().await;
    end(master, bystanders).await;
}

#[tokio::test]
async fn after_login_packets_are_limited_to_16_mib() {
    let (master, address, mut bystanders) = start().await;
    let mut large = Peer::admin(address, "large").await;
    let text = "x".repeat(AFTER_LOGIN - 4096);
    let answer = large.request("echo", json!({"text": text})).await;
    assert_eq!(answer["body"]["text"].as_str().map(str::len), Some(text.len()));
    bystanders.check().await;
    shower(&mut large, &publish_bytes("client", &vec![b' '; AFTER_LOGIN + 4096])).await;
    large.expect_closed().await;
    end(master, bystanders).await;
}

#[tokio::test]
async fn malformed_packets_close_their_connection_and_no_other() {
    let (master, address, mut bystanders) = start().await;
    let client_id = b"\x00\x01a";
    let connect = |name: &[u8], version: u8| {
        let head = u16::try_from(name.len()).expect("names are short").to_be_bytes();
        frame(0x10, &[&head[..], name, &[version, 2, 0, 0], client_id].concat())
    };
    let strangers: Vec<(&str, Vec<u8>)> = vec![
        ("another protocol", connect(b"HTTP", 4)),
        ("another version", connect(b"MQTT", 9)),
        ("a text protocol", b"GET / HTTP/1.1\r\nHost: muster\r\n\r\n".to_vec()),
        ("a reserved packet type", vec![0xf0, 0]),
        ("CONNECT cut short", frame(0x10, &[0, 4, b'M', b'Q'])),
    ];
    for (what, bytes) in strangers {
        let mut peer = Peer::open(what, address).await;
        peer.send_bytes(&bytes).await;
        assert!(only_disconnect(&peer.expect_closed().await), "{what}");
        bystanders.check().await;
    }
    let of_clients: Vec<(&str, Vec<u8>)> = vec![
        ("a remaining length without end", vec![0x30, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]),
        ("a topic longer than its packet", frame(0x30, &[0xff, 0xff, b'x'])),
        ("PUBLISH without a topic", frame(0x30, &[0])),
        ("a topic that is not UTF-8", frame(0x30, &[0, 2, 0xff, 0xfe])),
    ];
    for (what, bytes) in of_clients {
        let mut peer = Peer::admin(address, what).await;
        peer.send_bytes(&bytes).await;
        assert!(only_disconnect(&peer.expect_closed().await), "{what}");
        bystanders.check().await;
    }
    end(master, bystanders).await;
}

#[tokio::test]
async fn payloads_that_are_not_json_are_dropped_and_the_connection_lives() {
    let (master, address, mut bystanders) = start().await;
    let mut client = Peer::admin(address, "client-1").await;
    let mut monitor = Peer::monitor(address, "chat-server-1", "chat").await;
    let deep = "[".repeat(1000) + &"]".repeat(1000);
    let payloads: Vec<Vec<u8>> = vec![
        b"".to_vec(),
        b"not JSON".to_vec(),
        b"{".to_vec(),
        b"NaN".to_vec(),
        br#"{"moduleId":"echo","body":NaN}"#.to_vec(),
        b"\xff\xfe\xfd".to_vec(),
        b"{\"moduleId\":\"echo\",\"body\":\"\xff\"}".to_vec(),
        br#""not JSON inside""#.to_vec(),
        br#""{\"moduleId\":""#.to_vec(),
        b"null".to_vec(),
        b"[]".to_vec(),
        b"4711".to_vec(),
        b"{}".to_vec(),
        deep.into_bytes(),
    ];
    for (peer, topic) in [(&mut client, "client"), (&mut monitor, "monitor")] {
        for payload in &payloads {
            peer.send_bytes(&publish_bytes(topic, payload)).await;
            peer.expect_silence().await;
        }
    }
    bystanders.check().await;
    let answer = client.request("echo", json!({"v": 1})).await;
    assert_eq!(answer["body"]["v"], 1);
    end(master, bystanders).await;
}

#[tokio::test]
async fn a_request_with_a_thousand_levels_has_an_answer_or_none_and_nothing_breaks() {
    let (master, address, mut bystanders) = start().await;
    let mut client = Peer::admin(address, "client-1").await;
    let deep = "[".repeat(1000) + &"]".repeat(1000);
    let request =
        format!(r#"{{"reqId":900,"moduleId":"echo","body":{{"do":"answer","payload":{{"op":"ok","v":{deep}}}}}}}"#);
    client.publish("client", &json!(request).to_string()).await;
    bystanders.check().await;
    // Whether that is answered, dropped or refused is the master's choice; the next one is answered.
    let answer = client.request("echo", json!({"v": 2})).await;
    assert_eq!(answer["body"]["v"], 2);
    end(master, bystanders).await;
}

#[tokio::test]
async fn duplicate_keys_do_not_smuggle_anything_past_the_level() {
    let (master, address, mut bystanders) = start().await;
    let mut client = Peer::client(address, "client-1", "monitor").await;
    let twice = [
        r#"{"reqId":1,"command":"list","command":"disable","moduleId":"echo","body":{"clientId":"client-1"}}"#,
        r#"{"reqId":1,"command":"disable","moduleId":"timeReport","moduleId":"echo","body":{"clientId":"client-1"}}"#,
        r#"{"reqId":1,"command":"disable","moduleId":"echo","body":{"clientId":"client-1","clientId":"client-bystander"}}"#,
        r#"{"reqId":1,"moduleId":"echo","moduleId":"__console__","body":{"signal":"list","signal":"kill"}}"#,
    ];
    for request in twice {
        client.publish("client", &json!(request).to_string()).await;
        assert!(client.settle().await, "{request}");
    }
    bystanders.check().await;
    let told_ok = client.inbox().iter().any(|packet| match packet {
        Packet::Publish { payload, .. } => muster_tests::peer::decode(payload)["body"] == 1,
        _ => false,
    });
    assert!(!told_ok, "a user of level 2 was told ok: {:?}", client.inbox());
    end(master, bystanders).await;
}

#[tokio::test]
async fn packets_in_a_wrong_order_touch_only_their_own_connection() {
    let (master, address, mut bystanders) = start().await;
    let orders: Vec<(&str, Vec<Vec<u8>>)> = vec![
        ("CONNACK from a peer", vec![Packet::Connack.encode()]),
        ("PINGRESP before CONNECT", vec![Packet::Pingresp.encode()]),
        ("CONNECT twice", vec![Packet::connect("a").encode(), Packet::connect("a").encode()]),
        ("DISCONNECT first", vec![Packet::Disconnect.encode()]),
        ("SUBSCRIBE", vec![Packet::connect("a").encode(), frame(0x82, &[0, 1, 0, 1, b'#', 0])]),
        ("reconnect before CONNECT", vec![publish_bytes("reconnect", br#"{"id":"x","type":"monitor"}"#)]),
    ];
    for (what, packets) in orders {
        let mut peer = Peer::open(what, address).await;
        for packet in packets {
            shower(&mut peer, &packet).await;
        }
        bystanders.check().await;
    }
    end(master, bystanders).await;
}

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
            assert_eq!(muster_tests::peer::decode(&payload)["code"], -1, "{payload}");
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
        Packet::Publish { topic, payload } if topic == "client" => muster_tests::peer::decode(payload)["body"] == 1,
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

// === Row 33: who never reads ===

#[tokio::test]
async fn a_client_that_never_reads_is_cut_and_others_go_on() {
    let (master, address, mut bystanders) = start().await;
    let before = master.rss_kib();
    let mut deaf = TcpStream::connect(address).await.expect("the master listens");
    let login = json!({"type": "client", "id": "deaf", "username": "admin", "password": "admin", "md5": false});
    let text = "x".repeat(256 * 1024);
    let request = |id: u64| {
        let request = json!({"reqId": id, "moduleId": "echo", "body": {"text": text}}).to_string();
        publish_bytes("client", json!(request).to_string().as_bytes())
    };
    let hello = [Packet::connect("deaf").encode(), publish_bytes("register", login.to_string().as_bytes())].concat();
    deaf.write_all(&hello).await.expect("a new connection can be written to");
    let flood = async {
        // Up to 1 GiB of answers that nobody takes; long before that the connection is gone.
        for id in 1..=4096 {
            if deaf.write_all(&request(id)).await.is_err() {
                return true;
            }
        }
        false
    };
    let watch = async {
        loop {
            bystanders.check().await;
        }
    };
    let limit = Duration::from_secs(60);
    let was_cut = tokio::select! {
        was_cut = muster_tests::deadline::within("the client that never reads is cut", limit, flood) => was_cut,
        () = watch => false,
    };
    assert!(was_cut, "a bounded queue ends somewhere");
    let grown = master.rss_kib().saturating_sub(before);
    assert!(grown < 256 * 1024, "the queue of one client took {grown} KiB");
    end(master, Bystanders::join_as(address, "after").await).await;
}
