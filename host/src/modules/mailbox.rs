//! placeholder
use muster_plugin_api::RequestError;

/// The bounded queue in front of a generation's thread.
#[derive(Debug)]
pub(crate) struct Mailbox;

impl Mailbox {
    pub(crate) fn complete(&self, _instance: u32, _id: u64, _result: Result<(&[u8], &[u8]), RequestError>) {}
}
