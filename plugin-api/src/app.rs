//! What the daemon itself offers to its modules.

use std::{collections::BTreeMap, time::Duration};

use serde::{Deserialize, Serialize};

use crate::{
    abi::{ask, query, tell},
    agent::Agent,
    message::{Answer, Body, RequestError},
};

/// The daemon, and in a monitor the server that it watches. Every module may use it, not only those of this project.
#[derive(Debug, Clone)]
pub struct App(Agent);

/// Who this is.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Info {
    /// The server id.
    pub id: String,
    /// The server type; `master` in the master and its own monitor.
    pub server_type: String,
    /// The environment, such as `development`.
    pub env: String,
    /// What is told to the master when registering: a JSON object.
    pub info: Body,
}

/// The process that is watched.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
// A host of an earlier version leaves later fields out.
#[serde(default)]
pub struct Figures {
    /// Process id.
    pub pid: u32,
    /// Resident memory in bytes.
    pub rss: u64,
    /// Memory that the process has reserved for data, in bytes: what stands for a heap outside of Node.
    pub heap_total: u64,
    /// Of that, what is in use, in bytes.
    pub heap_used: u64,
    /// Seconds since the process was started.
    pub uptime_s: f64,
    /// Size of the address space in bytes.
    pub vsz: u64,
    /// Seconds of processor time in the program itself since the start, [`cpu_guest_s`](Figures::cpu_guest_s) included.
    pub cpu_user_s: f64,
    /// Seconds of processor time in the kernel since the start.
    pub cpu_system_s: f64,
    /// Seconds of processor time that a virtual machine in the process had since the start.
    pub cpu_guest_s: f64,
}

impl App {
    pub(crate) fn new(agent: Agent) -> App {
        App(agent)
    }

    pub(crate) fn agent(&self) -> &Agent {
        &self.0
    }

    /// Who this is.
    pub fn info(&self) -> Info {
        self.0.query(query::INFO, "", "").parse().unwrap_or_default()
    }

    /// The process that is watched.
    ///
    /// # Errors
    /// When the process is gone.
    pub async fn figures(&self) -> Result<Figures, RequestError> {
        match self.0.ask(ask::FIGURES, "", "", 0, &Body::ABSENT).await? {
            Answer::Reply { body, .. } => Ok(body.parse()?),
            Answer::Silence => Ok(Figures::default()),
        }
    }

    /// The setting `key` of the application, absent if it is not set.
    pub fn setting(&self, key: &str) -> Body {
        self.0.query(query::SETTING, key, "")
    }

    /// All settings: a JSON object.
    pub fn settings(&self) -> Body {
        self.0.query(query::SETTING, "", "")
    }

    /// Sets a setting of the application.
    pub fn set_setting(&self, key: &str, value: impl Into<Body>) {
        self.0.tell(tell::SET_SETTING, key, "", 0, &value.into());
    }

    /// The directory of servers: id → info. In a monitor it is what the watchdog maintains.
    pub fn servers(&self) -> BTreeMap<String, Body> {
        self.0.query(query::DIRECTORY, "", "").parse().unwrap_or_default()
    }

    /// The servers of one type, from the directory.
    pub fn servers_by_type(&self, server_type: &str) -> BTreeMap<String, Body> {
        if server_type.is_empty() {
            return BTreeMap::new();
        }
        self.0.query(query::DIRECTORY, server_type, "").parse().unwrap_or_default()
    }

    /// Adds a server to the directory; everybody here gets an event.
    pub fn add_server(&self, id: &str, info: impl Into<Body>) {
        self.0.tell(tell::ADD_SERVER, id, "", 0, &info.into());
    }

    /// Removes a server from the directory; everybody here gets an event.
    pub fn remove_server(&self, id: &str) {
        self.0.tell(tell::REMOVE_SERVER, id, "", 0, &Body::ABSENT);
    }

    /// Replaces the directory; everybody here gets an event. False when `servers` is no object.
    pub fn replace_servers(&self, servers: impl Into<Body>) -> bool {
        self.0.tell(tell::REPLACE_SERVERS, "", "", 0, &servers.into())
    }

    /// Tells everybody here that the whole fleet is up.
    pub fn start_over(&self) {
        self.0.tell(tell::START_OVER, "", "", 0, &Body::ABSENT);
    }

    /// The ids of the modules here, in order of registration.
    pub fn modules(&self) -> Vec<String> {
        self.0.query(query::MODULES, "", "").parse().unwrap_or_default()
    }

    /// The servers that the configuration names (pomelo's `servers.json`), as infos with `id` and `serverType`.
    pub fn fleet(&self) -> Vec<Body> {
        self.0.query(query::FLEET, "", "").parse().unwrap_or_default()
    }

    /// Stops this daemon in an orderly way, after `delay`.
    pub fn stop(&self, delay: Duration) {
        let ms = u64::try_from(delay.as_millis()).unwrap_or(u64::MAX);
        self.0.tell(tell::STOP, "", "", ms, &Body::ABSENT);
    }

    /// The crons that are known here.
    pub fn crons(&self) -> Vec<Body> {
        self.0.query(query::CRONS, "", "").parse().unwrap_or_default()
    }

    /// Adds a cron, replacing one with the same id; everybody here gets an event.
    pub fn add_cron(&self, cron: impl Into<Body>) {
        self.0.tell(tell::ADD_CRON, "", "", 0, &cron.into());
    }

    /// Removes a cron; everybody here gets an event. False if there is none with this id.
    pub fn remove_cron(&self, cron: impl Into<Body>) -> bool {
        self.0.tell(tell::REMOVE_CRON, "", "", 0, &cron.into())
    }

    /// Turns away these addresses; everybody here gets an event.
    pub fn blacklist(&self, addresses: impl Into<Body>) {
        self.0.tell(tell::BLACKLIST, "", "", 0, &addresses.into());
    }

    /// What the application tells of its connections: `{"totalConnCount", "loginedCount", "loginedList"}` and what else
    /// it likes. Absent if nothing was published.
    pub fn connections(&self) -> Body {
        self.0.query(query::CONNECTIONS, "", "")
    }

    /// Publishes what [`App::connections`] reads: for modules that know the application. Absent takes it back.
    pub fn publish_connections(&self, statistics: impl Into<Body>) {
        self.0.tell(tell::PUBLISH_CONNECTIONS, "", "", 0, &statistics.into());
    }

    /// Starts a server process from its info.
    ///
    /// # Errors
    /// When the host cannot start it; the text says why.
    pub async fn spawn(&self, info: impl Into<Body>) -> Result<Answer, RequestError> {
        self.0.ask(ask::SPAWN, "", "", 0, &info.into()).await
    }
}
