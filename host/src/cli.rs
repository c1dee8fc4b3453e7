//! The command line: daemons, and commands that ask a master.
//!
//! Arguments → a daemon's configuration or a command → its output or an error → exit code. Commands return their
//! output as text; it is printed in `render` and nowhere else.

mod ask;
mod call;
mod complete;
mod config;
mod cron;
mod daemons;
mod error;
mod events;
mod fleet;
mod module;
mod outcome;
mod plugin;
mod profile;
mod render;
mod role;
mod rpc;
mod script;
mod server;
mod session;
mod shell;
mod shown;
mod top;
mod user;
mod watch;

use std::{path::PathBuf, process::ExitCode};

use clap::{CommandFactory, Parser, Subcommand};

use self::{
    ask::{Asked, Output},
    config::ConfigCommand,
    daemons::{DemoArgs, MasterArgs, MonitorArgs, PreflightArgs, WorkerArgs},
    error::CliError,
    session::Session,
    shell::ShellArgs,
    shown::Shown,
    user::UserCommand,
};

const EXIT_CODES: &str = "\
Exit codes:
  0  ok; for `call -o json`: an answer came, whatever it says
  1  failed
  2  wrong usage or configuration
  4  the master refused the login
  5  no master can be reached
  6  no answer in time
  7  done for a part of the servers; -o json tells which";

/// Watches and commands fleets of servers.
#[derive(Debug, Parser)]
#[command(name = "muster", version, after_help = EXIT_CODES)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a master: servers register with it, clients ask it
    Master(MasterArgs),
    /// Run a monitor beside a server
    Monitor(MonitorArgs),
    /// Run a master, three monitors and the plugins in this terminal
    Demo(DemoArgs),
    #[command(flatten)]
    Ask(Asked),
    /// Give commands one after the other, with history and completion
    Shell(ShellArgs),
    /// Who may log in: the file adminUser.json
    #[command(subcommand)]
    User(UserCommand),
    /// The configuration of the daemons
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Print what has a shell complete commands; such as `source <(muster completions bash)`
    Completions {
        /// bash, zsh, fish, elvish or powershell
        #[arg(value_parser = clap::builder::PossibleValuesParser::new(["bash", "zsh", "fish", "elvish", "powershell"]))]
        shell: String,
    },
    /// Write man pages into a directory; for packages
    #[command(hide = true)]
    Man {
        /// The directory
        dir: PathBuf,
    },
    /// Vet a plugin file; for the daemons' own use
    #[command(hide = true)]
    Preflight(PreflightArgs),
    /// Run a plugin for a daemon; for the daemons' own use
    #[command(hide = true)]
    Worker(WorkerArgs),
    /// Take a profile for a daemon; for the daemons' own use
    #[command(hide = true)]
    Sample,
}

/// Does what the command line says.
pub fn run(cli: Cli) -> ExitCode {
    let nothing = |()| Shown::Text(String::new());
    match cli.command {
        Command::Master(args) => report(args.run().map(nothing), Output::Table),
        Command::Monitor(args) => report(args.run().map(nothing), Output::Table),
        Command::Demo(args) => report(args.run().map(nothing), Output::Table),
        Command::Preflight(args) => args.run(),
        Command::Worker(args) => args.run(),
        // Whoever started it waits for its output, and sees its end.
        Command::Sample => match crate::profile::child_main() {
            Ok(()) => ExitCode::SUCCESS,
            Err(_) => ExitCode::from(CliError::FAILED),
        },
        Command::Ask(Asked { asking, ask }) => {
            let output = asking.output;
            let session = Session::new(asking);
            report(session::block_on(one(session, ask)), output)
        }
        Command::Shell(args) => shell::run(args).unwrap_or_else(|error| report(Err(error), Output::Table)),
        Command::User(command) => {
            let output = command.output();
            report(user::run(command), output)
        }
        Command::Config(command) => {
            let output = command.output();
            report(config::run(command), output)
        }
        Command::Completions { shell } => report(completions(&shell), Output::Table),
        Command::Man { dir } => report(man(dir), Output::Table),
    }
}

/// A command with a connection of its own.
async fn one(session: Session, ask: ask::Ask) -> Result<Shown, CliError> {
    let shown = ask.run(&session).await;
    session.close().await;
    shown
}

fn completions(shell: &str) -> Result<Shown, CliError> {
    let mut script = Vec::new();
    if let Some(completer) = clap_complete::env::Shells::builtins().completer(shell) {
        completer
            .write_registration("COMPLETE", "muster", "muster", "muster", &mut script)
            .map_err(CliError::Output)?;
    }
    Ok(Shown::Text(String::from_utf8_lossy(&script).into_owned()))
}

fn man(dir: PathBuf) -> Result<Shown, CliError> {
    let written = std::fs::create_dir_all(&dir).and_then(|()| {
        clap_mangen::generate_to(Cli::command(), &dir)?;
        clap_mangen::Man::new(shell::command().name("muster-shell-commands")).generate_to(&dir)
    });
    written.map_err(|source| CliError::File { what: "cannot write man pages into", path: dir, source })?;
    Ok(Shown::Text(String::new()))
}

/// Prints help, version, or what is wrong with the arguments.
pub fn usage(error: &clap::Error) -> ExitCode {
    // Without a terminal to tell it to, the exit code says it.
    drop(error.print());
    ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(CliError::USAGE))
}

