//! What a server says of itself in a list: texts with two decimals, as the original's peers print them.

use muster_plugin_api::Figures;
use serde::Serialize;

/// The answer to `list`, which the original puts into the error slot.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Listed {
    server_id: String,
    body: Row,
}

/// One server's figures. Memory in MiB, time in minutes.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Row {
    server_id: String,
    server_type: String,
    pid: u32,
    rss: String,
    heap_total: String,
    heap_used: String,
    uptime: String,
}

impl Listed {
    pub(crate) fn new(server_id: &str, server_type: &str, figures: &Figures) -> Listed {
        Listed {
            server_id: server_id.to_owned(),
            body: Row {
                server_id: server_id.to_owned(),
                server_type: server_type.to_owned(),
                pid: figures.pid,
                rss: mebibytes(figures.rss),
                heap_total: mebibytes(figures.heap_total),
                heap_used: mebibytes(figures.heap_used),
                uptime: format!("{:.2}", figures.uptime_s / 60.0),
            },
        }
    }
}

fn mebibytes(bytes: u64) -> String {
    #[expect(clippy::cast_precision_loss, reason = "two decimals are printed")]
    let mebibytes = bytes as f64 / (1024.0 * 1024.0);
    format!("{mebibytes:.2}")
}

#[cfg(test)]
mod tests {
    use muster_plugin_api::Body;

    use super::*;

    #[test]
    fn a_row_is_what_real_peers_send() {
        let figures = Figures {
            pid: 18887,
            rss: 76_776_735,
            heap_total: 31_006_393,
            heap_used: 14_155_776,
            uptime_s: 4.2,
            ..Figures::default()
        };
        assert_eq!(
            Body::of(&Listed::new("chat-server-1", "chat", &figures)).unwrap().as_str(),
            concat!(
                r#"{"serverId":"chat-server-1","body":{"serverId":"chat-server-1","serverType":"chat","pid":18887,"#,
                r#""rss":"73.22","heapTotal":"29.57","heapUsed":"13.50","uptime":"0.07"}}"#
            )
        );
    }

    #[test]
    fn nothing_is_printed_with_two_decimals_too() {
        assert_eq!(mebibytes(0), "0.00");
    }
}
