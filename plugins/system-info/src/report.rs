//! What a monitor tells the master of its machine.

use std::collections::BTreeMap;

use muster_figures::{
    load::Iostat,
    machine::Machine,
    network::{self, Address},
};
use muster_plugin_api::{
    Figures, ModuleError,
    serde_json::{Value, json},
};
use serde::Serialize;

/// A report, whose fields are those of pomelo-monitor in their order.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Report {
    server_id: String,
    body: Body,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Body {
    /// Its `uptime` is the process's: pomelo-monitor puts that over the machine's.
    #[serde(flatten)]
    machine: Machine,
    network_interfaces: BTreeMap<String, Vec<Address>>,
    versions: Value,
    memory_usage: Value,
    iostat: Iostat,
}

impl Report {
    pub(crate) fn new(server_id: String, figures: &Figures, iostat: Iostat) -> Result<Report, ModuleError> {
        let machine = Machine::read().map_err(|error| error.to_string())?;
        let body = Body {
            machine: Machine { uptime: figures.uptime_s, ..machine },
            // Where the system does not tell, the rest is worth reporting all the same.
            network_interfaces: network::interfaces().unwrap_or_default(),
            versions: json!({ "muster": env!("CARGO_PKG_VERSION") }),
            memory_usage: json!({
                "rss": figures.rss, "heapTotal": figures.heap_total, "heapUsed": figures.heap_used,
            }),
            iostat,
        };
        Ok(Report { server_id, body })
    }
}

#[cfg(test)]
mod tests {
    use muster_figures::load::Reading;

    use super::*;

    #[test]
    fn a_report_has_the_fields_of_the_recordings_in_their_order() {
        let reading = Reading::take().unwrap();
        let report = Report::new("chat-1".into(), &Figures::default(), reading.since(&reading)).unwrap();
        let Value::Object(report) = json!(report) else { panic!("an object") };
        assert_eq!(report["serverId"], "chat-1");
        let fields: Vec<&str> = report["body"].as_object().unwrap().keys().map(String::as_str).collect();
        let machine =
            ["hostname", "type", "platform", "arch", "release", "uptime", "loadavg", "totalmem", "freemem", "cpus"];
        let rest = ["networkInterfaces", "versions", "memoryUsage", "iostat"];
        assert_eq!(fields, [&machine[..], &rest[..]].concat());
    }
}
