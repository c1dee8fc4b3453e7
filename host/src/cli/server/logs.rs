//! `muster server logs`: through the module monitorLog, which Node masters have as well.

use std::time::Duration;

use clap::Args;
use serde_json::{Value, json};
use tokio::time::sleep;

use crate::cli::{
    CliError,
    ask::Output,
    complete::server_ids,
    render::{self, cell},
    session::Session,
    shown::{Listing, Row, Shown},
};

const MODULE: &str = "monitorLog";

/// How often a log that is followed is read.
const AGAIN: Duration = Duration::from_secs(1);

/// `muster server logs`
#[derive(Debug, Args)]
pub(in crate::cli) struct LogsArgs {
    /// The server
    #[arg(add = server_ids())]
    id: String,
    /// Which log: its file is FILE-ID.log in the log directory of the server's monitor
    #[arg(long, default_value = "con-log")]
    file: String,
    /// How many lines
    #[arg(short = 'n', long, default_value_t = 100)]
    lines: u32,
    /// Go on with what is added, until interrupted
    #[arg(short, long)]
    follow: bool,
}

pub(super) async fn run(args: LogsArgs, session: &Session) -> Result<Shown, CliError> {
    let mut known = read(&args, session).await?;
    let all = listing(known.clone());
    if !args.follow {
        return Ok(all);
    }
    render::line(&all.render(session.output()))?;
    loop {
        sleep(AGAIN).await;
        let now = read(&args, session).await?;
        let new = added(&known, &now);
        if !new.is_empty() {
            let output = if session.output() == Output::Json { Output::Jsonl } else { session.output() };
            let text = listing(new.to_vec()).render(output);
            // The titles stand above.
            let text = if matches!(output, Output::Jsonl | Output::Name) { &text } else { after_first_line(&text) };
            render::line(text)?;
        }
        known = now;
    }
}

async fn read(LogsArgs { id, file, lines, .. }: &LogsArgs, session: &Session) -> Result<Vec<Value>, CliError> {
    let body = session.ask(MODULE, json!({ "serverId": id, "logfile": file, "number": lines })).await?;
    match &body["body"]["dataArray"] {
        Value::Array(lines) => Ok(lines.clone()),
        _ => Err(CliError::Odd { module: MODULE, found: body.to_string() }),
    }
}

/// What is new in the later of two readings of the last lines: behind the longest end of the old that it goes on from.
fn added<'a>(old: &[Value], new: &'a [Value]) -> &'a [Value] {
    let goes_on = |count: &usize| old.ends_with(&new[..*count]);
    let common = (0..=old.len().min(new.len())).rev().find(goes_on).unwrap_or_default();
    &new[common..]
}

fn listing(lines: Vec<Value>) -> Shown {
    let row = |item: Value| {
        let what = if item["route"].is_null() { &item["service"] } else { &item["route"] };
        let cells = vec![cell(&item["time"]), cell(what), cell(&item["timeUsed"]), cell(&item["params"])];
        Row { item, cells }
    };
    let header = vec!["TIME", "ROUTE", "MS", "PARAMETERS"];
    Shown::Listing(Listing { header, rows: lines.into_iter().map(row).collect(), ..Listing::default() })
}

fn after_first_line(text: &str) -> &str {
    text.split_once('\n').map_or("", |(_, rest)| rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_added_is_told_again() {
        let lines = |numbers: &[u8]| numbers.iter().map(|number| json!(number)).collect::<Vec<_>>();
        let check =
            |old: &[u8], new: &[u8], expected: &[u8]| assert_eq!(added(&lines(old), &lines(new)), lines(expected));
        check(&[1, 2, 3], &[1, 2, 3], &[]);
        check(&[1, 2, 3], &[2, 3, 4, 5], &[4, 5]);
        check(&[1, 1, 1], &[1, 1, 1], &[]);
        check(&[1, 2, 3], &[7, 8, 9], &[7, 8, 9]);
        check(&[], &[1], &[1]);
        check(&[1, 2], &[], &[]);
    }
}
