//! `muster rpc`: calls of servers' remotes, made by the master.

use std::{str::FromStr, time::Duration};

use clap::{Args, Subcommand};
use serde::Deserialize;
use serde_json::{Value, json, value::RawValue};

use super::{
    CliError,
    ask::{Output, refusal, words_of},
    render::{self, cell},
    session::Session,
    shown::{Listing, Row, Shown},
};
use crate::{client::ClientError, rpc::MODULE};

/// What the master needs beyond the time of the call to say that it is over.
const LATE: Duration = Duration::from_secs(5);

/// Arguments of `muster rpc`: those of a call, unless it is `list`.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub(super) struct RpcArgs {
    #[command(subcommand)]
    list: Option<RpcCommand>,
    /// Id of the server to call, or a type of servers
    #[arg(value_name = "SERVER_OR_TYPE", required = true)]
    target: Option<String>,
    /// What to call, such as user.chatRemote.kick
    #[arg(value_name = "NAMESPACE.SERVICE.METHOD", required = true)]
    remote: Option<Remote>,
    /// Arguments of the remote: JSON, or else texts
    #[arg(value_name = "ARGS", allow_negative_numbers = true)]
    args: Vec<String>,
    /// Of a type's servers call the one that this key belongs to, such as the id of a user
    #[arg(long, value_name = "KEY", default_value = "")]
    route: String,
}

#[derive(Debug, Subcommand)]
enum RpcCommand {
    /// List the servers, and whether they can be called
    List,
}

/// `namespace.service.method`. Only the service may have dots in it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Remote {
    namespace: String,
    service: String,
    method: String,
}

/// The answer of `__rpc__`.
#[derive(Deserialize)]
struct Answer {
    resp: Vec<Box<RawValue>>,
}

impl FromStr for Remote {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Remote, Self::Err> {
        let parts = text.split_once('.').and_then(|(namespace, rest)| {
            let (service, method) = rest.rsplit_once('.')?;
            Some([namespace, service, method])
        });
        match parts {
            Some(parts) if parts.iter().all(|part| !part.is_empty()) => {
                let [namespace, service, method] = parts.map(str::to_owned);
                Ok(Remote { namespace, service, method })
            }
            _ => Err("a remote is written namespace.service.method, such as user.chatRemote.kick"),
        }
    }
}

pub(super) async fn run(args: RpcArgs, session: &Session) -> Result<Shown, CliError> {
    let RpcArgs { list: listing, target, remote, args, route } = args;
    match (listing, target, remote) {
        (Some(RpcCommand::List), ..) => list(session).await,
        (None, Some(target), Some(remote)) => call(&target, remote, args, &route, session).await,
        // clap lets nobody through without them.
        (None, ..) => Ok(Shown::Text(String::new())),
    }
}

async fn list(session: &Session) -> Result<Shown, CliError> {
    let body = session.ask(MODULE, json!({ "action": "list" })).await?;
    let odd = || CliError::Odd { module: MODULE, found: body.to_string() };
    let servers = body["servers"].as_array().ok_or_else(odd)?;
    let row = |server: &Value| {
        let callable = if server["callable"] == true { "yes" } else { "no" };
        let [id, server_type, address, reason] =
            ["id", "serverType", "address", "reason"].map(|field| cell(&server[field]));
        Row { item: server.clone(), cells: vec![id, server_type, callable.to_owned(), address, reason] }
    };
    let rows = servers.iter().map(row).collect();
    let header = vec!["ID", "TYPE", "CALLABLE", "ADDRESS", "WHY NOT"];
    Ok(Shown::Listing(Listing { header, rows, json: Some(body), ..Listing::default() }))
}

