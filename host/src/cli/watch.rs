//! `muster show|get|set|enable|disable|run|dump`: through the module watchServer, which Node masters have as well.

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::{
    CliError,
    complete::{module_ids, server_ids},
    module,
    render::cell,
    session::{ALL, Session},
    shown::{Listing, Row, Shown},
};

/// The module that is asked.
pub(super) const MODULE: &str = "watchServer";

/// Which server.
#[derive(Debug, Args)]
pub(super) struct On {
    /// The server; in the shell that of `use`, if none is named
    #[arg(short, long = "server", value_name = "ID", add = server_ids())]
    pub(super) server: Option<String>,
}

/// What can be shown.
#[derive(Debug, Subcommand)]
pub(super) enum ShowCommand {
    /// All servers, each as it reports itself
    Servers,
    /// Connections of the frontend servers, or of one
    Connections(On),
    /// Who is logged in at the frontend servers, or at one
    Logins(On),
    /// All modules of the master, internal ones too
    Modules,
    /// Processor and memory of a server
    Status(On),
    /// The options of a component of a server; `master` for the master's own
    Config {
        /// Name of the component
        component: String,
        #[command(flatten)]
        on: On,
    },
    /// The remotes that a server can call
    Proxy(On),
    /// The handlers of a server
    Handler(On),
    /// The components of a server, with their options
    Components(On),
    /// The settings of a server
    Settings(On),
}

/// `muster get`
#[derive(Debug, Args)]
pub(super) struct GetArgs {
    /// Name of the setting
    key: String,
    #[command(flatten)]
    on: On,
}

/// `muster set`
#[derive(Debug, Args)]
pub(super) struct SetArgs {
    /// Name of the setting
    key: String,
    /// Its new value, a text
    #[arg(allow_hyphen_values = true)]
    value: String,
    #[command(flatten)]
    on: On,
}

/// `muster enable`, `muster disable`
#[derive(Debug, Subcommand)]
pub(super) enum SwitchCommand {
    /// A module, on the master and all servers
    Module {
        /// Id of the module
        #[arg(add = module_ids())]
        module: String,
    },
    /// A setting of a server
    App {
        /// Name of the setting
        key: String,
        #[command(flatten)]
        on: On,
    },
}

/// `muster run`
#[derive(Debug, Args)]
pub(super) struct RunArgs {
    /// The expression; `app` is the application
    expression: String,
    #[command(flatten)]
    on: On,
}

/// `muster exec`
#[derive(Debug, Args)]
pub(super) struct ExecArgs {
    /// The script; what it assigns to `result` is shown
    pub(super) file: std::path::PathBuf,
    #[command(flatten)]
    pub(super) on: On,
}

/// `muster dump`
#[derive(Debug, Subcommand)]
pub(super) enum DumpArgs {
    /// A profile of the processor
    Cpu {
        /// The file, on the server's machine
        file: String,
        /// For how many seconds
        times: String,
        /// Also if the file is there
        #[arg(long)]
        force: bool,
        #[command(flatten)]
        on: On,
    },
    /// A snapshot of the heap
    Memory {
        /// The file, on the server's machine, without .heapsnapshot
        file: String,
        /// Also if the file is there
        #[arg(long)]
        force: bool,
        #[command(flatten)]
        on: On,
    },
}

pub(super) async fn show(command: ShowCommand, session: &Session) -> Result<Shown, CliError> {
    match command {
        ShowCommand::Servers => servers(session).await,
        ShowCommand::Connections(on) => connections(on, session).await,
        ShowCommand::Logins(on) => logins(on, session).await,
        ShowCommand::Modules => modules(session).await,
        ShowCommand::Status(on) => status(on, session).await,
        ShowCommand::Config { component, on } if component == "master" => {
            let context = session.context(on.server);
            ask(session, "config", json!(component), context).await.map(Shown::Body)
        }
        ShowCommand::Config { component, on } => on_one("config", json!(component), on, session).await,
        ShowCommand::Proxy(on) => on_one("proxy", json!(""), on, session).await,
        ShowCommand::Handler(on) => on_one("handler", json!(""), on, session).await,
        ShowCommand::Components(on) => on_one("components", json!(""), on, session).await,
        ShowCommand::Settings(on) => on_one("settings", json!(""), on, session).await,
    }
}

pub(super) async fn get(GetArgs { key, on }: GetArgs, session: &Session) -> Result<Shown, CliError> {
    on_one("get", json!(key), on, session).await
}

pub(super) async fn set(SetArgs { key, value, on }: SetArgs, session: &Session) -> Result<Shown, CliError> {
    on_one("set", json!({ "key": key, "value": value }), on, session).await
}

pub(super) async fn switch(command: SwitchCommand, on: bool, session: &Session) -> Result<Shown, CliError> {
    match command {
        SwitchCommand::Module { module } => module::switch(session, &module, on).await,
        SwitchCommand::App { key, on: server } => {
            on_one(if on { "enable" } else { "disable" }, json!(key), server, session).await
        }
    }
}

pub(super) async fn evaluate(RunArgs { expression, on }: RunArgs, session: &Session) -> Result<Shown, CliError> {
    on_one("run", json!(expression), on, session).await
}

