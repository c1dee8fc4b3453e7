//! Muster watches and commands fleets of servers.

pub mod cli;
pub mod client;
pub mod config;
mod daemon;
pub mod ids;
mod link;
mod modules;
mod session;
mod wire;
