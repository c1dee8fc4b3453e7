//! Orders that change the fleet, and what became of each server. The masters' own answers say little: so the fleet is
//! looked at until it is as ordered.

use std::time::Duration;

use serde_json::{Value, json};

use super::{AddArgs, KillArgs, MODULE, RestartArgs, StartArgs, StopArgs, Waiting, program};
use crate::{
    cli::{
        CliError,
        ask::body_of,
        fleet::{self, Seen},
        outcome::{End, Outcome},
        session::{ALL, Session},
        shown::Shown,
    },
    config,
};

/// A master waits two minutes for the servers before it answers a `kill`.
const KILL: Duration = Duration::from_secs(125);
/// And some seconds more than those for a `restart`.
const RESTART: Duration = Duration::from_secs(15);

pub(super) async fn stop(StopArgs { ids, yes, waiting }: StopArgs, session: &Session) -> Result<Shown, CliError> {
    if ids.iter().any(|id| id == ALL) {
        session.confirm(yes, "do you really want to stop all servers and the master?")?;
        let body = session.ask(MODULE, json!({ "signal": "stop", "ids": [] })).await?;
        return Ok(Shown::Sentence("all servers and the master stop".to_owned(), body));
    }
    let before = fleet::look(session).await?;
    let mut outcomes = Vec::new();
    for id in &ids {
        // One by one: a Node master does nothing more for the others once it has met one that it does not know.
        let end = match session.ask(MODULE, json!({ "signal": "stop", "ids": [id] })).await {
            Ok(_) if waiting.no_wait => End::Ordered,
            Ok(_) if !before.contains_key(id) => End::Unreachable,
            Ok(_) => End::TimedOut,
            Err(CliError::Refused { text, .. }) if text.starts_with("Cannot find the server") => End::Unreachable,
            Err(error) => failed(error)?,
        };
        outcomes.push(Outcome::new(id, end));
    }
    settle(session, &mut outcomes, "stop", |id, seen| match seen.get(id) {
        None => Some("stopped"),
        Some(server) if server["pid"] != before[id]["pid"] => Some("stopped, and started again by somebody"),
        Some(_) => None,
    })
    .await
}

pub(super) async fn restart(args: RestartArgs, session: &Session) -> Result<Shown, CliError> {
    let RestartArgs { ids, server_type, waiting } = args;
    let before = fleet::look(session).await?;
    let of_type = |server: &Value| server_type.is_some() && server["serverType"].as_str() == server_type.as_deref();
    let meant: Vec<String> = match &server_type {
        Some(_) => before.iter().filter(|(_, server)| of_type(server)).map(|(id, _)| id.clone()).collect(),
        None => ids.clone(),
    };
    let client = session.client().await?.with_timeout(session.timeout().max(RESTART));
    let order = json!({ "signal": "restart", "ids": ids, "type": server_type });
    let refused = match client.request(MODULE, order).await.map_err(CliError::from).and_then(|r| body_of(MODULE, r)) {
        Ok(body) => body,
        Err(error) if server_type.is_some() => return Err(error),
        Err(error) => {
            let failed = failed(error)?;
            let end = |id: &String| if before.contains_key(id) { failed.clone() } else { End::Unreachable };
            return Ok(Shown::Outcomes(meant.iter().map(|id| Outcome::new(id, end(id))).collect()));
        }
    };
    let not_restarted = |id: &String| refused.as_array().is_some_and(|ids| ids.iter().any(|other| other == id));
    let end = |id: &String| match before.contains_key(id) {
        _ if not_restarted(id) => End::Failed("it could not be restarted".to_owned()),
        false => End::Unreachable,
        true if waiting.no_wait => End::Ordered,
        true => End::TimedOut,
    };
    let mut outcomes: Vec<Outcome> = meant.iter().map(|id| Outcome::new(id, end(id))).collect();
    settle(session, &mut outcomes, "restart", |id, seen| {
        let server = seen.get(id)?;
        (server["pid"] != before[id]["pid"]).then_some("restarted")
    })
    .await
}

pub(super) async fn kill(KillArgs { yes }: KillArgs, session: &Session) -> Result<Shown, CliError> {
    session.confirm(yes, "do you really want to kill all servers?")?;
    let before = fleet::look(session).await?;
    let client = session.client().await?.with_timeout(session.timeout().max(KILL));
    let body = body_of(MODULE, client.request(MODULE, json!({ "signal": "kill" })).await?)?;
    let remained = |id: &String| body["serverIds"].as_array().is_some_and(|ids| ids.iter().any(|other| other == id));
    let end = |id: &String| if remained(id) { End::TimedOut } else { End::Done("it ends".to_owned()) };
    Ok(Shown::Outcomes(before.keys().map(|id| Outcome::new(id, end(id))).collect()))
}

