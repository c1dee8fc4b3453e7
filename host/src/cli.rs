//! The command line: daemons, and commands that ask a master.
//!
//! Arguments → a daemon's configuration or a command → its output or an error → exit code. Commands return their
//! output as text; it is printed in `render` and nowhere else.

mod ask;
mod call;
mod daemons;
mod error;
mod module;
mod plugin;
mod profile;
mod render;
mod rpc;
mod server;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use self::{
    ask::Output,
    call::CallArgs,
    daemons::{DemoArgs, MasterArgs, MonitorArgs, PreflightArgs, WorkerArgs},
    error::CliError,
    module::ModuleCommand,
    plugin::PluginCommand,
    profile::ProfileCommand,
    rpc::RpcArgs,
    server::ServerCommand,
};

const EXIT_CODES: &str = "\
Exit codes:
  0  ok; for `call -o json`: an answer came, whatever it says
  1  failed
  2  wrong usage or configuration
  4  the master refused the login
  5  no master can be reached
  6  no answer in time";

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
    /// Servers of the fleet
    #[command(subcommand)]
    Server(ServerCommand),
    /// Admin modules of the master, and through it of the fleet
    #[command(subcommand)]
    Module(ModuleCommand),
    /// Plugin files of the master
    #[command(subcommand)]
    Plugin(PluginCommand),
    /// Ask an admin module
    Call(CallArgs),
    /// Call a remote of a server
    Rpc(RpcArgs),
    /// See where the process of a server spends its time
    #[command(subcommand)]
    Profile(ProfileCommand),
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
    match cli.command {
        Command::Master(args) => report(args.run(), Output::Table),
        Command::Monitor(args) => report(args.run(), Output::Table),
        Command::Demo(args) => report(args.run(), Output::Table),
        Command::Preflight(args) => args.run(),
        Command::Worker(args) => args.run(),
        // Whoever started it waits for its output, and sees its end.
        Command::Sample => match crate::profile::child_main() {
            Ok(()) => ExitCode::SUCCESS,
            Err(_) => ExitCode::from(CliError::FAILED),
        },
        Command::Server(ServerCommand::List(asking)) => {
            let output = asking.output;
            report(ask::block_on(server::list(asking)), output)
        }
        Command::Module(command) => {
            let output = command.output();
            report(ask::block_on(module::run(command)), output)
        }
        Command::Plugin(command) => {
            let output = command.output();
            report(ask::block_on(plugin::run(command)), output)
        }
        Command::Call(args) => {
            let output = args.output();
            report(ask::block_on(call::run(args)), output)
        }
        Command::Profile(command) => report(ask::block_on(profile::run(command)), Output::Table),
        Command::Rpc(args) => {
            let output = args.output();
            report(ask::block_on(rpc::run(args)), output)
        }
    }
}

/// Prints help, version, or what is wrong with the arguments.
pub fn usage(error: &clap::Error) -> ExitCode {
    // Without a terminal to tell it to, the exit code says it.
    drop(error.print());
    ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(CliError::USAGE))
}

/// The one place where an error becomes an exit code.
fn report(result: Result<String, CliError>, output: Output) -> ExitCode {
    let (printed, code) = match result {
        Ok(text) => (render::output(&text), 0),
        Err(error) => {
            let printed = match error.as_json().filter(|_| output == Output::Json) {
                Some(json) => render::output(&json),
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
        for code in ["0  ok", "1  failed", "2  wrong usage", "4  the master refused", "5  no master", "6  no answer"] {
            assert!(help.contains(code), "{code} is not in\n{help}");
        }
        assert!(!help.contains("preflight") && !help.contains("worker") && !help.contains("sample"));
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
            "muster rpc list -o json --master h:1",
            "muster rpc chat-server-1 user.chatRemote.kick",
            "muster rpc chat user.chatRemote.kick uid-7 -5 {} --route uid-7 --timeout 5s -o json",
            "muster profile cpu chat-server-1",
            "muster profile cpu chat-server-1 --seconds 5 -o a.svg --master h:1 --timeout 5s",
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
