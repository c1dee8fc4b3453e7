//! Muster watches and commands fleets of servers.

mod app;
mod application;
mod audit;
mod auth;
mod batch;
mod beat;
pub mod cli;
pub mod client;
pub mod config;
mod crons;
pub mod daemon;
mod deaths;
pub mod demo;
#[doc(hidden)]
pub mod hot;
pub mod ids;
mod link;
mod log;
mod master;
mod memory;
mod modules;
pub mod monitor;
mod net;
mod peers;
mod plugin;
mod profile;
mod program;
mod roles;
mod rpc;
pub mod sandbox;
mod session;
mod starter;
mod store;
mod values;
mod wire;
mod worker;

#[doc(hidden)]
pub use plugin::rig as bench;
