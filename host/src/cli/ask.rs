//! What all commands that ask a master have in common.

use std::{future::Future, ops::Deref, time::Duration};

use clap::{Args, ValueEnum};
use serde_json::{Value, value::RawValue};

use super::CliError;
use crate::{
    client::{Client, Options, Response},
    config::Address,
};

/// Whom to ask, as whom, and how to show the answer.
#[derive(Debug, Args)]
pub(super) struct Asking {
    #[command(flatten)]
    login: Login,
    /// How to show the answer
    #[arg(short, long, value_name = "FORMAT", default_value = "table")]
    pub(super) output: Output,
}

/// Whom to ask, and as whom.
#[derive(Debug, Args)]
pub(super) struct Login {
    /// Address of the master
    #[arg(long, value_name = "HOST:PORT", env = "MUSTER_MASTER", default_value = "127.0.0.1:3005")]
    master: Address,
    /// User to log in as; the default is that of pomelo's templates
    #[arg(long, env = "MUSTER_USER", default_value = "admin")]
    user: String,
    /// Their password; the default is that of pomelo's templates. The variable hides it from `ps`
    #[arg(long, env = "MUSTER_PASSWORD", default_value = "admin", hide_env_values = true, allow_hyphen_values = true)]
    password: String,
    /// How long to wait for the login, and for the answer
    #[arg(long, value_name = "DURATION", default_value = "20s", value_parser = humantime::parse_duration)]
    pub(super) timeout: Duration,
}

/// How an answer is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Output {
    /// For people
    Table,
    /// For programs: one line
    Json,
}

impl Deref for Asking {
    type Target = Login;

    fn deref(&self) -> &Login {
        &self.login
    }
}

impl Login {
    /// Logs in.
    pub(super) async fn connect(&self) -> Result<Client, CliError> {
        let options =
            Options { timeout: self.timeout, ..Options::new(self.master.to_string(), &self.user, &self.password) };
        Ok(Client::connect(options).await?)
    }
}

/// Runs a command; one thread is enough for it.
pub(super) fn block_on(command: impl Future<Output = Result<String, CliError>>) -> Result<String, CliError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(CliError::Runtime)?;
    let result = runtime.block_on(command);
    // A name that is still being looked up is nothing to wait for: its time is over.
    runtime.shutdown_background();
    result
}

/// The body of an answer; an error of the module is an error. An absent body is null.
pub(super) fn body_of(module: &str, response: Response) -> Result<Value, CliError> {
    if let Some(error) = response.error {
        return Err(refusal(module, words_of(&error)));
    }
    Ok(response.body.and_then(|body| serde_json::from_str(body.get()).ok()).unwrap_or_default())
}

/// An error of a module as one of the command.
pub(super) fn refusal(module: &str, text: String) -> CliError {
    let module = module.to_owned();
    if text == crate::wire::unknown_module(&module) {
        CliError::NoModule(module)
    } else {
        CliError::Refused { module, text }
    }
}

/// An error of a module in words: a text, the `message` of an object, or the JSON of anything else.
pub(super) fn words_of(error: &RawValue) -> String {
    match serde_json::from_str(error.get()) {
        Ok(Value::String(text)) => text,
        Ok(Value::Object(fields)) => match fields.get("message") {
            Some(Value::String(message)) => message.clone(),
            _ => error.get().to_owned(),
        },
        _ => error.get().to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn raw(json: &str) -> Box<RawValue> {
        RawValue::from_string(json.to_owned()).unwrap()
    }

    #[test]
    fn errors_of_all_forms_become_words() {
        for (error, words) in [
            (r#""empty moduleId""#, "empty moduleId"),
            (r#"{"message":"boom","stack":"Error: boom\n    at x"}"#, "boom"),
            (r#"{"code":500}"#, r#"{"code":500}"#),
            ("7", "7"),
        ] {
            assert_eq!(words_of(&raw(error)), words);
        }
    }

    #[test]
    fn an_unknown_module_is_told_apart_from_other_errors() {
        let answer = |error| body_of("m", Response { error: Some(raw(error)), body: None });
        assert!(matches!(answer(r#""unknown moduleId:m""#), Err(CliError::NoModule(module)) if module == "m"));
        assert!(matches!(answer(r#""module m is disable""#), Err(CliError::Refused { .. })));
        assert_eq!(body_of("m", Response::default()).unwrap(), Value::Null);
    }
}
