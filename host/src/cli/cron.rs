//! `muster cron`: through the console module, which Node masters have as well.

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::{
    CliError, fleet,
    outcome::{End, Outcome},
    render::cell,
    server::MODULE,
    session::Session,
    shown::{Listing, Row, Shown},
};
use crate::crons;

/// What can be done with crons.
#[derive(Debug, Subcommand)]
pub(super) enum CronCommand {
    /// List the crons of the fleet
    List,
    /// Give one to a server, or to all of a type: `id=8 serverId=chat-server-1 'time=0 30 10 * * *' action=chatCron.send`
    Add(Fields),
    /// Take one away: `id=8 serverId=chat-server-1`
    Remove(Fields),
}

/// A cron, as crons.json has it.
#[derive(Debug, Args)]
pub(super) struct Fields {
    /// id, time (six fields, with seconds), action; and serverId or serverType
    #[arg(required = true, value_name = "KEY=VALUE")]
    fields: Vec<String>,
}

pub(super) async fn run(command: CronCommand, session: &Session) -> Result<Shown, CliError> {
    match command {
        CronCommand::List => list(session).await,
        CronCommand::Add(Fields { fields }) => {
            // A server that cannot read it has nobody to tell.
            let cron = fields.iter().filter_map(|field| field.split_once('='));
            let cron: Value = cron.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
            crons::check(&cron).map_err(|error| CliError::Usage(error.to_string()))?;
            order("addCron", fields, "added", session).await
        }
        CronCommand::Remove(Fields { fields }) => order("removeCron", fields, "removed", session).await,
    }
}

async fn order(signal: &str, fields: Vec<String>, done: &str, session: &Session) -> Result<Shown, CliError> {
    let named = |name: &str| fields.iter().find_map(|field| field.strip_prefix(name)?.strip_prefix('='));
    let seen = fleet::look(session).await?;
    let absent = match (named("serverId"), named("serverType")) {
        (Some(id), _) => (!seen.contains_key(id)).then_some(id),
        (None, Some(kind)) => (!seen.values().any(|server| server["serverType"] == kind)).then_some(kind),
        (None, None) => None,
    };
    if let Some(absent) = absent {
        return Ok(Shown::Outcomes(vec![Outcome::new(absent, End::Unreachable)]));
    }
    let body = session.ask(MODULE, json!({ "signal": signal, "args": fields })).await?;
    Ok(Shown::Sentence(format!("the cron is {done}"), body))
}

/// The original has no way to ask for them.
async fn list(session: &Session) -> Result<Shown, CliError> {
    let body = session.ask(MODULE, json!({ "signal": "listCrons" })).await.map_err(|error| match error {
        CliError::Refused { text, .. } if text.contains("cannot be recognized") => CliError::CannotListCrons,
        other => other,
    })?;
    let Some(crons) = body["crons"].as_array() else {
        return Err(CliError::Odd { module: MODULE, found: body.to_string() });
    };
    let row = |cron: &Value| Row {
        item: cron.clone(),
        cells: ["id", "serverId", "serverType", "time", "action"].map(|field| cell(&cron[field])).to_vec(),
    };
    let header = vec!["ID", "SERVER", "TYPE", "TIME", "ACTION"];
    Ok(Shown::Listing(Listing { header, rows: crons.iter().map(row).collect(), ..Listing::default() }))
}
