//! `muster server`: through the console module, which Node masters have as well.

use clap::Subcommand;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::{
    CliError,
    ask::{Asking, Output, body_of},
    render::{self, cell},
};

/// The module that is asked.
pub(super) const MODULE: &str = "__console__";

/// What can be done with servers.
#[derive(Debug, Subcommand)]
pub(super) enum ServerCommand {
    /// List the servers of the fleet, each as it reports itself
    List(Asking),
}

/// `{"msg":{"<id>":{…}}}`: figures are texts, memory in MiB, uptime in minutes.
#[derive(Deserialize)]
struct Answer {
    msg: Map<String, Value>,
}

pub(super) async fn list(asking: Asking) -> Result<String, CliError> {
    let client = asking.connect().await?;
    let response = client.request(MODULE, json!({ "signal": "list" })).await?;
    client.close().await;
    shown(body_of(MODULE, response)?, asking.output)
}

fn shown(body: Value, output: Output) -> Result<String, CliError> {
    let odd = body.to_string();
    let Ok(Answer { msg: servers }) = serde_json::from_value(body) else {
        return Err(CliError::Odd { module: MODULE, found: odd });
    };
    if output == Output::Json {
        return Ok(Value::Array(servers.into_iter().map(|(_, server)| server).collect()).to_string());
    }
    let rows = servers.iter().map(|(id, server)| {
        let heap = match (cell(&server["heapUsed"]), cell(&server["heapTotal"])) {
            (used, total) if total == render::NOTHING => used,
            (used, total) => format!("{used}/{total}"),
        };
        let [server_type, pid, rss, uptime] = ["serverType", "pid", "rss", "uptime"].map(|field| cell(&server[field]));
        vec![id.clone(), server_type, pid, rss, heap, uptime]
    });
    Ok(render::table(&["ID", "TYPE", "PID", "RSS MiB", "HEAP MiB", "UPTIME min"], rows))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_of_node_and_ours_are_listed_alike() {
        let body = json!({"msg": {
            "chat-server-1": {"serverId": "chat-server-1", "serverType": "chat", "pid": 18887, "rss": "73.22",
                "heapTotal": "29.57", "heapUsed": "13.50", "uptime": "0.07"},
            "ours": {"serverId": "ours", "serverType": "gate", "pid": 7, "rss": "5.10", "uptime": 1},
        }});
        let expected = "\
ID             TYPE  PID    RSS MiB  HEAP MiB     UPTIME min
chat-server-1  chat  18887  73.22    13.50/29.57  0.07
ours           gate  7      5.10     -            1";
        assert_eq!(shown(body.clone(), Output::Table).unwrap(), expected);
        let listed: Value = serde_json::from_str(&shown(body.clone(), Output::Json).unwrap()).unwrap();
        assert_eq!(listed, json!([body["msg"]["chat-server-1"], body["msg"]["ours"]]));
    }

    #[test]
    fn another_answer_is_odd() {
        assert!(matches!(shown(Value::Null, Output::Table), Err(CliError::Odd { .. })));
    }
}
