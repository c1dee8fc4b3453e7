//! Bytes that mean no good, or do not know better: FAULTS.md, rows 24, 25 and 33. In each test a well-behaved
//! monitor and client must notice nothing, meanwhile and after.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use muster_tests::bystanders::Bystanders;
use muster_tests::daemon::{Daemon, Setup};
use muster_tests::packet::{Packet, frame, publish_bytes, remaining_length};
use muster_tests::peer::Peer;
use serde_json::json;
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

pub(crate) async fn start() -> (Daemon, SocketAddr, Bystanders) {
    let master = Setup::master().start().await;
    let address = master.address();
    let bystanders = Bystanders::join(address).await;
    (master, address, bystanders)
}

pub(crate) async fn end(master: Daemon, mut bystanders: Bystanders) {
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
pub(crate) async fn shower(peer: &mut Peer, bytes: &[u8]) {
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
        Packet::Publish { payload, .. } => muster_tests::payload::decode(payload)["body"] == 1,
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
