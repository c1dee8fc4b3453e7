//! Hand-made peers: a monitor, a client, or something that only looks like one.

use std::collections::VecDeque;
use std::fmt;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use md5::{Digest, Md5};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::deadline::{ANSWER, soon, within};
use crate::packet::{Packet, Splitter};
use crate::payload::{decode, try_decode};

/// One end of a connection whose every packet the test sees, in order.
pub struct Peer {
    name: String,
    /// `None` after [`Peer::finish_sending`].
    sending: Option<OwnedWriteHalf>,
    /// From the task that reads all the time, so that the other side is never held up by a slow test.
    /// Unbounded, because a test ends long before memory does.
    arriving: mpsc::UnboundedReceiver<Packet>,
    reader: JoinHandle<()>,
    /// Arrived while something else was waited for.
    inbox: VecDeque<Packet>,
    /// Topic of our requests: `monitor` or `client`.
    topic: &'static str,
    requests: u64,
}

impl fmt::Debug for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Peer").field("name", &self.name).field("inbox", &self.inbox).finish_non_exhaustive()
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

// === Connections ===

impl Peer {
    /// Opens a TCP connection and says nothing.
    pub async fn open(name: impl Into<String>, address: SocketAddr) -> Self {
        let name = name.into();
        let stream = soon(&format!("{name}: TCP connection to {address}"), TcpStream::connect(address)).await;
        let stream = stream.unwrap_or_else(|error| panic!("{name}: cannot connect to {address}: {error}"));
        Self::over(name, stream)
    }

    /// Takes over an open connection.
    pub fn over(name: impl Into<String>, stream: TcpStream) -> Self {
        stream.set_nodelay(true).expect("a TCP socket takes TCP_NODELAY");
        let (receiving, sending) = stream.into_split();
        let (packets, arriving) = mpsc::unbounded_channel();
        Self {
            name: name.into(),
            sending: Some(sending),
            arriving,
            reader: tokio::spawn(read_all(receiving, packets)),
            inbox: VecDeque::new(),
            topic: "client",
            requests: 0,
        }
    }

    /// Opens a connection and exchanges CONNECT and CONNACK.
    pub async fn connect(name: impl Into<String>, address: SocketAddr) -> Self {
        let mut peer = Self::open(name, address).await;
        peer.send_connect().await;
        assert_eq!(peer.next().await, Some(Packet::Connack), "{}: answer to CONNECT", peer.name);
        peer
    }

    /// A monitor that has registered, with the token of [`crate::config::token_for`] and its usual info.
    pub async fn monitor(address: SocketAddr, id: &str, server_type: &str) -> Self {
        let mut peer = Self::connect(id, address).await;
        let answer = peer.register_monitor(id, server_type).await;
        assert_eq!(answer, json!({"code": 1, "msg": "ok"}), "{id}: registering");
        peer
    }

    /// A client that has logged in as the user `admin` of level 1.
    pub async fn admin(address: SocketAddr, id: &str) -> Self {
        Self::client(address, id, "admin").await
    }

    /// A client that has logged in as `user`, whose password is the user's name, in the md5 form.
    pub async fn client(address: SocketAddr, id: &str, user: &str) -> Self {
        let mut peer = Self::connect(id, address).await;
        let password = md5_hex(user);
        let login = json!({"type": "client", "id": id, "username": user, "password": password, "md5": true});
        peer.publish("register", &login.to_string()).await;
        assert_eq!(peer.expect_json("register").await, json!({"code": 1, "msg": "ok"}), "{id}: login");
        peer
    }

    /// Registers as a monitor and returns the answer.
    pub async fn register_monitor(&mut self, id: &str, server_type: &str) -> Value {
        self.topic = "monitor";
        let mut message = monitor_message(id, server_type);
        message["token"] = json!(crate::config::token_for(server_type));
        self.publish("register", &message.to_string()).await;
        self.expect_json("register").await
    }

    /// Comes back as a monitor, as the original does: without a token. Returns the answer.
    pub async fn reconnect_monitor(&mut self, id: &str, server_type: &str) -> Value {
        self.topic = "monitor";
        self.publish("reconnect", &monitor_message(id, server_type).to_string()).await;
        self.expect_json("reconnect_ok").await
    }
}

// === Sending ===

impl Peer {
    /// Sends CONNECT and does not wait.
    pub async fn send_connect(&mut self) {
        self.send(&Packet::connect(&client_id())).await;
    }

    /// Sends a packet.
    pub async fn send(&mut self, packet: &Packet) {
        self.send_bytes(&packet.encode()).await;
    }

    /// Publishes the text as it is.
    pub async fn publish(&mut self, topic: &str, payload: &str) {
        self.send(&Packet::publish(topic, payload)).await;
    }

