//! Muster watches and commands fleets of servers.

pub mod ids;
mod link;
mod modules;
mod session;
mod wire;
