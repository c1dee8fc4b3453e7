//! Muster watches and commands fleets of servers.

mod app;
mod auth;
mod batch;
pub mod cli;
pub mod client;
pub mod config;
pub mod daemon;
pub mod demo;
pub mod ids;
mod link;
mod log;
mod master;
mod modules;
mod monitor;
mod net;
mod peers;
mod plugin;
mod profile;
mod rpc;
mod session;
mod store;
mod values;
mod wire;
mod worker;