    /// Sends any bytes.
    ///
    /// # Panics
    /// If the connection is closed.
    pub async fn send_bytes(&mut self, bytes: &[u8]) {
        let name = self.name.clone();
        self.try_send_bytes(bytes).await.unwrap_or_else(|error| panic!("{name}: sending failed: {error}"));
    }

    /// Sends any bytes to a side that may have had enough.
    ///
    /// # Errors
    /// Those of the socket.
    pub async fn try_send_bytes(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        let sending = self.sending.as_mut().ok_or(std::io::ErrorKind::NotConnected)?;
        soon(&format!("{}: sending", self.name), sending.write_all(bytes)).await
    }

    /// Ends our direction of the connection, as a process does that exits.
    pub async fn finish_sending(&mut self) {
        if let Some(mut sending) = self.sending.take() {
            // The other side may have closed first; then there is nothing to finish.
            sending.shutdown().await.ok();
        }
    }

    /// Sends a notify: a plain object.
    pub async fn notify(&mut self, module: &str, body: Value) {
        self.publish(self.topic, &json!({"moduleId": module, "body": body}).to_string()).await;
    }

    /// Sends a request (JSON in a JSON string) and returns its id.
    pub async fn send_request(&mut self, module: &str, body: Value) -> u64 {
        self.requests += 1;
        let inner = json!({"reqId": self.requests, "moduleId": module, "body": body}).to_string();
        self.publish(self.topic, &json!(inner).to_string()).await;
        self.requests
    }

    /// Sends a request and waits for its response, which it returns whole; other packets wait in the inbox.
    pub async fn request(&mut self, module: &str, body: Value) -> Value {
        let id = self.send_request(module, body).await;
        self.response(id).await
    }

    /// Sends a command of a client and waits for its response.
    pub async fn command(&mut self, command: &str, module: &str, body: Value) -> Value {
        self.requests += 1;
        let id = self.requests;
        let inner = json!({"reqId": id, "command": command, "moduleId": module, "body": body}).to_string();
        self.publish(self.topic, &json!(inner).to_string()).await;
        self.response(id).await
    }

    /// Waits for the next request from the master, answers it with `error` and `body`, and returns it.
    /// `Value::Null` leaves the field out.
    pub async fn answer_next(&mut self, error: Value, body: Value) -> Value {
        let request = self.expect_message().await;
        assert!(request["reqId"] != Value::Null, "{}: a request expected, got {request}", self.name);
        let mut response = json!({"respId": request["reqId"]});
        for (field, value) in [("error", error), ("body", body)] {
            if !value.is_null() {
                response[field] = value;
            }
        }
        self.publish(self.topic, &json!(response.to_string()).to_string()).await;
        request
    }
}

// === Receiving ===

impl Peer {
    /// Next packet, or `None` when the other side has closed.
    pub async fn next(&mut self) -> Option<Packet> {
        let next = self.try_next().await;
        next.unwrap_or_else(|what| panic!("{}: next packet: {what}", self.name))
    }

    /// As [`Peer::next`], for callers that have more to say about a packet that does not come.
    ///
    /// # Errors
    /// If neither a packet nor the end comes in time.
    pub async fn try_next(&mut self) -> Result<Option<Packet>, String> {
        if let Some(packet) = self.inbox.pop_front() {
            return Ok(Some(packet));
        }
        let next = tokio::time::timeout(ANSWER, self.arriving.recv()).await;
        next.map_err(|_| format!("nothing within {ANSWER:?}"))
    }

    /// Next packet, which must be a PUBLISH on `topic` with a plain object; returns the object.
    pub async fn expect_json(&mut self, topic: &str) -> Value {
        match self.next().await {
            Some(Packet::Publish { topic: got, payload }) if got == topic => {
                serde_json::from_str(&payload).unwrap_or_else(|e| panic!("{}: {payload} is not JSON: {e}", self.name))
            }
            other => panic!("{}: expected a message on `{topic}`, got {other:?}", self.name),
        }
    }

    /// Next packet, which must be a message on our topic; decoded once or twice, as it needs.
    pub async fn expect_message(&mut self) -> Value {
        match self.next().await {
            Some(Packet::Publish { topic, payload }) if topic == self.topic => decode(&payload),
            other => panic!("{}: expected a message on `{}`, got {other:?}", self.name, self.topic),
        }
    }

    /// As [`Peer::expect_message`], for a peer that became a monitor without the help of this file.
    pub async fn expect_monitor_message(&mut self) -> Value {
        self.as_monitor().expect_message().await
    }

    /// The same peer, speaking as a monitor, which it became without the help of this file.
    pub fn as_monitor(&mut self) -> &mut Self {
        self.topic = "monitor";
        self
    }

