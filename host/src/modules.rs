//! The registry of modules: which id is served by which generation, in which role.

pub(crate) mod call;
pub(crate) mod mailbox;
pub(crate) mod services;
