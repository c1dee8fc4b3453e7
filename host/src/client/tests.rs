//! A client and a peer that plays the master, over real sockets.

use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time::timeout,
};

use super::*;
use crate::wire::{
    Topic,
    envelope::{self, Envelope, ReqId},
    handshake::{self, Hello},
    packet::{self, Packet},
};

const SOON: Duration = Duration::from_secs(10);

struct Master {
    listener: TcpListener,
}

/// The master's end of a connection.
struct Peer {
    socket: TcpStream,
    buffer: BytesMut,
}

/// A message of the client: its id (0 for none), the module or command, and the body.
type Asked = (u64, String, String);

impl Master {
    async fn new() -> Master {
        Master { listener: TcpListener::bind("127.0.0.1:0").await.unwrap() }
    }

    fn options(&self) -> Options {
        Options {
            id: Some("c-1".to_owned()),
            timeout: SOON,
            ..Options::new(self.listener.local_addr().unwrap().to_string(), "admin", "admin")
        }
    }

    /// A connection with its hello, not answered yet.
    async fn accept(&self) -> (Peer, ClientHello) {
        let (socket, _) = timeout(SOON, self.listener.accept()).await.unwrap().unwrap();
        let mut peer = Peer { socket, buffer: BytesMut::new() };
        peer.socket.write_all(packet::CONNACK).await.unwrap();
        let Some((Topic::Register, payload)) = peer.recv().await else { panic!("no register") };
        let Ok(Hello::Client(hello)) = handshake::read(&payload) else { panic!("no client") };
        (peer, hello)
    }

    async fn let_in(&self) -> Peer {
        let (mut peer, _) = self.accept().await;
        peer.send(handshake::answer(Topic::Register, Ok(()))).await;
        peer
    }

    async fn client(&self) -> (Client, Peer) {
        let (client, peer) = tokio::join!(Client::connect(self.options()), self.let_in());
        (client.unwrap(), peer)
    }
}

impl Peer {
    /// The next message; `None` after a good-bye.
    async fn recv(&mut self) -> Option<(Topic, Bytes)> {
        loop {
            if let Some((packet, used)) = packet::decode(&self.buffer, packet::MAX_REMAINING).unwrap() {
                let message = match packet {
                    Packet::Publish { topic, payload } => Some((topic.unwrap(), Bytes::copy_from_slice(payload))),
                    Packet::Disconnect => return None,
                    _ => None,
                };
                self.buffer.advance(used);
                if message.is_some() {
                    return message;
                }
                continue;
            }
            let read = timeout(SOON, self.socket.read_buf(&mut self.buffer)).await.unwrap().unwrap();
            assert!(read > 0, "closed without a good-bye");
        }
    }

    async fn asked(&mut self) -> Asked {
        let Some((Topic::Client, payload)) = self.recv().await else { panic!("no message") };
        let number = |id| match id {
            ReqId::Number(number) => number,
            ReqId::Raw(raw) => panic!("a client counts, it does not send {raw}"),
        };
        match envelope::read(&payload, &mut String::new()).unwrap() {
            Envelope::Request { id, module, body } => (number(id), module.into_owned(), body.to_owned()),
            Envelope::Notify { module, body } => (0, module.into_owned(), body.to_owned()),
            Envelope::Command { id, command, module, body } => {
                (number(id.unwrap()), format!("{command} {module}"), body.to_owned())
            }
            Envelope::Response { .. } => panic!("a client answers nothing"),
        }
    }

    async fn answer(&mut self, id: u64, error: &str, body: &str) {
        let mut frame = Vec::new();
        envelope::response(&mut frame, Topic::Client, &ReqId::Number(id), error.as_bytes(), body.as_bytes());
        self.send(frame.into()).await;
    }

    async fn send(&mut self, frame: Bytes) {
        self.socket.write_all(&frame).await.unwrap();
    }
}

fn text(raw: Option<Box<RawValue>>) -> String {
    raw.map_or("nothing".to_owned(), |raw| raw.get().to_owned())
}

