//! `muster server`: through the console module, which Node masters have as well.

mod change;
mod logs;
mod program;

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use self::logs::LogsArgs;
use super::{
    CliError,
    ask::Output,
    complete::server_ids,
    fleet,
    outcome::{End, Outcome},
    render::{self, cell},
    session::{ALL, Session},
    shown::{Listing, Row, Shown},
    watch,
};

/// The module that is asked.
pub(super) const MODULE: &str = "__console__";

/// What can be done with servers.
#[derive(Debug, Subcommand)]
pub(super) enum ServerCommand {
    /// List the servers of the fleet, each as it reports itself
    List,
    /// Show what one server reports of itself, and what became of its program
    Show {
        /// The server
        #[arg(add = server_ids())]
        id: String,
    },
    /// Start a server that is described here
    Add(AddArgs),
    /// Start servers that are described in servers.json
    Start(StartArgs),
    /// Stop servers, or `all` of them and the master
    Stop(StopArgs),
    /// Stop servers and start them again
    Restart(RestartArgs),
    /// End all servers and the master
    Kill(KillArgs),
    /// Print the last lines of a server's log
    Logs(LogsArgs),
    /// Wait until servers are there
    Wait(WaitArgs),
}

/// Whether an order is waited for.
#[derive(Debug, Args)]
pub(super) struct Waiting {
    /// Wait for the outcome, at most as long as --timeout says (the default)
    #[arg(long, overrides_with = "no_wait")]
    wait: bool,
    /// Only give the order
    #[arg(long)]
    no_wait: bool,
}

/// `muster server add`
#[derive(Debug, Args)]
pub(super) struct AddArgs {
    /// host, port, serverType, id, and whatever else servers.json would say; `clusterCount=N` for several
    #[arg(required = true, value_name = "KEY=VALUE")]
    args: Vec<String>,
    #[command(flatten)]
    waiting: Waiting,
}

/// `muster server start`
#[derive(Debug, Args)]
pub(super) struct StartArgs {
    /// An id, a type, or `all`
    what: String,
    /// Directory of servers.json
    #[arg(long, value_name = "DIR", env = "MUSTER_CONFIG_DIR", default_value = "config")]
    config_dir: std::path::PathBuf,
    /// Environment, which chooses the part of the file that counts
    #[arg(long, value_name = "NAME", env = "MUSTER_ENV", default_value = crate::config::defaults::ENV)]
    env: String,
    #[command(flatten)]
    waiting: Waiting,
}

/// `muster server stop`
#[derive(Debug, Args)]
pub(super) struct StopArgs {
    /// The servers, or `all`
    #[arg(required = true, add = server_ids())]
    ids: Vec<String>,
    /// Ask no question before everything is stopped
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    waiting: Waiting,
}

/// `muster server restart`
#[derive(Debug, Args)]
pub(super) struct RestartArgs {
    /// The servers
    #[arg(required_unless_present = "server_type", add = server_ids())]
    ids: Vec<String>,
    /// All servers of this type
    #[arg(long = "type", value_name = "TYPE", conflicts_with = "ids")]
    server_type: Option<String>,
    #[command(flatten)]
    waiting: Waiting,
}

/// `muster server kill`
#[derive(Debug, Args)]
pub(super) struct KillArgs {
    /// Ask no question
    #[arg(long)]
    yes: bool,
}

/// `muster server wait`
#[derive(Debug, Args)]
pub(super) struct WaitArgs {
    /// The servers
    #[arg(required = true, add = server_ids())]
    ids: Vec<String>,
    /// Wait until they are gone
    #[arg(long)]
    gone: bool,
}

/// `muster blacklist`
#[derive(Debug, Args)]
pub(super) struct Blacklist {
    /// IP addresses
    #[arg(required = true)]
    addresses: Vec<String>,
}

pub(super) async fn run(command: ServerCommand, session: &Session) -> Result<Shown, CliError> {
    match command {
        ServerCommand::List => list(session).await,
        ServerCommand::Show { id } => show(&id, session).await,
        ServerCommand::Add(args) => change::add(args, session).await,
        ServerCommand::Start(args) => change::start(args, session).await,
        ServerCommand::Stop(args) => change::stop(args, session).await,
        ServerCommand::Restart(args) => change::restart(args, session).await,
        ServerCommand::Kill(args) => change::kill(args, session).await,
        ServerCommand::Logs(args) => logs::run(args, session).await,
        ServerCommand::Wait(args) => wait(args, session).await,
    }
}

pub(super) async fn blacklist(Blacklist { addresses }: Blacklist, session: &Session) -> Result<Shown, CliError> {
    let body = session.ask(MODULE, json!({ "signal": "blacklist", "args": addresses })).await?;
    Ok(Shown::Sentence(format!("{} told to all servers", addresses.join(", ")), body))
}

