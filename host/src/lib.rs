//! Muster watches and commands fleets of servers.

pub mod ids;
mod modules;
mod session;
mod wire;
