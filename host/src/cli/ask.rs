//! The commands that ask a master, defined once: for the command line, for the shell, for help and for completion.
//!
//! On the command line each also says whom to ask ([`Asked`]); in the shell that is known.

use std::time::Duration;

use clap::{ArgMatches, Args, Command, FromArgMatches, Subcommand, ValueEnum, builder::Resettable, error::ErrorKind};
use serde_json::{Value, value::RawValue};

use super::{
    CliError,
    call::{self, CallArgs},
    cron::{self, CronCommand},
    events::{self, EventsArgs},
    module::{self, ModuleCommand},
    plugin::{self, PluginCommand},
    profile::{self, ProfileCommand},
    role::{self, RoleCommand},
    rpc::{self, RpcArgs},
    script::{self, ScriptCommand},
    server::{self, AddArgs, Blacklist, KillArgs, ServerCommand, StopArgs},
    session::Session,
    shown::Shown,
    top::{self, TopArgs},
    watch::{self, DumpArgs, ExecArgs, GetArgs, RunArgs, SetArgs, ShowCommand, SwitchCommand},
};
use crate::{client::Response, config::Address};

/// A command that asks a master.
#[derive(Debug, Subcommand)]
pub(super) enum Ask {
    /// Servers of the fleet
    #[command(subcommand)]
    Server(ServerCommand),
    /// Admin modules of the master, and through it of the fleet
    #[command(subcommand)]
    Module(ModuleCommand),
    /// Plugin files of the master
    #[command(subcommand)]
    Plugin(PluginCommand),
    /// Who may give which command
    #[command(subcommand)]
    Role(RoleCommand),
    /// Crons of servers
    #[command(subcommand)]
    Cron(CronCommand),
    /// Scripts that the master keeps and servers run
    #[command(subcommand)]
    Script(ScriptCommand),
    /// Show something of one server or of all
    #[command(subcommand)]
    Show(ShowCommand),
    /// Read a setting of a server
    Get(GetArgs),
    /// Change a setting of a server
    Set(SetArgs),
    /// Switch a module of the fleet, or a setting of a server, on
    #[command(subcommand)]
    Enable(SwitchCommand),
    /// Switch a module of the fleet, or a setting of a server, off
    #[command(subcommand)]
    Disable(SwitchCommand),
    /// Evaluate a JavaScript expression on a server
    Run(RunArgs),
    /// Run a script file of this machine on a server
    Exec(ExecArgs),
    /// Have a server write its heap or a profile into a file of its machine
    #[command(subcommand)]
    Dump(DumpArgs),
    /// Let no connections of these addresses in, on all servers
    Blacklist(Blacklist),
    /// Ask an admin module
    Call(CallArgs),
    /// Call a remote of a server
    Rpc(RpcArgs),
    /// See where the process of a server spends its time
    #[command(subcommand)]
    Profile(ProfileCommand),
    /// Watch the servers
    Top(TopArgs),
    /// Tell what happens in the fleet, until interrupted
    Events(EventsArgs),
    /// Stop servers (`server stop`)
    #[command(hide = true)]
    Stop(StopArgs),
    /// Stop all servers and the master (`server kill`)
    #[command(hide = true)]
    Kill(KillArgs),
    /// Start a server (`server add`)
    #[command(hide = true)]
    Add(AddArgs),
    /// Give a server a cron (`cron add`)
    #[command(hide = true, name = "addCron")]
    AddCron(cron::Fields),
    /// Take a cron from a server (`cron remove`)
    #[command(hide = true, name = "removeCron")]
    RemoveCron(cron::Fields),
}

