//! What the master does for its modules.

use std::{sync::Arc, time::Duration};

use muster_plugin_api::{
    RequestError, ServerAddress,
    abi::{ask, query, tell},
};
use serde_json::{Map, Value, json};

use super::Master;
use crate::{
    ids::ModuleId,
    modules::services::{Asker, Operation, Services},
    peers::{Gather, To, Waiter},
    wire::{Topic, envelope},
};

/// The master, as its modules see it.
#[derive(Debug)]
pub(crate) struct MasterServices(pub(crate) Arc<Master>);

impl Services for MasterServices {
    fn ask(&self, _: &ModuleId, asker: Asker, operation: Operation<'_>) {
        let Operation { op, a, b, n, body } = operation;
        let peers = &self.0.peers;
        let deadline = peers.deadline((n > 0).then(|| Duration::from_millis(n)));
        match op {
            ask::REQUEST => peers.request(To::Id(a), b, body, deadline, Waiter::Module(asker)),
            ask::REQUEST_SERVER => match address(a) {
                Some(address) => peers.request(To::Server(&address), b, body, deadline, Waiter::Module(asker)),
                None => asker.fail(RequestError::UnknownServer(a.to_owned())),
            },
            ask::REQUEST_ALL => {
                let gather = Arc::new(Gather::new(peers.ids(), asker));
                for (index, id) in gather.ids().iter().enumerate() {
                    let waiter = Waiter::Gather { gather: gather.clone(), index };
                    peers.request(To::Id(id.as_str()), b, body, deadline, waiter);
                }
            }
            _ => self.0.app.ask(asker, operation),
        }
    }

    fn tell(&self, module: &ModuleId, operation: Operation<'_>) -> i64 {
        let Operation { op, a, b, n: _, body } = operation;
        let peers = &self.0.peers;
        let notify = |topic| envelope::notify(topic, b, body);
        let send = |to: To<'_>| i64::from(peers.send(to, &notify(Topic::Monitor)) > 0);
        match op {
            tell::NOTIFY => send(To::Id(a)),
            tell::NOTIFY_SERVER => address(a).map_or(0, |address| send(To::Server(&address))),
            tell::NOTIFY_SLAVES => send(To::Slaves(a)),
            tell::NOTIFY_TYPE => send(To::Type(a)),
            // The original is content with nobody, too.
            tell::NOTIFY_ALL => {
                send(To::All);
                1
            }
            tell::NOTIFY_CLIENT => i64::from(peers.send_to_client(a, notify(Topic::Client))),
            tell::FORGET => {
                peers.forget(a, b);
                1
            }
            // The master's directory is who is connected; nobody edits that.
            tell::ADD_SERVER | tell::REMOVE_SERVER | tell::REPLACE_SERVERS => -1,
            _ => self.0.app.tell(module, operation),
        }
    }

    fn query(&self, module: &ModuleId, op: u32, a: &str, _: &str) -> Vec<u8> {
        match op {
            query::SERVERS => json!(self.0.peers.servers()).to_string().into_bytes(),
            query::DIRECTORY => {
                let servers = self.0.peers.servers().into_iter();
                let servers = servers.filter(|server| !server.slave && (a.is_empty() || server.server_type == a));
                let by_id: Map<String, Value> =
                    servers.map(|server| (server.id, server.info.parse().unwrap_or_default())).collect();
                Value::Object(by_id).to_string().into_bytes()
            }
            _ => self.0.app.query(module, op, a),
        }
    }
}

fn address(json: &str) -> Option<ServerAddress> {
    serde_json::from_str(json).ok()
}
