//! What clients want of modules: the one place where it is asked whether they may, and the host's own modules.

use std::sync::Arc;

use muster_plugin_api::{Manifest, Role};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Master, commands::answer, plugins};
use crate::{
    audit,
    modules::call::ClientIdentity,
    plugin,
    roles::{self, Asked, Required},
    rpc,
    session::{Reply, outbox::Outbox},
    wire::{self, Topic, envelope::ReqId},
};

/// The module that tells who may do what: `{"action":"list"}` is answered by
/// `{"roles":[{"module","command","level","field"}]}`; `field` is where a body has the command.
const ROLES: &str = "__roles__";

/// The modules that are the host's own; no plugin may take their ids.
pub(crate) const HOSTED: [&str; 3] = [plugin::MODULE, rpc::MODULE, ROLES];

impl Master {
    /// Judges what a client wants of a module that is served, and writes the audit.
    ///
    /// # Errors
    /// The original's text, if it may not.
    pub(super) fn permit(
        &self,
        client: &ClientIdentity,
        kind: &'static str,
        manifest: &Manifest,
        body: &str,
    ) -> Result<(), &'static str> {
        let asked = self.roles.load().asked(&manifest.id, &manifest.commands, body);
        let permitted = asked.permit(client);
        if permitted.is_err() || !(asked.only_looks || is_further_piece(&asked)) {
            audit::record(client, kind, &manifest.id, &asked, permitted);
        }
        permitted
    }

    /// Does what a client wants of a module that is the host's own; says whether it is one.
    pub(super) fn order(
        &self,
        client: &Arc<ClientIdentity>,
        outbox: &Arc<Outbox>,
        id: Option<&ReqId>,
        module: &str,
        body: &str,
    ) -> bool {
        let Some(manifest) = hosted(module) else { return false };
        let reply = id.map(|id| Reply::new(outbox.clone(), Topic::Client, id.clone()));
        match (self.permit(client, kind(id), &manifest, body), reply) {
            (Err(text), reply) => answer(reply, Err(wire::error_object(text))),
            (Ok(()), None) => {}
            (Ok(()), Some(reply)) => match module {
                ROLES => answer(Some(reply), Ok(self.roles())),
                rpc::MODULE => self.about_rpc(reply, body),
                _ => self.about_plugins(client, reply, body),
            },
        }
        true
    }

    /// The whole table, as it is now.
    fn roles(&self) -> Value {
        let roles = self.roles.load();
        let mut protocol = Manifest::new(roles::PROTOCOL, "").commands("", &[], &roles::PROTOCOL_COMMANDS);
        protocol.commands.field = None;
        let served = self.modules.list(Role::Master).into_iter().filter_map(|id| self.modules.find(Role::Master, &id));
        let manifests = [protocol].into_iter().chain(HOSTED.into_iter().filter_map(hosted));
        let manifests: Vec<Manifest> = manifests.chain(served.map(|route| (*route.manifest).clone())).collect();
        let of_module = |manifest: &Manifest| {
            let (module, field) = (&manifest.id, &manifest.commands.field);
            let row = |(command, required): (&str, Required)| {
                let level = required.to_json();
                json!({ "module": module, "command": command, "level": level, "field": field })
            };
            roles.rows(manifest).map(row).collect::<Vec<_>>()
        };
        json!({ "roles": manifests.iter().flat_map(of_module).collect::<Vec<_>>() })
    }
}

/// How a message with or without an id came, in the audit.
pub(super) fn kind(id: Option<&ReqId>) -> &'static str {
    if id.is_some() { "request" } else { "notify" }
}

fn hosted(module: &str) -> Option<Manifest> {
    match module {
        plugin::MODULE => Some(plugins::manifest()),
        rpc::MODULE => {
            Some(Manifest::new(rpc::MODULE, env!("CARGO_PKG_VERSION")).commands("action", &["list"], &["call"]))
        }
        ROLES => Some(Manifest::new(ROLES, env!("CARGO_PKG_VERSION")).commands("action", &["list"], &[])),
        _ => None,
    }
}

/// Of many pieces of a plugin the first is told of, and what is done with them.
fn is_further_piece(asked: &Asked<'_>) -> bool {
    #[derive(Deserialize)]
    struct Piece {
        offset: u64,
    }
    asked.command == "upload" && serde_json::from_str::<Piece>(asked.body).is_ok_and(|piece| piece.offset > 0)
}
