//! `muster call`: any request or command.

use std::str::FromStr;

use clap::Args;
use serde_json::{Value, value::RawValue};

use super::{
    CliError,
    ask::{Output, refusal, words_of},
    render,
    session::Session,
    shown::Shown,
};
use crate::client::Response;

/// Arguments of `muster call`.
#[derive(Debug, Args)]
pub(super) struct CallArgs {
    /// Id of the admin module, or `command:NAME` or `command:NAME:MODULE` for a command
    #[arg(value_name = "MODULE")]
    target: Target,
    /// Body of the request; the client's id and user are put into an object
    #[arg(value_name = "JSON", value_parser = json, allow_hyphen_values = true)]
    body: Option<Box<RawValue>>,
}

/// Whom a call is for.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Target {
    Module(String),
    Command { name: String, module: Option<String> },
}

impl FromStr for Target {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Target, Self::Err> {
        let Some(command) = text.strip_prefix("command:") else {
            return if text.is_empty() { Err("a module has a name") } else { Ok(Target::Module(text.to_owned())) };
        };
        let (name, module) = match command.split_once(':') {
            Some((name, module)) => (name, Some(module.to_owned())),
            None => (command, None),
        };
        // An empty module is sent as such: what a master says to it is the master's business.
        if name.is_empty() {
            return Err("a command is written command:NAME or command:NAME:MODULE");
        }
        Ok(Target::Command { name: name.to_owned(), module })
    }
}

/// With JSON, whatever the answer is; for people, an error of the module is an error of the command.
pub(super) async fn run(args: CallArgs, session: &Session) -> Result<Shown, CliError> {
    let CallArgs { target, body } = args;
    let client = session.client().await?;
    let (name, response) = match target {
        Target::Module(module) => {
            let response = client.request(&module, body).await?;
            (module, response)
        }
        Target::Command { name, module } => {
            let response = client.command(&name, module.as_deref(), body).await?;
            (name, response)
        }
    };
    match session.output() {
        Output::Json | Output::Jsonl => Ok(Shown::Text(one_line(&response))),
        Output::Table | Output::Wide => shown(&name, response).map(|body| Shown::Text(render::json(&body))),
        Output::Name => shown(&name, response).map(Shown::Body),
    }
}

/// What other programs rely on: error and body as they came, null for nothing.
fn one_line(response: &Response) -> String {
    let field = |raw: &Option<Box<RawValue>>| raw.as_ref().map_or("null".to_owned(), |raw| in_one_line(raw.get()));
    format!(r#"{{"error":{},"body":{}}}"#, field(&response.error), field(&response.body))
}

/// JSON may have line breaks between its tokens, never inside its texts.
fn in_one_line(json: &str) -> String {
    json.replace(['\n', '\r'], " ")
}

fn shown(module: &str, Response { error, body }: Response) -> Result<Value, CliError> {
    if let Some(error) = error {
        // Some modules answer their result as the error (Q19), with or without a body.
        let text = match body {
            Some(body) => format!("{} (body: {})", words_of(&error), body.get()),
            None => words_of(&error),
        };
        return Err(refusal(module, text));
    }
    Ok(body.and_then(|body| serde_json::from_str(body.get()).ok()).unwrap_or_default())
}

fn json(text: &str) -> Result<Box<RawValue>, serde_json::Error> {
    serde_json::from_str(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_is_a_module_or_a_command() {
        let command = |name: &str, module: Option<&str>| {
            Ok(Target::Command { name: name.to_owned(), module: module.map(str::to_owned) })
        };
        assert_eq!("__console__".parse(), Ok(Target::Module("__console__".to_owned())));
        assert_eq!("command:list".parse(), command("list", None));
        assert_eq!("command:enable:a:b".parse(), command("enable", Some("a:b")));
        assert_eq!("command:enable:".parse(), command("enable", Some("")));
        for odd in ["", "command:", "command::m"] {
            assert!(odd.parse::<Target>().is_err(), "{odd}");
        }
    }

    #[test]
    fn an_answer_is_one_line_of_json_as_it_came() {
        assert_eq!(one_line(&Response::default()), r#"{"error":null,"body":null}"#);
        let raw = |text: &str| Some(RawValue::from_string(text.to_owned()).unwrap());
        let response =
            Response { error: raw("\"a\\nb\""), body: raw("{\n \"n\": 12345678901234567890123,\r\n\"b\":0}") };
        assert_eq!(one_line(&response), r#"{"error":"a\nb","body":{  "n": 12345678901234567890123,  "b":0}}"#);
    }

    #[test]
    fn for_people_an_error_is_an_error() {
        let raw = |text: &str| Some(RawValue::from_string(text.to_owned()).unwrap());
        assert_eq!(shown("m", Response { error: None, body: raw("\"ok\"") }).unwrap(), "ok");
        let error = shown("m", Response { error: raw("\"no\""), body: raw("[1]") }).unwrap_err();
        assert_eq!(error.to_string(), "m answers: no (body: [1])");
    }
}
