//! Calling the remotes of servers, in both roles.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::{
    abi::{ask, query},
    agent::{Agent, millis},
    message::{Answer, Body, RequestError},
};

/// Whose remote is called: a server by its id, or one of a type. A text is either; an id goes before a type.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RpcTarget {
    name: String,
    key: String,
    timeout: Option<Duration>,
}

/// A server, and whether its remotes can be called.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Callee {
    /// The server id.
    pub id: String,
    /// Its type.
    pub server_type: String,
    /// Whether there is a proxy for it.
    pub callable: bool,
    /// Where it takes calls, if it does: `HOST:PORT`.
    #[serde(default)]
    pub address: Option<String>,
    /// Why it cannot be called, if it cannot: a sentence.
    #[serde(default)]
    pub reason: Option<String>,
}

impl RpcTarget {
    /// Of a type's servers the one that `key` belongs to, such as the id of a user: the same one as a pomelo server
    /// picks by its default route, as long as the servers are the same. Without a key it is the first.
    #[must_use]
    pub fn key(self, key: impl Into<String>) -> RpcTarget {
        RpcTarget { key: key.into(), ..self }
    }

    /// Another deadline than the host's (15 s).
    #[must_use]
    pub fn within(self, timeout: Duration) -> RpcTarget {
        RpcTarget { timeout: Some(timeout), ..self }
    }
}

impl<T: Into<String>> From<T> for RpcTarget {
    fn from(name: T) -> RpcTarget {
        RpcTarget { name: name.into(), key: String::new(), timeout: None }
    }
}

impl Agent {
    /// Calls `method` of the remote `service` (of pomelo's namespaces `sys` and `user`) with `args`, a list, and waits for
    /// what it gives its callback: the first argument is the answer's `error`, the body is a list of the others.
    ///
    /// The servers are those that this daemon knows: in the master who is registered, in a monitor whom the watchdog
    /// told of. A call is made at most once. While its server is being connected it waits; it ends when the link is lost.
    ///
    /// ```
    /// use muster_plugin_api::{
    ///     Answer, ClientCall, Context, HandlerResult, Manifest, MasterAgent, Module, ModuleError, RpcTarget,
    ///     export_modules, serde_json::json,
    /// };
    ///
    /// /// `{"uid": "player-7"}` kicks this player, on the chat server that has them.
    /// struct Kick;
    ///
    /// impl Module for Kick {
    ///     fn manifest() -> Manifest {
    ///         Manifest::new("kick", env!("CARGO_PKG_VERSION"))
    ///     }
    ///     fn create(_: Context) -> Result<Kick, ModuleError> {
    ///         Ok(Kick)
    ///     }
    ///     async fn client_handler(&self, agent: MasterAgent, call: ClientCall) -> HandlerResult {
    ///         call.require_level(1)?;
    ///         let body: serde_json::Value = call.body.parse()?;
    ///         let uid = body["uid"].as_str().ok_or("expected {\"uid\": …}")?;
    ///         let chat = RpcTarget::from("chat").key(uid);
    ///         match agent.rpc(chat, "user", "chatRemote", "kick", json!([uid])).await? {
    ///             Answer::Reply { error, .. } if !error.is_null() => Ok(Answer::in_error_slot(error)),
    ///             Answer::Reply { body, .. } => Ok(Answer::ok(body)),
    ///             Answer::Silence => Ok(Answer::done()),
    ///         }
    ///     }
    /// }
    ///
    /// export_modules!(Kick);
    /// # fn main() {}
    /// ```
    ///
    /// # Errors
    /// When no answer came: there is no such server, it cannot be called or reached, it left, or did not answer in time.
    pub async fn rpc(
        &self,
        target: impl Into<RpcTarget>,
        namespace: &str,
        service: &str,
        method: &str,
        args: impl Into<Body>,
    ) -> Result<Answer, RequestError> {
        let RpcTarget { name, key, timeout } = target.into();
        let call = json!({ "namespace": namespace, "service": service, "method": method, "args": args.into() });
        self.ask(ask::RPC, &name, &key, timeout.map_or(0, millis), &call.into()).await
    }

    /// The servers that this daemon knows, in the order in which they came, and whether they can be called.
    pub fn callees(&self) -> Vec<Callee> {
        self.query(query::RPC, "", "").parse().unwrap_or_default()
    }
}
