//! The last lines of a server's log, read by the master.
//!
//! A client asks `{"serverId", "logfile", "number"}`; the server's monitor reads `<root>/<logfile>-<serverId>.log`. The
//! root is the option `root` of the monitor. Name and number are checked, the file is opened beneath the root, and no
//! shell is involved; the original passes both to one.
//!
//! Of a monitor that wraps a program, `stdout` and `stderr` are what that has written; they may hold secrets, and are for
//! level 1. The answer tells where they `end`, in bytes; who asks with that as `from` gets what was added since.

mod ask;
mod line;
mod tail;

use std::{fs::File, path::PathBuf};

use muster_beneath::Root;
use muster_plugin_api::{
    Answer, Body, ClientCall, Context, HandlerResult, Input, Level, Manifest, MasterAgent, Module, ModuleError,
    MonitorAgent, Options, export_modules, serde_json::Value,
};
use serde::{Deserialize, Serialize};

use crate::{ask::Ask, line::Line};

const MODULE: &str = "monitorLog";

/// Where pomelo's applications write.
const ROOT: &str = "logs";

struct MonitorLog {
    root: String,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Found<'a> {
    server_id: &'a str,
    body: Lines<'a>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Lines<'a> {
    logfile: &'a str,
    data_array: Vec<Line>,
    /// Of a program's output.
    #[serde(skip_serializing_if = "Option::is_none")]
    end: Option<u64>,
}

impl Module for MonitorLog {
    fn manifest() -> Manifest {
        Manifest::new(MODULE, env!("CARGO_PKG_VERSION")).commands("logfile", &["*"], &ask::OUTPUT)
    }

    fn create(context: Context) -> Result<MonitorLog, ModuleError> {
        Ok(MonitorLog { root: root(&context.options)? })
    }

    async fn monitor_handler(&self, agent: MonitorAgent, input: Input) -> HandlerResult {
        let Input::Message(message) = input else { return Ok(Answer::Silence) };
        let ask = Ask::of(&message.body)?;
        let server_id = agent.server_id();
        if let Some(path) = ask.is_output().then(|| output_of(&agent, &ask.logfile)).flatten() {
            let read = File::open(&path).and_then(|file| tail::added(file, ask.from, ask.number));
            let (text, end) = read.map_err(|error| format!("cannot read {}: {error}", path.display()))?;
            let data_array = line::written(&text, &server_id);
            let lines = Lines { logfile: &ask.logfile, data_array, end: Some(end) };
            return Answer::json(&Found { server_id: &server_id, body: lines });
        }
        let name = ask.file_name(&server_id)?;
        // A file that is not there is an empty one, as in the original; one that must not be read is an error.
        let text = match Root::open(&self.root).and_then(|root| root.file(&name)) {
            Ok(file) => tail::last_lines(file, ask.number).map_err(|error| format!("cannot read {name}: {error}"))?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                agent.log(Level::Debug, format_args!("no {name} in {}", self.root));
                String::new()
            }
            Err(error) => return Err(format!("cannot open {name}: {error}").into()),
        };
        let lines = Lines { logfile: &ask.logfile, data_array: line::lines(&text, &server_id), end: None };
        Answer::json(&Found { server_id: &server_id, body: lines })
    }

    /// Passed on as it is, and the answer as well. The original swallows errors, so that nobody ever gets them.
    async fn client_handler(&self, agent: MasterAgent, call: ClientCall) -> HandlerResult {
        let server = server_of(&call.body)?;
        Ok(agent.request(&server, MODULE, &call.body).await?)
    }
}

fn root(options: &Options) -> Result<String, ModuleError> {
    Ok(options.get("root")?.unwrap_or_else(|| ROOT.to_owned()))
}

/// The file that the wrapped program writes to; its monitor has named it. None without a program.
fn output_of(agent: &MonitorAgent, stream: &str) -> Option<PathBuf> {
    let program: Value = agent.app().program().parse().ok()?;
    program[stream].as_str().map(PathBuf::from)
}

fn server_of(body: &Body) -> Result<String, ModuleError> {
    #[derive(Deserialize)]
    struct To {
        #[serde(rename = "serverId")]
        server_id: String,
    }
    body.parse::<To>().map(|to| to.server_id).map_err(|_| "serverId should not be empty".into())
}

export_modules!(MonitorLog);