pub(super) async fn dump(command: DumpArgs, session: &Session) -> Result<Shown, CliError> {
    match command {
        DumpArgs::Cpu { file, times, force, on } => {
            on_one("cpu", json!({ "filepath": file, "times": times, "force": force }), on, session).await
        }
        DumpArgs::Memory { file, force, on } => {
            on_one("memory", json!({ "filepath": file, "force": force }), on, session).await
        }
    }
}

/// The rows of `msg` in an answer, by server id.
pub(super) async fn rows_of(session: &Session, comd: &str, context: &str) -> Result<Vec<(String, Value)>, CliError> {
    match ask(session, comd, json!(""), context.to_owned()).await?["msg"].take() {
        Value::Object(rows) => Ok(rows.into_iter().collect()),
        found => Err(CliError::Odd { module: MODULE, found: found.to_string() }),
    }
}

async fn servers(session: &Session) -> Result<Shown, CliError> {
    let mut rows = rows_of(session, "servers", ALL).await?;
    rows.sort_by(|(one, _), (other, _)| one.cmp(other));
    let fields = ["serverType", "host", "port", "pid", "heapUsed", "uptime"];
    let row = |(id, item): (String, Value)| {
        let cells = std::iter::once(id).chain(fields.map(|field| cell(&item[field]))).collect();
        Row { item, cells }
    };
    let header = vec!["ID", "TYPE", "HOST", "PORT", "PID", "HEAP MB", "UPTIME min"];
    Ok(Shown::Listing(Listing { header, rows: rows.into_iter().map(row).collect(), ..Listing::default() }))
}

async fn connections(on: On, session: &Session) -> Result<Shown, CliError> {
    let rows = rows_of(session, "connections", &session.context(on.server)).await?;
    let row = |(id, item): (String, Value)| {
        let cells = vec![id, cell(&item["totalConnCount"]), cell(&item["loginedCount"])];
        Row { item, cells }
    };
    let header = vec!["ID", "CONNECTIONS", "LOGGED IN"];
    Ok(Shown::Listing(Listing { header, rows: rows.into_iter().map(row).collect(), ..Listing::default() }))
}

async fn logins(on: On, session: &Session) -> Result<Shown, CliError> {
    let rows = rows_of(session, "logins", &session.context(on.server)).await?;
    let of_server = |(id, item): (String, Value)| {
        let logins = item["loginedList"].as_array().cloned().unwrap_or_default().into_iter();
        logins.map(move |login| {
            let since = login["loginTime"].as_u64().map(std::time::Duration::from_millis);
            let since = since.and_then(|since| std::time::UNIX_EPOCH.checked_add(since));
            let since =
                since.map_or_else(|| cell(&login["loginTime"]), |at| humantime::format_rfc3339_seconds(at).to_string());
            let cells = vec![cell(&login["uid"]), id.clone(), since, cell(&login["address"])];
            Row { item: with_server(login, &id), cells }
        })
    };
    let rows = rows.into_iter().flat_map(of_server).collect();
    Ok(Shown::Listing(Listing { header: vec!["USER", "SERVER", "SINCE", "ADDRESS"], rows, ..Listing::default() }))
}

async fn modules(session: &Session) -> Result<Shown, CliError> {
    let body = ask(session, "modules", json!(""), ALL.to_owned()).await?;
    let Some(modules) = body["msg"].as_array() else {
        return Err(CliError::Odd { module: MODULE, found: body.to_string() });
    };
    let rows = modules.iter().map(|module| Row { item: module.clone(), cells: vec![cell(module)] }).collect();
    Ok(Shown::Listing(Listing { header: vec!["MODULE"], rows, ..Listing::default() }))
}

async fn status(on: On, session: &Session) -> Result<Shown, CliError> {
    let id = session.one_server(on.server)?;
    let mut body = ask(session, "status", json!(""), id.clone()).await?;
    let item = body["msg"]["body"].take();
    if item.is_null() {
        // A Node master answers nothing at all for a server that is not there.
        return Err(CliError::Refused { module: MODULE.to_owned(), text: format!("no status of {id}: is it there?") });
    }
    let fields = ["serverId", "serverType", "pid", "cpuAvg", "memAvg", "vsz", "rss", "usr", "sys", "gue", "time"];
    let cells = fields.map(|field| cell(&item[field])).to_vec();
    let header = vec!["ID", "TYPE", "PID", "CPU %", "MEMORY %", "VSZ", "RSS", "USR", "SYS", "GUE", "TIME"];
    Ok(Shown::Listing(Listing { header, rows: vec![Row { item, cells }], ..Listing::default() }))
}

async fn on_one(comd: &str, param: Value, on: On, session: &Session) -> Result<Shown, CliError> {
    let id = session.one_server(on.server)?;
    ask(session, comd, param, id).await.map(Shown::Body)
}

async fn ask(session: &Session, comd: &str, param: Value, context: String) -> Result<Value, CliError> {
    session.ask(MODULE, json!({ "comd": comd, "param": param, "context": context })).await
}

fn with_server(mut item: Value, id: &str) -> Value {
    if let Some(fields) = item.as_object_mut() {
        fields.insert("serverId".to_owned(), id.into());
    }
    item
}
