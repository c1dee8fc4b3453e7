//! Mailboxes on real sockets, with servers that do what they like.

use std::time::Duration;

use muster_plugin_api::{Body, Event, RequestError};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time::timeout,
};

use super::{Call, Config, Rpc, message::Response};
use crate::wire::{
    Topic, frame,
    packet::{self, Packet},
};

const SOON: Duration = Duration::from_secs(20);
const CONFIG: Config =
    Config { timeout: SOON, keepalive: Duration::from_secs(10), buffer: Duration::ZERO, largest: 1 << 20 };

/// A proxy for one server, `chat-1`, that listens here.
struct Stage {
    rpc: Rpc,
    listener: TcpListener,
}

/// The server's end of a link.
struct Server {
    socket: TcpStream,
    buffer: Vec<u8>,
}

impl Stage {
    async fn new(config: Config) -> Stage {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let rpc = Rpc::new(config);
        let info = json!({ "serverType": "chat", "host": "127.0.0.1", "port": listener.local_addr().unwrap().port() });
        rpc.follow(&Event::ServersAdded { servers: [("chat-1".to_owned(), Body::from(info))].into() });
        Stage { rpc, listener }
    }

    async fn accept(&self) -> Server {
        let (socket, _) = timeout(SOON, self.listener.accept()).await.expect("it connects").unwrap();
        let mut server = Server { socket, buffer: Vec::new() };
        server.expect_connect().await;
        server
    }

    /// Begins `user.s.m(number)`.
    fn call(&self, number: u64) -> tokio::task::JoinHandle<Result<(String, Response), RequestError>> {
        let body = json!({ "namespace": "user", "service": "s", "method": "m", "args": [number] }).to_string();
        tokio::spawn(self.rpc.call(Call { target: "chat", key: "", timeout: None, body: body.as_bytes() }))
    }
}

impl Server {
    async fn expect_connect(&mut self) {
        let packet = self.read(|packet| match packet {
            Packet::Connect => Some(()),
            _ => None,
        });
        packet.await.expect("a CONNECT");
    }

    /// The payload of the next message.
    async fn message(&mut self) -> Value {
        self.read(|packet| match packet {
            Packet::Publish { topic: Some(Topic::Rpc), payload } => Some(serde_json::from_slice(payload).unwrap()),
            _ => None,
        })
        .await
        .expect("a message")
    }

