//! Servers learn of each other.
//!
//! In the master `__masterwatcher__` keeps count of the servers and tells those that listen who joined, who left, and when
//! the whole fleet is up. In the monitors `__monitorwatcher__` listens, and keeps the directory of the [`App`] by it.
//!
//! ```text
//! monitor                                    master
//!   | register ------------------------------> |  → addServer to all who listen
//!   | subscribe -----------------------------> |  from now on it listens
//!   | <------------- {id: info, …}, everybody  |
//!   | record --------------------------------> |  it has started; after the last one → startOver to all, once
//!   |            … its link breaks             |  → removeServer to all others
//!   | reconnect -----------------------------> |
//!   | <---------------- replaceServer, the map |  → addServer to all others; it listens again
//! ```
//!
//! [`App`]: muster_plugin_api::App

mod master;
mod monitor;
mod roster;

use muster_plugin_api::export_modules;

/// The master's side.
const MASTER: &str = "__masterwatcher__";
/// The name of the master's side in older versions of pomelo.
const MASTER_ONCE: &str = "__watchdog__";
/// The monitors' side.
const MONITOR: &str = "__monitorwatcher__";

export_modules!(master::MasterWatcher, monitor::MonitorWatcher);