#[tokio::test]
async fn logs_in_with_the_md5_of_the_password() {
    let master = Master::new().await;
    let accept = async {
        let (mut peer, hello) = master.accept().await;
        peer.send(handshake::answer(Topic::Register, Ok(()))).await;
        (peer, hello)
    };
    let (client, (_peer, hello)) = tokio::join!(Client::connect(master.options()), accept);
    assert_eq!(client.unwrap().id(), "c-1");
    let expected = ClientHello {
        id: "c-1".to_owned(),
        username: "admin".to_owned(),
        password: "21232f297a57a5a743894a0e4a801fc3".to_owned(),
        md5: true,
    };
    assert_eq!(hello, expected);
}

#[tokio::test]
async fn a_refused_login_says_what_the_master_said() {
    let master = Master::new().await;
    let refuse = async {
        let (mut peer, _) = master.accept().await;
        peer.send(handshake::answer(Topic::Register, Err("client auth failed"))).await;
        peer.send(Bytes::from_static(packet::DISCONNECT)).await;
    };
    let (client, ()) = tokio::join!(Client::connect(master.options()), refuse);
    let error = client.unwrap_err();
    assert!(matches!(&error, ClientError::RefusedLogin { text } if text == "client auth failed"), "{error:?}");
}

#[tokio::test]
async fn a_master_that_hangs_up_or_stays_silent_is_no_login() {
    let master = Master::new().await;
    let hang_up = async { master.accept().await.0.send(Bytes::from_static(packet::DISCONNECT)).await };
    let (client, ()) = tokio::join!(Client::connect(master.options()), hang_up);
    assert!(matches!(client, Err(ClientError::Disconnected)), "{client:?}");

    let impatient = Options { timeout: Duration::from_millis(50), ..master.options() };
    let (client, _peer) = tokio::join!(Client::connect(impatient), master.accept());
    assert!(matches!(client, Err(ClientError::Timeout { .. })), "{client:?}");
}

