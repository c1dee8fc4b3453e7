//! `muster module`: the three commands of the protocol.

use clap::Subcommand;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    CliError,
    ask::{Asking, Output, body_of},
    render,
};

/// What can be done with modules.
#[derive(Debug, Subcommand)]
pub(super) enum ModuleCommand {
    /// List the modules
    List(Asking),
    /// Switch a module on, on the master and all servers
    Enable {
        /// Id of the module
        module: String,
        #[command(flatten)]
        asking: Asking,
    },
    /// Switch a module off, on the master and all servers
    Disable {
        /// Id of the module
        module: String,
        #[command(flatten)]
        asking: Asking,
    },
}

#[derive(Deserialize)]
struct Listed {
    modules: Vec<String>,
}

impl ModuleCommand {
    pub(super) fn output(&self) -> Output {
        let (ModuleCommand::List(asking)
        | ModuleCommand::Enable { asking, .. }
        | ModuleCommand::Disable { asking, .. }) = self;
        asking.output
    }
}

pub(super) async fn run(command: ModuleCommand) -> Result<String, CliError> {
    match command {
        ModuleCommand::List(asking) => {
            let body = give(&asking, "list", None).await?;
            listed(body, asking.output)
        }
        ModuleCommand::Enable { module, asking } => {
            let body = give(&asking, "enable", Some(&module)).await?;
            switched(&module, true, &body, asking.output)
        }
        ModuleCommand::Disable { module, asking } => {
            let body = give(&asking, "disable", Some(&module)).await?;
            switched(&module, false, &body, asking.output)
        }
    }
}

async fn give(asking: &Asking, command: &'static str, module: Option<&str>) -> Result<Value, CliError> {
    let client = asking.connect().await?;
    let response = client.command(command, module, ()).await?;
    client.close().await;
    body_of(command, response)
}

fn listed(body: Value, output: Output) -> Result<String, CliError> {
    let odd = body.to_string();
    let Ok(Listed { modules }) = serde_json::from_value(body) else {
        return Err(CliError::Odd { module: "list", found: odd });
    };
    Ok(match output {
        Output::Json => json!(modules).to_string(),
        Output::Table => render::table(&["MODULE"], modules.into_iter().map(|module| vec![module])),
    })
}

/// The answer is 1, or -1 for a module that the master does not know.
fn switched(module: &str, on: bool, body: &Value, output: Output) -> Result<String, CliError> {
    let (command, state) = if on { ("enable", "enabled") } else { ("disable", "disabled") };
    match (body.as_i64(), output) {
        (Some(1), Output::Json) => Ok(json!({ "module": module, "enabled": on }).to_string()),
        (Some(1), Output::Table) => Ok(format!("{} is {state}", render::printable(module))),
        (Some(-1), _) => Err(CliError::NoModule(module.to_owned())),
        _ => Err(CliError::Odd { module: command, found: body.to_string() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_answers_of_the_original_are_understood() {
        let body = json!({"modules": ["timeReport", "echo"]});
        assert_eq!(listed(body.clone(), Output::Table).unwrap(), "MODULE\ntimeReport\necho");
        assert_eq!(listed(body, Output::Json).unwrap(), r#"["timeReport","echo"]"#);
        assert_eq!(switched("m", true, &json!(1), Output::Table).unwrap(), "m is enabled");
        assert_eq!(switched("m", false, &json!(1), Output::Json).unwrap(), r#"{"module":"m","enabled":false}"#);
        assert!(matches!(switched("m", true, &json!(-1), Output::Json), Err(CliError::NoModule(m)) if m == "m"));
        assert!(matches!(switched("m", true, &json!("bad"), Output::Table), Err(CliError::Odd { .. })));
    }
}
