//! Muster watches and commands fleets of servers.

pub mod client;
pub mod config;
pub mod ids;
mod link;
mod modules;
mod session;
mod wire;
