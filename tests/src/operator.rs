//! A client of level 1 that looks at the fleet and reaches into it, through the fixture module `echo` on the master.

use std::net::SocketAddr;

use serde_json::{Value, json};

use crate::deadline::{PROCESS, eventually};
use crate::peer::Peer;

/// The id it logs in with.
const LOGIN: &str = "client-operator";

/// The operator.
#[derive(Debug)]
pub struct Operator {
    client: Peer,
}

impl Operator {
    /// Logs in as `admin`.
    pub async fn log_in(master: SocketAddr) -> Self {
        Self { client: Peer::admin(master, LOGIN).await }
    }

    /// Its connection, for everything else.
    pub fn client(&mut self) -> &mut Peer {
        &mut self.client
    }

    /// Gives an order to the console, and returns the whole response.
    pub async fn order(&mut self, mut order: Value) -> Value {
        order["clientId"] = LOGIN.into();
        self.client.request("__console__", order).await
    }

    /// Whether a server is registered under this id. It is sent a notify that no fixture module answers.
    pub async fn sees(&mut self, id: &str) -> bool {
        let look = json!({"do": "notifyById", "target": id, "payload": {"op": "look"}});
        self.client.request("echo", look).await["body"] == true
    }

    /// Waits until a server is registered under this id.
    pub async fn wait_until_seen(&mut self, id: &str) {
        self.wait(&format!("{id} is registered"), id, true).await;
    }

    /// Waits until nobody is registered under this id.
    pub async fn wait_until_gone(&mut self, id: &str) {
        self.wait(&format!("{id} is gone"), id, false).await;
    }

    /// Has the master send a request to a module of a server, and returns the whole response.
    pub async fn ask(&mut self, id: &str, module: &str, payload: Value) -> Value {
        let request = self.begin(id, module, payload).await;
        self.client.response(request).await
    }

    /// As [`Operator::ask`], without waiting for the response.
    pub async fn begin(&mut self, id: &str, module: &str, payload: Value) -> u64 {
        let errand = json!({"do": "requestModule", "target": id, "module": module, "payload": payload});
        self.client.send_request("echo", errand).await
    }

    async fn wait(&mut self, what: &str, id: &str, registered: bool) {
        // `eventually` calls the closure anew each time, and the client has one connection.
        let operator = tokio::sync::Mutex::new(self);
        eventually(what, PROCESS, async || (operator.lock().await.sees(id).await == registered).then_some(())).await;
    }
}
