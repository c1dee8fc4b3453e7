//! Muster watches and commands fleets of servers.

pub mod ids;
mod modules;
mod plugin;
mod session;
mod wire;

pub use plugin::preflight::child_main as preflight_child;
