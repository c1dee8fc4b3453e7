//! `muster top`: the list of servers, again and again, those with the most memory first.

use std::time::Duration;

use clap::Args;
use serde_json::Value;
use tokio::time::sleep;

use super::{CliError, fleet, render, server, session::Session, shown::Shown};

/// `muster top`
#[derive(Debug, Args)]
pub(super) struct TopArgs {
    /// How often to look
    #[arg(long, value_name = "DURATION", default_value = "2s", value_parser = humantime::parse_duration)]
    interval: Duration,
    /// End after so many looks
    #[arg(long, value_name = "N")]
    count: Option<usize>,
}

pub(super) async fn run(TopArgs { interval, count }: TopArgs, session: &Session) -> Result<Shown, CliError> {
    let mut looks = 0;
    loop {
        let mut servers: Vec<_> = fleet::look(session).await?.into_iter().collect();
        servers.sort_by(|(_, one), (_, other)| memory(other).total_cmp(&memory(one)));
        let title = if servers.len() == 1 { "1 server".to_owned() } else { format!("{} servers", servers.len()) };
        let table = server::listing(servers.into_iter()).render(session.output());
        render::screen(&title, &table)?;
        looks += 1;
        if count.is_some_and(|count| looks >= count) {
            return Ok(Shown::Text(String::new()));
        }
        sleep(interval).await;
    }
}

/// A text with two decimals, in MiB.
fn memory(server: &Value) -> f64 {
    server["rss"].as_str().and_then(|text| text.parse().ok()).unwrap_or_default()
}
