//! `muster module`: the three commands of the protocol.

use clap::Subcommand;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    CliError,
    ask::body_of,
    complete::module_ids,
    render,
    session::Session,
    shown::{Listing, Row, Shown},
};

/// What can be done with modules.
#[derive(Debug, Subcommand)]
pub(super) enum ModuleCommand {
    /// List the modules
    List,
    /// Switch a module on, on the master and all servers
    Enable {
        /// Id of the module
        #[arg(add = module_ids())]
        module: String,
    },
    /// Switch a module off, on the master and all servers
    Disable {
        /// Id of the module
        #[arg(add = module_ids())]
        module: String,
    },
}

#[derive(Deserialize)]
struct Listed {
    modules: Vec<String>,
}

pub(super) async fn run(command: ModuleCommand, session: &Session) -> Result<Shown, CliError> {
    match command {
        ModuleCommand::List => listed(give(session, "list", None).await?),
        ModuleCommand::Enable { module } => switch(session, &module, true).await,
        ModuleCommand::Disable { module } => switch(session, &module, false).await,
    }
}

/// Switches a module on or off, on the master and all servers.
pub(super) async fn switch(session: &Session, module: &str, on: bool) -> Result<Shown, CliError> {
    let command = if on { "enable" } else { "disable" };
    switched(module, on, &give(session, command, Some(module)).await?)
}

async fn give(session: &Session, command: &'static str, module: Option<&str>) -> Result<Value, CliError> {
    body_of(command, session.client().await?.command(command, module, ()).await?)
}

fn listed(body: Value) -> Result<Shown, CliError> {
    let odd = body.to_string();
    let Ok(Listed { modules }) = serde_json::from_value(body) else {
        return Err(CliError::Odd { module: "list", found: odd });
    };
    let rows = modules.into_iter().map(|module| Row { item: json!(module), cells: vec![module] }).collect();
    Ok(Shown::Listing(Listing { header: vec!["MODULE"], rows, ..Listing::default() }))
}

/// The answer is 1, or -1 for a module that the master does not know.
fn switched(module: &str, on: bool, body: &Value) -> Result<Shown, CliError> {
    let (command, state) = if on { ("enable", "enabled") } else { ("disable", "disabled") };
    match body.as_i64() {
        Some(1) => {
            let json = json!({ "module": module, "enabled": on });
            Ok(Shown::Sentence(format!("{} is {state}", render::printable(module)), json))
        }
        Some(-1) => Err(CliError::NoModule(module.to_owned())),
        _ => Err(CliError::Odd { module: command, found: body.to_string() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::ask::Output;

    #[test]
    fn the_answers_of_the_original_are_understood() {
        let body = json!({"modules": ["timeReport", "echo"]});
        let listed = listed(body).unwrap();
        assert_eq!(listed.render(Output::Table), "MODULE\ntimeReport\necho");
        assert_eq!(listed.render(Output::Json), r#"["timeReport","echo"]"#);
        assert_eq!(switched("m", true, &json!(1)).unwrap().render(Output::Table), "m is enabled");
        assert_eq!(switched("m", false, &json!(1)).unwrap().render(Output::Json), r#"{"module":"m","enabled":false}"#);
        assert!(matches!(switched("m", true, &json!(-1)), Err(CliError::NoModule(m)) if m == "m"));
        assert!(matches!(switched("m", true, &json!("bad")), Err(CliError::Odd { .. })));
    }
}
