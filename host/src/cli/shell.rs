//! `muster shell`: the commands that ask a master, one after the other on one connection.
//!
//! A line is a command as on the command line, without `muster` and without whom to ask; so are its help and completion.
//! The editor has the main thread; the connection and the notices live on the runtime's.

mod line;

use std::{path::PathBuf, process::ExitCode, sync::Arc, time::Duration};

use clap::{Args, CommandFactory};
use rustyline::{Config, Editor, ExternalPrinter, config::CompletionType, error::ReadlineError, history::FileHistory};
use tokio::runtime::{Builder, Runtime};

use self::line::{Completion, Line, Verb};
use super::{
    CliError,
    ask::{Asking, Output},
    complete::Known,
    events, fleet, render,
    session::{ALL, Session},
    shown::Shown,
};

/// Lines that are remembered.
const HISTORY: usize = 1000;

/// `muster shell`
#[derive(Debug, Args)]
pub(super) struct ShellArgs {
    /// How often to look who comes and goes, which is told while one types; 0s for never
    #[arg(long, value_name = "DURATION", default_value = "2s", value_parser = humantime::parse_duration)]
    notices: Duration,
    #[command(flatten)]
    asking: Asking,
}

/// What to do after a line.
enum Next {
    Another,
    End,
}

/// Runs until the end of the input. The exit code is that of the last command that failed.
pub(super) fn run(ShellArgs { notices, asking }: ShellArgs) -> Result<ExitCode, CliError> {
    let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().map_err(CliError::Runtime)?;
    let (master, output) = (asking.master.to_string(), asking.output);
    let session = Arc::new(Session::new(asking));
    runtime.block_on(async {
        session.client().await?;
        Known::ask(&session).await.publish();
        Ok::<_, CliError>(())
    })?;
    let config = Config::builder().completion_type(CompletionType::List).auto_add_history(true);
    let config = config.max_history_size(HISTORY).map_err(CliError::Terminal)?.build();
    let mut editor: Editor<Completion, FileHistory> = Editor::with_config(config).map_err(CliError::Terminal)?;
    editor.set_helper(Some(Completion));
    let history = history_file();
    if let Some(file) = &history {
        // There is none the first time.
        drop(editor.load_history(file));
    }
    // Without a terminal there is nobody to tell.
    if let (false, Ok(printer)) = (notices.is_zero(), editor.create_external_printer()) {
        runtime.spawn(tell(session.clone(), notices, printer));
    }
    let mut code = ExitCode::SUCCESS;
    loop {
        let prompt = format!("{}@{master} : {}> ", session.user(), session.context(None));
        match editor.readline(&prompt) {
            Ok(text) => match obey(&text, &runtime, &session, output) {
                Ok(Next::Another) => {}
                Ok(Next::End) => break,
                Err(failed) => code = failed,
            },
            // Whoever interrupts wants another line, not the end.
            Err(ReadlineError::Interrupted) => {}
            Err(ReadlineError::Eof) => break,
            Err(error) => return Err(CliError::Terminal(error)),
        }
    }
    if let Some(file) = &history {
        keep(&mut editor, file);
    }
    if let Some(session) = Arc::into_inner(session) {
        runtime.block_on(session.close());
    }
    runtime.shutdown_background();
    Ok(code)
}

fn obey(text: &str, runtime: &Runtime, session: &Session, output: Output) -> Result<Next, ExitCode> {
    let Some(words) = line::words(text) else {
        return Err(super::report(Err(CliError::Usage("a quote is not closed".to_owned())), output));
    };
    if words.is_empty() {
        return Ok(Next::Another);
    }
    let Line { output: other, verb } = match Line::try_read(&words) {
        Ok(line) => line,
        Err(error) => {
            let code = super::usage(&error);
            return if error.use_stderr() { Err(code) } else { Ok(Next::Another) };
        }
    };
    let output = other.unwrap_or(output);
    session.show_as(output);
    let shown = match verb {
        Verb::Quit => return Ok(Next::End),
        Verb::Use { server } => runtime.block_on(mean(server, session)),
        // What goes on until it is interrupted ends with the interrupt, and the shell does not.
        Verb::Ask(ask) => runtime.block_on(async {
            tokio::select! {
                shown = ask.run(session) => shown,
                _ = tokio::signal::ctrl_c() => Ok(Shown::Text(String::new())),
            }
        }),
    };
    let is_done = shown.as_ref().is_ok_and(|shown| shown.exit_code() == 0);
    let code = super::report(shown, output);
    if is_done { Ok(Next::Another) } else { Err(code) }
}

async fn mean(server: String, session: &Session) -> Result<Shown, CliError> {
    if server != ALL && !fleet::look(session).await?.contains_key(&server) {
        return Err(CliError::NoServer(server));
    }
    session.mean(&server);
    let json = serde_json::json!({ "server": server });
    Ok(Shown::Sentence(format!("commands are for {} now", render::printable(&server)), json))
}

/// Tells what happens above the line that is being typed, and keeps the words for completion fresh.
async fn tell(session: Arc<Session>, interval: Duration, mut printer: impl ExternalPrinter + Send) {
    let Ok(seen) = fleet::look(&session).await else { return };
    let told = events::follow(&session, interval, seen, |event| {
        let session = session.clone();
        tokio::spawn(async move { Known::ask(&session).await.publish() });
        Ok(printer.print(format!("* {}\n", render::printable(&event.text))).is_ok())
    });
    if let Err(error) = told.await {
        drop(printer.print(format!("* no more notices: {}\n", render::printable(&error.to_string()))));
    }
}

/// Where people's programs keep their state.
fn history_file() -> Option<PathBuf> {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let state = set("XDG_STATE_HOME").or_else(|| Some(set("HOME")?.join(".local/state")))?;
    Some(state.join("muster/history"))
}

/// A history that cannot be kept is not worth an error.
fn keep(editor: &mut Editor<Completion, FileHistory>, file: &PathBuf) {
    if let Some(dir) = file.parent() {
        drop(std::fs::create_dir_all(dir));
    }
    drop(editor.save_history(file));
}

/// The commands of the shell, for the documentation.
pub(super) fn command() -> clap::Command {
    Line::command()
}
