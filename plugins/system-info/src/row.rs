//! What the master keeps of a report.

use muster_figures::load::{Cpu, Disk, Iostat};
use muster_plugin_api::{
    Body, ModuleError,
    serde_json::{Number, Value},
};
use serde::{Deserialize, Serialize};

/// One machine, in the original's order of fields.
#[derive(Debug, Serialize)]
pub(crate) struct Row {
    #[serde(rename = "Time", skip_serializing_if = "Option::is_none")]
    time: Option<String>,
    #[serde(skip_serializing_if = "Value::is_null")]
    hostname: Value,
    #[serde(rename = "serverId")]
    server_id: String,
    #[serde(flatten)]
    cpu: Option<Cpu>,
    #[serde(flatten)]
    disk: Option<DiskColumns>,
    totalmem: Value,
    freemem: Value,
    #[serde(rename = "free/total")]
    free_to_total: Option<Number>,
    m_1: Value,
    m_5: Value,
    m_15: Value,
}

/// The disks' figures in the order of the row, which is not that of the report.
#[derive(Debug, Serialize)]
struct DiskColumns {
    tps: f64,
    kb_read: f64,
    kb_wrtn: f64,
    kb_read_per: f64,
    kb_wrtn_per: f64,
}

/// What is needed of a report, from a real monitor as from ours.
#[derive(Deserialize)]
struct Report {
    body: Machine,
}

#[derive(Deserialize)]
struct Machine {
    #[serde(default)]
    hostname: Value,
    /// Missing where the original found no `iostat`. Its master throws then; the rest is worth keeping.
    #[serde(default)]
    iostat: Option<Iostat>,
    #[serde(default)]
    totalmem: Value,
    #[serde(default)]
    freemem: Value,
    #[serde(default)]
    loadavg: Vec<Value>,
}

impl Row {
    /// The row of a report. It stands for the sender, whatever id the report has.
    ///
    /// # Errors
    /// When the report has another shape.
    pub(crate) fn of(sender: &str, report: &Body) -> Result<Row, ModuleError> {
        let Report { body: machine } = report.parse()?;
        let ratio = machine.freemem.as_f64().zip(machine.totalmem.as_f64()).map(|(free, total)| free / total);
        let load = |index: usize| machine.loadavg.get(index).cloned().unwrap_or_default();
        let (time, disk, cpu) = match machine.iostat {
            Some(Iostat { date, disk, cpu }) => (Some(date), Some(DiskColumns::from(disk)), Some(cpu)),
            None => (None, None, None),
        };
        Ok(Row {
            time,
            hostname: machine.hostname,
            server_id: sender.to_owned(),
            cpu,
            disk,
            // No memory at all: no number, and `null` as in JavaScript.
            free_to_total: ratio.and_then(Number::from_f64),
            m_1: load(0),
            m_5: load(1),
            m_15: load(2),
            totalmem: machine.totalmem,
            freemem: machine.freemem,
        })
    }
}

impl From<Disk> for DiskColumns {
    fn from(disk: Disk) -> DiskColumns {
        let Disk { kb_read, kb_wrtn, kb_read_per, kb_wrtn_per, tps } = disk;
        DiskColumns { tps, kb_read, kb_wrtn, kb_read_per, kb_wrtn_per }
    }
}

#[cfg(test)]
mod tests {
    use muster_plugin_api::serde_json::json;

    use super::*;

    #[test]
    fn a_report_of_a_real_monitor_becomes_the_recorded_row() {
        let report = json!({ "serverId": "gate-server-1", "body": {
            "hostname": "host-1", "type": "Linux", "uptime": 7.1, "loadavg": [0.86, 1.16, 0.78],
            "totalmem": 25_276_063_744_u64, "freemem": 24_609_366_016_u64,
            "iostat": {
                "date": "2026-11-22 1:06:07 AM",
                "disk": {
                    "kb_read": 943.73, "kb_wrtn": 5_922_025, "kb_read_per": 3137.93, "kb_wrtn_per": 4090.6, "tps": 116.27
                },
                "cpu": {
                    "cpu_user": 18.25, "cpu_nice": 0.86, "cpu_system": 4.72, "cpu_iowait": 0.32, "cpu_steal": 0.01,
                    "cpu_idle": 75.84
                },
            },
        }});
        let row = Row::of("gate-server-1", &report.into()).unwrap();
        assert_eq!(
            Body::of(&row).unwrap().as_str(),
            concat!(
                r#"{"Time":"2026-11-22 1:06:07 AM","hostname":"host-1","serverId":"gate-server-1","cpu_user":18.25,"#,
                r#""cpu_nice":0.86,"cpu_system":4.72,"cpu_iowait":0.32,"cpu_steal":0.01,"cpu_idle":75.84,"tps":116.27,"#,
                r#""kb_read":943.73,"kb_wrtn":5922025.0,"kb_read_per":3137.93,"kb_wrtn_per":4090.6,"#,
                r#""totalmem":25276063744,"freemem":24609366016,"free/total":0.9736233562807713,"#,
                r#""m_1":0.86,"m_5":1.16,"m_15":0.78}"#
            )
        );
    }

    #[test]
    fn a_machine_without_iostat_has_a_row_all_the_same() {
        let report = json!({ "serverId": "x", "body": { "hostname": "h", "totalmem": 0, "freemem": 0 } });
        let row = json!(Row::of("chat-1", &report.into()).unwrap());
        assert_eq!((&row["serverId"], &row["hostname"]), (&json!("chat-1"), &json!("h")));
        assert_eq!((row.get("Time"), &row["free/total"]), (None, &Value::Null));
    }

    #[test]
    fn what_is_no_report_is_an_error() {
        for report in [json!(null), json!({}), json!({ "body": "iostat" })] {
            assert!(Row::of("chat-1", &report.into()).is_err());
        }
    }
}