/// All servers; where they listen, too, if there is room for it.
async fn list(session: &Session) -> Result<Shown, CliError> {
    let mut servers = fleet::look(session).await?;
    if session.output() == Output::Wide
        && let Ok(rows) = watch::rows_of(session, "servers", ALL).await
    {
        for (id, row) in rows {
            let Some(server) = servers.get_mut(&id) else { continue };
            for field in ["host", "port"] {
                server[field] = row[field].clone();
            }
        }
    }
    Ok(listing(servers.into_iter()))
}

/// Servers with their figures: texts, memory in MiB, uptime in minutes.
pub(super) fn listing(servers: impl Iterator<Item = (String, Value)>) -> Shown {
    let row = |(id, item): (String, Value)| {
        let heap = match (cell(&item["heapUsed"]), cell(&item["heapTotal"])) {
            (used, total) if total == render::NOTHING => used,
            (used, total) => format!("{used}/{total}"),
        };
        let [server_type, pid, rss, uptime, host, port] =
            ["serverType", "pid", "rss", "uptime", "host", "port"].map(|field| cell(&item[field]));
        let cells = vec![id, server_type, pid, rss, heap, uptime, host, port];
        Row { item, cells }
    };
    let header = vec!["ID", "TYPE", "PID", "RSS MiB", "HEAP MiB", "UPTIME min"];
    let wide = vec!["HOST", "PORT"];
    Shown::Listing(Listing { header, wide, rows: servers.map(row).collect(), ..Listing::default() })
}

/// What both modules know of it, the one that a master has is enough; and what became of its program, also when the
/// server is gone.
async fn show(id: &str, session: &Session) -> Result<Shown, CliError> {
    let seen = fleet::look(session).await?.remove(id);
    let program = program::of(id, session).await;
    let mut fields = match (seen, &program) {
        (Some(fields), _) => fields,
        (None, Some(_)) => json!({ "serverId": id }),
        (None, None) => return Err(CliError::NoServer(id.to_owned())),
    };
    if let Ok(rows) = watch::rows_of(session, "servers", ALL).await
        && let Some((_, Value::Object(more))) = rows.into_iter().find(|(other, _)| other == id)
        && let Some(fields) = fields.as_object_mut()
    {
        // heapUsed is in MB there, and in MiB here.
        fields.extend(more.into_iter().filter(|(name, _)| name != "heapUsed" && name != "uptime"));
    }
    let of_server = fields.as_object().into_iter().flatten().map(|(name, value)| vec![name.clone(), cell(value)]);
    let of_program = program.iter().flat_map(program::rows).map(Vec::from);
    let text = render::table(&["", ""], of_server.chain(of_program)).trim_start().to_owned();
    if let Some(program) = program {
        fields["program"] = program;
    }
    Ok(Shown::Sentence(text, fields))
}

async fn wait(WaitArgs { ids, gone }: WaitArgs, session: &Session) -> Result<Shown, CliError> {
    let mut left = ids.clone();
    let what = format!("waiting for {}", ids.join(", "));
    fleet::until(session, &what, |seen| {
        left.retain(|id| seen.contains_key(id) == gone);
        left.is_empty()
    })
    .await?;
    let end = |id: &String| match (left.contains(id), gone) {
        (true, _) => End::TimedOut,
        (false, true) => End::Done("gone".to_owned()),
        (false, false) => End::Done("there".to_owned()),
    };
    Ok(Shown::Outcomes(ids.iter().map(|id| Outcome::new(id, end(id))).collect()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::ask::Output;

    #[test]
    fn servers_of_node_and_ours_are_listed_alike() {
        let body = json!({
            "chat-server-1": {"serverId": "chat-server-1", "serverType": "chat", "pid": 18887, "rss": "73.22",
                "heapTotal": "29.57", "heapUsed": "13.50", "uptime": "0.07"},
            "ours": {"serverId": "ours", "serverType": "gate", "pid": 7, "rss": "5.10", "uptime": 1},
        });
        let expected = "\
ID             TYPE  PID    RSS MiB  HEAP MiB     UPTIME min
chat-server-1  chat  18887  73.22    13.50/29.57  0.07
ours           gate  7      5.10     -            1";
        let shown = listing(body.as_object().unwrap().clone().into_iter());
        assert_eq!(shown.render(Output::Table), expected);
        let listed: Value = serde_json::from_str(&shown.render(Output::Json)).unwrap();
        assert_eq!(listed, json!([body["chat-server-1"], body["ours"]]));
        assert_eq!(shown.render(Output::Name), "chat-server-1\nours");
    }
}