async fn call(
    target: &str,
    remote: Remote,
    args: Vec<String>,
    route: &str,
    session: &Session,
) -> Result<Shown, CliError> {
    let Remote { namespace, service, method } = remote;
    let args: Vec<Box<RawValue>> = args.into_iter().map(argument).collect();
    let ask = json!({
        "action": "call", "target": target, "key": route,
        "timeoutMs": u64::try_from(session.timeout().as_millis()).unwrap_or(u64::MAX),
    });
    // Put together as text: numbers in arguments stay as they were typed.
    let call = format!(
        r#"{{"namespace":{},"service":{},"method":{},"args":{}}}"#,
        json!(namespace),
        json!(service),
        json!(method),
        serde_json::to_string(&args).unwrap_or_default(),
    );
    let ask = format!(r#"{},"call":{call}}}"#, ask.to_string().trim_end_matches('}'));
    let ask = RawValue::from_string(ask).unwrap_or_default();
    let client = session.client().await?.with_timeout(session.timeout() + LATE);
    let response = client.request(MODULE, ask).await?;
    if let Some(error) = response.error {
        let fields: Value = serde_json::from_str(error.get()).unwrap_or_default();
        return Err(match fields["timeout"].as_bool() {
            Some(true) => ClientError::Timeout { after: session.timeout() }.into(),
            _ => refusal(MODULE, words_of(&error)),
        });
    }
    let body = response.body.unwrap_or_default();
    let Ok(Answer { resp }) = serde_json::from_str(body.get()) else {
        return Err(CliError::Odd { module: MODULE, found: body.get().to_owned() });
    };
    shown(target, resp, session.output())
}

/// Programs get all arguments of the callback; for people its error is an error, and results stand on lines of their own.
fn shown(target: &str, resp: Vec<Box<RawValue>>, output: Output) -> Result<Shown, CliError> {
    if matches!(output, Output::Json | Output::Jsonl) {
        return Ok(Shown::Text(serde_json::to_string(&resp).unwrap_or_default()));
    }
    let mut resp = resp.into_iter();
    match resp.next() {
        Some(error) if error.get() != "null" => {
            Err(CliError::Refused { module: render::printable(target), text: words_of_remote(&error) })
        }
        _ => {
            let lines = resp.map(|value| {
                let value: Value = serde_json::from_str(value.get()).unwrap_or_default();
                value.as_str().map_or_else(|| render::json(&value), render::printable)
            });
            Ok(Shown::Text(lines.collect::<Vec<_>>().join("\n")))
        }
    }
}

/// pomelo sends an `Error` as `{"stack"}`, whose first line says it.
fn words_of_remote(error: &RawValue) -> String {
    let fields: Value = serde_json::from_str(error.get()).unwrap_or_default();
    let stack = fields["stack"].as_str().and_then(|stack| stack.lines().next());
    match stack {
        Some(line) if fields.get("message").is_none() => line.trim_start_matches("Error: ").to_owned(),
        _ => words_of(error),
    }
}

fn argument(text: String) -> Box<RawValue> {
    RawValue::from_string(text.clone())
        .or_else(|_| RawValue::from_string(crate::wire::json_text(&text)))
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_remote_has_three_parts() {
        let remote: Remote = "user.chatRemote.kick".parse().unwrap();
        assert_eq!(
            (remote.namespace.as_str(), remote.service.as_str(), remote.method.as_str()),
            ("user", "chatRemote", "kick")
        );
        assert_eq!("sys.a.b.c".parse::<Remote>().unwrap().service, "a.b");
        for odd in ["", "kick", "chatRemote.kick", "user..kick", ".a.b", "a.b."] {
            assert!(odd.parse::<Remote>().is_err(), "{odd}");
        }
    }

    #[test]
    fn arguments_are_json_or_else_texts() {
        let args = ["7", "12345678901234567890123", "player-7", "\"7\"", "{\"a\":[]}", "nul"];
        let args: Vec<_> = args.into_iter().map(|text| argument(text.to_owned())).collect();
        let expected = r#"[7,12345678901234567890123,"player-7","7",{"a":[]},"nul"]"#;
        assert_eq!(serde_json::to_string(&args).unwrap(), expected);
    }

    #[test]
    fn for_people_the_error_of_a_remote_is_an_error_and_for_programs_it_is_an_answer() {
        let resp = |json: &str| serde_json::from_str::<Vec<Box<RawValue>>>(json).unwrap();
        let text = |json: &str, output| shown("chat", resp(json), output).map(|shown| shown.render(output));
        assert_eq!(text(r#"[null,"hi",{"n":1}]"#, Output::Table).unwrap(), "hi\n{\n  \"n\": 1\n}");
        assert_eq!(text("[]", Output::Table).unwrap(), "");
        let thrown = r#"[{"stack":"Error: no such method:x\n    at y"}]"#;
        let error = text(thrown, Output::Table).unwrap_err();
        assert_eq!(error.to_string(), "chat answers: no such method:x");
        assert_eq!(text(thrown, Output::Json).unwrap(), thrown);
    }
}
