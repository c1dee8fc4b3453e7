//! `muster events`: what happens in the fleet, found by looking again and again, since masters tell clients nothing.

use std::time::{Duration, SystemTime};

use clap::Args;
use serde_json::json;
use tokio::time::sleep;

use super::{
    CliError,
    ask::Output,
    fleet::{self, Seen},
    render,
    session::Session,
    shown::Shown,
};
use crate::client::ClientError;

/// `muster events`
#[derive(Debug, Args)]
pub(super) struct EventsArgs {
    /// How often to look
    #[arg(long, value_name = "DURATION", default_value = "1s", value_parser = humantime::parse_duration)]
    interval: Duration,
    /// End after so many events
    #[arg(long, value_name = "N")]
    count: Option<usize>,
}

pub(super) async fn run(EventsArgs { interval, count }: EventsArgs, session: &Session) -> Result<Shown, CliError> {
    let mut left = count;
    let output = session.output();
    let seen = fleet::look(session).await?;
    follow(session, interval, seen, |event| {
        render::line(&event.render(output))?;
        left = left.map(|left| left.saturating_sub(1));
        Ok(left != Some(0))
    })
    .await?;
    Ok(Shown::Text(String::new()))
}

/// Something that happened.
#[derive(Debug)]
pub(super) struct Event {
    kind: &'static str,
    server: Option<String>,
    pub(super) text: String,
}

impl Event {
    fn render(&self, output: Output) -> String {
        let at = humantime::format_rfc3339_seconds(SystemTime::now()).to_string();
        match output {
            Output::Table | Output::Wide => format!("{at}  {}", render::printable(&self.text)),
            Output::Json | Output::Jsonl => {
                json!({ "at": at, "event": self.kind, "server": self.server, "text": self.text }).to_string()
            }
            Output::Name => render::printable(self.server.as_deref().unwrap_or(self.kind)),
        }
    }
}

/// Looks at the fleet until `tell` has heard enough. A master that is away is an event, not the end.
pub(super) async fn follow(
    session: &Session,
    interval: Duration,
    mut seen: Seen,
    mut tell: impl FnMut(Event) -> Result<bool, CliError>,
) -> Result<(), CliError> {
    let mut is_away = false;
    loop {
        sleep(interval).await;
        let now = match fleet::look(session).await {
            Ok(now) => now,
            Err(CliError::Client(
                ClientError::Unreachable { .. } | ClientError::Disconnected | ClientError::Timeout { .. },
            )) => {
                if !std::mem::replace(&mut is_away, true) && !tell(master("away", "the master cannot be reached"))? {
                    return Ok(());
                }
                continue;
            }
            Err(error) => return Err(error),
        };
        if std::mem::take(&mut is_away) && !tell(master("back", "the master can be reached again"))? {
            return Ok(());
        }
        for (id, change) in fleet::changes(&seen, &now) {
            let text = change.told(&id, &now);
            if !tell(Event { kind: change.word(), server: Some(id), text })? {
                return Ok(());
            }
        }
        seen = now;
    }
}

fn master(kind: &'static str, text: &str) -> Event {
    Event { kind, server: None, text: text.to_owned() }
}
