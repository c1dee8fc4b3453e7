//! The tests that run real processes. Kit first: `oracle` holds it against the original programs; the others hold
//! the product against the kit and against the originals.

#![allow(missing_docs, reason = "a test's name is its sentence")]

mod abi;
mod app_channel;
mod application;
mod cgroups;
mod commands;
mod conformance;
mod conformance_client;
mod conformance_monitor;
mod crons;
mod fleet;
mod handover;
mod handshake;
mod hostile;
mod impostors;
mod isolation;
mod levels;
mod membership;
mod monitor_life;
mod node_peers;
mod odd_json;
mod oracle;
mod partition;
mod plugin_authors;
mod plugin_commands;
mod plugin_crash;
mod plugin_files;
mod plugin_life;
mod plugin_services;
mod plugin_status;
mod plugin_trust;
mod pomelo_cli;
mod probation;
mod profiler;
mod reload;
mod requests;
mod roles;
mod rpc;
mod scripts_and_logs;
mod signals;
mod supervision;
mod system_modules;
mod watch_server;
mod wrong_plugins;
