//! Completion of what only a master knows. In the shell from what it has seen; on the command line by asking the master
//! that the environment names.

use std::{
    ffi::OsStr,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use clap::{Args, Command, FromArgMatches};
use clap_complete::engine::{ArgValueCompleter, CompletionCandidate};
use serde_json::json;

use super::{
    CliError,
    ask::Asking,
    fleet, plugin,
    session::{self, Session},
    watch,
};

/// Nobody waits longer for a list of words.
const PATIENCE: Duration = Duration::from_secs(1);

/// What the shell has seen; nothing on the command line.
static KNOWN: Mutex<Option<Known>> = Mutex::new(None);

/// Words that a shell knows.
#[derive(Debug, Clone, Default)]
pub(super) struct Known {
    pub(super) servers: Vec<String>,
    pub(super) modules: Vec<String>,
    pub(super) plugins: Vec<String>,
}

impl Known {
    /// Asks for all of it; what a master does not tell is unknown.
    pub(super) async fn ask(session: &Session) -> Known {
        let names = |list: Option<&Vec<serde_json::Value>>, field: Option<&str>| -> Vec<String> {
            let name = |item: &serde_json::Value| field.map_or(item, |field| &item[field]).as_str().map(str::to_owned);
            list.into_iter().flatten().filter_map(name).collect()
        };
        let servers = fleet::look(session).await.map(|seen| seen.into_keys().collect()).unwrap_or_default();
        let modules = session.ask(watch::MODULE, json!({ "comd": "modules", "context": session::ALL })).await;
        let plugins = session.ask(plugin::MODULE, json!({ "action": "list" })).await;
        Known {
            servers,
            modules: names(modules.ok().as_ref().and_then(|body| body["msg"].as_array()), None),
            plugins: names(plugins.ok().as_ref().and_then(|body| body["plugins"].as_array()), Some("name")),
        }
    }

    /// From now on these are the words.
    pub(super) fn publish(self) {
        *KNOWN.lock().unwrap_or_else(PoisonError::into_inner) = Some(self);
    }
}

pub(super) fn server_ids() -> ArgValueCompleter {
    completer(|known| known.servers)
}

pub(super) fn module_ids() -> ArgValueCompleter {
    completer(|known| known.modules)
}

pub(super) fn plugin_names() -> ArgValueCompleter {
    completer(|known| known.plugins)
}

fn completer(words: fn(Known) -> Vec<String>) -> ArgValueCompleter {
    ArgValueCompleter::new(move |begun: &OsStr| {
        let known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let known = known.or_else(|| asked().ok()).unwrap_or_default();
        let fits = |word: &String| begun.to_str().is_some_and(|begun| word.starts_with(begun));
        words(known).into_iter().filter(fits).map(CompletionCandidate::new).collect()
    })
}

/// The shell that completes tells nothing of the flags in its line.
fn asked() -> Result<Known, CliError> {
    let matches = Asking::augment_args(Command::new("muster")).get_matches_from(["muster"]);
    let asking = Asking::from_arg_matches(&matches).map_err(|error| CliError::Usage(error.to_string()))?;
    let session = Session::new(Asking { timeout: PATIENCE, ..asking });
    session::block_on(async {
        session.client().await?;
        let known = Known::ask(&session).await;
        session.close().await;
        Ok(known)
    })
}