pub(super) async fn add(AddArgs { args, waiting }: AddArgs, session: &Session) -> Result<Shown, CliError> {
    let id = args.iter().find_map(|arg| arg.strip_prefix("id=")).map(str::to_owned);
    let answer = session.ask(MODULE, json!({ "signal": "add", "args": args })).await;
    let Some(id) = id else {
        // Of a cluster the master makes up the ids, and answers those that failed.
        return match answer? {
            Value::Array(failed) if !failed.is_empty() => {
                let end = End::Failed("it could not be started".to_owned());
                Ok(Shown::Outcomes(failed.iter().map(|id| Outcome::new(&named(id), end.clone())).collect()))
            }
            body => Ok(Shown::Sentence("the servers are ordered".to_owned(), body)),
        };
    };
    let end = match answer {
        Ok(_) if waiting.no_wait => End::Ordered,
        Ok(_) => End::TimedOut,
        Err(error) => failed(error)?,
    };
    started(session, vec![Outcome::new(&id, end)]).await
}

/// Has the master add each, with all that servers.json says of it.
pub(super) async fn start(args: StartArgs, session: &Session) -> Result<Shown, CliError> {
    let StartArgs { what, config_dir, env, waiting: Waiting { no_wait, .. } } = args;
    let servers = config::servers_of(&config_dir, &env)?;
    let is_meant = |server: &serde_json::Map<String, Value>| {
        what == ALL || ["id", "serverType"].iter().any(|field| server.get(*field).is_some_and(|value| *value == what))
    };
    let meant: Vec<_> = servers.iter().filter(|server| is_meant(server)).collect();
    if meant.is_empty() {
        return Err(CliError::NotInServersJson { what, dir: config_dir });
    }
    let before = fleet::look(session).await?;
    let mut outcomes = Vec::new();
    for server in meant {
        let id = named(&server["id"]);
        let fields: Vec<String> = server.iter().map(|(key, value)| format!("{key}={}", named(value))).collect();
        let end = if before.contains_key(&id) {
            End::Failed("it runs already".to_owned())
        } else {
            match session.ask(MODULE, json!({ "signal": "add", "args": fields })).await {
                Ok(_) if no_wait => End::Ordered,
                Ok(_) => End::TimedOut,
                Err(error) => failed(error)?,
            }
        };
        outcomes.push(Outcome::new(&id, end));
    }
    started(session, outcomes).await
}

/// Waits until all have come, and asks the master of those that have not.
async fn started(session: &Session, mut outcomes: Vec<Outcome>) -> Result<Shown, CliError> {
    settle(session, &mut outcomes, "start", |id, seen| seen.contains_key(id).then_some("started")).await?;
    for outcome in outcomes.iter_mut().filter(|outcome| outcome.end == End::TimedOut) {
        if let Some(why) = program::died_of(&outcome.server, session).await {
            outcome.end = End::Failed(why);
        }
    }
    Ok(Shown::Outcomes(outcomes))
}

/// Looks at the fleet until all that may still come about has.
async fn settle(
    session: &Session,
    outcomes: &mut [Outcome],
    what: &str,
    is_done: impl Fn(&str, &Seen) -> Option<&'static str>,
) -> Result<Shown, CliError> {
    let open = |outcomes: &[Outcome]| outcomes.iter().filter(|outcome| outcome.end == End::TimedOut).count();
    if open(outcomes) > 0 {
        let what = format!("waiting for {} to {what}", open(outcomes));
        fleet::until(session, &what, |seen| {
            for outcome in outcomes.iter_mut().filter(|outcome| outcome.end == End::TimedOut) {
                if let Some(how) = is_done(&outcome.server, seen) {
                    outcome.end = End::Done(how.to_owned());
                }
            }
            open(outcomes) == 0
        })
        .await?;
    }
    Ok(Shown::Outcomes(outcomes.to_vec()))
}

/// A refusal of the master is the end of this one server; anything else ends the command.
fn failed(error: CliError) -> Result<End, CliError> {
    match error {
        CliError::Refused { text, .. } if !CliError::is_about_level(&text) => Ok(End::Failed(text)),
        other => Err(other),
    }
}

fn named(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}
