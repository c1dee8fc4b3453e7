//! `muster script`, `muster exec`: through the module scripts, which Node masters have as well.

use std::{fs, path::PathBuf};

use clap::Subcommand;
use serde_json::{Value, json};

use super::{
    CliError,
    render::cell,
    session::Session,
    shown::{Listing, Row, Shown},
    watch::{ExecArgs, On},
};

const MODULE: &str = "scripts";

/// What can be done with scripts.
#[derive(Debug, Subcommand)]
pub(super) enum ScriptCommand {
    /// List the scripts that the master keeps
    List,
    /// Print one
    Get {
        /// Its name
        name: String,
    },
    /// Keep a file of this machine as a script
    Save {
        /// The file
        file: PathBuf,
        /// Name of the script [default: that of the file]
        #[arg(long)]
        name: Option<String>,
    },
    /// Run a script that the master keeps on a server
    Run {
        /// Its name
        name: String,
        #[command(flatten)]
        on: On,
    },
}

pub(super) async fn run(command: ScriptCommand, session: &Session) -> Result<Shown, CliError> {
    match command {
        ScriptCommand::List => list(session).await,
        ScriptCommand::Get { name } => {
            let body = session.ask(MODULE, json!({ "command": "get", "filename": name })).await?;
            Ok(Shown::Body(body))
        }
        ScriptCommand::Save { file, name } => {
            let of_file = || file.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
            let name = name.unwrap_or_else(of_file);
            let body = json!({ "command": "save", "filename": name, "body": read(&file)? });
            session.ask(MODULE, body).await?;
            Ok(Shown::Sentence(format!("{name} is saved"), json!({ "script": name, "saved": true })))
        }
        ScriptCommand::Run { name, on } => {
            let id = session.one_server(on.server)?;
            let script = session.ask(MODULE, json!({ "command": "get", "filename": name })).await?;
            on_server(&id, &script, session).await
        }
    }
}

/// Runs a file of this machine, as pomelo-cli does.
pub(super) async fn exec(ExecArgs { file, on }: ExecArgs, session: &Session) -> Result<Shown, CliError> {
    let id = session.one_server(on.server)?;
    on_server(&id, &read(&file)?.into(), session).await
}

async fn on_server(id: &str, script: &Value, session: &Session) -> Result<Shown, CliError> {
    let body = session.ask(MODULE, json!({ "command": "run", "serverId": id, "script": script })).await?;
    Ok(Shown::Body(body))
}

async fn list(session: &Session) -> Result<Shown, CliError> {
    let body = session.ask(MODULE, json!({ "command": "list" })).await?;
    let Some(scripts) = body["scripts"].as_array() else {
        return Err(CliError::Odd { module: MODULE, found: body.to_string() });
    };
    let rows = scripts.iter().map(|script| Row { item: script.clone(), cells: vec![cell(script)] }).collect();
    Ok(Shown::Listing(Listing { header: vec!["SCRIPT"], rows, ..Listing::default() }))
}

fn read(file: &PathBuf) -> Result<String, CliError> {
    fs::read_to_string(file).map_err(|source| CliError::File { what: "cannot read", path: file.clone(), source })
}
