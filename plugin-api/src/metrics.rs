//! Metrics of a module. The host keeps them, by module and role, for as long as the generation is served.

use crate::{abi::tell, agent::Agent, message::Body};

/// Counters, gauges and histograms of a module: see [`Agent::metrics`].
///
/// A name is up to 64 letters, digits and `_`, such as `files_read` or `scan_seconds`; say the unit in it. A module may have
/// 64 of them; what is beyond, or is no name, is not kept, and the method says so. `muster plugin show` shows all.
#[derive(Debug, Clone)]
pub struct Metrics(Agent);

impl Agent {
    /// What the module measures, tagged by the host with module, role and generation: a new generation begins at nothing.
    ///
    /// ```
    /// # use muster_plugin_api::Agent;
    /// # fn handler(agent: Agent) {
    /// agent.metrics().count("files_read", 3);
    /// agent.metrics().gauge("queue_length", 17.0);
    /// agent.metrics().observe("scan_seconds", 0.25);
    /// # }
    /// ```
    pub fn metrics(&self) -> Metrics {
        Metrics(self.clone())
    }
}

impl Metrics {
    /// Adds to a counter; false if the host does not keep it.
    pub fn count(&self, name: &str, by: u64) -> bool {
        self.0.tell(tell::COUNT, name, "", by, &Body::ABSENT)
    }

    /// Sets a gauge; false if the host does not keep it.
    pub fn gauge(&self, name: &str, value: f64) -> bool {
        self.0.tell(tell::GAUGE, name, "", 0, &serde_json::Value::from(value).into())
    }

    /// Notes a value in a histogram; false if the host does not keep it.
    pub fn observe(&self, name: &str, value: f64) -> bool {
        self.0.tell(tell::OBSERVE, name, "", 0, &serde_json::Value::from(value).into())
    }
}