#[tokio::test]
async fn answers_find_their_requests_in_any_order() {
    let master = Master::new().await;
    let (client, mut peer) = master.client().await;
    let ask = |n: u32| {
        let client = client.clone();
        async move { client.request("echo", json!({ "n": n })).await.unwrap() }
    };
    let serve = async {
        let mut asked = [peer.asked().await, peer.asked().await, peer.asked().await];
        asked.reverse();
        for (id, module, body) in &asked {
            assert_eq!(module, "echo");
            peer.answer(*id, "null", body).await;
        }
        asked.map(|(id, ..)| id)
    };
    let (one, two, three, ids) = tokio::join!(ask(1), ask(2), ask(3), serve);
    assert_eq!(ids, [3, 2, 1]);
    for (n, answer) in [(1, one), (2, two), (3, three)] {
        assert!(answer.error.is_none(), "null is no error");
        assert_eq!(text(answer.body), format!(r#"{{"n":{n},"clientId":"c-1","username":"admin"}}"#));
    }
}

#[tokio::test]
async fn a_second_answer_changes_nothing() {
    let master = Master::new().await;
    let (client, mut peer) = master.client().await;
    let serve = async {
        peer.asked().await;
        peer.answer(1, r#""Cannot find the server to stop.""#, "").await;
        peer.answer(1, "", r#"{"status":"part"}"#).await;
        let (id, command, _) = peer.asked().await;
        assert_eq!((id, command.as_str()), (2, "disable timeReport"));
        peer.answer(2, "null", "1").await;
    };
    let ask = async {
        let stop = client.request("__console__", json!({"signal": "stop", "ids": ["x"]})).await.unwrap();
        assert_eq!(text(stop.error), r#""Cannot find the server to stop.""#);
        assert_eq!(text(stop.body), "nothing");
        let disable = client.command("disable", Some("timeReport"), ()).await.unwrap();
        assert_eq!(text(disable.body), "1");
    };
    tokio::join!(serve, ask);
}

#[tokio::test]
async fn a_request_that_is_not_answered_ends_with_a_timeout_and_the_next_one_works() {
    let master = Master::new().await;
    let (client, mut peer) = master.client().await;
    let never = client.with_timeout(Duration::from_millis(50)).request("echo", ()).await;
    assert!(matches!(never, Err(ClientError::Timeout { .. })), "{never:?}");
    assert_eq!(peer.asked().await.0, 1);
    let serve = async {
        peer.answer(1, "", "\"late\"").await;
        let (id, ..) = peer.asked().await;
        peer.answer(id, "", "\"in time\"").await;
    };
    let (answer, ()) = tokio::join!(client.request("echo", ()), serve);
    assert_eq!(text(answer.unwrap().body), "\"in time\"");
}

#[tokio::test]
async fn notifies_go_both_ways() {
    let master = Master::new().await;
    let (client, mut peer) = master.client().await;
    let mut notifications = client.notifications();
    client.notify("profiler", "text").await.unwrap();
    assert_eq!(peer.asked().await, (0, "profiler".to_owned(), "\"text\"".to_owned()));
    peer.send(envelope::notify(Topic::Client, "profiler", b"[1]")).await;
    let notification = timeout(SOON, notifications.recv()).await.unwrap().unwrap();
    assert_eq!((notification.module.as_str(), text(notification.body)), ("profiler", "[1]".to_owned()));
}

#[tokio::test]
async fn after_a_broken_link_it_logs_in_again_and_sends_nothing_twice() {
    let master = Master::new().await;
    let (client, mut peer) = master.client().await;
    let break_it = async {
        assert_eq!(peer.asked().await.0, 1);
        drop(peer);
    };
    let (lost, ()) = tokio::join!(client.request("echo", "lost"), break_it);
    assert!(matches!(lost, Err(ClientError::Disconnected)), "{lost:?}");

    // Asked while there is no link: waits for the login, which the master refuses once.
    let refuse = async {
        let (mut peer, hello) = master.accept().await;
        assert_eq!(hello.id, "c-1", "registers again");
        peer.send(handshake::answer(Topic::Register, Err("id has been registered. id:c-1"))).await;
    };
    let (refused, ()) = tokio::join!(client.request("echo", "refused"), refuse);
    assert!(matches!(refused, Err(ClientError::RefusedLogin { .. })), "{refused:?}");

    let serve = async {
        let mut peer = master.let_in().await;
        let asked = peer.asked().await;
        assert_eq!(asked, (2, "echo".to_owned(), "\"again\"".to_owned()), "neither of the two before is sent");
        peer.answer(2, "", "true").await;
        peer
    };
    let (answer, _peer) = tokio::join!(client.request("echo", "again"), serve);
    assert_eq!(text(answer.unwrap().body), "true");
}

#[tokio::test]
async fn closing_and_dropping_say_good_bye_after_what_was_asked() {
    let master = Master::new().await;
    let (client, mut peer) = master.client().await;
    let clone = client.clone();
    client.notify("echo", 1).await.unwrap();
    client.close().await;
    assert_eq!(peer.asked().await.1, "echo");
    assert!(peer.recv().await.is_none());
    assert!(matches!(clone.request("echo", ()).await, Err(ClientError::Disconnected)));

    let (client, mut peer) = master.client().await;
    drop(client);
    assert!(peer.recv().await.is_none());
}

#[tokio::test]
async fn a_pinging_master_is_answered_and_odd_messages_are_dropped() {
    let master = Master::new().await;
    let (client, mut peer) = master.client().await;
    peer.send(Bytes::from_static(packet::PINGREQ)).await;
    peer.send(envelope::notify(Topic::Monitor, "m", b"1")).await;
    peer.send(envelope::notify(Topic::Client, "m", b"{nonsense")).await;
    let serve = async {
        let (id, ..) = peer.asked().await;
        peer.answer(id, "", "0").await;
    };
    let (answer, ()) = tokio::join!(client.request("echo", ()), serve);
    assert_eq!(text(answer.unwrap().body), "0", "a falsy body is a body");
}

#[test]
fn options_do_not_show_the_password() {
    let options = Options::new("h:1", "admin", "secret");
    assert!(!format!("{options:?}").contains("secret"));
}
