//! What can go wrong with a command, and what the shell and the person learn of it.

use serde_json::json;

use crate::{client::ClientError, config::Faults, daemon::DaemonError, demo::DemoError};

/// Why a command did not do what it should.
#[derive(Debug, thiserror::Error)]
pub(super) enum CliError {
    #[error(transparent)]
    Config(#[from] Faults),
    #[error(transparent)]
    Daemon(#[from] DaemonError),
    #[error(transparent)]
    Demo(#[from] DemoError),
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error("the runtime cannot be started")]
    Runtime(#[source] std::io::Error),
    /// The module answered with an error: its words.
    #[error("{module} answers: {text}")]
    Refused { module: String, text: String },
    #[error("there is no module {0} on this master")]
    NoModule(String),
    /// What was asked for did not come about.
    #[error("plugin {name}: {reason}")]
    Plugin { name: String, reason: String },
    #[error("plugin {name} is not ready after {}", humantime::format_duration(*.after))]
    NotSettled { name: String, after: std::time::Duration },
    #[error("{what} {path}", path = .path.display())]
    File { what: &'static str, path: std::path::PathBuf, source: std::io::Error },
    #[error("{module} answers something else than expected: {found}")]
    Odd { module: &'static str, found: String },
}

impl CliError {
    pub(super) const FAILED: u8 = 1;
    pub(super) const USAGE: u8 = 2;

    pub(super) fn exit_code(&self) -> u8 {
        match self {
            CliError::Config(_) | CliError::Daemon(DaemonError::Config(_)) => CliError::USAGE,
            CliError::Client(ClientError::RefusedLogin { .. }) => 4,
            CliError::Client(ClientError::Unreachable { .. }) => 5,
            CliError::Client(ClientError::Timeout { .. }) | CliError::NotSettled { .. } => 6,
            CliError::Client(ClientError::Disconnected | ClientError::Body(_))
            | CliError::Daemon(_)
            | CliError::Demo(_)
            | CliError::Runtime(_)
            | CliError::Refused { .. }
            | CliError::NoModule(_)
            | CliError::Plugin { .. }
            | CliError::File { .. }
            | CliError::Odd { .. } => CliError::FAILED,
        }
    }

    /// What to do about it.
    pub(super) fn hint(&self) -> Option<String> {
        let hint = match self {
            CliError::Client(error) => error.hint(),
            CliError::Config(_) | CliError::Daemon(DaemonError::Config(_)) => {
                "the sample file muster.sample.toml shows every setting with its default"
            }
            CliError::NoModule(module) if module == crate::cli::plugin::MODULE => {
                "plugins are known to Muster's master only, and this seems to be a Node master"
            }
            CliError::NoModule(module) if module == crate::rpc::MODULE => {
                "only Muster's master calls remotes for its clients, and this seems to be a Node master"
            }
            CliError::NoModule(module) if module == crate::cli::profile::MODULE => {
                "is the profiler plugin in the plugin directories of the master and of that server? (`muster plugin list`)"
            }
            CliError::NoModule(module) if module == crate::cli::server::MODULE => {
                "is the console plugin in the master's plugin directory? (`muster plugin list`)"
            }
            CliError::NoModule(_) => "`muster module list` shows the modules",
            CliError::Refused { text, .. } if text == "Command permission denied" || text == "Client info error" => {
                "this needs a user of level 1 in the master's adminUser.json (`--user`, `--password`)"
            }
            CliError::Refused { text, .. } if text.ends_with(" is disable") => {
                "`muster module enable MODULE` switches it on"
            }
            CliError::Odd { .. } => "`muster call MODULE JSON -o json` shows the whole answer",
            CliError::NotSettled { .. } => "`muster plugin list` shows how it goes on",
            CliError::Daemon(_)
            | CliError::Demo(_)
            | CliError::Runtime(_)
            | CliError::Refused { .. }
            | CliError::Plugin { .. }
            | CliError::File { .. } => return None,
        };
        Some(hint.to_owned())
    }

    /// What programs that asked for JSON read on standard output instead of a sentence.
    pub(super) fn as_json(&self) -> Option<String> {
        match self {
            CliError::Client(ClientError::RefusedLogin { text }) => Some(json!({ "login": text }).to_string()),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{io, sync::Arc, time::Duration};

    use super::*;
    use crate::config::{MonitorConfig, Sources};

    #[test]
    fn every_kind_of_failure_has_its_exit_code() {
        let unreachable = ClientError::Unreachable {
            master: "h:1".to_owned(),
            source: Arc::new(io::Error::from(io::ErrorKind::ConnectionRefused)),
        };
        let faults = MonitorConfig::load(Sources::new()).unwrap_err();
        for (error, code) in [
            (CliError::NoModule("x".to_owned()), 1),
            (ClientError::Disconnected.into(), 1),
            (faults.into(), 2),
            (ClientError::RefusedLogin { text: "no".to_owned() }.into(), 4),
            (unreachable.into(), 5),
            (ClientError::Timeout { after: Duration::from_secs(1) }.into(), 6),
        ] {
            assert_eq!(error.exit_code(), code, "{error}");
            assert!(error.hint().is_some(), "{error}");
        }
    }
}