/// The one place where an error becomes an exit code.
fn report(result: Result<Shown, CliError>, output: Output) -> ExitCode {
    let (printed, code) = match result {
        Ok(shown) => (render::output(&shown.render(output)), shown.exit_code()),
        Err(error) => {
            let printed = match error.as_json().filter(|_| matches!(output, Output::Json | Output::Jsonl)) {
                Some(json) => render::output(&json),
                None if let CliError::Pointed(picture) = &error => render::picture(picture, error.hint().as_deref()),
                None => render::error(&error, error.hint().as_deref()),
            };
            (printed, error.exit_code())
        }
    };
    match printed {
        Ok(()) => ExitCode::from(code),
        // Whoever reads has read enough: `muster server list | head -1`.
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => ExitCode::from(code),
        Err(_) => ExitCode::from(CliError::FAILED),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn arguments_are_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn help_lists_the_exit_codes_and_hides_what_is_for_daemons() {
        let help = Cli::command().render_long_help().to_string();
        for code in
            ["0  ok", "1  failed", "2  wrong usage", "4  the master refused", "5  no master", "6  no answer", "7  done"]
        {
            assert!(help.contains(code), "{code} is not in\n{help}");
        }
        assert!(!help.contains("preflight") && !help.contains("worker") && !help.contains("sample"));
        assert!(!help.contains("Whom to ask"));
        let places = ["\n  demo ", "\n  server ", "\n  events ", "\n  shell "].map(|name| help.find(name));
        assert!(places.is_sorted() && places[0].is_some(), "{help}");
    }

    #[test]
    fn a_wrong_usage_is_exit_code_two_and_help_is_none() {
        for (arguments, code) in [
            (&["muster"][..], 2),
            (&["muster", "no-such-command"], 2),
            (&["muster", "call"], 2),
            (&["muster", "profile", "cpu", "x", "-o", "x.png"], 2),
            (&["muster", "profile", "cpu", "x", "--seconds", "61"], 2),
            (&["muster", "rpc"], 2),
            (&["muster", "rpc", "chat"], 2),
            (&["muster", "rpc", "chat", "kick"], 2),
            (&["muster", "call", "echo", "not JSON"], 2),
            (&["muster", "call", "command:", "{}"], 2),
            (&["muster", "server", "list", "--master", "3005"], 2),
            (&["muster", "server", "list", "--timeout", "5"], 2),
            (&["muster", "help"], 0),
            (&["muster", "call", "--help"], 0),
            (&["muster", "--version"], 0),
        ] {
            let error = Cli::try_parse_from(arguments).unwrap_err();
            assert_eq!(error.exit_code(), code, "{arguments:?}");
        }
    }

    #[test]
    fn the_command_lines_of_the_contract_are_understood() {
        for line in [
            "muster master",
            "muster master --listen 0.0.0.0:3005 --config-dir c --env production --plugins p --state-dir s \
             --set modules.timeReport.interval=1 --set a=b --config f",
            "muster monitor",
            "muster monitor --master h:1 --id i --type t --token x --info host=h --info port=1 --env e --config-dir c \
             --plugins p --state-dir s --set a=b",
            "muster demo",
            "muster demo --listen 127.0.0.1:0 --plugins p",
            "muster server list -o json",
            "muster module list --master h:1",
            "muster module enable m --user u --password p",
            "muster module disable m -o table",
            "muster plugin list --timeout 500ms",
            "muster plugin install libecho.so --name echo --plugins p --no-wait",
            "muster plugin install echo.so --wait --timeout 5s -o json --master h:1",
            "muster plugin reload echo",
            "muster plugin enable echo --no-wait",
            "muster plugin disable echo",
            "muster plugin remove echo",
            "muster call m",
            "muster call command:enable:timeReport {} --master h:1 --user u --password -p -o json",
            "muster plugin unquarantine p --user u -o json",
            "muster server show a -o wide",
            "muster server add host=h port=1 serverType=chat id=c-1 --no-wait",
            "muster server start chat --config-dir c --env production",
            "muster server stop a b --timeout 5s -o jsonl --master h:1",
            "muster server restart --type chat",
            "muster server kill --yes",
            "muster server logs a -f -n 10",
            "muster server wait a b --gone",
            "muster role list",
            "muster cron add id=1 serverId=a action=b.c 'time=0",
            "muster script run hello.js --server a",
            "muster blacklist 10.0.0.1",
            "muster show status -s a -o name",
            "muster get k --server a",
            "muster top --interval 1s --count 2",
            "muster events -o jsonl",
            "muster shell --master h:1 --notices 0s",
            "muster user add a --level 1 --config-dir c",
            "muster config check --config f",
            "muster config import-pomelo app --to muster.toml",
            "muster completions bash",
            "muster rpc list -o json --master h:1",
            "muster rpc chat-server-1 user.chatRemote.kick",
            "muster rpc chat user.chatRemote.kick uid-7 -5 {} --route uid-7 --timeout 5s -o json",
            "muster profile cpu chat-server-1",
            "muster profile cpu chat-server-1 --seconds 5 --to a.svg --master h:1 --timeout 5s",
            "muster sample",
            "muster preflight file.so",
            "muster worker --memory=1 --cpu-seconds=2 --files=3 file.so",
        ] {
            if let Err(error) = Cli::try_parse_from(line.split_whitespace()) {
                panic!("{line}: {error}");
            }
        }
    }
}