    /// Waits for the response to our request `id`; everything else goes to the inbox.
    pub async fn response(&mut self, id: u64) -> Value {
        self.response_within(id, ANSWER).await
    }

    /// As [`Peer::response`], for requests that take their time.
    pub async fn response_within(&mut self, id: u64, limit: Duration) -> Value {
        let is_ours = |packet: &Packet| match packet {
            // What cannot be decoded (a thousand levels, say) is left for those who want to look at it.
            Packet::Publish { topic, payload } if topic == "client" || topic == "monitor" => {
                try_decode(payload).ok().filter(|message| message["respId"] == json!(id))
            }
            _ => None,
        };
        if let Some((place, message)) = self.inbox.iter().enumerate().find_map(|(i, p)| Some((i, is_ours(p)?))) {
            self.inbox.remove(place);
            return message;
        }
        within(&format!("{}: response to request {id}", self.name), limit, async {
            loop {
                let packet = self.arriving.recv().await;
                let packet = packet.unwrap_or_else(|| panic!("{}: closed before response {id} came", self.name));
                match is_ours(&packet) {
                    Some(message) => return message,
                    None => self.inbox.push_back(packet),
                }
            }
        })
        .await
    }

    /// Waits until the other side has taken everything we sent: it answers a PINGREQ, or closes.
    /// What arrives meanwhile stays in the inbox. Returns whether the connection is still open.
    pub async fn settle(&mut self) -> bool {
        let sent = self.try_send_bytes(&Packet::Pingreq.encode()).await.is_ok();
        let name = self.name.clone();
        soon(&format!("{name}: answer to PINGREQ"), async {
            while let Some(packet) = self.arriving.recv().await {
                if sent && packet == Packet::Pingresp {
                    return true;
                }
                self.inbox.push_back(packet);
            }
            false
        })
        .await
    }

    /// Asserts that everything the other side had to say has been looked at, and that it is still there.
    pub async fn expect_silence(&mut self) {
        assert!(self.settle().await, "{}: the connection was closed; before that {:?}", self.name, self.inbox);
        // A master may probe a link with a PINGRESP of its own (quirk Q5).
        self.inbox.retain(|packet| *packet != Packet::Pingresp);
        assert!(self.inbox.is_empty(), "{}: unexpected {:?}", self.name, self.inbox);
    }

    /// Waits until the other side closes, and returns what it said before.
    pub async fn expect_closed(&mut self) -> Vec<Packet> {
        self.expect_closed_within(ANSWER).await
    }

    /// As [`Peer::expect_closed`], for callers that have more to say about it.
    ///
    /// # Errors
    /// If a packet or nothing comes instead of the end.
    pub async fn try_closed(&mut self) -> Result<(), String> {
        match self.try_next().await? {
            None => Ok(()),
            Some(packet) => Err(format!("the connection should be closed, and there came {packet:?}")),
        }
    }

    /// As [`Peer::expect_closed`], with a limit of its own.
    pub async fn expect_closed_within(&mut self, limit: Duration) -> Vec<Packet> {
        within(&format!("{}: the other side should close", self.name), limit, async {
            while let Some(packet) = self.arriving.recv().await {
                self.inbox.push_back(packet);
            }
        })
        .await;
        self.inbox.drain(..).collect()
    }

    /// What has arrived and was not asked for yet.
    pub fn inbox(&self) -> &VecDeque<Packet> {
        &self.inbox
    }
}

/// Lower-case hex MD5, the form of passwords with `"md5": true`.
pub fn md5_hex(text: &str) -> String {
    Md5::digest(text).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// What a monitor says of itself in `reconnect`, and with a token in `register`.
fn monitor_message(id: &str, server_type: &str) -> Value {
    json!({
        "id": id,
        "type": "monitor",
        "serverType": server_type,
        "pid": std::process::id(),
        "info": {"id": id, "serverType": server_type, "host": "127.0.0.1", "port": 4000},
    })
}

/// `MQTT_ADMIN_<ms>`; a counter is mixed in, though nobody may rely on it.
fn client_id() -> String {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("the clock is past 1970");
    let millis = u64::try_from(now.as_millis()).expect("the year is below 584 million");
    format!("MQTT_ADMIN_{}", millis + COUNT.fetch_add(1, Ordering::Relaxed))
}

async fn read_all(mut receiving: OwnedReadHalf, packets: mpsc::UnboundedSender<Packet>) {
    let mut splitter = Splitter::default();
    let mut chunk = [0_u8; 16 * 1024];
    // An error ends a connection as well as its end does: peers that are cut see either.
    while let Ok(count @ 1..) = receiving.read(&mut chunk).await {
        splitter.push(&chunk[..count]);
        while let Some(packet) = splitter.next_packet() {
            if packets.send(packet).is_err() {
                return;
            }
        }
    }
}
