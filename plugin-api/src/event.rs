//! What happens around a module without anybody asking it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::message::Body;

/// A registered server, as the master sees it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Server {
    /// The server id.
    pub id: String,
    /// Its type; `master` for the master's own monitor.
    pub server_type: String,
    /// What it said of itself when it registered: a JSON object, with the `pid` set.
    pub info: Body,
    /// Which connection this is: higher for every registration in the life of the master. An event about an older
    /// incarnation says nothing about a server that has come back since.
    pub incarnation: u64,
    /// Whether another server with the same id is served first.
    pub slave: bool,
}

/// What happens around a module. New kinds may appear with later hosts: match with a `_` arm.
// Tagged from outside (`{"serverLeft": {…}}`): serde buffers what is tagged from inside, and raw JSON cannot be read from
// its buffers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub enum Event {
    /// Master: a server registered, or a slave was promoted.
    ServerRegistered {
        /// Who.
        server: Server,
    },
    /// Master: a server's link had broken and is back.
    ServerReconnected {
        /// Who.
        server: Server,
    },
    /// Master: a server's link is gone.
    ServerLeft {
        /// Who, with the incarnation that left.
        server: Server,
    },
    /// Monitor: registered with the master.
    MasterConnected {
        /// Whether it had been connected before.
        again: bool,
    },
    /// Monitor: the link to the master is gone; the host goes on trying.
    MasterLost,
    /// Monitor: servers joined or came back.
    ServersAdded {
        /// Id → info.
        servers: BTreeMap<String, Body>,
    },
    /// Monitor: servers left.
    ServersRemoved {
        /// Their ids.
        ids: Vec<String>,
    },
    /// Monitor: the directory was replaced as a whole.
    ServersReplaced {
        /// Id → info.
        servers: BTreeMap<String, Body>,
    },
    /// Monitor: the whole fleet is up.
    StartOver,
    /// Monitor: a cron was added or replaced.
    CronAdded {
        /// As it was ordered.
        cron: Body,
    },
    /// Monitor: a cron was removed.
    CronRemoved {
        /// As it was ordered.
        cron: Body,
    },
    /// Monitor: the time of a cron has come.
    CronFired {
        /// As it was ordered.
        cron: Body,
    },
    /// Monitor: these addresses are to be turned away.
    Blacklisted {
        /// The addresses.
        addresses: Vec<String>,
    },
    /// Monitor: the program that it wraps was started, ended, or is waited for.
    ProgramChanged {
        /// `{"state": "running" | "waiting" | "ended" | "given up", "starts", "command", "stdout", "stderr", "lastEnd"}`,
        /// and what belongs to the state: `pid`, `since` and `adopted`; `pauseMs`; `ordered`; `why`. `stdout` and `stderr`
        /// are paths, times are seconds since 1970. `lastEnd` is null or `{"how", "code", "signal", "at", "ranForS",
        /// "stderr"}`, with the last lines that were written to stderr.
        program: Body,
    },
    /// The daemon is about to stop.
    Stopping,
    /// An event that this version of the API does not know.
    Unknown,
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn info() -> Body {
        json!({ "id": "chat-1", "serverType": "chat" }).into()
    }

    fn server() -> Server {
        Server { id: "chat-1".into(), server_type: "chat".into(), info: info(), incarnation: 1, slave: false }
    }

    #[test]
    fn every_event_arrives_as_it_was_sent() {
        let servers = BTreeMap::from([("chat-1".to_owned(), info())]);
        for event in [
            Event::ServerRegistered { server: server() },
            Event::ServerReconnected { server: server() },
            Event::ServerLeft { server: server() },
            Event::MasterConnected { again: true },
            Event::MasterLost,
            Event::ServersAdded { servers: servers.clone() },
            Event::ServersRemoved { ids: vec!["chat-1".into()] },
            Event::ServersReplaced { servers },
            Event::StartOver,
            Event::CronAdded { cron: info() },
            Event::CronRemoved { cron: info() },
            Event::CronFired { cron: info() },
            Event::Blacklisted { addresses: vec!["10.1.2.3".into()] },
            Event::ProgramChanged { program: info() },
            Event::Stopping,
        ] {
            let body = Body::of(&event).unwrap();
            assert_eq!(body.parse(), Ok(event), "{body:?}");
        }
    }
}
