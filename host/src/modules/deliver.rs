//! Giving a peer's message to its module, and what happens when that cannot be done.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use muster_plugin_api::{Manifest, Role};
use tokio::time::timeout;

use super::{
    Modules, Rejected,
    call::{Call, Outcome, Responder},
};
use crate::wire;

/// How long reading from a connection pauses for a module that is busy.
const PATIENCE: Duration = Duration::from_secs(1);

/// Notifies that were dropped because their module had no room for a second, in both roles.
static OVERRUN: AtomicU64 = AtomicU64::new(0);

/// A call that found no room in its module's mailbox.
#[derive(Debug)]
#[must_use = "somebody may wait for this call"]
pub(crate) struct Blocked {
    role: Role,
    module: String,
    call: Call,
}

impl Modules {
    /// Gives a call to its module, or ends it with the original's text. Returns it if there is no room for it.
    pub(crate) fn deliver(&self, role: Role, module: &str, call: Call) -> Option<Blocked> {
        self.deliver_if(role, module, call, |_| Ok(()))
    }

    /// As [`deliver`](Modules::deliver), if `may` has nothing against it: it sees what the module that is served declares.
    pub(crate) fn deliver_if(
        &self,
        role: Role,
        module: &str,
        call: Call,
        may: impl FnOnce(&Manifest) -> Result<(), &'static str>,
    ) -> Option<Blocked> {
        match self.route(role, module, call, may) {
            Ok(()) => None,
            Err(Rejected::Full(call)) => Some(Blocked { role, module: module.to_owned(), call }),
            Err(Rejected::Unknown(call)) => {
                refuse(call, &wire::unknown_module(module));
                None
            }
            Err(Rejected::Unfit(call, why)) => {
                refuse(call, &format!("module {module} {why}"));
                None
            }
            Err(Rejected::Disabled(call)) => {
                refuse(call, &wire::disabled_module(module));
                None
            }
            Err(Rejected::Forbidden(call, text)) => {
                if let Some(responder) = call.responder {
                    responder.end(Outcome::Answer { error: wire::error_object(text).as_bytes(), body: b"null" });
                }
                None
            }
        }
    }
}

impl Blocked {
    /// Waits a while for room; without any, a request ends with an error, and a notify is dropped and counted.
    pub(crate) async fn wait(self, modules: &Modules) {
        let Blocked { role, module, call } = self;
        // A module that has been in one handler for longer than that will not make room by being waited for.
        if modules.in_handler_for(role, &module).is_none_or(|inside| inside < PATIENCE) {
            // Either there is room now, or the next attempt fails for good.
            drop(timeout(PATIENCE, modules.space(role, &module)).await);
        }
        if let Some(Blocked { call, .. }) = modules.deliver(role, &module, call) {
            if call.responder.is_none() {
                OVERRUN.fetch_add(1, Ordering::Relaxed);
            }
            refuse(call, &format!("module {module} is busy: try again later"));
        }
    }
}

/// Notifies that were dropped because their module had no room.
pub(crate) fn overrun() -> u64 {
    OVERRUN.load(Ordering::Relaxed)
}

/// Ends a call with a text in the error slot; a notify ends in silence.
fn refuse(call: Call, text: &str) {
    match call.responder {
        Some(Responder::Session(reply)) => reply.refuse(text),
        Some(Responder::Repeatable(begun)) => begun.refuse(text),
        Some(Responder::Channel(_)) => {}
        None => {}
    }
}
