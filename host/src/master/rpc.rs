//! The host's own module `__rpc__`: anybody who is logged in may see whom can be called, administrators may call.
//!
//! ```text
//! {"action":"list"}                                        → {"servers":[{"id","serverType","callable",…}]}
//! {"action":"call","target":"chat","key":"uid-7","timeoutMs":5000,
//!  "call":{"namespace":"user","service":"chatRemote","method":"add","args":[1,2]}}
//!                                                          → {"server":"chat-server-1","resp":[null,3]}
//! ```
//! `target` is the id of a server, or a type; `key` picks a server of the type. `resp` is what the remote gave its
//! callback: by convention an error or null, then results. The error of a call that was not answered in time has
//! `"timeout":true`.

use std::time::Duration;

use muster_plugin_api::RequestError;
use serde::Deserialize;
use serde_json::{json, value::RawValue};

use super::{Master, commands::answer};
use crate::{rpc, session::Reply, wire};

/// Nobody looks at a terminal for longer.
const LONGEST_WAIT: Duration = Duration::from_secs(300);

/// What is asked. The call itself stays as it is: numbers in it may be larger than ours.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Ask<'a> {
    #[serde(default)]
    action: String,
    #[serde(default)]
    target: String,
    #[serde(default)]
    key: String,
    timeout_ms: Option<u64>,
    #[serde(borrow)]
    call: Option<&'a RawValue>,
}

impl Master {
    /// Answers the host's own module `__rpc__`.
    pub(super) fn about_rpc(&self, reply: Reply, body: &str) {
        let Ok(ask) = serde_json::from_str::<Ask<'_>>(body) else {
            return reply.refuse("expected an object with an action, such as {\"action\":\"list\"}");
        };
        match ask.action.as_str() {
            "list" => return answer(Some(reply), Ok(json!({ "servers": self.app.rpc().list() }))),
            "call" => {}
            other => return reply.refuse(&format!("unknown action:{other}; there are list and call")),
        }
        let call = ask.call.map_or("{}", RawValue::get);
        let timeout = ask.timeout_ms.map(|ms| Duration::from_millis(ms).min(LONGEST_WAIT));
        let call = rpc::Call { target: &ask.target, key: &ask.key, timeout, body: call.as_bytes() };
        let end = self.app.rpc().call(call);
        tokio::spawn(async move {
            match end.await {
                Ok((server, response)) => {
                    let body = format!(r#"{{"server":{},"resp":{}}}"#, wire::json_text(&server), response.all());
                    reply.send(b"null", body.as_bytes());
                }
                Err(RequestError::Timeout(text)) => {
                    let error = json!({ "message": text, "stack": format!("Error: {text}"), "timeout": true });
                    answer(Some(reply), Err(error.to_string()));
                }
                Err(error) => reply.refuse(&error.to_string()),
            }
        });
    }
}