/// Whom to ask, as whom, and how to show the answer.
#[derive(Debug, Clone, Args)]
pub(super) struct Asking {
    /// Address of the master
    #[arg(long, global = true, value_name = "HOST:PORT", env = "MUSTER_MASTER", default_value = "127.0.0.1:3005")]
    pub(super) master: Address,
    /// User to log in as; the default is that of pomelo's templates
    #[arg(long, global = true, env = "MUSTER_USER", default_value = "admin")]
    pub(super) user: String,
    /// Their password; the default is that of pomelo's templates. The variable hides it from `ps`
    #[arg(
        long,
        global = true,
        env = "MUSTER_PASSWORD",
        default_value = "admin",
        hide_env_values = true,
        allow_hyphen_values = true
    )]
    pub(super) password: String,
    /// Log in with the password itself instead of its MD5, for a user whose hash is of the password itself
    #[arg(long, global = true)]
    pub(super) plain_password: bool,
    /// How long to wait for the login, for the answer, and for what was ordered
    #[arg(long, global = true, value_name = "DURATION", default_value = "20s", value_parser = humantime::parse_duration)]
    pub(super) timeout: Duration,
    /// How to show the answer
    #[arg(short, long, global = true, value_name = "FORMAT", default_value = "table")]
    pub(super) output: Output,
}

/// How an answer is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Output {
    /// For people
    Table,
    /// For people with wide terminals
    Wide,
    /// For programs: one line
    Json,
    /// For programs: one line for each item
    Jsonl,
    /// The names alone, one a line
    Name,
}

/// A command with whom to ask, as the command line has it.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) asking: Asking,
    pub(super) ask: Ask,
}

impl Ask {
    /// Asks, and says what came of it.
    pub(super) async fn run(self, session: &Session) -> Result<Shown, CliError> {
        match self {
            Ask::Server(command) => server::run(command, session).await,
            Ask::Module(command) => module::run(command, session).await,
            Ask::Plugin(command) => plugin::run(command, session).await,
            Ask::Role(RoleCommand::List) => role::list(session).await,
            Ask::Cron(command) => cron::run(command, session).await,
            Ask::Script(command) => script::run(command, session).await,
            Ask::Show(command) => watch::show(command, session).await,
            Ask::Get(args) => watch::get(args, session).await,
            Ask::Set(args) => watch::set(args, session).await,
            Ask::Enable(command) => watch::switch(command, true, session).await,
            Ask::Disable(command) => watch::switch(command, false, session).await,
            Ask::Run(args) => watch::evaluate(args, session).await,
            Ask::Exec(args) => script::exec(args, session).await,
            Ask::Dump(args) => watch::dump(args, session).await,
            Ask::Blacklist(args) => server::blacklist(args, session).await,
            Ask::Call(args) => call::run(args, session).await,
            Ask::Rpc(args) => rpc::run(args, session).await,
            Ask::Profile(command) => profile::run(command, session).await,
            Ask::Top(args) => top::run(args, session).await,
            Ask::Events(args) => events::run(args, session).await,
            Ask::Stop(args) => server::run(ServerCommand::Stop(args), session).await,
            Ask::Kill(args) => server::run(ServerCommand::Kill(args), session).await,
            Ask::Add(args) => server::run(ServerCommand::Add(args), session).await,
            Ask::AddCron(fields) => cron::run(CronCommand::Add(fields), session).await,
            Ask::RemoveCron(fields) => cron::run(CronCommand::Remove(fields), session).await,
        }
    }
}

// === impl Asked ===

impl Subcommand for Asked {
    fn augment_subcommands(command: Command) -> Command {
        let asks = Ask::augment_subcommands(Command::new("ask"));
        let before = command.get_subcommands().count();
        let with_asking = |(place, ask): (usize, &Command)| {
            // The flags bring a description of their own, and the place is one among the asks.
            let asked = Asking::augment_args(ask.clone()).about(Resettable::from(ask.get_about().cloned()));
            asked.long_about(Resettable::from(ask.get_long_about().cloned())).display_order(before + place)
        };
        command.subcommands(asks.get_subcommands().enumerate().map(with_asking))
    }

    fn augment_subcommands_for_update(command: Command) -> Command {
        Asked::augment_subcommands(command)
    }

    fn has_subcommand(name: &str) -> bool {
        Ask::has_subcommand(name)
    }
}

impl FromArgMatches for Asked {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Asked, clap::Error> {
        let (_, own) = matches.subcommand().ok_or_else(|| clap::Error::new(ErrorKind::MissingSubcommand))?;
        Ok(Asked { asking: Asking::from_arg_matches(own)?, ask: Ask::from_arg_matches(matches)? })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Asked::from_arg_matches(matches)?;
        Ok(())
    }
}

// === answers ===

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
        CliError::Refused { module, text: text.trim().to_owned() }
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
