//! `muster role`: who may give which command, as Muster's master sees it.

use clap::Subcommand;
use serde_json::{Value, json};

use super::{
    CliError,
    render::cell,
    session::Session,
    shown::{Listing, Row, Shown},
};

/// The module that is asked.
pub(super) const MODULE: &str = "__roles__";

/// What can be done with roles; they are changed in the master's configuration.
#[derive(Debug, Subcommand)]
pub(super) enum RoleCommand {
    /// List every command with the level that it needs
    List,
}

pub(super) async fn list(session: &Session) -> Result<Shown, CliError> {
    let body = session.ask(MODULE, json!({ "action": "list" })).await?;
    let Some(roles) = body["roles"].as_array() else {
        return Err(CliError::Odd { module: MODULE, found: body.to_string() });
    };
    let row = |role: &Value| Row {
        item: role.clone(),
        cells: ["module", "command", "level"].map(|field| cell(&role[field])).to_vec(),
    };
    let rows = roles.iter().map(row).collect();
    Ok(Shown::Listing(Listing { header: vec!["MODULE", "COMMAND", "LEVEL"], rows, ..Listing::default() }))
}
