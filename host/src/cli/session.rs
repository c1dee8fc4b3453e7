//! The connection that commands share: one for a command, one for the whole life of a shell.

use std::{
    future::Future,
    io::IsTerminal,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use serde_json::Value;
use tokio::sync::OnceCell;

use super::{
    CliError,
    ask::{Asking, Output, body_of},
    render,
};
use crate::client::{Client, Options};

/// Stands for all servers, as in pomelo-cli.
pub(super) const ALL: &str = "all";

/// Whom to ask, and what was said before.
#[derive(Debug)]
pub(super) struct Session {
    asking: Asking,
    client: OnceCell<Client>,
    said: Mutex<Said>,
    /// Whether a person answers questions.
    asks_back: bool,
}

/// What a shell was told, and may be told anew.
#[derive(Debug, Clone)]
struct Said {
    /// The server that is meant when none is named: `use`.
    context: String,
    output: Output,
}

impl Session {
    pub(super) fn new(asking: Asking) -> Session {
        let asks_back = std::io::stdin().is_terminal() && std::io::stderr().is_terminal();
        let said = Mutex::new(Said { context: ALL.to_owned(), output: asking.output });
        Session { asking, client: OnceCell::new(), said, asks_back }
    }

    /// How answers are shown.
    pub(super) fn output(&self) -> Output {
        self.said().output
    }

    /// Answers are shown in this way from now on.
    pub(super) fn show_as(&self, output: Output) {
        self.said().output = output;
    }

    pub(super) fn timeout(&self) -> Duration {
        self.asking.timeout
    }

    pub(super) fn user(&self) -> &str {
        &self.asking.user
    }

    /// The connection; the first who needs it logs in.
    pub(super) async fn client(&self) -> Result<&Client, CliError> {
        let Asking { master, user, password, plain_password, timeout, output: _ } = &self.asking;
        let options = Options {
            timeout: *timeout,
            plain: *plain_password,
            ..Options::new(master.to_string(), user.as_str(), password.as_str())
        };
        Ok(self.client.get_or_try_init(|| Client::connect(options)).await?)
    }

    /// Asks a module; its error is an error.
    pub(super) async fn ask(&self, module: &str, body: Value) -> Result<Value, CliError> {
        body_of(module, self.client().await?.request(module, body).await?)
    }

    /// Says good-bye, if it has said hello.
    pub(super) async fn close(self) {
        if let Some(client) = self.client.into_inner() {
            client.close().await;
        }
    }

    /// The server that is meant: the one that is named, else that of `use`.
    pub(super) fn context(&self, named: Option<String>) -> String {
        named.unwrap_or_else(|| self.said().context.clone())
    }

    /// The one server that is meant.
    ///
    /// # Errors
    /// If it is all of them.
    pub(super) fn one_server(&self, named: Option<String>) -> Result<String, CliError> {
        Some(self.context(named)).filter(|id| id != ALL).ok_or(CliError::WhichServer)
    }

    /// Means another server from now on.
    pub(super) fn mean(&self, id: &str) {
        id.clone_into(&mut self.said().context);
    }

    fn said(&self) -> MutexGuard<'_, Said> {
        self.said.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks whether something is really meant.
    ///
    /// # Errors
    /// When the answer is not yes, or nobody is there to give it.
    pub(super) fn confirm(&self, yes: bool, question: &str) -> Result<(), CliError> {
        if yes || (self.asks_back && render::ask(&format!("{question} [yes/no] ")).is_ok_and(|answer| answer == "yes"))
        {
            return Ok(());
        }
        Err(CliError::NotConfirmed)
    }
}

/// Runs a command; one thread is enough for it.
pub(super) fn block_on<T>(command: impl Future<Output = Result<T, CliError>>) -> Result<T, CliError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(CliError::Runtime)?;
    let result = runtime.block_on(command);
    // A name that is still being looked up is nothing to wait for: its time is over.
    runtime.shutdown_background();
    result
}