    /// The next packet that means something; `None` at the end of the connection.
    async fn read<T>(&mut self, what: impl Fn(Packet<'_>) -> Option<T>) -> Option<T> {
        loop {
            while let Some((packet, used)) = packet::decode(&self.buffer, 1 << 24).unwrap() {
                let found = what(packet);
                self.buffer.drain(..used);
                if found.is_some() {
                    return found;
                }
            }
            let read = timeout(SOON, self.socket.read_buf(&mut self.buffer)).await.expect("it sends in time");
            if read.unwrap() == 0 {
                return None;
            }
        }
    }

    async fn send(&mut self, payload: &str) {
        let frame = frame::alone(Topic::Rpc, payload.len(), |frame| frame.put(payload.as_bytes()));
        self.socket.write_all(&frame).await.unwrap();
    }
}

async fn results(call: tokio::task::JoinHandle<Result<(String, Response), RequestError>>) -> String {
    let (id, response) = timeout(SOON, call).await.expect("it ends").unwrap().unwrap();
    assert_eq!((id.as_str(), response.error()), ("chat-1", "null"));
    response.results()
}

async fn failure(call: tokio::task::JoinHandle<Result<(String, Response), RequestError>>) -> RequestError {
    timeout(SOON, call).await.expect("it ends").unwrap().expect_err("no answer came")
}

#[tokio::test]
async fn calls_share_a_link_and_answers_find_them_in_any_order_and_once() {
    let stage = Stage::new(CONFIG).await;
    let (first, second) = (stage.call(1), stage.call(2));
    let mut server = stage.accept().await;
    let mut asked = [server.message().await, server.message().await];
    asked.sort_by_key(|message| message["msg"]["args"][0].as_u64());
    let msg = json!({ "namespace": "user", "serverType": "chat", "service": "s", "method": "m", "args": [1] });
    assert_eq!(asked[0]["msg"], msg);
    let [one, two] = asked.map(|message| message["id"].clone());
    for odd in ["not JSON", "[]", "{}", r#"{"id":99,"resp":[]}"#, r#"{"id":-1,"resp":[]}"#, r#"{"id":"0","resp":[]}"#] {
        server.send(odd).await;
    }
    server.send(&format!(r#"[{{"id":{two},"resp":[null,22]}},7,{{"id":{two},"resp":[null,23]}}]"#)).await;
    server.send(&format!(r#"{{"id":{one},"resp":[null,11]}}"#)).await;
    assert_eq!((results(first).await, results(second).await), ("[11]".to_owned(), "[22]".to_owned()));
}

#[tokio::test]
async fn an_answer_without_a_list_and_a_call_without_answer_are_errors() {
    let stage = Stage::new(CONFIG).await;
    let odd = stage.call(1);
    let mut server = stage.accept().await;
    let id = server.message().await["id"].clone();
    server.send(&format!(r#"{{"id":{id},"resp":{{}}}}"#)).await;
    let error = failure(odd).await;
    assert!(matches!(&error, RequestError::Refused(text) if text.contains("without a list")), "{error:?}");
    let stage = Stage::new(Config { timeout: Duration::from_millis(300), ..CONFIG }).await;
    let error = failure(stage.call(2)).await;
    assert!(matches!(&error, RequestError::Timeout(text) if text.contains("chat-1 did not answer")), "{error:?}");
}

#[tokio::test]
async fn what_was_sent_ends_with_the_link_and_is_not_sent_again() {
    let stage = Stage::new(CONFIG).await;
    let lost = stage.call(1);
    let mut server = stage.accept().await;
    server.message().await;
    drop(server);
    let error = failure(lost).await;
    assert!(matches!(&error, RequestError::Gone(text) if text.contains("was lost before it answered")), "{error:?}");
    let next = stage.call(2);
    let mut server = stage.accept().await;
    let message = server.message().await;
    assert_eq!(message["msg"]["args"], json!([2]));
    server.send(&format!(r#"{{"id":{},"resp":[null]}}"#, message["id"])).await;
    assert_eq!(results(next).await, "[]");
}

#[tokio::test]
async fn malformed_and_oversized_packets_end_the_link() {
    for (bytes, words) in
        [(&[0x00, 0, 0][..], "does not speak"), (&[0x30, 0xff, 0xff, 0xff, 0x7f], "larger than the limit")]
    {
        let stage = Stage::new(CONFIG).await;
        let call = stage.call(1);
        let mut server = stage.accept().await;
        server.message().await;
        server.socket.write_all(bytes).await.unwrap();
        let error = failure(call).await;
        assert!(matches!(&error, RequestError::Gone(text) if text.contains(words)), "{error:?}");
    }
}

#[tokio::test]
async fn a_server_that_leaves_takes_its_calls_along() {
    let stage = Stage::new(CONFIG).await;
    let call = stage.call(1);
    let mut server = stage.accept().await;
    server.message().await;
    stage.rpc.follow(&Event::ServersRemoved { ids: vec!["chat-1".to_owned()] });
    let error = failure(call).await;
    assert!(matches!(error, RequestError::Gone(_)), "{error:?}");
    assert_eq!(server.read(|_| Some(())).await, None, "the link is closed");
    let error = failure(stage.call(2)).await;
    assert_eq!(error, RequestError::UnknownServer("chat".to_owned()));
}

#[tokio::test]
async fn a_server_that_cannot_be_reached_ends_its_calls_and_is_tried_again() {
    let stage = Stage::new(CONFIG).await;
    let address = stage.listener.local_addr().unwrap();
    let Stage { rpc, listener } = stage;
    drop(listener);
    let body = br#"{"namespace":"user","service":"s","method":"m","args":[]}"#;
    let call = || tokio::spawn(rpc.call(Call { target: "chat-1", key: "", timeout: None, body }));
    let error = failure(call()).await;
    let words = format!("chat-1 cannot be reached at {address}");
    assert!(matches!(&error, RequestError::Gone(text) if text.contains(&words)), "{error:?}");
    // It comes back while a call waits for the next attempt.
    let waiting = call();
    let listener = TcpListener::bind(address).await.unwrap();
    let (socket, _) = timeout(SOON, listener.accept()).await.expect("it tries again").unwrap();
    let mut server = Server { socket, buffer: Vec::new() };
    let message = server.message().await;
    server.send(&format!(r#"{{"id":{},"resp":[null,1]}}"#, message["id"])).await;
    assert_eq!(results(waiting).await, "[1]");
}

#[tokio::test]
async fn a_directory_that_is_told_again_keeps_links_and_one_with_another_address_does_not() {
    let stage = Stage::new(CONFIG).await;
    let call = stage.call(1);
    let mut server = stage.accept().await;
    let message = server.message().await;
    let port = stage.listener.local_addr().unwrap().port();
    let told = |port: u16| json!({ "chat-1": { "serverType": "chat", "host": "127.0.0.1", "port": port } });
    stage.rpc.replace(told(port).as_object().unwrap());
    server.send(&format!(r#"{{"id":{},"resp":[null,1]}}"#, message["id"])).await;
    assert_eq!(results(call).await, "[1]");
    stage.rpc.replace(told(if port == 1 { 2 } else { 1 }).as_object().unwrap());
    assert_eq!(server.read(|_| Some(())).await, None, "the link is closed");
}

#[tokio::test]
async fn collected_calls_are_sent_as_one_message() {
    let stage = Stage::new(Config { buffer: Duration::from_millis(300), ..CONFIG }).await;
    let calls = [stage.call(1), stage.call(2), stage.call(3)];
    let mut server = stage.accept().await;
    let mut ids = Vec::new();
    while ids.len() < 3 {
        let message = server.message().await;
        ids.extend(message.as_array().expect("a list").iter().map(|entry| entry["id"].clone()));
    }
    let answers: Vec<String> = ids.iter().map(|id| format!(r#"{{"id":{id},"resp":[null,{id}]}}"#)).collect();
    server.send(&format!("[{}]", answers.join(","))).await;
    for call in calls {
        results(call).await;
    }
}

#[tokio::test]
async fn a_server_is_pinged_and_given_up_when_it_does_not_answer() {
    let stage = Stage::new(Config { keepalive: Duration::from_secs(1), ..CONFIG }).await;
    let call = stage.call(1);
    let mut server = stage.accept().await;
    server.read(|packet| (packet == Packet::Pingreq).then_some(())).await.expect("a ping");
    server.socket.write_all(packet::PINGRESP).await.unwrap();
    server.read(|packet| (packet == Packet::Pingreq).then_some(())).await.expect("another ping");
    let error = failure(call).await;
    assert!(matches!(&error, RequestError::Gone(text) if text.contains("does not answer pings")), "{error:?}");
}

#[tokio::test]
async fn a_server_that_does_not_answer_has_room_for_so_much_and_no_more() {
    let stage = Stage::new(CONFIG).await;
    let large =
        json!({ "namespace": "user", "service": "s", "method": "m", "args": ["x".repeat(1_000_000)] }).to_string();
    let call = || tokio::spawn(stage.rpc.call(Call { target: "chat", key: "", timeout: None, body: large.as_bytes() }));
    let waiting: Vec<_> = (0..16).map(|_| call()).collect();
    let error = failure(call()).await;
    assert!(matches!(&error, RequestError::Busy(text) if text.contains("chat-1")), "{error:?}");
    stage.rpc.follow(&Event::ServersRemoved { ids: vec!["chat-1".to_owned()] });
    for call in waiting {
        failure(call).await;
    }
}
