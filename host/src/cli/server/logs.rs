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

/// Where pomelo's connectors write what they were asked.
const LOG: &str = "con-log";

/// How often a log that is followed is read.
const AGAIN: Duration = Duration::from_secs(1);

/// `muster server logs`
#[derive(Debug, Args)]
pub(in crate::cli) struct LogsArgs {
    /// The server
    #[arg(add = server_ids())]
    id: String,
    /// Which log: `stdout` or `stderr` of the program that the server's monitor wraps, or FILE for FILE-ID.log in the log
    /// directory of the monitor [default: stdout if there is a program, else con-log]
    #[arg(long)]
    file: Option<String>,
    /// How many lines
    #[arg(short = 'n', long, default_value_t = 100)]
    lines: u32,
    /// Go on with what is added, until interrupted
    #[arg(short, long)]
    follow: bool,
}

/// What a log has at some moment.
struct Reading {
    lines: Vec<Value>,
    /// Of a program's output: where it ends, for the next reading.
    end: Option<u64>,
}

pub(super) async fn run(args: LogsArgs, session: &Session) -> Result<Shown, CliError> {
    let (file, mut known) = match &args.file {
        Some(file) => (file.as_str(), read(&args, file, None, session).await?),
        None => usual(&args, session).await?,
    };
    let is_output = known.end.is_some();
    let all = listing(known.lines.clone(), is_output);
    if !args.follow {
        return Ok(all);
    }
    render::line(&all.render(session.output()))?;
    loop {
        sleep(AGAIN).await;
        let now = read(&args, file, known.end, session).await?;
        let new = if is_output { now.lines.as_slice() } else { added(&known.lines, &now.lines) };
        if !new.is_empty() {
            let output = if session.output() == Output::Json { Output::Jsonl } else { session.output() };
            let text = listing(new.to_vec(), is_output).render(output);
            // The titles stand above.
            let text = if matches!(output, Output::Jsonl | Output::Name) { &text } else { after_first_line(&text) };
            render::line(text)?;
        }
        known = now;
    }
}

/// The log that is read if nobody says which: what the program writes, if the server's monitor wraps one.
async fn usual(args: &LogsArgs, session: &Session) -> Result<(&'static str, Reading), CliError> {
    if super::program::of(&args.id, session).await.is_some() {
        let written = read(args, "stdout", None, session).await?;
        // One that the master has started is not wrapped by the server's own monitor.
        if written.end.is_some() {
            return Ok(("stdout", written));
        }
    }
    Ok((LOG, read(args, LOG, None, session).await?))
}

async fn read(args: &LogsArgs, file: &str, from: Option<u64>, session: &Session) -> Result<Reading, CliError> {
    let mut ask = json!({ "serverId": args.id, "logfile": file, "number": args.lines });
    if let Some(from) = from {
        ask["from"] = from.into();
    }
    let body = session.ask(MODULE, ask).await?;
    match &body["body"]["dataArray"] {
        Value::Array(lines) => Ok(Reading { lines: lines.clone(), end: body["body"]["end"].as_u64() }),
        _ => Err(CliError::Odd { module: MODULE, found: body.to_string() }),
    }
}

/// What is new in the later of two readings of the last lines: behind the longest end of the old that it goes on from.
fn added<'a>(old: &[Value], new: &'a [Value]) -> &'a [Value] {
    let goes_on = |count: &usize| old.ends_with(&new[..*count]);
    let common = (0..=old.len().min(new.len())).rev().find(goes_on).unwrap_or_default();
    &new[common..]
}

fn listing(lines: Vec<Value>, is_output: bool) -> Shown {
    if is_output {
        let row = |item: Value| Row { cells: vec![cell(&item["params"])], item };
        return Shown::Listing(Listing {
            header: vec!["OUTPUT"],
            rows: lines.into_iter().map(row).collect(),
            ..Listing::default()
        });
    }
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
