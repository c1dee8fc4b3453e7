//! What a role of the daemon does for its modules: the other half of `HostApi`.

use std::sync::Arc;

use muster_plugin_api::RequestError;

use super::mailbox::Mailbox;
use crate::ids::ModuleId;

/// What the master, or a monitor, does for modules. Operations are those of [`muster_plugin_api::abi`].
///
/// Called on module threads: must neither block nor call back into a plugin.
pub(crate) trait Services: Send + Sync + 'static {
    /// Starts an operation of `abi::ask`; ends with exactly one call of a method of `asker`.
    fn ask(&self, module: &ModuleId, asker: Asker, operation: Operation<'_>);
    /// Does an operation of `abi::tell`: 1 done, 0 nobody there, -1 refused.
    fn tell(&self, module: &ModuleId, operation: Operation<'_>) -> i64;
    /// Reads something of `abi::query`: JSON, or empty.
    fn query(&self, module: &ModuleId, op: u32, a: &str, b: &str) -> Vec<u8>;
}

/// What a module wants done. What the fields mean, `op` says.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Operation<'a> {
    pub(crate) op: u32,
    pub(crate) a: &'a str,
    pub(crate) b: &'a str,
    pub(crate) n: u64,
    /// JSON, or empty for absent.
    pub(crate) body: &'a [u8],
}

/// A module that waits for the end of an operation.
#[derive(Debug)]
#[must_use = "a module waits for this"]
pub(crate) struct Asker {
    pub(crate) mailbox: Arc<Mailbox>,
    pub(crate) instance: u32,
    pub(crate) id: u64,
}

impl Asker {
    /// The operation came to an answer: JSON texts, empty for absent fields.
    pub(crate) fn answer(self, error: &[u8], body: &[u8]) {
        self.mailbox.complete(self.instance, self.id, Ok((error, body)));
    }

    /// The operation came to no answer.
    pub(crate) fn fail(self, error: RequestError) {
        self.mailbox.complete(self.instance, self.id, Err(error));
    }
}
