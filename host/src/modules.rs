//! stub
pub(crate) mod call;
pub(crate) mod deliver;
pub(crate) mod mailbox;
pub(crate) mod services;
use crate::modules::call::Call;
use muster_plugin_api::{Event, Role};
#[derive(Debug)]
pub(crate) struct Modules;
#[derive(Debug)]
pub(crate) enum Rejected {
    Unknown(Call),
    Disabled(Call),
    Full(Call),
}
impl Modules {
    pub(crate) fn route(&self, _: Role, _: &str, call: Call) -> Result<(), Rejected> {
        Err(Rejected::Unknown(call))
    }
    pub(crate) async fn space(&self, _: Role, _: &str) {}
    pub(crate) fn deadline(&self, _: Role, _: &str) -> std::time::Instant {
        std::time::Instant::now()
    }
    pub(crate) fn list(&self, _: Role) -> Vec<String> {
        vec![]
    }
    pub(crate) fn set_enabled(&self, _: Role, _: &str, _: bool) -> bool {
        false
    }
    pub(crate) fn greet(&self, _: Role, _: Option<&Event>) {}
    pub(crate) fn broadcast_event(&self, _: Role, _: &Event) {}
}
