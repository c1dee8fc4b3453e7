//! A monitor and a client that behave well, to see that others' misbehaviour does not reach them.

use std::net::SocketAddr;

use serde_json::{Value, json};

use crate::peer::Peer;

/// The two; they need the module `echo` on the master.
#[derive(Debug)]
pub struct Bystanders {
    server: String,
    login: String,
    monitor: Peer,
    client: Peer,
    rounds: u64,
}

impl Bystanders {
    /// Registers and logs in, as `test-server-bystander` and `client-bystander`.
    pub async fn join(master: SocketAddr) -> Self {
        Self::join_as(master, "bystander").await
    }

    /// Registers and logs in under a name of the test's choice, for a second pair.
    pub async fn join_as(master: SocketAddr, name: &str) -> Self {
        let (server, login) = (format!("test-server-{name}"), format!("client-{name}"));
        let monitor = Peer::monitor(master, &server, "test").await;
        let client = Peer::admin(master, &login).await;
        let mut bystanders = Self { server, login, monitor, client, rounds: 0 };
        bystanders.check().await;
        bystanders
    }

    /// One request from the client through the master to the monitor, and the answer all the way back.
    pub async fn check(&mut self) {
        self.rounds += 1;
        let payload = json!({"op": "ok", "v": self.rounds});
        let body = json!({
            "do": "request", "target": self.server, "payload": payload,
            "clientId": self.login, "username": "admin",
        });
        let id = self.client.send_request("echo", body).await;
        let request = self.monitor.answer_next(Value::Null, json!({"echo": self.rounds})).await;
        assert_eq!(request["body"], payload, "the monitor gets what the client sent");
        let response = self.client.response(id).await;
        assert_eq!(response["body"], json!({"echo": self.rounds}), "the client gets what the monitor answered");
        self.monitor.expect_silence().await;
        self.client.expect_silence().await;
    }
}
