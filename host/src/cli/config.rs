//! `muster config`: what the configuration is, whether it is good, and how to come by one.

mod import;
mod point;

use std::path::PathBuf;

use clap::{Args, Subcommand};
use serde_json::json;

use super::{
    CliError,
    ask::Output,
    daemons::{DaemonArgs, variable},
    render::cell,
    shown::{Listing, Row, Shown},
};
use crate::config::{Fault, MasterConfig, Origin, Setting, Sources};

/// What can be done with the configuration.
#[derive(Debug, Subcommand)]
pub(super) enum ConfigCommand {
    /// Check the configuration that a daemon with these flags would have, and point at what is wrong
    Check(Checked),
    /// Show every setting, and where it comes from
    Show(Checked),
    /// Write a configuration for an application of pomelo
    ImportPomelo {
        /// The application, or its directory config/
        dir: PathBuf,
        /// The file to write
        #[arg(long, value_name = "FILE", default_value = "muster.toml")]
        to: PathBuf,
        /// Environment, which chooses the part of pomelo's files that counts
        #[arg(long, value_name = "NAME", env = "MUSTER_ENV", default_value = crate::config::defaults::ENV)]
        env: String,
        /// Also if the file is there
        #[arg(long)]
        force: bool,
    },
}

/// The flags of a daemon.
#[derive(Debug, Args)]
pub(super) struct Checked {
    #[command(flatten)]
    daemon: DaemonArgs,
    /// How to show the answer
    #[arg(short, long, value_name = "FORMAT", default_value = "table")]
    output: Output,
}

impl ConfigCommand {
    pub(super) fn output(&self) -> Output {
        match self {
            ConfigCommand::Check(checked) | ConfigCommand::Show(checked) => checked.output,
            ConfigCommand::ImportPomelo { .. } => Output::Table,
        }
    }
}

pub(super) fn run(command: ConfigCommand) -> Result<Shown, CliError> {
    match command {
        ConfigCommand::Check(Checked { daemon, output }) => check(daemon.sources(variable), output),
        ConfigCommand::Show(Checked { daemon, .. }) => Ok(shown(daemon.sources(variable).settings()?)),
        ConfigCommand::ImportPomelo { dir, to, env, force } => import::run(&dir, &to, &env, force),
    }
}

fn check(sources: Sources, output: Output) -> Result<Shown, CliError> {
    let faults = match MasterConfig::load(sources) {
        Ok(_) => return Ok(Shown::Sentence("the configuration is good".to_owned(), json!({ "faults": [] }))),
        Err(faults) => faults,
    };
    Err(match output {
        Output::Table | Output::Wide | Output::Name => CliError::Pointed(point::all(&faults)),
        Output::Json | Output::Jsonl => {
            let faults: Vec<_> = faults.iter().map(point::json).collect();
            CliError::PointedJson(json!({ "faults": faults }).to_string())
        }
    })
}

fn shown(settings: Vec<Setting>) -> Shown {
    let row = |Setting { key, value, origin }: Setting| Row {
        item: json!({ "key": key, "value": value, "from": origin.to_string() }),
        cells: vec![key, cell(&value), origin.to_string()],
    };
    let header = vec!["KEY", "VALUE", "FROM"];
    Shown::Listing(Listing { header, rows: settings.into_iter().map(row).collect(), ..Listing::default() })
}
